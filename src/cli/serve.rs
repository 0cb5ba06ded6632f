//! `standin serve`: a board that others use over HTTP, in the words of leviathan-worker.

mod environment;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::place::{AcceleratorOption, run_dir};
use super::{CliError, Context, Exit, interrupt, say};
use crate::board::{Board, ByteSize, Capability, Time};
use crate::lab::player;
use crate::worker::access::{Token, guarded};
use crate::worker::api::{self, Api};
use crate::worker::devices::{self, Devices, Limits, Supply, opener};
use crate::worker::listener::{Address, Listener, serve};
use crate::worker::{Settings, Worker, leviathan, page};

/// Lend a board to others over HTTP, as leviathan-worker does
///
/// Leviathan's clients drive it as they are. It serves until it is interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "The environment variables of leviathan-worker are read where no option is given: \
                        WORKER_PORT, QEMU_MEMORY and so on; docs/worker.md has them all.\n\n\
                        Exit codes: 0 it was interrupted and all is closed, 2 it cannot be started as asked, \
                        3 the lab broke.")]
pub struct Args {
    /// The board, by the name that `standin boards` lists [default: generic-amd64, or generic-aarch64 if
    /// QEMU_ARCH says aarch64]
    board: Option<String>,
    /// Where to listen: a port of this host alone, ADDRESS:PORT, or the path of a Unix socket [default: 8080].
    /// Whoever reaches it has the board, so an address beyond this host needs a token, or `--insecure`
    #[arg(long, value_name = "WHERE")]
    listen: Option<Where>,
    /// Who may use the Unix socket, as for chmod(1)
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode)]
    socket_mode: u32,
    /// A file with a token of 16 characters or more; only those who send it as `Authorization: Bearer TOKEN` come
    /// in. Without the file, the environment variable STANDIN_TOKEN is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen beyond this host without a token although everybody there can then use the board
    #[arg(long)]
    insecure: bool,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorOption,
    /// Make this TCP port of the DUT reachable on this host; may be given several times
    #[arg(long, value_name = "PORT", default_values = ["22", "22222", "48484", "2375"])]
    forward: Vec<u16>,
    /// Let QEMU serve a second QMP monitor on a Unix socket at this path whenever the power is on
    #[arg(long, value_name = "PATH")]
    qmp: Option<PathBuf>,
    /// What the contract says of this worker's features, beyond what is known of the board; may be given several
    /// times
    #[arg(long = "feature", value_name = "KEY=VALUE", value_parser = parse_feature)]
    features: Vec<(String, String)>,
    /// How long whoever took the worker may be silent before it is taken back
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = Time::parse)]
    heartbeat: Time,
    /// Refuse whoever does not send the `x-lease-id` that `/start` answered
    #[arg(long)]
    enforce_leases: bool,
    /// How long a client may be silent in the middle of a request or an answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = Time::parse)]
    idle_limit: Time,
    /// How much of this host's disk uploaded images may take together
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = ByteSize::parse)]
    upload_limit: ByteSize,
    /// The length of the pieces in which clients send an image, in MiB [default: 40]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=4096))]
    chunk_size: Option<u16>,
    /// How often, every 25 s, clients shall ask whether a flash has ended; it is given up a little earlier
    /// [default: 60]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(2..=10_000))]
    flash_tries: Option<u16>,
    /// Let suites that clients send start programs on this host, with `exec` steps, as the user who runs this
    #[arg(long)]
    allow_exec: bool,
    #[command(flatten)]
    limits: LimitOptions,
}

/// What the devices of a server may use of its host, all together.
#[derive(Debug, clap::Args)]
struct LimitOptions {
    /// Memory of all devices that clients of the API ask for, such as `8GiB` [default: the host's]
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
#[derive(Debug, Clone, PartialEq, Eq)]
enum Where {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::str::FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(port) = text.parse() {
            return Ok(Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        }
        if text.contains('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let address = text.parse().map_err(|_| "neither a port, nor ADDRESS:PORT, nor a path".to_owned())?;
        Ok(Self::Tcp(address))
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "no mode such as `600` or `660`".to_owned())
}

fn parse_feature(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    environment::check()?;
    let board = board(&args, context)?;
    let host = context.place.host_with_runs(environment::text("WORKDIR").map(PathBuf::from))?;
    let address = address(&args)?;
    let token = token(&args)?;
    let chunk_mib = environment::within(args.chunk_size, "OS_IMAGE_CHUNK_SIZE_MIB", 40, 1..=4096)?;
    let flash_tries = environment::within(args.flash_tries, "FLASH_TIMEOUT_TRIES", 60, 2..=10_000)?;
    check_open(&address, token.is_some(), args.insecure)?;
    let interrupted = interrupt::listen()?;
    let choose = async { Ok(player::choose(&board, &host, args.accelerator.into()).await?) };
    let chosen = interrupt::unless(&interrupted, choose).await?;
    let has_screen = board.stand_in_capabilities().contains(&Capability::Screen);
    for remark in chosen.remark.iter().cloned().chain(environment::remarks(has_screen)) {
        say(remark);
    }
    let listener = Listener::open(&address)
        .await
        .map_err(|source| CliError::usage(ListenError { address: address.clone(), source }))?;
    let run = run_dir(&host)?;
    let url = listener.url().map_err(CliError::broken)?;
    let settings = Settings {
        board: board.clone(),
        accelerator: chosen.player.accelerator,
        images: context.place.images()?,
        uploads: run.scratch().join("uploads"),
        captures: run.scratch().join("capture"),
        flash_state: host.runs.join(format!("worker-{}.flash", plain_name(&url))),
        chunk_bytes: u64::from(chunk_mib) << 20,
        upload_limit: args.upload_limit.0,
        flash_tries: flash_tries.into(),
        heartbeat: args.heartbeat.0,
        enforce_leases: args.enforce_leases,
        features: args.features,
        silence: args.idle_limit.0,
        uuid: environment::text("BALENA_DEVICE_UUID"),
    };
    let supply = Supply {
        catalog: context.catalog()?,
        host: host.clone(),
        images: context.place.images()?,
        accelerator: args.accelerator.into(),
        evidence: run.path().to_owned(),
        scratch: run.scratch(),
    };
    let open = opener(&board, &chosen, &supply, devices::DEFAULT, args.forward, args.qmp);
    let worker = Worker::start(settings, Box::new(open)).map_err(CliError::broken)?;
    let default = (board.clone(), chosen, worker.keeper().clone());
    let devices = Devices::new(supply, args.limits.limits(), default);
    let uploads = (run.scratch().join("images"), args.upload_limit.0);
    let api = Api::new(devices, uploads, args.idle_limit.0, args.allow_exec);
    super::remote::announce(run.path(), &url).map_err(CliError::broken)?;
    say(format_args!("{} waits at {url}; Ctrl-C ends it", board.name));
    let mut asked = interrupted.clone();
    let stop = async { drop(asked.wait_for(|asked| *asked).await) };
    let router = leviathan::router(worker.clone())
        .merge(leviathan::for_holder(api::router(api.clone()), worker.clone()));
    let router = token.map_or(router.clone(), |token| guarded(router, token)).merge(page::router());
    let served = tokio::select! {
        served = serve(listener, router, args.idle_limit.0, stop) => served,
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

/// The board that is meant, as the environment changes it.
fn board(args: &Args, context: &Context) -> Result<Arc<Board>, CliError> {
    let slug = match &args.board {
        Some(slug) => slug,
        None => environment::default_board()?,
    };
    let mut board = Board::clone(&*context.catalog()?.board(slug)?);
    environment::change(&mut board)?;
    Ok(Arc::new(board))
}

fn address(args: &Args) -> Result<Address, CliError> {
    let default = Where::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080));
    Ok(match environment::or(args.listen.clone(), "WORKER_PORT", default)? {
        Where::Tcp(address) => Address::Tcp(address),
        Where::Unix(path) => Address::Unix(path, args.socket_mode),
    })
}

fn token(args: &Args) -> Result<Option<Token>, CliError> {
    let (text, place) = match &args.token_file {
        Some(path) => {
            let read = fs::read_to_string(path);
            let place = path.display().to_string();
            let text =
                read.map_err(|error| CliError::usage(format!("cannot read token file {place}: {error}")))?;
            (text.trim().to_owned(), place)
        }
        None => match environment::text("STANDIN_TOKEN") {
            Some(text) => (text, "STANDIN_TOKEN".to_owned()),
            None => return Ok(None),
        },
    };
    let shortest = Token::SHORTEST;
    let message =
        format!("the token in {place} has fewer than {shortest} characters, or some that no header takes");
    Token::new(&text).map(Some).ok_or_else(|| CliError::usage(message))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
struct ListenError {
    address: Address,
    source: std::io::Error,
}

/// Whoever reaches the door has the board.
fn check_open(address: &Address, has_token: bool, insecure: bool) -> Result<(), CliError> {
    match address {
        Address::Tcp(address) if !address.ip().is_loopback() && !has_token && !insecure => {
            let message = format!("{address} can be reached from beyond this host, by everybody");
            Err(CliError::usage(message)
                .hint("`--token-file FILE` lets in those who know a token, `--insecure` all"))
        }
        Address::Tcp(_) | Address::Unix(..) => Ok(()),
    }
}

/// An address as a part of a file's name.
fn plain_name(url: &str) -> String {
    url.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect()
}
