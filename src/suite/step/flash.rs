//! The step `flash`: the image of the run, or one that the suite brings along, by the board's own procedure.

use super::super::{FlashSource, FlashStep};
use super::{Scene, StepError};
use crate::deadline::{Deadline, Elapsed};
use crate::device::Fault;
use crate::io::image::{Image, ImageError};
use crate::procedure::{self, FlashError, Order};
use crate::sys::blocking::blocking;

impl From<FlashError> for StepError {
    fn from(error: FlashError) -> Self {
        Self::of(error.fault(), &error)
    }
}

/// Cancelled, it leaves the device as [`procedure::flash_as`] does.
pub(super) async fn flash(
    scene: &mut Scene<'_>,
    step: &FlashStep,
    deadline: Deadline,
) -> Result<(), StepError> {
    let opened;
    let (image, edits) = match &step.source {
        FlashSource::Image => {
            let missing = || StepError::impossible("no image was given to be flashed");
            (scene.options.image.ok_or_else(missing)?, scene.options.edits)
        }
        FlashSource::File(path) => {
            let (path, cache) = (path.clone(), scene.options.images.clone());
            let medium = scene.device.board.flash_medium();
            let (medium, capacity) = (medium.name.clone(), medium.size.0);
            let open = blocking(move || Image::open(&path, &cache, &medium, capacity));
            let late =
                |Elapsed { given }| StepError::Broken(format!("the image was not read within {given:?}"));
            let fault = |error: &ImageError| if error.is_users() { Fault::User } else { Fault::Lab };
            let opening = deadline.bound(open).await.map_err(late)?;
            opened = opening.map_err(|error| StepError::of(fault(&error), &error))?;
            (&opened, &[][..])
        }
    };
    let order = Order {
        installer: step.installer.unwrap_or(scene.options.installer),
        ends: step.ends,
        install_within: step.within,
        edits,
        deadline,
    };
    Ok(procedure::flash_as(scene.device, image, &order).await?)
}
