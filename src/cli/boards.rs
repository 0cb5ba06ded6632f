//! `standin boards`: which boards there are, what each is, and what is wrong with a board file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::{CliError, Context, Exit, Output, say};
use crate::board::catalog::{Entry, Origin};
use crate::board::file::BoardFile;
use crate::board::{Board, BoardFileError, MediumKind, ScreenConnector, Time, check, word};
use crate::document::schema_of;

/// List, show and check the boards that there are
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is well, 2 there is no such board, or a board file is broken.")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object per line, the last one the summary
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything about one board, and how far its stand-in is like it
    Show {
        /// The board's slug, as `standin boards` lists it
        slug: String,
    },
    /// Say everything that is wrong with board files
    Check {
        /// Board files, each called <slug>.toml
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Write the JSON Schema of board files, for editors
    Schema,
}

/// Lists the boards, or does what the subcommand says.
pub async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let mut output = Output::default();
    match args.command {
        None => list(context, args.json, &mut output),
        Some(Command::Show { slug }) => {
            let board = context.catalog()?.board(&slug)?;
            if args.json {
                output.json(&all_of(&board))?
            } else {
                show(&board, &mut output)?
            }
            Ok(Exit::Passed)
        }
        Some(Command::Check { files }) => check_files(&files, args.json, &mut output),
        Some(Command::Schema) => {
            output.line(schema_text())?;
            Ok(Exit::Passed)
        }
    }
}

fn list(context: &Context, json: bool, output: &mut Output) -> Result<Exit, CliError> {
    let catalog = context.catalog()?;
    let broken: Vec<_> = catalog.entries().filter_map(|entry| entry.board.as_ref().err()).collect();
    if json {
        for entry in catalog.entries() {
            output.json(&listed(entry))?;
        }
        output.json(&json!({ "boards": catalog.entries().count(), "broken": broken.len() }))?;
    } else {
        let head = ["SLUG", "NAME", "ARCH", "FLASH", "PLAYED BY", "FIDELITY"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(catalog.entries().map(row)).collect();
        output.table(&rows)?;
    }
    Ok(tell(broken.into_iter(), json))
}

fn row(entry: &Entry) -> [String; 6] {
    let Ok(board) = &entry.board else {
        return [entry.slug.as_str(), "broken, see below", "", "", "", ""].map(str::to_owned);
    };
    [
        board.slug.clone(),
        board.name.clone(),
        word(&board.arch),
        word(&board.flash.procedure),
        played_by(board),
        word(&board.fidelity.level),
    ]
}

fn listed(entry: &Entry) -> Json {
    let file = match &entry.origin {
        Origin::BuiltIn => Json::Null,
        Origin::User(path) => json!(path),
    };
    match &entry.board {
        Ok(board) => json!({
            "slug": board.slug,
            "name": board.name,
            "arch": board.arch,
            "flash": board.flash.procedure,
            "machine": board.qemu.machine,
            "firmware": board.qemu.firmware,
            "fidelity": board.fidelity.level,
            "file": file,
        }),
        Err(error) => json!({ "slug": entry.slug, "file": file, "complaints": error.complaints }),
    }
}

fn check_files(files: &[PathBuf], json: bool, output: &mut Output) -> Result<Exit, CliError> {
    let mut errors = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let checked = match std::fs::read_to_string(path) {
            Ok(text) => check::board(path, &text).map(Arc::new),
            Err(error) => Err(BoardFileError::unreadable(&name, &error)),
        };
        match checked {
            Ok(_) if !json => output.line(format_args!("{name}: a valid board"))?,
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    if json {
        for complaint in errors.iter().flat_map(|error| &error.complaints) {
            output.json(complaint)?;
        }
        let complaints: usize = errors.iter().map(|error| error.complaints.len()).sum();
        output.json(&json!({ "files": files.len(), "broken": errors.len(), "complaints": complaints }))?;
    }
    Ok(tell(errors.iter(), json))
}

/// Tells people of every broken file, programs have read of them; a broken file is the user's fault.
fn tell<'e>(errors: impl Iterator<Item = &'e BoardFileError>, json: bool) -> Exit {
    let mut exit = Exit::Passed;
    for error in errors {
        exit = Exit::Usage;
        if !json {
            say(format_args!("error: {error}"));
        }
    }
    exit
}

/// The JSON Schema of board files, as `machines/board.schema.json` has it.
pub fn schema_text() -> String {
    format!("{:#}", schema_of::<BoardFile>())
}

fn all_of(board: &Board) -> Json {
    let mut all = json!(board);
    all["capabilities"] = json!(board.capabilities());
    all["stand_in_capabilities"] = json!(board.stand_in_capabilities());
    all
}

fn show(board: &Board, output: &mut Output) -> Result<(), CliError> {
    output.line(format_args!("{} ({}, {})", board.name, board.slug, word(&board.arch)))?;
    output.line("\nthe board")?;
    output.table(&facts(board))?;
    output.line("\nthe stand-in")?;
    output.table(&stand_in(board))?;
    let level = board.fidelity.level;
    output.line(format_args!("\nfidelity: {} ({})", word(&level), level.meaning()))?;
    sentences(output, "mirrored", &board.fidelity.mirrored)?;
    sentences(output, "not mirrored", &board.fidelity.not_mirrored)?;
    output.line("\ncapabilities")?;
    let (real, played) = (board.capabilities(), board.stand_in_capabilities());
    let (on_both, lacking): (Vec<_>, Vec<_>) =
        real.iter().copied().partition(|capability| played.contains(capability));
    let added: Vec<_> = played.iter().filter(|capability| !real.contains(capability)).collect();
    output.table(&[
        fact("board and stand-in", list_of(&on_both)),
        fact("the board alone", list_of(&lacking)),
        fact("the stand-in alone", list_of(&added)),
    ])
}

fn facts(board: &Board) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    for medium in &board.media {
        let place = if medium.removable { "removable" } else { "built in" };
        rows.push(fact(
            "medium",
            format!("{}: {}, {}, {place}", medium.name, kind_of(medium.kind), medium.size),
        ));
    }
    rows.push(fact("boots from", board.boot_order.join(", then ")));
    let switch = board
        .flash
        .switch
        .map(|switch| format!(", once its {} is operated", word(&switch).replace('-', " ")));
    let installs = board
        .flash
        .installer
        .as_ref()
        .map(|installer| format!("; an installer on it writes {}", installer.medium));
    let flash = format!(
        "{}, writes {}{}{}",
        word(&board.flash.procedure),
        board.flash.medium,
        switch.unwrap_or_default(),
        installs.unwrap_or_default(),
    );
    rows.push(fact("flash", flash));
    let button = match board.power.button_hold {
        Some(hold) => format!("its button, held for {}, forces it off", Time(hold)),
        None => "no button".to_owned(),
    };
    let (starts_on, rest) = (word(&board.power.starts_on), Time(board.power.rest));
    rows.push(fact("power", format!("starts on {starts_on}, rests {rest} without mains, {button}")));
    for line in &board.serial {
        rows.push(fact("serial", format!("{}: {} baud", line.name, line.baud_rate)));
    }
    if let Some(login) = &board.login {
        let password = if login.password.is_some() { "with a password" } else { "without password" };
        rows.push(fact("login", format!("{}, {password}", login.user)));
    }
    let interfaces: Vec<_> = board.network.iter().map(|interface| &interface.name).collect();
    rows.push(fact("network", list_of(&interfaces)));
    if !board.ports.is_empty() {
        let ports: Vec<_> = board.ports.iter().map(u16::to_string).collect();
        rows.push(fact("ports", ports.join(", ")));
    }
    let radios = [(board.facts.wifi, "Wi-Fi"), (board.facts.bluetooth, "Bluetooth")];
    let radios: Vec<_> = radios.into_iter().filter_map(|(there, name)| there.then_some(name)).collect();
    rows.push(fact("radios", list_of(&radios)));
    rows.push(fact("screen", board.screen.as_ref().map_or("none", |screen| connector(screen.connector))));
    rows.push(fact("keyboard", board.keyboard.map_or("none".to_owned(), |socket| word(&socket))));
    rows.push(fact("lights", list_of(&board.leds)));
    rows
}

fn stand_in(board: &Board) -> Vec<[String; 2]> {
    let qemu = &board.qemu;
    let cpus = if qemu.cpus == 1 { "1 processor".to_owned() } else { format!("{} processors", qemu.cpus) };
    let cpu = qemu.cpu.as_deref().map(|cpu| format!(" ({cpu})")).unwrap_or_default();
    let mut rows = vec![
        fact("played by", format!("{}, {cpus}{cpu}, {}", played_by(board), qemu.memory)),
        fact("firmware", word(&qemu.firmware)),
    ];
    for (medium, attachment) in &qemu.attach {
        rows.push(fact(medium, word(attachment)));
    }
    for interface in &board.network {
        rows.push(fact(&interface.name, word(&interface.device)));
    }
    for line in &board.serial {
        rows.push(fact(&line.name, format!("serial port {}", line.qemu_port)));
    }
    if let Some(screen) = &board.screen {
        rows.push(fact("screen", word(&screen.device)));
    }
    if let Some(watchdog) = qemu.watchdog {
        rows.push(fact("watchdog", word(&watchdog)));
    }
    if let Some(tpm) = qemu.tpm {
        rows.push(fact("TPM", format!("{}, played by swtpm", word(&tpm))));
    }
    if qemu.panic_device {
        rows.push(fact("panics", "reported by a pvpanic device"));
    }
    rows
}

fn fact(name: &str, value: impl Into<String>) -> [String; 2] {
    [format!("  {name}"), value.into()]
}

fn sentences(output: &mut Output, head: &str, sentences: &[String]) -> Result<(), CliError> {
    output.line(format_args!("  {head}{}", if sentences.is_empty() { ": nothing" } else { "" }))?;
    sentences.iter().try_for_each(|sentence| output.line(format_args!("    - {sentence}")))
}

fn played_by(board: &Board) -> String {
    format!("qemu {}", board.qemu.machine)
}

fn list_of(items: &[impl ToString]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn kind_of(kind: MediumKind) -> &'static str {
    match kind {
        MediumKind::Sd => "SD card",
        MediumKind::Usb => "USB disk",
        MediumKind::Emmc => "eMMC",
        MediumKind::Sata => "SATA disk",
        MediumKind::Nvme => "NVMe disk",
        MediumKind::Virtio => "disk that was never real",
    }
}

fn connector(connector: ScreenConnector) -> &'static str {
    match connector {
        ScreenConnector::Hdmi => "HDMI",
        ScreenConnector::DisplayPort => "DisplayPort",
        ScreenConnector::Vga => "VGA",
    }
}
