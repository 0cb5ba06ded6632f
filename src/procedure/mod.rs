//! How an operating system gets onto a board: the flash procedures of the field, on parts only.
//!
//! Suites and the doors call [`flash`], or [`flash_and_prepare`]; both leave the power off.

use crate::board::FlashProcedure;
use crate::device::{Device, DeviceError};
use crate::event::EventKind;
use crate::io::image::Image;
use crate::io::prepare::Edit;

/// Flashes `image` by the board's own procedure: power off, write the medium and verify it, forget what the
/// firmware has learnt. The power is off afterwards.
///
/// A plain image on a board that is flashed by an installer runs from the installer's medium, as it does on
/// real ones. Failed or cancelled, it leaves the medium unknown, and power-on refuses it until the next flash.
pub async fn flash(device: &mut Device, image: &Image) -> Result<(), DeviceError> {
    flash_and_prepare(device, image, &[]).await
}

/// The same, and makes these changes of the medium before the board gets it; not of the image.
pub async fn flash_and_prepare(
    device: &mut Device,
    image: &Image,
    edits: &[Edit],
) -> Result<(), DeviceError> {
    let board = device.board.clone();
    let medium = &board.flash.medium;
    device.power_off().await?;
    match board.flash.procedure {
        FlashProcedure::Sd | FlashProcedure::Flasher => device.storage.flash(medium, image).await?,
    }
    device.reset_firmware()?;
    device.events.record(EventKind::Flashed { medium: medium.clone(), digest: image.digest.clone() });
    if let Err(error) = device.prepare(Some(medium), edits).await {
        // Nobody asked for what stands there now.
        device.storage.distrust(medium);
        return Err(error);
    }
    Ok(())
}
