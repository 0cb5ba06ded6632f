//! Why power could not be switched. Plain data.

use std::io;
use std::path::PathBuf;

use super::super::storage::StorageError;
use crate::deadline::Elapsed;
use crate::qemu::boot_rom::BootRomError;
use crate::qemu::machine::MachineError;

/// Power could not be switched.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// QEMU failed us.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A medium must not be used.
    #[error("cannot power on")]
    Storage(#[from] StorageError),
    /// The stage that standin plays for the board's boot ROM found nothing that it could start.
    #[error(transparent)]
    BootRom(#[from] BootRomError),
    /// The boot ROM looks into one slot, and that is empty.
    #[error("{board} has nothing to boot from: medium `{medium}` is out")]
    NoMedium {
        /// The board's slug.
        board: String,
        /// The medium's name in the board file.
        medium: String,
    },
    /// A file that the firmware needs cannot be made.
    #[error("cannot prepare firmware file {path}")]
    Firmware {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The place of the second monitor cannot be cleared.
    #[error("cannot clear {path} for QEMU's second monitor")]
    SideDoor {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A dump of the screen that was left behind cannot be removed.
    #[error("cannot remove the dump of the screen {path}")]
    Dump {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no button to press.
    #[error("{board} has no power button")]
    NoButton {
        /// The board's slug.
        board: String,
    },
    /// There is nothing to press or reset: mains are off.
    #[error("cannot {action} {board}: its mains are off")]
    NoMains {
        /// What was attempted.
        action: &'static str,
        /// The board's slug.
        board: String,
    },
    /// The reset was asked for and not seen.
    #[error("QEMU took the reset and did not carry it out")]
    ResetNotSeen(#[source] Elapsed),
    /// The removal of a stick was asked for and not seen.
    #[error("QEMU took the order to remove medium `{medium}` and did not carry it out")]
    RemovalNotSeen {
        /// The medium's name in the board file.
        medium: String,
        /// How long it was given.
        #[source]
        source: Elapsed,
    },
}
