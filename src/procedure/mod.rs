//! How an operating system gets onto a board: the flash procedures of the field, on parts only.
//!
//! Suites and the doors call [`flash`]; it leaves the power off. Each procedure is a file of its own. None of them
//! sleeps: what hardware needs time for is a key in the board's file, and a stand-in has no capacitors to drain.

mod flasher;
mod over_usb;
mod sd;

use std::io;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::board::{Board, FlashProcedure, InstallEnd, word};
use crate::deadline::{Deadline, Elapsed};
use crate::device::console::LastSeen;
use crate::device::{Device, DeviceError, Fault};
use crate::event::EventKind;
use crate::io::image::Image;
use crate::io::prepare::Edit;

/// What is asked of a flash besides the image.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Whether the image is an installer.
    pub installer: InstallerChoice,
    /// How an installer says that it is done; `None` is what the board's file says.
    pub ends: Option<InstallEnd>,
    /// How long an installer may take; `None` is what the board's file says.
    pub install_within: Option<Duration>,
    /// What is changed on the medium before the board gets it; not on the image.
    pub edits: &'a [Edit],
    /// When all of it must be done.
    pub deadline: Deadline,
}

/// Whether the image is an installer, which is run, or a plain one, which is left to be started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstallerChoice {
    /// What is in the image tells; only a board that is flashed by installers looks.
    #[default]
    Auto,
    /// It is one.
    Yes,
    /// It is none.
    No,
}

/// A board could not be flashed.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// A part failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Nobody can tell what kind of image it is.
    #[error("cannot look for an installer in the image")]
    Look(#[source] io::Error),
    /// The time was over before anything ran.
    #[error("the image was not written")]
    NotWritten(#[source] Elapsed),
    /// An installer was asked for where there is no medium to install to.
    #[error("{board} is not flashed by an installer: its procedure is `{procedure}`")]
    NoInstaller {
        /// The board's slug.
        board: String,
        /// Its procedure.
        procedure: String,
    },
    /// The lab failed under the installer.
    #[error("the lab failed while the installer ran: {reason}")]
    Lab {
        /// What an event said.
        reason: String,
    },
    /// The installer did not do its part.
    #[error("the installer {what}: {last}")]
    NotInstalled {
        /// What it did instead.
        what: String,
        /// What the console showed last.
        last: Box<LastSeen>,
    },
}

impl FlashError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Device(error) => error.fault(),
            Self::Look(_) | Self::NotWritten(_) | Self::Lab { .. } => Fault::Lab,
            Self::NoInstaller { .. } => Fault::User,
            Self::NotInstalled { .. } => Fault::Dut,
        }
    }
}

impl Order<'_> {
    /// What the board's file says, until `deadline`.
    pub fn until(deadline: Deadline) -> Self {
        Self { installer: InstallerChoice::Auto, ends: None, install_within: None, edits: &[], deadline }
    }
}

/// Nobody waits for a flash for longer than a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Flashes `image` as the board's file says. See [`flash_as`].
pub async fn flash(device: &mut Device, image: &Image) -> Result<(), FlashError> {
    flash_as(device, image, &Order::until(Deadline::after(LONGEST))).await
}

/// Whether an installer can be run on the board at all.
pub fn check_installs(board: &Board) -> Result<(), FlashError> {
    match board.flash.installer {
        Some(_) => Ok(()),
        None => Err(FlashError::NoInstaller {
            board: board.slug.clone(),
            procedure: word(&board.flash.procedure),
        }),
    }
}

/// Flashes `image` by the board's own procedure: power off, write the medium and verify it, forget what the
/// firmware has learnt, and run the installer if it is one. The power is off afterwards.
///
/// A plain image on a board that is flashed by an installer runs from the installer's medium, as it does on
/// real ones. Failed or cancelled, it leaves what was to be written unknown, and power-on refuses it until the next
/// flash.
pub async fn flash_as(device: &mut Device, image: &Image, order: &Order<'_>) -> Result<(), FlashError> {
    let board = device.board.clone();
    let (procedure, medium) = (board.flash.procedure, &board.flash.medium);
    if order.installer == InstallerChoice::Yes {
        check_installs(&board)?;
    }
    let written = async {
        match procedure {
            FlashProcedure::Sd | FlashProcedure::Flasher => sd::write(device, medium, image).await,
            FlashProcedure::UsbBoot | FlashProcedure::Recovery => over_usb::write(device, image).await,
        }
    };
    order.deadline.bound(written).await.map_err(FlashError::NotWritten)??;
    device.reset_firmware()?;
    device.events.record(EventKind::Flashed { medium: medium.clone(), digest: image.digest.clone() });
    if let Err(error) = device.prepare(Some(medium), order.edits).await {
        // Nobody asked for what stands there now.
        device.storage.distrust(medium);
        return Err(error.into());
    }
    match &board.flash.installer {
        Some(installer) if flasher::is_wanted(image, order.installer).await? => {
            flasher::install(device, installer, image, order).await
        }
        _ => Ok(()),
    }
}
