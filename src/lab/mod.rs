//! Who plays a board here, and the device made of it.
//!
//! The doors choose a [`Player`] once by [`player::choose`], and open a device for each hold by
//! [`open_stand_in`]. The device is closed by whoever holds it; its files lie in the run's directory.

pub mod accelerator;
mod address;
pub mod player;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::board::Board;
use crate::device::Device;
use crate::device::console::Console;
use crate::device::power::{Player, Power};
use crate::device::storage::{Storage, StorageError};
use crate::event::EventLog;
use crate::sys::serial_line::SerialLine;

/// Where the files of one hold go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What a person wants to see afterwards: the console's logs, QEMU's own words.
    pub evidence: PathBuf,
    /// Media and firmware variables, which have no worth after the hold.
    pub scratch: PathBuf,
}

impl Places {
    /// Makes both directories.
    pub fn create(evidence: &Path, scratch: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(evidence)?;
        std::fs::create_dir_all(scratch)?;
        Ok(Self { evidence: evidence.to_owned(), scratch: scratch.to_owned() })
    }
}

/// A device could not be opened: the lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A serial line.
    #[error("cannot open serial line `{name}`")]
    Serial {
        /// Its name in the board file.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A medium.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No loopback address has the forwarded ports free.
    #[error("cannot find a loopback address for the forwarded ports")]
    Address(#[source] io::Error),
}

/// A stand-in of `board`: off, with blank media, no process yet. `forwards` are the DUT's TCP ports that this
/// host is to reach. Must be called inside a tokio runtime.
pub fn open_stand_in(
    board: Arc<Board>,
    player: Player,
    places: &Places,
    forwards: Vec<u16>,
) -> Result<Device, OpenError> {
    let events = EventLog::default();
    let mut far_ends = Vec::new();
    let mut consoles = Vec::new();
    for line in &board.serial {
        let failed = |source| OpenError::Serial { name: line.name.clone(), source };
        let (far, near) = SerialLine::open().map_err(failed)?;
        let logs = places.evidence.join(&line.name);
        std::fs::create_dir_all(&logs).map_err(failed)?;
        consoles.push(Console::open(near, &logs).map_err(failed)?);
        far_ends.push(far);
    }
    let storage = Storage::create(&board, &places.scratch)?;
    let dirs = (places.scratch.as_path(), places.evidence.as_path());
    let reach = address::claim(forwards).map_err(OpenError::Address)?;
    let power = Power::new(board.clone(), player, far_ends, reach, dirs, events.clone());
    Ok(Device::new(board, events, storage, power, consoles))
}
