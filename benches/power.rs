//! What standin itself costs: power-on to prompt beside the same QEMU command line run by hand, in turns and in
//! one go, and power-off to gone.
//!
//! The bar: at most 3 % or 50 ms above QEMU alone, and gone within 50 ms. `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

mod by_hand;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use by_hand::median;
use standin::procedure;
use standin::qemu::arguments::{Accelerator, FirmwareFiles, Launch, Reach, arguments};
use support::{Hold, seabios_pc, secs};

const ROUNDS: usize = 31;
const PROMPT: &str = "selftest# ";

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    runtime.block_on(procedure::flash(&mut hold.device, &image)).unwrap();
    let launch = Launch {
        accelerator: Accelerator::Tcg,
        sandbox: true,
        firmware: FirmwareFiles::BuiltIn,
        media: hold.device.storage.plugged_in().unwrap(),
        boots_first: None,
        reach: Reach::NOTHING,
    };
    let command_line = arguments(&hold.device.board, &launch);
    let (mut alone, mut ours, mut off) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(by_hand::boot(Path::new("qemu-system-x86_64"), &command_line, PROMPT));
        let (on, gone) = runtime.block_on(boot(&mut hold));
        ours.push(on);
        off.push(gone);
    }
    let (alone, ours, off) = (median(alone), median(ours), median(off));
    let above = ours.saturating_sub(alone);
    let ratio = ours.as_secs_f64() / alone.as_secs_f64();
    println!("medians of {ROUNDS} rounds, in turns, TCG, {}", hold.device.board.slug);
    println!("QEMU by hand, spawn to prompt     {:8.1} ms", milliseconds(alone));
    println!("standin, power-on to prompt       {:8.1} ms  ratio {ratio:.3}", milliseconds(ours));
    println!("standin, power-off to gone        {:8.1} ms", milliseconds(off));
    let bar = Duration::from_millis(50);
    let within = (ratio <= 1.03 || above <= bar) && off <= bar;
    println!("bar (3 % or 50 ms above, gone in 50 ms): {}", if within { "held" } else { "MISSED" });
    runtime.block_on(hold.close_and_expect_nothing_left());
    std::process::exit(i32::from(!within));
}

async fn boot(hold: &mut Hold) -> (Duration, Duration) {
    let begun = Instant::now();
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for(PROMPT).await;
    let on = begun.elapsed();
    let begun = Instant::now();
    hold.device.power_off().await.unwrap();
    (on, begun.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
