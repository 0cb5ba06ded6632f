//! The keyboard of the device under test: keys pressed one after the other, no faster than a guest takes them.
//!
//! `Device` makes one; its clones take turns, so that no two texts mix. Nothing to clean up: QEMU lets go of a key by
//! itself, also if nobody waits for it.

pub mod key;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use self::key::Stroke;
use crate::deadline::{Deadline, Elapsed};
use crate::qemu::machine::{Contact, SystemState};
use crate::qemu::monitor::MonitorError;

/// The keyboard of the device under test; cloned freely.
#[derive(Debug, Clone)]
pub struct Keyboard {
    machine: watch::Receiver<Option<Contact>>,
    board: String,
    turn: Arc<Mutex<()>>,
}

/// Keys could not be pressed.
#[derive(Debug, thiserror::Error)]
pub enum KeyboardError {
    /// Nobody would notice: mains are off, or the system has halted.
    #[error("cannot type on the keyboard of {board}: it does not run")]
    NotRunning {
        /// The board's slug.
        board: String,
    },
    /// The player of the board failed.
    #[error("cannot type on the keyboard of {board}: its player failed")]
    Player {
        /// The board's slug.
        board: String,
    },
    /// QEMU did not take a key.
    #[error("cannot type on the keyboard")]
    Monitor(#[from] MonitorError),
    /// There was no time to press them all.
    #[error("cannot type so much on the keyboard")]
    Late(#[from] Elapsed),
}

/// How long each change of a key lasts, before the next may follow. A guest asks a USB keyboard every 10 ms
/// (`bInterval` in QEMU's hw/usb/dev-hid.c) and a PS/2 one sends a byte in a millisecond; QEMU keeps 16 changes of a
/// USB keyboard and 16 bytes of a PS/2 one (`QUEUE_LENGTH` in include/hw/input/hid.h, `PS2_QUEUE_SIZE` in
/// hw/input/ps2.c), and drops what comes then. At this pace a guest may be deaf for a quarter of a second, or half of
/// one on USB, and loses nothing. It lies below the time after which a held key
/// repeats itself, 250 ms and more.
const CHANGE: Duration = Duration::from_millis(30);

impl Keyboard {
    /// The keyboard of whatever machine `machine` holds.
    pub fn new(machine: watch::Receiver<Option<Contact>>, board: String) -> Self {
        Self { machine, board, turn: Arc::default() }
    }

    /// Presses these keys, one stroke after the other: some 16 a second, half as many if each has a modifier.
    ///
    /// What the guest makes of them only its screen can tell; one that has no driver yet loses them, as on the real
    /// board. Cancelled, it has pressed some of them; none stays down.
    pub async fn press(&self, strokes: &[Stroke], deadline: Deadline) -> Result<(), KeyboardError> {
        let typing = async {
            let _turn = self.turn.lock().await;
            for stroke in strokes {
                let keys = stroke.qcodes().map(|code| json!({ "type": "qcode", "data": code }));
                let keys: Vec<Value> = keys.collect();
                // QEMU waits behind each press and each release.
                let lasts = CHANGE * 2 * u32::try_from(keys.len()).expect("a stroke is a few keys");
                let arguments = json!({ "keys": keys, "hold-time": CHANGE.as_millis() as u64 });
                match self.machine()?.execute_raw("send-key", arguments, deadline).await {
                    Err(MonitorError::Closed { .. }) => return Err(self.not_running()),
                    pressed => pressed?,
                };
                tokio::time::sleep(lasts).await; // sleep: what a keyboard can buffer is small; see `CHANGE`
            }
            Ok(())
        };
        deadline.bound(typing).await?
    }

    fn machine(&self) -> Result<Contact, KeyboardError> {
        let machine = self.machine.borrow().clone().ok_or_else(|| self.not_running())?;
        match machine.state() {
            Some(SystemState::Running) => Ok(machine),
            Some(SystemState::Broken) => Err(KeyboardError::Player { board: self.board.clone() }),
            Some(SystemState::Halted) | None => Err(self.not_running()),
        }
    }

    fn not_running(&self) -> KeyboardError {
        KeyboardError::NotRunning { board: self.board.clone() }
    }
}
