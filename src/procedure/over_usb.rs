//! The procedures `usb-boot` and `recovery`: the medium stays in the board, which shows it to the host while its
//! boot ROM waits. Called by [`super::flash`] alone.
//!
//! They differ in who speaks over the cable: with `usb-boot` the board becomes a USB disk, with `recovery` a tool of
//! its vendor writes. On a stand-in both are the same state of switch, port and mains.

use crate::deadline::Deadline;
use crate::device::boot_switch::SwitchPosition;
use crate::device::{Device, DeviceError};
use crate::io::image::Image;

/// Mains off, switch operated, port on, mains on; write and verify; mains off, and both as before.
///
/// Failed, it leaves mains off, and switch and port as before; what was begun to be written is unknown. Cancelled, it
/// leaves them as they are; the next flash begins with mains off.
pub(super) async fn write(device: &mut Device, image: &Image) -> Result<(), DeviceError> {
    device.power_off().await?;
    operate(device, SwitchPosition::Flash, true)?;
    let written = write_shown(device, image).await;
    // Mains go first: a board that still waits would start what it holds once its switch is back.
    let off = device.power_off().await;
    operate(device, SwitchPosition::Normal, false)?;
    written.and(off)
}

async fn write_shown(device: &mut Device, image: &Image) -> Result<(), DeviceError> {
    // No machine is started for it, so it takes no time.
    device.power_on(Deadline::after(std::time::Duration::from_secs(1))).await?;
    let medium = device.medium_over_usb()?;
    Ok(device.storage.flash(&medium, image).await?)
}

fn operate(device: &mut Device, position: SwitchPosition, port_on: bool) -> Result<(), DeviceError> {
    if device.board.has_boot_switch() {
        device.set_boot_switch(position)?;
    }
    Ok(device.set_usb_port(port_on)?)
}
