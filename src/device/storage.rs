//! The media of the device under test, and which image stands on each.
//!
//! On a stand-in each medium is a file in the run's scratch: an empty raw one at first, and after a flash a fresh
//! layer over the image's base in the cache, which is held for as long. The run directory owns the files; nothing
//! to close.

mod position;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::board::{Board, Medium};
use crate::io::cache::Base;
use crate::io::image::{Image, ImageError};
use crate::io::qcow2::{self, write::Layer};
use crate::qemu::arguments::Disk;

pub use position::Position;

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
    /// What `path` is a layer over; without it, `path` is raw.
    base: Option<Arc<Base>>,
    capacity: u64,
    content: Content,
    position: Position,
}

/// What stands on a medium, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros.
    Blank,
    /// What this image, by its digest, and the DUT since then have written.
    Flashed(String),
    /// A flash or a change was cut short; it must be flashed again before power-on.
    /// What the installer with this digest, and the DUT since then have written.
    Installed(String),
    /// A flash or an installation was cut short; it must be flashed again before power-on.
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
    /// The image does not fit.
    #[error("cannot flash medium `{medium}`")]
    Flash {
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: Box<ImageError>,
    },
    /// No layer could be made over the image's base.
    #[error("cannot make layer {path} of medium `{medium}`")]
    Layer {
        /// The medium's name in the board file.
        medium: String,
        /// The layer.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What stands on the medium cannot be read.
    #[error("cannot read medium `{medium}`")]
    Read {
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What stands on the medium cannot be changed.
    #[error("cannot write medium `{medium}`")]
    Write {
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The medium holds half an image, or half of a change.
    #[error("medium `{medium}` was not written to the end, so what it holds is unknown")]
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
            Ok((
                medium.name.clone(),
                PlayedMedium { path, base: None, capacity, content: Content::Blank, position: Position::Dut },
            ))
        };
        let media = board.media.iter().map(blank).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), media, flashes: 0 })
    }

    /// Puts the image on a medium, as a fresh layer over its base; what the base holds was verified when it was
    /// made. The power must be off: `procedure` sees to that.
    ///
    /// Failed or cancelled, it leaves the medium unknown.
    pub async fn flash(&mut self, medium: &str, image: &Image) -> Result<(), StorageError> {
        let played = self.media.get_mut(medium).expect("check admits only boards whose media exist");
        let failed = |source| StorageError::Flash { medium: medium.to_owned(), source: Box::new(source) };
        // Before anything is lost: an image that cannot fit leaves the old one.
        image.check_fits(medium, played.capacity).map_err(failed)?;
        played.content = Content::Unknown;
        // A new file each time: the old one is there until this one is whole.
        self.flashes += 1;
        let fresh = self.dir.join(format!("{medium}-{}.qcow2", self.flashes));
        File::create_new(&fresh)
            .and_then(|layer| qcow2::empty::write(&layer, &image.base().path(), played.capacity))
            .map_err(|source| StorageError::Layer {
                medium: medium.to_owned(),
                path: fresh.clone(),
                source,
            })?;
        let old = std::mem::replace(&mut played.path, fresh);
        // If it stays, it goes with the scratch.
        let _ = std::fs::remove_file(old);
        played.base = Some(image.base().clone());
        played.content = Content::Flashed(image.digest.clone());
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

    /// What stands on a medium of the board now, to be read while no machine runs.
    pub fn open(&self, medium: &str) -> Result<Box<dyn ReadSeek>, StorageError> {
        let played = self.media.get(medium).expect("check admits only boards whose media exist");
        let failed = |source| StorageError::Read { medium: medium.to_owned(), source };
        let file = File::open(&played.path).map_err(failed)?;
        match &played.base {
            None => Ok(Box::new(file)),
            Some(base) => {
                let base = base.file().try_clone().map_err(failed)?;
                Ok(Box::new(qcow2::Disk::open_layer(file, base).map_err(failed)?))
            }
        }
    }

    /// What stands on a medium of the board now, to be changed while no machine runs; `Device::prepare` sees to
    /// that, and to what is known of the medium meanwhile. What a flash has put there lies in a layer, so no image
    /// is ever changed.
    pub(super) fn open_for_writing(&self, medium: &str) -> Result<Box<dyn ReadWriteSeek>, StorageError> {
        let played = self.media.get(medium).expect("check admits only boards whose media exist");
        let failed = |source| StorageError::Write { medium: medium.to_owned(), source };
        let file = File::options().read(true).write(true).open(&played.path).map_err(failed)?;
        match &played.base {
            None => Ok(Box::new(file)),
            Some(base) => {
                let base = base.file().try_clone().map_err(failed)?;
                Ok(Box::new(Layer::open(file, base).map_err(failed)?))
            }
        }
    }

    /// Says what stands on a medium, and returns what was said before.
    pub(super) fn set_content(&mut self, medium: &str, content: Content) -> Content {
        let played = self.media.get_mut(medium).expect("check admits only boards whose media exist");
        std::mem::replace(&mut played.content, content)
    }

    /// Forgets what stands on a medium, because it is not what was asked for; it must be flashed again.
    pub fn distrust(&mut self, medium: &str) {
        self.set_content(medium, Content::Unknown);
    }

    /// The files of all media, for a machine that is about to start; an error if one must not be used.
    /// The files of the media in the DUT, for a machine that is about to start; an error if one must not be used.
    ///
    /// A flash that was cut short may have left its medium at the host, which is no less unknown there.
    pub fn plugged_in(&self) -> Result<Vec<(String, Disk)>, StorageError> {
        let unknown =
            |played: &PlayedMedium| played.content == Content::Unknown && played.position != Position::Out;
        match self.media.iter().find(|(_, played)| unknown(played)) {
            Some((name, _)) => Err(StorageError::Unknown { medium: name.clone() }),
            None => Ok(self.in_dut()),
        }
    }

    fn played(&mut self, medium: &str) -> &mut PlayedMedium {
        self.media.get_mut(medium).expect("check admits only boards whose media exist")
    }
}

impl PlayedMedium {
    fn disk(&self) -> Disk {
        match &self.base {
            None => Disk::Raw(self.path.clone()),
            Some(base) => Disk::Layer { layer: self.path.clone(), base: base.path() },
        }
    }
}

/// What can be read from anywhere, such as a medium.
pub trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// What can be read and written anywhere, such as a medium at the host.
pub trait ReadWriteSeek: ReadSeek + Write {}

impl<T: ReadSeek + Write> ReadWriteSeek for T {}
