//! The screen of the device under test: what it shows now, for whoever looks, also while somebody else holds the
//! device.
//!
//! `Device` makes one; its clones share their dumps. QEMU dumps in the loop that plays the board's devices, so
//! whoever looks again and again uses [`Screen::paced_frame`]. Nothing to clean up: a dump's file is removed with it, or
//! with the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use crate::deadline::{Deadline, Elapsed};
use crate::io::picture::Picture;
use crate::qemu::machine::{Contact, SystemState};
use crate::qemu::monitor::MonitorError;
use crate::qemu::screen::{DumpError, dump};

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

impl Screen {
    /// The screen of whatever machine `machine` holds; dumps go through a file in `folder`.
    pub fn new(machine: watch::Receiver<Option<Contact>>, folder: PathBuf) -> Self {
        Self { machine, folder, pace: Arc::default() }
    }

    /// What it shows now.
    ///
    /// Cancelled, it leaves QEMU to end the dump.
    pub async fn frame(&self, deadline: Deadline) -> Result<Seen, ScreenError> {
        deadline.bound(async { self.look(&mut *self.pace.lock().await, deadline).await }).await?
    }

    /// What it shows, for whoever looks all the time: waits until QEMU has rested from the last dump. All who wait
    /// get the same one.
    pub async fn paced_frame(&self, deadline: Deadline) -> Result<Seen, ScreenError> {
        let asked = Instant::now();
        let look = async {
            let mut pace = self.pace.lock().await;
            if let Some((began, seen)) = &pace.newest
                && *began >= asked
            {
                return Ok(seen.clone());
            }
            if let Some(rested) = pace.rested {
                // sleep: QEMU plays the board's devices in the loop in which it dumps; see `REST_FACTOR`.
                sleep_until(rested).await;
            }
            let began = Instant::now();
            let seen = self.look(&mut pace, deadline).await?;
            pace.newest = Some((began, seen.clone()));
            Ok(seen)
        };
        deadline.bound(look).await?
    }

    /// What all dumps since the device was opened have cost.
    pub async fn cost(&self) -> Cost {
        self.pace.lock().await.cost
    }

    async fn look(&self, pace: &mut Pace, deadline: Deadline) -> Result<Seen, ScreenError> {
        let Some(machine) = self.machine.borrow().clone() else { return Ok(Seen::Off) };
        match machine.state() {
            None | Some(SystemState::Halted) => return Ok(Seen::Off),
            Some(SystemState::Broken) => return Err(ScreenError::Player),
            Some(SystemState::Running) => {}
        }
        let began = Instant::now();
        let dumped = dump(&machine, &self.folder, deadline).await;
        let taken = began.elapsed();
        pace.cost = Cost { dumps: pace.cost.dumps + 1, taken: pace.cost.taken + taken };
        pace.rested = Some(Instant::now() + taken * REST_FACTOR);
        match dumped {
            Ok(Some(picture)) => Ok(Seen::Picture(Arc::new(picture))),
            Ok(None) => Ok(Seen::NoSignal),
            // Its power was taken meanwhile; if it died, an event and the next look say so.
            Err(DumpError::Monitor(MonitorError::Closed { .. })) => Ok(Seen::Off),
            Err(error) => Err(error.into()),
        }
    }
}
