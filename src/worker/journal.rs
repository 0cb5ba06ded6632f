//! What happened to the devices of one keeper, in one sequence over all its holds, for those who look on.
//!
//! Its keeper records events and changes of the status, and operations their progress. Readers ask for what
//! follows an id and wait for more; nobody waits for a slow one. The oldest entries fall out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::operation::OperationFacts;
use crate::device::power::PowerState;
use crate::event::EventKind;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its place in the sequence, from 1; it goes on when the device is renewed.
    pub id: u64,
    /// Which of the devices that there were under this name, from 1.
    pub hold: u64,
    /// When it was seen, by the server's clock.
    pub at: Timestamp,
    /// What it was.
    #[serde(flatten)]
    pub news: News,
}

/// What can happen, by `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum News {
    /// Something happened to the device; `event` says what.
    Event(EventKind),
    /// The status is another one.
    Status {
        /// What the system does, and whether mains are on.
        power: PowerState,
        /// What the server is doing with the device.
        activity: Option<String>,
    },
    /// An operation began, came further, or ended.
    Operation {
        /// The operation as it is now.
        operation: OperationFacts,
    },
    /// Older entries than this one have fallen out before they were read.
    Missed {
        /// How many.
        count: u64,
    },
}

impl News {
    /// Its `type`, which is also the name of the event in a stream.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Event(_) => "event",
            Self::Status { .. } => "status",
            Self::Operation { .. } => "operation",
            Self::Missed { .. } => "missed",
        }
    }
}

/// How many entries are kept: days of a device that is used, and some MB at the most.
const KEPT: usize = 10_000;

/// The journal; a clone is another handle of the same.
#[derive(Debug, Clone)]
pub struct Journal {
    entries: Arc<Mutex<VecDeque<Entry>>>,
    /// The id of the last entry.
    last: Arc<watch::Sender<u64>>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { entries: Arc::default(), last: Arc::new(watch::Sender::new(0)) }
    }
}

impl Journal {
    /// Records what happens now.
    pub fn record(&self, hold: u64, news: News) {
        self.record_at(hold, Timestamp::now(), news);
    }

    /// Records what happened then.
    pub fn record_at(&self, hold: u64, at: Timestamp, news: News) {
        let mut entries = self.entries();
        let id = *self.last.borrow() + 1;
        entries.push_back(Entry { id, hold, at, news });
        if entries.len() > KEPT {
            entries.pop_front();
        }
        self.last.send_replace(id);
    }

    /// The id of the last entry; 0 before the first.
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// Tells each time that there are more.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// At most `count` entries after the one with id `since`. If some of them have fallen out, the first one says
    /// so. An id that has not been given out is one of an earlier server's, and everything is new to its owner.
    pub fn since(&self, since: u64, count: usize) -> Vec<Entry> {
        let entries = self.entries();
        let since = if since > self.last() { 0 } else { since };
        let Some(oldest) = entries.front() else { return Vec::new() };
        let lost = oldest.id.saturating_sub(since + 1);
        let missed = (lost > 0).then(|| Entry {
            id: oldest.id - 1,
            hold: oldest.hold,
            at: oldest.at,
            news: News::Missed { count: lost },
        });
        let skipped = usize::try_from((since + 1).saturating_sub(oldest.id)).unwrap_or(usize::MAX);
        missed.into_iter().chain(entries.iter().skip(skipped).cloned()).take(count).collect()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_is_too_late_is_told_how_much_is_lost() {
        let journal = Journal::default();
        for _ in 0..KEPT + 5 {
            journal.record(1, News::Event(EventKind::PowerOn));
        }
        let read = journal.since(2, 3);
        assert_eq!(read[0].news, News::Missed { count: 3 });
        assert_eq!(read.iter().map(|entry| entry.id).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(journal.since(5, 1)[0].id, 6);
        assert_eq!(journal.since(journal.last(), 1), []);
        assert_eq!(journal.since(journal.last() + 1, 1)[0].news, News::Missed { count: 5 });
    }

    #[test]
    fn an_entry_is_one_flat_object() {
        let journal = Journal::default();
        journal.record(2, News::Event(EventKind::ButtonPress { held_ms: 5 }));
        let entry = &journal.since(0, 1)[0];
        let written = serde_json::to_value(entry).unwrap();
        assert_eq!(written["type"], "event");
        assert_eq!((&written["event"], &written["held_ms"]), (&"button-press".into(), &5.into()));
        assert_eq!(serde_json::from_value::<Entry>(written).unwrap(), *entry);
    }
}
