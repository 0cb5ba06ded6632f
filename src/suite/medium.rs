//! Steps on a medium at the host, as a suite has them: files in its boot partition, and its last partition.
//!
//! `check::medium` makes them of a suite's text, and `step::medium` performs them.

use std::fmt;
use std::path::PathBuf;

use super::template::Template;
use crate::io::prepare::Place;

/// What is done with a medium while the power is off.
#[derive(Debug, Clone)]
pub struct MediumStep {
    /// The medium's name in the board file; `None` is the one that is flashed.
    pub medium: Option<String>,
    /// What is done.
    pub verb: MediumVerb,
}

/// What can be done with a medium.
#[derive(Debug, Clone)]
pub enum MediumVerb {
    /// Writes a whole file.
    Write(Place, Content),
    /// Gives keys of a JSON object in a file new values.
    MergeJson(Place, Content),
    /// Removes a file.
    Remove(Place),
    /// Reads a text file, and says what must stand in it.
    Read {
        /// The file.
        place: Place,
        /// All that must stand in it.
        content: Option<Template>,
        /// What must match in it.
        content_regex: Option<Template>,
        /// The variable that takes it.
        save: Option<String>,
    },
    /// Grows the last partition to the medium's end.
    Expand,
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Content {
    /// A text of the suite.
    Text(Template),
    /// The bytes of a file on the host.
    File(PathBuf),
}

impl MediumStep {
    /// Whether it needs a file that lies beside the suite.
    pub fn brings_files(&self) -> bool {
        let written = match &self.verb {
            MediumVerb::Write(_, content) | MediumVerb::MergeJson(_, content) => Some(content),
            MediumVerb::Read { .. } | MediumVerb::Remove(_) | MediumVerb::Expand => None,
        };
        matches!(written, Some(Content::File(_)))
    }

    /// All texts with variables in it.
    pub fn templates(&self) -> Vec<&Template> {
        match &self.verb {
            MediumVerb::Write(_, Content::Text(text)) | MediumVerb::MergeJson(_, Content::Text(text)) => {
                vec![text]
            }
            MediumVerb::Read { content, content_regex, .. } => content.iter().chain(content_regex).collect(),
            MediumVerb::Write(..)
            | MediumVerb::MergeJson(..)
            | MediumVerb::Remove(_)
            | MediumVerb::Expand => Vec::new(),
        }
    }
}

impl fmt::Display for MediumStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verb {
            MediumVerb::Write(to, _) => write!(f, "write {to}")?,
            MediumVerb::MergeJson(into, _) => write!(f, "merge JSON into {into}")?,
            MediumVerb::Remove(place) => write!(f, "remove {place}")?,
            MediumVerb::Read { place, .. } => write!(f, "read {place}")?,
            MediumVerb::Expand => f.write_str("expand the last partition")?,
        }
        self.medium.iter().try_for_each(|medium| write!(f, " on {medium}"))
    }
}
