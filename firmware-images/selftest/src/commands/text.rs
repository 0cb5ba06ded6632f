//! Commands that only say something.

use super::argument;
use crate::banner::{self, ARCHITECTURE};
use crate::board::Board;
use crate::reason::Reason;
use crate::serial::{print, say};
use alloc::format;
use alloc::string::String;

pub fn echo(words: &[String], _: &mut Board) -> Result<(), Reason> {
    say(format_args!("{}", words.join(" ")));
    Ok(())
}

pub fn succeed(_: &[String], _: &mut Board) -> Result<(), Reason> {
    Ok(())
}

pub fn fail(_: &[String], _: &mut Board) -> Result<(), Reason> {
    Err(Reason::Silent)
}

pub fn uname(arguments: &[String], _: &mut Board) -> Result<(), Reason> {
    match arguments {
        [] => say(format_args!("standin")),
        [option] if option == "-m" => say(format_args!("{ARCHITECTURE}")),
        _ => return Err(Reason::Usage),
    }
    Ok(())
}

pub fn identify(_: &[String], board: &mut Board) -> Result<(), Reason> {
    banner::print(board);
    Ok(())
}

pub fn uptime(_: &[String], board: &mut Board) -> Result<(), Reason> {
    say(format_args!("{}", board.clock.milliseconds()));
    Ok(())
}

/// Lines of a number, a blank, and dots up to 80 characters.
pub fn fill(arguments: &[String], _: &mut Board) -> Result<(), Reason> {
    let count: u64 = argument(arguments, 0)?;
    let dots = ".".repeat(71);
    for number in 0..count {
        // One piece, so that the line's FIFO is always given as much as it takes.
        let line = format!("{number:08} {dots}\r\n");
        print(format_args!("{line}"));
    }
    say(format_args!("fill done {count}"));
    Ok(())
}
