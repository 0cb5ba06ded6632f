//! Hosts made of facts, and the report on each; and this very host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::facts::{Absent, DiskFact, Facts, FirmwareFact, QemuFact};
use super::report::{Report, assemble};
use super::*;
use crate::board::catalog::Catalog;
use crate::board::{Arch, Board, Firmware};
use crate::lab::player::Host;
use crate::qemu::binary::{Inventory, MachineType, Version};
use crate::qemu::package::{Distribution, Package};

fn board(slug: &str) -> Arc<Board> {
    Catalog::load(None).unwrap().board(slug).unwrap()
}

fn debian() -> Distribution {
    Distribution::parse("ID=debian\nVERSION_CODENAME=bookworm")
}

/// A PC's QEMU with every device, so that only the rest can be missing.
fn pc() -> QemuFact {
    let machine = MachineType { name: "pc-q35-7.2".to_owned(), alias: Some("q35".to_owned()), cpu_max: 288 };
    let devices = [
        "virtio-net-pci",
        "e1000e",
        "usb-net",
        "qemu-xhci",
        "ide-hd",
        "nvme",
        "virtio-blk-pci",
        "usb-storage",
        "sdhci-pci",
        "sd-card",
        "VGA",
        "virtio-gpu-pci",
        "usb-kbd",
        "pvpanic",
        "i6300esb",
        "tpm-tis",
    ];
    let inventory = Inventory {
        version: Version { major: 7, minor: 2, micro: 22 },
        package: "Debian".to_owned(),
        machines: vec![machine],
        devices: devices.map(str::to_owned).into_iter().collect::<BTreeSet<_>>(),
        accelerators: vec!["tcg".to_owned()],
        netdevs: ["user", "stream", "dgram"].map(str::to_owned).to_vec(),
        sandbox: true,
    };
    QemuFact { arch: Arch::X86_64, found: Ok((PathBuf::from("/usr/bin/qemu-system-x86_64"), inventory)) }
}

fn uefi(found: Result<(PathBuf, Option<PathBuf>), Absent>) -> FirmwareFact {
    FirmwareFact { kind: Firmware::Uefi, arch: Arch::X86_64, machine: "q35".to_owned(), found }
}

fn facts(qemu: Vec<QemuFact>, firmware: Vec<FirmwareFact>) -> Facts {
    Facts {
        distribution: debian(),
        qemu,
        firmware,
        accelerators: vec![AcceleratorReport::tcg()],
        swtpm: Some(PathBuf::from("/usr/bin/swtpm")),
        memory_available_bytes: Some(64 << 30),
        disks: vec![DiskFact { purpose: "runs", path: PathBuf::from("/runs"), free_bytes: Some(64 << 30) }],
    }
}

fn text(report: &Report) -> String {
    let sections = report.sections();
    sections.into_iter().flat_map(|(_, rows)| rows).map(|row| row.join(" ") + "\n").collect()
}

#[test]
fn a_host_with_everything_plays_the_board_and_has_no_gaps() {
    let found = Ok((PathBuf::from("/ovmf"), Some(PathBuf::from("/60.json"))));
    let report = assemble(&[board("generic-amd64")], &facts(vec![pc()], vec![uefi(found)]));
    assert!(report.can_play_any(), "{report:?}");
    assert_eq!(report.gaps, []);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["qemu"][0]["machines"][0]["full_name"], "pc-q35-7.2");
    assert_eq!(json["firmware"][0]["descriptor"], "/60.json");
    assert!(text(&report).contains("generic-amd64 can be played"));
}

#[test]
fn a_gap_names_what_it_blocks_and_the_command_that_closes_it() {
    let absent = Absent { reason: "no UEFI".to_owned(), package: Some(Package::Uefi(Arch::X86_64)) };
    let missing = Absent { reason: "no QEMU".to_owned(), package: Some(Package::Qemu(Arch::Aarch64)) };
    let arm = QemuFact { arch: Arch::Aarch64, found: Err(missing) };
    let boards = [board("generic-amd64"), board("intel-nuc"), board("pc-seabios"), board("raspberrypi3-64")];
    let report = assemble(&boards, &facts(vec![pc(), arm], vec![uefi(Err(absent))]));
    let played: Vec<_> =
        report.boards.iter().filter(|board| board.playable).map(|board| &board.slug).collect();
    assert_eq!(played, ["pc-seabios"]);
    assert_eq!(report.gaps[0].blocks, ["generic-amd64", "intel-nuc"]);
    assert_eq!(report.gaps[0].command.as_deref(), Some("apt-get install ovmf"));
    assert_eq!(report.gaps[1].blocks, ["raspberrypi3-64"]);
    assert_eq!(report.gaps[1].command.as_deref(), Some("apt-get install qemu-system-arm"));
}

#[test]
fn a_board_with_a_tpm_is_blocked_by_a_host_without_swtpm() {
    let found = Ok((PathBuf::from("/ovmf"), None));
    let poor = Facts { swtpm: None, ..facts(vec![pc()], vec![uefi(found)]) };
    let report = assemble(&[board("generic-amd64"), board("pc-seabios")], &poor);
    assert_eq!(report.gaps.len(), 1, "{:?}", report.gaps);
    assert_eq!(report.gaps[0].blocks, ["generic-amd64"]);
    assert_eq!(report.gaps[0].command.as_deref(), Some("apt-get install swtpm"));
}

#[test]
fn a_machine_of_a_later_qemu_is_closed_by_backports() {
    let mut late = (*board("pc-seabios")).clone();
    late.qemu.machine = "raspi4b".to_owned();
    let report = assemble(&[Arc::new(late)], &facts(vec![pc()], Vec::new()));
    assert!(!report.can_play_any());
    let gap = &report.gaps[0];
    assert!(gap.what.contains("has no machine type `raspi4b`"), "{gap:?}");
    assert!(gap.command.as_ref().unwrap().starts_with("apt-get install -t bookworm-backports"), "{gap:?}");
}

#[test]
fn what_blocks_nothing_is_a_note() {
    let mut poor = facts(vec![pc()], Vec::new());
    poor.accelerators.push(AcceleratorReport::kvm_untried(Path::new("/nonexistent")));
    poor.swtpm = None;
    poor.memory_available_bytes = Some(1 << 20);
    poor.disks[0].free_bytes = Some(1 << 20);
    let report = assemble(&[board("pc-seabios")], &poor);
    assert!(report.can_play_any());
    assert_eq!(report.gaps.len(), 4, "{:?}", report.gaps);
    assert!(report.gaps.iter().all(|gap| gap.blocks.is_empty()));
    assert!(text(&report).contains("    apt-get install swtpm"));
}

/// Says what to install if it fails: the report itself.
#[tokio::test]
async fn this_host_plays_some_board_completely() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host {
        qemu: None,
        search_path: "/usr/local/bin:/usr/bin:/bin".into(),
        config: None,
        cache: folder.path().join("cache"),
        runs: folder.path().join("runs"),
    };
    let boards = [board("generic-amd64"), board("raspberrypi3-64"), board("generic-aarch64")];
    let report = assemble(&boards, &Facts::gather(&boards, &host).await);
    for board in &report.boards {
        assert!(board.playable, "{}", text(&report));
    }
}
