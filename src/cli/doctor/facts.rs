//! Gathers what `standin doctor` judges: programs, firmware, accelerators, memory and room.
//!
//! Whatever cannot be found out becomes a fact of its own; gathering as such never fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::accelerator::AcceleratorReport;
use crate::board::{Arch, Board, Firmware};
use crate::deadline::Deadline;
use crate::lab::player::Host;
use crate::message::chain;
use crate::qemu::binary::{self, BinaryError, Inventory};
use crate::qemu::firmware::{self, FirmwareError};
use crate::qemu::package::{Distribution, Package};
use crate::qemu::tpm;

/// What was found on this host.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the host runs.
    pub distribution: Distribution,
    /// The QEMU of each architecture that some board has.
    pub qemu: Vec<QemuFact>,
    /// The firmware of each kind that some board needs.
    pub firmware: Vec<FirmwareFact>,
    /// What speeds machines up.
    pub accelerators: Vec<AcceleratorReport>,
    /// The software TPM.
    pub swtpm: Option<PathBuf>,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: Option<u64>,
    /// The room in folders that standin writes to.
    pub disks: Vec<DiskFact>,
}

/// The QEMU of one architecture.
#[derive(Debug, Clone)]
pub struct QemuFact {
    /// The architecture.
    pub arch: Arch,
    /// Where it is and what it can do, or why it cannot be used.
    pub found: Result<(PathBuf, Inventory), Absent>,
}

/// The firmware that a board with this architecture and machine type needs.
#[derive(Debug, Clone)]
pub struct FirmwareFact {
    /// Which of a board's kinds of firmware.
    pub kind: Firmware,
    /// The architecture.
    pub arch: Arch,
    /// The machine type.
    pub machine: String,
    /// Its file and, if it has one, its descriptor; or why there is none.
    pub found: Result<(PathBuf, Option<PathBuf>), Absent>,
}

/// Why something cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// The reason, in one line.
    pub reason: String,
    /// The package that would help.
    pub package: Option<Package>,
}

/// The room in one folder.
#[derive(Debug, Clone)]
pub struct DiskFact {
    /// What standin keeps there.
    pub purpose: &'static str,
    /// The folder; it need not exist yet.
    pub path: PathBuf,
    /// What is free for this user, if it could be found out.
    pub free_bytes: Option<u64>,
}

/// QEMU answers in some 50 ms; a host that needs longer than this is told so.
const QEMU_ANSWERS_WITHIN: Duration = Duration::from_secs(20);

impl Facts {
    /// Looks for whatever `boards` need. KVM is not tried here, as that may take seconds.
    pub async fn gather(boards: &[Arc<Board>], host: &Host) -> Self {
        let mut arches: Vec<Arch> = boards.iter().map(|board| board.arch).collect();
        arches.dedup();
        let mut qemu: Vec<QemuFact> = Vec::new();
        for arch in arches {
            if qemu.iter().all(|fact| fact.arch != arch) {
                qemu.push(QemuFact { arch, found: qemu_of(arch, host).await.map_err(Absent::from) });
            }
        }
        Self {
            distribution: Distribution::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            qemu,
            firmware: firmware_of(boards, host),
            accelerators: vec![AcceleratorReport::tcg()],
            swtpm: tpm::find(&host.search_path).ok(),
            memory_available_bytes: fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| available(&text)),
            disks: vec![disk("runs", &host.runs), disk("cache", &host.cache)],
        }
    }
}

async fn qemu_of(arch: Arch, host: &Host) -> Result<(PathBuf, Inventory), BinaryError> {
    // The program that the user named plays one architecture only.
    let explicit = host.qemu.as_deref().filter(|path| path.to_string_lossy().ends_with(arch.qemu_name()));
    let path = binary::find(arch, explicit, Some(&host.search_path))?;
    let inventory = binary::ask(&path, &host.cache, Deadline::after(QEMU_ANSWERS_WITHIN)).await?;
    Ok((path, inventory))
}

fn firmware_of(boards: &[Arc<Board>], host: &Host) -> Vec<FirmwareFact> {
    let descriptors = firmware::descriptor_folders(host.config.as_deref());
    let mut facts: Vec<FirmwareFact> = Vec::new();
    for board in boards {
        let (kind, arch, machine) = (board.qemu.firmware, board.arch, &board.qemu.machine);
        if facts.iter().any(|fact| (fact.kind, fact.arch, &fact.machine) == (kind, arch, machine)) {
            continue;
        }
        let found = match kind {
            // SeaBIOS comes with QEMU, and standin itself plays the Raspberry Pi's firmware.
            Firmware::Bios | Firmware::RaspberryPi3 | Firmware::RaspberryPi4 => continue,
            Firmware::Uefi => firmware::find_uefi(&descriptors, arch, machine)
                .map(|uefi| (uefi.code, Some(uefi.descriptor))),
            Firmware::UBoot => {
                firmware::find_u_boot(&firmware::u_boot_folders(), arch).map(|file| (file, None))
            }
        };
        facts.push(FirmwareFact { kind, arch, machine: machine.clone(), found: found.map_err(Absent::from) });
    }
    facts
}

impl From<BinaryError> for Absent {
    fn from(error: BinaryError) -> Self {
        Self { reason: chain(&error), package: error.package() }
    }
}

impl From<FirmwareError> for Absent {
    fn from(error: FirmwareError) -> Self {
        Self { reason: chain(&error), package: error.package() }
    }
}

/// `MemAvailable` of /proc/meminfo, see proc(5): "an estimate of how much memory is available for starting new
/// applications, without swapping".
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A folder that is not there yet has the room of the nearest one above it.
fn disk(purpose: &'static str, path: &Path) -> DiskFact {
    let there = path.ancestors().find(|folder| folder.exists());
    let facts = there.and_then(|folder| statvfs(folder).ok());
    let free_bytes = facts.map(|facts| facts.blocks_available() * facts.fragment_size());
    DiskFact { purpose, path: path.to_owned(), free_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_can_be_had_without_swapping() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2 kB\n"), Some(2048));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_above_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk("runs", &folder.path().join("not/yet")).free_bytes.is_some());
    }
}
