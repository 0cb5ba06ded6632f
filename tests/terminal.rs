//! `standin up` on a real terminal: every key reaches the board but Ctrl-], and the terminal is as it was afterwards.

#[path = "support/sshd.rs"]
mod sshd;
mod support;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use sshd::Sshd;
use standin::io::ssh::Identity;
use support::{large_image, large_pc, processes_with};
use tempfile::TempDir;

/// A person at a terminal, with `standin up` running in it.
struct Seat {
    dir: TempDir,
    person: File,
    terminal: OwnedFd,
    before: Termios,
    standin: Child,
    seen: Vec<u8>,
}

impl Seat {
    fn take() -> Self {
        let mut seat = Self::start(tempfile::tempdir().unwrap(), &[]);
        seat.read_until("selftest# ");
        assert!(!seat.flags().contains(LocalFlags::ISIG), "Ctrl-C belongs to the board");
        seat
    }

    /// A seat before `standin up` with these options.
    fn start(dir: TempDir, options: &[&OsStr]) -> Self {
        let mut standin = Command::new(env!("CARGO_BIN_EXE_standin"));
        standin.args(["up", "pc-seabios", "--accelerator", "tcg"]).args(options);
        Self::before(standin, dir)
    }

    /// A seat before this command, whose files are below `dir`.
    fn before(mut command: Command, dir: TempDir) -> Self {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let standin = command
            .env("STANDIN_RUNS", dir.path().join("runs"))
            .env("STANDIN_CACHE", dir.path().join("cache"))
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { dir, person: pty.master.into(), terminal: pty.slave, before, standin, seen: Vec::new() }
    }

    /// Makes the window this large, as a person does with the mouse.
    fn resize(&self, lines: u16, columns: u16) {
        let (lines, columns) = (lines.to_string(), columns.to_string());
        let mut stty = Command::new("stty");
        let resized = stty.args(["rows", &lines, "cols", &columns]).stdin(self.terminal.try_clone().unwrap());
        assert!(resized.status().unwrap().success());
    }

    fn flags(&self) -> LocalFlags {
        tcgetattr(&self.terminal).unwrap().local_flags
    }

    /// Reads what the terminal shows, up to and including `text`.
    fn read_until(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut some = [0; 4096];
        let found = loop {
            let at = self.seen.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = at {
                break at;
            }
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let mut readable = [PollFd::new(self.person.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut readable, PollTimeout::try_from(left).unwrap()).unwrap();
            let shown = String::from_utf8_lossy(&self.seen);
            assert!(ready > 0, "`{text}` was not shown within 20 s, but:\n{shown}");
            let length = self.person.read(&mut some).unwrap();
            self.seen.extend_from_slice(&some[..length]);
        };
        self.seen.drain(..found + text.len());
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
    }

    /// Waits for the end, and holds it to what it must be.
    fn expect_end(mut self, code: i32) {
        assert_eq!(self.standin.wait().unwrap().code(), Some(code));
        assert_eq!(tcgetattr(&self.terminal).unwrap(), self.before);
        let runs = std::fs::read_dir(self.dir.path().join("runs")).unwrap();
        let left: Vec<_> = runs.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("the kernel's process ids are positive i32"))
}

/// The QEMU that uses files below `dir`.
fn machine(dir: &Path) -> Pid {
    let process = processes_with(&dir.join("runs")).pop().expect("a machine runs");
    Pid::from_raw(process.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[test]
fn keys_reach_the_board_and_ctrl_bracket_takes_its_power() {
    let mut seat = Seat::take();
    seat.type_keys(b"echo one two\r");
    seat.read_until("\none two");
    seat.read_until("selftest# ");
    seat.type_keys(b"\x03\r"); // Ctrl-C
    seat.read_until("selftest# ");
    seat.type_keys(b"\x1d"); // Ctrl-]
    seat.read_until("[pc-seabios was switched off]");
    seat.expect_end(0);
}

/// Reading some gigabytes takes longer than what is worth no word.
fn seat_with_large_image() -> Seat {
    let dir = tempfile::tempdir().unwrap();
    let (boards, image) = (dir.path().join("boards"), dir.path().join("os.img.gz"));
    large_pc(&boards);
    std::fs::write(&image, large_image(256)).unwrap();
    Seat::start(dir, &["--boards".as_ref(), boards.as_ref(), "--image".as_ref(), image.as_ref()])
}

#[test]
fn people_see_how_far_an_image_is() {
    let mut seat = seat_with_large_image();
    for part in ["os.img.gz: ", " %, ", "iB/s, ", " left"] {
        seat.read_until(part);
    }
    seat.read_until("selftest# ");
    let shown = String::from_utf8_lossy(&seat.seen).into_owned();
    assert!(!shown.contains(" %"), "the line is gone: {shown}");
    seat.type_keys(b"\x1d"); // Ctrl-]
    seat.expect_end(0);
}

#[test]
fn the_reading_of_an_image_ends_with_ctrl_c_and_leaves_nothing() {
    let mut seat = seat_with_large_image();
    seat.read_until(" %, ");
    kill(pid(seat.standin.id()), Signal::SIGINT).unwrap();
    seat.read_until("interrupted");
    let images = seat.dir.path().join("cache/images");
    assert_eq!(seat.standin.wait().unwrap().code(), Some(130));
    let halves = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().file_name());
    let halves: Vec<_> = halves.filter(|name| name.to_string_lossy().starts_with("new-")).collect();
    assert_eq!(halves, Vec::<std::ffi::OsString>::new());
    seat.expect_end(130);
}

#[test]
fn the_terminal_is_as_it_was_after_a_halt() {
    let mut seat = Seat::take();
    seat.type_keys(b"halt\r");
    seat.read_until("[pc-seabios halted itself]");
    seat.expect_end(0);
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let seat = Seat::take();
        kill(pid(seat.standin.id()), signal).unwrap();
        seat.expect_end(130);
    }
}

#[test]
fn the_terminal_is_as_it_was_after_qemu_was_killed() {
    let mut seat = Seat::take();
    kill(machine(seat.dir.path()), Signal::SIGKILL).unwrap();
    seat.read_until("QEMU died");
    seat.expect_end(3);
}

#[test]
fn a_window_that_closes_ends_all() {
    let Seat { dir, person, terminal, mut standin, .. } = Seat::take();
    drop((person, terminal));
    // What a shell, or the kernel for a session's leader, sends to whoever runs in a window that closes.
    kill(pid(standin.id()), Signal::SIGHUP).unwrap();
    assert_eq!(standin.wait().unwrap().code(), Some(130));
    let runs = std::fs::read_dir(dir.path().join("runs")).unwrap();
    assert_eq!(runs.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 0);
    assert_eq!(processes_with(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_shell_over_ssh_has_the_window_of_its_user_and_leaves_the_terminal_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let key = Identity::make(&dir.path().join("key")).unwrap();
    let sshd = Sshd::start(&key);
    let run = sshd.hold(&dir.path().join("runs"), &key).0;
    // Only the leader of a session has a terminal that tells of its size.
    let mut standin = Command::new("setsid");
    standin.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_standin"), "ssh", "--terminal", "--", "sh"]);
    let mut seat = Seat::before(standin, dir);
    seat.type_keys(b"echo $((20 + 3))in\r");
    seat.read_until("23in");
    assert!(!seat.flags().contains(LocalFlags::ISIG), "Ctrl-C belongs to the board");
    seat.resize(41, 123);
    // The server has taken the new size when it has answered what was typed after it.
    seat.type_keys(b"while [ \"$(stty size)\" != '41 123' ]; do :; done; echo re''sized\r");
    seat.read_until("resized");
    seat.type_keys(b"exit 6\r");
    assert_eq!(seat.standin.wait().unwrap().code(), Some(6));
    assert_eq!(tcgetattr(&seat.terminal).unwrap().local_flags, seat.before.local_flags);
    run.remove().unwrap();
}
