//! What a suite can ask of a device under test, as one closed list of names.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Board, MediumKind};

/// Something that a suite or a test may need; what is missing is named when a test is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// A serial console.
    Serial,
    /// A power button.
    PowerButton,
    /// A reset line.
    Reset,
    /// A wired network.
    Network,
    /// A Wi-Fi radio.
    Wifi,
    /// A Bluetooth radio.
    Bluetooth,
    /// A screen that can be captured.
    Screen,
    /// A keyboard that can be typed on.
    Keyboard,
    /// Lights that can be seen.
    Led,
    /// An SD card slot.
    SdCard,
    /// A socket for USB media.
    UsbMedium,
    /// A medium that can be taken out.
    RemovableMedium,
    /// A medium that cannot be taken out.
    InternalMedium,
    /// A boot switch, a jumper or a firmware menu that chooses the boot path.
    BootSwitch,
    /// A USB port through which the host writes the board's medium.
    UsbBootPort,
    /// Panics of the operating system are reported as events.
    PanicEvent,
    /// A watchdog that can reset the board.
    Watchdog,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::word(self))
    }
}

impl Board {
    /// What the real board has, whoever plays it.
    pub fn capabilities(&self) -> Vec<Capability> {
        let media = |wanted: fn(&super::Medium) -> bool| self.media.iter().any(wanted);
        let all = [
            (Capability::Serial, !self.serial.is_empty()),
            (Capability::PowerButton, self.power.button_hold.is_some()),
            (Capability::Reset, true),
            (Capability::Network, !self.network.is_empty()),
            (Capability::Wifi, self.facts.wifi),
            (Capability::Bluetooth, self.facts.bluetooth),
            (Capability::Screen, self.screen.is_some()),
            (Capability::Keyboard, self.keyboard.is_some()),
            (Capability::Led, !self.leds.is_empty()),
            (Capability::SdCard, media(|medium| medium.kind == MediumKind::Sd)),
            (Capability::UsbMedium, media(|medium| medium.kind == MediumKind::Usb)),
            (Capability::RemovableMedium, media(|medium| medium.removable)),
            (Capability::InternalMedium, media(|medium| !medium.removable)),
            (Capability::BootSwitch, self.has_boot_switch()),
            (Capability::UsbBootPort, self.flash.procedure.goes_over_usb()),
            (Capability::Watchdog, self.qemu.watchdog.is_some()),
        ];
        all.into_iter().filter_map(|(capability, present)| present.then_some(capability)).collect()
    }

    /// What its stand-in has: QEMU plays no radios, and nobody sees lights. Panics are told by a device that no real
    /// board has.
    pub fn stand_in_capabilities(&self) -> Vec<Capability> {
        use Capability::{Bluetooth, Led, Wifi};
        let absent = [Wifi, Bluetooth, Led];
        let played = self.capabilities().into_iter().filter(|capability| !absent.contains(capability));
        played.chain(self.qemu.panic_device.then_some(Capability::PanicEvent)).collect()
    }
}
