//! Why an image cannot be used, and whose fault that is.

use std::io;
use std::path::PathBuf;

use super::bmap::{BmapError, Mismatch};

/// An image cannot be used. Nothing was written to any medium.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened or read.
    #[error("cannot read image {path}")]
    Read {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is damaged, or what it is packed in is.
    #[error("image {path} is damaged at or before byte {offset}")]
    Damaged {
        /// The image.
        path: PathBuf,
        /// How far it had been read, in bytes of the file.
        offset: u64,
        /// What was wrong there.
        #[source]
        source: io::Error,
    },
    /// It has no bytes.
    #[error("image {path} is empty")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// It is not a file that can be read again.
    #[error("image {path} is {kind}, which cannot be flashed; a file with its bytes can")]
    NoFile {
        /// The image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is packed in a way that we cannot unpack; written as it is, it would boot nothing.
    #[error(
        "image {path} is {format}, which cannot be flashed; raw, gzip, xz, zstd, bzip2, lz4, zip, qcow2 and Android's sparse format can"
    )]
    Format {
        /// The image.
        path: PathBuf,
        /// What it is.
        format: &'static str,
    },
    /// It does not fit.
    #[error("image {name} has {bytes} bytes, and medium `{medium}` only {capacity}")]
    TooLarge {
        /// What the user called the image.
        name: String,
        /// Its size.
        bytes: u64,
        /// The medium's name in the board file.
        medium: String,
        /// The medium's size in bytes.
        capacity: u64,
    },
    /// It does not fit, and nobody knows how large it is: unpacking ended where the medium does.
    #[error("image {name} has more bytes, unpacked, than the {capacity} of medium `{medium}`")]
    TooLargeUnpacked {
        /// What the user called the image.
        name: String,
        /// The medium's name in the board file.
        medium: String,
        /// The medium's size in bytes.
        capacity: u64,
    },
    /// Its packer wants more memory of whoever unpacks it than one image is worth.
    #[error("image {path} needs a window of more than 128 MiB of memory to be unpacked")]
    TooWide {
        /// The image.
        path: PathBuf,
    },
    /// Somebody expected something else.
    #[error(
        "image {path} has SHA-256 {found}, and its content {content}; neither is the expected {expected}"
    )]
    Unexpected {
        /// The image.
        path: PathBuf,
        /// Of the file.
        found: String,
        /// Of what it unpacks to.
        content: String,
        /// What was asked for.
        expected: String,
    },
    /// What is expected is no SHA-256.
    #[error("`{text}`, expected of image {path}, is no SHA-256: 64 hexadecimal digits")]
    NoSha256 {
        /// The image.
        path: PathBuf,
        /// What was given.
        text: String,
    },
    /// Its block map cannot be used.
    #[error("cannot use block map {path}")]
    Bmap {
        /// The map.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BmapError,
    },
    /// It is not what its block map says.
    #[error("image {path} is not what block map {map} says")]
    Mapped {
        /// The image.
        path: PathBuf,
        /// The map.
        map: PathBuf,
        /// Where it differs.
        #[source]
        source: Mismatch,
    },
    /// It is not as long as its block map says.
    #[error("image {path} has {found} bytes, unpacked, and block map {map} is for {expected}")]
    MappedLength {
        /// The image.
        path: PathBuf,
        /// The map.
        map: PathBuf,
        /// How long it is.
        found: u64,
        /// How long it should be.
        expected: u64,
    },
    /// Somebody wrote to it while we read it.
    #[error("image {path} was changed while it was read")]
    Changed {
        /// The image.
        path: PathBuf,
    },
    /// Whoever was told how far it is wanted no more.
    #[error("image {path} was not read to its end, as nobody wants it any more")]
    Cancelled {
        /// The image.
        path: PathBuf,
    },
    /// The cache cannot be used.
    #[error("cannot keep the content of an image in {path}")]
    Write {
        /// The cache.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// Whether a person has to change what they asked for; else the host failed.
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}
