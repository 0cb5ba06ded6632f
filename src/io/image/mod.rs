//! An operating system image: read once, known by its digest, kept in the cache for as many flashes as wanted.
//!
//! What it is packed in is told by its content ([`format`]). One pass ([`pass`]) unpacks, checks and digests it and
//! writes it to a base of the [`Cache`]. Every function here blocks; callers use `spawn_blocking`.

mod android;
pub mod bmap;
pub mod digest;
mod error;
pub mod format;
mod hint;
pub mod pass;
pub mod progress;
pub(in crate::io) mod raw;

use std::fs::{self, File, FileType};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::{Base, Cache, Identity};
use bmap::Bmap;
pub use error::ImageError;
use format::{Format, PEEK_BYTES};
use pass::{Order, PassError};
use progress::Observer;

/// An image whose content stands in the cache, and stays there while this lives.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the user called it.
    pub name: String,
    /// How many bytes its content has; never 0.
    pub bytes: u64,
    /// The digest of its content; see [`digest::ContentDigest`].
    pub digest: String,
    /// How long it took to read it; `None` if its content stood in the cache already.
    pub read_in: Option<Duration>,
    base: Arc<Base>,
}

/// What is expected of an image, and who is told of the way.
pub struct Expected<'a> {
    /// The medium that it is for, by its name in the board file.
    pub medium: &'a str,
    /// The medium's size in bytes; a longer content is refused as soon as it shows.
    pub capacity: u64,
    /// SHA-256 in hexadecimal, of the file as it is or of its content. If it is not given and a file of the
    /// same name with `.sha256` at its end lies beside the image, the one in there counts.
    pub sha256: Option<String>,
    /// Its block map. If it is not given and one lies beside the image, that one counts; see [`Bmap::find`].
    pub bmap: Option<PathBuf>,
    /// Told how far it is, and asked whether to go on.
    pub progress: &'a mut Observer<'a>,
}

impl Image {
    /// Opens the image at `path`, by its content and not by its name; it is unpacked into the cache, unless it is
    /// known there. It must fit on a medium of `capacity` bytes.
    pub fn open(path: &Path, cache: &Cache, medium: &str, capacity: u64) -> Result<Self, ImageError> {
        let expected = Expected {
            medium,
            capacity,
            sha256: None,
            bmap: None,
            progress: &mut |_| ControlFlow::Continue(()),
        };
        Self::open_expected(path, cache, expected)
    }

    /// The same, with what is expected of it.
    pub fn open_expected(path: &Path, cache: &Cache, expected: Expected<'_>) -> Result<Self, ImageError> {
        let read = |source| ImageError::Read { path: path.to_owned(), source };
        let kept = |source| ImageError::Write { path: cache.dir().to_owned(), source };
        let Expected { medium, capacity, .. } = expected;
        let sha256 = expected_sha256(path, expected.sha256.as_deref())?;
        let file = open_file(path)?;
        let bmap = Bmap::find(path, expected.bmap.as_deref())
            .map_err(|(path, source)| ImageError::Bmap { path, source })?;
        let identity = Identity::of(path, &file).map_err(read)?.with_bmap(bmap.as_ref());
        let known = |found: Option<(Base, Option<String>)>| {
            let (base, file_sha256) = found?;
            let answer = |wanted: &str| {
                file_sha256.as_deref() == Some(wanted) || base.sha256().as_deref() == Some(wanted)
            };
            sha256.as_deref().is_none_or(answer).then_some(base)
        };
        let mut found = known(cache.find(&identity).map_err(kept)?);
        let mut read_in = None;
        if found.is_none() {
            // Whoever else inserts the same file is waited for, and then it is known.
            let _claim = cache.claim(&identity).map_err(kept)?;
            found = known(cache.find(&identity).map_err(kept)?);
            if found.is_none() {
                let begun = Instant::now();
                found =
                    Some(insert(path, &file, &identity, cache, expected, sha256.as_deref(), bmap.as_ref())?);
                read_in = Some(begun.elapsed());
            }
        }
        let base = found.expect("it was found or inserted");
        let image = Self {
            name: path.display().to_string(),
            bytes: base.bytes,
            digest: base.digest.clone(),
            read_in,
            base: Arc::new(base),
        };
        match read_in {
            Some(took) => {
                tracing::info!(image = image.name, digest = image.digest, ?took, "read into the cache")
            }
            None => tracing::info!(image = image.name, digest = image.digest, "found in the cache"),
        }
        image.check_fits(medium, capacity)?;
        Ok(image)
    }

    /// The image whose content has this digest, 64 hexadecimal digits, if the cache has it.
    pub fn in_cache(name: &str, cache: &Cache, digest: &str) -> Result<Option<Self>, ImageError> {
        let kept = |source| ImageError::Write { path: cache.dir().to_owned(), source };
        let held = cache.hold(digest).map_err(kept)?;
        Ok(held.map(|base| {
            let (name, bytes, digest) = (name.to_owned(), base.bytes, base.digest.clone());
            Self { name, bytes, digest, read_in: None, base: Arc::new(base) }
        }))
    }

    /// An image that is part of standin, such as the self-test; its content goes into the cache.
    pub fn built_in(name: &str, content: &[u8], cache: &Cache) -> Result<Self, ImageError> {
        let kept = |source| ImageError::Write { path: cache.dir().to_owned(), source };
        fs::create_dir_all(cache.dir()).map_err(kept)?;
        let mut file = tempfile::NamedTempFile::new_in(cache.dir()).map_err(kept)?;
        file.write_all(content).map_err(kept)?;
        Ok(Self { name: name.to_owned(), ..Self::open(file.path(), cache, name, u64::MAX)? })
    }

    /// Refuses a medium that is too small for the image.
    pub fn check_fits(&self, medium: &str, capacity: u64) -> Result<(), ImageError> {
        if self.bytes <= capacity {
            return Ok(());
        }
        Err(ImageError::TooLarge {
            name: self.name.clone(),
            bytes: self.bytes,
            medium: medium.to_owned(),
            capacity,
        })
    }

    /// The content, raw, never to be written.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// SHA-256 of the content, in lower-case hexadecimal. Reckoned when somebody asks first, as it has to read
    /// the zeros, too: half a second for each GiB. The cache remembers it.
    pub fn sha256(&self) -> Result<String, ImageError> {
        let failed = |source| ImageError::Read { path: self.base.path(), source };
        if let Some(known) = self.base.sha256() {
            return Ok(known);
        }
        let sha256 = pass::sha256_of(self.base.file()).map_err(failed)?;
        self.base.remember_sha256(&sha256).map_err(failed)?;
        Ok(sha256)
    }
}

/// Opens what can be read again; a FIFO would hold us for ever, and a device has its own ways.
fn open_file(path: &Path) -> Result<File, ImageError> {
    let read = |source| ImageError::Read { path: path.to_owned(), source };
    // Before it is opened, which alone would wait for the other end of a pipe.
    let found = fs::metadata(path).map_err(read)?;
    if let Some(kind) = no_file(found.file_type()) {
        return Err(ImageError::NoFile { path: path.to_owned(), kind });
    }
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.len() == 0 {
        return Err(ImageError::Empty { path: path.to_owned() });
    }
    Ok(file)
}

fn no_file(kind: FileType) -> Option<&'static str> {
    let kinds = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo() || kind.is_socket(), "a pipe"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
    ];
    kinds.into_iter().find_map(|(is, name)| is.then_some(name))
}

/// The SHA-256 that somebody named, or that lies beside the image.
fn expected_sha256(path: &Path, given: Option<&str>) -> Result<Option<String>, ImageError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sha256");
    let text = match given {
        Some(given) => given.to_owned(),
        None => match fs::read_to_string(&beside) {
            // As sha256sum writes it: the digest, and then the name.
            Ok(text) => text.split_whitespace().next().unwrap_or_default().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ImageError::Read { path: beside.into(), source }),
        },
    };
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Some(text.to_ascii_lowercase()));
    }
    Err(ImageError::NoSha256 { path: path.to_owned(), text })
}

/// Passes over the file once, into a new base.
fn insert(
    path: &Path,
    file: &File,
    identity: &Identity,
    cache: &Cache,
    expected: Expected<'_>,
    sha256: Option<&str>,
    bmap: Option<&Bmap>,
) -> Result<Base, ImageError> {
    let path = path.to_owned();
    let kept = |source| ImageError::Write { path: cache.dir().to_owned(), source };
    let mut head = [0; PEEK_BYTES];
    let read = |source| ImageError::Read { path: path.clone(), source };
    let length = fill_at(file, &mut head, 0).map_err(read)?;
    let format =
        Format::of(&head[..length]).map_err(|format| ImageError::Format { path: path.clone(), format })?;
    let insertion = cache.begin().map_err(kept)?;
    let Expected { medium, capacity, progress, .. } = expected;
    let order = Order { limit: capacity, sha256: sha256.is_some(), bmap, progress };
    let (name, medium) = (path.display().to_string(), medium.to_owned());
    let passed = match pass::run(file, format, insertion.file(), order) {
        Ok(passed) => passed,
        Err(PassError::Read(_, source)) if source.raw_os_error().is_some() => {
            return Err(ImageError::Read { path, source });
        }
        Err(PassError::Read(offset, source)) => return Err(ImageError::Damaged { path, offset, source }),
        Err(PassError::TooLarge(Some(bytes))) => {
            return Err(ImageError::TooLarge { name, bytes, medium, capacity });
        }
        Err(PassError::TooLarge(None)) => {
            return Err(ImageError::TooLargeUnpacked { name, medium, capacity });
        }
        Err(PassError::TooWide) => return Err(ImageError::TooWide { path }),
        Err(PassError::Write(source)) => return Err(kept(source)),
        Err(PassError::Mapped(map, source)) => return Err(ImageError::Mapped { path, map, source }),
        Err(PassError::MappedLength { map, found, expected }) => {
            return Err(ImageError::MappedLength { path, map, found, expected });
        }
        Err(PassError::Cancelled) => return Err(ImageError::Cancelled { path }),
    };
    if passed.bytes == 0 {
        return Err(ImageError::Empty { path });
    }
    if Identity::of(&path, file).map_err(read)?.with_bmap(bmap) != *identity {
        return Err(ImageError::Changed { path });
    }
    if let (Some(expected), Some((found, content))) = (sha256, &passed.sha256)
        && expected != found
        && expected != content
    {
        let (found, content, expected) = (found.clone(), content.clone(), expected.to_owned());
        return Err(ImageError::Unexpected { path, found, content, expected });
    }
    cache.finish(insertion, identity, &passed).map_err(kept)
}

/// Reads at an offset until the buffer is full or the file ends.
pub(in crate::io) fn fill_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    struct From<'a>(&'a File, u64);
    impl Read for From<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.read_at(buffer, self.1)?;
            self.1 += length as u64;
            Ok(length)
        }
    }
    pass::fill(&mut From(file, offset), buffer)
}

pub(in crate::io) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
