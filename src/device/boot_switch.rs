//! What chooses how a board starts: its boot switch, and the power of its USB boot port.
//!
//! Suites and flash procedures operate both on [`Device`]; the positions are the stand-in's own state, and are read
//! when power comes, as a boot ROM does. Nothing to clean up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, DeviceError, NotFitted};
use crate::board::{BootSwitch, word};
use crate::event::EventKind;

/// Where a boot switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchPosition {
    /// The board starts what it runs.
    Normal,
    /// The board starts from the medium that is flashed, or shows it over USB.
    Flash,
}

/// Why a board shows its medium to nobody. The user's fault: somebody has to operate what is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsbBootError {
    /// Nobody fed the cable.
    #[error("{board} shows no medium over USB: its USB boot port has no power")]
    NoPortPower {
        /// The board's slug.
        board: String,
    },
    /// It does not run at all.
    #[error("{board} shows no medium over USB: its mains are off")]
    NoMains {
        /// The board's slug.
        board: String,
    },
    /// It has started what it runs.
    #[error("{board} shows no medium over USB: {reason} when its power came")]
    Started {
        /// The board's slug.
        board: String,
        /// What was not as it must be.
        reason: String,
    },
    /// It waits for its flash, and has nothing to press or reset.
    #[error("cannot {action} {board}: it waits in its boot ROM for what comes over USB")]
    Waits {
        /// What was attempted.
        action: &'static str,
        /// The board's slug.
        board: String,
    },
}

/// The state of both.
#[derive(Debug)]
pub(super) struct BootPath {
    switch: SwitchPosition,
    port_power: bool,
    /// Whether the boot ROM took the way over USB when power came; it stays there until power goes.
    waits: bool,
}

impl BootPath {
    /// Of a board that lies on a shelf.
    pub(super) fn new() -> Self {
        Self { switch: SwitchPosition::Normal, port_power: false, waits: false }
    }
}

impl Device {
    /// Operates the boot switch; there already is no event. It is read when power comes.
    pub fn set_boot_switch(&mut self, position: SwitchPosition) -> Result<(), NotFitted> {
        if !self.board.has_boot_switch() {
            return Err(NotFitted { part: "boot switch", board: self.board.slug.clone() });
        }
        if self.boot_path.switch != position {
            self.boot_path.switch = position;
            self.events.record(EventKind::BootSwitch { position: word(&position) });
        }
        Ok(())
    }

    /// Switches the power of the USB boot port; as it is already is no event.
    pub fn set_usb_port(&mut self, on: bool) -> Result<(), NotFitted> {
        if !self.board.flash.procedure.goes_over_usb() {
            return Err(NotFitted { part: "USB boot port", board: self.board.slug.clone() });
        }
        if self.boot_path.port_power != on {
            self.boot_path.port_power = on;
            self.events.record(if on { EventKind::UsbPortOn } else { EventKind::UsbPortOff });
        }
        Ok(())
    }

    /// The medium that the board shows over USB now; an error that says what keeps it from that.
    pub fn medium_over_usb(&self) -> Result<String, DeviceError> {
        let board = self.board.slug.clone();
        if !self.board.flash.procedure.goes_over_usb() {
            return Err(NotFitted { part: "USB boot port", board }.into());
        }
        if !self.boot_path.port_power {
            return Err(UsbBootError::NoPortPower { board }.into());
        }
        if !self.power.has_mains() {
            return Err(UsbBootError::NoMains { board }.into());
        }
        if !self.boot_path.waits {
            let reason = match self.board.flash.switch {
                Some(BootSwitch::Button) => "its button was not held",
                Some(BootSwitch::Jumper) => "its jumper was not set",
                Some(BootSwitch::UsbPower) | Some(BootSwitch::FirmwareMenu) | None => {
                    "its USB boot port had no power"
                }
            };
            return Err(UsbBootError::Started { board, reason: reason.to_owned() }.into());
        }
        Ok(self.board.flash.medium.clone())
    }

    /// Reads the switch as power comes: whether the boot ROM waits for USB instead of starting a system.
    pub(super) fn take_boot_path(&mut self) -> bool {
        let over_usb = self.board.flash.procedure.goes_over_usb();
        self.boot_path.waits = over_usb
            && match self.board.flash.switch {
                Some(BootSwitch::UsbPower) => self.boot_path.port_power,
                _ => self.boot_path.switch == SwitchPosition::Flash,
            };
        self.boot_path.waits
    }

    /// Power went, and with it what the boot ROM had chosen.
    pub(super) fn forget_boot_path(&mut self) {
        self.boot_path.waits = false;
    }

    /// An error if the board waits in its boot ROM, where nothing can be pressed or reset.
    pub(super) fn check_not_waiting(&self, action: &'static str) -> Result<(), UsbBootError> {
        match self.boot_path.waits {
            true => Err(UsbBootError::Waits { action, board: self.board.slug.clone() }),
            false => Ok(()),
        }
    }

    /// The medium that the boot switch puts before all others.
    pub(super) fn boots_first(&self) -> Option<String> {
        let flash = self.boot_path.switch == SwitchPosition::Flash;
        flash.then(|| self.board.flash.medium.clone())
    }
}
