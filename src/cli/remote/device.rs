//! `standin power`, `press`, `link`, `run`, `network`, `events` and `status`: verbs on a device of a running server.

use std::path::Path;

use serde_json::Value;

use super::{Choice, Client};
use crate::board::word;
use crate::cli::interrupt;
use crate::cli::{CliError, Context, Exit, Output};
use crate::device::operate::PowerVerb;
use crate::message::shell_line;
use crate::suite::file::LinkVerb;
use crate::worker::api::{DeviceFacts, Given, NetworkFacts, Run, SetLink, SetPower, StatusFacts};
use crate::worker::journal::{Entry, News};

/// What can be done to a device of a running server.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Operate mains, button or reset line of a device that a server has
    Power {
        /// What to do
        #[arg(value_enum)]
        action: Action,
        #[command(flatten)]
        on: On,
    },
    /// Press the power button of a device that a server has, for a moment
    Press {
        #[command(flatten)]
        on: On,
    },
    /// Put a network cable of a device that a server has in, or pull it out
    Link {
        /// What to do
        #[arg(value_enum)]
        action: Cable,
        /// The interface, by its name on the board [default: the first]
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        #[command(flatten)]
        on: On,
    },
    /// Run a command in the shell on the serial console of a device that a server has
    ///
    /// Logs in first if need be, as the board's file says. What the command prints goes to stdout. Exit code 1 if
    /// the command failed.
    Run {
        /// The command and its arguments; a single one is given to the shell as it is
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<String>,
        /// How long it may take, in seconds
        #[arg(long, value_name = "SECONDS", default_value = "60")]
        within: u64,
        #[command(flatten)]
        on: On,
    },
    /// Tell where a device that a server has is reached
    Network {
        #[command(flatten)]
        on: On,
    },
    /// Tell what happened to a device that a server has
    Events {
        /// Only those that follow this id
        #[arg(long, value_name = "ID", default_value = "0")]
        since: u64,
        /// Go on until interrupted, with events as they come
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        on: On,
    },
    /// List the devices that a server has, and what they do
    Status {
        #[command(flatten)]
        on: On,
    },
}

/// Where, and for whom.
#[derive(Debug, clap::Args)]
pub struct On {
    /// What the server answers, as JSON on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: Choice,
}

/// What can be done to the power.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Action {
    /// Give mains
    On,
    /// Take mains away
    Off,
    /// Take mains away and give them back
    Cycle,
    /// Press the button for a moment
    Press,
    /// Hold the button until the system is off
    Hold,
    /// Pull the reset line
    Reset,
}

/// What can be done to a cable.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Cable {
    /// Put it in
    Up,
    /// Pull it out
    Down,
}

impl From<Action> for PowerVerb {
    fn from(action: Action) -> Self {
        match action {
            Action::On => Self::On,
            Action::Off => Self::Off,
            Action::Cycle => Self::Cycle,
            Action::Press => Self::Press,
            Action::Hold => Self::Hold,
            Action::Reset => Self::Reset,
        }
    }
}

impl From<Cable> for LinkVerb {
    fn from(cable: Cable) -> Self {
        match cable {
            Cable::Up => Self::Up,
            Cable::Down => Self::Down,
        }
    }
}

impl Verb {
    fn on(&self) -> &On {
        match self {
            Self::Power { on, .. } | Self::Press { on } | Self::Link { on, .. } | Self::Run { on, .. } => on,
            Self::Network { on } | Self::Events { on, .. } | Self::Status { on } => on,
        }
    }
}

pub async fn run(verb: Verb, context: &Context) -> Result<Exit, CliError> {
    let client = verb.on().choice.client(context)?;
    let json = verb.on().json;
    // The server goes on with what was asked; who does not wait for it is free to leave.
    let interrupted = interrupt::listen()?;
    interrupt::unless(&interrupted, perform(verb, &client, json)).await
}

async fn perform(verb: Verb, client: &Client, json: bool) -> Result<Exit, CliError> {
    let mut output = Output::default();
    match verb {
        Verb::Power { action, .. } => power(client, action.into(), json, &mut output).await,
        Verb::Press { .. } => power(client, PowerVerb::Press, json, &mut output).await,
        Verb::Link { action, interface, .. } => {
            let asked = SetLink { action: action.into(), interface };
            let status: StatusFacts = client.post(&client.of_device("link"), &asked).await?;
            tell_status(&status, json, &mut output)
        }
        Verb::Run { command, within, .. } => {
            let command = if command.len() == 1 { command.concat() } else { shell_line(command) };
            let asked = Run { command, within_seconds: Some(within) };
            let given: Given = client.post(&client.of_device("run"), &asked).await?;
            if json {
                output.json(&given)?;
            } else if !given.output.is_empty() {
                output.line(&given.output)?;
            }
            Ok(if given.status == 0 { Exit::Passed } else { Exit::Failed })
        }
        Verb::Network { .. } => {
            let network: NetworkFacts = client.get(&client.of_device("network")).await?;
            if json {
                output.json(&network)?;
                return Ok(Exit::Passed);
            }
            match network.address {
                Some(address) => output.line(format_args!("address {address}"))?,
                None => output.line("no network")?,
            }
            for forward in network.forwards {
                output.line(format_args!("port {} is {}", forward.port, forward.at))?;
            }
            Ok(Exit::Passed)
        }
        Verb::Events { since, follow, .. } => events(client, since, follow, json, &mut output).await,
        Verb::Status { .. } => {
            let devices: Vec<DeviceFacts> = client.get("/v1/devices").await?;
            if json {
                devices.iter().try_for_each(|device| output.json(device))?;
                return Ok(Exit::Passed);
            }
            let row = |device: &DeviceFacts| {
                let status = &device.status;
                let activity = status.activity.clone().unwrap_or_default();
                [device.id.clone(), device.board.clone(), word(&status.power), activity]
            };
            let heads = ["DEVICE", "BOARD", "POWER", "ACTIVITY"].map(str::to_owned);
            let rows: Vec<_> = std::iter::once(heads).chain(devices.iter().map(row)).collect();
            output.table(&rows)?;
            Ok(Exit::Passed)
        }
    }
}

async fn power(
    client: &Client,
    action: PowerVerb,
    json: bool,
    output: &mut Output,
) -> Result<Exit, CliError> {
    let status: StatusFacts = client.post(&client.of_device("power"), &SetPower { action }).await?;
    tell_status(&status, json, output)
}

fn tell_status(status: &StatusFacts, json: bool, output: &mut Output) -> Result<Exit, CliError> {
    if json {
        output.json(status)?
    } else {
        output.line(word(&status.power))?
    }
    Ok(Exit::Passed)
}

/// How many events a server tells at once at most; who gets as many asks again.
const AT_ONCE: usize = 1000;

async fn events(
    client: &Client,
    mut since: u64,
    follow: bool,
    json: bool,
    output: &mut Output,
) -> Result<Exit, CliError> {
    if !follow {
        loop {
            let entries: Vec<Entry> = client.get(&client.of_device(&format!("events?since={since}"))).await?;
            entries.iter().try_for_each(|entry| tell(entry, json, output))?;
            match entries.last() {
                Some(last) if entries.len() >= AT_ONCE => since = last.id,
                _ => return Ok(Exit::Passed),
            }
        }
    }
    let path = client.of_device(&format!("events?since={since}"));
    let mut stream = client.open(&path, "text/event-stream").await?;
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await.map_err(CliError::broken)? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data: ") {
                let entry: Entry = serde_json::from_slice(data).map_err(CliError::broken)?;
                tell(&entry, json, output)?;
            }
        }
    }
    Ok(Exit::Passed)
}

fn tell(entry: &Entry, json: bool, output: &mut Output) -> Result<(), CliError> {
    if json {
        return output.json(entry);
    }
    let what = match &entry.news {
        News::Event(event) => {
            let mut values = serde_json::to_value(event).map_err(CliError::broken)?;
            let values = values.as_object_mut().map(std::mem::take).unwrap_or_default();
            let values = values.iter().filter(|(key, _)| *key != "event").map(|(key, value)| match value {
                Value::String(text) => format!(" {key}={text}"),
                value => format!(" {key}={value}"),
            });
            format!("{}{}", event.name(), values.collect::<String>())
        }
        News::Status { power, activity: None } => format!("power is {}", word(power)),
        News::Status { power, activity: Some(activity) } => format!("power is {}, {activity}", word(power)),
        News::Operation { operation } => {
            let progress = operation
                .progress
                .map(|progress| format!(", {} of {} bytes", progress.bytes, progress.total));
            format!(
                "{} of {} {}{}",
                word(&operation.kind),
                Path::new(&operation.subject).display(),
                word(&operation.state),
                progress.unwrap_or_default()
            )
        }
        News::Missed { count } => format!("{count} older ones are no longer known"),
    };
    output.line(format_args!(
        "{:6}  {:.3}  {}",
        entry.id,
        entry.at,
        crate::device::console::visible(what.as_bytes())
    ))
}
