//! A TOML file as people write it: where each key stands, and everything that is wrong with it at once.
//!
//! [`Document::read`] holds a file against the JSON Schema of the struct that mirrors it, so one source makes
//! the editor's help, the check and the value. What does not fit becomes a [`Complaint`] and is left out, and
//! the rest is read all the same. The caller then adds complaints of its own, each by the dotted key that it is
//! about, and ends with [`Document::finish`]. Plain data; nothing to clean up.

mod schema;

use std::fmt;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use schema::Misfit;
pub use schema::schema_of;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1; `None` if the complaint is about the whole file.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The dotted key, such as `power.rest`; empty if the complaint is about the whole file.
    pub key: String,
    /// What was expected and what was found.
    pub message: String,
    /// How to mend it, if that is known.
    pub hint: Option<String>,
}

/// Everything that is wrong with one file; never without a complaint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct DocumentError {
    /// The file, as the caller named it.
    pub file: String,
    /// What is wrong, in the order of the lines.
    pub complaints: Vec<Complaint>,
}

/// A TOML file that is being read.
#[derive(Debug)]
pub struct Document<'t> {
    file: String,
    text: &'t str,
    root: Spanned<DeValue<'t>>,
    complaints: Vec<Complaint>,
}

impl<'t> Document<'t> {
    /// Parses `text`; `file` is the name that complaints will carry. A file that is no TOML has one complaint.
    pub fn parse(file: &str, text: &'t str) -> Result<Self, DocumentError> {
        match DeTable::parse(text) {
            Ok(table) => {
                let span = table.span();
                let root = Spanned::new(span, DeValue::Table(table.into_inner()));
                Ok(Self { file: file.to_owned(), text, root, complaints: Vec::new() })
            }
            Err(error) => {
                let (line, column) = error.span().map(|span| position(text, span.start)).unzip();
                let message = error.message().to_owned();
                let file = file.to_owned();
                let complaint =
                    Complaint { file: file.clone(), line, column, key: String::new(), message, hint: None };
                Err(DocumentError { file, complaints: vec![complaint] })
            }
        }
    }

    /// Reads the file as a `T`, complaining about every key that `T`'s schema does not admit.
    ///
    /// `T` must bear missing keys (`#[serde(default)]` with `#[schemars(!default)]`); what its schema requires is
    /// demanded here. `None` only if `T` is no table, or refuses what its schema admits; both are complaints as
    /// well.
    pub fn read<T: DeserializeOwned + JsonSchema>(&mut self) -> Option<T> {
        let schema = schema_of::<T>();
        let (fitting, misfits) = schema::fit(self.root.clone(), &schema);
        for Misfit { span, key, message, hint } in misfits {
            self.push(Some(span), key, message, hint);
        }
        match T::deserialize(toml::de::ValueDeserializer::from(fitting?)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.push(error.span(), String::new(), error.message().to_owned(), None);
                None
            }
        }
    }

    /// Complains about the value at the dotted `key`, or about the innermost table around it that is there.
    pub fn complain(&mut self, key: &str, message: impl Into<String>) {
        self.push(Some(self.locate(key)), key.to_owned(), message.into(), None);
    }

    /// As [`Document::complain`], with the fix.
    pub fn complain_with_hint(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(Some(self.locate(key)), key.to_owned(), message.into(), Some(hint.into()));
    }

    /// Whether there is a value at the dotted `key`, of whatever type.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The keys of the table at the dotted `key`, in the order of the file; none if there is no such table.
    pub fn keys(&self, key: &str) -> Vec<String> {
        match self.find(key).map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => table.keys().map(|key| key.get_ref().to_string()).collect(),
            _ => Vec::new(),
        }
    }

    /// Ends the reading: all complaints, if there is one.
    pub fn finish(mut self) -> Result<(), DocumentError> {
        if self.complaints.is_empty() {
            return Ok(());
        }
        self.complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
        Err(DocumentError { file: self.file, complaints: self.complaints })
    }

    fn push(&mut self, span: Option<Range<usize>>, key: String, message: String, hint: Option<String>) {
        // What is missing from the whole file stands on no line.
        let span = span.filter(|span| *span != self.root.span());
        let (line, column) = span.map(|span| position(self.text, span.start)).unzip();
        self.complaints.push(Complaint { file: self.file.clone(), line, column, key, message, hint });
    }

    fn find(&self, key: &str) -> Option<&Spanned<DeValue<'t>>> {
        segments(key).try_fold(&self.root, |value, segment| child(value, segment))
    }

    fn locate(&self, key: &str) -> Range<usize> {
        let mut value = &self.root;
        for segment in segments(key) {
            match child(value, segment) {
                Some(inner) => value = inner,
                None => break,
            }
        }
        value.span()
    }
}

impl DocumentError {
    /// The error of a file that could not even be read as text, and why.
    pub fn unreadable(file: &str, why: &std::io::Error) -> Self {
        let complaint = Complaint {
            file: file.to_owned(),
            line: None,
            column: None,
            key: String::new(),
            message: format!("cannot be read: {why}"),
            hint: None,
        };
        Self { file: file.to_owned(), complaints: vec![complaint] }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.complaints.len();
        write!(f, "{}: {count} complaint{}", self.file, if count == 1 { "" } else { "s" })?;
        for complaint in &self.complaints {
            write!(f, "\n{complaint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Complaint {
    /// One line, indented to stand under the file's name, and the hint below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  ")?;
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The candidate that `word` was probably meant to be, if one is near.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // A third of the letters may be wrong, and always two: a swap and a slip. What shares no letter is not near.
    let most = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= most && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` or `c`: the words that may stand in a place.
pub fn one_of<'c>(words: impl IntoIterator<Item = &'c str>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Line and column, from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start_of_line = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start_of_line..].chars().count() + 1)
}

/// The keys and indices along a dotted key: `network[0].name` is `network`, `0`, `name`.
fn segments(key: &str) -> impl Iterator<Item = &str> {
    key.split(['.', '[']).map(|segment| segment.trim_end_matches(']')).filter(|segment| !segment.is_empty())
}

fn child<'v, 't>(value: &'v Spanned<DeValue<'t>>, segment: &str) -> Option<&'v Spanned<DeValue<'t>>> {
    match value.get_ref() {
        DeValue::Table(table) => table.get(segment),
        DeValue::Array(array) => array.get(segment.parse::<usize>().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    #[schemars(!default)]
    struct Shelf {
        /// What is written on it. In large letters.
        #[schemars(required)]
        label: Option<String>,
        levels: Option<u8>,
        #[serde(default)]
        boxes: BTreeMap<String, Content>,
        #[serde(default)]
        words: Vec<String>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Content {
        /// Things that turn.
        Screws,
        /// Things that are hit.
        Nails,
    }

    fn complaints(text: &str) -> Vec<String> {
        let mut document = Document::parse("shelf.toml", text).unwrap();
        document.read::<Shelf>().unwrap();
        let error = document.finish().unwrap_err();
        error.complaints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_misfit_is_told_with_its_line_and_what_fits_is_read_all_the_same() {
        let text =
            "colour = 'x'\nlevels = 300\nwords = ['a', 2, 'b']\n[boxes]\nleft = 'nials'\nright = 'nails'\n";
        assert_eq!(
            complaints(text),
            [
                "  label: expected a string, found nothing\nhint: `label` says: What is written on it",
                "  1: colour: no such key\nhint: here fits `label`, `levels`, `boxes` or `words`",
                "  2: levels: expected a number within 0..=255, found the number `300`",
                "  3: words[1]: expected a string, found the number `2`",
                "  5: boxes.left: expected `screws` or `nails`, found `nials`\nhint: did you mean `nails`?",
            ]
        );
        let mut document = Document::parse("shelf.toml", text).unwrap();
        let shelf: Shelf = document.read().unwrap();
        assert_eq!(shelf.words, ["a", "b"]);
        assert_eq!(shelf.boxes, BTreeMap::from([("right".to_owned(), Content::Nails)]));
    }

    #[test]
    fn a_misspelt_key_is_complained_about_once() {
        assert_eq!(complaints("lable = 'x'"), ["  1: lable: no such key\nhint: did you mean `label`?"]);
    }

    #[test]
    fn a_file_that_is_no_toml_has_one_complaint_with_its_line() {
        let error = Document::parse("shelf.toml", "label = 'x'\nlevels = = 3\n").unwrap_err();
        assert_eq!((error.complaints.len(), error.complaints[0].line), (1, Some(2)));
    }

    #[test]
    fn a_complaint_about_a_missing_key_stands_at_the_table_around_it() {
        let mut document = Document::parse("shelf.toml", "\n[boxes]\nleft = 'nails'\n").unwrap();
        document.complain("boxes.right", "too empty");
        let error = document.finish().unwrap_err();
        assert_eq!(error.to_string(), "shelf.toml: 1 complaint\n  2: boxes.right: too empty");
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let words = ["rest", "starts_on", "button_hold"];
        assert_eq!(nearest("rset", words), Some("rest"));
        assert_eq!(nearest("start_on", words), Some("starts_on"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("x", ["up"]), None);
    }
}
