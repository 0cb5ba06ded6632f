//! Why a DUT cannot be logged in to, as steps tell it; and `standin ssh` beside a process that holds a board.

#[path = "support/sshd.rs"]
mod sshd;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sshd::Sshd;
use standin::io::ssh::Identity;
use support::{processes_with, standin};

/// Writes a suite of one test whose steps begin with a boot of the self-test.
fn suite(dir: &Path, steps: &str) -> PathBuf {
    let boot = "{ flash = 'image' }, { power = 'on' }, { expect_regex = '^ready$' }";
    let path = dir.join("suite.toml");
    let text = format!(
        "title = 'S'\nimage = 'selftest'\nforward = [7, 9]\n[[test]]\ntitle = 'T'\nsteps = [\n{boot}, {steps}\n]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn test_command(dir: &Path, steps: &str) -> Command {
    let mut command = standin(dir);
    command.args(["test", "--board", "pc-seabios", "--accelerator", "tcg", "--json"]).arg(suite(dir, steps));
    command
}

/// How the last step ended, and the exit code of the run.
fn last_step(output: &Output) -> (i32, String) {
    let told = String::from_utf8_lossy(&output.stdout);
    let mut values = told.lines().rev().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let last = values.find(|value| value["type"] == "step-ends");
    let last = last.unwrap_or_else(|| panic!("no step: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), format!("{}: {}{}", text("outcome"), text("message"), text("reason")))
}

#[test]
fn a_step_says_why_the_dut_cannot_be_logged_in_to() {
    for (steps, expected) in [
        (
            "{ ssh = 'true', port = 7, within = '2s' }",
            "not within 2s: the DUT's network does not answer: it is not up, or has no address from DHCP",
        ),
        (
            "{ run = 'dhcp' }, { ssh = 'true', port = 9, within = '2s' }",
            "not within 2s: connections end without a word, as those to a closed port do",
        ),
        (
            "{ run = 'dhcp' }, { ssh = 'true', port = 7, within = '2s' }",
            "not within 2s: the port takes connections, and says nothing",
        ),
        (
            "{ run = 'dhcp' }, { link = 'down' }, { put = 'suite.toml', as = '/x', port = 7 }",
            "no carrier: the cable of `eth0` is out",
        ),
        ("{ power = 'off' }, { get = '/x', as = 'x', port = 7 }", "the DUT is off"),
        ("{ send = 'halt' }, { ssh = 'true' }", "halted"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (code, told) = last_step(&test_command(dir.path(), steps).output().unwrap());
        assert!(
            code == 1 && told.starts_with("failed: ") && told.contains(expected),
            "{steps}: {code}, {told}"
        );
        assert_eq!(processes_with(dir.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_login_ends_as_broken_when_qemu_dies_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = test_command(dir.path(), "{ ssh = 'true', port = 7 }");
    let mut standin = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut told = BufReader::new(standin.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ssh `true`") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "the step did not begin");
    }
    let qemu = processes_with(dir.path()).into_iter().find(|process| {
        std::fs::read_to_string(process.join("comm")).unwrap_or_default().starts_with("qemu-system")
    });
    let pid = qemu.expect("a machine runs").file_name().unwrap().to_str().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let mut rest = Vec::new();
    told.read_to_end(&mut rest).unwrap();
    let output = Output { status: standin.wait().unwrap(), stdout: rest, stderr: Vec::new() };
    let (code, told) = last_step(&output);
    assert!(code == 3 && told.starts_with("broken: machine-died"), "{code}, {told}");
}

#[test]
fn a_board_without_a_network_skips_what_needs_ssh() {
    let dir = tempfile::tempdir().unwrap();
    let board = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines/pc-seabios.toml");
    let text = std::fs::read_to_string(board).unwrap();
    let without: String = text
        .lines()
        .filter(|line| {
            !line.starts_with("network = ") && *line != "[qemu.network]" && !line.starts_with("eth0 = ")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let boards = dir.path().join("boards");
    std::fs::create_dir(&boards).unwrap();
    std::fs::write(boards.join("pc-seabios.toml"), without).unwrap();
    let mut command = test_command(dir.path(), "{ ssh = 'true' }");
    let output = command.arg("--boards").arg(&boards).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(r#""outcome":"skipped","missing":["network"]"#), "{told}");
}

fn ssh(dir: &Path, words: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = standin(dir);
    command.env_remove("SSH_AUTH_SOCK").env_remove("STANDIN_SSH_KEY").arg("ssh").args(words);
    let piped = || Stdio::piped();
    let mut child: Child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // One that does not read its input has ended, which is not what is asked about.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn standin_ssh_runs_a_command_on_the_board_that_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let key = Identity::make(&dir.path().join("key")).unwrap();
    let sshd = Sshd::start(&key);

    let (code, _, told) = ssh(dir.path(), &["--", "true"], b"");
    assert_eq!(code, Some(2));
    assert!(told.contains("no board with a network is held in"), "{told}");

    let (run, id) = sshd.hold(&runs, &key);
    let (code, output, errors) = ssh(dir.path(), &["--", "cat; echo err >&2; exit 5"], b"through\n");
    assert_eq!((code, output.as_str(), errors.as_str()), (Some(5), "through\n", "err\n"));
    let (code, output, errors) = ssh(dir.path(), &[], b"echo $((6 * 7))\nkill -TERM $$\n");
    assert_eq!((code, output.as_str(), errors.as_str()), (Some(143), "42\n", "killed by signal TERM\n"));
    let (code, output, _) = ssh(dir.path(), &["--terminal", "--", "tty"], b"");
    assert!(code == Some(0) && output.starts_with("/dev/pts/"), "{output}");
    let (code, _, told) = ssh(dir.path(), &["--port", "2222"], b"");
    assert_eq!(code, Some(2));
    assert!(told.contains("port 2222 of generic-amd64 is not forwarded"), "{told}");

    sshd.make_host_key();
    let (code, _, told) = ssh(dir.path(), &["--", "true"], b"");
    assert_eq!(code, Some(1));
    assert!(told.contains("the host key has changed without a flash"), "{told}");

    let (second, other) = sshd.hold(&runs, &key);
    let (code, _, told) = ssh(dir.path(), &["--", "true"], b"");
    assert_eq!(code, Some(2));
    assert!(
        told.contains("several boards are held: ") && told.contains(&id) && told.contains(&other),
        "{told}"
    );
    assert_eq!(ssh(dir.path(), &["--run", &other, "--", "exit 9"], b"").0, Some(9));
    let (code, _, told) = ssh(dir.path(), &["--run", "nobody"], b"");
    assert!(code == Some(2) && told.contains("no board is held in a run `nobody`"), "{told}");
    second.remove().unwrap();
    run.remove().unwrap();
    assert_eq!(processes_with(dir.path()), Vec::<PathBuf>::new());
}
