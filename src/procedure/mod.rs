//! How an operating system gets onto a board: the flash procedures of the field, on parts only.
//!
//! Suites and the doors call [`flash`]; it leaves the power off.

mod sd;

use crate::board::FlashProcedure;
use crate::device::{Device, DeviceError};
use crate::event::EventKind;
use crate::io::image::Image;

/// Flashes `image` by the board's own procedure: power off, write the medium and verify it, forget what the
/// firmware has learnt. The power is off afterwards.
///
/// A plain image on a board that is flashed by an installer runs from the installer's medium, as it does on
/// real ones. Failed or cancelled, it leaves the medium unknown, and power-on refuses it until the next flash.
pub async fn flash(device: &mut Device, image: &Image) -> Result<(), DeviceError> {
    let board = device.board.clone();
    let medium = &board.flash.medium;
    match board.flash.procedure {
        FlashProcedure::Sd | FlashProcedure::Flasher => sd::write(device, medium, image).await?,
    }
    device.reset_firmware()?;
    device.events.record(EventKind::Flashed { medium: medium.clone(), digest: image.digest.clone() });
    Ok(())
}
