//! Nothing stays behind, whatever ends a run: signals, `kill -9` of standin or of QEMU, a thousand power cycles.
//!
//! `STANDIN_KILLS` and `STANDIN_CYCLES` make the two long ones as long as wanted; `scripts/endurance` runs them
//! with 100 and 1,000.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use standin::procedure;
use support::{look_until, machines, pid_of, processes_with, run_dirs, seabios_pc, secs, standin};

/// Long enough to be killed in, short enough to end: six boots of the SeaBIOS PC, some 0.6 s.
fn start_run(dir: &Path) -> Child {
    start_suite(dir, "smoke")
}

fn start_suite(dir: &Path, suite: &str) -> Child {
    standin(dir)
        .args(["test", suite, "--board", "pc-seabios", "--accelerator", "tcg"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the built program runs")
}

/// Moments spread over a whole run, the same ones each time: multiples of the golden ratio.
fn moment(round: u32) -> Duration {
    Duration::from_secs_f64(0.7 * (f64::from(round) * 0.618_034).fract())
}

#[test]
fn a_signal_ends_a_run_with_130_and_leaves_only_its_evidence() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = start_run(dir.path());
        look_until("a machine", || machines(dir.path()).first().copied());
        kill(pid_of(&run), signal).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(130), "{signal}");
        assert_eq!(machines(dir.path()), []);
        let kept = run_dirs(dir.path());
        assert_eq!(kept.len(), 1);
        let report = std::fs::read_to_string(kept[0].join("report.json")).unwrap();
        assert!(report.contains("\"interrupted\": true") && report.contains("not-run"), "{report}");
        assert!(!kept[0].join("scratch").exists());
    }
}

#[test]
fn a_run_interrupted_at_any_moment_ends_after_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..number("STANDIN_KILLS", 12) {
        let mut run = start_run(dir.path());
        std::thread::sleep(moment(round)); // sleep: the moment of the signal is what is tried
        kill(pid_of(&run), Signal::SIGINT).unwrap();
        let status = run.wait().unwrap();
        assert_eq!(machines(dir.path()), [], "round {round}, {status}");
        // Before it listens, the signal ends it as it ends any program; after its last test it has passed.
        let expected = [Some(130), Some(0), None];
        assert!(expected.contains(&status.code()), "round {round}: {status}");
    }
}

#[test]
fn a_killed_qemu_breaks_the_run_and_is_never_taken_for_a_failed_test() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = start_run(dir.path());
    let machine = look_until("a machine", || machines(dir.path()).first().copied());
    kill(machine, Signal::SIGKILL).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    assert_eq!(machines(dir.path()), []);
    let report = std::fs::read_to_string(run_dirs(dir.path())[0].join("report.json")).unwrap();
    assert!(report.contains("\"verdict\": \"broken\"") && report.contains("signal: 9"), "{report}");
}

/// Waits until the test has made a file that says so, and then in vain.
const SILENT_SUITE: &str = r#"
title = "Silent"
image = "selftest"
[[test]]
title = "It expects what never comes"
steps = [
  { flash = "image" },
  { power = "on" },
  { expect = "ready" },
  { exec = ["sh", "-c", "touch ready; until [ -e stopped ]; do sleep 0.01; done"] },
  { expect = "no such words", within = "100ms" },
]
"#;

/// Its program has a child of its own, in a session of its own, which nobody but its guard knows when standin is killed.
const PROGRAM_SUITE: &str = r#"
title = "Program"
[[test]]
title = "It runs a program"
steps = [{ exec = ["sh", "-c", "setsid tail -f $PWD/program.toml & touch ready; wait"] }]
"#;

#[test]
fn a_program_of_a_suite_dies_with_a_killed_standin_and_takes_its_children_along() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("program.toml");
    std::fs::write(&suite, PROGRAM_SUITE).unwrap();
    let mut run = start_suite(dir.path(), suite.to_str().unwrap());
    look_until("the program of the suite", || dir.path().join("ready").exists().then_some(()));
    // Standin, and what the program has started: it may still be on its way to becoming `tail`.
    look_until("the program's child", || (processes_with(dir.path()).len() > 1).then_some(()));
    run.kill().unwrap();
    run.wait().unwrap();
    look_until("the end of the program", || processes_with(dir.path()).is_empty().then_some(()));
}

#[test]
fn a_qemu_that_stops_answering_breaks_the_run_and_does_not_fail_the_dut() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("silent.toml");
    std::fs::write(&suite, SILENT_SUITE).unwrap();
    let mut run = start_suite(dir.path(), suite.to_str().unwrap());
    look_until("the program of the suite", || dir.path().join("ready").exists().then_some(()));
    kill(machines(dir.path())[0], Signal::SIGSTOP).unwrap();
    std::fs::write(dir.path().join("stopped"), "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    assert_eq!(machines(dir.path()), []);
    let report = std::fs::read_to_string(run_dirs(dir.path())[0].join("report.json")).unwrap();
    assert!(report.contains("QEMU did not answer `query-status`"), "{report}");
}

#[test]
fn a_run_killed_at_any_moment_leaves_no_process_and_the_next_start_no_directory() {
    let kills = number("STANDIN_KILLS", 12);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..kills {
        let mut run = start_run(dir.path());
        std::thread::sleep(moment(round)); // sleep: the moment of the kill is what is tried
        run.kill().unwrap();
        run.wait().unwrap();
        look_until("the end of every machine", || machines(dir.path()).is_empty().then_some(()));
    }
    assert!(start_run(dir.path()).wait().unwrap().success());
    assert_eq!(run_dirs(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn power_cycles_without_end_cost_no_memory_descriptors_threads_or_files() {
    let cycles = number("STANDIN_CYCLES", 100);
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    // The first ones fill caches and start threads that then stay; logs are kept of 64 power-ons.
    let warm_up = 70;
    let mut before = None;
    for round in 0..warm_up + cycles {
        if round == warm_up {
            before = Some(Usage::now(hold.dir.path()));
        }
        hold.device.power_cycle(secs(30)).await.unwrap();
        hold.wait_for("selftest# ").await;
    }
    let (before, after) = (before.unwrap(), Usage::now(hold.dir.path()));
    println!("{cycles} power cycles: {before:?} -> {after:?}");
    assert_eq!((before.descriptors, before.files), (after.descriptors, after.files));
    // The runtime starts and ends threads for blocking work as it pleases; a leak would be one for each cycle.
    assert!(after.threads <= before.threads + 2, "{before:?} -> {after:?}");
    // What is left to grow is the console's memory, up to its 8 MiB: some 400 bytes a boot.
    let allowed_kib = 1024 + u64::from(cycles);
    assert!(after.memory_kib <= before.memory_kib + allowed_kib, "{before:?} -> {after:?}");
    hold.close_and_expect_nothing_left().await;
}

/// What this process and its run use.
#[derive(Debug)]
struct Usage {
    memory_kib: u64,
    descriptors: usize,
    threads: usize,
    files: usize,
}

impl Usage {
    fn now(run: &Path) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells of us");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let count = |path: &Path| std::fs::read_dir(path).expect("it can be listed").count();
        let files = ["evidence/console", "evidence", "scratch"].map(|name| count(&run.join(name)));
        Self {
            memory_kib: memory.and_then(|text| text.parse().ok()).expect("the kernel tells the size"),
            descriptors: count(Path::new("/proc/self/fd")),
            threads: count(Path::new("/proc/self/task")),
            files: files.iter().sum(),
        }
    }
}

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("the variable is a number"))
}
