//! `standin ssh`: a shell or a command on a board that another process holds with `standin up`.
//!
//! That process writes down where its board is reached, in a file of its run directory. The directory's lock tells
//! whether it still lives, and the file goes with the directory.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Context, Exit, interrupt, say, up};
use crate::board::Time;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::io::file;
use crate::io::ssh::{
    Contact, Credentials, HostKey, Identity, News, NoServer, Process, Server, Session, SshError, Status,
    Window,
};
use crate::sys::run_dir::{RunDir, living};
use crate::sys::terminal::{self, RawTerminal};

/// Log in over SSH to a board that `standin up` holds
///
/// Without a command it is a shell: in a terminal, if standard input is one. With one, standard input and both outputs
/// are the command's own. The first contact learns the board's host key, which must stay the same while the
/// board is held. A board that is still booting is waited for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: that of the command (128 and the signal's number if it was killed), or 1 the board \
                  cannot be logged in to, 2 no such board is held, 3 the lab broke, 130 interrupted."
)]
pub struct Args {
    /// Which board, by the id that `standin up` tells, if several are held
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Who logs in [default: the user of the board's file, or root]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The board's TCP port [default: 22222, or else 22]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    #[command(flatten)]
    key: KeyOption,
    /// How long a board that is not up yet is waited for
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    within: Duration,
    /// Give the command a terminal
    #[arg(short, long)]
    terminal: bool,
    /// The command, with its arguments; they are joined by blanks for the board's shell, as ssh does
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    Time::parse(text).map(|time| time.0).map_err(|error| error.to_string())
}

/// By what one comes in.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct KeyOption {
    /// Private key for SSH; besides it, those of ssh-agent are tried
    #[arg(long, value_name = "FILE", env = "STANDIN_SSH_KEY")]
    ssh_key: Option<PathBuf>,
}

impl KeyOption {
    /// Whether a key was named.
    pub(super) fn is_given(&self) -> bool {
        self.ssh_key.is_some()
    }

    /// Reads the key, and looks for an agent.
    pub(super) fn credentials(&self) -> Result<Credentials, CliError> {
        let identity =
            self.ssh_key.as_deref().map(Identity::load).transpose().map_err(|error| {
                CliError::usage(error).hint("a key with a passphrase goes into ssh-agent")
            })?;
        Ok(Credentials {
            identity,
            agent: std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
            password: None,
        })
    }
}

/// A board that a living process holds, as that process tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Running {
    board: String,
    user: Option<String>,
    password: Option<String>,
    ssh_key: Option<PathBuf>,
    ssh_port: u16,
    /// The board's TCP ports, and where this host reaches them.
    forwards: Vec<(u16, SocketAddrV4)>,
}

/// Its file in the run directory.
const FILE: &str = "running.json";

impl Running {
    /// What is to be told of a device.
    pub(super) fn of(device: &Device, forwards: Vec<(u16, SocketAddrV4)>, key: &KeyOption) -> Self {
        let login = device.board.login.clone();
        let whole = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        Self {
            board: device.board.slug.clone(),
            user: login.as_ref().map(|login| login.user.clone()),
            password: login.and_then(|login| login.password),
            ssh_key: key.ssh_key.as_ref().map(whole),
            ssh_port: device.ssh_port(),
            forwards,
        }
    }

    /// Tells other processes of it, for as long as the run directory is held.
    pub(super) fn announce(&self, run: &RunDir) -> Result<(), CliError> {
        let text = serde_json::to_vec(self).expect("it has text keys and no value that can fail");
        file::replace(&run.path().join(FILE), |file| file.write_all(&text)).map_err(CliError::broken)
    }

    /// The name by which people tell one held board from another.
    pub(super) fn id(run_dir: &Path) -> String {
        let name = run_dir.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("standin-").unwrap_or(&name).to_owned()
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let mut credentials = args.key.credentials()?;
    let (dir, running) = find(&context.place.host()?.runs, args.run.as_deref())?;
    if credentials.identity.is_none() {
        credentials.identity =
            running.ssh_key.as_deref().map(Identity::load).transpose().map_err(CliError::usage)?;
    }
    let user = args.user.clone().or_else(|| running.user.clone()).unwrap_or_else(|| "root".to_owned());
    if running.user.as_ref() == Some(&user) {
        credentials.password = running.password.clone();
    }
    let interrupted = interrupt::listen()?;
    let port = args.port.unwrap_or(running.ssh_port);
    let session = log_in(&dir, &running, port, &user, &credentials, args.within);
    let session = interrupt::unless(&interrupted, session).await?;
    interrupt::unless(&interrupted, attend(&session, &args)).await
}

/// The board that is meant, and the run directory of its holder.
fn find(runs: &Path, id: Option<&str>) -> Result<(PathBuf, Running), CliError> {
    let mut found = Vec::new();
    for dir in living(runs).map_err(CliError::broken)? {
        // One that holds no board that can be reached, or not yet, has no file.
        let Ok(text) = fs::read(dir.join(FILE)) else { continue };
        let Ok(running) = serde_json::from_slice::<Running>(&text) else { continue };
        found.push((dir, running));
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    let list = found.iter().map(|(dir, running)| format!("{} ({})", Running::id(dir), running.board));
    let list = list.collect::<Vec<_>>().join(", ");
    let meant = |dir: &Path| id.is_none_or(|id| Running::id(dir) == id.trim_start_matches("standin-"));
    let mut meant: Vec<_> = found.into_iter().filter(|(dir, _)| meant(dir)).collect();
    match (meant.pop(), meant.is_empty(), id) {
        (Some(one), true, _) => Ok(one),
        (None, _, None) => {
            let error = CliError::usage(format!("no board with a network is held in {}", runs.display()));
            Err(error.hint("`standin up BOARD` holds one"))
        }
        (_, _, Some(id)) => {
            let held = if list.is_empty() { "none".to_owned() } else { list };
            Err(CliError::usage(format!("no board is held in a run `{id}`")).hint(format!("held: {held}")))
        }
        (Some(_), false, None) => {
            let error = CliError::usage(format!("several boards are held: {list}"));
            Err(error.hint("`--run ID` tells which"))
        }
    }
}

/// The board could not be logged in to.
#[derive(Debug, thiserror::Error)]
#[error("cannot log in to {board} over SSH to port {port} (here {here})")]
struct NotReached {
    board: String,
    port: u16,
    here: SocketAddrV4,
    source: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error(transparent)]
    NoServer(#[from] NoServer),
    #[error("not within {given:?}: {last}")]
    NotInTime { given: Duration, last: String },
}

/// How long a refused connection rests: nothing tells when a port of the board opens.
const REST: Duration = Duration::from_millis(200);

/// How long a silent connection is waited on. Whether the board has taken it, only its holder could tell; under
/// emulation a server takes some seconds to say its first word.
const PATIENCE: Duration = Duration::from_secs(5);

async fn log_in(
    dir: &Path,
    running: &Running,
    port: u16,
    user: &str,
    credentials: &Credentials,
    given: Duration,
) -> Result<Session, CliError> {
    let deadline = Deadline::after(given);
    let Some((_, here)) = running.forwards.iter().find(|(dut, _)| *dut == port) else {
        let error = CliError::usage(format!("port {port} of {} is not forwarded", running.board));
        return Err(error.hint(format!("`standin up {} --forward {port}` forwards it", running.board)));
    };
    let failed = |source| {
        let error = NotReached { board: running.board.clone(), port, here: *here, source };
        CliError::Failed { exit: Exit::Failed, error: error.into(), hints: Vec::new() }
    };
    let mut last = "nothing was tried".to_owned();
    let (begun, mut told) = (Instant::now(), false);
    while !deadline.is_past() {
        if !told && begun.elapsed() > PATIENCE {
            told = true;
            say(format_args!("{} does not answer yet: {last}", running.board));
        }
        let mut contact = match Contact::open(*here).await {
            Ok(contact) => contact,
            Err(_) if !living_still(dir)? => return Err(CliError::broken("its holder has ended")),
            Err(error) => return Err(failed(error.into())),
        };
        let version = match deadline.within(PATIENCE).bound(contact.version()).await {
            Ok(Ok(version)) => version,
            Ok(Err(error @ NoServer::NotSsh { .. })) => return Err(failed(error.into())),
            Ok(Err(closed)) => {
                last = closed.to_string();
                tokio::time::sleep(REST).await; // sleep: nothing tells when a port of the board opens
                continue;
            }
            Err(_) => {
                last = match contact.said() {
                    said if said.is_empty() => "nothing comes from the port".to_owned(),
                    said => format!("the port says `{said}` instead of an SSH version"),
                };
                continue;
            }
        };
        let known = dir.join("scratch").join(format!("host-key-{port}"));
        let login = async {
            let expected = fs::read_to_string(&known).ok().map(HostKey);
            let server = Server::meet(contact, &version, expected.as_ref()).await?;
            server.log_in(user, credentials).await
        };
        last = format!("`{version}` answered, and did not let us in or out");
        let Ok(session) = deadline.bound(login).await else { break };
        let session = session.map_err(|error| failed(error.into()))?;
        file::replace(&known, |file| file.write_all(session.host_key.0.as_bytes()))
            .map_err(CliError::broken)?;
        return Ok(session);
    }
    Err(failed(Reason::NotInTime { given, last }))
}

fn living_still(dir: &Path) -> Result<bool, CliError> {
    let runs = dir.parent().unwrap_or(dir);
    Ok(living(runs).map_err(CliError::broken)?.iter().any(|found| found == dir))
}

/// Runs what was asked for, from its first byte to its end.
async fn attend(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let in_terminal = args.terminal || (command.is_none() && io::stdin().is_terminal());
    let (columns, lines) = terminal::size().unwrap_or((80, 24));
    let window = in_terminal.then(|| Window {
        kind: std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()),
        columns: columns.into(),
        lines: lines.into(),
    });
    let process = session.start(command.as_deref(), window.as_ref()).await.map_err(failed)?;
    let raw = match in_terminal {
        true => RawTerminal::enter_for_another().map_err(CliError::broken)?,
        false => None,
    };
    let ended = pass_on(process).await;
    drop(raw);
    Ok(match ended? {
        Status::Exited(status) => Exit::Status(u8::try_from(status).unwrap_or(u8::MAX)),
        Status::Killed(signal) => {
            say(format_args!("killed by signal {signal}"));
            // As shells say it; a signal of the board's that has no number here is one of its own.
            let number =
                format!("SIG{signal}").parse::<nix::sys::signal::Signal>().map_or(127, |known| known as i32);
            Exit::Status(u8::try_from(128 + number).unwrap_or(u8::MAX))
        }
    })
}

fn failed(error: SshError) -> CliError {
    CliError::Failed { exit: Exit::Failed, error: error.into(), hints: Vec::new() }
}

/// Passes bytes and window sizes until the command ends.
async fn pass_on(mut process: Process) -> Result<Status, CliError> {
    let mut resized = signal(SignalKind::window_change()).map_err(CliError::broken)?;
    let mut keys = up::read_keys();
    let mut input = process.input();
    let mut feeding = pin!(async move {
        while let Some(bytes) = keys.recv().await {
            // A command that reads no more says by its end why.
            if input.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let mut has_input = true;
    loop {
        tokio::select! {
            news = process.next() => match news.map_err(failed)? {
                News::Output(bytes) => up::show(&bytes)?,
                News::Errors(bytes) => io::stderr().lock().write_all(&bytes)?,
                News::Ended(status) => return Ok(status),
            },
            () = &mut feeding, if has_input => {
                has_input = false;
                process.end_input().await;
            }
            _ = resized.recv() => if let Some((columns, lines)) = terminal::size() {
                process.resize(columns.into(), lines.into()).await;
            }
        }
    }
}
