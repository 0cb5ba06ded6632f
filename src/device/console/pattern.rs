//! What is looked for on a console: a text or a regular expression, found in bytes. Pure; nothing to clean up.

use std::fmt;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// What is looked for on a console.
///
/// A console sends bytes, so that is what is searched: a text must stand there as it is, colours and all. In a
/// regular expression `^` and `$` mean the ends of a line, and neither `$` nor `.` sees the CR before an LF.
#[derive(Debug, Clone)]
pub struct Pattern {
    shown: String,
    regex: Regex,
    /// The length of a text in bytes: how far a match can reach back into what was searched before.
    text_length: Option<usize>,
}

/// How far the match of a regular expression may reach back into bytes that were searched before it was whole.
/// Without a limit, every piece of a flood would cost a search of all of it.
const REGEX_REACH: usize = 64 << 10;

/// What a [`Pattern`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The matched bytes; what is not UTF-8 is replaced.
    pub text: String,
    groups: Vec<(Option<String>, Option<String>)>,
}

impl Match {
    /// What the group matched, by its name or by its number from 1; `None` if it took no part in the match.
    pub fn group(&self, key: &str) -> Option<&str> {
        let named = self.groups.iter().position(|(name, _)| name.as_deref() == Some(key));
        let index = named.or_else(|| key.parse().ok())?;
        self.groups.get(index)?.1.as_deref()
    }
}

impl Pattern {
    /// Looks for this text.
    pub fn text(text: &str) -> Self {
        let regex = Regex::new(&regex::escape(text)).expect("an escaped text is a regular expression");
        Self { shown: format!("text `{}`", text.escape_debug()), regex, text_length: Some(text.len()) }
    }

    /// Looks for what this regular expression matches.
    ///
    /// A match that ends with the last byte seen may still grow, as `[0-9]+` does while a number is coming in; a
    /// wait takes it once the console pauses. Let an expression end with what stands behind, such as `$` after
    /// a whole line, to be independent of pauses. A match longer than 64 KiB may be missed.
    pub fn regex(source: &str) -> Result<Self, regex::Error> {
        let regex = RegexBuilder::new(source).multi_line(true).crlf(true).build()?;
        Ok(Self { shown: format!("regex `{source}`"), regex, text_length: None })
    }

    /// Whether the expression has a group of this name or number.
    pub fn has_group(&self, key: &str) -> bool {
        self.regex.capture_names().flatten().any(|name| name == key)
            || key.parse::<usize>().is_ok_and(|index| index < self.regex.captures_len())
    }

    /// Whether it is found in a text.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text.as_bytes())
    }

    /// The first match that begins at `from` or later, and where it begins and ends in `bytes`. What stands before
    /// `from` says whether a line begins there.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<Found> {
        let captures = self.regex.captures_at(bytes, from)?;
        let whole = captures.get_match();
        let (start, end) = (whole.start(), whole.end());
        let settled = self.text_length.is_some() || end < bytes.len();
        Some(Found { start, end, settled, matched: self.read(&captures) })
    }

    /// How many bytes, out of `searched` without a match, need not be searched again.
    pub(super) fn ruled_out(&self, searched: usize) -> usize {
        let reach = self.text_length.map_or(REGEX_REACH, |length| length.saturating_sub(1));
        searched.saturating_sub(reach)
    }

    fn read(&self, captures: &Captures<'_>) -> Match {
        let text = |found: regex::bytes::Match<'_>| String::from_utf8_lossy(found.as_bytes()).into_owned();
        let names = self.regex.capture_names();
        let groups = names.zip(captures.iter());
        Match {
            text: text(captures.get_match()),
            groups: groups.map(|(name, group)| (name.map(str::to_owned), group.map(text))).collect(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A match and its place in the searched bytes.
#[derive(Debug)]
pub(super) struct Found {
    pub start: usize,
    pub end: usize,
    /// More bytes cannot change it.
    pub settled: bool,
    pub matched: Match,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_not_read_as_an_expression() {
        assert!(
            Pattern::text("a.c").find(b"abc a.c", 0).is_some_and(|found| found.start == 4 && found.settled)
        );
    }

    #[test]
    fn a_line_ends_before_its_carriage_return() {
        let pattern = Pattern::regex("^address (?<ip>.*)$").unwrap();
        let found = pattern.find(b"boot\r\naddress 10.0.2.15\r\n", 0).unwrap();
        assert_eq!(found.matched.group("ip"), Some("10.0.2.15"));
        assert_eq!(found.matched.group("1"), Some("10.0.2.15"));
        assert!(
            found.settled && pattern.has_group("ip") && pattern.has_group("1") && !pattern.has_group("2")
        );
    }

    #[test]
    fn a_regex_match_that_touches_the_last_byte_is_not_settled() {
        assert!(!Pattern::regex("[0-9]+").unwrap().find(b"status 12", 0).unwrap().settled);
    }

    #[test]
    fn only_the_part_that_a_text_could_still_reach_into_is_searched_again() {
        assert_eq!(Pattern::text("ready").ruled_out(100), 96);
        assert_eq!(Pattern::text("ready").ruled_out(2), 0);
        assert_eq!(Pattern::regex("r.*y").unwrap().ruled_out(100), 0);
        assert_eq!(Pattern::regex("r.*y").unwrap().ruled_out(REGEX_REACH + 1), 1);
    }

    #[test]
    fn a_line_does_not_begin_where_the_search_does() {
        let pattern = Pattern::regex("^ready").unwrap();
        assert!(pattern.find(b"not ready", 4).is_none());
        assert!(pattern.find(b"now\nready", 4).is_some() && pattern.find(b"ready", 0).is_some());
    }
}
