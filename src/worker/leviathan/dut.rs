//! What is done with the device: power, network, serial line, and what is known of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::DRIP;
use super::flash::FlashState;
use crate::board::Login;
use crate::deadline::Deadline;
use crate::device::power::PowerState;
use crate::device::{Device, DeviceError};
use crate::message::chain;
use crate::sys::blocking::blocking;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, plain, typed, word};
use crate::worker::body;
use crate::worker::keeper::{KeeperError, Work};

/// How long switching may take; a QEMU that needs longer hangs.
const SWITCHING: Duration = Duration::from_secs(60);

type Answered = Result<Result<(), DeviceError>, KeeperError>;

/// On; already on is fine.
pub async fn on(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    switch(&worker, "power on", |device| Box::pin(make_run(device, Deadline::after(SWITCHING)))).await
}

/// Off; already off is fine, and so is a system that has halted itself.
pub async fn off(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    switch(&worker, "power off", |device| Box::pin(device.power_off())).await
}

/// Words of patience come while it lasts, or while it waits for a flash. A failure before the first of them is a
/// 500, a later one ends the text with `error:`, and never with `OK`.
async fn switch(
    worker: &Arc<Worker>,
    activity: &'static str,
    work: impl for<'a> FnOnce(&'a mut Device) -> Work<'a, Result<(), DeviceError>> + Send + 'static,
) -> Result<Response, Refusal> {
    let (done, mut waiting) = oneshot::channel();
    let keeper = worker.keeper.clone();
    // It goes on when the client hangs up; the keeper owns the work, and the task ends with it.
    tokio::spawn(async move {
        let _ = done.send(keeper.perform(activity, work).await);
    });
    match Deadline::after(DRIP).bound(&mut waiting).await {
        Ok(answered) => told(answered).map(|()| word("OK")),
        Err(_) => Ok(typed("text/html; charset=utf-8", Body::from_stream(drip(waiting)))),
    }
}

/// Clients mean that it shall run: one that halted itself, or whose QEMU is gone, is taken off its power first.
async fn make_run(device: &mut Device, deadline: Deadline) -> Result<(), DeviceError> {
    match device.power_state() {
        PowerState::Running => Ok(()),
        PowerState::Off | PowerState::Halted | PowerState::Unknown => device.power_cycle(deadline).await,
    }
}

/// `status: pending` as often as it takes, then how it ended.
fn drip(
    waiting: oneshot::Receiver<Answered>,
) -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let pending = "status: pending".to_owned();
    stream::unfold((Some(pending), Some(waiting)), |(said, waiting)| async move {
        if let Some(said) = said {
            return Some((Ok(Bytes::from(said)), (None, waiting)));
        }
        let mut waiting = waiting?;
        match Deadline::after(DRIP).bound(&mut waiting).await {
            Err(_) => Some((Ok(Bytes::from_static(b"status: pending")), (None, Some(waiting)))),
            Ok(answered) => {
                let last = match told(answered) {
                    Ok(()) => "OK".to_owned(),
                    Err(refusal) => format!("error: {}", refusal.message),
                };
                Some((Ok(Bytes::from(last)), (None, None)))
            }
        }
    })
}

fn told(answered: Result<Answered, oneshot::error::RecvError>) -> Result<(), Refusal> {
    match answered {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(Refusal::failed(chain(&error))),
        Ok(Err(cut)) => Err(Refusal::failed(cut)),
        Err(_) => Err(Refusal::failed("the worker is ending")),
    }
}

#[derive(Debug, Deserialize)]
pub struct Network {
    #[expect(dead_code, reason = "a stand-in's network is there from the beginning")]
    wired: Option<serde_json::Value>,
    wireless: Option<serde_json::Value>,
}

/// A wired network is there from the beginning; a wireless one is nowhere, which is said.
pub async fn network(State(worker): State<Arc<Worker>>, request: Body) -> Result<Response, Refusal> {
    let asked: Network = body::json(worker.pieces(request)).await?;
    if asked.wireless.is_some_and(|wireless| wireless.is_object()) {
        tracing::warn!(
            board = worker.settings.board.slug,
            "a wireless network was asked for, and there is none"
        );
    }
    Ok(word("OK"))
}

#[derive(Debug, Deserialize)]
pub struct Ip {
    target: Option<String>,
}

/// The address on which this host reaches the device; asked anew each time. What is no name of the network's own
/// is given back, as clients expect.
pub async fn ip(State(worker): State<Arc<Worker>>, request: Body) -> Result<Response, Refusal> {
    let asked: Ip = body::json(worker.pieces(request)).await?;
    let Some(target) = asked.target else { return Err(Refusal::failed("Target missing")) };
    if !target.ends_with(".local") {
        return Ok(plain(target));
    }
    let address: Option<Ipv4Addr> = worker.keeper.handles().address;
    let none = || Refusal::failed(format!("{} has no network", worker.settings.board.slug));
    Ok(plain(address.ok_or_else(none)?.to_string()))
}

/// What is true of the device now.
pub async fn diagnostics(State(worker): State<Arc<Worker>>) -> Response {
    let (status, handles) = (worker.keeper.status(), worker.keeper.handles());
    let flash = worker.flash.state();
    let events = handles.events.since(handles.events.len().saturating_sub(LAST_EVENTS));
    let told = json!({
        "board": worker.settings.board.slug,
        "accelerator": worker.settings.accelerator,
        "power": status.power,
        "activity": status.activity,
        "flash": match &flash {
            FlashState::Idle => "idle",
            FlashState::Pending => "pending",
            FlashState::Done => "done",
            FlashState::Error(_) => "error",
        },
        "flashError": match flash { FlashState::Error(cause) => Some(cause), _ => None },
        "flashProgress": worker.flash.progress().map(|now| {
            json!({ "readBytes": now.read, "ofBytes": now.file, "writtenBytes": now.written })
        }),
        "address": handles.address,
        "holder": worker.lease.holder(),
        "lastEvents": events,
    });
    typed("application/json", told.to_string())
}

/// How many events are worth telling a person at once.
const LAST_EVENTS: usize = 20;

/// Everything that the console has said since the last power-on, also after that has ended, and after a teardown.
pub async fn serial(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    let folders = worker.keeper.console_logs();
    let read = blocking(move || last_power_on(&folders).map(fs::read).transpose());
    let log = read.await.map_err(|error| Refusal::failed(format!("cannot read the serial log: {error}")))?;
    Ok(plain(log.ok_or_else(|| Refusal::failed("there is no serial log: the device was never on"))?))
}

/// The log of the last power-on, from the newest folder that has one.
pub fn last_power_on(folders: &[PathBuf]) -> Option<PathBuf> {
    let newest = |folder: &Path| {
        let numbered = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            let number: u32 = name.strip_prefix("console-")?.strip_suffix(".log")?.parse().ok()?;
            Some((number, path))
        };
        let entries = fs::read_dir(folder).ok()?;
        entries.flatten().filter_map(|entry| numbered(entry.path())).max().map(|(_, path)| path)
    };
    folders.iter().rev().find_map(|folder| newest(folder))
}

#[derive(Debug, Deserialize)]
pub struct SerialExec {
    cmd: Option<String>,
}

/// How long a command may take: leviathan-worker's limit.
const COMMAND_GIVEN: Duration = Duration::from_secs(10);

/// Logs in if need be, and runs one command.
pub async fn serial_exec(State(worker): State<Arc<Worker>>, request: Body) -> Result<Response, Refusal> {
    let asked: SerialExec = body::json(worker.pieces(request)).await?;
    let Some(command) = asked.cmd else { return Err(Refusal::failed("cmd missing")) };
    if worker.flash.state() == FlashState::Pending {
        return Err(Refusal::failed("a flash is under way"));
    }
    let run = worker.keeper.perform("serial command", |device| Box::pin(run_command(device, command)));
    Ok(plain(run.await.map_err(Refusal::failed)?.map_err(Refusal::failed)?))
}

async fn run_command(device: &mut Device, command: String) -> Result<String, String> {
    if device.power_state() != PowerState::Running {
        return Err(format!("{} is off, or has halted itself", device.board.slug));
    }
    let deadline = Deadline::after(COMMAND_GIVEN);
    let root = || Login { user: "root".to_owned(), password: None };
    let login = device.board.login.clone().unwrap_or_else(root);
    let console = device.console().map_err(|error| error.to_string())?;
    console.log_in(&login, deadline).await.map_err(|error| chain(&error))?;
    let output = console.run(&command, deadline).await.map_err(|error| chain(&error))?;
    match output.status {
        0 => Ok(output.text.trim().to_owned()),
        status => Err(format!("the command ended with status {status}: {}", output.text.trim())),
    }
}
