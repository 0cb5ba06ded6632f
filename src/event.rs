//! What happened to the device under test, with its time, in the order in which it was seen.
//!
//! The parts record events as they see them (QMP is the source on a stand-in); suites, reports and doors read
//! them. There is one [`EventLog`] for each session; it is cloned freely and ends with its last clone.

use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::deadline::{Deadline, Elapsed};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the log, from 0.
    pub id: usize,
    /// When it was seen, by the host's clock.
    pub at: Timestamp,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen. The names are what suites write in `wait_event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// Mains were given and the system runs.
    PowerOn,
    /// Mains were taken away.
    PowerOff,
    /// The power button was pressed, for as long as `held_ms` says.
    ButtonPress {
        /// Milliseconds for which it was held.
        held_ms: u64,
    },
    /// The system was reset.
    Reset {
        /// Who asked for it.
        by: Origin,
    },
    /// The system ended by itself: it is halted, mains are still on.
    Halt {
        /// Who asked for it.
        by: Origin,
    },
    /// The operating system said that it panicked.
    Panic,
    /// The machine stopped because its player failed: the lab's fault, never the DUT's.
    InternalError {
        /// What the player said.
        reason: String,
    },
    /// A medium answered the DUT with an error.
    BlockError {
        /// The medium's name in the board file.
        medium: String,
        /// `read` or `write`.
        operation: String,
        /// What was wrong.
        reason: String,
    },
    /// A watchdog fired.
    Watchdog {
        /// What it did then.
        action: String,
    },
    /// The machine's process ended when nobody had asked for it: the lab's fault.
    MachineDied {
        /// How it ended, and what it said last.
        reason: String,
    },
    /// The cable of a network interface was put in.
    LinkUp {
        /// The interface's name in the board file.
        interface: String,
    },
    /// The cable of a network interface was pulled out.
    LinkDown {
        /// The interface's name in the board file.
        interface: String,
    },
    /// A medium came into the DUT.
    MediumInserted {
        /// The medium's name in the board file.
        medium: String,
    },
    /// A medium left the DUT.
    MediumRemoved {
        /// The medium's name in the board file.
        medium: String,
    },
    /// The boot switch was operated.
    BootSwitch {
        /// `normal` or `flash`.
        position: String,
    },
    /// The USB boot port got power.
    UsbPortOn,
    /// The USB boot port lost its power.
    UsbPortOff,
    /// An installer has written a medium, and ended as it should.
    Installed {
        /// The medium's name in the board file.
        medium: String,
        /// The digest of the installer, by which the cache knows it.
        digest: String,
        /// How much the DUT wrote to the medium.
        written_bytes: u64,
    },
    /// An image was written to a medium, and verified.
    Flashed {
        /// The medium's name in the board file.
        medium: String,
        /// The digest of the written content, by which the cache knows it.
        digest: String,
    },
    /// A medium was changed while it was at the host.
    Prepared {
        /// The medium's name in the board file.
        medium: String,
        /// `write`, `merge-json`, `remove` or `expand`.
        change: String,
        /// The file, such as `boot:/config.json`, or the partition that has grown, as in `2:`.
        place: String,
        /// How many bytes the file or the partition has now.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// SHA-256 of the file's content now, in hexadecimal.
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
}

impl EventKind {
    /// The names that a suite may wait for, in the order of the variants.
    pub const NAMES: [&'static str; 20] = [
        "power-on",
        "power-off",
        "button-press",
        "reset",
        "halt",
        "panic",
        "internal-error",
        "block-error",
        "watchdog",
        "machine-died",
        "flashed",
        "link-up",
        "link-down",
        "prepared",
        "medium-inserted",
        "medium-removed",
        "boot-switch",
        "usb-port-on",
        "usb-port-off",
        "installed",
    ];

    /// The name under which suites and reports know it.
    pub fn name(&self) -> &'static str {
        let index = match self {
            Self::PowerOn => 0,
            Self::PowerOff => 1,
            Self::ButtonPress { .. } => 2,
            Self::Reset { .. } => 3,
            Self::Halt { .. } => 4,
            Self::Panic => 5,
            Self::InternalError { .. } => 6,
            Self::BlockError { .. } => 7,
            Self::Watchdog { .. } => 8,
            Self::MachineDied { .. } => 9,
            Self::Flashed { .. } => 10,
            Self::LinkUp { .. } => 11,
            Self::LinkDown { .. } => 12,
            Self::Prepared { .. } => 13,
            Self::MediumInserted { .. } => 14,
            Self::MediumRemoved { .. } => 15,
            Self::BootSwitch { .. } => 16,
            Self::UsbPortOn => 17,
            Self::UsbPortOff => 18,
            Self::Installed { .. } => 19,
        };
        Self::NAMES[index]
    }

    /// Why the lab, and not the DUT, is at fault; `None` for everything that a DUT may do.
    pub fn lab_fault(&self) -> Option<&str> {
        match self {
            Self::InternalError { reason } | Self::MachineDied { reason } => Some(reason),
            _ => None,
        }
    }
}

/// Who asked for a reset or a halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The DUT itself.
    Guest,
    /// Standin, or whoever holds the bench.
    Host,
}

/// All events of one session. Recording never waits; readers wait for what they have not seen yet.
#[derive(Debug, Clone)]
pub struct EventLog {
    events: Arc<Mutex<Vec<Event>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { events: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }
}

impl EventLog {
    /// Appends what happened, with the time of now.
    pub fn record(&self, kind: EventKind) {
        tracing::info!(event = kind.name(), ?kind, "seen");
        let mut events = self.lock();
        let id = events.len();
        events.push(Event { id, at: Timestamp::now(), kind });
        self.count.send_replace(id + 1);
    }

    /// How many events there are; also the id that the next one will have.
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells each time that there are more.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// The events from id `start` on.
    pub fn since(&self, start: usize) -> Vec<Event> {
        self.lock().get(start..).unwrap_or_default().to_vec()
    }

    /// The first event from id `start` on that `wanted` accepts, waiting for it if need be.
    pub async fn wait_for(
        &self,
        start: usize,
        deadline: Deadline,
        wanted: impl Fn(&EventKind) -> bool,
    ) -> Result<Event, Elapsed> {
        let mut count = self.count.subscribe();
        let mut next = start;
        deadline
            .bound(async {
                loop {
                    count.borrow_and_update();
                    for event in self.since(next) {
                        next = event.id + 1;
                        if wanted(&event.kind) {
                            return event;
                        }
                    }
                    if count.changed().await.is_err() {
                        unreachable!("this log keeps its own sender");
                    }
                }
            })
            .await
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_sees_what_was_recorded_before_and_after_it_began_to_wait() {
        let log = EventLog::default();
        log.record(EventKind::PowerOn);
        let second = log.clone();
        let writer = tokio::spawn(async move { second.record(EventKind::Panic) });
        let deadline = Deadline::after(Duration::from_secs(1));
        let on = log.wait_for(0, deadline, |kind| *kind == EventKind::PowerOn).await.unwrap();
        let panic = log.wait_for(on.id + 1, deadline, |kind| *kind == EventKind::Panic).await.unwrap();
        assert_eq!((on.id, panic.id), (0, 1));
        writer.await.unwrap();
        assert!(log.wait_for(2, deadline, |_| true).await.is_err());
    }

    #[test]
    fn an_event_is_written_with_its_name_and_its_values_side_by_side() {
        let log = EventLog::default();
        log.record(EventKind::Reset { by: Origin::Guest });
        let written = serde_json::to_value(&log.since(0)[0]).unwrap();
        assert_eq!(written["event"], log.since(0)[0].kind.name());
        assert_eq!(written["by"], "guest");
    }
}
