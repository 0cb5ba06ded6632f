//! The serial console: owns the host's end of the line, its logs, and the task that reads it.
//!
//! The line stays open over power cycles, as a cable does; the device says when power comes and goes. Suites
//! wait for output and type on it. `close` joins the reader; the log files stay, they are evidence: `console.log`
//! has every byte, `console-<n>.log` those of the n-th power-on (of the last 64), and `console-<n>.timed.log` its
//! lines with the seconds since that power-on at which each began.

mod line;
mod pattern;
mod record;
mod seen;
mod shell;
pub(super) mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use self::line::{Line, WriteError};
use self::record::Record;
use crate::deadline::Deadline;
use crate::event::EventLog;

pub use self::pattern::{Match, Pattern};
pub use self::seen::{LastSeen, quote, visible};
pub use self::shell::CommandOutput;
pub use self::wait::ConsoleError;

/// A second pair of eyes and hands at a console: to look on and to type while somebody else works with it.
#[derive(Debug, Clone)]
pub struct Tap {
    line: Arc<Line>,
}

impl Tap {
    /// Everything that comes in from now on. One that is too slow is told how much it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.line.record().watchers.subscribe()
    }

    /// What came in last, at most so many bytes, and everything that comes in from then on, without a gap.
    pub fn subscribe_with_last(&self, length: usize) -> (Vec<u8>, broadcast::Receiver<Arc<[u8]>>) {
        let record = self.line.record();
        let start = record.transcript.end().saturating_sub(length as u64);
        (record.transcript.since(start).to_vec(), record.watchers.subscribe())
    }

    /// Types these bytes as they are. Fails if the DUT does not read them by the deadline; some may be typed then.
    pub async fn send_keys(&self, keys: &[u8], deadline: Deadline) -> Result<(), ConsoleError> {
        type_keys(&self.line, keys, deadline).await
    }
}

/// The serial console of a DUT.
#[derive(Debug)]
pub struct Console {
    line: Arc<Line>,
    reader: Option<JoinHandle<()>>,
    /// Where the next search begins, as an offset in everything that ever came in.
    cursor: u64,
    /// What had come in when something was typed last.
    typed_at: u64,
    /// Events that end a wait early, from this place in the log on.
    heeded: Option<(EventLog, usize)>,
    /// How long matches were waited for that might have grown; see [`Console::take_late`].
    late: Duration,
}

impl Console {
    /// Takes our end of a line (a socket, a pty or a tty) and begins to read it. Must be called in a tokio runtime.
    pub fn open(line: impl Into<OwnedFd>, log_dir: &Path) -> io::Result<Self> {
        let line = Arc::new(Line::open(line.into(), Record::create(log_dir)?)?);
        let reader = tokio::spawn(Arc::clone(&line).read_on());
        Ok(Self { line, reader: Some(reader), cursor: 0, typed_at: 0, heeded: None, late: Duration::ZERO })
    }

    /// Begins the log of the next power-on; what came in before it can no longer be found. Must be called before
    /// the DUT gets power.
    pub fn begin_power_on(&mut self) -> io::Result<()> {
        self.line.drain();
        self.cursor = self.line.record().begin_section()?;
        self.typed_at = self.cursor;
        Ok(())
    }

    /// Ends the log of a power-on, once the DUT has lost power: takes in everything that it still said, so that
    /// nothing of it shows up in the next one.
    pub async fn end_power_on(&mut self) {
        self.line.drain();
        self.line.record().end_section();
    }

    /// From now on, a wait ends early when the events from `since` on say that nothing more can come: the DUT has
    /// halted or lost power, or the lab failed.
    pub fn heed(&mut self, events: &EventLog, since: usize) {
        self.heeded = Some((events.clone(), since));
    }

    /// Everything that comes in from now on, for a terminal. One that is too slow is told how much it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.line.record().watchers.subscribe()
    }

    /// What the console showed last since the power-on.
    pub fn last_seen(&self) -> LastSeen {
        self.line.record().last_seen()
    }

    /// Types a line and the Enter key, which is a CR.
    pub async fn send_line(&mut self, text: &str, deadline: Deadline) -> Result<(), ConsoleError> {
        self.send_keys(format!("{text}\r").as_bytes(), deadline).await
    }

    /// Types these bytes as they are. If cancelled, some of them may have been typed.
    pub async fn send_keys(&mut self, keys: &[u8], deadline: Deadline) -> Result<(), ConsoleError> {
        self.typed_at = self.line.record().transcript.end();
        type_keys(&self.line, keys, deadline).await
    }

    /// A second pair of eyes and hands; it sees nothing more once the console is closed.
    pub fn tap(&self) -> Tap {
        Tap { line: self.line.clone() }
    }

    /// Stops reading, takes in what is left, and completes the logs. Fails if a log could not be written.
    pub async fn close(mut self) -> io::Result<()> {
        self.line.stop.notify_one();
        if let Some(reader) = self.reader.take() {
            reader.await.map_err(io::Error::other)?;
        }
        self.end_power_on().await;
        self.line.record().take_log_error().map_or(Ok(()), Err)
    }
}

async fn type_keys(line: &Line, keys: &[u8], deadline: Deadline) -> Result<(), ConsoleError> {
    line.write(keys, deadline).await.map_err(|error| match error {
        WriteError::Full { written } => ConsoleError::NotRead { written, length: keys.len() },
        WriteError::Failed(source) => ConsoleError::Write { source },
    })
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            tracing::warn!("a console was dropped without being closed; its reader is aborted");
            reader.abort();
        }
    }
}
