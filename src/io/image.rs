//! An operating system image: opened once, known by its digest, written to media as often as asked.
//!
//! Raw images are read where they are; gzip is unpacked into the run's scratch, which owns the copy. Every
//! function here blocks; callers use `sys::blocking` while a machine may run.

use std::fs::{self, File, FileType};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

/// A raw image with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the user called it.
    pub name: String,
    /// The raw bytes; the user's own file, or our unpacked copy.
    raw: PathBuf,
    /// How many bytes it has; never 0.
    pub bytes: u64,
    /// SHA-256 of the raw bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// An image cannot be used. Nothing was written to any medium, unless the variant says so.
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
    /// A pipe or a device: it may block or never end, and it is read several times.
    #[error("image {path} is {kind}, which cannot be flashed; a file with its bytes can")]
    NoFile {
        /// The image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It has no bytes.
    #[error("image {path} is empty")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// It is packed in a way that we cannot unpack; written as it is, it would boot nothing.
    #[error("image {path} is {format}, which cannot be flashed; raw and gzip can")]
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
    /// The medium or the scratch cannot be written. What stands on it is unknown.
    #[error("cannot write {path}")]
    Write {
        /// The file that plays the medium, or the scratch copy.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image is not what it was when it was opened. What stands on the medium is unknown.
    #[error("image {name} has changed since the run began: SHA-256 was {expected}, is {found}")]
    Changed {
        /// What the user called the image.
        name: String,
        /// The digest at the beginning of the run.
        expected: String,
        /// The digest of what was written.
        found: String,
    },
}

impl ImageError {
    /// Whether a person has to change what they asked for; else the host failed.
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

/// First bytes by which a packed image is known, from each format's specification.
const PACKED: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"BZh", "a bzip2 file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"PK\x03\x04", "a zip file"),
    (b"QFI\xfb", "a qcow2 file"),
    (b"\x3a\xff\x26\xed", "an Android sparse image"),
];

const GZIP: &[u8] = b"\x1f\x8b";

/// Large enough to make system calls cheap, small enough to find holes.
const BLOCK_BYTES: usize = 1 << 20;

impl Image {
    /// Opens the image at `path`, by its content and not by its name; a packed one is unpacked into `scratch`.
    /// No more is read or unpacked than the `capacity` of the medium that it is for.
    pub fn open(path: &Path, scratch: &Path, medium: &str, capacity: u64) -> Result<Self, ImageError> {
        let read = |source| ImageError::Read { path: path.to_owned(), source };
        // Before it is opened, which alone would wait for the other end of a pipe.
        let found = fs::metadata(path).map_err(read)?;
        if let Some(kind) = no_file(found.file_type()) {
            return Err(ImageError::NoFile { path: path.to_owned(), kind });
        }
        let mut file = File::open(path).map_err(read)?;
        let mut head = Vec::new();
        (&file).take(8).read_to_end(&mut head).map_err(read)?;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        if let Some((_, format)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(ImageError::Format { path: path.to_owned(), format });
        }
        let name = path.display().to_string();
        let is_packed = head.starts_with(GZIP);
        if !is_packed {
            fits(&name, found.len(), medium, capacity)?;
        }
        let most = capacity.saturating_add(1);
        let (raw, copied) = if is_packed {
            let raw = scratch.join("image.raw");
            let sink =
                Sink::create(&raw).map_err(|source| ImageError::Write { path: raw.clone(), source })?;
            let unpacked = MultiGzDecoder::new(file).take(most);
            (raw.clone(), copy(unpacked, Some(sink)).map_err(|error| error.at(path, &raw))?)
        } else {
            (path.to_owned(), copy(file.take(most), None).map_err(|error| error.at(path, path))?)
        };
        match copied.bytes {
            0 => Err(ImageError::Empty { path: path.to_owned() }),
            bytes if bytes > capacity && is_packed => {
                Err(ImageError::TooLargeUnpacked { name, medium: medium.to_owned(), capacity })
            }
            bytes => Ok(Self { name, raw, bytes, sha256: copied.sha256 }),
        }
    }

    /// An image that is part of standin, such as the self-test; a copy goes into `scratch`.
    pub fn built_in(name: &str, content: &[u8], scratch: &Path) -> Result<Self, ImageError> {
        let raw = scratch.join(format!("{name}.img"));
        fs::write(&raw, content).map_err(|source| ImageError::Write { path: raw.clone(), source })?;
        Ok(Self { name: name.to_owned(), ..Self::open(&raw, scratch, "scratch", content.len() as u64)? })
    }

    /// Refuses a medium that is too small for the image.
    pub fn check_fits(&self, medium: &str, capacity: u64) -> Result<(), ImageError> {
        fits(&self.name, self.bytes, medium, capacity)
    }

    /// Makes `target` a fresh medium of `capacity` bytes with the image at its start, and checks that what was
    /// written is what was opened. Zeros become holes.
    ///
    /// Failed, it leaves a medium whose content is unknown.
    pub fn write_to(&self, target: &Path, medium: &str, capacity: u64) -> Result<(), ImageError> {
        self.check_fits(medium, capacity)?;
        let write = |source| ImageError::Write { path: target.to_owned(), source };
        let source =
            File::open(&self.raw).map_err(|source| ImageError::Read { path: self.raw.clone(), source })?;
        let sink = Sink::create(target).map_err(write)?;
        sink.file.set_len(capacity).map_err(write)?;
        let copied = copy(source.take(capacity), Some(sink)).map_err(|error| error.at(&self.raw, target))?;
        if copied.sha256 == self.sha256 {
            return Ok(());
        }
        Err(ImageError::Changed {
            name: self.name.clone(),
            expected: self.sha256.clone(),
            found: copied.sha256,
        })
    }
}

fn fits(name: &str, bytes: u64, medium: &str, capacity: u64) -> Result<(), ImageError> {
    if bytes <= capacity {
        return Ok(());
    }
    Err(ImageError::TooLarge { name: name.to_owned(), bytes, medium: medium.to_owned(), capacity })
}

/// What it is that is no file; `None` for a file.
fn no_file(kind: FileType) -> Option<&'static str> {
    let kinds = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo() || kind.is_socket(), "a pipe"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
    ];
    kinds.into_iter().find_map(|(is, name)| is.then_some(name))
}

struct Copied {
    bytes: u64,
    sha256: String,
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl CopyError {
    fn at(self, from: &Path, to: &Path) -> ImageError {
        match self {
            Self::Read(source) => ImageError::Read { path: from.to_owned(), source },
            Self::Write(source) => ImageError::Write { path: to.to_owned(), source },
        }
    }
}

/// A file that is written from its start and skips zeros.
struct Sink {
    file: File,
    offset: u64,
}

impl Sink {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, offset: 0 })
    }

    fn put(&mut self, block: &[u8]) -> io::Result<()> {
        if block.iter().any(|byte| *byte != 0) {
            self.file.seek(SeekFrom::Start(self.offset))?;
            self.file.write_all(block)?;
        }
        self.offset += block.len() as u64;
        Ok(())
    }

    /// A hole at the end counts as well.
    fn finish(self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.offset { self.file.set_len(self.offset) } else { Ok(()) }
    }
}

/// Reads to the end, hashing, and writing if there is somewhere to write to.
fn copy(mut from: impl Read, mut to: Option<Sink>) -> Result<Copied, CopyError> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let filled = fill(&mut from, &mut block).map_err(CopyError::Read)?;
        if filled == 0 {
            break;
        }
        hash.update(&block[..filled]);
        if let Some(sink) = &mut to {
            sink.put(&block[..filled]).map_err(CopyError::Write)?;
        }
        bytes += filled as u64;
    }
    if let Some(sink) = to {
        sink.finish().map_err(CopyError::Write)?;
    }
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Copied { bytes, sha256 })
}

/// Reads until the block is full or the source ends.
fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// 3 MiB with data at both ends and a hole between them.
    fn content() -> Vec<u8> {
        let mut content = vec![0; 3 << 20];
        content[..5].copy_from_slice(b"begin");
        let end = content.len() - 3;
        content[end..].copy_from_slice(b"end");
        content
    }

    #[test]
    fn a_gzip_image_is_the_same_as_its_raw_one_and_zeros_become_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, packed) = (dir.path().join("os.img"), dir.path().join("os.img.gz"));
        fs::write(&raw, content()).unwrap();
        let mut gzip = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        gzip.write_all(&content()).unwrap();
        gzip.finish().unwrap();
        let raw = Image::open(&raw, dir.path(), "sd", 8 << 20).unwrap();
        let packed = Image::open(&packed, dir.path(), "sd", 8 << 20).unwrap();
        assert_eq!((raw.bytes, &raw.sha256), (packed.bytes, &packed.sha256));
        let medium = dir.path().join("sd.img");
        packed.write_to(&medium, "sd", 8 << 20).unwrap();
        let written = fs::read(&medium).unwrap();
        assert_eq!(written.len(), 8 << 20);
        assert_eq!(written[..3 << 20], content());
        assert!(fs::metadata(&medium).unwrap().blocks() * 512 <= 2 << 20);
    }

    #[test]
    fn an_image_that_cannot_be_flashed_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut cut = GzEncoder::new(Vec::new(), Compression::fast());
        cut.write_all(&content()).unwrap();
        let mut cut = cut.finish().unwrap();
        cut.truncate(cut.len() / 2);
        let table: [(&str, &[u8], &str); 4] = [
            ("empty", b"", "is empty"),
            ("xz", b"\xfd7zXZ\0rest", "is an xz file"),
            ("qcow2", b"QFI\xfb\0\0\0\x03", "is a qcow2 file"),
            ("cut", &cut, "cannot read image"),
        ];
        for (name, bytes, reason) in table {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let refused = Image::open(&path, dir.path(), "sd", 8 << 20).unwrap_err();
            assert!(refused.to_string().contains(reason), "{name}: {refused}");
        }
        let none = Image::open(&dir.path().join("none"), dir.path(), "sd", 8 << 20);
        assert!(matches!(none, Err(ImageError::Read { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let table = [
            (pipe.as_path(), "is a pipe"),
            (Path::new("/dev/zero"), "is a device"),
            (dir.path(), "is a folder"),
        ];
        for (path, reason) in table {
            let refused = Image::open(path, dir.path(), "sd", 8 << 20).unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused}");
        }
    }

    #[test]
    fn an_image_that_cannot_fit_is_neither_read_nor_unpacked_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, packed) = (dir.path().join("os.img"), dir.path().join("os.img.gz"));
        File::create(&raw).unwrap().set_len(1 << 40).unwrap();
        let refused = Image::open(&raw, dir.path(), "sd", 8 << 20).unwrap_err();
        assert!(matches!(refused, ImageError::TooLarge { bytes, .. } if bytes == 1 << 40), "{refused}");
        let mut gzip = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        io::copy(&mut io::repeat(1).take(32 << 20), &mut gzip).unwrap();
        gzip.finish().unwrap();
        let refused = Image::open(&packed, dir.path(), "sd", 8 << 20).unwrap_err();
        assert!(matches!(refused, ImageError::TooLargeUnpacked { .. }), "{refused}");
        let unpacked = fs::metadata(dir.path().join("image.raw")).unwrap();
        assert!(unpacked.len() <= (8 << 20) + 1, "{} bytes", unpacked.len());
    }

    #[test]
    fn an_image_that_changed_or_does_not_fit_is_not_taken_for_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os.img");
        fs::write(&path, content()).unwrap();
        let image = Image::open(&path, dir.path(), "sd", 8 << 20).unwrap();
        let medium = dir.path().join("sd.img");
        assert!(matches!(image.write_to(&medium, "sd", 1 << 20), Err(ImageError::TooLarge { .. })));
        fs::write(&path, b"something else").unwrap();
        assert!(matches!(image.write_to(&medium, "sd", 8 << 20), Err(ImageError::Changed { .. })));
    }
}
