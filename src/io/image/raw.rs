//! Raw images, whose segments can be taken in any order, and so by several threads.
//!
//! Each thread reads, digests and writes a segment by itself, while it is in its processor's cache; nothing is
//! passed between them. [`super::pass`] is the caller, and whoever wants to know a base's digest again.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use super::digest::{BLOCK_BYTES, ContentDigest, SEGMENT_BYTES, data_runs};
use super::pass::{PassError, fill};

/// A quarter of a segment: measured best of 128 KiB to 1 MiB, as it stays in the processor's own cache.
const PIECE_BYTES: usize = 128 << 10;

/// More of them wait for each other, as a file system lets one at a time write to a file.
const MOST_THREADS: usize = 4;

/// Copies the data of `file`, of `bytes` bytes, to where it belongs in `target`, which is new, and digests it;
/// without a target it only digests. `tell` is told how many bytes of the file are behind us, holes included, and may
/// end it.
///
/// Failed, it leaves a target whose content is worth nothing.
pub fn copy(
    file: &File,
    bytes: u64,
    target: Option<&File>,
    mut tell: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<ContentDigest, PassError> {
    let pieces = pieces(file, bytes).map_err(|source| PassError::Read(0, source))?;
    let segments: Vec<_> =
        pieces.chunk_by(|one, next| one.0 / SEGMENT_BYTES == next.0 / SEGMENT_BYTES).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let work =
        Work { file, target, segments: &segments, next: AtomicUsize::new(0), failed: AtomicBool::new(false) };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(segments.len()))
            .map(|_| scope.spawn(|| work.run(|_| ControlFlow::Continue(()))))
            .collect();
        // The segments are handed out in order, so the others are never far from where this thread is.
        let mut content = work.run(&mut tell);
        for other in others {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            content = content.and_then(|mut content| {
                content.absorb(other?);
                Ok(content)
            });
        }
        content
    })
}

/// The digest of a raw file's content; see [`ContentDigest`].
pub fn content_digest(file: &File) -> io::Result<String> {
    let bytes = file.metadata()?.len();
    match copy(file, bytes, None, |_| ControlFlow::Continue(())) {
        Ok(content) => Ok(content.finish(bytes)),
        Err(PassError::Read(_, source) | PassError::Write(source)) => Err(source),
        Err(_) => unreachable!("nothing limits, maps or cancels it"),
    }
}

struct Work<'a> {
    file: &'a File,
    target: Option<&'a File>,
    segments: &'a [&'a [(u64, u64)]],
    next: AtomicUsize,
    /// One thread's error ends them all.
    failed: AtomicBool,
}

impl Work<'_> {
    fn run(&self, mut tell: impl FnMut(u64) -> ControlFlow<()>) -> Result<ContentDigest, PassError> {
        let mut content = ContentDigest::default();
        let (mut buffer, mut runs) = (vec![0; PIECE_BYTES], Vec::new());
        while !self.failed.load(Ordering::Relaxed)
            && let Some(segment) = self.segments.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            for (start, end) in *segment {
                let copied = self.copy(*start, *end, &mut content, &mut buffer, &mut runs);
                let done = copied.and_then(|()| match tell(*end) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(PassError::Cancelled),
                });
                done.inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
            }
        }
        Ok(content)
    }

    fn copy(
        &self,
        start: u64,
        end: u64,
        content: &mut ContentDigest,
        buffer: &mut [u8],
        runs: &mut Vec<(usize, usize)>,
    ) -> Result<(), PassError> {
        let position = AtomicU64::new(start);
        let mut part = At { file: self.file, offset: start, end, position: &position };
        while part.offset < end {
            let offset = part.offset;
            let length = fill(&mut part, buffer).map_err(|source| PassError::Read(offset, source))?;
            if length == 0 {
                return Err(PassError::Read(offset, became_shorter()));
            }
            data_runs(&buffer[..length], runs);
            for (from, to) in runs.iter() {
                let (data, place) = (&buffer[*from..*to], offset + *from as u64);
                content.update(place, data);
                self.target
                    .map_or(Ok(()), |target| target.write_all_at(data, place))
                    .map_err(PassError::Write)?;
            }
        }
        Ok(())
    }
}

/// What a file says that is cut while it is read.
pub fn became_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read")
}

/// The extents of data, cut where segments end.
fn pieces(file: &File, bytes: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    for_each_extent(file, bytes, |mut start, end| {
        while start < end {
            let cut = end.min((start / SEGMENT_BYTES + 1) * SEGMENT_BYTES);
            pieces.push((start, cut));
            start = cut;
        }
        Ok(())
    })?;
    Ok(pieces)
}

/// Tells the extents of data in a file of `bytes` bytes, each from its first byte to its end.
pub fn for_each_extent(
    file: &File,
    bytes: u64,
    mut tell: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let seek = |offset: u64, whence| match lseek64(file, offset.cast_signed(), whence) {
        Ok(found) => Ok(found.cast_unsigned().min(bytes)),
        Err(Errno::ENXIO) => Ok(bytes),
        Err(errno) => Err(io::Error::from(errno)),
    };
    let block = BLOCK_BYTES as u64;
    let mut offset = 0;
    while offset < bytes {
        let data = match seek(offset, Whence::SeekData) {
            Ok(data) => data,
            // A file system that does not know holes: all is data.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => return tell(offset, bytes),
            Err(error) => return Err(error),
        };
        if data < bytes {
            // Blocks of the file system may be smaller than ours.
            let start = data / block * block;
            offset = seek(data, Whence::SeekHole)?.next_multiple_of(block).min(bytes);
            tell(start, offset)?;
        } else {
            offset = bytes;
        }
    }
    Ok(())
}

/// A part of a file.
pub struct At<'a> {
    pub file: &'a File,
    pub offset: u64,
    pub end: u64,
    /// Told where it is read.
    pub position: &'a AtomicU64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += length as u64;
        self.position.store(self.offset, Ordering::Relaxed);
        Ok(length)
    }
}
