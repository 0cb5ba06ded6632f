//! The device under test: a board and its parts, each played by QEMU or, on a bench, real.
//!
//! A part that is not fitted is `None`; asking for it is an error that names board and part. `lab` makes a
//! device and closes it; everything above drives it through `&mut`.

pub mod boot_switch;
pub mod capture;
pub mod console;
pub mod keyboard;
pub mod media;
pub mod network;
pub mod operate;
pub mod power;
pub mod prepare;
pub mod screen;
pub mod storage;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use crate::board::{Board, Capability};
use crate::deadline::Deadline;
use crate::event::EventLog;
use crate::qemu::boot_rom::BootRomError;
use boot_switch::{BootPath, UsbBootError};
use console::{Console, ConsoleError, Tap};
use keyboard::{Keyboard, KeyboardError};
use media::MoveError;
use network::HostKeys;
use power::{Power, PowerError, PowerState, Setup};
use prepare::MediumError;
use screen::{Screen, ScreenError};
use storage::{Storage, StorageError};

/// The device under test.
#[derive(Debug)]
pub struct Device {
    /// Its kind.
    pub board: Arc<Board>,
    /// What happened to it, seen by all of its parts.
    pub events: EventLog,
    /// Its media.
    pub storage: Storage,
    power: Power,
    boot_path: BootPath,
    /// One for each serial line; the first is the console.
    consoles: Vec<Console>,
    host_keys: HostKeys,
    screen: Option<Screen>,
    keyboard: Option<Keyboard>,
}

/// A part that this device does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{board} has no {part}")]
pub struct NotFitted {
    /// The part.
    pub part: &'static str,
    /// The board's slug.
    pub board: String,
}

/// Whose fault it is that something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The DUT's: the test failed.
    Dut,
    /// The lab's: nothing is known of the DUT.
    Lab,
    /// The user's: what was asked for makes no sense on this board or host.
    User,
}

/// A part failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not there.
    #[error(transparent)]
    NotFitted(#[from] NotFitted),
    /// Power.
    #[error(transparent)]
    Power(#[from] PowerError),
    /// A medium.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What stands on a medium.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// A medium cannot be moved.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The board shows no medium over USB, or does nothing else.
    #[error(transparent)]
    UsbBoot(#[from] UsbBootError),
    /// The serial console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The screen.
    #[error(transparent)]
    Screen(#[from] ScreenError),
    /// The keyboard.
    #[error(transparent)]
    Keyboard(#[from] KeyboardError),
    /// A log of a serial line.
    #[error("cannot write the log of a serial line")]
    ConsoleLog(#[source] std::io::Error),
}

impl DeviceError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotFitted(_)
            | Self::Move(_)
            | Self::UsbBoot(_)
            | Self::Power(PowerError::NoButton { .. } | PowerError::NoMains { .. })
            | Self::Storage(StorageError::Unknown { .. })
            | Self::Power(PowerError::Storage(StorageError::Unknown { .. })) => Fault::User,
            Self::Storage(StorageError::Flash { source, .. }) if source.is_users() => Fault::User,
            Self::Power(PowerError::BootRom(BootRomError::NoBoot(_)) | PowerError::NoMedium { .. }) => {
                Fault::Dut
            }
            Self::Power(_) | Self::Storage(_) | Self::ConsoleLog(_) => Fault::Lab,
            Self::Keyboard(KeyboardError::NotRunning { .. }) => Fault::Dut,
            Self::Screen(_) | Self::Keyboard(_) => Fault::Lab,
            Self::Console(error) => error.fault(),
            Self::Medium(error) => error.fault(),
        }
    }
}

impl Device {
    /// A device from its parts; the power is off.
    pub fn new(
        board: Arc<Board>,
        events: EventLog,
        storage: Storage,
        power: Power,
        consoles: Vec<Console>,
    ) -> Self {
        let boot_path = BootPath::new();
        let screen = board.screen.is_some().then(|| Screen::new(power.present(), power.scratch().to_owned()));
        let keyboard = board.keyboard.is_some().then(|| Keyboard::new(power.present(), board.slug.clone()));
        let host_keys = HostKeys::default();
        Self { board, events, storage, power, boot_path, consoles, host_keys, screen, keyboard }
    }

    /// What this device has: what the board has, less what its player lacks.
    pub fn capabilities(&self) -> Vec<Capability> {
        self.board.stand_in_capabilities()
    }

    /// What the system does, and whether mains are on.
    pub fn power_state(&self) -> PowerState {
        self.power.state()
    }

    /// Gives mains; twice on is once. See [`Power::on`].
    pub async fn power_on(&mut self, deadline: Deadline) -> Result<(), DeviceError> {
        if self.power_state() != PowerState::Off {
            return Ok(());
        }
        self.switch_on(false, deadline).await
    }

    /// Gives mains to a DUT that is off and that an installer is going to write, whatever its media hold by now.
    pub async fn start_installer(&mut self, deadline: Deadline) -> Result<(), DeviceError> {
        self.switch_on(true, deadline).await
    }

    async fn switch_on(&mut self, installs: bool, deadline: Deadline) -> Result<(), DeviceError> {
        self.begin_consoles()?;
        if self.take_boot_path() {
            self.power.on_without_system();
            return Ok(());
        }
        let setup = Setup { storage: &self.storage, boots_first: self.boots_first(), installs };
        Ok(self.power.on(&setup, deadline).await?)
    }

    /// How many bytes the DUT has written to a medium since its power came.
    pub async fn written_bytes(&self, medium: &str, deadline: Deadline) -> Result<u64, DeviceError> {
        Ok(self.power.written_bytes(medium, deadline).await?)
    }

    /// Takes mains away; twice off is once, and off after the guest halted itself is fine.
    pub async fn power_off(&mut self) -> Result<(), DeviceError> {
        let off = self.power.off().await;
        self.forget_boot_path();
        self.end_consoles().await;
        Ok(off?)
    }

    /// Takes mains away and gives them back. A stand-in's capacitors are empty at once, so the board's rest is
    /// not waited for; a real board waits.
    ///
    /// Cancelled in between, it leaves the power off.
    pub async fn power_cycle(&mut self, deadline: Deadline) -> Result<(), DeviceError> {
        self.power_off().await?;
        self.power_on(deadline).await
    }

    /// Presses the power button for a moment. See [`Power::press_button`].
    pub async fn press_button(&mut self, deadline: Deadline) -> Result<(), DeviceError> {
        self.check_not_waiting("press the button of")?;
        if self.power_state() == PowerState::Halted {
            self.end_consoles().await;
            self.begin_consoles()?;
        }
        let setup = Setup { storage: &self.storage, boots_first: self.boots_first(), installs: false };
        Ok(self.power.press_button(&setup, deadline).await?)
    }

    /// Holds the power button until the system is forced off. See [`Power::hold_button`].
    pub async fn hold_button(&mut self) -> Result<(), DeviceError> {
        self.check_not_waiting("hold the button of")?;
        Ok(self.power.hold_button().await?)
    }

    /// Pulls the reset line. See [`Power::reset`].
    pub async fn reset(&mut self, deadline: Deadline) -> Result<(), DeviceError> {
        self.check_not_waiting("reset")?;
        Ok(self.power.reset(deadline).await?)
    }

    /// Makes sure that whoever plays the DUT still does. Silence is the DUT's fault only if its player is not silent.
    pub async fn check_player(&self, deadline: Deadline) -> Result<(), DeviceError> {
        Ok(self.power.check_player(deadline).await?)
    }

    /// Makes the firmware forget what it has learnt; part of every flash.
    pub fn reset_firmware(&mut self) -> Result<(), DeviceError> {
        Ok(self.power.reset_firmware()?)
    }

    /// From the next power-on on, QEMU serves a second monitor at `path`. See [`Power::open_side_door`].
    pub fn open_side_door(&mut self, path: PathBuf) {
        self.power.open_side_door(path);
    }

    /// The loopback address on which this host reaches the DUT's forwarded TCP ports.
    pub fn address(&self) -> Result<Ipv4Addr, NotFitted> {
        self.interface(None)?;
        Ok(self.power.address())
    }

    /// Puts the cable of a network interface in, or pulls it out; `None` means the first one. It stays so over
    /// power cycles.
    pub async fn set_link(
        &mut self,
        interface: Option<&str>,
        up: bool,
        deadline: Deadline,
    ) -> Result<(), DeviceError> {
        let name = self.interface(interface)?.to_owned();
        Ok(self.power.set_link(&name, up, deadline).await?)
    }

    fn interface(&self, name: Option<&str>) -> Result<&str, NotFitted> {
        let mut all = self.board.network.iter().map(|interface| interface.name.as_str());
        let found = all.find(|interface| name.is_none_or(|name| name == *interface));
        found.ok_or_else(|| NotFitted { part: "such network interface", board: self.board.slug.clone() })
    }

    /// Where the DUT's forwarded TCP ports are reachable on this host; empty while it is off.
    pub async fn forwards(&self, deadline: Deadline) -> Result<Vec<(u16, SocketAddrV4)>, DeviceError> {
        Ok(self.power.forwards(deadline).await?)
    }

    /// The command line with which QEMU would be started now, as a shell would take it.
    pub async fn command_line(&self) -> Result<String, DeviceError> {
        let setup = Setup { storage: &self.storage, boots_first: self.boots_first(), installs: false };
        Ok(self.power.command_line(&setup).await?)
    }

    /// The serial console.
    pub fn console(&mut self) -> Result<&mut Console, NotFitted> {
        let board = &self.board.slug;
        self.consoles.first_mut().ok_or_else(|| NotFitted { part: "serial console", board: board.clone() })
    }

    /// Eyes and hands at the serial console, if there is one, for those who do not hold the device.
    pub fn tap(&self) -> Option<Tap> {
        self.consoles.first().map(Console::tap)
    }

    /// The screen, to look at it now or later, also while somebody else drives the device.
    pub fn screen(&self) -> Result<Screen, NotFitted> {
        let board = &self.board.slug;
        self.screen.clone().ok_or_else(|| NotFitted { part: "screen", board: board.clone() })
    }

    /// The keyboard, to type on it now or later, also while somebody else drives the device.
    pub fn keyboard(&self) -> Result<Keyboard, NotFitted> {
        let board = &self.board.slug;
        self.keyboard.clone().ok_or_else(|| NotFitted { part: "keyboard", board: board.clone() })
    }

    /// Takes the power away and closes every part; returns the first failure after all have been tried.
    pub async fn close(mut self) -> Result<(), DeviceError> {
        let mut first = self.power_off().await;
        for console in self.consoles {
            first = first.and(console.close().await.map_err(DeviceError::ConsoleLog));
        }
        first
    }

    fn begin_consoles(&mut self) -> Result<(), DeviceError> {
        self.consoles.iter_mut().try_for_each(Console::begin_power_on).map_err(DeviceError::ConsoleLog)
    }

    async fn end_consoles(&mut self) {
        for console in &mut self.consoles {
            console.end_power_on().await;
        }
    }
}
