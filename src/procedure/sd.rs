//! The procedure `sd`: the host writes the card that the board runs from. Called by [`super::flash`] alone.

use crate::device::{Device, DeviceError};
use crate::io::image::Image;

/// Power off, card to the host, write and verify, card back to the DUT.
///
/// Failed or cancelled, it leaves the medium unknown, and perhaps at the host; the next flash brings it back.
pub(super) async fn write(device: &mut Device, medium: &str, image: &Image) -> Result<(), DeviceError> {
    device.medium_to_host(medium).await?;
    device.storage.flash(medium, image).await?;
    device.medium_to_dut(medium);
    Ok(())
}
