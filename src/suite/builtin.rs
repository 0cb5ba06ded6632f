//! The suites that are compiled in.

use std::path::Path;

use super::Suite;
use super::check;
use crate::document::DocumentError;

const ALL: [(&str, &str); 2] = [
    ("smoke", include_str!("../../tests/suites/smoke.toml")),
    ("network", include_str!("../../tests/suites/network.toml")),
];

/// The names of the built-in suites.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(|(name, _)| name)
}

/// The suite that people mean by `source`: a built-in one by its name, or a file by its path. `./smoke` is a file.
pub fn find(source: &str) -> Result<Suite, DocumentError> {
    match ALL.into_iter().find(|(name, _)| *name == source) {
        Some((name, text)) => check::parse(name, text, None),
        None => check::load(Path::new(source)),
    }
}
