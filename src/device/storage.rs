//! The media of the device under test, and which image stands on each.
//!
//! On a stand-in each medium is a sparse file in the run's scratch, made blank at first and fresh at each
//! flash. The run directory owns the files; nothing to close.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::board::{Board, Medium};
use crate::io::image::{Image, ImageError};
use crate::sys::blocking::blocking;

/// The media of one device.
#[derive(Debug)]
pub struct Storage {
    dir: PathBuf,
    media: BTreeMap<String, PlayedMedium>,
    flashes: usize,
}

#[derive(Debug)]
struct PlayedMedium {
    path: PathBuf,
    capacity: u64,
    content: Content,
}

/// What stands on a medium, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros.
    Blank,
    /// What this image, by its SHA-256, and the DUT since then have written.
    Flashed(String),
    /// A flash was cut short; it must be flashed again before power-on.
    Unknown,
}

/// A medium cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A blank medium could not be made.
    #[error("cannot make medium `{medium}`")]
    Make {
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image could not be written.
    #[error("cannot flash medium `{medium}`")]
    Flash {
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: ImageError,
    },
    /// The medium holds half an image.
    #[error("medium `{medium}` was not flashed to the end, so what it holds is unknown")]
    Unknown {
        /// The medium's name in the board file.
        medium: String,
    },
}

impl Storage {
    /// Blank media for every medium of the board, as files in `dir`.
    pub fn create(board: &Board, dir: &Path) -> Result<Self, StorageError> {
        let blank = |medium: &Medium| {
            let path = dir.join(format!("{}.img", medium.name));
            let capacity = medium.size.0;
            File::create(&path)
                .and_then(|file| file.set_len(capacity))
                .map_err(|source| StorageError::Make { medium: medium.name.clone(), source })?;
            Ok((medium.name.clone(), PlayedMedium { path, capacity, content: Content::Blank }))
        };
        let media = board.media.iter().map(blank).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), media, flashes: 0 })
    }

    /// Writes the image to a medium, and verifies it. The power must be off: `procedure` sees to that.
    ///
    /// Failed or cancelled, it leaves the medium unknown.
    pub async fn flash(&mut self, medium: &str, image: &Image) -> Result<(), StorageError> {
        let played = self.media.get_mut(medium).expect("check admits only boards whose media exist");
        let failed = |source| StorageError::Flash { medium: medium.to_owned(), source };
        // Before anything is lost: an image that cannot fit leaves the old one.
        image.check_fits(medium, played.capacity).map_err(failed)?;
        played.content = Content::Unknown;
        // A new file each time: a flash that was cancelled may still be writing to the last one.
        self.flashes += 1;
        let fresh = self.dir.join(format!("{medium}-{}.img", self.flashes));
        let (image_written, name, path) = (image.clone(), medium.to_owned(), fresh.clone());
        let (capacity, old) = (played.capacity, played.path.clone());
        let write = move || {
            image_written.write_to(&path, &name, capacity)?;
            // If it stays, it goes with the scratch.
            let _ = std::fs::remove_file(old);
            Ok(())
        };
        blocking(write).await.map_err(failed)?;
        played.path = fresh;
        played.content = Content::Flashed(image.sha256.clone());
        Ok(())
    }

    /// What stands on a medium of the board.
    pub fn content(&self, medium: &str) -> Option<&Content> {
        self.media.get(medium).map(|played| &played.content)
    }

    /// The file that plays a medium of the board.
    pub fn path(&self, medium: &str) -> Option<&Path> {
        self.media.get(medium).map(|played| played.path.as_path())
    }

    /// The files of all media, for a machine that is about to start; an error if one must not be used.
    pub fn plugged_in(&self) -> Result<Vec<(String, PathBuf)>, StorageError> {
        let known = |(name, played): (&String, &PlayedMedium)| match played.content {
            Content::Unknown => Err(StorageError::Unknown { medium: name.clone() }),
            Content::Blank | Content::Flashed(_) => Ok((name.clone(), played.path.clone())),
        };
        self.media.iter().map(known).collect()
    }
}
