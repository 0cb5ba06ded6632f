//! `standin test` with an installer: cut in the middle by whatever, the run says what that was, and the next one is
//! clean.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use support::{look_until, machines, pid_of, run_dirs};

const SUITE: &str = r#"
title = "Install"
[[test]]
title = "What is installed runs"
steps = [
  { flash = "image", within = "WITHIN" },
  { wait_event = "installed" },
  { power = "on" },
  { expect = "ready" },
]
"#;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boards")).unwrap();
        let board = include_str!("support/installer-pc.toml");
        std::fs::write(dir.path().join("boards/installer-pc.toml"), board).unwrap();
        for (name, line) in [("good", "install; halt"), ("hanging", "echo working; hang")] {
            std::fs::write(dir.path().join(name), support::installer_bytes(line)).unwrap();
        }
        for within in ["3s", "4min"] {
            std::fs::write(dir.path().join(within), SUITE.replace("WITHIN", within)).unwrap();
        }
        Self { dir }
    }

    fn command(&self, image: &str, within: &str) -> Command {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = support::standin(self.dir.path());
        command.arg("test").arg(path(within)).args(["--board", "installer-pc", "--accelerator", "tcg"]);
        command.arg("--boards").arg(path("boards")).arg("--image").arg(path(image));
        command
    }

    /// A run whose installer never ends, once it is at it.
    fn hanging(&self) -> Child {
        let run = self.command("hanging", "4min").stderr(Stdio::null()).spawn().unwrap();
        look_until("the installer's own words", || said(self.dir.path(), "working").then_some(()));
        run
    }

    fn expect_clean(&self) {
        assert_eq!(machines(self.dir.path()), []);
        let kept = run_dirs(self.dir.path());
        let output = self.command("good", "4min").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Evidence of runs that did not pass stays; of one that was killed there is none.
        let finished = kept.iter().filter(|dir| dir.join("report.json").exists()).count();
        assert_eq!(run_dirs(self.dir.path()).len(), finished);
    }
}

/// Whether a console below `dir` has said so.
fn said(dir: &Path, words: &str) -> bool {
    let logs = run_dirs(dir).into_iter().map(|run| run.join("installer-pc"));
    let suites = logs.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let consoles = suites.map(|suite| suite.unwrap().path().join("console"));
    let files = consoles.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    files.filter_map(|file| std::fs::read(file.unwrap().path()).ok()).any(|log| {
        // Not the line that it was told to run.
        String::from_utf8_lossy(&log).contains(&format!("\n{words}"))
    })
}

fn report(lab: &Lab) -> String {
    std::fs::read_to_string(run_dirs(lab.dir.path())[0].join("report.json")).unwrap()
}

#[test]
fn an_installer_that_is_given_too_little_time_fails_and_is_shown() {
    let lab = Lab::new();
    let output = lab.command("hanging", "3s").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("the installer did not power the board off within 3s"), "{words}");
    assert!(words.contains("| working"), "{words}");
    lab.expect_clean();
}

#[test]
fn a_killed_qemu_breaks_an_installation() {
    let lab = Lab::new();
    let mut run = lab.hanging();
    kill(machines(lab.dir.path())[0], Signal::SIGKILL).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    let report = report(&lab);
    assert!(report.contains("signal: 9"), "{report}");
    lab.expect_clean();
}

#[test]
fn a_silent_qemu_breaks_an_installation_that_is_over_its_time() {
    let lab = Lab::new();
    let mut run = lab.command("hanging", "3s").stderr(Stdio::null()).spawn().unwrap();
    let machine = look_until("a machine", || machines(lab.dir.path()).first().copied());
    look_until("the installer's own words", || said(lab.dir.path(), "working").then_some(()));
    kill(machine, Signal::SIGSTOP).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    lab.expect_clean();
}

#[test]
fn an_interrupted_installation_is_interrupted() {
    let lab = Lab::new();
    let mut run = lab.hanging();
    kill(pid_of(&run), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    lab.expect_clean();
}

#[test]
fn a_killed_standin_takes_the_installation_along() {
    let lab = Lab::new();
    let mut run = lab.hanging();
    run.kill().unwrap();
    run.wait().unwrap();
    look_until("the end of every machine", || machines(lab.dir.path()).is_empty().then_some(()));
    lab.expect_clean();
}

#[test]
fn an_installer_for_a_board_that_runs_none_is_refused_before_anything_starts() {
    let lab = Lab::new();
    let mut command = support::standin(lab.dir.path());
    command.args(["test", "smoke", "--board", "pc-seabios", "--accelerator", "tcg", "--installer", "yes"]);
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert_eq!(words, "error: pc-seabios is not flashed by an installer: its procedure is `sd`\n");
    assert_eq!(run_dirs(lab.dir.path()).len(), 0);
}

#[test]
fn up_shows_what_the_installer_says_and_starts_what_it_installed() {
    let lab = Lab::new();
    let mut command = support::standin(lab.dir.path());
    command
        .args(["up", "installer-pc", "--accelerator", "tcg", "--boards"])
        .arg(lab.dir.path().join("boards"));
    command.arg("--image").arg(lab.dir.path().join("good")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut up = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut keys = up.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"\r\rhalt\r").unwrap();
    let output = up.wait_with_output().unwrap();
    let (said, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{words}");
    let runs: Vec<_> = said.split("standin selftest\r\n").collect();
    assert_eq!(runs.len(), 3, "{said}");
    assert!(runs[1].contains("installed 1048576 bytes") && runs[2].contains("selftest# "), "{said}");
    assert!(words.contains("[the installer is done; installer-pc starts from internal]"), "{words}");
}
