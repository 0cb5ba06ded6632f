//! How far something is, told to people on stderr; what takes no time gets no word.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::say;
use crate::sys::terminal;

/// What is done in less than this is not worth a word: people take it for at once.
const SILENT: Duration = Duration::from_millis(500);
/// As often as eyes follow.
const REDRAWN: Duration = Duration::from_millis(100);
/// As often as a log can bear.
const REPEATED: Duration = Duration::from_secs(5);

/// A line that is drawn again and again on a terminal, else one now and then; dropped, the drawn one goes.
pub struct Meter {
    begun: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Meter {
    /// Of something that begins now.
    pub fn start() -> Self {
        Self { begun: Instant::now(), shown: None, is_terminal: io::stderr().is_terminal() }
    }

    /// Tells how far it is, if it is time to; `line` is given how long it has taken so far.
    pub fn tell(&mut self, line: impl FnOnce(Duration) -> String) {
        let (first, next) = if self.is_terminal { (SILENT, REDRAWN) } else { (REPEATED, REPEATED) };
        let is_due = match self.shown {
            None => self.begun.elapsed() >= first,
            Some(shown) => shown.elapsed() >= next,
        };
        if !is_due {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(self.begun.elapsed());
        if !self.is_terminal {
            return say(line);
        }
        let line: String = line.chars().take(terminal::columns().unwrap_or(80).saturating_sub(1)).collect();
        draw(&line);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.is_terminal && self.shown.is_some() {
            draw("");
        }
    }
}

/// To the line's beginning, and what was there is erased: ECMA-48, CR and EL.
fn draw(line: &str) {
    // Nothing fails because nobody looks.
    let _ = write!(io::stderr(), "\r{line}\x1b[K");
}
