//! Devices: what they are and do, power, cables, network, and commands on their console.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::extract::{Asked, Json};
use super::{Api, Told};
use crate::board::{Capability, Login, word};
use crate::deadline::Deadline;
use crate::device::operate::PowerVerb;
use crate::device::power::PowerState;
use crate::device::{Device, DeviceError};
use crate::suite::file::LinkVerb;
use crate::worker::devices::Lent;

/// A device at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceFacts {
    /// Its name in paths.
    pub id: String,
    /// The slug of its board; `GET /v1/boards/{slug}` tells all of it.
    pub board: String,
    /// What people call the board.
    pub name: String,
    /// The architecture of its main processor.
    pub arch: String,
    /// Who plays it; `stand-in` is QEMU.
    pub backend: String,
    /// What executes its instructions: `tcg` or `kvm`.
    pub accelerator: String,
    /// The version of QEMU.
    pub qemu: String,
    /// What the stand-in has of what suites can ask for.
    pub capabilities: Vec<Capability>,
    /// The names of its network interfaces; the first is meant where none is named.
    pub interfaces: Vec<String>,
    /// The names of its media.
    pub media: Vec<String>,
    /// The address on which the server's host reaches it, if it has a network.
    pub address: Option<Ipv4Addr>,
    /// What it does now.
    pub status: StatusFacts,
}

/// What a device does now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusFacts {
    /// Which of the devices that there were under this name; a teardown makes a new one, with blank media.
    pub hold: u64,
    /// What the system does, and whether mains are on.
    pub power: PowerState,
    /// What the server is doing with it now, in a word or two.
    pub activity: Option<String>,
    /// The number of the operation that is under way.
    pub operation: Option<u64>,
    /// The id of the last event, to ask for those that follow.
    pub last_event: u64,
}

/// A device that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// The slug of its board.
    pub board: String,
    /// TCP ports of it that the server's host reaches on its address.
    #[serde(default)]
    pub forward: Vec<u16>,
}

/// What to do with the power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPower {
    /// What.
    pub action: PowerVerb,
}

/// What to do with a cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    /// What.
    pub action: LinkVerb,
    /// The interface's name; the board's first if left out.
    pub interface: Option<String>,
}

/// Where a device is reached from the server's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkFacts {
    /// Its address, if it has a network.
    pub address: Option<Ipv4Addr>,
    /// Its forwarded ports; empty while it is off.
    pub forwards: Vec<Forward>,
}

/// A forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forward {
    /// The device's TCP port.
    pub port: u16,
    /// Where it is on the server's host.
    pub at: SocketAddrV4,
}

/// A command for the shell on the serial console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// One line.
    pub command: String,
    /// How long logging in and running it may take, in seconds; 60 if left out, an hour at most.
    pub within_seconds: Option<u64>,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Given {
    /// Its exit status.
    pub status: i32,
    /// What it printed.
    pub output: String,
}

/// The part that is wanted of a path with a device.
pub type Wanted = Path<String>;

/// How long switching may take; a QEMU that needs longer hangs.
const SWITCHING: Duration = Duration::from_secs(60);

/// How long QEMU may take to answer a question.
const ANSWERING: Duration = Duration::from_secs(10);

/// How long a command may take if the client does not say.
const COMMAND_GIVEN: u64 = 60;
/// And at most.
const COMMAND_AT_MOST: u64 = 3600;

impl DeviceFacts {
    fn of(lent: &Lent) -> Self {
        let board = &lent.board;
        Self {
            id: lent.id.clone(),
            board: board.slug.clone(),
            name: board.name.clone(),
            arch: word(&board.arch),
            backend: "stand-in".to_owned(),
            accelerator: lent.chosen.player.accelerator.name().to_owned(),
            qemu: lent.chosen.qemu_version.clone(),
            capabilities: board.stand_in_capabilities(),
            interfaces: board.network.iter().map(|interface| interface.name.clone()).collect(),
            media: board.media.iter().map(|medium| medium.name.clone()).collect(),
            address: lent.keeper.handles().address,
            status: StatusFacts::of(lent),
        }
    }
}

impl StatusFacts {
    fn of(lent: &Lent) -> Self {
        let status = lent.keeper.status();
        Self {
            hold: status.hold,
            power: status.power,
            activity: status.activity.map(str::to_owned),
            operation: lent.operations.running(),
            last_event: lent.keeper.journal().last(),
        }
    }
}

pub async fn list(State(api): State<Arc<Api>>) -> Json<Vec<DeviceFacts>> {
    Json(api.devices.list().iter().map(|lent| DeviceFacts::of(lent)).collect())
}

pub async fn add(State(api): State<Arc<Api>>, Asked(asked): Asked<NewDevice>) -> Result<Response, ApiError> {
    let board = api.devices.board(&asked.board)?;
    let lent = api.devices.add(board, asked.forward).await?;
    let location = [(header::LOCATION, format!("/v1/devices/{}", lent.id))];
    Ok((StatusCode::CREATED, location, Json(DeviceFacts::of(&lent))).into_response())
}

pub async fn show(State(api): State<Arc<Api>>, Path(id): Wanted) -> Told<DeviceFacts> {
    Ok(Json(DeviceFacts::of(&*api.devices.find(&id)?)))
}

pub async fn remove(State(api): State<Arc<Api>>, Path(id): Wanted) -> Result<StatusCode, ApiError> {
    // In a task of its own: a client that hangs up must not leave it half closed.
    match tokio::spawn(async move { api.devices.remove(&id).await }).await {
        Ok(removed) => removed.map(|()| StatusCode::NO_CONTENT),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

pub async fn status(State(api): State<Arc<Api>>, Path(id): Wanted) -> Told<StatusFacts> {
    Ok(Json(StatusFacts::of(&*api.devices.find(&id)?)))
}

pub async fn power(
    State(api): State<Arc<Api>>,
    Path(id): Wanted,
    Asked(asked): Asked<SetPower>,
) -> Told<StatusFacts> {
    let activity = match asked.action {
        PowerVerb::On => "power on",
        PowerVerb::Off => "power off",
        PowerVerb::Cycle => "power cycle",
        PowerVerb::Press => "press the power button",
        PowerVerb::Hold => "hold the power button",
        PowerVerb::Reset => "reset",
    };
    let lent = api.devices.find(&id)?;
    let deadline = Deadline::after(SWITCHING);
    lent.keeper.perform(activity, move |device| Box::pin(device.operate(asked.action, deadline))).await??;
    Ok(Json(StatusFacts::of(&lent)))
}

pub async fn link(
    State(api): State<Arc<Api>>,
    Path(id): Wanted,
    Asked(asked): Asked<SetLink>,
) -> Told<StatusFacts> {
    let lent = api.devices.find(&id)?;
    let work = lent.keeper.perform("link", move |device| {
        Box::pin(async move {
            let up = asked.action == LinkVerb::Up;
            device.set_link(asked.interface.as_deref(), up, Deadline::after(SWITCHING)).await
        })
    });
    work.await??;
    Ok(Json(StatusFacts::of(&lent)))
}

pub async fn network(State(api): State<Arc<Api>>, Path(id): Wanted) -> Told<NetworkFacts> {
    let lent = api.devices.find(&id)?;
    let ask = lent.keeper.ask(|device| Box::pin(device.forwards(Deadline::after(ANSWERING))));
    let forwards = Deadline::after(ANSWERING).bound(ask).await.map_err(|_| {
        let activity = lent.keeper.status().activity.unwrap_or("something else");
        ApiError::conflict("busy", format!("the device is busy: {activity}")).hint("try again then")
    })???;
    let forwards = forwards.into_iter().map(|(port, at)| Forward { port, at }).collect();
    Ok(Json(NetworkFacts { address: lent.keeper.handles().address, forwards }))
}

pub async fn run(State(api): State<Arc<Api>>, Path(id): Wanted, Asked(asked): Asked<Run>) -> Told<Given> {
    let lent = api.devices.find(&id)?;
    if lent.keeper.status().power == PowerState::Off {
        return Err(ApiError::conflict("mains-off", "the device is off").hint("power it on first"));
    }
    let given = Duration::from_secs(asked.within_seconds.unwrap_or(COMMAND_GIVEN).min(COMMAND_AT_MOST));
    let work = lent.keeper.perform("serial command", move |device| {
        Box::pin(async move { run_command(device, &asked.command, Deadline::after(given)).await })
    });
    Ok(Json(work.await??))
}

async fn run_command(device: &mut Device, command: &str, deadline: Deadline) -> Result<Given, DeviceError> {
    let root = || Login { user: "root".to_owned(), password: None };
    let login = device.board.login.clone().unwrap_or_else(root);
    let events = device.events.clone();
    let console = device.console()?;
    console.heed(&events, events.len());
    console.log_in(&login, deadline).await?;
    let output = console.run(command, deadline).await?;
    Ok(Given { status: output.status, output: output.text })
}
