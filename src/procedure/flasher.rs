//! The procedure `flasher`, once its medium is written: the installer runs, and writes what the board boots from.
//! Called by [`super::flash`] alone.

use std::fs::File;
use std::time::Duration;

use super::{FlashError, InstallerChoice, Order};
use crate::board::{InstallEnd, Installer};
use crate::deadline::{Deadline, Elapsed};
use crate::device::boot_switch::SwitchPosition;
use crate::device::{Device, DeviceError};
use crate::event::{EventKind, Origin};
use crate::io::image::Image;
use crate::io::installer::is_installer;
use crate::sys::blocking::blocking;

/// How long QEMU may take to start, or to answer: milliseconds, where the machine is idle.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Whether the image is to be run as an installer.
pub(super) async fn is_wanted(image: &Image, choice: InstallerChoice) -> Result<bool, FlashError> {
    match choice {
        InstallerChoice::Yes => Ok(true),
        InstallerChoice::No => Ok(false),
        InstallerChoice::Auto => {
            let path = image.base().path();
            blocking(move || is_installer(&mut File::open(path)?)).await.map_err(FlashError::Look)
        }
    }
}

/// Runs the installer that was written, until it says by the board's power that it is done; then takes its medium
/// out, and makes sure that it has written the other one.
///
/// The power is off afterwards and the boot switch back. Failed, it leaves both media unknown. Cancelled, it leaves
/// the installer running as well; the next flash or power-off ends it.
pub(super) async fn install(
    device: &mut Device,
    installer: &Installer,
    image: &Image,
    order: &Order<'_>,
) -> Result<(), FlashError> {
    let carrier = device.board.flash.medium.clone();
    let ends = order.ends.unwrap_or(installer.ends);
    // One that resets has rewritten what it runs from; an order may say so where the board's file does not.
    let target = if ends == InstallEnd::Reset { &carrier } else { &installer.medium };
    let deadline = order.deadline.within(order.install_within.unwrap_or(installer.deadline));
    if device.board.has_boot_switch() {
        device.set_boot_switch(SwitchPosition::Flash).map_err(DeviceError::from)?;
    }
    device.storage.begin_installation(&carrier, target);
    let written = run(device, target, ends, deadline).await;
    let off = device.power_off().await;
    if device.board.has_boot_switch() {
        device.set_boot_switch(SwitchPosition::Normal).map_err(DeviceError::from)?;
    }
    let written_bytes = written?;
    off?;
    device.storage.end_installation(&carrier, target, &image.digest);
    if *target != carrier {
        device.remove_medium(Some(&carrier), deadline).await?;
    }
    let (medium, digest) = (target.clone(), image.digest.clone());
    device.events.record(EventKind::Installed { medium, digest, written_bytes });
    Ok(())
}

/// Starts the installer and waits for its end; how many bytes it has written to `target`.
async fn run(
    device: &mut Device,
    target: &str,
    ends: InstallEnd,
    deadline: Deadline,
) -> Result<u64, FlashError> {
    let seen = device.events.len();
    // A machine that does not start is the lab's fault, however little time the installer is given.
    device.start_installer(Deadline::after(ANSWER_WITHIN)).await?;
    wait_for_end(device, seen, ends, deadline).await?;
    match device.written_bytes(target, Deadline::after(ANSWER_WITHIN)).await? {
        0 => {
            let what = format!("ended as if it were done, and has not written medium `{target}`");
            Err(not_installed(device, what))
        }
        bytes => Ok(bytes),
    }
}

async fn wait_for_end(
    device: &mut Device,
    seen: usize,
    ends: InstallEnd,
    deadline: Deadline,
) -> Result<(), FlashError> {
    let events = device.events.clone();
    let mut next = seen;
    let mut resets = 0;
    loop {
        let says_something = |kind: &EventKind| {
            let of_power =
                matches!(kind, EventKind::Halt { .. } | EventKind::Reset { .. } | EventKind::Panic);
            of_power || kind.lab_fault().is_some()
        };
        let event = match events.wait_for(next, deadline, says_something).await {
            Ok(event) => event,
            Err(Elapsed { given }) => {
                // Silence is the DUT's only if its player is not silent.
                device.check_player(Deadline::after(ANSWER_WITHIN)).await?;
                let word = if ends == InstallEnd::Reset { "reset the board" } else { "power the board off" };
                let resets =
                    if resets > 0 { format!(" (it reset it {resets} times)") } else { String::new() };
                return Err(not_installed(device, format!("did not {word} within {given:?}{resets}")));
            }
        };
        next = event.id + 1;
        if let Some(reason) = event.kind.lab_fault() {
            return Err(FlashError::Lab { reason: reason.to_owned() });
        }
        match (event.kind, ends) {
            (EventKind::Halt { by: Origin::Guest }, InstallEnd::PowerOff)
            | (EventKind::Reset { by: Origin::Guest }, InstallEnd::Reset) => return Ok(()),
            (EventKind::Halt { by: Origin::Guest }, InstallEnd::Reset) => {
                return Err(not_installed(
                    device,
                    "powered the board off instead of resetting it".to_owned(),
                ));
            }
            (EventKind::Halt { by: Origin::Host }, _) => {
                let reason = "somebody else ended the machine".to_owned();
                return Err(FlashError::Lab { reason });
            }
            (EventKind::Panic, _) => return Err(not_installed(device, "panicked".to_owned())),
            // A firmware, or the installer itself, may start again before it is done.
            _ => resets += 1,
        }
    }
}

fn not_installed(device: &mut Device, what: String) -> FlashError {
    match device.console() {
        Ok(console) => FlashError::NotInstalled { what, last: Box::new(console.last_seen()) },
        Err(error) => FlashError::Device(error.into()),
    }
}
