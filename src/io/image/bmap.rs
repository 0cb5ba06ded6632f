//! Block maps: which blocks of an image matter, and what they must be, in a `.bmap` file beside it.
//!
//! Blocks that are not mapped are whatever the file system left there; nobody reads them, so a flash leaves them
//! zero. The XML format is that of bmaptool, versions 1.3 (SHA-1), 1.4 and 2.0 (SHA-256).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::hex;

/// A block map that has been read and found to be whole.
#[derive(Debug, Clone)]
pub struct Bmap {
    /// Where it was read from.
    pub path: PathBuf,
    /// The BLAKE3 digest of the file, by which the cache tells one from another.
    pub digest: String,
    /// The length of the image's content.
    pub image_bytes: u64,
    block_bytes: u64,
    ranges: Vec<Range>,
}

/// Blocks that belong together, in bytes of the content.
#[derive(Debug, Clone)]
struct Range {
    start: u64,
    end: u64,
    checksum: Option<(Algorithm, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Sha256,
}

/// A block map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BmapError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is no XML.
    #[error("it is no XML")]
    Xml(#[source] roxmltree::Error),
    /// It says something that makes no sense.
    #[error("{0}")]
    Content(String),
}

/// The blocks of a range are not what the map says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("blocks {first} to {last} have {algorithm} {found}, expected {expected}")]
pub struct Mismatch {
    first: u64,
    last: u64,
    algorithm: Algorithm,
    found: String,
    expected: String,
}

/// Larger ones are not read: a map of 1 TiB in which every other block is mapped has some 20 GiB, and nobody makes
/// such; that of a usual image has 100 KiB.
const MOST_BYTES: u64 = 64 << 20;

impl Bmap {
    /// Reads the block map of the image at `path`: the one that was named, else `IMAGE.bmap` or, for an image
    /// `os.img.gz`, `os.img.bmap`, if one of them is there.
    pub fn find(image: &Path, named: Option<&Path>) -> Result<Option<Self>, (PathBuf, BmapError)> {
        let mut behind = image.as_os_str().to_owned();
        behind.push(".bmap");
        let beside = [PathBuf::from(behind), image.with_extension("bmap")];
        let is_there = |path: &PathBuf| path.exists();
        let Some(path) = named.map(Path::to_owned).or_else(|| beside.into_iter().find(is_there)) else {
            return Ok(None);
        };
        Self::read(&path).map(Some).map_err(|error| (path, error))
    }

    fn read(path: &Path) -> Result<Self, BmapError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(BmapError::Read)?;
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(BmapError::Read)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(wrong(format!("it has more than {MOST_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text in UTF-8"))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, BmapError> {
        let document = Document::parse(text).map_err(BmapError::Xml)?;
        let root = document.root_element();
        if root.tag_name().name() != "bmap" {
            return Err(wrong(format!("its root element is `{}`, not `bmap`", root.tag_name().name())));
        }
        let version = root.attribute("version").unwrap_or_default().trim();
        let (algorithm, attribute, own) = match version {
            "1.3" => (Algorithm::Sha1, "sha1", "BmapFileSHA1"),
            "1.4" | "2.0" => (Algorithm::named(word(root, "ChecksumType")?)?, "chksum", "BmapFileChecksum"),
            _ => return Err(wrong(format!("its version is `{version}`; 1.3, 1.4 and 2.0 are understood"))),
        };
        check_own(text, element(root, own)?, algorithm)?;

        let image_bytes = number(root, "ImageSize")?;
        let block_bytes = number(root, "BlockSize")?;
        let blocks = number(root, "BlocksCount")?;
        if block_bytes == 0 || image_bytes.div_ceil(block_bytes) != blocks {
            let words = format!("{image_bytes} bytes are not {blocks} blocks of {block_bytes} bytes");
            return Err(wrong(words));
        }
        let mut ranges: Vec<Range> = Vec::new();
        let (mut next, mut mapped) = (0, 0);
        for node in element(root, "BlockMap")?.children().filter(|node| node.has_tag_name("Range")) {
            let text = node.text().unwrap_or_default().trim();
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
                return Err(wrong(format!("`{text}` is no range of blocks")));
            };
            if first > last || last >= blocks {
                return Err(wrong(format!("range `{text}` does not lie within {blocks} blocks")));
            }
            if first < next {
                return Err(wrong(format!("range `{text}` does not stand behind the one before it")));
            }
            let checksum = node.attribute(attribute).map(|given| algorithm.checksum(given)).transpose()?;
            let end = ((last + 1) * block_bytes).min(image_bytes);
            ranges.push(Range {
                start: first * block_bytes,
                end,
                checksum: checksum.map(|given| (algorithm, given)),
            });
            next = last + 1;
            mapped += next - first;
        }
        if mapped != number(root, "MappedBlocksCount")? {
            return Err(wrong(format!("it maps {mapped} blocks, and says another number of them")));
        }
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        Ok(Self { path: path.to_owned(), digest, image_bytes, block_bytes, ranges })
    }

    /// Something that holds a content to this map.
    pub fn check(&self) -> Check<'_> {
        Check { map: self, next: 0, at: 0, hash: Hash::new(self.ranges.first()) }
    }
}

/// Holds a content to its map, from its beginning to its end.
pub struct Check<'a> {
    map: &'a Bmap,
    /// The range that is being read, or comes next.
    next: usize,
    /// Up to where the content has been seen.
    at: u64,
    hash: Hash,
}

impl Check<'_> {
    /// Takes the content at `offset`, before which there are zeros since the last one, and clears what is not
    /// mapped; tells whether that was anything.
    pub fn take(&mut self, offset: u64, content: &mut [u8]) -> Result<bool, Mismatch> {
        self.skip_to(offset)?;
        let mut cleared = false;
        let mut rest = content;
        while !rest.is_empty() {
            let (length, is_mapped) = match self.map.ranges.get(self.next) {
                Some(range) if self.at < range.start => (range.start - self.at, false),
                Some(range) => (range.end - self.at, true),
                None => (u64::MAX, false),
            };
            let length = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let (here, behind) = rest.split_at_mut(length);
            if is_mapped {
                self.hash.update(here);
            } else if here.iter().any(|byte| *byte != 0) {
                here.fill(0);
                cleared = true;
            }
            self.at += length as u64;
            rest = behind;
            self.end_range()?;
        }
        Ok(cleared)
    }

    /// Ends a content of `bytes` bytes; what has not been taken is zeros.
    pub fn finish(mut self, bytes: u64) -> Result<(), Mismatch> {
        self.skip_to(bytes)
    }

    /// Takes zeros up to `offset`.
    fn skip_to(&mut self, offset: u64) -> Result<(), Mismatch> {
        while self.at < offset {
            let Some(range) = self.map.ranges.get(self.next) else {
                self.at = offset;
                break;
            };
            let end = offset.min(range.end);
            self.hash.update_zeros(end.saturating_sub(self.at.max(range.start)));
            self.at = if offset < range.start { offset } else { end };
            self.end_range()?;
        }
        Ok(())
    }

    /// Checks the range that has been read to its end, if it has.
    fn end_range(&mut self) -> Result<(), Mismatch> {
        let Some(range) = self.map.ranges.get(self.next).filter(|range| self.at >= range.end) else {
            return Ok(());
        };
        self.next += 1;
        let found = std::mem::replace(&mut self.hash, Hash::new(self.map.ranges.get(self.next))).finish();
        match &range.checksum {
            Some((algorithm, expected)) if *expected != found => Err(Mismatch {
                first: range.start / self.map.block_bytes,
                last: (range.end - 1) / self.map.block_bytes,
                algorithm: *algorithm,
                found,
                expected: expected.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// The checksum of a range that is being made.
enum Hash {
    None,
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hash {
    fn new(range: Option<&Range>) -> Self {
        match range.and_then(|range| range.checksum.as_ref()) {
            None => Self::None,
            Some((Algorithm::Sha1, _)) => Self::Sha1(Sha1::new()),
            Some((Algorithm::Sha256, _)) => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    fn update_zeros(&mut self, mut length: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while length > 0 && !matches!(self, Self::None) {
            let part = length.min(ZEROS.len() as u64);
            self.update(&ZEROS[..usize::try_from(part).expect("it is at most 4096")]);
            length -= part;
        }
    }

    fn finish(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Sha1(hash) => hex(&hash.finalize()),
            Self::Sha256(hash) => hex(&hash.finalize()),
        }
    }
}

impl Algorithm {
    fn named(name: &str) -> Result<Self, BmapError> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err(wrong(format!("its checksums are of type `{name}`; sha1 and sha256 are understood"))),
        }
    }

    fn checksum(self, text: &str) -> Result<String, BmapError> {
        let (text, digits) = (text.trim(), if self == Self::Sha1 { 40 } else { 64 });
        if text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(text.to_ascii_lowercase());
        }
        Err(wrong(format!("`{text}` is no {self}: {digits} hexadecimal digits")))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Sha1 { "SHA-1" } else { "SHA-256" })
    }
}

/// Checks the map's checksum of itself, which is made with zeros in its own place.
fn check_own(text: &str, own: Node<'_, '_>, algorithm: Algorithm) -> Result<(), BmapError> {
    let content = own.first_child().filter(Node::is_text).map(|content| content.range()).unwrap_or_default();
    let given = text[content.clone()].trim();
    let expected = algorithm.checksum(given)?;
    let start = content.start + text[content].find(given).unwrap_or(0);
    let mut hash = Hash::new(Some(&Range { start: 0, end: 0, checksum: Some((algorithm, String::new())) }));
    hash.update(&text.as_bytes()[..start]);
    hash.update("0".repeat(given.len()).as_bytes());
    hash.update(&text.as_bytes()[start + given.len()..]);
    let found = hash.finish();
    if found == expected {
        return Ok(());
    }
    Err(wrong(format!("it was changed: it has {algorithm} {found}, and says {expected}")))
}

fn element<'a, 'input>(root: Node<'a, 'input>, name: &str) -> Result<Node<'a, 'input>, BmapError> {
    root.children().find(|node| node.has_tag_name(name)).ok_or_else(|| wrong(format!("it has no `{name}`")))
}

fn word<'a>(root: Node<'a, '_>, name: &str) -> Result<&'a str, BmapError> {
    Ok(element(root, name)?.text().unwrap_or_default().trim())
}

fn number(root: Node<'_, '_>, name: &str) -> Result<u64, BmapError> {
    let text = word(root, name)?;
    text.parse().map_err(|_| wrong(format!("its `{name}` is no number: `{text}`")))
}

fn wrong(words: impl Into<String>) -> BmapError {
    BmapError::Content(words.into())
}
