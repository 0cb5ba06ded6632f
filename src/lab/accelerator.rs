//! Which accelerator may be used: KVM is taken only after a real boot under it.
//!
//! A host may open `/dev/kvm`, answer every ioctl and still run no guest; so the self-test image is booted once
//! under exactly the accelerator, CPU model, machine and firmware in question. The verdict is remembered in the
//! cache directory until the kernel, the processor or QEMU changes. Nothing else is left behind.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Places, open_stand_in};
use crate::board::{Arch, Board, Firmware, word};
use crate::deadline::Deadline;
use crate::device::console::Pattern;
use crate::device::power::Player;
use crate::device::{Device, DeviceError};
use crate::io::cache::Cache;
use crate::io::file;
use crate::io::image::Image;
use crate::io::selftest::SELFTEST_IMAGE;
use crate::message::chain;
use crate::procedure;
use crate::qemu::arguments::{Accelerator, cpu_model};
use crate::sys::run_dir::RunDir;

/// What is known of an accelerator for one kind of board on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether a guest was seen to run.
    pub usable: bool,
    /// What was seen, in words for people.
    pub evidence: String,
}

/// How long a guest may be silent before it counts as hung. Under KVM SeaBIOS needs some 0.2 s and OVMF some
/// 2 s to the self-test's banner; wrongly calling KVM unusable costs speed, never truth.
const SILENCE_BIOS: Duration = Duration::from_millis(1_500);
const SILENCE_UEFI: Duration = Duration::from_millis(2_800);

const KVM: &str = "/dev/kvm";

/// Whether `board` can be played by `player` under KVM, from memory or by a boot of the self-test.
///
/// `cache` is where verdicts are remembered; `runs` takes the probe's own run directory while it lasts.
pub async fn prove_kvm(board: &Board, player: &Player, cache: &Path, runs: &Path) -> Verdict {
    if let Some(reason) = cannot_even_try(board) {
        return Verdict { usable: false, evidence: reason };
    }
    let file = cache.join("accelerators.json");
    let key = key(board, player);
    let mut known = remembered(&file);
    if let Some(verdict) = known.get(&key) {
        return verdict.clone();
    }
    let verdict = match boot(board, player, runs).await {
        Ok(verdict) => verdict,
        // A full disk, say: it tells nothing of KVM, and the next start tries again.
        Err(reason) => {
            return Verdict { usable: false, evidence: format!("it could not be tried: {reason}") };
        }
    };
    tracing::info!(usable = verdict.usable, evidence = verdict.evidence, "probed KVM");
    known.insert(key, verdict.clone());
    if let Err(error) = remember(&file, &known) {
        tracing::warn!(%error, path = %file.display(), "the verdict on KVM is not remembered");
    }
    verdict
}

/// What rules KVM out without a boot; never remembered, as a person may mend it at any time.
fn cannot_even_try(board: &Board) -> Option<String> {
    let native = match board.arch {
        Arch::X86_64 => cfg!(target_arch = "x86_64"),
        Arch::Aarch64 => cfg!(target_arch = "aarch64"),
        Arch::Armv7 | Arch::Riscv64 => false,
    };
    if !native {
        return Some(format!("{} is not this host's architecture", board.arch.qemu_name()));
    }
    if board.arch == Arch::Aarch64 && board.qemu.firmware != Firmware::Uefi {
        return Some(format!(
            "nobody has tried it on Arm with the firmware `{}`",
            word(&board.qemu.firmware)
        ));
    }
    match OpenOptions::new().read(true).write(true).open(KVM) {
        Ok(_) => None,
        Err(error) => Some(format!("cannot open {KVM}: {error}")),
    }
}

/// Boots the self-test on the very board, and says what was seen; an error if it could not come to that.
async fn boot(board: &Board, player: &Player, runs: &Path) -> Result<Verdict, String> {
    let begun = Instant::now();
    let run = RunDir::create(runs).map_err(|error| chain(&error))?;
    let seen = attempt(board, player, &run.scratch()).await;
    run.remove().map_err(|error| chain(&error))?;
    let took = begun.elapsed().as_millis();
    Ok(match seen? {
        Ok(()) => Verdict { usable: true, evidence: format!("the self-test booted in {took} ms") },
        Err(error) => {
            // Evidence is one line for people; a failed QEMU brings more words than its first, and its command line.
            let reason = error.to_string().split(['\n', ';']).next().unwrap_or_default().to_owned();
            Verdict { usable: false, evidence: format!("{reason} (after {took} ms)") }
        }
    })
}

/// Whether the self-test was seen to run; an error in words if it could not even be tried.
async fn attempt(board: &Board, player: &Player, dir: &Path) -> Result<Result<(), DeviceError>, String> {
    let image =
        Image::built_in("selftest", SELFTEST_IMAGE, &Cache::at(dir)).map_err(|error| chain(&error))?;
    let places = Places::create(dir, &dir.join("scratch")).map_err(|error| chain(&error))?;
    let player = Player { accelerator: Accelerator::Kvm, ..player.clone() };
    let mut device =
        open_stand_in(Arc::new(board.clone()), player, &places, Vec::new()).map_err(|error| chain(&error))?;
    let seen = match procedure::flash(&mut device, &image).await {
        Ok(()) => Ok(see_it_run(&mut device).await),
        Err(error) => Err(chain(&error)),
    };
    let closed = device.close().await;
    Ok(seen?.and(closed))
}

async fn see_it_run(device: &mut Device) -> Result<(), DeviceError> {
    let firmware = device.board.qemu.firmware;
    let silence = if firmware == Firmware::Bios { SILENCE_BIOS } else { SILENCE_UEFI };
    let deadline = Deadline::after(silence);
    let events = device.events.clone();
    device.power_on(deadline).await?;
    let console = device.console()?;
    console.heed(&events, 0);
    console.wait_for(&Pattern::text("image-sha256"), deadline).await?;
    Ok(())
}

/// Everything whose change makes an old verdict worthless.
fn key(board: &Board, player: &Player) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let qemu = fs::metadata(&player.program)
        .map(|file| format!("{}.{}.{}", file.ino(), file.size(), file.mtime()))
        .unwrap_or_default();
    let model = cpu_model(board, Accelerator::Kvm).unwrap_or("default");
    let firmware = format!("{:?}", board.qemu.firmware);
    [
        kernel.trim(),
        processor,
        &player.program.display().to_string(),
        &qemu,
        &board.qemu.machine,
        model,
        &firmware,
    ]
    .join("|")
}

/// No memory, or one that cannot be read, is an empty one: the probe is run again.
fn remembered(file: &Path) -> BTreeMap<String, Verdict> {
    fs::read(file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

fn remember(path: &Path, known: &BTreeMap<String, Verdict>) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_vec_pretty(known)?;
    file::replace(path, |file| file.write_all(&text))
}
