//! Waiting for output: the search from the cursor on, and what ends it without a match.

use std::io;
use std::time::Duration;

use super::Console;
use super::pattern::{Found, Match, Pattern};
use super::seen::LastSeen;
use crate::deadline::Deadline;
use crate::device::Fault;
use crate::event::{EventKind, EventLog, Origin};

/// How long a console must pause before a match that ends with its last byte counts: three times the latency
/// timer of FTDI's USB serial adapters (16 ms, application note AN232B-04), which deliver a line in such pieces.
const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// What went wrong on a console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The deadline passed.
    #[error("{wanted} not seen on the console within {given:?}: {last}")]
    NotSeen {
        /// What was waited for.
        wanted: String,
        /// The time that was allowed.
        given: Duration,
        /// What was seen instead.
        last: LastSeen,
    },
    /// Nothing more can come, so the deadline was not waited for.
    #[error("{wanted} not seen on the console, and {reason}: {last}")]
    Interrupted {
        /// What was waited for.
        wanted: String,
        /// Why nothing more can come.
        reason: String,
        /// Whether that is the lab's fault.
        lab: bool,
        /// What was seen instead.
        last: LastSeen,
    },
    /// So much came in that the searched bytes fell out of the memory.
    #[error("{lost_bytes} bytes of the output of `{command}` fell out of the console's memory")]
    OutputLost {
        /// The command that was run.
        command: String,
        /// How many bytes are gone.
        lost_bytes: u64,
    },
    /// The line could not be written.
    #[error("cannot type on the console")]
    Write {
        /// Why not.
        source: io::Error,
    },
    /// The line is full: nobody reads at the DUT's end.
    #[error("the DUT took only {written} of {length} bytes typed on the console")]
    NotRead {
        /// How many bytes the line took.
        written: usize,
        /// How many there were.
        length: usize,
    },
    /// A command must be one line.
    #[error("a command is one line with something on it, found `{command}`")]
    NotOneLine {
        /// The command, with its line breaks escaped.
        command: String,
    },
    /// A password is asked for, and the board's file has none.
    #[error("the console asks for a password of `{user}`, and `login.password` is not set")]
    NoPassword {
        /// Who was to log in.
        user: String,
    },
    /// The DUT refused the user or the password.
    #[error("the console refused to log in `{user}`: {last}")]
    Refused {
        /// Who was to log in.
        user: String,
        /// What was seen.
        last: LastSeen,
    },
}

impl ConsoleError {
    /// Who is to blame.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotSeen { .. } | Self::NotRead { .. } | Self::Refused { .. } => Fault::Dut,
            Self::Interrupted { lab: false, .. } => Fault::Dut,
            Self::Interrupted { lab: true, .. } | Self::OutputLost { .. } | Self::Write { .. } => Fault::Lab,
            Self::NotOneLine { .. } | Self::NoPassword { .. } => Fault::User,
        }
    }
}

/// Why a wait cannot end well any more.
pub(in crate::device) struct Interruption {
    pub reason: String,
    pub lab: bool,
}

impl Console {
    /// Waits until the DUT has said what is wanted, and moves the cursor behind it: each byte is found once. A
    /// regular expression that matches up to the last byte costs 50 ms more, in which the match might grow.
    ///
    /// Cancelled, it leaves the cursor where it was.
    pub async fn wait_for(&mut self, wanted: &Pattern, deadline: Deadline) -> Result<Match, ConsoleError> {
        let (found, start) = self.search(wanted, deadline).await?;
        self.cursor = start + found.end as u64;
        if !found.settled {
            self.late += SETTLED_AFTER;
        }
        Ok(found.matched)
    }

    /// How much of the time since the last call went to waiting whether a match would grow.
    pub fn take_late(&mut self) -> Duration {
        std::mem::take(&mut self.late)
    }

    /// Waits for the first match from the cursor on; its place is relative to the returned offset.
    pub(super) async fn search(
        &self,
        wanted: &Pattern,
        deadline: Deadline,
    ) -> Result<(Found, u64), ConsoleError> {
        let mut news = self.line.news();
        let mut from = self.cursor;
        let mut interruption = std::pin::pin!(self.interruption());
        loop {
            news.borrow_and_update();
            let unsettled = match self.look(wanted, &mut from) {
                Some(found) if found.0.settled => return Ok(found),
                unsettled => unsettled,
            };
            let patience = if unsettled.is_some() { deadline.within(SETTLED_AFTER) } else { deadline };
            let next = async {
                tokio::select! {
                    biased;
                    _ = news.changed() => None,
                    interruption = &mut interruption => Some(interruption),
                }
            };
            match patience.bound(next).await {
                Ok(None) => {}
                Ok(Some(interruption)) => {
                    self.line.drain();
                    let Interruption { reason, lab } = interruption;
                    let (wanted_text, last) = (wanted.to_string(), self.last_seen());
                    let error = ConsoleError::Interrupted { wanted: wanted_text, reason, lab, last };
                    return self.look(wanted, &mut from).ok_or(error);
                }
                // The console paused, or time is up: what was found is all there is.
                Err(elapsed) => {
                    let (wanted, last) = (wanted.to_string(), self.last_seen());
                    return unsettled.ok_or(ConsoleError::NotSeen { wanted, given: elapsed.given, last });
                }
            }
        }
    }

    /// Looks once for a match from `from` on, and moves `from` over what need not be searched again.
    fn look(&self, wanted: &Pattern, from: &mut u64) -> Option<(Found, u64)> {
        let record = self.line.record();
        // The whole of this power-on, for the pattern wants to know what stands before the place it searches from.
        let bytes = record.transcript.since(record.section_start.min(*from));
        let start = record.transcript.end() - bytes.len() as u64;
        let searched_from =
            usize::try_from(from.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
        let lost_bytes = record.transcript.lost_since(*from);
        if lost_bytes > 0 {
            tracing::warn!(lost_bytes, "console output fell out of the memory before it was searched");
        }
        let found = wanted.find(bytes, searched_from);
        if found.is_none() {
            let ruled_out = wanted.ruled_out(bytes.len()).max(searched_from);
            *from = start + ruled_out as u64;
        }
        found.map(|found| (found, start))
    }

    /// Waits for what makes all further waiting pointless.
    async fn interruption(&self) -> Interruption {
        let closed = async {
            let mut news = self.line.news();
            loop {
                news.borrow_and_update();
                if let Some(reason) = self.line.record().closed.clone() {
                    return Interruption { reason: format!("its line is closed ({reason})"), lab: true };
                }
                if news.changed().await.is_err() {
                    unreachable!("the line keeps its own sender");
                }
            }
        };
        let Some((events, since)) = &self.heeded else {
            return closed.await;
        };
        tokio::select! {
            biased;
            interruption = silenced(events, *since) => interruption,
            interruption = closed => interruption,
        }
    }
}

/// Waits until the events from `since` on say that the DUT will say nothing more.
pub(in crate::device) async fn silenced(events: &EventLog, since: usize) -> Interruption {
    let mut next = since;
    let mut silence = None;
    loop {
        for event in events.since(next) {
            next = event.id + 1;
            if let Some(reason) = event.kind.lab_fault() {
                return Interruption { reason: format!("the lab failed ({reason})"), lab: true };
            }
            match event.kind {
                EventKind::Halt { by: Origin::Guest } => silence = Some("the DUT has halted by itself"),
                EventKind::Halt { by: Origin::Host } => silence = Some("the DUT was halted"),
                EventKind::PowerOff => silence = Some("the DUT has no power"),
                EventKind::PowerOn | EventKind::Reset { .. } => silence = None,
                _ => {}
            }
        }
        if let Some(reason) = silence {
            return Interruption { reason: reason.to_owned(), lab: false };
        }
        // Whoever waits has a deadline of their own; this one only has to be later.
        let far = Deadline::after(Duration::from_secs(3600));
        let _ = events.wait_for(next, far, |_| true).await;
    }
}
