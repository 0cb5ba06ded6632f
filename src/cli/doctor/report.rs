//! Judges what was found on a host: which boards can be played, and what would close each gap.
//!
//! Pure: facts in, report out. Its keys are what `standin doctor --json` writes.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::accelerator::AcceleratorReport;
use super::facts::{Absent, Facts};
use crate::board::{Arch, Board, ByteSize, Firmware, word};
use crate::qemu::binary::Inventory;
use crate::qemu::needs::{Lack, lacks};
use crate::qemu::package::{Distribution, Package};
use crate::qemu::tpm;

/// What a host can play, what it lacks, and how to mend it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every board that there is.
    pub boards: Vec<BoardReport>,
    /// The QEMU of each architecture.
    pub qemu: Vec<QemuReport>,
    /// Firmware that boards need and QEMU does not bring.
    pub firmware: Vec<FirmwareReport>,
    /// What speeds machines up.
    pub accelerators: Vec<AcceleratorReport>,
    /// Programs that some features use.
    pub tools: Vec<ToolReport>,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: Option<u64>,
    /// The room in folders that standin writes to.
    pub disks: Vec<DiskReport>,
    /// What is missing, the gaps that block a board first.
    pub gaps: Vec<Gap>,
}

/// Whether a board can be played here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoardReport {
    /// Its slug.
    pub slug: String,
    /// Whether everything is there that its stand-in has.
    pub playable: bool,
    /// What is not.
    pub lacks: Vec<String>,
}

/// The QEMU of one architecture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QemuReport {
    /// The architecture, as in the program's name.
    pub arch: &'static str,
    /// Where the program is; `null` if it cannot be used.
    pub path: Option<PathBuf>,
    /// Its version.
    pub version: Option<String>,
    /// What its packager calls it.
    pub package: Option<String>,
    /// The machine types that boards need, and whether it has them.
    pub machines: Vec<MachineReport>,
    /// The accelerators that it was built with.
    pub accelerators: Vec<String>,
    /// Whether it can confine itself.
    pub sandbox: bool,
    /// Whether it has the back ends for networks that are played by standin.
    pub netdev_stream_and_dgram: bool,
}

/// A machine type that some board needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineReport {
    /// Its name in board files.
    pub name: String,
    /// The name that it stands for in this QEMU; `null` if there is none.
    pub full_name: Option<String>,
}

/// Firmware that some board needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirmwareReport {
    /// `uefi` or `u-boot`.
    pub kind: Firmware,
    /// The architecture.
    pub arch: &'static str,
    /// The machine type.
    pub machine: String,
    /// The code's file; `null` if there is none.
    pub path: Option<PathBuf>,
    /// The descriptor that named it.
    pub descriptor: Option<PathBuf>,
}

/// A program that some feature uses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolReport {
    /// Its name.
    pub name: &'static str,
    /// Where it is, if it is there.
    pub path: Option<PathBuf>,
}

/// The room in one folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiskReport {
    /// What standin keeps there.
    pub purpose: &'static str,
    /// The folder.
    pub path: PathBuf,
    /// What is free for this user.
    pub free_bytes: Option<u64>,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What, in one line.
    pub what: String,
    /// The boards that cannot be played without it; none means that it is only a note.
    pub blocks: Vec<String>,
    /// The command that closes it, if we know one for this host.
    pub command: Option<String>,
}

/// A card of a few GiB that is filled by a flash should fit.
const LITTLE_ROOM: u64 = 4 << 30;

/// Judges `facts` for `boards`.
pub fn assemble(boards: &[Arc<Board>], facts: &Facts) -> Report {
    let mut gaps = Vec::new();
    let judged = boards.iter().map(|board| judge(board, facts, &mut gaps)).collect();
    note(boards, facts, &mut gaps);
    gaps.sort_by_key(|gap| gap.blocks.is_empty());
    Report {
        boards: judged,
        qemu: facts
            .qemu
            .iter()
            .map(|fact| qemu_report(boards, fact.arch, fact.found.as_ref().ok()))
            .collect(),
        firmware: facts
            .firmware
            .iter()
            .map(|fact| FirmwareReport {
                kind: fact.kind,
                arch: fact.arch.qemu_name(),
                machine: fact.machine.clone(),
                path: fact.found.as_ref().ok().map(|(path, _)| path.clone()),
                descriptor: fact.found.as_ref().ok().and_then(|(_, descriptor)| descriptor.clone()),
            })
            .collect(),
        accelerators: facts.accelerators.clone(),
        tools: vec![ToolReport { name: "swtpm", path: facts.swtpm.clone() }],
        memory_available_bytes: facts.memory_available_bytes,
        disks: facts
            .disks
            .iter()
            .map(|disk| DiskReport {
                purpose: disk.purpose,
                path: disk.path.clone(),
                free_bytes: disk.free_bytes,
            })
            .collect(),
        gaps,
    }
}

/// Whether `board` can be played; what it lacks is added to `gaps`.
fn judge(board: &Board, facts: &Facts, gaps: &mut Vec<Gap>) -> BoardReport {
    let mut missing = Vec::new();
    let mut lack = |what: String, command: Option<String>| {
        match gaps.iter_mut().find(|gap| gap.what == what) {
            Some(gap) => gap.blocks.push(board.slug.clone()),
            None => gaps.push(Gap { what: what.clone(), blocks: vec![board.slug.clone()], command }),
        }
        missing.push(what);
    };
    let install =
        |absent: &Absent| absent.package.and_then(|package| facts.distribution.install_command(package));
    match facts.qemu.iter().find(|fact| fact.arch == board.arch).map(|fact| &fact.found) {
        Some(Ok((path, inventory))) => {
            for lacked in lacks(board, inventory) {
                let command = closing(&lacked, board.arch, inventory, &facts.distribution);
                lack(format!("{} {} has no {lacked}", path.display(), inventory.version), command);
            }
        }
        Some(Err(absent)) => lack(absent.reason.clone(), install(absent)),
        None => lack(format!("nobody looked for QEMU for {}", board.arch.qemu_name()), None),
    }
    let of_board = |kind: Firmware, arch: Arch, machine: &str| {
        (kind, arch, machine) == (board.qemu.firmware, board.arch, &board.qemu.machine)
    };
    let firmware = facts.firmware.iter().find(|fact| of_board(fact.kind, fact.arch, &fact.machine));
    if let Some(Err(absent)) = firmware.map(|fact| &fact.found) {
        lack(absent.reason.clone(), install(absent));
    }
    if board.qemu.tpm.is_some() && facts.swtpm.is_none() {
        lack(tpm::Missing.to_string(), facts.distribution.install_command(Package::Swtpm));
    }
    BoardReport { slug: board.slug.clone(), playable: missing.is_empty(), lacks: missing }
}

/// Only a machine type that came later is mended by a newer QEMU for sure.
fn closing(lack: &Lack, arch: Arch, inventory: &Inventory, distribution: &Distribution) -> Option<String> {
    match lack {
        Lack::Machine { since: Some(since), .. } if *since > inventory.version => {
            distribution.newer_qemu_command(arch)
        }
        _ => None,
    }
}

/// Adds what blocks nothing and is worth a word.
fn note(boards: &[Arc<Board>], facts: &Facts, gaps: &mut Vec<Gap>) {
    let mut note =
        |what: String, command: Option<String>| gaps.push(Gap { what, blocks: Vec::new(), command });
    for fact in &facts.qemu {
        if let Ok((path, inventory)) = &fact.found
            && !inventory.sandbox
        {
            note(format!("{} has no `-sandbox`: machines are not confined", path.display()), None);
        }
    }
    for accelerator in facts.accelerators.iter().filter(|accelerator| !accelerator.usable) {
        note(format!("machines run slower without {}", accelerator.name.name()), None);
    }
    let has_tpm = |board: &Arc<Board>| board.qemu.tpm.is_some();
    if facts.swtpm.is_none() && !boards.iter().any(has_tpm) {
        let command = facts.distribution.install_command(Package::Swtpm);
        note("no `swtpm` on this host: a board of yours cannot have a TPM".to_owned(), command);
    }
    let largest = boards.iter().map(|board| board.qemu.memory.0).max().unwrap_or_default();
    if let Some(available) = facts.memory_available_bytes
        && available < largest
    {
        let (available, largest) = (human(Some(available)), ByteSize(largest));
        note(format!("{available} of memory are free, and the largest board has {largest}"), None);
    }
    for disk in &facts.disks {
        if let Some(free) = disk.free_bytes
            && free < LITTLE_ROOM
        {
            let (path, free) = (disk.path.display(), human(Some(free)));
            note(format!("{path} has {free} left for {}", disk.purpose), None);
        }
    }
}

fn qemu_report(boards: &[Arc<Board>], arch: Arch, found: Option<&(PathBuf, Inventory)>) -> QemuReport {
    let inventory = found.map(|(_, inventory)| inventory);
    let mut names: Vec<&str> =
        boards.iter().filter(|board| board.arch == arch).map(|board| board.qemu.machine.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let full_name = |name: &str| inventory.and_then(|inventory| Some(inventory.machine(name)?.name.clone()));
    QemuReport {
        arch: arch.qemu_name(),
        path: found.map(|(path, _)| path.clone()),
        version: inventory.map(|inventory| inventory.version.to_string()),
        package: inventory.map(|inventory| inventory.package.clone()),
        machines: names
            .into_iter()
            .map(|name| MachineReport { name: name.to_owned(), full_name: full_name(name) })
            .collect(),
        accelerators: inventory.map(|inventory| inventory.accelerators.clone()).unwrap_or_default(),
        sandbox: inventory.is_some_and(|inventory| inventory.sandbox),
        netdev_stream_and_dgram: inventory
            .is_some_and(|inventory| inventory.has_netdev("stream") && inventory.has_netdev("dgram")),
    }
}

impl Report {
    /// Whether at least one board can be played completely.
    pub fn can_play_any(&self) -> bool {
        self.boards.iter().any(|board| board.playable)
    }

    /// The report for people: titles, each with its rows.
    pub fn sections(&self) -> Vec<(&'static str, Vec<[String; 3]>)> {
        let row = |name: &str, state: String, more: String| [format!("  {name}"), state, more];
        let shown = |path: &Option<PathBuf>| {
            path.as_ref().map_or("missing".to_owned(), |path| path.display().to_string())
        };
        let boards = self.boards.iter().map(|board| {
            let state = if board.playable { "can be played" } else { "cannot be played" };
            row(&board.slug, state.to_owned(), board.lacks.join("; "))
        });
        let qemu = self.qemu.iter().map(|qemu| {
            let machines = qemu.machines.iter().map(|machine| match &machine.full_name {
                Some(_) => machine.name.clone(),
                None => format!("{} missing", machine.name),
            });
            let machines = machines.collect::<Vec<_>>().join(", ");
            let more = qemu.version.as_ref().map(|version| format!("{version} ({machines})"));
            row(qemu.arch, shown(&qemu.path), more.unwrap_or_default())
        });
        let firmware = self.firmware.iter().map(|firmware| {
            let name = format!("{} {} {}", word(&firmware.kind), firmware.arch, firmware.machine);
            let named_by = firmware.descriptor.as_ref().map(|path| format!("by {}", path.display()));
            row(&name, shown(&firmware.path), named_by.unwrap_or_default())
        });
        let accelerators = self.accelerators.iter().map(|accelerator| {
            let state = if accelerator.usable { "usable" } else { "not usable" };
            row(accelerator.name.name(), state.to_owned(), accelerator.evidence.clone())
        });
        let tools = self.tools.iter().map(|tool| row(tool.name, shown(&tool.path), String::new()));
        let memory = row("memory", format!("{} free", human(self.memory_available_bytes)), String::new());
        let disks = self.disks.iter().map(|disk| {
            row(disk.purpose, format!("{} free", human(disk.free_bytes)), disk.path.display().to_string())
        });
        // A gap is a line of its own, and so is what closes it.
        let gap = |gap: &Gap| {
            let command = gap.command.as_ref().map(|command| format!("    {command}"));
            let lines = [Some(format!("  {}", gap.what)), command];
            lines.into_iter().flatten().map(|line| [line, String::new(), String::new()])
        };
        let (blocking, notes): (Vec<_>, Vec<_>) = self.gaps.iter().partition(|gap| !gap.blocks.is_empty());
        let sections = vec![
            ("boards", boards.collect()),
            ("qemu", qemu.collect()),
            ("firmware", firmware.collect()),
            ("accelerators", accelerators.collect()),
            ("host", tools.chain([memory]).chain(disks).collect()),
            ("missing", blocking.into_iter().flat_map(gap).collect()),
            ("notes", notes.into_iter().flat_map(gap).collect::<Vec<_>>()),
        ];
        sections.into_iter().filter(|(_, rows)| !rows.is_empty()).collect()
    }
}

/// Bytes as people say them, to a tenth of a GiB.
fn human(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return "unknown".to_owned() };
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}
