//! What a worker costs: idle, and asked by 200 clients at once while it takes an upload and flashes.
//!
//! The bars: idle under 20 MB resident and no more than 10 ms of processor in 5 s; while flashing, 99 of 100 answers
//! within 20 ms, and a flash that takes at most 1.05 times as long as one that nobody disturbs (200 clients ask once
//! a second each). `scripts/bench` runs it.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::worker::{Worker, gzip};

const CLIENTS: u32 = 200;
const ASKS_EVERY: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if !runtime.block_on(measure()) {
        std::process::exit(1);
    }
}

async fn measure() -> bool {
    let worker = Arc::new(Worker::start("pc-seabios").await);
    let before = processor_ms(worker.pid());
    // sleep: being idle is what is measured.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle_ms = processor_ms(worker.pid()) - before;
    let resident_mb = resident_kib(worker.pid()) * 1024 / 1_000_000;
    println!("idle: {resident_mb} MB resident (bar 20), {idle_ms} ms of processor in 5 s (bar 10)");

    let image = gzip(&noise(192 << 20));
    flash(&worker, &image).await;
    let (mut alone, mut disturbed, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(flash(&worker, &image).await);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| tokio::spawn(ask(worker.clone(), number, stop.clone()))).collect();
        disturbed.push(flash(&worker, &image).await);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            answers.extend(client.await.unwrap());
        }
    }
    answers.sort();
    let late = answers[answers.len() * 99 / 100];
    let (alone, disturbed) = (median(&mut alone), median(&mut disturbed));
    let slower = disturbed.as_secs_f64() / alone.as_secs_f64();
    println!("{} answers while flashing: 99 % within {late:.1?} (bar 20 ms)", answers.len());
    println!(
        "upload and flash of 192 MiB: {alone:.2?} alone, {disturbed:.2?} disturbed: {slower:.2} (bar 1.05)"
    );
    Arc::into_inner(worker).unwrap().close_and_expect_nothing_left().await;
    resident_mb < 20 && idle_ms <= 10 && late < Duration::from_millis(20) && slower <= 1.05
}

/// Asks for the state until told to stop; returns how long each answer took.
async fn ask(worker: Arc<Worker>, number: u32, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut took = Vec::new();
    // sleep: clients ask at a rate, each at a moment of its own.
    tokio::time::sleep(ASKS_EVERY * number / CLIENTS).await;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        assert_eq!(worker.get(["/state", "/dut/flashState"][number as usize % 2]).await.0, 200);
        took.push(begun.elapsed());
        // sleep: as above.
        tokio::time::sleep(ASKS_EVERY).await;
    }
    took
}

/// Uploads and flashes as if the image were new.
async fn flash(worker: &Worker, image: &[u8]) -> Duration {
    let _ = std::fs::remove_dir_all(worker.dir.path().join("cache/images"));
    let begun = Instant::now();
    worker.send_image(image).await;
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.flash_ended().await, "DONE");
    begun.elapsed()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        // xorshift, by its published shifts.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// User and system time together; the kernel counts in hundredths (proc(5), USER_HZ).
fn processor_ms(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    10 * (after_name[11].parse::<u64>().unwrap() + after_name[12].parse::<u64>().unwrap())
}
