//! A real medium, such as a card in a reader, or a file that stands for one: opened for us alone, and only if nobody
//! else loses by it.
//!
//! `standin flash` calls it. Opening writes nothing; [`Target::write`] does (`write`). The target is closed when it
//! is dropped; a file that was made for it and not written to its end goes. Every function here blocks.

mod users;
mod write;

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::libc::{O_EXCL, O_NOFOLLOW, O_NONBLOCK};

use crate::sys::block_device;
use users::Use;
pub use write::{Order, Progress, WriteError, Written};

/// The block device that is refused unless it is meant: larger than the cards and sticks that boards boot from, and
/// smaller than most disks that people keep things on.
pub const LARGEST_BYTES: u64 = 256 << 30;

/// The largest logical block that can be written: zeros and data of images are told apart in blocks of this size.
const BLOCK_BYTES: u64 = super::image::digest::BLOCK_BYTES as u64;

/// What a target must be besides unused.
#[derive(Debug, Clone)]
pub struct Checks {
    /// A block device with more bytes is refused.
    pub largest: u64,
    /// Folders whose disks are not to be written, besides those of the running system.
    pub keep: Vec<PathBuf>,
    /// Somebody said that this target is meant: a larger device, a partition, or a file with content is none of
    /// an accident.
    pub is_meant: bool,
}

/// A medium that is open for us alone and may be written.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: Flock<File>,
    kind: Kind,
    /// Whether the page cache is left out.
    is_direct: bool,
    /// The file was made for us and is not written to its end.
    is_new: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device { bytes: u64, block: u64 },
    File,
}

/// A target must not be written, or cannot be. Nothing was written to it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be opened.
    #[error("cannot open medium {path}")]
    Open {
        /// The medium.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Who uses it cannot be found out.
    #[error("cannot find out who uses medium {path}")]
    Users {
        /// The medium.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is {kind}; expected a block device or a file")]
    NoMedium {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The system that runs here lies on it.
    #[error("{path} is a disk of this host: {folder} lies on it")]
    System {
        /// The medium.
        path: PathBuf,
        /// What would be lost.
        folder: PathBuf,
    },
    /// It is mounted.
    #[error("{path} is in use: {device} is mounted at {at}")]
    Mounted {
        /// The medium.
        path: PathBuf,
        /// It, or a partition of it.
        device: String,
        /// Where.
        at: PathBuf,
    },
    /// It is swap.
    #[error("{path} is in use: {device} is swap of this host")]
    Swap {
        /// The medium.
        path: PathBuf,
        /// It, or a partition of it.
        device: String,
    },
    /// Another device stands on it.
    #[error("{path} is in use: {by} stands on {device}")]
    Held {
        /// The medium.
        path: PathBuf,
        /// It, or a partition of it.
        device: String,
        /// Such as LVM, RAID or encryption.
        by: String,
    },
    /// Some process holds it.
    #[error("{path} is in use by another process")]
    Busy {
        /// The medium.
        path: PathBuf,
    },
    /// It is write-protected.
    #[error("{path} is write-protected")]
    ReadOnly {
        /// The medium.
        path: PathBuf,
    },
    /// The drive is empty.
    #[error("there is no medium in {path}")]
    Empty {
        /// The drive.
        path: PathBuf,
    },
    /// It is larger than the media that one flashes.
    #[error("{path} has {bytes} bytes, more than the {largest} of a medium to be flashed")]
    TooLarge {
        /// The medium.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What was allowed.
        largest: u64,
    },
    /// It is a part of a medium.
    #[error("{path} is a partition of {disk}, not a whole medium")]
    Partition {
        /// What was named.
        path: PathBuf,
        /// The medium.
        disk: String,
    },
    /// It is a file that has content.
    #[error("file {path} is there already and has {bytes} bytes")]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Its blocks are too large.
    #[error("{path} has blocks of {block} bytes; at most {BLOCK_BYTES} can be written")]
    Blocks {
        /// The medium.
        path: PathBuf,
        /// Its logical block.
        block: u64,
    },
}

impl Refusal {
    /// Whether a person has to change what they asked for; else the host failed.
    pub fn is_users(&self) -> bool {
        let Self::Open { source, .. } = self else { return !matches!(self, Self::Users { .. }) };
        use io::ErrorKind::{
            AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        matches!(
            source.kind(),
            AlreadyExists | IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem
        )
    }

    /// What helps.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "a block device is written by root and, on most systems, by the group `disk`"
            }
            Self::Mounted { .. } => "unmount it first; some desktops mount whatever is plugged in",
            Self::TooLarge { .. } => "`--yes` says that it is meant, and `--largest SIZE` allows as much",
            Self::Partition { .. } => {
                "name the whole medium, or say with `--yes` that the partition is meant"
            }
            Self::Occupied { .. } => "`--yes` says that its content may go",
            _ => return None,
        })
    }
}

impl Target {
    /// Opens the block device or the file at `path`; a file that is not there is made. Links are followed, as
    /// `/dev/disk/by-id` consists of them. Writes nothing.
    pub fn open(path: &Path, checks: &Checks) -> Result<Self, Refusal> {
        let failed = |source| Refusal::Open { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Self::open_device(path, &found, checks),
            Ok(found) if found.is_file() => Self::open_file(path, &found, checks),
            Ok(found) => Err(Refusal::NoMedium { path: path.to_owned(), kind: kind(found.file_type()) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (file, is_direct) = open(path, OpenOptions::new().create_new(true)).map_err(failed)?;
                let file = lock(path, file)?;
                Ok(Self { path: path.to_owned(), file, kind: Kind::File, is_direct, is_new: true })
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// What the user called it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a file that was made for this, and goes if it is not written to its end.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// How many bytes it takes; `u64::MAX` for a file, which grows.
    pub fn capacity(&self) -> u64 {
        match self.kind {
            Kind::Device { bytes, .. } => bytes,
            Kind::File => u64::MAX,
        }
    }

    fn open_file(path: &Path, found: &Metadata, checks: &Checks) -> Result<Self, Refusal> {
        let failed = |source| Refusal::Open { path: path.to_owned(), source };
        if found.len() > 0 && !checks.is_meant {
            return Err(Refusal::Occupied { path: path.to_owned(), bytes: found.len() });
        }
        let resolved = fs::canonicalize(path).map_err(failed)?;
        let (file, is_direct) =
            open(&resolved, OpenOptions::new().custom_flags(O_NOFOLLOW)).map_err(failed)?;
        same(&file, found).map_err(failed)?;
        let file = lock(path, file)?;
        Ok(Self { path: path.to_owned(), file, kind: Kind::File, is_direct, is_new: false })
    }

    fn open_device(path: &Path, found: &Metadata, checks: &Checks) -> Result<Self, Refusal> {
        let name = || path.to_owned();
        let failed = |source| Refusal::Open { path: name(), source };
        let unknown = |source| Refusal::Users { path: name(), source };
        // Before it is opened at all.
        match users::find(found.rdev(), &checks.keep).map_err(unknown)? {
            None => {}
            Some(Use::System(folder)) => return Err(Refusal::System { path: name(), folder }),
            Some(Use::Mounted { device, at }) => return Err(Refusal::Mounted { path: name(), device, at }),
            Some(Use::Swap(device)) => return Err(Refusal::Swap { path: name(), device }),
            Some(Use::Held { device, by }) => return Err(Refusal::Held { path: name(), device, by }),
        }
        let resolved = fs::canonicalize(path).map_err(failed)?;
        // With O_NONBLOCK an empty drive opens, too, and has 0 bytes.
        let look = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOFOLLOW).open(&resolved);
        let look = look.map_err(failed)?;
        same(&look, found).map_err(failed)?;
        let bytes = block_device::size(&look).map_err(failed)?;
        let block = block_device::block(&look).map_err(failed)?;
        if bytes == 0 {
            return Err(Refusal::Empty { path: name() });
        }
        if block_device::is_read_only(&look).map_err(failed)? {
            return Err(Refusal::ReadOnly { path: name() });
        }
        if block > BLOCK_BYTES {
            return Err(Refusal::Blocks { path: name(), block });
        }
        if !checks.is_meant {
            if let Some(disk) = users::disk_of_partition(found.rdev()).map_err(unknown)? {
                return Err(Refusal::Partition { path: name(), disk });
            }
            if bytes > checks.largest {
                return Err(Refusal::TooLarge { path: name(), bytes, largest: checks.largest });
            }
        }
        drop(look);
        // On a block device O_EXCL is the kernel's word that nobody has it or a partition of it mounted, also where
        // we do not see their mounts; see open(2).
        let (file, is_direct) = open(&resolved, OpenOptions::new().custom_flags(O_EXCL | O_NOFOLLOW))
            .map_err(|source| match source.kind() {
                io::ErrorKind::ResourceBusy => Refusal::Busy { path: name() },
                _ => failed(source),
            })?;
        same(&file, found).map_err(failed)?;
        // udev, too, leaves alone what is locked; see "Locking Block Device Access" of systemd.
        let file = lock(path, file)?;
        let kind = Kind::Device { bytes, block };
        Ok(Self { path: name(), file, kind, is_direct, is_new: false })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_new {
            // Half an image under a good name would be taken for a whole one. If it stays, somebody else moved it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens for reading and writing, and past the page cache where the file system knows how.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, bool)> {
    let file = options.read(true).write(true).open(path)?;
    // Not in open(2), which on some file systems makes the file before it refuses the flag.
    match fcntl(&file, FcntlArg::F_SETFL(OFlag::O_DIRECT)) {
        Ok(_) => Ok((file, true)),
        Err(Errno::EINVAL) => Ok((file, false)),
        Err(errno) => Err(errno.into()),
    }
}

/// Refuses what came under the name after it was looked at.
fn same(file: &File, found: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.dev(), now.ino(), now.rdev()) == (found.dev(), found.ino(), found.rdev()) {
        return Ok(());
    }
    Err(io::Error::other("it was exchanged for another one"))
}

fn lock(path: &Path, file: File) -> Result<Flock<File>, Refusal> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match io::Error::from(errno) {
        error if error.kind() == io::ErrorKind::WouldBlock => Refusal::Busy { path: path.to_owned() },
        source => Refusal::Open { path: path.to_owned(), source },
    })
}

fn kind(kind: FileType) -> &'static str {
    let kinds = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo(), "a pipe"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
    ];
    kinds.into_iter().find_map(|(is, name)| is.then_some(name)).unwrap_or("something else")
}
