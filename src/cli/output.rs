//! stdout: data for people or, with `--json`, for programs; and stderr: words for people. Each write may find that
//! nobody reads any more.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use super::CliError;

/// Says a line to people, on stderr. What cannot be written is dropped: nothing fails because nobody looks, and
/// `eprintln!` would panic.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// stdout, locked for as long as it lives.
#[derive(Debug)]
pub struct Output {
    to: io::StdoutLock<'static>,
}

impl Default for Output {
    fn default() -> Self {
        Self { to: io::stdout().lock() }
    }
}

impl Output {
    /// Writes one line for people.
    pub fn line(&mut self, text: impl fmt::Display) -> Result<(), CliError> {
        Ok(writeln!(self.to, "{text}")?)
    }

    /// Writes one object on one line for programs.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.line(text)
    }

    /// Writes a table: each column as wide as its widest cell, the last one as it is.
    pub fn table<const N: usize>(&mut self, rows: &[[String; N]]) -> Result<(), CliError> {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for row in rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Bytes as people say them, to a tenth of the unit.
pub fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, factor)| bytes >= *factor) {
        None => format!("{bytes} B"),
        Some((unit, factor)) => {
            format!("{}.{} {unit}", bytes / factor, bytes % factor * 10 / factor)
        }
    }
}
