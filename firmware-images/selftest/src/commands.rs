//! The commands, by name. Each is one function in the file of its subject.

mod control;
mod net;
mod storage;
mod text;

use crate::board::Board;
use crate::reason::Reason;
use crate::serial::say;
use alloc::format;
use alloc::string::String;
use core::str::FromStr;

/// What a command gets, and what it may say.
type Command = fn(&[String], &mut Board) -> Result<(), Reason>;

/// Every command, how it is written, and what it does.
const COMMANDS: &[(&str, &str, &str, Command)] = &[
    ("help", "", "these lines", help),
    ("echo", "[WORDS]", "prints the words", text::echo),
    ("true", "", "succeeds", text::succeed),
    ("false", "", "fails", text::fail),
    ("uname", "[-m]", "the system's name, or the CPU's architecture", text::uname),
    ("identify", "", "the lines of the banner", text::identify),
    ("uptime", "", "milliseconds since the guest began", text::uptime),
    ("fill", "N", "N numbered lines of 80 characters, as fast as possible", text::fill),
    ("disk", "", "the size of the disk", storage::disk),
    ("read", "LBA COUNT", "the SHA-256 of some blocks", storage::read),
    ("write", "LBA COUNT WORD", "fills blocks with a pattern of WORD", storage::write),
    ("check", "LBA COUNT WORD", "whether blocks carry the pattern", storage::check),
    ("flush", "", "returns when all that was written is on the medium", storage::flush),
    (
        "install",
        "",
        "copies the image to the internal disk, without the line that is run at boot",
        storage::install,
    ),
    ("net", "", "the network interface", net::net),
    ("dhcp", "[SECONDS]", "asks for an address", net::dhcp),
    ("ping", "ADDRESS [SECONDS]", "one echo request, and how long the reply took", net::ping),
    ("tcp", "ADDRESS PORT WORDS", "sends a line and prints the line that comes back", net::tcp),
    ("halt", "", "powers off", control::halt),
    ("reboot", "", "starts the board again", control::reboot),
    ("panic", "[WORDS]", "prints them, tells pvpanic, and stops", control::panic),
    ("hang", "", "stops answering, without a word", control::hang),
    ("watchdog", "SECONDS", "arms the i6300esb watchdog and never feeds it", control::watchdog),
];

/// Runs a command and returns its exit status.
pub fn run(name: &str, arguments: &[String], board: &mut Board) -> u8 {
    let Some((_, usage, _, command)) = COMMANDS.iter().find(|(known, ..)| *known == name) else {
        say(format_args!("selftest: {name}: not found"));
        return 127;
    };
    // `false` fails without a word, as everywhere.
    match command(arguments, board) {
        Ok(()) => 0,
        Err(reason) => {
            match reason {
                Reason::Silent => {}
                Reason::Usage => say(format_args!("{name}: usage: {name} {usage}")),
                Reason::Text(text) => say(format_args!("{name}: {text}")),
            }
            1
        }
    }
}

fn help(_: &[String], _: &mut Board) -> Result<(), Reason> {
    for (name, usage, meaning, _) in COMMANDS {
        say(format_args!("{:<27} {meaning}", format!("{name} {usage}")));
    }
    Ok(())
}

/// The argument at a place, which must be there and be well formed.
fn argument<T: FromStr>(arguments: &[String], place: usize) -> Result<T, Reason> {
    arguments.get(place).and_then(|text| text.parse().ok()).ok_or(Reason::Usage)
}

/// The argument at a place, or the value that stands for it.
fn argument_or<T: FromStr>(arguments: &[String], place: usize, usual: T) -> Result<T, Reason> {
    match arguments.get(place) {
        None => Ok(usual),
        Some(text) => text.parse().map_err(|_| Reason::Usage),
    }
}
