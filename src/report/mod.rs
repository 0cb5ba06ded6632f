//! What is told of a run: while it goes on, at its end, and in files for people and programs.
//!
//! It reads what `suite` found out and changes nothing. Whoever finds one of its files finds all of it.

pub mod detail;
pub mod json_lines;
pub mod summary;
pub mod terminal;
pub mod upstream;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use self::detail::RunReport;
use crate::io::file;

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write report {path}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Writes all reports of a run into `dir`: `final-result.json` as leviathan's client does, and `report.json`.
/// Leviathan's form knows no boards, so suites of several boards follow one another in it.
pub fn write_all(dir: &Path, report: &RunReport) -> Result<(), WriteError> {
    write_json(&dir.join("final-result.json"), &upstream::final_result(report.suites(), Timestamp::now()))?;
    write_json(&dir.join("report.json"), &report.to_json())
}

/// Writes a value as JSON with an indent of two spaces. A reader sees the old file or the whole new one.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let failed = |source| WriteError { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(error.into()))?;
    file::replace(path, |file| file.write_all(text.as_bytes())).map_err(failed)
}
