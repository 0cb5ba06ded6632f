//! Preparing a medium: what a lab changes on a freshly written card before it goes into the board.
//!
//! Called with the medium that a flash has written, or with an image that is only looked into. Every change is made
//! in a [`Staged`] copy first, so that a list of edits is done whole or not at all. Files can be read and written in
//! FAT file systems, which is what boards boot from; of others we know only what they are. Needs neither root nor
//! loop devices. Nothing to clean up.

pub mod files;
mod folder;
pub mod listing;
mod place;

use std::fmt;
use std::io::{self, Read, Seek};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::image::hex;
use super::partition::PartitionError;
use super::partition::expand::expand_last;
use super::staged::{HostFault, Staged};
use listing::Listed;

pub use place::{NoPlace, Place};

/// A change of a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A file gets this content; folders on the way are made.
    Write {
        /// Where.
        to: Place,
        /// All of it.
        content: Vec<u8>,
    },
    /// These keys of a JSON object get new values, as RFC 7396 has it: `null` removes a key, and objects are merged
    /// in turn. A file that is not there counts as `{}`.
    MergeJson {
        /// The file.
        into: Place,
        /// The keys.
        patch: Map<String, Value>,
    },
    /// A file goes.
    Remove {
        /// Which one.
        place: Place,
    },
    /// The last partition grows to the medium's end. The file system in it is left to the operating system.
    Expand,
}

/// What an edit has changed, for reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `write`, `merge-json`, `remove` or `expand`.
    pub change: &'static str,
    /// The file, or the partition that has grown, as in `2:`.
    pub place: String,
    /// How many bytes the file or the partition has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of the file's content now, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// An edit that cannot be done; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {edit}")]
pub struct EditError {
    /// What was attempted.
    pub edit: String,
    /// Why it cannot be done.
    #[source]
    pub source: PrepareError,
}

/// What stands on a disk is not what it was taken for.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no partition table.
    #[error("there is no partition table")]
    NoTable,
    /// The partition table cannot be read.
    #[error(transparent)]
    Table(PartitionError),
    /// No partition is called so.
    #[error("there is no partition `{wanted}`, but {there}")]
    NoPartition {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Several partitions are called so.
    #[error("`{wanted}` may be {candidates}; a number says which")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// What it may be.
        candidates: String,
    },
    /// The partition holds something else.
    #[error("{partition} holds {found}, and only files of a FAT file system are within reach")]
    NotFat {
        /// The partition.
        partition: String,
        /// What it holds.
        found: &'static str,
    },
    /// There is no such file.
    #[error("there is no `{place}`")]
    NotFound {
        /// The file or folder.
        place: String,
    },
    /// A folder stands where a file is wanted, or a file where a folder is.
    #[error("a folder stands where a file is wanted, or a file where a folder is")]
    WrongKind,
    /// The file system cannot take more.
    #[error("the file system of {partition} is full")]
    Full {
        /// The partition.
        partition: String,
    },
    /// The file system is damaged, or cannot hold such a file.
    #[error("the file system of {partition} cannot be used: {reason}")]
    Damaged {
        /// The partition.
        partition: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no JSON object.
    #[error("`{place}` is no JSON object: {reason}")]
    NoJson {
        /// The file.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host could not read the disk.
    #[error("the disk cannot be read")]
    Host(#[source] io::Error),
}

impl From<io::Error> for PrepareError {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<PartitionError> for PrepareError {
    fn from(error: PartitionError) -> Self {
        Self::Table(error)
    }
}

impl PrepareError {
    /// Whether the host failed; else it is about what stands on the disk, or was asked of it.
    pub fn is_hosts(&self) -> bool {
        matches!(
            self,
            Self::Host(_) | Self::Table(PartitionError::Read { .. } | PartitionError::Write { .. })
        )
    }

    /// What fatfs means, which tells most by texts.
    fn of_fat(error: io::Error, place: &Place, listed: &Listed) -> Self {
        let partition = listed.title();
        if is_host_fault(&error) {
            return Self::Host(error);
        }
        match (error.kind(), error.to_string().as_str()) {
            (io::ErrorKind::NotFound, _) => Self::NotFound { place: place.to_string() },
            // The root folder of FAT12 and FAT16 does not grow, and ends with `WriteZero`.
            (io::ErrorKind::WriteZero, _) | (_, "No space left on device") => Self::Full { partition },
            (_, "Is a directory" | "Not a directory") => Self::WrongKind,
            (_, reason) => Self::Damaged { partition, reason: reason.to_owned() },
        }
    }
}

fn is_host_fault(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<HostFault>())
}

/// Does all edits in a copy of what stands on the disk. Nothing is changed before the copy is committed.
pub fn stage<T: Read + Seek>(disk: &mut Staged<T>, edits: &[Edit]) -> Result<Vec<Change>, EditError> {
    let staged = edits.iter().map(|edit| {
        let failed = |source| EditError { edit: edit.to_string(), source };
        edit.stage(disk).map_err(failed)
    });
    staged.collect()
}

impl Edit {
    fn stage<T: Read + Seek>(&self, disk: &mut Staged<T>) -> Result<Change, PrepareError> {
        let written = |place: &Place, content: &[u8]| Change {
            change: self.name(),
            place: place.to_string(),
            bytes: Some(content.len() as u64),
            sha256: Some(hex(&Sha256::digest(content))),
        };
        match self {
            Self::Write { to, content } => {
                files::write(disk, to, content)?;
                Ok(written(to, content))
            }
            Self::MergeJson { into, patch } => {
                let old = match files::read(disk, into) {
                    Ok(old) => old,
                    Err(PrepareError::NotFound { .. }) => b"{}".to_vec(),
                    Err(error) => return Err(error),
                };
                let no_json = |error: serde_json::Error| PrepareError::NoJson {
                    place: into.to_string(),
                    reason: error.to_string(),
                };
                let mut object: Map<String, Value> = serde_json::from_slice(&old).map_err(no_json)?;
                merge(&mut object, patch);
                let content = format!("{:#}\n", Value::Object(object));
                files::write(disk, into, content.as_bytes())?;
                Ok(written(into, content.as_bytes()))
            }
            Self::Remove { place } => {
                files::remove(disk, place)?;
                Ok(Change { change: self.name(), place: place.to_string(), bytes: None, sha256: None })
            }
            Self::Expand => {
                let size = disk.size();
                let expanded = expand_last(disk, size)?.ok_or(PrepareError::NoTable)?;
                let (place, bytes) = (format!("{}:", expanded.number), Some(expanded.size_bytes));
                Ok(Change { change: self.name(), place, bytes, sha256: None })
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::MergeJson { .. } => "merge-json",
            Self::Remove { .. } => "remove",
            Self::Expand => "expand",
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { to, .. } => write!(f, "write `{to}`"),
            Self::MergeJson { into, .. } => write!(f, "merge JSON into `{into}`"),
            Self::Remove { place } => write!(f, "remove `{place}`"),
            Self::Expand => f.write_str("expand the last partition"),
        }
    }
}

fn merge(object: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (value, object.get_mut(key)) {
            (Value::Null, _) => {
                object.shift_remove(key);
            }
            (Value::Object(inner), Some(Value::Object(old))) => merge(old, inner),
            (Value::Object(inner), _) => {
                let mut fresh = Map::new();
                merge(&mut fresh, inner);
                object.insert(key.clone(), Value::Object(fresh));
            }
            (value, _) => {
                object.insert(key.clone(), value.clone());
            }
        }
    }
}
