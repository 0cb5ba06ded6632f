//! What takes longer than a request may: begun by one, watched and cancelled by others.
//!
//! A device has its [`Operations`]; each one's news go into the device's journal. The task of an operation ends
//! with the keeper's work for it, and the keeper ends all work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::error::ErrorFacts;
use super::journal::{Journal, News};
use crate::deadline::Deadline;

/// What is known of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationFacts {
    /// Its number among those of the device, from 1.
    pub id: u64,
    /// What it does.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// What it was asked to do it with, such as an image's name.
    pub subject: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How much of it is done, once that is known.
    pub progress: Option<ProgressFacts>,
    /// The digest of the content that a flash has written, by which it can be flashed again.
    pub content: Option<String>,
    /// Why it failed.
    pub error: Option<ErrorFacts>,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// It flashes an image.
    Flash,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// It is under way, or waits for its turn.
    Running,
    /// It is done.
    Done,
    /// It failed; `error` says why and whose fault it is.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressFacts {
    /// Bytes of the image file that were read.
    pub bytes: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Bytes read in a second, on average.
    pub rate: u64,
}

/// The operations of one device.
#[derive(Debug)]
pub struct Operations {
    journal: Journal,
    all: Mutex<BTreeMap<u64, Arc<Operation>>>,
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    facts: watch::Sender<OperationFacts>,
    cancelled: watch::Sender<bool>,
    hold: u64,
    journal: Journal,
    began: Instant,
    told: Mutex<Instant>,
}

/// How many operations that have ended are remembered.
const REMEMBERED: usize = 64;

/// How often progress is told: as often as a person can follow it.
const TOLD_EVERY: Duration = Duration::from_millis(200);

impl Operations {
    /// None yet.
    pub fn new(journal: Journal) -> Self {
        Self { journal, all: Mutex::default() }
    }

    /// Begins one, unless another one is under way, whose number is returned instead.
    pub fn begin(&self, kind: OperationKind, subject: String, hold: u64) -> Result<Arc<Operation>, u64> {
        let mut all = self.all();
        if let Some(running) = running(&all) {
            return Err(running);
        }
        let id = all.last_key_value().map_or(1, |(last, _)| last + 1);
        let facts = OperationFacts {
            id,
            kind,
            state: OperationState::Running,
            subject,
            started: Timestamp::now(),
            ended: None,
            progress: None,
            content: None,
            error: None,
        };
        let now = Instant::now();
        let operation = Arc::new(Operation {
            facts: watch::Sender::new(facts),
            cancelled: watch::Sender::new(false),
            hold,
            journal: self.journal.clone(),
            began: now,
            told: Mutex::new(now),
        });
        operation.tell();
        all.insert(id, operation.clone());
        if all.len() > REMEMBERED {
            all.pop_first();
        }
        Ok(operation)
    }

    /// The one of this number, if it is remembered.
    pub fn find(&self, id: u64) -> Option<Arc<Operation>> {
        self.all().get(&id).cloned()
    }

    /// The number of the one that is under way.
    pub fn running(&self) -> Option<u64> {
        running(&self.all())
    }

    /// All that are remembered, the oldest first.
    pub fn list(&self) -> Vec<OperationFacts> {
        self.all().values().map(|one| one.facts()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Operation>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn running(all: &BTreeMap<u64, Arc<Operation>>) -> Option<u64> {
    all.iter().find(|(_, one)| one.facts.borrow().is_running()).map(|(id, _)| *id)
}

impl OperationFacts {
    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.state == OperationState::Running
    }
}

impl Operation {
    /// What is known of it now.
    pub fn facts(&self) -> OperationFacts {
        self.facts.borrow().clone()
    }

    /// Asks it to end early. What it was doing is left as a failed one would leave it.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Whether somebody has cancelled it.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Waits until somebody cancels it.
    pub async fn cancelled(&self) {
        // This operation keeps its own sender.
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    /// Waits until it has ended, but not longer than the deadline; what is known then.
    pub async fn ended(&self, deadline: Deadline) -> OperationFacts {
        let mut facts = self.facts.subscribe();
        // What has not ended by then is told as it is.
        let _ = deadline.bound(facts.wait_for(|facts| !facts.is_running())).await;
        self.facts()
    }

    /// So much of it is done.
    pub fn progress(&self, bytes: u64, total: u64) {
        let now = Instant::now();
        let rate = bytes as f64 / now.duration_since(self.began).as_secs_f64().max(0.001);
        let progress = ProgressFacts { bytes, total: total.max(bytes), rate: rate as u64 };
        self.facts.send_modify(|facts| facts.progress = Some(progress));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*told) >= TOLD_EVERY {
            *told = now;
            self.tell();
        }
    }

    /// It has ended, with the digest of what was written or with what went wrong.
    pub fn end(&self, outcome: Result<String, ErrorFacts>) {
        self.facts.send_modify(|facts| {
            facts.ended = Some(Timestamp::now());
            match outcome {
                Ok(content) => {
                    facts.content = Some(content);
                    facts.state = OperationState::Done;
                    if let Some(progress) = &mut facts.progress {
                        progress.bytes = progress.total;
                    }
                }
                Err(_) if self.is_cancelled() => facts.state = OperationState::Cancelled,
                Err(error) => (facts.state, facts.error) = (OperationState::Failed, Some(error)),
            }
        });
        self.tell();
    }

    fn tell(&self) {
        self.journal.record(self.hold, News::Operation { operation: self.facts() });
    }
}
