//! `standin serve`: a board that others use over HTTP, in the words of leviathan-worker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::place::{AcceleratorOption, run_dir};
use super::{CliError, Context, Exit, interrupt, say};
use crate::board::ByteSize;
use crate::lab::player;
use crate::worker::api::{self, Api};
use crate::worker::devices::{self, Devices, Limits, Supply, opener};
use crate::worker::listener::{Address, Listener, serve};
use crate::worker::{Settings, Worker, leviathan};

/// Lend a board to others over HTTP, as leviathan-worker does
///
/// Leviathan's clients drive it as they are. It serves until it is interrupted.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it was interrupted and all is closed, 2 it cannot be started as asked, \
                        3 the lab broke."
)]
pub struct Args {
    /// The board, by the name that `standin boards` lists
    board: String,
    /// Where to listen: a port of this host alone, ADDRESS:PORT, or the path of a Unix socket. Whoever reaches it
    /// has the board, so an address beyond this host needs `--insecure`
    #[arg(long, value_name = "WHERE", env = "WORKER_PORT", default_value = "8080")]
    listen: Where,
    /// Listen beyond this host although everybody there can then use the board
    #[arg(long)]
    insecure: bool,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorOption,
    /// Make this TCP port of the DUT reachable on this host; may be given several times
    #[arg(long, value_name = "PORT", default_values = ["22", "22222", "48484", "2375"])]
    forward: Vec<u16>,
    /// The length of the pieces in which clients send an image, in MiB
    #[arg(long, value_name = "MIB", env = "OS_IMAGE_CHUNK_SIZE_MIB", default_value = "40",
          value_parser = clap::value_parser!(u64).range(1..=4096))]
    chunk_size: u64,
    /// How often, every 25 s, clients shall ask whether a flash has ended; it is given up a little earlier
    #[arg(long, value_name = "TIMES", env = "FLASH_TIMEOUT_TRIES", default_value = "60",
          value_parser = clap::value_parser!(u32).range(2..=10_000))]
    flash_tries: u32,
    #[command(flatten)]
    limits: LimitOptions,
}

/// What the devices of a server may use of its host, all together.
#[derive(Debug, clap::Args)]
struct LimitOptions {
    /// Memory of all devices, such as `8GiB` [default: the host's]
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    memory_limit: Option<ByteSize>,
    /// Processors of all devices [default: four for each of the host's]
    #[arg(long, value_name = "COUNT")]
    cpu_limit: Option<u64>,
    /// How many devices there may be [default: 64]
    #[arg(long, value_name = "COUNT")]
    device_limit: Option<usize>,
}

impl LimitOptions {
    fn limits(&self) -> Limits {
        let host = Limits::of_host();
        Limits {
            memory_bytes: self.memory_limit.map_or(host.memory_bytes, |size| size.0),
            cpus: self.cpu_limit.unwrap_or(host.cpus),
            devices: self.device_limit.unwrap_or(host.devices),
        }
    }
}

/// Where to listen.
#[derive(Debug, Clone)]
struct Where(Address);

impl std::str::FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(port) = text.parse() {
            return Ok(Self(Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))));
        }
        if text.contains('/') {
            return Ok(Self(Address::Unix(PathBuf::from(text))));
        }
        let address = text.parse().map_err(|_| "neither a port, nor ADDRESS:PORT, nor a path".to_owned())?;
        Ok(Self(Address::Tcp(address)))
    }
}

/// How long a holder may be silent: leviathan-worker's bound.
const HEARTBEAT: Duration = Duration::from_secs(5 * 60);

/// How much a client may send: more than any image that a board file's media take.
const UPLOAD_LIMIT: u64 = 64 << 30;

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let board = context.catalog()?.board(&args.board)?;
    let host = context.place.host();
    check_open(&args)?;
    let interrupted = interrupt::listen()?;
    let choose = async { Ok(player::choose(&board, &host, args.accelerator.into()).await?) };
    let chosen = interrupt::unless(&interrupted, choose).await?;
    if let Some(remark) = &chosen.remark {
        say(remark);
    }
    let listener = Listener::open(&args.listen.0)
        .await
        .map_err(|source| CliError::usage(ListenError { address: format!("{:?}", args.listen.0), source }))?;
    let run = run_dir(&host)?;
    let url = listener.url().map_err(CliError::broken)?;
    let settings = Settings {
        board: board.clone(),
        images: host.images(),
        uploads: run.scratch().join("uploads"),
        flash_state: host.runs.join(format!("worker-{}.flash", plain_name(&url))),
        chunk_bytes: args.chunk_size << 20,
        upload_limit: UPLOAD_LIMIT,
        flash_tries: args.flash_tries,
        heartbeat: HEARTBEAT,
        uuid: None,
    };
    let supply = Supply {
        catalog: context.catalog()?,
        host: host.clone(),
        accelerator: args.accelerator.into(),
        evidence: run.path().to_owned(),
        scratch: run.scratch(),
    };
    let open = opener(&board, &chosen, &supply, devices::DEFAULT, args.forward);
    let worker = Worker::start(settings, Box::new(open)).map_err(CliError::broken)?;
    let devices =
        Devices::new(supply, args.limits.limits(), (board.clone(), chosen, worker.keeper().clone()));
    let api = Api::new(devices, run.scratch().join("images"), UPLOAD_LIMIT);
    let router = leviathan::router(worker.clone()).merge(api::router(api.clone()));
    say(format_args!("{} waits at {url}; Ctrl-C ends it", board.name));
    let mut asked = interrupted.clone();
    let stop = async { drop(asked.wait_for(|asked| *asked).await) };
    let served = tokio::select! {
        served = serve(listener, router, stop) => served,
        () = worker.watch_lease() => Ok(()),
    };
    let others = api.close().await;
    let closed = worker.close().await;
    run.remove().map_err(CliError::broken)?;
    closed.map_err(CliError::broken)?;
    others.map_err(CliError::broken)?;
    served.map_err(CliError::broken)?;
    Ok(Exit::Passed)
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
struct ListenError {
    address: String,
    source: std::io::Error,
}

/// Whoever reaches the door has the board.
fn check_open(args: &Args) -> Result<(), CliError> {
    match &args.listen.0 {
        Address::Tcp(address) if !address.ip().is_loopback() && !args.insecure => {
            let message = format!("{address} can be reached from beyond this host, by everybody");
            Err(CliError::usage(message).hint("`--insecure` allows it"))
        }
        Address::Tcp(_) | Address::Unix(_) => Ok(()),
    }
}

/// An address as a part of a file's name.
fn plain_name(url: &str) -> String {
    url.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect()
}
