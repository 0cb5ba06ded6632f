//! How far the reading of an image is, for whoever waits: people at a terminal, or a client of a server.

use std::ops::ControlFlow;
use std::time::Duration;

/// Told after each piece, thousands of times a second; `Break` ends the reading, which then leaves nothing.
pub type Observer<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that were read.
    pub read: u64,
    /// Bytes that the file has; for a raw image with holes, more than will be read.
    pub file: u64,
    /// Where the content has been written up to.
    pub written: u64,
    /// How many bytes of content there will be, as far as the container says; see [`super::hint`].
    pub hint: Option<u64>,
}

impl Progress {
    /// How many bytes of content there will be, unless more than that have come already.
    pub fn content(&self) -> Option<u64> {
        self.hint.filter(|bytes| *bytes > 0 && *bytes >= self.written)
    }

    /// The share that is done, from 0 to 1: of the content if its length is known, else of the file.
    pub fn share(&self) -> f64 {
        let (done, all) = self.content().map_or((self.read, self.file), |bytes| (self.written, bytes));
        (done as f64 / all.max(1) as f64).clamp(0.0, 1.0)
    }

    /// How long it will still take if it goes on as it did for `elapsed`; `None` before anything is done.
    pub fn left(&self, elapsed: Duration) -> Option<Duration> {
        let share = self.share();
        Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share).ok()
    }
}
