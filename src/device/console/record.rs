//! What came in over a console's line: the newest bytes in memory for searching, all of them in files.
//!
//! The console's reader fills it; waits look into it. Log files stay behind on purpose: they are evidence.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::seen::{LastSeen, visible};

/// How many bytes stay in memory for searching: far more than a whole boot prints, and little for a host.
const CAPACITY: usize = 8 << 20;
/// How many pieces a slow watcher may lag behind before it is told that it missed some.
const WATCHER_PIECES: usize = 256;
/// A line in the log with times is cut here, so that a flood without line ends cannot fill the memory.
const LINE_LENGTH: usize = 4096;

/// Everything that came in, in memory and in files.
#[derive(Debug)]
pub(super) struct Record {
    pub transcript: Transcript,
    pub watchers: broadcast::Sender<Arc<[u8]>>,
    /// Why the other end is gone, once it is.
    pub closed: Option<String>,
    log_dir: PathBuf,
    whole: File,
    power_ons: u32,
    section: Option<Section>,
    /// Where this power-on begins in the transcript.
    pub section_start: u64,
    last_byte: Option<Instant>,
    log_error: Option<io::Error>,
}

impl Record {
    pub fn create(log_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            transcript: Transcript::new(CAPACITY),
            watchers: broadcast::Sender::new(WATCHER_PIECES),
            closed: None,
            log_dir: log_dir.to_owned(),
            whole: File::options().create(true).append(true).open(log_dir.join("console.log"))?,
            power_ons: 0,
            section: None,
            section_start: 0,
            last_byte: None,
            log_error: None,
        })
    }

    /// Takes in what was read. A log that cannot be written is remembered, and ends neither reading nor waits.
    pub fn append(&mut self, bytes: &[u8]) {
        self.transcript.append(bytes);
        self.last_byte = Some(Instant::now());
        if self.watchers.receiver_count() > 0 {
            // It fails only if the last watcher has just left.
            let _ = self.watchers.send(bytes.into());
        }
        if self.log_error.is_none() {
            // These writes go to the page cache and take microseconds, so they may stand in an async task.
            let written = self.whole.write_all(bytes);
            let written = written.and_then(|()| self.section.as_mut().map_or(Ok(()), |s| s.append(bytes)));
            self.keep(written);
        }
    }

    /// Begins the log files of the next power-on, and says nothing of before is to be found any more.
    pub fn begin_section(&mut self) -> io::Result<u64> {
        self.end_section();
        self.power_ons += 1;
        self.section = Some(Section::create(&self.log_dir, self.power_ons)?);
        self.section_start = self.transcript.end();
        self.last_byte = None;
        Ok(self.section_start)
    }

    pub fn end_section(&mut self) {
        if let Some(section) = self.section.take() {
            let finished = section.finish();
            self.keep(finished);
        }
    }

    /// The first error that writing a log met.
    pub fn take_log_error(&mut self) -> Option<io::Error> {
        self.log_error.take()
    }

    /// How long ago the last byte since the power-on came.
    pub fn silent_for(&self) -> Option<Duration> {
        self.last_byte.map(|at| at.elapsed())
    }

    /// Whether a prompt may wait unseen behind a silence of this length.
    pub fn may_hide_a_prompt(&self, silence: Duration) -> bool {
        self.silent_for().map_or(self.section.is_none(), |silent_for| silent_for >= silence)
    }

    /// What the console showed last since the power-on.
    pub fn last_seen(&self) -> LastSeen {
        LastSeen::new(self.transcript.since(self.section_start), self.silent_for())
    }

    fn keep(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::error!(%error, dir = %self.log_dir.display(), "cannot write the console's log");
            self.log_error.get_or_insert(error);
        }
    }
}

/// The newest bytes of a stream, addressed by their offset in the whole of it.
#[derive(Debug)]
pub(super) struct Transcript {
    bytes: Vec<u8>,
    start: u64,
    capacity: usize,
}

impl Transcript {
    pub fn new(capacity: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, capacity }
    }

    /// Appends; the oldest bytes fall out by the quarter, so that moving the rest costs little for each byte.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.capacity + self.capacity / 4 {
            let excess = self.bytes.len() - self.capacity;
            self.bytes.drain(..excess);
            self.start += excess as u64;
        }
    }

    /// The offset of the next byte to come.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The kept bytes from `offset` on.
    pub fn since(&self, offset: u64) -> &[u8] {
        let skipped = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.get(skipped..).unwrap_or_default()
    }

    /// The kept bytes from `start` to `end`.
    pub fn between(&self, start: u64, end: u64) -> &[u8] {
        let bytes = self.since(start);
        let beyond = self.end().saturating_sub(end.max(start));
        &bytes[..bytes.len().saturating_sub(usize::try_from(beyond).unwrap_or(usize::MAX))]
    }

    /// How many bytes from `offset` on have fallen out.
    pub fn lost_since(&self, offset: u64) -> u64 {
        self.start.saturating_sub(offset)
    }
}

/// The log files of one power-on: raw bytes, and lines with the time at which each began.
#[derive(Debug)]
struct Section {
    raw: File,
    timed: io::BufWriter<File>,
    started: Instant,
    line: Vec<u8>,
    line_began: Duration,
}

impl Section {
    fn create(log_dir: &Path, number: u32) -> io::Result<Self> {
        let timed = File::create(log_dir.join(format!("console-{number}.timed.log")))?;
        Ok(Self {
            raw: File::create(log_dir.join(format!("console-{number}.log")))?,
            timed: io::BufWriter::new(timed),
            started: Instant::now(),
            line: Vec::new(),
            line_began: Duration::ZERO,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.write_all(bytes)?;
        let now = self.started.elapsed();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(LINE_LENGTH)) {
            if self.line.is_empty() {
                self.line_began = now;
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE_LENGTH {
                self.write_line()?;
            }
        }
        self.timed.flush()
    }

    fn write_line(&mut self) -> io::Result<()> {
        let text = visible(self.line.strip_suffix(b"\n").unwrap_or(&self.line));
        self.line.clear();
        writeln!(self.timed, "[{:12.6}] {text}", self.line_began.as_secs_f64())
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.write_line()?;
        }
        self.timed.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bytes_fall_out_and_offsets_stay_true() {
        let mut transcript = Transcript::new(100);
        for number in 0..50 {
            transcript.append(format!("{number:09}\n").as_bytes());
        }
        assert_eq!(transcript.end(), 500);
        assert_eq!(transcript.since(490), b"000000049\n");
        assert_eq!(transcript.between(480, 489), b"000000048");
        assert!(transcript.lost_since(0) >= 375 && transcript.lost_since(490) == 0);
        assert_eq!(transcript.between(0, 10), b"", "what fell out is not replaced by something else");
    }

    #[test]
    fn each_power_on_has_its_own_logs_and_the_whole_has_everything() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::create(dir.path()).unwrap();
        for boot in ["first", "second"] {
            record.begin_section().unwrap();
            record.append(format!("{boot}\r\nprompt# ").as_bytes());
            record.end_section();
            record.append(b"stray");
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("console.log"), "first\r\nprompt# straysecond\r\nprompt# stray");
        assert_eq!(read("console-2.log"), "second\r\nprompt# ");
        let timed = read("console-2.timed.log");
        let lines: Vec<&str> = timed.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(lines, ["second", "prompt# "]);
        assert!(timed.starts_with("[    0.0"), "{timed}");
        assert!(record.take_log_error().is_none());
    }
}
