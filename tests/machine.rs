//! A machine is a real QEMU process: it starts or says why not, and its end is seen, whoever caused it.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use standin::deadline::Deadline;
use standin::event::{EventKind, EventLog, Origin};
use standin::qemu::machine::{Machine, MachineError, Start, SystemState};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A PC without any medium: SeaBIOS runs and finds nothing.
fn start(dir: &Path, more: &[&str]) -> Start {
    let monitor = ["-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"];
    let machine = ["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "32M"];
    let action = ["-action", "shutdown=pause", "-pidfile", "pid"];
    let words = machine.iter().chain(&monitor).chain(&action).chain(more);
    let arguments = words.map(|word| match *word {
        "pid" => dir.join("pid").display().to_string(),
        word => word.to_owned(),
    });
    Start {
        program: "qemu-system-x86_64".into(),
        arguments: arguments.collect(),
        serial: Vec::new(),
        tpm: None,
        stderr: dir.join("qemu.stderr"),
    }
}

fn pid_of_machine(dir: &Path) -> Pid {
    let pid = std::fs::read_to_string(dir.join("pid")).expect("QEMU wrote its process id");
    Pid::from_raw(pid.trim().parse().expect("a process id is a number"))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

#[tokio::test]
async fn a_machine_runs_until_it_is_closed_and_then_its_process_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::start(start(dir.path(), &[]), EventLog::default(), soon()).await.unwrap();
    let pid = pid_of_machine(dir.path());
    assert_eq!((machine.state(), is_alive(pid)), (SystemState::Running, true));
    machine.close().await.unwrap();
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_dropped_machine_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let events = EventLog::default();
    let machine = Machine::start(start(dir.path(), &[]), events.clone(), soon()).await.unwrap();
    let pid = pid_of_machine(dir.path());
    drop(machine);
    while is_alive(pid) {
        assert!(!soon().is_past());
        tokio::task::yield_now().await;
    }
    assert!(events.is_empty(), "nobody killed it but its owner: {:?}", events.since(0));
}

#[tokio::test]
async fn a_qemu_that_refuses_its_arguments_is_an_error_with_its_words_and_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = start(dir.path(), &["-device", "no-such-device"]);
    let refused = Machine::start(wrong, EventLog::default(), soon()).await.unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, MachineError::EndedAtStart { .. }), "{said}");
    assert!(said.contains("'no-such-device' is not a valid device model name"), "{said}");
    assert!(said.contains("qemu-system-x86_64 -nodefaults"), "{said}");
}

#[tokio::test]
async fn a_missing_qemu_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Start { program: "/nonexistent/qemu".into(), ..start(dir.path(), &[]) };
    let error = Machine::start(missing, EventLog::default(), soon()).await.unwrap_err();
    assert!(error.to_string().contains("cannot run /nonexistent/qemu"), "{error}");
}

#[tokio::test]
async fn a_killed_qemu_is_an_event_and_the_labs_fault() {
    let dir = tempfile::tempdir().unwrap();
    let events = EventLog::default();
    let machine = Machine::start(start(dir.path(), &[]), events.clone(), soon()).await.unwrap();
    kill(pid_of_machine(dir.path()), Signal::SIGKILL).unwrap();
    let died = events.wait_for(0, soon(), |kind| kind.lab_fault().is_some()).await.unwrap();
    assert!(died.kind.lab_fault().unwrap().contains("signal: 9"), "{died:?}");
    assert_eq!(machine.state(), SystemState::Broken);
    machine.close().await.unwrap();
}

#[tokio::test]
async fn a_reset_is_seen_and_said_to_be_ours() {
    let dir = tempfile::tempdir().unwrap();
    let events = EventLog::default();
    let machine = Machine::start(start(dir.path(), &[]), events.clone(), soon()).await.unwrap();
    machine.reset(soon()).await.unwrap();
    let reset = EventKind::Reset { by: Origin::Host };
    events.wait_for(0, soon(), |kind| *kind == reset).await.unwrap();
    machine.close().await.unwrap();
}
