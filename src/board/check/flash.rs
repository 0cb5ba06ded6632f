//! Whether a board can be flashed as its file says: the rules of its `[flash]` section.
//!
//! Called by [`super::board`] alone. Pure; nothing to clean up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::known_medium;
use crate::board::file::{BoardFile, FlashFile, MediumFile};
use crate::board::{BootSwitch, Flash, FlashProcedure, InstallEnd, Installer, MediumKind, word};
use crate::document::{Document, one_of};

/// As long as leviathan's client waits for a flash: 60 times 25 s (`FLASH_TIMEOUT_TRIES`, core/lib/common/worker.js).
const INSTALL_DEADLINE: Duration = Duration::from_secs(60 * 25);

pub(super) fn check(document: &mut Document<'_>, file: &BoardFile) {
    installer(document, file);
    let Some(name) = &file.flash.medium else { return };
    if !known_medium(document, "flash.medium", name) {
        return;
    }
    match file.flash.procedure {
        Some(procedure) if procedure.goes_over_usb() => over_usb(document, file, procedure),
        _ => at_the_host(document, file, name),
    }
}

/// What the host writes in its own slot.
fn at_the_host(document: &mut Document<'_>, file: &BoardFile, name: &str) {
    let Some(medium) = file.media.get(name) else { return };
    // A disk that was never real lies on the host anyway.
    if medium.removable == Some(false) && medium.kind.is_some_and(|kind| kind != MediumKind::Virtio) {
        document.complain_with_hint(
            "flash.medium",
            format!("expected a removable medium, found `{name}`, which nobody can take to the host"),
            "name the medium that carries the installer, with `procedure = \"flasher\"`",
        );
    }
    let earlier = file.boot_order.iter().take_while(|other| *other != name).last();
    if let (Some(earlier), None) = (earlier, file.flash.switch) {
        let message = format!(
            "expected what makes the board boot `{name}`, as `{earlier}` comes before it in boot_order"
        );
        let switches = one_of_switches(&[BootSwitch::Button, BootSwitch::Jumper, BootSwitch::FirmwareMenu]);
        let hint = format!("put `{name}` first in `boot_order`, or say what is operated: {switches}");
        document.complain_with_hint("flash.switch", message, hint);
    }
    if file.flash.switch == Some(BootSwitch::UsbPower) {
        let procedures = [FlashProcedure::UsbBoot, FlashProcedure::Recovery].map(|one| word(&one));
        let hint = format!("it goes with {}", one_of(procedures.iter().map(String::as_str)));
        let message = "`usb-power` makes a board show its medium over USB, and this one is flashed otherwise";
        document.complain_with_hint("flash.switch", message, hint);
    }
}

/// What the board shows through its USB boot port.
fn over_usb(document: &mut Document<'_>, file: &BoardFile, procedure: FlashProcedure) {
    let switches = [BootSwitch::Button, BootSwitch::Jumper, BootSwitch::UsbPower];
    if !file.flash.switch.is_some_and(|switch| switches.contains(&switch)) {
        let found = file.flash.switch.map_or("none".to_owned(), |switch| format!("`{}`", word(&switch)));
        document.complain(
            "flash.switch",
            format!(
                "expected what makes the board wait for `{}`, one of {}, found {found}",
                word(&procedure),
                one_of_switches(&switches)
            ),
        );
    }
}

fn one_of_switches(switches: &[BootSwitch]) -> String {
    let words: Vec<String> = switches.iter().map(word).collect();
    one_of(words.iter().map(String::as_str))
}

fn installer(document: &mut Document<'_>, file: &BoardFile) {
    let flash = &file.flash;
    if flash.procedure.is_some_and(|procedure| procedure != FlashProcedure::Flasher) {
        for key in document.keys("flash").iter().filter(|key| key.starts_with("install")) {
            document.complain_with_hint(
                &format!("flash.{key}"),
                "only an installer has it",
                "it goes with `procedure = \"flasher\"`",
            );
        }
        return;
    }
    if flash.install_deadline.is_some_and(|deadline| deadline.0.is_zero()) {
        document.complain("flash.install_deadline", "expected more than no time at all, found `0s`");
    }
    if flash.procedure.is_none() {
        return;
    }
    let fixed: Vec<&str> = fixed(&file.media).collect();
    match (&flash.installs_to, flash.install_ends.unwrap_or(InstallEnd::PowerOff)) {
        (Some(name), ends) => {
            if known_medium(document, "flash.installs_to", name)
                && (flash.medium.as_ref() == Some(name)) != (ends == InstallEnd::Reset)
            {
                document.complain_with_hint(
                    "flash.installs_to",
                    format!("`{name}` does not go with `install_ends = \"{}\"`", word(&ends)),
                    "an installer that resets rewrites the medium it runs from, one that powers off another one",
                );
            }
        }
        (None, InstallEnd::Reset) => {}
        (None, InstallEnd::PowerOff) => match fixed.as_slice() {
            [_] => {}
            [] => document.complain_with_hint(
                "flash.procedure",
                "`flasher` needs a medium that is not removable, to install to",
                "use `sd` if the flashed medium is the one that the board runs from",
            ),
            several => document.complain(
                "flash.installs_to",
                format!("expected the medium that an installer writes: {}", one_of(several.iter().copied())),
            ),
        },
    }
}

fn fixed(media: &BTreeMap<String, MediumFile>) -> impl Iterator<Item = &str> {
    media.iter().filter(|(_, medium)| medium.removable != Some(true)).map(|(name, _)| name.as_str())
}

/// The section, if every required key is there.
pub(super) fn build(file: FlashFile, media: &BTreeMap<String, MediumFile>) -> Option<Flash> {
    let (procedure, medium) = (file.procedure?, file.medium?);
    let ends = file.install_ends.unwrap_or(InstallEnd::PowerOff);
    let installer = match procedure {
        FlashProcedure::Flasher => Some(Installer {
            medium: match (file.installs_to, ends) {
                (Some(name), _) => name,
                (None, InstallEnd::Reset) => medium.clone(),
                (None, InstallEnd::PowerOff) => fixed(media).next()?.to_owned(),
            },
            ends,
            deadline: file.install_deadline.map_or(INSTALL_DEADLINE, |deadline| deadline.0),
        }),
        FlashProcedure::Sd | FlashProcedure::UsbBoot | FlashProcedure::Recovery => None,
    };
    Some(Flash { procedure, medium, switch: file.switch, installer })
}
