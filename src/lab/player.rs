//! Who plays a board on this host: QEMU's program, its firmware and its accelerator, each found and proved.
//!
//! Nothing is started for good here and nothing is left, but for what the cache remembers.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::accelerator::prove_kvm;
use crate::board::{Board, Firmware};
use crate::deadline::Deadline;
use crate::device::power::{InstalledFirmware, Player};
use crate::qemu::arguments::Accelerator;
use crate::qemu::binary::{self, BinaryError, Inventory};
use crate::qemu::firmware::{self, FirmwareError};
use crate::qemu::tpm;

/// Where things are on this host. The doors read the environment; nobody else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// QEMU's program, if the user named one.
    pub qemu: Option<PathBuf>,
    /// The value of `PATH`.
    pub search_path: OsString,
    /// The user's configuration, such as `~/.config`.
    pub config: Option<PathBuf>,
    /// Standin's own cache.
    pub cache: PathBuf,
    /// Where run directories are made.
    pub runs: PathBuf,
}

/// Which accelerator the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where it is proved, else TCG.
    Auto,
    /// This one or none.
    Only(Accelerator),
}

/// A player, and why it is this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Who plays.
    pub player: Player,
    /// QEMU's version, for the report.
    pub qemu_version: String,
    /// Why KVM is not used although somebody may expect it, in one line; `None` if there is nothing to say.
    pub remark: Option<String>,
}

/// Nobody here can play the board. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum PlayerError {
    /// There is no QEMU for it, or one that does not answer.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// There is no firmware for it.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// This QEMU is too old, or built without it.
    #[error("QEMU {version} ({program}) has no machine `{machine}`")]
    NoMachine {
        /// Its version.
        version: String,
        /// Its program.
        program: PathBuf,
        /// The machine type.
        machine: String,
    },
    /// The board has a TPM, and nothing here can play one.
    #[error(transparent)]
    NoTpm(#[from] tpm::Missing),
    /// The user wants KVM, and it does not work.
    #[error("KVM cannot play {board} on this host: {evidence}")]
    NoKvm {
        /// The board's slug.
        board: String,
        /// What was seen.
        evidence: String,
    },
}

impl PlayerError {
    /// How to mend it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Binary(error) => error.hint(),
            Self::Firmware(error) => error.hint(),
            Self::NoTpm(missing) => Some(missing.hint()),
            Self::NoKvm { .. } => Some("leave the choice to standin: it falls back to TCG".to_owned()),
            Self::NoMachine { .. } => {
                Some("a newer QEMU may have it; `standin doctor` shows what there is".to_owned())
            }
        }
    }
}

/// How long QEMU may take to say what it can do: some 0.1 s where the machine is idle.
const INVENTORY_GIVEN: Duration = Duration::from_secs(30);

/// Finds who plays `board`. Under KVM this may boot the self-test once; see [`prove_kvm`].
pub async fn choose(board: &Board, host: &Host, choice: AcceleratorChoice) -> Result<Chosen, PlayerError> {
    let program = binary::find(board.arch, host.qemu.as_deref(), Some(&host.search_path))?;
    let inventory = binary::inventory(&program, &host.cache, Deadline::after(INVENTORY_GIVEN)).await?;
    let version = inventory.version.to_string();
    if inventory.machine(&board.qemu.machine).is_none() {
        return Err(PlayerError::NoMachine { version, program, machine: board.qemu.machine.clone() });
    }
    let firmware = installed_firmware(board, host)?;
    let tpm = board.qemu.tpm.map(|_| tpm::find(&host.search_path)).transpose()?;
    let tcg = Player { program, accelerator: Accelerator::Tcg, sandbox: inventory.sandbox, firmware, tpm };
    let chosen = |accelerator, remark| Chosen {
        player: Player { accelerator, ..tcg.clone() },
        qemu_version: version.clone(),
        remark,
    };
    if choice == AcceleratorChoice::Only(Accelerator::Tcg) {
        return Ok(chosen(Accelerator::Tcg, None));
    }
    if !has_kvm(&inventory) {
        return match choice {
            // Nobody expects it of a QEMU that plays another architecture.
            AcceleratorChoice::Auto => Ok(chosen(Accelerator::Tcg, None)),
            AcceleratorChoice::Only(_) => {
                let evidence = format!("{} was built without it", tcg.program.display());
                Err(PlayerError::NoKvm { board: board.slug.clone(), evidence })
            }
        };
    }
    let verdict = prove_kvm(board, &tcg, &host.cache, &host.runs).await;
    match (verdict.usable, choice) {
        (true, _) => Ok(chosen(Accelerator::Kvm, None)),
        (false, AcceleratorChoice::Only(_)) => {
            Err(PlayerError::NoKvm { board: board.slug.clone(), evidence: verdict.evidence })
        }
        (false, AcceleratorChoice::Auto) => {
            Ok(chosen(Accelerator::Tcg, Some(format!("KVM is not used: {}", verdict.evidence))))
        }
    }
}

fn has_kvm(inventory: &Inventory) -> bool {
    inventory.accelerators.iter().any(|name| name == Accelerator::Kvm.name())
}

fn installed_firmware(board: &Board, host: &Host) -> Result<InstalledFirmware, PlayerError> {
    match board.qemu.firmware {
        Firmware::Bios | Firmware::RaspberryPi3 | Firmware::RaspberryPi4 => Ok(InstalledFirmware::None),
        Firmware::Uefi => {
            let folders = firmware::descriptor_folders(host.config.as_deref());
            let found = firmware::find_uefi(&folders, board.arch, &board.qemu.machine)?;
            let (code, variables, format) = (found.code, found.vars_template, found.format);
            Ok(InstalledFirmware::Uefi { code, variables, format })
        }
        Firmware::UBoot => {
            Ok(InstalledFirmware::Image(firmware::find_u_boot(&firmware::u_boot_folders(), board.arch)?))
        }
    }
}
