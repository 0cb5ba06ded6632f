//! A running QEMU: one process that plays one power-on of a board, watched from start to end.
//!
//! `device::power` starts one at each power-on and closes it at power-off. One task, the watcher, owns the
//! process and folds QMP's events into the typed [`SystemState`] and the session's [`EventLog`]; `close` kills
//! the process and joins it. Dropped without `close`, the process is killed all the same.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use qapi::qmp;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::arguments::{medium_of_device, medium_of_node};
use super::monitor::{Monitor, MonitorError, RawEvent};
use super::tpm::{self, TpmStart};
use crate::deadline::Deadline;
use crate::event::{EventKind, EventLog, Origin};
use crate::io::file;
use crate::message::shell_line;
use crate::sys::child;

/// How to start a machine.
#[derive(Debug)]
pub struct Start {
    /// QEMU's program.
    pub program: PathBuf,
    /// What [`arguments`](super::arguments::arguments) made.
    pub arguments: Vec<String>,
    /// The far ends of the serial lines, in the board's order.
    pub serial: Vec<OwnedFd>,
    /// The TPM, if the board has one.
    pub tpm: Option<TpmStart>,
    /// Where QEMU's own words go; truncated at each start.
    pub stderr: PathBuf,
}

/// A QEMU process that was seen to run.
#[derive(Debug)]
pub struct Machine {
    pub(super) monitor: Arc<Monitor>,
    state: watch::Receiver<SystemState>,
    cut: Option<oneshot::Sender<()>>,
    watcher: JoinHandle<io::Result<()>>,
}

/// Reaches the machine from elsewhere for as long as it lives, and keeps nothing of it alive.
#[derive(Debug, Clone)]
pub struct Contact {
    monitor: Weak<Monitor>,
    state: watch::Receiver<SystemState>,
}

impl Contact {
    /// What the system does now; `None` once the machine is closed.
    pub fn state(&self) -> Option<SystemState> {
        self.monitor.upgrade().map(|_| *self.state.borrow())
    }

    /// Runs a command on the machine. See [`Monitor::execute_raw`].
    pub async fn execute_raw(
        &self,
        command: &str,
        arguments: serde_json::Value,
        deadline: Deadline,
    ) -> Result<serde_json::Value, MonitorError> {
        let closed = || MonitorError::Closed { command: command.to_owned() };
        self.monitor.upgrade().ok_or_else(closed)?.execute_raw(command, arguments, deadline).await
    }
}

/// What the system in the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemState {
    /// It executes.
    Running,
    /// It ended by itself, as an operating system does on `poweroff`.
    Halted,
    /// Its player failed: an internal error, or the process died.
    Broken,
}

/// How far a TCP connection from the host to the DUT has come, as QEMU's network sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpContact {
    /// There is none: the DUT has refused or ended it.
    None,
    /// The DUT was asked, and has not answered at all.
    Unanswered,
    /// The DUT has taken it.
    Taken,
}

/// A machine could not be started, asked or closed. Always the lab's fault, never the DUT's.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The program could not be run at all.
    #[error("cannot run {program}")]
    Spawn {
        /// QEMU's program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The TPM could not be started.
    #[error("cannot run {program}")]
    Tpm {
        /// swtpm's program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// QEMU ended before it ran anything.
    #[error("QEMU ended at its start ({exit}): {stderr}\n  command line: {command_line}")]
    EndedAtStart {
        /// How it ended.
        exit: String,
        /// What it said last.
        stderr: String,
        /// The whole command line, as a shell would take it.
        command_line: String,
    },
    /// QEMU started, and its monitor failed.
    #[error("cannot control QEMU (its command line: {command_line})")]
    Control {
        /// The whole command line, as a shell would take it.
        command_line: String,
        /// What went wrong.
        #[source]
        source: MonitorError,
    },
    /// A command on the running machine failed.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The kernel did not let us end the process.
    #[error("cannot end QEMU")]
    End(#[source] io::Error),
}

/// How much of QEMU's own words goes into a message: its last lines, where the reason stands.
const STDERR_TAIL_BYTES: u64 = 2048;

impl Machine {
    /// Starts QEMU and waits until the machine is built and executes.
    ///
    /// Cancelled or failed, it leaves no process. The power-on is not recorded here, but all that follows is.
    pub async fn start(mut start: Start, events: EventLog, deadline: Deadline) -> Result<Self, MachineError> {
        let command_line = command_line(&start.program, &start.arguments);
        tracing::debug!(%command_line, "starting QEMU");
        let (ours, theirs) = UnixStream::pair()
            .map_err(|source| MachineError::Spawn { program: start.program.clone(), source })?;
        let mut tpm = None;
        let inherited = &mut start.serial;
        if let Some(tpm_start) = &start.tpm {
            let failed = |source| MachineError::Tpm { program: tpm_start.program.clone(), source };
            let (process, of_qemu) = tpm::start(tpm_start).await.map_err(failed)?;
            inherited.push(of_qemu);
            tpm = Some((process, tpm_start.stderr.clone()));
        }
        let mut child = Self::spawn(&start, theirs.into(), start.serial.iter()).await?;
        drop(start.serial);
        let (monitor, raw_events) = match Monitor::open(ours, deadline).await {
            Ok(opened) => opened,
            Err(MonitorError::Closed { .. }) => {
                let exit = child::kill_and_wait(&mut child).await.map_err(MachineError::End)?;
                let mut stderr = tail(&start.stderr);
                if let Some((_, words)) = &tpm {
                    stderr = format!("{stderr}; its TPM: {}", tail(words));
                }
                end_tpm(&mut tpm).await.map_err(MachineError::End)?;
                return Err(MachineError::EndedAtStart { exit: exit.to_string(), stderr, command_line });
            }
            Err(source) => {
                child::kill_and_wait(&mut child).await.map_err(MachineError::End)?;
                end_tpm(&mut tpm).await.map_err(MachineError::End)?;
                return Err(MachineError::Control { command_line, source });
            }
        };
        let monitor = Arc::new(monitor);
        let (state, observed) = watch::channel(SystemState::Running);
        let (cut, cut_asked) = oneshot::channel();
        let monitor_too = monitor.clone();
        let stderr = start.stderr;
        let watcher =
            Watcher { child, tpm, monitor: monitor_too, state, events, stderr, told_to_quit: false };
        let watcher = tokio::spawn(watcher.watch(raw_events, cut_asked));
        Ok(Self { monitor, state: observed, cut: Some(cut), watcher })
    }

    async fn spawn(
        start: &Start,
        qmp: OwnedFd,
        serial: impl Iterator<Item = &OwnedFd>,
    ) -> Result<Child, MachineError> {
        let failed = |source| MachineError::Spawn { program: start.program.clone(), source };
        let mut inherited = vec![qmp];
        for line in serial {
            inherited.push(line.try_clone().map_err(failed)?);
        }
        let mut command = Command::new(&start.program);
        command
            .args(&start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&start.stderr).map_err(failed)?);
        child::spawn(command, inherited).await.map_err(failed)
    }

    /// A way to reach it from elsewhere.
    pub fn contact(&self) -> Contact {
        Contact { monitor: Arc::downgrade(&self.monitor), state: self.state.clone() }
    }

    /// What the system does now, as far as QMP has said.
    pub fn state(&self) -> SystemState {
        *self.state.borrow()
    }

    /// Presses the ACPI power button for a moment; what happens then is up to the operating system.
    pub async fn press_button(&self, deadline: Deadline) -> Result<(), MachineError> {
        self.monitor.execute(qmp::system_powerdown {}, deadline).await?;
        Ok(())
    }

    /// Pulls the reset line. The `RESET` event tells when it has happened.
    pub async fn reset(&self, deadline: Deadline) -> Result<(), MachineError> {
        self.monitor.execute(qmp::system_reset {}, deadline).await?;
        Ok(())
    }

    /// Puts the cable of a network card in, or pulls it out; `card` is the device's id.
    pub async fn set_link(&self, card: &str, up: bool, deadline: Deadline) -> Result<(), MachineError> {
        self.monitor.execute(qmp::set_link { name: card.to_owned(), up }, deadline).await?;
        Ok(())
    }

    /// Makes sure that QEMU still answers. A process that has just died counts as answering: an event tells of it.
    pub async fn check_answers(&self, deadline: Deadline) -> Result<(), MachineError> {
        match self.monitor.execute(qmp::query_status {}, deadline).await {
            Ok(_) | Err(MonitorError::Closed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the DUT's forwarded TCP ports are reachable on this host.
    pub async fn forwards(&self, deadline: Deadline) -> Result<Vec<(u16, SocketAddrV4)>, MachineError> {
        Ok(parse_usernet(&self.usernet(deadline).await?))
    }

    /// How far the connections to a forwarded TCP port of the DUT have come, the one that came furthest.
    pub async fn tcp_contact(&self, port: u16, deadline: Deadline) -> Result<TcpContact, MachineError> {
        Ok(parse_contact(&self.usernet(deadline).await?, port))
    }

    /// Only the human monitor tells which ports QEMU chose, and what became of connections.
    async fn usernet(&self, deadline: Deadline) -> Result<String, MachineError> {
        let asked = qmp::human_monitor_command { command_line: "info usernet".to_owned(), cpu_index: None };
        Ok(self.monitor.execute(asked, deadline).await?)
    }

    /// Ends the process at once, as a power cut would, and waits until it is gone.
    pub async fn close(mut self) -> Result<(), MachineError> {
        if let Some(cut) = self.cut.take() {
            // The watcher has ended already if the process died.
            let _ = cut.send(());
        }
        match self.watcher.await {
            Ok(ended) => ended.map_err(MachineError::End)?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        // A contact that waits for an answer holds it too: it learns that none comes, and the reader has ended.
        if let Ok(monitor) = Arc::try_unwrap(self.monitor) {
            monitor.closed().await;
        }
        Ok(())
    }
}

struct Watcher {
    child: Child,
    /// swtpm, and where its words go.
    tpm: Option<(Child, PathBuf)>,
    monitor: Arc<Monitor>,
    state: watch::Sender<SystemState>,
    events: EventLog,
    stderr: PathBuf,
    /// Whether somebody did.
    told_to_quit: bool,
}

impl Watcher {
    /// Ends when the process is gone, cut by us or by itself, and the TPM with it.
    async fn watch(
        mut self,
        raw_events: mpsc::UnboundedReceiver<RawEvent>,
        cut: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let ended = self.watch_machine(raw_events, cut).await;
        ended.and(end_tpm(&mut self.tpm).await)
    }

    async fn watch_machine(
        &mut self,
        mut raw_events: mpsc::UnboundedReceiver<RawEvent>,
        mut cut: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let mut tpm_lives = self.tpm.is_some();
        loop {
            tokio::select! {
                exit = tpm_end(&mut self.tpm), if tpm_lives => {
                    tpm_lives = false;
                    // It also goes when QEMU has gone, which is news of its own.
                    if !matches!(self.child.try_wait(), Ok(Some(_))) {
                        self.fail(EventKind::InternalError { reason: exit? });
                    }
                }
                event = raw_events.recv() => match event {
                    Some(event) => self.take(event).await,
                    None => return self.gone(cut).await,
                },
                asked = &mut cut => {
                    if asked.is_err() {
                        tracing::warn!("a machine was dropped without being closed; its process is killed");
                    }
                    child::kill_and_wait(&mut self.child).await?;
                    return Ok(());
                }
            }
        }
    }

    /// The monitor closed, so the process is gone or going. If nobody asked for that, the lab failed.
    async fn gone(&mut self, mut cut: oneshot::Receiver<()>) -> io::Result<()> {
        let given = Deadline::after(Duration::from_secs(5));
        let exit = match given.bound(self.child.wait()).await {
            Ok(exit) => exit?,
            Err(_) => child::kill_and_wait(&mut self.child).await?,
        };
        if cut.try_recv().is_err() {
            let reason = match self.told_to_quit {
                true => "somebody told QEMU to `quit`, at its second monitor".to_owned(),
                false => died(exit, &self.stderr),
            };
            self.fail(EventKind::MachineDied { reason });
        }
        Ok(())
    }

    async fn take(&mut self, event: RawEvent) {
        let data = &event.data;
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let by = if data["guest"].as_bool() == Some(true) { Origin::Guest } else { Origin::Host };
        match event.name.as_str() {
            "RESET" => self.events.record(EventKind::Reset { by }),
            // We never ask QEMU to quit: it was a client of the second monitor.
            "SHUTDOWN" if text("reason") == "host-qmp-quit" => self.told_to_quit = true,
            "SHUTDOWN" => {
                self.state.send_replace(SystemState::Halted);
                self.events.record(EventKind::Halt { by });
            }
            // It comes once for the medium and once for each part of it that has no name.
            "DEVICE_DELETED" => {
                if let Some(medium) = medium_of_device(&text("device")) {
                    self.events.record(EventKind::MediumRemoved { medium: medium.to_owned() });
                }
            }
            "GUEST_PANICKED" => self.events.record(EventKind::Panic),
            "WATCHDOG" => self.events.record(EventKind::Watchdog { action: text("action") }),
            "BLOCK_IO_ERROR" => {
                let node = text("node-name");
                let medium = medium_of_node(&node).unwrap_or(&node).to_owned();
                let (operation, reason) = (text("operation"), text("reason"));
                let full = data["nospace"].as_bool() == Some(true);
                let blame = format!("this host's disk is full, so medium `{medium}` takes no more");
                self.events.record(EventKind::BlockError { medium, operation, reason });
                // QEMU now holds the machine until there is room again (its default for ENOSPC), and the DUT
                // would look hung.
                if full {
                    self.fail(EventKind::InternalError { reason: blame });
                }
            }
            "STOP" => self.stopped().await,
            _ => tracing::debug!(name = event.name, %data, "QEMU event"),
        }
    }

    /// `STOP` follows a halt, and comes alone when QEMU gives up; the run state tells.
    async fn stopped(&self) {
        let asked = self.monitor.execute(qmp::query_status {}, Deadline::after(Duration::from_secs(5)));
        match asked.await {
            Ok(info) if info.status == qmp::RunState::internal_error => self.fail(EventKind::InternalError {
                reason: format!("QEMU stopped with an internal error: {}", tail(&self.stderr)),
            }),
            Ok(_) => {}
            // It is gone: `gone` says so in a moment.
            Err(MonitorError::Closed { .. }) => {}
            Err(error) => {
                self.fail(EventKind::InternalError { reason: format!("QEMU stopped and is silent: {error}") })
            }
        }
    }

    fn fail(&self, kind: EventKind) {
        self.state.send_replace(SystemState::Broken);
        self.events.record(kind);
    }
}

async fn end_tpm(tpm: &mut Option<(Child, PathBuf)>) -> io::Result<()> {
    match tpm {
        Some((tpm, _)) => child::kill_and_wait(tpm).await.map(drop),
        None => Ok(()),
    }
}

/// Waits for the end of the TPM, and says how it came.
async fn tpm_end(tpm: &mut Option<(Child, PathBuf)>) -> io::Result<String> {
    match tpm {
        Some((tpm, stderr)) => {
            let exit = tpm.wait().await?;
            Ok(format!("the TPM died ({exit}): {}", tail(stderr)))
        }
        None => std::future::pending().await,
    }
}

fn died(exit: ExitStatus, stderr: &Path) -> String {
    format!("QEMU died ({exit}): {}", tail(stderr))
}

/// The last lines of a file, as one line; says so if there are none.
fn tail(path: &Path) -> String {
    let words = match file::tail(path, STDERR_TAIL_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().replace('\n', "; "),
        Err(error) => return format!("its words are lost: {error}"),
    };
    if words.is_empty() { "it said nothing".to_owned() } else { words }
}

/// The whole command line, as a shell would take it.
pub fn command_line(program: &Path, arguments: &[String]) -> String {
    let program = program.display().to_string();
    shell_line(std::iter::once(&program).chain(arguments).map(String::as_str))
}

/// Reads lines such as `TCP[HOST_FORWARD]  14  127.0.0.1 40123  10.0.2.15  22  0  0`.
fn parse_usernet(table: &str) -> Vec<(u16, SocketAddrV4)> {
    let rows = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["TCP[HOST_FORWARD]", _, address, port, _, guest, ..] => {
                let here = SocketAddrV4::new(address.parse().ok()?, port.parse().ok()?);
                Some((guest.parse().ok()?, here))
            }
            _ => None,
        }
    });
    rows.collect()
}

/// Reads lines such as `TCP[SYN_SENT]  19  127.70.1.2 22222  10.0.2.15 22222  0  0`.
fn parse_contact(table: &str, port: u16) -> TcpContact {
    let port = port.to_string();
    let states = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["TCP[HOST_FORWARD]", ..] => None,
            [state, _, _, _, _, guest, ..] if guest == port => state.strip_prefix("TCP["),
            _ => None,
        }
    });
    states.fold(TcpContact::None, |found, state| match (found, state) {
        (_, "ESTABLISHED]") | (TcpContact::Taken, _) => TcpContact::Taken,
        (_, "SYN_SENT]") => TcpContact::Unanswered,
        (found, _) => found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_came_furthest_is_read_from_what_qemu_prints() {
        let forward = "  TCP[HOST_FORWARD]  14  127.70.1.2 22  10.0.2.15  22  0  0\n";
        let asked = format!("{forward}  TCP[SYN_SENT]  19  127.70.1.2 22  10.0.2.15 22  0  0\n");
        let taken = format!("{asked}  TCP[ESTABLISHED]  20  127.70.1.2 22  10.0.2.15 22  0  0\n");
        let found = [forward, &asked, &taken].map(|table| parse_contact(table, 22));
        assert_eq!(found, [TcpContact::None, TcpContact::Unanswered, TcpContact::Taken]);
        assert_eq!(parse_contact(&taken, 80), TcpContact::None);
    }

    #[test]
    fn forwarded_ports_are_read_from_what_qemu_prints() {
        let table = "Hub -1 (eth0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  14       127.0.0.1 40123       10.0.2.15    22     0     0\n";
        let here = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 40123);
        assert_eq!(parse_usernet(table), [(22, here)]);
    }
}
