//! Writing an image to a medium and reading it back, at the same time.
//!
//! One thread reads the image's base, the caller's writes, and a third reads back each window of what was written as
//! soon as it was flushed. Data is written as it is; zeros are written on a device, whose old content is unknown, and
//! are holes in a file. Between the threads stand short channels, and the buffers go round, so memory stays flat.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::{BLOCK_BYTES, Kind, Target};
use crate::io::image::digest::{ContentDigest, data_runs};
use crate::io::image::raw::for_each_extent;
use crate::io::image::{Image, ImageError, fill_at};
use crate::sys::block_device;

/// What is written at once, on its own boundaries: the allocation unit of an SDHC card is at most 4 MiB, and cards
/// are fastest in whole ones (SD Physical Layer Simplified Specification, AU_SIZE).
const PIECE_BYTES: usize = 4 << 20;

/// Zeros between data that are written with it: to stop and go on costs a card more than some blocks do.
const GAP_BYTES: u64 = 64 << 10;

/// How much is written before it is flushed and read back: long enough to make flushes cheap, some seconds of a slow
/// card.
const WINDOW_BYTES: u64 = 64 << 20;

/// Who watches, and who may end it.
pub struct Order<'a> {
    /// Told now and then how far it is.
    pub progress: &'a mut dyn FnMut(Progress),
    /// Once true, the writer ends at the next piece.
    pub cancelled: &'a AtomicBool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the medium that are written, or are zero as they are to be.
    pub written: u64,
    /// Bytes of the medium that were read and are right.
    pub verified: u64,
    /// What both come to in the end.
    pub total: u64,
}

/// What was done. All of it was read back from the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The length of the image.
    pub bytes: u64,
    /// How much was written: data, and the short runs of zeros in it.
    pub written_bytes: u64,
    /// In how many runs.
    pub extents: usize,
    /// The long runs of zeros: on a device made zero if they were not, in a file left out.
    pub zero_bytes: u64,
    /// The digest of the image, which is that of what was written.
    pub digest: String,
    /// Whether the kernel has read the new partition table; false if the medium is a file, or cannot have one.
    pub partitions_read: bool,
}

/// The medium is not what it was, and not what it is to be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The image does not fit. Nothing was written.
    #[error(transparent)]
    Image(ImageError),
    /// It takes no more.
    #[error("cannot write medium {path} at byte {offset}")]
    Write {
        /// The medium.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What it took is not on it for good.
    #[error("cannot flush medium {path} at or before byte {offset}")]
    Flush {
        /// The medium.
        path: PathBuf,
        /// The end of what was written.
        offset: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be read back.
    #[error("cannot read back medium {path} at byte {offset}")]
    Read {
        /// The medium.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is faulty.
    #[error("medium {path} is faulty: at byte {offset} it does not hold what was written")]
    Differs {
        /// The medium.
        path: PathBuf,
        /// The first wrong byte.
        offset: u64,
    },
    /// The kernel could not read the partitions of what was written.
    #[error("cannot read the partition table of medium {path}")]
    Partitions {
        /// The medium.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The cache's copy of the image cannot be read.
    #[error("cannot read the content of image {image} from {base}")]
    Base {
        /// What the user called the image.
        image: String,
        /// Its base in the cache.
        base: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The cache's copy of the image is not what it was.
    #[error("the content of image {image} in {base} is damaged")]
    Damaged {
        /// What the user called the image.
        image: String,
        /// Its base in the cache.
        base: PathBuf,
    },
    /// Somebody ended it.
    #[error("writing medium {path} was cancelled")]
    Cancelled {
        /// The medium.
        path: PathBuf,
    },
}

impl Target {
    /// Writes the image and reads back what was written. A file has exactly the image's length afterwards; what a
    /// device holds behind the image stays.
    ///
    /// Failed or cancelled, it leaves the medium unknown: it has to be written again. A file that was made for it
    /// goes when the target is dropped.
    pub fn write(&mut self, image: &Image, order: Order<'_>) -> Result<Written, WriteError> {
        image.check_fits(&self.path.display().to_string(), self.capacity()).map_err(WriteError::Image)?;
        let base_failed =
            |source| WriteError::Base { image: image.name.clone(), base: image.base().path(), source };
        let write_failed = |offset, source| WriteError::Write { path: self.path.clone(), offset, source };
        let base = image.base().file();
        let plan = Plan::of(base, image.bytes, self.kind).map_err(base_failed)?;
        if self.kind == Kind::File {
            // Its old content goes, and all of it is a hole.
            self.file.set_len(0).map_err(|source| write_failed(0, source))?;
        }
        let content = self.transfer(base, &plan, order, &base_failed)?;
        if content != image.digest {
            return Err(WriteError::Damaged { image: image.name.clone(), base: image.base().path() });
        }
        let partitions_read = match self.kind {
            Kind::File => {
                let end = self.file.set_len(image.bytes).and_then(|()| self.file.sync_all());
                end.map_err(|source| write_failed(image.bytes, source))?;
                false
            }
            Kind::Device { .. } => block_device::reread(&self.file)
                .map_err(|source| WriteError::Partitions { path: self.path.clone(), source })?,
        };
        self.is_new = false;
        let data: Vec<&Span> = plan.spans.iter().filter(|span| span.is_data).collect();
        let written_bytes = data.iter().map(|span| span.end.min(image.bytes) - span.start).sum();
        Ok(Written {
            bytes: image.bytes,
            written_bytes,
            extents: data.len(),
            zero_bytes: image.bytes - written_bytes,
            digest: content,
            partitions_read,
        })
    }

    /// Carries out the plan; returns the digest of the content that was written.
    fn transfer(
        &self,
        base: &File,
        plan: &Plan,
        order: Order<'_>,
        base_failed: &(impl Fn(io::Error) -> WriteError + Sync),
    ) -> Result<String, WriteError> {
        let (full, full_here) = sync_channel(1);
        let (spent, spent_here) = channel();
        let (windows, windows_here) = sync_channel(1);
        let (ticks, ticks_here) = channel();
        let verified = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let (verified, stop) = (&verified, &stop);
        thread::scope(|scope| {
            let reader = scope.spawn(move || read(base, plan, &full, &spent_here).map_err(base_failed));
            let verifier = scope.spawn(move || {
                let checked = self.verify(base, &windows_here, &ticks, verified, stop);
                // Whoever writes notices at its next piece.
                stop.store(checked.is_err() || stop.load(Ordering::Relaxed), Ordering::Relaxed);
                checked
            });
            let mut writer = Writer {
                target: self,
                total: plan.total(),
                written: 0,
                verified,
                stop,
                order,
                can_zero: true,
            };
            let wrote = writer.run(&full_here, &spent, &windows);
            if wrote.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            // Whoever still works upstream finds nobody to work for, and the verifier its last window.
            drop((full_here, spent, windows));
            // Until the verifier has ended.
            while ticks_here.recv().is_ok() {
                writer.tell();
            }
            let (checked, digest) = (join(verifier), join(reader));
            // A medium that does not keep what is written is the reason for whatever else went wrong.
            checked?;
            wrote?;
            let digest = digest?;
            if stop.load(Ordering::Relaxed) {
                return Err(WriteError::Cancelled { path: self.path.clone() });
            }
            digest.ok_or_else(|| WriteError::Cancelled { path: self.path.clone() })
        })
    }

    /// Reads back what was flushed, until nobody writes any more.
    fn verify(
        &self,
        base: &File,
        windows: &Receiver<Vec<Check>>,
        ticks: &Sender<()>,
        verified: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<(), WriteError> {
        let mut buffer = Aligned::new(PIECE_BYTES);
        for window in windows {
            if !self.is_direct {
                self.drop_cache(&window);
            }
            for check in window {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let found = &mut buffer.bytes()[..check.length];
                self.read_back(found, check.offset)?;
                let first_wrong = match check.digest {
                    Some(digest) if blake3::hash(found) == digest => None,
                    Some(_) => Some(first_difference(base, check.offset, found).unwrap_or(0)),
                    None => found.iter().position(|byte| *byte != 0),
                };
                if let Some(first) = first_wrong {
                    let offset = check.offset + first as u64;
                    return Err(WriteError::Differs { path: self.path.clone(), offset });
                }
                verified.fetch_add(check.length as u64, Ordering::Relaxed);
                // The writer may have ended already.
                let _ = ticks.send(());
            }
        }
        Ok(())
    }

    /// Where the page cache is in the way, it forgets what was flushed. Both ways are advice to the kernel: where
    /// they are refused, as on a file system that lies in memory, there is nothing behind the cache, either.
    fn drop_cache(&self, window: &[Check]) {
        for check in window {
            let (offset, bytes) = (check.offset.cast_signed(), check.length.cast_signed() as i64);
            let _ = posix_fadvise(&*self.file, offset, bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        if matches!(self.kind, Kind::Device { .. }) {
            let _ = block_device::drop_cache(&self.file);
        }
    }

    fn read_back(&self, buffer: &mut [u8], offset: u64) -> Result<(), WriteError> {
        let failed = |at: usize, source| {
            let offset = offset + at as u64;
            WriteError::Read { path: self.path.clone(), offset, source }
        };
        let mut at = 0;
        while at < buffer.len() {
            match self.file.read_at(&mut buffer[at..], offset + at as u64) {
                Ok(0) => return Err(failed(at, io::ErrorKind::UnexpectedEof.into())),
                Ok(more) => at += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(at, error)),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WriteError> {
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at as u64;
            let failed = |source| WriteError::Write { path: self.path.clone(), offset: here, source };
            match self.file.write_at(&bytes[at..], here) {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(more) => at += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

/// A run of the medium, in whole blocks of it.
struct Span {
    start: u64,
    end: u64,
    is_data: bool,
}

/// What goes where, from the beginning of the medium to the end of the image.
struct Plan {
    /// The length of the image.
    bytes: u64,
    spans: Vec<Span>,
}

impl Plan {
    fn of(base: &File, bytes: u64, kind: Kind) -> io::Result<Self> {
        let block = match kind {
            Kind::Device { block, .. } => block,
            Kind::File => BLOCK_BYTES,
        };
        let mut spans: Vec<Span> = Vec::new();
        for_each_extent(base, bytes, |start, end| {
            let end = end.next_multiple_of(block);
            match spans.last_mut() {
                Some(last) if start - last.end < GAP_BYTES => last.end = end,
                _ => spans.push(Span { start, end, is_data: true }),
            }
            Ok(())
        })?;
        if matches!(kind, Kind::Device { .. }) {
            let mut whole = Vec::with_capacity(2 * spans.len() + 1);
            let mut offset = 0;
            for span in spans {
                if offset < span.start {
                    whole.push(Span { start: offset, end: span.start, is_data: false });
                }
                offset = span.end;
                whole.push(span);
            }
            let end = bytes.next_multiple_of(block);
            if offset < end {
                whole.push(Span { start: offset, end, is_data: false });
            }
            spans = whole;
        }
        Ok(Self { bytes, spans })
    }

    fn total(&self) -> u64 {
        self.spans.iter().map(|span| span.end - span.start).sum()
    }
}

/// What is to be done next.
enum Work {
    Write(Piece),
    Zero { start: u64, end: u64 },
}

/// Data on its way to the medium.
struct Piece {
    offset: u64,
    buffer: Aligned,
    length: usize,
    digest: blake3::Hash,
}

/// What is to be seen on the medium: at most a piece.
struct Check {
    offset: u64,
    length: usize,
    /// `None` for zeros.
    digest: Option<blake3::Hash>,
}

/// Reads the base as planned; returns the digest of its content, or `None` if nobody took all of it.
fn read(
    base: &File,
    plan: &Plan,
    to: &SyncSender<Work>,
    spent: &Receiver<Aligned>,
) -> io::Result<Option<String>> {
    let mut content = ContentDigest::default();
    let mut runs = Vec::new();
    for span in &plan.spans {
        for (start, end) in pieces(span.start, span.end) {
            let work = if span.is_data {
                let mut buffer = spent.try_recv().unwrap_or_else(|_| Aligned::new(PIECE_BYTES));
                let length = length(start, end);
                let bytes = &mut buffer.bytes()[..length];
                let wanted = length.min(usize::try_from(plan.bytes - start).unwrap_or(usize::MAX));
                if fill_at(base, &mut bytes[..wanted], start)? < wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // Up to a whole block behind the end of the image.
                bytes[wanted..].fill(0);
                data_runs(&bytes[..wanted], &mut runs);
                for (from, to) in &runs {
                    content.update(start + *from as u64, &bytes[*from..*to]);
                }
                let digest = blake3::hash(bytes);
                Work::Write(Piece { offset: start, buffer, length, digest })
            } else {
                Work::Zero { start, end }
            };
            if to.send(work).is_err() {
                return Ok(None);
            }
        }
    }
    Ok(Some(content.finish(plan.bytes)))
}

/// The one that writes.
struct Writer<'a, 'o> {
    target: &'a Target,
    total: u64,
    written: u64,
    verified: &'a AtomicU64,
    stop: &'a AtomicBool,
    order: Order<'o>,
    /// Whether the device makes blocks zero by itself, as far as we know.
    can_zero: bool,
}

impl Writer<'_, '_> {
    /// Writes what comes until nothing more does, or somebody stops it.
    fn run(
        &mut self,
        from: &Receiver<Work>,
        spent: &Sender<Aligned>,
        windows: &SyncSender<Vec<Check>>,
    ) -> Result<(), WriteError> {
        let mut window = Vec::new();
        let mut zeros = None;
        let mut offset = 0;
        for work in from {
            match work {
                Work::Write(mut piece) => {
                    let (start, length) = (piece.offset, piece.length);
                    self.target.write_at(&piece.buffer.bytes()[..length], start)?;
                    window.push(Check { offset: start, length, digest: Some(piece.digest) });
                    offset = start + length as u64;
                    self.written += length as u64;
                    // If the reader has ended, it needs no more buffers.
                    let _ = spent.send(piece.buffer);
                }
                Work::Zero { start, end } => {
                    window.extend(self.zero(start, end, &mut zeros)?);
                    offset = end;
                    self.written += end - start;
                }
            }
            self.tell();
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if window.iter().map(|check: &Check| check.length as u64).sum::<u64>() >= WINDOW_BYTES {
                self.flush(offset)?;
                // A verifier that has ended has set the flag.
                let _ = windows.send(std::mem::take(&mut window));
            }
        }
        self.flush(offset)?;
        let _ = windows.send(window);
        Ok(())
    }

    /// Makes a run of the device zero; returns what is to be checked, if anything.
    fn zero(
        &mut self,
        start: u64,
        end: u64,
        buffer: &mut Option<Aligned>,
    ) -> Result<Option<Check>, WriteError> {
        let check = Check { offset: start, length: length(start, end), digest: None };
        if self.can_zero {
            // On a block device this is "write zeroes" where the device knows it, and never a mere discard;
            // see `blkdev_fallocate` in the kernel's `block/fops.c`.
            let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(&*self.target.file, how, start.cast_signed(), (end - start).cast_signed()) {
                Ok(()) => return Ok(Some(check)),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => self.can_zero = false,
                Err(errno) => {
                    let path = self.target.path.clone();
                    return Err(WriteError::Write { path, offset: start, source: errno.into() });
                }
            }
        }
        // Reading is several times as fast as writing on cards, and most of a card is zero already.
        let buffer = buffer.get_or_insert_with(|| Aligned::new(PIECE_BYTES));
        let bytes = &mut buffer.bytes()[..check.length];
        self.target.read_back(bytes, start)?;
        if bytes.iter().all(|byte| *byte == 0) {
            self.verified.fetch_add(end - start, Ordering::Relaxed);
            return Ok(None);
        }
        bytes.fill(0);
        self.target.write_at(bytes, start)?;
        Ok(Some(check))
    }

    fn flush(&self, offset: u64) -> Result<(), WriteError> {
        let path = || self.target.path.clone();
        self.target.file.sync_data().map_err(|source| WriteError::Flush { path: path(), offset, source })
    }

    /// Tells how far it is, and hears whether to go on.
    fn tell(&mut self) {
        let verified = self.verified.load(Ordering::Relaxed);
        (self.order.progress)(Progress { written: self.written, verified, total: self.total });
        if self.order.cancelled.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// The run in pieces that end at whole multiples of the largest.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let piece = PIECE_BYTES as u64;
    let mut offset = start;
    std::iter::from_fn(move || {
        let begin = offset;
        offset = ((begin / piece + 1) * piece).min(end);
        (begin < end).then_some((begin, offset))
    })
}

fn length(start: u64, end: u64) -> usize {
    usize::try_from(end - start).expect("a piece is small")
}

/// Where the base differs from what was found, counted from `offset`.
fn first_difference(base: &File, offset: u64, found: &[u8]) -> Option<usize> {
    let mut expected = vec![0; found.len()];
    // What cannot be read now was read before; then the piece as a whole is named.
    fill_at(base, &mut expected, offset).ok()?;
    expected.iter().zip(found).position(|(expected, found)| expected != found)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A buffer that begins at a whole page, as reading and writing past the page cache asks for; see open(2), O_DIRECT.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let page = BLOCK_BYTES as usize;
        let bytes = vec![0; length + page];
        let start = bytes.as_ptr().align_offset(page);
        Self { bytes, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
