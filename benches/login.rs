//! Where the time goes from a flash of the reference OS to a login over SSH, and how much of it is standin's own.
//!
//! The suite `tests/suites/reference-os-login.toml` on `generic-amd64` under TCG. The bar: standin's own is at most 2 %
//! of the whole. Counted as its own are, in the test, what its process computes, by how much it may have noticed too
//! late what it waited for, and all of a flash; and beside the test every moment, from the start of the process to its
//! end: asking QEMU what it can do (the first round alone, as the cache starts empty), opening the image, making the
//! layers, closing. Told and not counted is how long the first round reads the image that is new to the cache, which
//! bench `flash` holds to a bar of its own.
//! `scripts/bench reference-os` runs it; it takes some minutes, as it builds the image.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

const ROUNDS: usize = 3;
const BAR: f64 = 0.02;

fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = dir.path().join("reference-os.img");
    let build = "firmware-images/reference-os/build";
    assert!(Command::new(build).args(["amd64", "disk"]).arg(&image).status().unwrap().success());
    let held =
        (1..=ROUNDS).map(|round| measure(round, dir.path(), &image)).fold(true, |all, held| all & held);
    println!("bar (2 %): {}", if held { "held" } else { "MISSED" });
    std::process::exit(i32::from(!held));
}

fn measure(round: usize, dir: &Path, image: &Path) -> bool {
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["test", "tests/suites/reference-os-login.toml", "--board", "generic-amd64", "--json"])
        .args(["--accelerator", "tcg", "--image"])
        .arg(image)
        .env("STANDIN_RUNS", dir.join("runs"))
        .env("STANDIN_CACHE", dir.join("cache"))
        .output()
        .unwrap();
    let whole = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |kind: &str| lines.iter().find(|line| line["type"] == kind).unwrap();
    let (board, test) = (find("board-begins"), find("test-ends"));
    println!("round {round}");
    let seconds = |value: &Value, unit: f64| value.as_f64().unwrap_or(0.0) / unit;
    let read = seconds(&board["setting"]["image"]["read_ms"], 1e3);
    let beside = whole - seconds(&test["duration_ms"], 1e3) - read;
    let mut own = beside;
    for stage in test["stages"].as_array().unwrap() {
        let (took, of_it) = (seconds(&stage["duration_ms"], 1e3), seconds(&stage["own_us"], 1e6));
        own += of_it;
        println!("  {:30} {took:7.2} s   own {of_it:6.3} s", stage["name"].as_str().unwrap());
    }
    println!("  {:30} {beside:7.2} s   own {beside:6.3} s", "beside the test");
    println!("  {:30} {read:7.2} s   not counted", "reading a new image");
    let share = own / whole;
    println!("  {:30} {whole:7.2} s   own {own:6.3} s: {:.2} %", "all", share * 100.0);
    share <= BAR
}
