//! Mains, button and reset line of a stand-in: each power-on is one QEMU process, from mains on to mains off.
//!
//! `Device` owns it and hands it what a power-on needs; `close` leaves no process.

mod error;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::storage::{Position, Storage};
use crate::board::{Board, Firmware, StartsOn};
use crate::deadline::Deadline;
use crate::event::{EventKind, EventLog, Origin};
use crate::io::file;
use crate::qemu::arguments::{Accelerator, Disk, FirmwareFiles, Launch, Reach, arguments, card};
use crate::qemu::boot_rom::{self, Model};
use crate::qemu::firmware::FlashFormat;
use crate::qemu::machine::{Contact, Machine, MachineError, Start, SystemState, TcpContact, command_line};
use crate::qemu::tpm::TpmStart;
use crate::qemu::{screen, side_door};
use crate::sys::blocking::blocking;
use crate::sys::serial_line::SerialLine;

pub use self::error::PowerError;

/// The QEMU that plays a board on this host, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Player {
    /// QEMU's program for the board's architecture.
    pub program: PathBuf,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// Whether this QEMU can confine itself.
    pub sandbox: bool,
    /// The files of the board's firmware, as they are installed.
    pub firmware: InstalledFirmware,
    /// swtpm's program; `None` only for a board without a TPM.
    pub tpm: Option<PathBuf>,
}

/// Firmware as it is installed on this host; never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstalledFirmware {
    /// Nothing is needed: QEMU brings its own, or standin plays the stage.
    None,
    /// UEFI code, and the template of its variables.
    Uefi {
        /// The code.
        code: PathBuf,
        /// The variables of a board that has never run.
        variables: PathBuf,
        /// The format of both.
        format: FlashFormat,
    },
    /// One image in place of the machine's own firmware.
    Image(PathBuf),
}

/// What a power-on finds besides the board.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The media.
    pub storage: &'a Storage,
    /// The medium that the boot switch puts before all others.
    pub boots_first: Option<String>,
    /// Whether an installer runs, which is there to write over what nobody knows any more.
    pub installs: bool,
}

impl<'a> From<&'a Storage> for Setup<'a> {
    /// With the boot switch as it always is.
    fn from(storage: &'a Storage) -> Self {
        Self { storage, boots_first: None, installs: false }
    }
}

/// What the system does, and whether mains are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// Mains are off.
    Off,
    /// The system executes.
    Running,
    /// Mains are on, and the system does not execute: it ended by itself, or waits for its button.
    Halted,
    /// The lab failed: nobody knows what the board would do.
    Unknown,
}

impl PowerState {
    /// What an event says about the state after it; `None` if nothing.
    pub fn after(event: &EventKind) -> Option<Self> {
        match event {
            EventKind::PowerOn => Some(Self::Running),
            EventKind::PowerOff => Some(Self::Off),
            EventKind::Halt { .. } => Some(Self::Halted),
            EventKind::InternalError { .. } | EventKind::MachineDied { .. } => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// Power of a stand-in.
#[derive(Debug)]
pub struct Power {
    board: Arc<Board>,
    player: Player,
    scratch: PathBuf,
    stderr: PathBuf,
    reach: Reach,
    /// The interfaces whose cable is out; they stay so over power cycles.
    unplugged: BTreeSet<String>,
    serial: Vec<SerialLine>,
    events: EventLog,
    /// Where QEMU serves a second monitor, if somebody wants one.
    side_door: Option<PathBuf>,
    mains: bool,
    machine: Option<Machine>,
    /// Tells the parts that do not switch it which machine plays at present.
    present: watch::Sender<Option<Contact>>,
}

impl Power {
    /// Power of `board`, off. `scratch` takes firmware files; QEMU's own words go to `evidence`.
    pub fn new(
        board: Arc<Board>,
        player: Player,
        serial: Vec<SerialLine>,
        reach: Reach,
        (scratch, evidence): (&Path, &Path),
        events: EventLog,
    ) -> Self {
        let (scratch, stderr) = (scratch.to_owned(), evidence.join("qemu.stderr"));
        let unplugged = BTreeSet::new();
        let present = watch::Sender::new(None);
        let (side_door, mains, machine) = (None, false, None);
        Self {
            board,
            player,
            scratch,
            stderr,
            reach,
            unplugged,
            serial,
            events,
            side_door,
            mains,
            machine,
            present,
        }
    }

    /// From the next power-on on, QEMU serves a second monitor at `path`; see [`side_door`].
    pub fn open_side_door(&mut self, path: PathBuf) {
        self.side_door = Some(path);
    }

    /// Which machine plays at present, and from then on.
    pub fn present(&self) -> watch::Receiver<Option<Contact>> {
        self.present.subscribe()
    }

    /// Where QEMU may write.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Whether mains are on.
    pub fn has_mains(&self) -> bool {
        self.mains
    }

    /// What the system does, and whether mains are on.
    pub fn state(&self) -> PowerState {
        match (&self.machine, self.mains) {
            (_, false) => PowerState::Off,
            (None, true) => PowerState::Halted,
            (Some(machine), true) => match machine.state() {
                SystemState::Running => PowerState::Running,
                SystemState::Halted => PowerState::Halted,
                SystemState::Broken => PowerState::Unknown,
            },
        }
    }

    /// Gives mains, and presses the button of a board that waits for it. Does nothing to one that has mains and
    /// runs; a halted one stays halted, as a real board would: it needs its button or a power cycle.
    ///
    /// Failed or cancelled, it leaves the power off.
    pub async fn on(&mut self, setup: &Setup<'_>, deadline: Deadline) -> Result<(), PowerError> {
        if self.mains {
            return Ok(());
        }
        self.start(setup, deadline).await?;
        self.mains = true;
        if self.board.power.starts_on == StartsOn::Button {
            self.events.record(EventKind::ButtonPress { held_ms: 0 });
        }
        Ok(())
    }

    /// Gives mains to a board whose boot ROM starts no system; nobody needs to play that.
    pub fn on_without_system(&mut self) {
        self.mains = true;
        self.events.record(EventKind::PowerOn);
    }

    /// Takes mains away at once, whatever runs. Twice off is once.
    pub async fn off(&mut self) -> Result<(), PowerError> {
        if !self.mains {
            return self.stop().await;
        }
        self.mains = false;
        let ended = self.stop().await;
        self.events.record(EventKind::PowerOff);
        ended
    }

    /// Presses the power button for a moment: a running system is asked to shut down, a halted one starts.
    pub async fn press_button(&mut self, setup: &Setup<'_>, deadline: Deadline) -> Result<(), PowerError> {
        self.check_button("press the button of")?;
        self.events.record(EventKind::ButtonPress { held_ms: 0 });
        match &self.machine {
            Some(machine) if machine.state() == SystemState::Running => {
                Ok(machine.press_button(deadline).await?)
            }
            _ => {
                self.stop().await?;
                self.start(setup, deadline).await
            }
        }
    }

    /// Holds the power button until the board forces the system off. A stand-in needs no time for that.
    pub async fn hold_button(&mut self) -> Result<(), PowerError> {
        let held = self.check_button("hold the button of")?;
        let held_ms = u64::try_from(held.as_millis()).expect("a button is held for seconds");
        self.events.record(EventKind::ButtonPress { held_ms });
        if self.state() == PowerState::Running {
            self.stop().await?;
            self.events.record(EventKind::Halt { by: Origin::Host });
        }
        Ok(())
    }

    /// Pulls the reset line and waits until the machine has reset.
    pub async fn reset(&mut self, deadline: Deadline) -> Result<(), PowerError> {
        let Some(machine) = self.machine.as_ref().filter(|_| self.mains) else {
            return Err(PowerError::NoMains { action: "reset", board: self.board.slug.clone() });
        };
        let seen = self.events.len();
        machine.reset(deadline).await?;
        let is_reset = |kind: &EventKind| *kind == EventKind::Reset { by: Origin::Host };
        self.events.wait_for(seen, deadline, is_reset).await.map_err(PowerError::ResetNotSeen)?;
        Ok(())
    }

    /// Puts a stick into the machine, if there is one.
    pub async fn insert_stick(
        &self,
        medium: &str,
        disk: &Disk,
        deadline: Deadline,
    ) -> Result<(), PowerError> {
        match &self.machine {
            Some(machine) => Ok(machine.insert_stick(&self.board, medium, disk, deadline).await?),
            None => Ok(()),
        }
    }

    /// Takes a stick out of the machine, if there is one, and waits until it is out.
    pub async fn pull_stick(&self, medium: &str, deadline: Deadline) -> Result<(), PowerError> {
        let Some(machine) = &self.machine else { return Ok(()) };
        let seen = self.events.len();
        machine.pull_stick(medium, deadline).await?;
        let is_out = |kind: &EventKind| *kind == EventKind::MediumRemoved { medium: medium.to_owned() };
        let not_seen = |source| PowerError::RemovalNotSeen { medium: medium.to_owned(), source };
        self.events.wait_for(seen, deadline, is_out).await.map_err(not_seen)?;
        Ok(machine.forget_stick(medium, deadline).await?)
    }

    /// How many bytes the system has written to a medium since it was started; none without a machine.
    pub async fn written_bytes(&self, medium: &str, deadline: Deadline) -> Result<u64, PowerError> {
        match &self.machine {
            Some(machine) => Ok(machine.written_bytes(medium, deadline).await?),
            None => Ok(0),
        }
    }

    /// Makes the firmware forget what it has learnt, as a flash does: UEFI variables and TPM are those of a new
    /// board.
    pub fn reset_firmware(&self) -> Result<(), PowerError> {
        let removed = |path: PathBuf, removed: io::Result<()>| match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(PowerError::Firmware { path, source })
            }
            _ => Ok(()),
        };
        let (variables, tpm) = (self.variables(), self.tpm_state());
        removed(variables.clone(), fs::remove_file(variables))?;
        removed(tpm.clone(), fs::remove_dir_all(tpm))
    }

    /// The loopback address on which this host reaches the DUT.
    pub fn address(&self) -> Ipv4Addr {
        self.reach.address
    }

    /// Puts the cable of a network interface in, or pulls it out; it stays so over power cycles.
    pub async fn set_link(
        &mut self,
        interface: &str,
        up: bool,
        deadline: Deadline,
    ) -> Result<(), PowerError> {
        if let Some(machine) = &self.machine {
            machine.set_link(&card(interface), up, deadline).await?;
        }
        let changed =
            if up { self.unplugged.remove(interface) } else { self.unplugged.insert(interface.to_owned()) };
        if changed {
            let interface = interface.to_owned();
            self.events.record(if up {
                EventKind::LinkUp { interface }
            } else {
                EventKind::LinkDown { interface }
            });
        }
        Ok(())
    }

    /// Makes sure that QEMU still answers, if there is one.
    pub async fn check_player(&self, deadline: Deadline) -> Result<(), PowerError> {
        match &self.machine {
            Some(machine) => Ok(machine.check_answers(deadline).await?),
            None => Ok(()),
        }
    }

    /// Where the DUT's forwarded TCP ports are reachable, as QEMU tells; empty while it is off.
    pub async fn forwards(&self, deadline: Deadline) -> Result<Vec<(u16, SocketAddrV4)>, PowerError> {
        match &self.machine {
            Some(machine) if !self.reach.ports.is_empty() => Ok(machine.forwards(deadline).await?),
            _ => Ok(Vec::new()),
        }
    }

    /// How far the connections to a forwarded TCP port have come; none while the power is off.
    pub async fn contact(&self, port: u16, deadline: Deadline) -> Result<TcpContact, PowerError> {
        match &self.machine {
            Some(machine) => Ok(machine.tcp_contact(port, deadline).await?),
            None => Ok(TcpContact::None),
        }
    }

    /// The DUT's forwarded TCP ports.
    pub fn forwarded(&self) -> &[u16] {
        &self.reach.ports
    }

    /// Whether the cable of a network interface is out.
    pub fn is_unplugged(&self, interface: &str) -> bool {
        self.unplugged.contains(interface)
    }

    /// The command line of a power-on now, as a shell would take it.
    pub async fn command_line(&self, setup: &Setup<'_>) -> Result<String, PowerError> {
        Ok(command_line(&self.player.program, &self.arguments(setup).await?))
    }

    fn check_button(&self, action: &'static str) -> Result<Duration, PowerError> {
        let board = self.board.slug.clone();
        let Some(hold) = self.board.power.button_hold else {
            return Err(PowerError::NoButton { board });
        };
        if self.mains { Ok(hold) } else { Err(PowerError::NoMains { action, board }) }
    }

    async fn start(&mut self, setup: &Setup<'_>, deadline: Deadline) -> Result<(), PowerError> {
        // One that was cancelled, or failed, after its machine was there.
        self.stop().await?;
        self.clear_side_door()?;
        let arguments = self.arguments(setup).await?;
        let lent = |source| MachineError::Spawn { program: self.player.program.clone(), source };
        let serial = self.serial.iter_mut().map(SerialLine::lend).collect::<Result<_, _>>().map_err(lent)?;
        let start = Start {
            program: self.player.program.clone(),
            arguments,
            serial,
            tpm: self.tpm(),
            stderr: self.stderr.clone(),
        };
        self.events.record(EventKind::PowerOn);
        match Machine::start(start, self.events.clone(), deadline).await {
            Ok(machine) => {
                let machine = self.machine.insert(machine);
                self.present.send_replace(Some(machine.contact()));
                for interface in &self.unplugged {
                    machine.set_link(&card(interface), false, deadline).await?;
                }
                Ok(())
            }
            Err(error) => {
                self.events.record(EventKind::MachineDied { reason: error.to_string() });
                Err(error.into())
            }
        }
    }

    /// QEMU's arguments for a power-on now.
    async fn arguments(&self, setup: &Setup<'_>) -> Result<Vec<String>, PowerError> {
        let storage = setup.storage;
        let launch = Launch {
            accelerator: self.player.accelerator,
            sandbox: self.player.sandbox,
            media: if setup.installs { storage.in_dut() } else { storage.plugged_in()? },
            boots_first: setup.boots_first.clone(),
            firmware: self.firmware(setup).await?,
            reach: self.reach.clone(),
        };
        let mut arguments = arguments(&self.board, &launch);
        arguments.extend(self.side_door.iter().flat_map(|path| side_door::arguments(path)));
        Ok(arguments)
    }

    async fn stop(&mut self) -> Result<(), PowerError> {
        self.present.send_replace(None);
        let Some(machine) = self.machine.take() else { return Ok(()) };
        machine.close().await?;
        self.clear_side_door()?;
        // A dump that nobody waited for to its end; now nobody writes it any more.
        let path = self.scratch.join(screen::DUMP);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PowerError::Dump { path, source }),
            _ => Ok(()),
        }
    }

    fn clear_side_door(&self) -> Result<(), PowerError> {
        let Some(path) = &self.side_door else { return Ok(()) };
        side_door::clear(path).map_err(|source| PowerError::SideDoor { path: path.clone(), source })
    }

    /// The files that this power-on needs. UEFI variables live from flash to flash; a boot ROM reads its medium
    /// anew each time.
    async fn firmware(&self, setup: &Setup<'_>) -> Result<FirmwareFiles, PowerError> {
        match &self.player.firmware {
            InstalledFirmware::Uefi { code, variables, format } => {
                let own = self.variables();
                if !own.exists() {
                    let (template, new) = (variables.clone(), own.clone());
                    // Half a copy, left by a power-on that was cancelled, would be taken for the board's own.
                    let copy = move || {
                        let mut template = File::open(template)?;
                        file::replace(&new, |new| io::copy(&mut template, new).map(drop))
                    };
                    blocking(copy)
                        .await
                        .map_err(|source| PowerError::Firmware { path: own.clone(), source })?;
                }
                Ok(FirmwareFiles::Uefi { code: code.clone(), variables: own, format: *format })
            }
            InstalledFirmware::Image(path) => Ok(FirmwareFiles::Image(path.clone())),
            InstalledFirmware::None => match raspberry_pi(self.board.qemu.firmware) {
                Some(model) => self.play_boot_rom(model, setup).await,
                None => Ok(FirmwareFiles::BuiltIn),
            },
        }
    }

    /// Reads the card as the boot ROM does, at each power-on anew.
    async fn play_boot_rom(&self, model: Model, setup: &Setup<'_>) -> Result<FirmwareFiles, PowerError> {
        let medium = setup.boots_first.as_ref().unwrap_or(&self.board.boot_order[0]);
        if setup.storage.position(medium) != Some(Position::Dut) {
            return Err(PowerError::NoMedium { board: self.board.slug.clone(), medium: medium.clone() });
        }
        let mut card = setup.storage.open(medium)?;
        let folder = self.scratch.join("boot-rom");
        let read = move || -> Result<_, PowerError> {
            fs::create_dir_all(&folder)
                .map_err(|source| PowerError::Firmware { path: folder.clone(), source })?;
            Ok(boot_rom::boot_stage(model, &mut card, &folder)?)
        };
        let stage = blocking(read).await?;
        for note in &stage.notes {
            tracing::info!(note, "boot ROM");
        }
        // A machine of another make has a device tree of its own, and the card's would describe what is not there.
        let own_machine = Model::of_machine(&self.board.qemu.machine) == Some(model);
        Ok(FirmwareFiles::Kernel {
            kernel: stage.kernel,
            initrd: stage.initrd,
            device_tree: stage.device_tree.filter(|_| own_machine),
            command_line: stage.command_line,
        })
    }

    fn tpm(&self) -> Option<TpmStart> {
        let program = self.player.tpm.clone()?;
        Some(TpmStart {
            program,
            state: self.tpm_state(),
            stderr: self.stderr.with_file_name("swtpm.stderr"),
        })
    }

    fn tpm_state(&self) -> PathBuf {
        self.scratch.join("tpm")
    }

    fn variables(&self) -> PathBuf {
        self.scratch.join("uefi-variables.fd")
    }
}

/// Which Raspberry Pi's boot ROM the stand-in plays, if any.
fn raspberry_pi(firmware: Firmware) -> Option<Model> {
    match firmware {
        Firmware::RaspberryPi3 => Some(Model::Pi3),
        Firmware::RaspberryPi4 => Some(Model::Pi4),
        Firmware::Bios | Firmware::Uefi | Firmware::UBoot => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Catalog;

    #[tokio::test]
    async fn a_power_on_that_is_cancelled_leaves_no_half_of_the_firmwares_variables() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template.fd");
        let template_bytes = 64 << 20; // as large as QEMU's flash chips, so its copy takes a while
        File::create(&template).unwrap().set_len(template_bytes).unwrap();
        let firmware =
            InstalledFirmware::Uefi { code: template.clone(), variables: template, format: FlashFormat::Raw };
        let player = Player {
            program: "qemu-system-x86_64".into(),
            accelerator: Accelerator::Tcg,
            sandbox: true,
            firmware,
            tpm: None,
        };
        let board = Catalog::load(None).unwrap().board("generic-amd64").unwrap();
        let storage = Storage::create(&board, dir.path()).unwrap();
        let places = (dir.path(), dir.path());
        let power = Power::new(board, player, Vec::new(), Reach::NOTHING, places, EventLog::default());

        let setup = Setup::from(&storage);
        tokio::select! {
            biased;
            _ = power.command_line(&setup) => {}
            () = std::future::ready(()) => {} // cancels it in the middle of the copy
        }

        let first_seen = loop {
            match fs::metadata(power.variables()) {
                Ok(found) => break found,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(first_seen.len(), template_bytes);
    }
}
