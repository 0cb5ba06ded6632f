//! The serial console against what the kernel offers: socketpairs, ptys, and real shells behind them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use standin::board::Login;
use standin::deadline::Deadline;
use standin::device::Fault;
use standin::device::console::{Console, ConsoleError, Pattern};
use standin::event::{EventKind, EventLog, Origin};
use tempfile::TempDir;

/// A console on a socketpair; the DUT's end never blocks, so that a test cannot hang on it.
struct Desk {
    console: Console,
    dut: UnixStream,
    dir: TempDir,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let (host, dut) = UnixStream::pair().unwrap();
    dut.set_nonblocking(true).unwrap();
    Desk { console: Console::open(host, dir.path()).unwrap(), dut, dir }
}

fn secs(count: u64) -> Deadline {
    Deadline::after(Duration::from_secs(count))
}

fn text(text: &str) -> Pattern {
    Pattern::text(text)
}

fn regex(source: &str) -> Pattern {
    Pattern::regex(source).unwrap()
}

impl Desk {
    fn says(&mut self, what: &str) {
        self.dut.write_all(what.as_bytes()).unwrap();
    }

    fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }
}

#[tokio::test]
async fn a_prompt_that_comes_in_pieces_is_found() {
    let mut desk = desk();
    let waiting = async {
        desk.console.wait_for(&text("login:"), secs(10)).await.unwrap();
    };
    let mut dut = desk.dut.try_clone().unwrap();
    let speaking = async {
        for piece in ["boot\r\nhost lo", "g", "in", ": "] {
            dut.write_all(piece.as_bytes()).unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(waiting, speaking);
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_regex_matches_across_pieces_and_gives_its_groups() {
    let mut desk = desk();
    let mut dut = desk.dut.try_clone().unwrap();
    let wanted = regex(r"^address (?<ip>[0-9.]+)$");
    let waiting = desk.console.wait_for(&wanted, secs(10));
    let speaking = async {
        for piece in ["addr", "ess 10.0.", "2.15", "\r\n"] {
            dut.write_all(piece.as_bytes()).unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (found, ()) = tokio::join!(waiting, speaking);
    assert_eq!(found.unwrap().group("ip"), Some("10.0.2.15"));
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_match_at_the_last_byte_is_taken_once_the_console_pauses() {
    let mut desk = desk();
    desk.says("progress 42");
    let found = desk.console.wait_for(&regex("progress ([0-9]+)"), secs(10)).await.unwrap();
    assert_eq!(found.group("1"), Some("42"));
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn each_byte_is_found_once() {
    let mut desk = desk();
    desk.says("ready\r\nready\r\n");
    desk.console.wait_for(&text("ready"), secs(10)).await.unwrap();
    desk.console.wait_for(&text("ready"), secs(10)).await.unwrap();
    let third = desk.console.wait_for(&text("ready"), Deadline::after(Duration::from_millis(20))).await;
    let error = third.unwrap_err();
    assert!(matches!(error, ConsoleError::NotSeen { .. }) && error.fault() == Fault::Dut, "{error}");
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_wait_says_what_was_seen() {
    let mut desk = desk();
    desk.says("U-Boot 2024.01\r\n\x1b[31mKernel panic\r\n");
    desk.console.wait_for(&text("panic"), secs(10)).await.unwrap();
    let short = Deadline::after(Duration::from_millis(20));
    let message = desk.console.wait_for(&text("login: "), short).await.unwrap_err().to_string();
    assert!(
        message.starts_with("text `login: ` not seen on the console within 20ms: silent for 0."),
        "{message}"
    );
    assert!(message.ends_with("  | U-Boot 2024.01\n  | \\u{1b}[31mKernel panic"), "{message}");
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_flood_does_not_block_the_dut_while_nobody_waits() {
    let mut desk = desk();
    let mut dut = tokio::net::UnixStream::from_std(desk.dut.try_clone().unwrap()).unwrap();
    let flood = vec![b'x'; 1 << 20];
    let all = async {
        tokio::io::AsyncWriteExt::write_all(&mut dut, &flood).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut dut, b"\r\nstill here\r\n").await.unwrap();
    };
    secs(30).bound(all).await.expect("nobody read the flood");
    desk.console.wait_for(&text("still here"), secs(10)).await.unwrap();
    assert_eq!(std::fs::metadata(desk.dir.path().join("console.log")).unwrap().len(), (1 << 20) + 14);
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_line_begins_only_where_the_dut_began_one() {
    let mut desk = desk();
    desk.console.begin_power_on().unwrap();
    desk.says("boot 1# ");
    desk.console.wait_for(&text("boot 1# "), secs(10)).await.unwrap();
    desk.console.end_power_on().await;
    desk.console.begin_power_on().unwrap();
    desk.says("ready, not ready\r\nready\r\n");
    assert_eq!(desk.console.wait_for(&regex("^ready.*$"), secs(10)).await.unwrap().text, "ready, not ready");
    desk.says("not ready\r\nready at last\r\n");
    desk.console.wait_for(&text("ready\r\nnot "), secs(10)).await.unwrap();
    assert_eq!(desk.console.wait_for(&regex("^ready.*$"), secs(10)).await.unwrap().text, "ready at last");
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_wait_for_a_regex_keeps_up_with_a_flood() {
    let mut desk = desk();
    let mut dut = tokio::net::UnixStream::from_std(desk.dut.try_clone().unwrap()).unwrap();
    let flooding = async {
        let lines = b"[    1.000000] usb 1-1: new high-speed USB device\r\n".repeat(20_000);
        for _ in 0..24 {
            tokio::io::AsyncWriteExt::write_all(&mut dut, &lines).await.unwrap();
        }
        tokio::io::AsyncWriteExt::write_all(&mut dut, b"at last 7\r\n").await.unwrap();
    };
    let wanted = regex("^at last ([0-9]+)$");
    let (found, ()) = tokio::join!(desk.console.wait_for(&wanted, secs(30)), flooding);
    assert_eq!(found.unwrap().group("1"), Some("7"));
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn console_survives_a_power_cycle_and_shows_nothing_stale() {
    let mut desk = desk();
    for boot in ["first", "second"] {
        desk.console.begin_power_on().unwrap();
        desk.says(&format!("{boot} boot\r\nready\r\n"));
        desk.console.wait_for(&text(&format!("{boot} boot")), secs(10)).await.unwrap();
        // These bytes are in the line, and the reader has had no chance to take them in yet.
        desk.says("last words, ready\r\n");
        desk.console.end_power_on().await;
    }
    desk.console.begin_power_on().unwrap();
    let short = Deadline::after(Duration::from_millis(20));
    let error = desk.console.wait_for(&text("ready"), short).await.unwrap_err();
    assert!(error.to_string().ends_with("nothing was seen since the power-on"), "{error}");
    assert_eq!(desk.log("console-2.log"), "second boot\r\nready\r\nlast words, ready\r\n");
    assert_eq!(desk.log("console-3.log"), "");
    assert!(desk.log("console-1.timed.log").ends_with("] last words, ready\n"));
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn watchers_see_what_comes_in_while_a_wait_searches_it() {
    let mut desk = desk();
    let mut watcher = desk.console.subscribe();
    desk.says("hello");
    desk.console.wait_for(&text("hello"), secs(10)).await.unwrap();
    assert_eq!(&*watcher.recv().await.unwrap(), b"hello");
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_line_that_nobody_reads_ends_typing_at_the_deadline() {
    let mut desk = desk();
    let keys = vec![b'k'; 4 << 20];
    let short = Deadline::after(Duration::from_millis(100));
    let error = desk.console.send_keys(&keys, short).await.unwrap_err();
    assert!(matches!(error, ConsoleError::NotRead { written, .. } if written > 0), "{error}");
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_halt_ends_a_wait_at_once_but_not_before_its_last_words_are_read() {
    let mut desk = desk();
    let events = EventLog::default();
    events.record(EventKind::Halt { by: Origin::Guest });
    events.record(EventKind::PowerOn);
    desk.console.heed(&events, 0);
    desk.says("going down\r\n");
    events.record(EventKind::Halt { by: Origin::Guest });
    let started = Instant::now();
    desk.console.wait_for(&text("going down"), secs(600)).await.unwrap();
    let error = desk.console.wait_for(&text("ready"), secs(600)).await.unwrap_err();
    assert!(error.to_string().contains("and the DUT has halted by itself"), "{error}");
    assert_eq!(error.fault(), Fault::Dut);
    assert!(started.elapsed() < Duration::from_secs(60));
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_lab_fault_or_a_closed_line_ends_a_wait_as_the_labs_fault() {
    let mut desk = desk();
    let events = EventLog::default();
    desk.console.heed(&events, 0);
    let waiting = async {
        let error = desk.console.wait_for(&text("ready"), secs(600)).await.unwrap_err();
        assert!(error.fault() == Fault::Lab && error.to_string().contains("killed by SIGKILL"), "{error}");
    };
    let dying = async { events.record(EventKind::MachineDied { reason: "killed by SIGKILL".to_owned() }) };
    tokio::join!(waiting, dying);
    drop(desk.dut);
    desk.console.heed(&EventLog::default(), 0);
    let error = desk.console.wait_for(&text("ready"), secs(600)).await.unwrap_err();
    assert!(error.fault() == Fault::Lab && error.to_string().contains("line is closed"), "{error}");
    desk.console.close().await.unwrap();
}

/// A real shell on a pty of 80 columns, ended with the test.
struct Shell {
    console: Console,
    child: Child,
    _dir: TempDir,
}

fn shell(program: &str, arguments: &[&str]) -> Shell {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let child = Command::new(program)
        .args(arguments)
        .env("PS1", "selftest# ")
        .env("TERM", "vt100")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    Shell { console: Console::open(pty.master, dir.path()).unwrap(), child, _dir: dir }
}

impl Shell {
    async fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.console.close().await.unwrap();
    }
}

fn root(password: Option<&str>) -> Login {
    Login { user: "root".to_owned(), password: password.map(str::to_owned) }
}

#[tokio::test]
async fn run_gives_a_commands_output_and_status_in_several_shells() {
    for (program, arguments) in [("sh", vec!["-i"]), ("bash", vec!["--norc", "--noprofile", "-i"])] {
        let mut shell = shell(program, &arguments);
        let console = &mut shell.console;
        console.log_in(&root(None), secs(30)).await.unwrap();
        for (command, text, status) in [
            ("echo one; echo two", "one\ntwo", 0),
            ("printf 'no line end'", "no line end", 0),
            ("(exit 42)", "", 42),
            ("sh -c 'exit 3' &", "", 0),
            (
                "echo 'some words, enough of them to let the echo of this line wrap twice at 80 columns' | wc -w",
                "17",
                0,
            ),
        ] {
            let output = console.run(command, secs(30)).await.unwrap();
            let said = output.text.trim();
            let matches = if command.ends_with('&') { !said.contains("standin-") } else { said == text };
            assert!(matches && output.status == status, "{program}: `{command}` gave {output:?}");
        }
        let lines = console.run("seq 1 20000", secs(30)).await.unwrap();
        assert_eq!(lines.text.lines().count(), 20000);
        shell.end().await;
    }
}

#[tokio::test]
async fn a_command_with_a_line_break_is_refused_before_it_is_typed() {
    let mut desk = desk();
    for command in ["echo a\nreboot", " "] {
        let error = desk.console.run(command, secs(10)).await.unwrap_err();
        assert!(error.fault() == Fault::User && error.to_string().contains("one line"), "{error}");
    }
    let typed = desk.dut.read(&mut [0; 1]).unwrap_err();
    assert_eq!(typed.kind(), ErrorKind::WouldBlock);
    desk.console.close().await.unwrap();
}

#[tokio::test]
async fn a_command_that_does_not_end_is_named_and_interrupted_at_the_deadline() {
    // CI may start us with SIGINT ignored, as shells do for jobs in the background, and children inherit that.
    let mut shell = shell("env", &["--default-signal=INT", "setsid", "--ctty", "sh", "-i"]);
    shell.console.log_in(&root(None), secs(30)).await.unwrap();
    let short = Deadline::after(Duration::from_millis(300));
    let error = shell.console.run("cat", short).await.unwrap_err();
    assert!(error.to_string().starts_with("the end of `cat` not seen"), "{error}");
    assert_eq!(shell.console.run("echo again", secs(30)).await.unwrap().text, "again");
    shell.end().await;
}

/// Asks as getty and login do, then becomes a shell.
const LOGIN: &str = r#"
    printf 'Last login: never # \r\nhost login: '; read -r user
    while [ -z "$user" ]; do printf 'host login: '; read -r user; done
    stty -echo; printf 'Password: '; read -r password; stty echo; printf '\r\n'
    if [ "$user:$password" != root:secret ]; then printf 'Login incorrect\r\n'; exec sleep 60; fi
    exec sh -i
"#;

#[tokio::test]
async fn log_in_answers_user_and_password_and_reaches_a_shell() {
    let mut shell = shell("sh", &["-c", LOGIN]);
    // The suite may have waited for the prompt itself before it logs in.
    shell.console.wait_for(&text("host login: "), secs(30)).await.unwrap();
    shell.console.log_in(&root(Some("secret")), secs(30)).await.unwrap();
    assert_eq!(shell.console.run("echo in", secs(30)).await.unwrap().text, "in");
    shell.console.log_in(&root(Some("secret")), secs(30)).await.unwrap();
    shell.end().await;
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_said() {
    let mut wrong = shell("sh", &["-c", LOGIN]);
    let error = wrong.console.log_in(&root(Some("guess")), secs(30)).await.unwrap_err();
    assert!(matches!(error, ConsoleError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("guess"), "{error}");
    wrong.end().await;
    let mut missing = shell("sh", &["-c", LOGIN]);
    let error = missing.console.log_in(&root(None), secs(30)).await.unwrap_err();
    assert!(matches!(error, ConsoleError::NoPassword { .. }), "{error}");
    missing.end().await;
}

#[tokio::test]
async fn a_silent_console_is_poked_until_it_shows_its_prompt() {
    let mut shell = shell("sh", &["-c", "read -r poke; exec sh -i"]);
    shell.console.log_in(&root(None), secs(60)).await.unwrap();
    shell.end().await;
}

#[tokio::test]
async fn a_dut_that_never_answers_fails_the_login_at_its_deadline() {
    let pty = openpty(None, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut console = Console::open(pty.master, dir.path()).unwrap();
    let mut dut = File::from(pty.slave);
    dut.write_all(b"[    1.0] 100% # \r\n").unwrap();
    let short = Deadline::after(Duration::from_millis(300));
    let error = console.log_in(&root(None), short).await.unwrap_err();
    assert!(error.to_string().starts_with("a login or shell prompt not seen"), "{error}");
    console.close().await.unwrap();
}
