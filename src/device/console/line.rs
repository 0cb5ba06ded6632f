//! The host's end of a serial line: who reads it, and how bytes are typed on it.
//!
//! One task reads for as long as the console is open, also while nobody waits, so that a DUT never blocks on a
//! full line. The console owns the task and joins it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::record::Record;
use crate::deadline::Deadline;
use crate::sys::stream;

/// How much is read at once: what a socket hands over in one go.
const PIECE: usize = 64 << 10;
/// Where taking in what already lies in the line ends: far more than a socket or a tty holds.
const DRAIN_LIMIT: usize = 4 << 20;

/// The host's end of a serial line, with everything that came in over it.
#[derive(Debug)]
pub(super) struct Line {
    /// A socket, a pty or a tty: to all of them reading and writing is the same. It never blocks.
    stream: AsyncFd<File>,
    record: Mutex<Record>,
    /// Counts the times that something came in, or that the line closed.
    news: watch::Sender<u64>,
    pub stop: Notify,
}

impl Line {
    pub fn open(stream: OwnedFd, record: Record) -> io::Result<Self> {
        Ok(Self {
            stream: stream::watch(File::from(stream))?,
            record: Mutex::new(record),
            news: watch::Sender::new(0),
            stop: Notify::new(),
        })
    }

    /// Reads until the line is closed or `stop` is notified.
    pub async fn read_on(self: Arc<Self>) {
        let mut buffer = vec![0; PIECE];
        loop {
            let ready = tokio::select! {
                biased;
                () = self.stop.notified() => return,
                ready = self.stream.readable() => ready,
            };
            let read = ready.map(|mut ready| ready.try_io(|_| self.take_in(&mut buffer)));
            match read {
                Ok(Ok(Ok(0))) => return self.close("the other end is gone".to_owned()),
                // Somebody else has taken it in already, or a signal came.
                Ok(Err(_) | Ok(Ok(_))) => {}
                Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pty whose other end is gone answers with EIO.
                Ok(Ok(Err(error))) | Err(error) => return self.close(error.to_string()),
            }
        }
    }

    /// Takes in what already lies in the line, without waiting for more.
    ///
    /// It asks the kernel and not the runtime, which may not have heard yet of the newest bytes.
    pub fn drain(&self) {
        let mut buffer = vec![0; PIECE];
        let mut taken = 0;
        while taken < DRAIN_LIMIT {
            match self.take_in(&mut buffer) {
                Ok(length) if length > 0 => taken += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing is left; that the line ended or failed is for the reader to find and to say.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Writes all of `bytes`, or tells how many the line took before the deadline.
    pub async fn write(&self, bytes: &[u8], deadline: Deadline) -> Result<(), WriteError> {
        let mut written = 0;
        let all = async {
            while written < bytes.len() {
                let mut ready = self.stream.writable().await?;
                match ready.try_io(|stream| stream.get_ref().write(&bytes[written..])) {
                    Ok(Ok(length)) => written += length,
                    Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            Ok(())
        };
        match deadline.bound(all).await {
            Ok(done) => done.map_err(WriteError::Failed),
            Err(_) => Err(WriteError::Full { written }),
        }
    }

    /// Says each time that something came in, or that the line closed.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads once. The record is locked before reading, so that bytes are recorded in the order of the line
    /// whoever reads them.
    fn take_in(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut record = self.record();
        let length = self.stream.get_ref().read(buffer)?;
        if length > 0 {
            record.append(&buffer[..length]);
            self.news.send_modify(|count| *count += 1);
        }
        Ok(length)
    }

    fn close(&self, reason: String) {
        tracing::debug!(reason, "the console's line is closed");
        self.record().closed = Some(reason);
        self.news.send_modify(|count| *count += 1);
    }
}

/// Why not all bytes were written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nobody read at the other end.
    Full { written: usize },
    /// The line is broken.
    Failed(io::Error),
}
