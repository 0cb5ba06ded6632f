//! Images on their way from leviathan's clients: whole, or in numbered pieces of one length.
//!
//! A piece counts when all of it is there; a lost one is sent again and nothing else. The file lies in the
//! worker's folder for uploads and is replaced by the next upload's; `clear` removes it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use crate::sys::blocking::blocking;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, plain, typed, word};
use crate::worker::body::Pieces;

/// The upload in hand.
#[derive(Debug)]
pub struct Upload {
    dir: PathBuf,
    piece_bytes: u64,
    limit: u64,
    state: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    file: Option<Arc<File>>,
    path: PathBuf,
    /// Counts the uploads, for the names of their files.
    number: u64,
    /// The lengths of the pieces that are there, by index.
    pieces: BTreeMap<u64, u64>,
    /// How many there will be.
    total: Option<u64>,
}

/// Bytes are gathered up to this before they are written.
const WRITTEN_AT_ONCE: usize = 1 << 20;

impl Upload {
    /// Of pieces of `piece_bytes`, all together at most `limit` bytes, into files in `dir`.
    pub fn new(dir: PathBuf, piece_bytes: u64, limit: u64) -> Self {
        Self { dir, piece_bytes, limit, state: Mutex::default() }
    }

    /// The file, if all of it is there.
    pub fn complete(&self) -> Result<PathBuf, Refusal> {
        let received = self.received();
        let Some(total) = received.total.filter(|_| received.file.is_some()) else {
            return Err(Refusal::nonsense("there is no image: none was sent"));
        };
        let missing: Vec<u64> = (0..total).filter(|index| !received.pieces.contains_key(index)).collect();
        if let Some(first) = missing.first() {
            let (missing, first) = (missing.len(), first);
            let message = format!(
                "the image is not complete: {missing} of {total} chunks are missing, the first is {first}"
            );
            return Err(Refusal::nonsense(message));
        }
        let short =
            received.pieces.iter().find(|(index, length)| **index + 1 < total && **length < self.piece_bytes);
        if let Some((index, length)) = short {
            let message = format!(
                "chunk {index} has {length} bytes and is not the last; it should have {}",
                self.piece_bytes
            );
            return Err(Refusal::nonsense(message));
        }
        Ok(received.path.clone())
    }

    /// Forgets and removes it.
    pub async fn clear(&self) -> io::Result<()> {
        let path = {
            let mut received = self.received();
            let number = received.number;
            let old = std::mem::replace(&mut *received, Received { number, ..Received::default() });
            old.file.is_some().then_some(old.path)
        };
        path.map_or(Ok(()), remove)
    }

    /// The file of the upload that piece `index` belongs to, and where in it; the first one begins a new upload.
    fn place(&self, index: u64, total: Option<u64>) -> Result<Arc<File>, Refusal> {
        let mut received = self.received();
        if index == 0 {
            let number = received.number + 1;
            let failed = |error: io::Error| Refusal::failed(format!("cannot keep the image: {error}"));
            fs::create_dir_all(&self.dir).map_err(failed)?;
            let path = self.dir.join(format!("os-{number}.img"));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .map_err(failed)?;
            let new = Received { file: Some(Arc::new(file)), path, number, pieces: BTreeMap::new(), total };
            let old = std::mem::replace(&mut *received, new);
            if old.file.is_some() {
                remove(old.path).map_err(failed)?;
            }
        } else if received.total != total {
            let message = "x-total-chunks is not what it was with chunk 0".to_owned();
            return Err(Refusal::nonsense(message));
        }
        received.pieces.remove(&index);
        received.file.clone().ok_or_else(|| Refusal::nonsense("chunk 0 has not come yet"))
    }

    fn count(&self, file: &Arc<File>, index: u64, length: u64, whole: bool) {
        let mut received = self.received();
        // Another upload may have begun meanwhile.
        if received.file.as_ref().is_some_and(|present| Arc::ptr_eq(present, file)) {
            received.pieces.insert(index, length);
            if whole {
                received.total = Some(1);
            }
        }
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(path: PathBuf) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
    let upload = &worker.upload;
    let Some(index) = number(&headers, "x-chunk-index")? else {
        let file = upload.place(0, None)?;
        let length = receive(body, &file, 0, upload.limit).await?;
        upload.count(&file, 0, length, true);
        return Ok(word("OK"));
    };
    let Some(length) = number(&headers, header::CONTENT_LENGTH.as_str())? else {
        let message = "a chunk needs Content-Length".to_owned();
        return Err(Refusal { status: StatusCode::LENGTH_REQUIRED, message });
    };
    let total = number(&headers, "x-total-chunks")?
        .ok_or_else(|| Refusal::nonsense("a chunk needs x-total-chunks"))?;
    if index >= total {
        return Err(Refusal::nonsense(format!("there is no chunk {index} of {total}")));
    }
    if length > upload.piece_bytes {
        let message = format!("a chunk has at most {} bytes, and this one {length}", upload.piece_bytes);
        return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
    }
    if total.saturating_mul(upload.piece_bytes) > upload.limit.saturating_add(upload.piece_bytes) {
        let message = format!("{total} chunks are more than the {} bytes that may be sent", upload.limit);
        return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
    }
    let file = upload.place(index, Some(total))?;
    let came = receive(body, &file, index * upload.piece_bytes, length).await?;
    if came != length {
        return Err(Refusal::failed(format!("chunk {index} ended after {came} of {length} bytes")));
    }
    upload.count(&file, index, length, false);
    Ok(plain("CHUNK_OK"))
}

/// Writes a body at an offset; returns its length.
async fn receive(body: Body, file: &Arc<File>, offset: u64, limit: u64) -> Result<u64, Refusal> {
    let mut pieces = Pieces::of(body);
    let (mut gathered, mut length) = (Vec::with_capacity(WRITTEN_AT_ONCE), 0);
    while let Some(piece) = pieces.next().await? {
        length += piece.len() as u64;
        if length > limit {
            let message = format!("the image is longer than the {limit} bytes that may be sent");
            return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
        }
        gathered.extend_from_slice(&piece);
        if gathered.len() >= WRITTEN_AT_ONCE {
            let at = offset + length - gathered.len() as u64;
            gathered = write(file, std::mem::take(&mut gathered), at).await?;
        }
    }
    let at = offset + length - gathered.len() as u64;
    write(file, gathered, at).await?;
    Ok(length)
}

/// Writes, and gives the emptied buffer back.
async fn write(file: &Arc<File>, mut bytes: Vec<u8>, offset: u64) -> Result<Vec<u8>, Refusal> {
    let file = file.clone();
    let written = blocking(move || {
        file.write_all_at(&bytes, offset)?;
        bytes.clear();
        Ok::<_, io::Error>(bytes)
    });
    written.await.map_err(|error| Refusal::failed(format!("cannot keep the image: {error}")))
}

/// A number in a header; what is none is refused.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| Refusal::nonsense(format!("{name} is no number from 0 on")))
}
