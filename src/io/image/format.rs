//! What an image is packed in, told by its content, and how each packing is undone.
//!
//! [`unpack`] reads a whole container, member after member, and hands over the content piece by piece. It checks
//! what the container carries: lengths, checksums, and that nothing stands behind its end.

use std::io::{self, BufRead, Read, Seek};
use std::thread::available_parallelism;

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{MtStreamBuilder, Stream};
use lz4_flex::frame::FrameDecoder;

use super::android;

/// What an image is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing: the bytes of the medium.
    Raw,
    /// RFC 1952, one member or several.
    Gzip,
    /// The .xz file format 1.2, one stream or several.
    Xz,
    /// RFC 8878, one frame or several.
    Zstd,
    /// bzip2, one stream or several.
    Bzip2,
    /// The LZ4 frame format 1.6, one frame or several.
    Lz4,
    /// A zip archive with one file inside.
    Zip,
    /// QEMU's own format.
    Qcow2,
    /// What `img2simg` makes, version 1.
    AndroidSparse,
}

/// The first bytes of what can be flashed, from each format's specification.
const KNOWN: [(&[u8], Format); 8] = [
    (b"\x1f\x8b", Format::Gzip),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
    (b"BZh", Format::Bzip2),
    (b"\x04\x22\x4d\x18", Format::Lz4),
    (b"PK\x03\x04", Format::Zip),
    (b"QFI\xfb", Format::Qcow2),
    (&android::MAGIC, Format::AndroidSparse),
];

/// The first bytes of what cannot: written as it is, it would boot nothing.
const FOREIGN: [(&[u8], &str); 4] = [
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"KDMV", "a VMDK disk"),
    (b"vhdxfile", "a VHDX disk"),
    (b"LZIP", "an lzip file"),
];

/// zstd and lz4 share them; the parallel zstd begins its files with one.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

impl Format {
    /// The format of a file that begins with `head`; the words for one that cannot be flashed otherwise.
    pub fn of(head: &[u8]) -> Result<Self, &'static str> {
        if let Some((_, words)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(words);
        }
        let known = KNOWN.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, format)| *format);
        Ok(known.unwrap_or(if is_skippable(head) { Self::Zstd } else { Self::Raw }))
    }

    /// Whether another member may begin like this.
    fn begins(self, head: &[u8]) -> bool {
        let skippable = matches!(self, Self::Zstd | Self::Lz4) && is_skippable(head);
        skippable || KNOWN.iter().any(|(magic, format)| *format == self && head.starts_with(magic))
    }
}

fn is_skippable(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == SKIPPABLE
}

/// A packed image as it comes in.
pub trait Input: BufRead {
    /// The next bytes without taking them; fewer than `PEEK_BYTES` only if the input ends before.
    fn peek(&mut self) -> io::Result<&[u8]>;
}

/// Enough to know every format by its first bytes, and the window of zstd: the longest header, and its magic.
pub const PEEK_BYTES: usize = 18;

/// Unpacks a stream of members, and gives each to `take` as a reader that ends with it.
///
/// Gzip, xz, zstd, bzip2 and lz4 are such streams; the others are not for this function.
pub fn unpack(
    format: Format,
    input: &mut impl Input,
    mut take: impl FnMut(&mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut first = true;
    loop {
        let head = input.peek()?;
        if head.is_empty() {
            return Ok(());
        }
        if format == Format::Xz && !first && head.starts_with(&[0; 4]) {
            input.consume(4); // stream padding: section 2.2 of the format
            continue;
        }
        if !first && !format.begins(head) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TRAILING));
        }
        match format {
            Format::Gzip => take(&mut GzDecoder::new(&mut *input))?,
            Format::Xz => take(&mut XzDecoder::new_stream(&mut *input, xz_stream()?))?,
            Format::Zstd if zstd_window(head) > Some(MOST_WINDOW_BYTES) => {
                return Err(io::Error::other(TooWide));
            }
            Format::Zstd => take(&mut zstd::Decoder::with_buffer(&mut *input)?.single_frame())?,
            Format::Bzip2 => take(&mut BzDecoder::new(&mut *input))?,
            Format::Lz4 if is_skippable(head) => skip_frame(input)?,
            Format::Lz4 => take(&mut FrameDecoder::new(Unending(&mut *input)))?,
            Format::Raw | Format::Zip | Format::Qcow2 | Format::AndroidSparse => {
                unreachable!("they are no streams of members")
            }
        }
        first = false;
    }
}

/// Nobody knows what stands there, so nobody knows whether the image is what it should be.
const TRAILING: &str = "garbage behind the end of the packed image";

/// How much a decoder of xz may hold when it works on several blocks at once; above, it takes fewer threads.
const XZ_THREADS_BYTES: u64 = 72 << 20;

/// How far back a decoder may have to look, all of which it holds in memory. `zstd --long` and `zstd -22` make it
/// as large, `xz -9` half of it; both programs can be asked for more, which nobody needs for images.
pub const MOST_WINDOW_BYTES: u64 = 128 << 20;

/// What a decoder of xz takes with such a window; it needs less than 1 MiB besides.
const XZ_MOST_BYTES: u64 = MOST_WINDOW_BYTES + (1 << 20);

/// A window is larger than [`MOST_WINDOW_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("it needs a window of more than 128 MiB")]
pub struct TooWide;

/// Whether an error of [`unpack`] says that a window is too large.
pub fn is_too_wide(error: &io::Error) -> bool {
    use liblzma::stream::Error::MemLimit;
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<TooWide>() || matches!(inner.downcast_ref(), Some(MemLimit)))
}

/// The window of the frame of zstd that begins with `head`: sections 3.1.1.1.1 and 3.1.1.1.2 of RFC 8878.
fn zstd_window(head: &[u8]) -> Option<u64> {
    let (descriptor, window) = (*head.get(4)?, u64::from(*head.get(5)?));
    if is_skippable(head) {
        return None;
    }
    let is_single_segment = descriptor & 1 << 5 != 0;
    if is_single_segment {
        return zstd::zstd_safe::get_frame_content_size(head).ok().flatten();
    }
    let base = 1u64 << (10 + (window >> 3));
    Some(base + base / 8 * (window & 7))
}

fn xz_stream() -> io::Result<Stream> {
    let threads = available_parallelism().map_or(1, |threads| u32::try_from(threads.get()).unwrap_or(1));
    let mut builder = MtStreamBuilder::new();
    builder.threads(threads).memlimit_threading(XZ_THREADS_BYTES).memlimit_stop(XZ_MOST_BYTES);
    builder.decoder().map_err(io::Error::from)
}

/// Skips a frame that carries no content; its length follows its magic.
fn skip_frame(input: &mut impl Input) -> io::Result<()> {
    let mut head = [0; 8];
    input.read_exact(&mut head)?;
    let length = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    match io::copy(&mut input.take(length), &mut io::sink())? {
        skipped if skipped == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An input that must not end: the decoder of lz4 takes an end between two blocks for the end of the frame.
struct Unending<R>(R);

impl<R: Read> Read for Unending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it ends within a frame"))
            }
            length => Ok(length),
        }
    }
}

/// Unpacks a zip archive with one file inside, and gives it to `take`.
pub fn unzip(
    file: impl Read + Seek,
    take: impl FnOnce(&mut dyn Read, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(file)?;
    let is_file = |index: &usize| {
        archive.name_for_index(*index).is_some_and(|name| name.is_ok_and(|name| !name.ends_with('/')))
    };
    let files: Vec<usize> = (0..archive.len()).filter(is_file).collect();
    let [index] = files[..] else {
        let words = format!("it holds {} files, and only one can be flashed", files.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    };
    let mut entry = archive.by_index(index)?;
    let bytes = entry.size();
    let mut counted = Counted { from: &mut entry, bytes: 0 };
    take(&mut counted, bytes)?;
    if counted.bytes == bytes {
        return Ok(());
    }
    let words = format!("it should unpack to {bytes} bytes, and does to {}", counted.bytes);
    Err(io::Error::new(io::ErrorKind::InvalidData, words))
}

struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.bytes += length as u64;
        Ok(length)
    }
}
