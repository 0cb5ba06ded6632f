//! The file of an upload: how much of the disk it takes together with the others, and when it goes.
//!
//! Whoever uses a [`Spool`] holds it; the file is removed with the last holder. So a new upload never takes the file
//! from under a flash of the one before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;

use crate::io::image::format::PEEK_BYTES;
use crate::worker::answer::Refusal;

/// The disk that all uploads of a worker may take together.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    taken: Mutex<u64>,
}

/// A file that an upload is put into.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    room: Arc<Room>,
    /// How much of the room it has: up to its last byte.
    length: Mutex<u64>,
}

impl Room {
    /// Of `limit` bytes, all free.
    pub fn of(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::new(0) })
    }

    /// Refuses what can never fit.
    pub fn check(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes <= self.limit { Ok(()) } else { Err(self.full()) }
    }

    fn take(&self, bytes: u64) -> Result<(), Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all = taken.saturating_add(bytes);
        self.check(all)?;
        *taken = all;
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
    }

    fn full(&self) -> Refusal {
        let message = format!("uploads may take {} bytes of this host's disk, and this is more", self.limit);
        Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message }
    }
}

impl Spool {
    /// A new file in `dir`, which is made if need be.
    pub fn create(dir: &Path, number: u64, room: Arc<Room>) -> Result<Self, Refusal> {
        fs::create_dir_all(dir).map_err(cannot_keep)?;
        let path = dir.join(format!("os-{number}.img"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        Ok(Self { file: file.map_err(cannot_keep)?, path, room, length: Mutex::new(0) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its first bytes, as many as tell what it is. Blocks.
    pub fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(PEEK_BYTES);
        File::open(&self.path)?.take(PEEK_BYTES as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Writes at an offset. Blocks.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Refusal> {
        let end = offset + bytes.len() as u64;
        {
            let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
            if end > *length {
                self.room.take(end - *length)?;
                *length = end;
            }
        }
        self.file.write_all_at(bytes, offset).map_err(cannot_keep)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.room.give_back(*self.length.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "an upload was not removed; it goes with the run");
        }
    }
}

fn cannot_keep(error: io::Error) -> Refusal {
    // Clients try again on a 5xx, and there may be room by then.
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let status = if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
    Refusal { status, message: format!("cannot keep the image: {error}") }
}
