//! Whose the device is: nobody's, a holder's, or on its way back.
//!
//! Each hold has a generation, so that what was meant for one never strikes the next, and an id that nobody can
//! guess, for holders who want to be told from others. Nothing to clean up.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::deadline::Deadline;

/// Whose the device is.
#[derive(Debug)]
pub struct Lease {
    bound: Duration,
    state: watch::Sender<State>,
    /// One teardown at a time.
    freeing: tokio::sync::Mutex<()>,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    /// How many there were.
    count: u64,
    /// The id of the last one; it has the device no more if nobody has.
    last: Option<String>,
}

/// A device that has been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which hold it is.
    pub generation: u64,
    /// What tells its holder from others: 32 hexadecimal digits.
    pub id: String,
}

/// Whose a lease id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever has the device.
    Present,
    /// Whoever had it last, and nobody has it now.
    Last,
    /// Nobody that we know.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Held {
        generation: u64,
        heard: Instant,
    },
    /// On its way back.
    Freeing,
}

/// A device on its way back; it is free once this is dropped, whatever happened.
#[derive(Debug)]
pub struct Freeing<'a> {
    lease: &'a Lease,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Lease {
    /// Nobody's. A holder may be silent for as long as `bound`.
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            state: watch::Sender::new(State::Free),
            freeing: tokio::sync::Mutex::new(()),
            holders: Mutex::default(),
        }
    }

    /// Takes it, if it is free. Fails if the kernel has no random numbers.
    pub fn take(&self) -> io::Result<Option<Taken>> {
        let id = random_id()?;
        let mut holders = self.holders();
        let generation = holders.count + 1;
        let taken = self.state.send_if_modified(|state| {
            let free = *state == State::Free;
            if free {
                *state = State::Held { generation, heard: Instant::now() };
            }
            free
        });
        if !taken {
            return Ok(None);
        }
        *holders = Holders { count: generation, last: Some(id.clone()) };
        Ok(Some(Taken { generation, id }))
    }

    /// Whose this id is.
    pub fn owner(&self, id: &str) -> Owner {
        let holders = self.holders();
        let known = holders
            .last
            .as_ref()
            .is_some_and(|last| blake3::hash(last.as_bytes()) == blake3::hash(id.as_bytes()));
        match (known, *self.state.borrow()) {
            (false, _) => Owner::Unknown,
            (true, State::Held { .. }) => Owner::Present,
            (true, State::Free | State::Freeing) => Owner::Last,
        }
    }

    /// Whether somebody has it, or had it until a moment ago.
    pub fn is_busy(&self) -> bool {
        *self.state.borrow() != State::Free
    }

    /// The generation of the hold, if there is one.
    pub fn holder(&self) -> Option<u64> {
        match *self.state.borrow() {
            State::Held { generation, .. } => Some(generation),
            State::Free | State::Freeing => None,
        }
    }

    /// The holder lives. Nobody's heartbeat changes nothing.
    pub fn heartbeat(&self) {
        self.state.send_if_modified(|state| match state {
            State::Held { heard, .. } => {
                *heard = Instant::now();
                true
            }
            State::Free | State::Freeing => false,
        });
    }

    /// Waits until a holder has been silent for too long, and says which.
    pub async fn lost(&self) -> u64 {
        let mut changes = self.state.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            let changed = changes.changed();
            match state {
                State::Held { generation, heard } => {
                    let left = (heard + self.bound).saturating_duration_since(Instant::now());
                    if Deadline::after(left).bound(changed).await.is_err() {
                        return generation;
                    }
                }
                // The sender is this lease's own.
                State::Free | State::Freeing => drop(changed.await),
            }
        }
    }

    /// Takes it from whoever has it, once nobody else does; with a generation, only from that holder.
    pub async fn begin_freeing(&self, generation: Option<u64>) -> Option<Freeing<'_>> {
        let turn = self.freeing.lock().await;
        let begun = self.state.send_if_modified(|state| {
            let meant = match (generation, *state) {
                (Some(meant), State::Held { generation, .. }) => meant == generation,
                (Some(_), _) => false,
                (None, _) => true,
            };
            if meant {
                *state = State::Freeing;
            }
            meant
        });
        // Not `then_some`: one that is made is dropped, and what is dropped is free.
        begun.then(|| Freeing { lease: self, _turn: turn })
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 bits of the kernel's.
fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Freeing<'_> {
    /// It is free.
    pub fn done(self) {}
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        self.lease.state.send_replace(State::Free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_loses_the_device_and_a_heard_one_does_not() {
        let lease = Lease::new(BOUND);
        let held = lease.take().unwrap().unwrap().generation;
        assert_eq!(lease.take().unwrap(), None);
        for _ in 0..3 {
            tokio::time::advance(BOUND * 9 / 10).await;
            lease.heartbeat();
        }
        let began = Instant::now();
        assert_eq!(lease.lost().await, held);
        assert!(began.elapsed() >= BOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_meant_for_one_holder_never_strikes_the_next() {
        let lease = Lease::new(BOUND);
        let first = lease.take().unwrap().unwrap();
        assert_eq!(lease.owner(&first.id), Owner::Present);
        lease.begin_freeing(Some(first.generation)).await.unwrap().done();
        // Its late heartbeat arms nothing.
        lease.heartbeat();
        assert!(!lease.is_busy());
        assert_eq!(lease.owner(&first.id), Owner::Last);
        let second = lease.take().unwrap().unwrap();
        assert!(lease.begin_freeing(Some(first.generation)).await.is_none());
        assert_eq!(lease.holder(), Some(second.generation));
        assert_eq!([&first, &second].map(|one| lease.owner(&one.id)), [Owner::Unknown, Owner::Present]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_on_its_way_back_is_nobodys_until_it_is_there() {
        let lease = Lease::new(BOUND);
        lease.take().unwrap().unwrap();
        let freeing = lease.begin_freeing(None).await.unwrap();
        assert_eq!(lease.take().unwrap(), None);
        drop(freeing);
        assert!(lease.take().unwrap().is_some());
    }
}
