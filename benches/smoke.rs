//! What the smoke suite costs on UEFI boards above their firmware alone.
//!
//! The baseline is QEMU by hand, from spawn to the self-test's first word, as many times as the suite boots,
//! taken just before each run of the suite. The bar: at most 1 s above it. `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

mod by_hand;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use by_hand::median;
use standin::board::catalog::Catalog;
use standin::device::power::InstalledFirmware;
use standin::device::storage::Storage;
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::io::selftest::SELFTEST_IMAGE;
use standin::lab::player::{AcceleratorChoice, choose};
use standin::qemu::arguments::{Accelerator, FirmwareFiles, Launch, Reach, arguments};

const BOARDS: [&str; 3] = ["generic-amd64", "genericx86-64-ext", "intel-nuc"];
/// How often the suite boots: flash, power cycle, reboot, on after a halt.
const BOOTS: u32 = 4;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut held = true;
    println!("medians of {ROUNDS} rounds, in turns, TCG; {BOOTS} boots each");
    for slug in BOARDS {
        let (mut alone, mut ours, mut above) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let firmware = runtime.block_on(firmware_alone(slug));
            let suite = suite(slug);
            above.push(suite.saturating_sub(firmware));
            alone.push(firmware);
            ours.push(suite);
        }
        let (alone, ours, above) = (median(alone), median(ours), median(above));
        held &= above <= Duration::from_secs(1);
        println!("{slug:18} firmware alone {alone:6.2?}  smoke {ours:6.2?}  above {above:6.2?}");
    }
    println!("bar (1 s above): {}", if held { "held" } else { "MISSED" });
    std::process::exit(i32::from(!held));
}

/// The time of so many boots from spawn to the first word of what was flashed.
async fn firmware_alone(slug: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let board = Catalog::load(None).unwrap().board(slug).unwrap();
    let host = support::host(dir.path());
    let only_tcg = AcceleratorChoice::Only(Accelerator::Tcg);
    let player = choose(&board, &host, only_tcg).await.unwrap().player;
    let InstalledFirmware::Uefi { code, variables: template, format } = player.firmware else {
        panic!("{slug} has no UEFI")
    };
    let image = Image::built_in("selftest", SELFTEST_IMAGE, &Cache::at(dir.path())).unwrap();
    let mut storage = Storage::create(&board, dir.path()).unwrap();
    storage.flash(&board.flash.medium, &image).await.unwrap();
    let variables = dir.path().join("variables.fd");
    std::fs::copy(template, &variables).unwrap();
    let launch = Launch {
        accelerator: Accelerator::Tcg,
        sandbox: player.sandbox,
        firmware: FirmwareFiles::Uefi { code, variables, format },
        media: storage.plugged_in().unwrap(),
        boots_first: None,
        reach: Reach::NOTHING,
    };
    let command_line = arguments(&board, &launch);
    (0..BOOTS).map(|_| by_hand::boot(&player.program, &command_line, "standin selftest")).sum()
}

/// The whole command, from its start to its exit.
fn suite(slug: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let status = support::standin(dir.path())
        .args(["test", "smoke", "--accelerator", "tcg", "--board", slug])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "smoke on {slug}: {status}");
    begun.elapsed()
}
