//! The screen of the device under test: what it shows now, for whoever looks, also while somebody else holds the
//! device.
//!
//! `Device` makes one; its clones share their dumps. QEMU dumps in the loop that plays the board's devices, so
//! whoever looks again and again uses [`Screen::paced_frame`]. Nothing to clean up: a dump's file is removed with it, or
//! with the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::deadline::{Deadline, Elapsed};
use crate::io::picture::Picture;
use crate::qemu::machine::{Contact, SystemState};
use crate::qemu::monitor::MonitorError;
use crate::qemu::screen::{DumpError, dump, read};

/// The screen of the device under test; cloned freely.
#[derive(Debug, Clone)]
pub struct Screen {
    machine: watch::Receiver<Option<Contact>>,
    /// Where QEMU may write.
    folder: PathBuf,
    pace: Arc<Mutex<Pace>>,
}

/// What was seen on a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The system does not run, so its screen is dark: mains are off, or it has halted.
    Off,
    /// The system runs and does not drive its screen, or not yet. A monitor would say so.
    NoSignal,
    /// A picture, which may be all black.
    Picture(Arc<Picture>),
}

/// The screen could not be seen: the lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// The dump failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The player of the board failed.
    #[error("cannot see the screen: the board's player failed")]
    Player,
    /// Nothing was seen in time.
    #[error("cannot see the screen")]
    Late(#[from] Elapsed),
}

/// What all dumps together have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// How many there were.
    pub dumps: u64,
    /// How long QEMU has worked on them at most: from each question to its answer.
    pub taken: Duration,
}

type Turn = OwnedMutexGuard<Pace>;

#[derive(Debug, Default)]
struct Pace {
    cost: Cost,
    /// When the next paced dump may begin.
    rested: Option<Instant>,
    /// The newest paced dump, and when it began.
    newest: Option<(Instant, Seen)>,
}

/// How many times as long as a dump took the next paced one waits: so QEMU spends less than a twentieth of its time
/// on dumps, however slow the host and however large the screen.
const REST_FACTOR: u32 = 20;

/// How long QEMU may take for a dump: it answers within 0.3 s under TCG on a busy host, and one that takes that long
/// has hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Screen {
    /// The screen of whatever machine `machine` holds; dumps go through a file in `folder`.
    pub fn new(machine: watch::Receiver<Option<Contact>>, folder: PathBuf) -> Self {
        Self { machine, folder, pace: Arc::default() }
    }

    /// What it shows now.
    ///
    /// Cancelled, it leaves QEMU to end the dump.
    pub async fn frame(&self, deadline: Deadline) -> Result<Seen, ScreenError> {
        let look = async { self.look(self.pace.clone().lock_owned().await, deadline).await };
        Ok(deadline.bound(look).await??.1)
    }

    /// What it shows, for whoever looks all the time: waits until QEMU has rested from the last dump. All who wait
    /// get the same one.
    pub async fn paced_frame(&self) -> Result<Seen, ScreenError> {
        let asked = Instant::now();
        loop {
            let pace = self.pace.clone().lock_owned().await;
            if let Some((began, seen)) = &pace.newest
                && *began >= asked
            {
                return Ok(seen.clone());
            }
            let began = Instant::now();
            match pace.rested.filter(|rested| *rested > began) {
                Some(rested) => {
                    drop(pace); // who wants to know at once need not rest
                    // sleep: QEMU plays the board's devices in the loop in which it dumps; see `REST_FACTOR`.
                    sleep_until(rested).await;
                }
                None => {
                    let (mut pace, seen) = self.look(pace, Deadline::after(ANSWER_WITHIN)).await?;
                    pace.newest = Some((began, seen.clone()));
                    return Ok(seen);
                }
            }
        }
    }

    /// Looks at it again and again, at most so many times a second; from 1.
    pub fn changes(&self, looks_per_second: u32) -> Changes {
        let mut looks = interval(Duration::from_secs(1) / looks_per_second.max(1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Changes { screen: self.clone(), last: None, looks }
    }

    /// What all dumps since the device was opened have cost.
    pub async fn cost(&self) -> Cost {
        self.pace.lock().await.cost
    }

    /// Looks, and gives back the turn with which no other dump goes through the file.
    async fn look(&self, mut pace: Turn, deadline: Deadline) -> Result<(Turn, Seen), ScreenError> {
        let Some(machine) = self.machine.borrow().clone() else { return Ok((pace, Seen::Off)) };
        match machine.state() {
            None | Some(SystemState::Halted) => return Ok((pace, Seen::Off)),
            Some(SystemState::Broken) => return Err(ScreenError::Player),
            Some(SystemState::Running) => {}
        }
        let began = Instant::now();
        let dumped = dump(&machine, &self.folder, deadline).await;
        let taken = began.elapsed();
        pace.cost = Cost { dumps: pace.cost.dumps + 1, taken: pace.cost.taken + taken };
        pace.rested = Some(Instant::now() + taken * REST_FACTOR);
        match dumped {
            // Its power was taken meanwhile; if it died, an event and the next look say so.
            Err(MonitorError::Closed { .. }) => return Ok((pace, Seen::Off)),
            dumped => dumped.map_err(DumpError::from)?,
        }
        let (pace, picture) = read(&self.folder, pace).await;
        match picture {
            Ok(Some(picture)) => Ok((pace, Seen::Picture(Arc::new(picture)))),
            Ok(None) => Ok((pace, Seen::NoSignal)),
            // Whoever took its power has removed the file.
            Err(_) if machine.state().is_none() => Ok((pace, Seen::Off)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Looks at a screen again and again, and tells what it shows when that is something else.
#[derive(Debug)]
pub struct Changes {
    screen: Screen,
    last: Option<Seen>,
    looks: Interval,
}

impl Changes {
    /// What the screen shows, as soon as that is not what was told last; the first time at once. An error is told each
    /// time. Cancelled, it has told nothing.
    pub async fn next(&mut self) -> Result<Seen, ScreenError> {
        loop {
            self.looks.tick().await;
            let seen = self.screen.paced_frame().await?;
            if self.last.as_ref() != Some(&seen) {
                self.last = Some(seen.clone());
                return Ok(seen);
            }
        }
    }
}
