//! `standin up`: a board under a person's hands, its console in the terminal.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::interrupt::Interrupted;
use super::place::{AcceleratorOption, InstallerOption, run_dir};
use super::prepare::{EditOptions, rehearse};
use super::ssh::{KeyOption, Running};
use super::{CliError, Context, Exit, Output, image, interrupt, say};
use crate::board::Board;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::event::EventKind;
use crate::io::cache::Cache;
use crate::io::image::Image;
use crate::io::prepare::Edit;
use crate::lab::player::{self, Chosen};
use crate::lab::{Places, open_stand_in};
use crate::procedure::{self, InstallerChoice, Order};
use crate::sys::run_dir::RunDir;
use crate::sys::terminal::RawTerminal;

/// Start a board with its console in the terminal
///
/// The image is flashed and the board switched on. Every key goes to the board, Ctrl-C too, but for Ctrl-]: it takes
/// the power away and leaves. Without a terminal, standard input is typed as it comes, and its end is no end. What
/// the board has written is gone afterwards.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it was switched off or halted itself, 1 it has nothing to start from, 2 it cannot \
                  be started as asked, 3 the lab broke, 130 interrupted by a signal."
)]
pub struct Args {
    /// The board, by the name that `standin boards` lists
    board: String,
    /// The image to flash first, raw or packed; `selftest` is the built-in one
    #[arg(long, value_name = "FILE", default_value = image::SELFTEST)]
    image: PathBuf,
    #[command(flatten)]
    expectation: image::Expectation,
    /// Whether the image is an installer, which is run to its end first
    #[arg(long, value_enum, default_value = "auto")]
    installer: InstallerOption,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorOption,
    /// Make this TCP port of the DUT reachable on this host, besides those of the board; may be given several times
    #[arg(long, value_name = "PORT")]
    forward: Vec<u16>,
    #[command(flatten)]
    key: KeyOption,
    /// Print QEMU's command line, and start nothing
    #[arg(long)]
    print_qemu_args: bool,
    // With a heading of its own, which would be that of all that follows.
    #[command(flatten)]
    edits: EditOptions,
}

/// The key that takes the power away, as in telnet: Ctrl-].
const DETACH: u8 = 0x1d;

/// How long switching may take; a QEMU that needs longer hangs.
const SWITCHING: Duration = Duration::from_secs(60);

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let board = context.catalog()?.board(&args.board)?;
    let host = context.place.host()?;
    args.key.credentials()?;
    let interrupted = interrupt::listen()?;
    let choose = async { Ok(player::choose(&board, &host, args.accelerator.into()).await?) };
    let chosen = interrupt::unless(&interrupted, choose).await?;
    if let Some(remark) = &chosen.remark {
        say(remark);
    }
    let run = run_dir(&host)?;
    let ended = hold(args, board, chosen, &run, &context.place.images()?, &interrupted).await;
    run.remove().map_err(CliError::broken)?;
    ended
}

async fn hold(
    args: Args,
    board: Arc<Board>,
    chosen: Chosen,
    run: &RunDir,
    images: &Cache,
    interrupted: &Interrupted,
) -> Result<Exit, CliError> {
    let open = image::open(&args.image, &args.expectation, images, board.flash_medium());
    let image = interrupt::unless(interrupted, open).await?;
    let edits = args.edits.edits()?;
    let rehearse = rehearse(&edits, &image, &board.slug, board.flash_medium());
    interrupt::unless(interrupted, rehearse).await?;
    let places = Places::create(&run.path().join("console"), &run.scratch()).map_err(CliError::broken)?;
    let ports: BTreeSet<u16> = board.ports.iter().chain(&args.forward).copied().collect();
    let ports = ports.into_iter().collect();
    if args.print_qemu_args {
        let print = print_qemu_args(&board, &chosen, &places, Some((&image, &edits)), ports);
        interrupt::unless(interrupted, print).await?;
        return Ok(Exit::Passed);
    }
    let mut device = open_stand_in(board, chosen.player, &places, ports).map_err(CliError::broken)?;
    let order =
        Order { installer: args.installer.into(), edits: &edits, ..Order::until(Deadline::after(FOREVER)) };
    let ended = attend(&mut device, &image, &order, &args.key, run, interrupted).await;
    let closed = device.close().await.map_err(CliError::broken);
    closed.and(ended)
}

/// Prints the command line with which the board would be started now, as a shell takes it.
///
/// The paths of media and variables are those of this run, so they are gone when it is printed; descriptor 3 is
/// QMP, and the serial lines follow.
pub(super) async fn print_qemu_args(
    board: &Arc<Board>,
    chosen: &Chosen,
    places: &Places,
    flashed: Option<(&Image, &[Edit])>,
    ports: Vec<u16>,
) -> Result<(), CliError> {
    let player = chosen.player.clone();
    let mut device = open_stand_in(board.clone(), player, places, ports).map_err(CliError::broken)?;
    let printed = async {
        if let Some((image, edits)) = flashed {
            let until = Order::until(Deadline::after(FOREVER));
            let order = Order { installer: InstallerChoice::No, edits, ..until };
            procedure::flash_as(&mut device, image, &order).await?;
        }
        Output::default().line(device.command_line().await?)
    };
    let printed = printed.await;
    device.close().await?;
    printed
}

/// Flashes, powers on, and passes bytes until somebody or something ends it.
async fn attend(
    device: &mut Device,
    image: &Image,
    order: &Order<'_>,
    key: &KeyOption,
    run: &RunDir,
    interrupted: &Interrupted,
) -> Result<Exit, CliError> {
    let events = device.events.clone();
    let mut said = device.console().map_err(CliError::usage)?.subscribe();
    let start = async {
        procedure::flash_as(device, image, order).await?;
        Ok::<_, CliError>(device.power_on(Deadline::after(SWITCHING)).await?)
    };
    let start_and_show = async {
        tokio::pin!(start);
        loop {
            tokio::select! {
                started = &mut start => return started,
                // What an installer says; nobody misses what came too fast.
                bytes = said.recv() => bytes.as_deref().map_or(Ok(()), show)?,
            }
        }
    };
    interrupt::unless(interrupted, start_and_show).await?;
    let started =
        events.since(0).iter().rfind(|event| event.kind == EventKind::PowerOn).map_or(0, |event| event.id);
    for event in events.since(0) {
        if let EventKind::Installed { medium, .. } = event.kind {
            say(format_args!("\n[the installer is done; {} starts from {medium}]", device.board.slug));
        }
    }
    // Until here Ctrl-C interrupts; from here on it is typed.
    let raw = RawTerminal::enter().map_err(CliError::broken)?;
    if raw.is_some() {
        say(format_args!("{} runs; Ctrl-] takes its power and leaves", device.board.name));
    }
    let mut interrupted = interrupted.clone();
    let forwards = device.forwards(Deadline::after(SWITCHING)).await?;
    for (port, here) in &forwards {
        say(format_args!("port {port} of the board is {here}"));
    }
    if !forwards.is_empty() {
        let running = Running::of(device, forwards, key);
        running.announce(run)?;
        say(format_args!(
            "`standin ssh --run {}` logs in over SSH, once the system is up",
            Running::id(run.path())
        ));
    }
    let mut keys = read_keys();
    let over = events.wait_for(started, Deadline::after(FOREVER), |kind| {
        matches!(kind, EventKind::Halt { .. }) || kind.lab_fault().is_some()
    });
    tokio::pin!(over);
    let exit = loop {
        tokio::select! {
            // What was said comes before what it means.
            biased;
            bytes = said.recv() => match bytes {
                Ok(bytes) => show(&bytes)?,
                Err(RecvError::Lagged(_)) => say("\n[the terminal is too slow; the log has everything]"),
                Err(RecvError::Closed) => break Ok(Exit::Broken),
            },
            Some(bytes) = keys.recv() => {
                let end = bytes.iter().position(|byte| raw.is_some() && *byte == DETACH);
                let typed = &bytes[..end.unwrap_or(bytes.len())];
                let console = device.console().map_err(CliError::usage)?;
                console.send_keys(typed, Deadline::after(SWITCHING)).await.map_err(CliError::broken)?;
                if end.is_some() {
                    say(format_args!("\n[{} was switched off]", device.board.slug));
                    break Ok(Exit::Passed);
                }
            }
            event = &mut over => break match event {
                Ok(event) => match event.kind.lab_fault() {
                    Some(reason) => Err(CliError::broken(reason.to_owned())),
                    None => {
                        say(format_args!("[{} halted itself]", device.board.slug));
                        Ok(Exit::Passed)
                    }
                },
                Err(_) => Ok(Exit::Passed),
            },
            _ = interrupted.wait_for(|asked| *asked) => break Ok(Exit::Interrupted),
        }
    };
    // What the machine said last is still on its way.
    device.power_off().await?;
    while let Ok(bytes) = said.try_recv() {
        show(&bytes)?;
    }
    exit
}

/// A person may look at a board for as long as they like: ten years.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(super) fn show(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Reads standard input on a thread of its own, as a read of it cannot be cancelled; the thread ends with the
/// input or the process.
pub(super) fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut keys = [0; 4096];
        while let Ok(length @ 1..) = io::stdin().lock().read(&mut keys) {
            if sender.blocking_send(keys[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}
