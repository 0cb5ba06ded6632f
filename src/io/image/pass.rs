//! One pass over an image: read, unpack, digest and write at the same time, each thing on a thread of its own.
//!
//! Between the threads stand short channels, and the buffers go round, so memory stays flat whatever the image.
//! [`run`] returns when all threads have ended; failed, it leaves a file whose content is worth nothing.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest, Sha256};

use super::android::unsparse;
use super::bmap::{Bmap, Check, Mismatch};
use super::digest::{ContentDigest, data_runs};
use super::format::{Format, Input, PEEK_BYTES, is_too_wide, unpack, unzip};
use super::hex;
use super::hint::content_bytes;
use super::progress::{Observer, Progress};
use super::raw::{self, At, became_shorter, for_each_extent};
use crate::io::qcow2;

/// What a pass is asked to do besides copying.
pub struct Order<'a> {
    /// The content may not be longer; bytes.
    pub limit: u64,
    /// Whether the SHA-256 of the file and of its content are wanted.
    pub sha256: bool,
    /// What the content is held to; blocks that it leaves out become zeros.
    pub bmap: Option<&'a Bmap>,
    /// Told now and then how far it is.
    pub progress: &'a mut Observer<'a>,
}

/// What a pass has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The length of the content.
    pub bytes: u64,
    /// How much of it is data, not zeros.
    pub data_bytes: u64,
    /// The content's digest; see [`ContentDigest`].
    pub digest: String,
    /// SHA-256 of the file as it is, and of what it unpacks to, if they were wanted.
    pub sha256: Option<(String, String)>,
    /// Whether there was anything in the blocks that the block map leaves out.
    pub cleared: bool,
}

/// Why a pass ended early.
#[derive(Debug)]
pub enum PassError {
    /// At this byte of the file something is wrong.
    Read(u64, io::Error),
    /// The content is longer than the limit: so many bytes, if its container says.
    TooLarge(Option<u64>),
    /// It takes too much memory to unpack.
    TooWide,
    /// The target cannot be written.
    Write(io::Error),
    /// The content is not what this block map says.
    Mapped(PathBuf, Mismatch),
    /// The content is not as long as this block map says.
    MappedLength {
        /// The map.
        map: PathBuf,
        /// How long it is.
        found: u64,
        /// How long it should be.
        expected: u64,
    },
    /// Whoever is told of the way wants no more.
    Cancelled,
}

/// Large enough to make system calls and wake-ups cheap, small enough to stay in the processor's cache.
const PIECE_BYTES: usize = 512 << 10;

/// How many pieces may wait between two threads.
const WAITING: usize = 3;

/// Reads `file` once and writes its content to `target`, which is new; zeros become holes.
pub fn run(file: &File, format: Format, target: &File, order: Order<'_>) -> Result<Passed, PassError> {
    let Order { limit, sha256, bmap, progress } = order;
    let file_bytes = file.metadata().map_err(|source| PassError::Read(0, source))?.len();
    if format == Format::Raw && !sha256 && bmap.is_none() {
        return copy_raw(file, file_bytes, target, limit, progress);
    }
    let (position, hint) = (&AtomicU64::new(0), &AtomicU64::new(content_bytes(file, format).unwrap_or(0)));
    let (unpacked, unpacked_here) = sync_channel::<Piece>(WAITING);
    let (digested, digested_here) = sync_channel::<Piece>(WAITING);
    let (spent, spent_here) = sync_channel::<Piece>(2 * WAITING + 3);
    thread::scope(|scope| {
        let decoder = scope.spawn(move || {
            let piece = Piece::new();
            let mut out = Out { to: unpacked, spent: spent_here, piece, offset: 0, limit };
            let read = match format {
                Format::Raw => read_raw(file, file_bytes, &mut out, position).map(|()| None),
                Format::Qcow2 => qcow2::Disk::open_image(file).and_then(|mut disk| {
                    let bytes = disk.size();
                    out.check(bytes)?;
                    hint.store(bytes, Ordering::Relaxed);
                    disk.for_each_extent(|offset, reader| out.put_from(offset, reader))?;
                    out.jump(bytes)?;
                    Ok(None)
                }),
                Format::AndroidSparse => {
                    let mut file = BufReader::new(Positioned { file, position });
                    unsparse(&mut file, &mut out, |bytes| hint.store(bytes, Ordering::Relaxed)).map(|()| None)
                }
                Format::Zip => unzip(Positioned { file, position }, |entry, bytes| {
                    out.check(bytes)?;
                    hint.store(bytes, Ordering::Relaxed);
                    out.put_all(entry)
                })
                .map(|()| None),
                _ => unpack_fed(file, format, sha256, &mut out, position),
            };
            match read.and_then(|sha256| out.jump(out.offset).map(|()| sha256)) {
                Ok(file_sha256) => Ok((out.offset, file_sha256)),
                Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<TooLarge>()) {
                    Some(TooLarge(bytes)) => PassError::TooLarge(*bytes),
                    None if is_too_wide(&error) => PassError::TooWide,
                    None => PassError::Read(position.load(Ordering::Relaxed), error),
                }),
            }
        });
        let digester = scope.spawn(move || digest(&unpacked_here, &digested, sha256, bmap));
        let written = write(&digested_here, &spent, target, |written| {
            let [read, hint] = [position, hint].map(|number| number.load(Ordering::Relaxed));
            progress(Progress { read, file: file_bytes, written, hint: Some(hint) })
        });
        // Whoever still works upstream finds nobody to work for, and ends.
        drop((digested_here, spent));
        let digested = join(digester);
        let decoded = join(decoder);
        written?;
        let mapped =
            |source| PassError::Mapped(bmap.map(|bmap| bmap.path.clone()).unwrap_or_default(), source);
        let Digested { content, mut whole, hashed, check, cleared } = digested.map_err(mapped)?;
        let (bytes, file_sha256) = decoded?;
        if let Some((bmap, check)) = bmap.zip(check) {
            if bytes != bmap.image_bytes {
                let (map, expected) = (bmap.path.clone(), bmap.image_bytes);
                return Err(PassError::MappedLength { map, found: bytes, expected });
            }
            check.finish(bytes).map_err(mapped)?;
        }
        target.set_len(bytes).map_err(PassError::Write)?;
        let content_sha256 = sha256.then(|| {
            hash_zeros(&mut whole, bytes - hashed);
            hex(&whole.finalize())
        });
        let data_bytes = content.data_bytes();
        let digest = content.finish(bytes);
        let file_sha256 = match (sha256, file_sha256) {
            (false, _) => None,
            (true, Some(known)) => Some(known),
            (true, None) if format == Format::Raw => content_sha256.clone(),
            (true, None) => Some(sha256_of(file).map_err(|source| PassError::Read(0, source))?),
        };
        Ok(Passed { bytes, data_bytes, digest, sha256: file_sha256.zip(content_sha256), cleared })
    })
}

/// Of a raw image, nothing but the content's digest is asked for that depends on the order.
fn copy_raw(
    file: &File,
    bytes: u64,
    target: &File,
    limit: u64,
    progress: &mut Observer<'_>,
) -> Result<Passed, PassError> {
    if bytes > limit {
        return Err(PassError::TooLarge(Some(bytes)));
    }
    let content = raw::copy(file, bytes, Some(target), |behind| {
        progress(Progress { read: behind, file: bytes, written: behind, hint: Some(bytes) })
    })?;
    target.set_len(bytes).map_err(PassError::Write)?;
    Ok(Passed {
        bytes,
        data_bytes: content.data_bytes(),
        digest: content.finish(bytes),
        sha256: None,
        cleared: false,
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A piece of the content, from one thread to the next and back again.
struct Piece {
    offset: u64,
    buffer: Vec<u8>,
    /// How much of `buffer` is content.
    filled: usize,
    /// Where in it there is data; the rest is zeros.
    runs: Vec<(usize, usize)>,
}

impl Piece {
    fn new() -> Self {
        Self { offset: 0, buffer: vec![0; PIECE_BYTES], filled: 0, runs: Vec::new() }
    }

    fn end(&self) -> u64 {
        self.offset + self.filled as u64
    }
}

/// The content is longer than the medium.
#[derive(Debug, thiserror::Error)]
#[error("it is larger than the medium")]
struct TooLarge(Option<u64>);

/// Where decoders put the content.
pub(super) struct Out {
    to: SyncSender<Piece>,
    spent: Receiver<Piece>,
    /// What is filled now; whatever the members of a container, pieces begin at whole blocks.
    piece: Piece,
    /// The end of the content so far.
    offset: u64,
    limit: u64,
}

impl Out {
    /// The end of the content so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Refuses a content that says itself how long it is.
    pub fn check(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.limit { Err(io::Error::other(TooLarge(Some(bytes)))) } else { Ok(()) }
    }

    /// Puts all that `from` has behind what is there.
    pub fn put_all(&mut self, from: &mut dyn Read) -> io::Result<()> {
        loop {
            let filled = fill(from, &mut self.piece.buffer[self.piece.filled..])?;
            self.piece.filled += filled;
            self.offset += filled as u64;
            if self.offset > self.limit {
                return Err(io::Error::other(TooLarge(None)));
            }
            // A reader that has said it is at its end is not asked again: some begin anew.
            if self.piece.filled < PIECE_BYTES {
                return Ok(());
            }
            self.send()?;
        }
    }

    /// Puts what `from` has at `offset`, a whole number of blocks; what lies before it is zeros.
    fn put_from(&mut self, offset: u64, from: &mut dyn Read) -> io::Result<()> {
        if offset != self.offset {
            self.jump(offset)?;
        }
        self.put_all(from)
    }

    /// Goes on at `offset`, a whole number of blocks, as the end so far is.
    pub fn jump(&mut self, offset: u64) -> io::Result<()> {
        if self.piece.filled > 0 {
            self.send()?;
        }
        self.offset = offset;
        self.piece.offset = offset;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let mut next = self.spent.try_recv().unwrap_or_else(|_| Piece::new());
        next.filled = 0;
        next.offset = self.offset;
        let piece = std::mem::replace(&mut self.piece, next);
        self.to.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads until the buffer is full or the source ends.
pub(super) fn fill(from: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Passes on the data of a raw image, and leaves out its holes where the file system tells them.
fn read_raw(file: &File, bytes: u64, out: &mut Out, position: &AtomicU64) -> io::Result<()> {
    out.check(bytes)?;
    for_each_extent(file, bytes, |start, end| {
        let mut extent = At { file, offset: start, end, position };
        out.put_from(start, &mut extent)?;
        if out.offset == end {
            return Ok(());
        }
        Err(became_shorter())
    })?;
    out.jump(bytes)
}

/// A file that says where it is read.
struct Positioned<'a> {
    file: &'a File,
    position: &'a AtomicU64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (&mut &*self.file).read(buffer)?;
        self.position.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl io::Seek for Positioned<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let offset = io::Seek::seek(&mut &*self.file, to)?;
        self.position.store(offset, Ordering::Relaxed);
        Ok(offset)
    }
}

/// Reads the file on one more thread and unpacks it on this one; returns the SHA-256 of the file.
fn unpack_fed(
    file: &File,
    format: Format,
    sha256: bool,
    out: &mut Out,
    position: &AtomicU64,
) -> io::Result<Option<String>> {
    let (full, full_here) = sync_channel(WAITING);
    let (empty, empty_here) = sync_channel(WAITING + 2);
    thread::scope(|scope| {
        let reader = scope.spawn(move || feed(file, sha256, &full, &empty_here));
        let mut feed =
            Feed { from: full_here, back: empty, piece: Vec::new(), at: 0, ended: false, position };
        let unpacked = unpack(format, &mut feed, |member| out.put_all(member));
        drop(feed);
        let hash = join(reader);
        unpacked.map(|()| hash)
    })
}

/// Sends the file piece by piece, until it ends, or nobody takes them any more.
fn feed(
    mut file: &File,
    sha256: bool,
    to: &SyncSender<io::Result<Vec<u8>>>,
    back: &Receiver<Vec<u8>>,
) -> Option<String> {
    let mut hash = Sha256::new();
    loop {
        let used = back.try_recv().ok().filter(|piece| piece.len() == PIECE_BYTES);
        let mut piece = used.unwrap_or_else(|| vec![0; PIECE_BYTES]);
        let read = fill(&mut file, &mut piece).map(|length| {
            piece.truncate(length);
            piece
        });
        let ended = read.as_ref().map_or(true, Vec::is_empty);
        if let (true, Ok(piece)) = (sha256, &read) {
            hash.update(piece);
        }
        let is_taken = match read {
            Ok(piece) if piece.is_empty() => false,
            read => to.send(read).is_ok(),
        };
        if ended || !is_taken {
            return sha256.then(|| hex(&hash.finalize()));
        }
    }
}

/// The file as its reader thread sends it.
struct Feed<'a> {
    from: Receiver<io::Result<Vec<u8>>>,
    back: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    position: &'a AtomicU64,
}

impl Feed<'_> {
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.from.recv() {
            Ok(piece) => piece.map(Some),
            Err(_) => {
                self.ended = true;
                Ok(None)
            }
        }
    }
}

impl BufRead for Feed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            let next = self.next_piece()?.unwrap_or_default();
            let used = std::mem::replace(&mut self.piece, next);
            self.at = 0;
            // If there is no room, it is one more than needed.
            let _ = self.back.try_send(used);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
        self.position.fetch_add(length as u64, Ordering::Relaxed);
    }
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl Input for Feed<'_> {
    fn peek(&mut self) -> io::Result<&[u8]> {
        while self.piece.len() - self.at < PEEK_BYTES && !self.ended {
            if let Some(next) = self.next_piece()? {
                self.piece.drain(..self.at);
                self.at = 0;
                self.piece.extend_from_slice(&next);
            }
        }
        Ok(&self.piece[self.at..])
    }
}

/// What has become of all pieces.
struct Digested<'a> {
    content: ContentDigest,
    /// Of the content as it came, up to where the last piece ends.
    whole: Sha256,
    hashed: u64,
    check: Option<Check<'a>>,
    cleared: bool,
}

/// Finds the data in each piece and digests it, after it was held to its block map.
fn digest<'a>(
    from: &Receiver<Piece>,
    to: &SyncSender<Piece>,
    sha256: bool,
    bmap: Option<&'a Bmap>,
) -> Result<Digested<'a>, Mismatch> {
    let mut content = ContentDigest::default();
    let (mut whole, mut hashed) = (Sha256::new(), 0);
    let (mut check, mut cleared) = (bmap.map(Bmap::check), false);
    for mut piece in from {
        if sha256 {
            hash_zeros(&mut whole, piece.offset - hashed);
            whole.update(&piece.buffer[..piece.filled]);
            hashed = piece.end();
        }
        if let Some(check) = &mut check {
            cleared |= check.take(piece.offset, &mut piece.buffer[..piece.filled])?;
        }
        data_runs(&piece.buffer[..piece.filled], &mut piece.runs);
        for (start, end) in &piece.runs {
            content.update(piece.offset + *start as u64, &piece.buffer[*start..*end]);
        }
        if to.send(piece).is_err() {
            break;
        }
    }
    Ok(Digested { content, whole, hashed, check, cleared })
}

/// Writes the data of each piece where it belongs.
fn write(
    from: &Receiver<Piece>,
    spent: &SyncSender<Piece>,
    target: &File,
    mut tell: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), PassError> {
    for piece in from {
        for (start, end) in &piece.runs {
            let place = piece.offset + *start as u64;
            target.write_all_at(&piece.buffer[*start..*end], place).map_err(PassError::Write)?;
        }
        if tell(piece.end()).is_break() {
            return Err(PassError::Cancelled);
        }
        // If there is no room, or nobody left, it is not needed.
        let _ = spent.try_send(piece);
    }
    Ok(())
}

/// The SHA-256 of a file from its beginning, its holes included.
pub(super) fn sha256_of(file: &File) -> io::Result<String> {
    let bytes = file.metadata()?.len();
    let mut hash = Sha256::new();
    let mut hashed = 0;
    let mut buffer = vec![0; PIECE_BYTES];
    let position = AtomicU64::new(0);
    for_each_extent(file, bytes, |start, end| {
        hash_zeros(&mut hash, start - hashed);
        let mut extent = At { file, offset: start, end, position: &position };
        loop {
            let length = fill(&mut extent, &mut buffer)?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
        }
        hashed = extent.offset;
        Ok(())
    })?;
    hash_zeros(&mut hash, bytes.saturating_sub(hashed));
    Ok(hex(&hash.finalize()))
}

fn hash_zeros(hash: &mut Sha256, mut length: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..usize::try_from(part).expect("it is at most 64 KiB")]);
        length -= part;
    }
}
