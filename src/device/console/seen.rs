//! What was seen last on a console, made readable for messages. Pure; nothing to clean up.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

/// How much of the end is shown: what fits on a screen below an error.
const LINES: usize = 20;
const BYTES: usize = 2048;

/// What a console showed last, and since when it has been silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// The last lines, with control characters made visible; empty if nothing was ever seen.
    pub lines: Vec<String>,
    /// How long ago the last byte came; `None` if there was none since the power-on.
    pub silent_for: Option<Duration>,
}

impl LastSeen {
    /// Takes the last lines out of `bytes`.
    pub(super) fn new(bytes: &[u8], silent_for: Option<Duration>) -> Self {
        Self { lines: last_lines(bytes), silent_for }
    }
}

/// The last lines of some output, each on a line of its own, to stand below an error.
pub fn quote(bytes: &[u8]) -> String {
    last_lines(bytes).iter().map(|line| format!("\n  | {line}")).collect()
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let tail = &bytes[bytes.len().saturating_sub(BYTES)..];
    let mut lines: Vec<String> = tail.split(|byte| *byte == b'\n').map(visible).collect();
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.split_off(lines.len().saturating_sub(LINES))
}

impl fmt::Display for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(silent_for) = self.silent_for else {
            return f.write_str("nothing was seen since the power-on");
        };
        write!(f, "silent for {:.1} s, last seen:", silent_for.as_secs_f64())?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  | {line}"))
    }
}

/// One line with its control characters made visible, as `\u{1b}`; the CR at its end is dropped.
pub fn visible(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut shown = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => shown.push('\t'),
                control if control.is_control() => shown.extend(control.escape_default()),
                other => shown.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(shown, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(visible(b"\x1b[31mred\x07\xff \xc3\xa4\r"), "\\u{1b}[31mred\\u{7}\\xff ä");
    }

    #[test]
    fn only_the_last_lines_are_shown_and_the_silence_is_said() {
        let flood: Vec<u8> = (0..100).flat_map(|n| format!("line {n}\r\n").into_bytes()).collect();
        let seen = LastSeen::new(&flood, Some(Duration::from_secs(3)));
        assert_eq!(seen.lines.len(), LINES);
        assert!(seen.to_string().starts_with("silent for 3.0 s, last seen:\n  | line 80"), "{seen}");
        assert_eq!(LastSeen::new(b"", None).to_string(), "nothing was seen since the power-on");
    }
}
