//! Images on their way from leviathan's clients: whole, or in numbered pieces of one length.
//!
//! A piece counts when all of it is there; a lost one is sent again and nothing else. The first piece begins a new
//! upload. The file is that of a [`Spool`]: the upload in hand holds it, and so does a flash of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::spool::{Room, Spool};
use crate::io::image::format::Format;
use crate::sys::blocking::blocking;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, plain, typed, word};
use crate::worker::body::Pieces;

/// The upload in hand.
#[derive(Debug)]
pub struct Upload {
    dir: PathBuf,
    piece_bytes: u64,
    room: Arc<Room>,
    state: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    spool: Option<Arc<Spool>>,
    /// Whoever flashes it now.
    flashing: Weak<Complete>,
    pieces: BTreeMap<u64, Piece>,
    /// How many pieces there will be.
    total: u64,
    /// Counts the uploads, for the names of their files.
    uploads: u64,
    /// Counts the attempts at pieces, of which the last one at each counts.
    attempts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Coming { attempt: u64 },
    There { bytes: u64 },
}

/// An upload of which all is there. While this lives, its file stays as it is.
#[derive(Debug)]
pub struct Complete(Arc<Spool>);

/// One attempt at sending a piece.
struct Attempt {
    spool: Arc<Spool>,
    index: u64,
    number: u64,
}

/// Bytes are gathered up to this before they are written: large enough to make a thread's turn cheap.
const WRITTEN_AT_ONCE: usize = 512 << 10;

impl Complete {
    /// Refuses bytes that nobody can check: clients pack images with gzip, which has a checksum at its end. Blocks.
    pub fn check_packed(&self) -> Result<(), String> {
        let head = self.0.head().map_err(|error| format!("cannot read the image: {error}"))?;
        match Format::of(&head) {
            Ok(Format::Raw) => {
                Err("the image is not packed, as gzip packs it, so nobody can say whether it is whole"
                    .to_owned())
            }
            // What cannot be unpacked is told of by whoever tries.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Upload {
    /// Of pieces of `piece_bytes`, into files in `dir`, which take at most `limit` bytes together.
    pub fn new(dir: PathBuf, piece_bytes: u64, limit: u64) -> Self {
        Self { dir, piece_bytes, room: Room::of(limit), state: Mutex::default() }
    }

    /// The image, if all of it is there.
    pub fn complete(&self) -> Result<Arc<Complete>, Refusal> {
        let mut received = self.received();
        let Some(spool) = received.spool.clone() else {
            return Err(Refusal::nonsense("there is no image: none was sent"));
        };
        let total = received.total;
        let there = |index: &u64| matches!(received.pieces.get(index), Some(Piece::There { .. }));
        let missing: Vec<u64> = (0..total).filter(|index| !there(index)).collect();
        if let Some(first) = missing.first() {
            let missing = missing.len();
            return Err(Refusal::nonsense(format!(
                "the image is not complete: {missing} of {total} chunks are missing, the first is {first}"
            )));
        }
        for (index, piece) in &received.pieces {
            if let Piece::There { bytes } = piece
                && index + 1 < total
                && *bytes < self.piece_bytes
            {
                return Err(Refusal::nonsense(format!(
                    "chunk {index} has {bytes} bytes and is not the last; it should have {}",
                    self.piece_bytes
                )));
            }
        }
        let complete = Arc::new(Complete(spool));
        received.flashing = Arc::downgrade(&complete);
        Ok(complete)
    }

    /// Forgets it. Its file goes when no flash uses it any more.
    pub fn clear(&self) {
        let mut received = self.received();
        let (uploads, attempts) = (received.uploads, received.attempts);
        *received = Received { uploads, attempts, ..Received::default() };
    }

    /// Begins an attempt at piece `index` of `total`; the first piece begins a new upload.
    fn begin(&self, index: u64, total: u64) -> Result<Attempt, Refusal> {
        let mut received = self.received();
        if index == 0 {
            let (uploads, attempts) = (received.uploads + 1, received.attempts);
            // The one before it goes first, so that its room is free.
            *received = Received { uploads, attempts, ..Received::default() };
            let spool = Spool::create(&self.dir, uploads, self.room.clone())?;
            (received.spool, received.total) = (Some(Arc::new(spool)), total);
        } else if received.flashing.strong_count() > 0 {
            let message = "the image that this chunk belongs to is being flashed".to_owned();
            return Err(Refusal { status: StatusCode::CONFLICT, message });
        }
        let spool = received.spool.clone().ok_or_else(|| Refusal::nonsense("chunk 0 has not come yet"))?;
        if received.total != total {
            let message = format!("x-total-chunks is {total}, and was {} with chunk 0", received.total);
            return Err(Refusal::nonsense(message));
        }
        received.attempts += 1;
        let number = received.attempts;
        received.pieces.insert(index, Piece::Coming { attempt: number });
        Ok(Attempt { spool, index, number })
    }

    /// Whether no newer attempt, and no newer upload, has begun since.
    fn check(&self, attempt: &Attempt) -> Result<(), Refusal> {
        let coming = Piece::Coming { attempt: attempt.number };
        if self.received().pieces.get(&attempt.index) == Some(&coming) {
            return Ok(());
        }
        let message = "the same chunk, or another image, is being sent by somebody else now".to_owned();
        Err(Refusal { status: StatusCode::CONFLICT, message })
    }

    /// The attempt has succeeded.
    fn count(&self, attempt: &Attempt, bytes: u64) -> Result<(), Refusal> {
        self.check(attempt)?;
        self.received().pieces.insert(attempt.index, Piece::There { bytes });
        Ok(())
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a whole image in one body.
    pub async fn receive_whole(&self, body: &mut Pieces) -> Result<(), Refusal> {
        let attempt = self.begin(0, 1)?;
        let bytes = self.receive(body, &attempt, 0, u64::MAX).await?;
        self.count(&attempt, bytes)
    }

    async fn receive_chunk(&self, body: &mut Pieces, chunk: &Chunk) -> Result<(), Refusal> {
        let Chunk { index, total, length } = *chunk;
        if index >= total {
            return Err(Refusal::nonsense(format!("there is no chunk {index} of {total}")));
        }
        if length > self.piece_bytes {
            let message = format!("a chunk has at most {} bytes, and this one {length}", self.piece_bytes);
            return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
        }
        // All but the last are full.
        self.room.check((total - 1).saturating_mul(self.piece_bytes))?;
        let attempt = self.begin(index, total)?;
        let came = self.receive(body, &attempt, index * self.piece_bytes, length).await?;
        if came != length {
            return Err(Refusal::failed(format!("chunk {index} ended after {came} of {length} bytes")));
        }
        self.count(&attempt, length)
    }

    /// Writes a body at an offset; returns its length.
    async fn receive(
        &self,
        body: &mut Pieces,
        attempt: &Attempt,
        offset: u64,
        limit: u64,
    ) -> Result<u64, Refusal> {
        let (mut gathered, mut length) = (Vec::new(), 0);
        while let Some(piece) = body.next().await? {
            length += piece.len() as u64;
            if length > limit {
                let message = format!("the body is longer than the {limit} bytes that it has by its header");
                return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
            }
            gathered.extend_from_slice(&piece);
            if gathered.len() >= WRITTEN_AT_ONCE {
                let at = offset + length - gathered.len() as u64;
                gathered = self.write(attempt, std::mem::take(&mut gathered), at).await?;
            }
        }
        let at = offset + length - gathered.len() as u64;
        self.write(attempt, gathered, at).await?;
        Ok(length)
    }

    /// Writes, and gives the emptied buffer back.
    async fn write(&self, attempt: &Attempt, mut bytes: Vec<u8>, offset: u64) -> Result<Vec<u8>, Refusal> {
        self.check(attempt)?;
        let spool = attempt.spool.clone();
        let written = blocking(move || {
            spool.write(&bytes, offset)?;
            bytes.clear();
            Ok(bytes)
        });
        written.await
    }
}

/// What the headers of a piece say.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    index: u64,
    total: u64,
    length: u64,
}

impl Chunk {
    /// `None` if the body is a whole image.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(index) = number(headers, "x-chunk-index")? else { return Ok(None) };
        let Some(length) = number(headers, header::CONTENT_LENGTH.as_str())? else {
            let message = "a chunk needs Content-Length".to_owned();
            return Err(Refusal { status: StatusCode::LENGTH_REQUIRED, message });
        };
        let total = number(headers, "x-total-chunks")?;
        let total = total.ok_or_else(|| Refusal::nonsense("a chunk needs x-total-chunks"))?;
        Ok(Some(Self { index, total, length }))
    }
}

/// A number in a header; what is none is refused.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| Refusal::nonsense(format!("{name} is no number from 0 on")))
}

/// The length of a piece.
pub async fn chunk_size(State(worker): State<Arc<Worker>>) -> Response {
    let mut answer =
        typed("application/json", json!({ "chunkMiB": worker.settings.chunk_bytes >> 20 }).to_string());
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer
}

/// Takes a piece, or the whole.
pub async fn send_image(
    State(worker): State<Arc<Worker>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut body = worker.pieces(body);
    let received = match Chunk::of(&headers) {
        Ok(None) => worker.upload.receive_whole(&mut body).await.map(|()| word("OK")),
        Ok(Some(chunk)) => worker.upload.receive_chunk(&mut body, &chunk).await.map(|()| plain("CHUNK_OK")),
        Err(refusal) => Err(refusal),
    };
    if received.is_err() {
        // A client that is still sending would see a broken connection, and not why it was refused.
        body.discard(worker.settings.chunk_bytes).await;
    }
    received
}
