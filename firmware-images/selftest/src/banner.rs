//! The lines that say what woke up where.

use crate::board::Board;
use crate::image::Hex;
use crate::serial::say;

/// The name of the CPU's architecture, as `uname -m` gives it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "x86_64" } else { "aarch64" };

/// Prints them. A line whose value could not be read says `none` and why.
pub fn print(board: &mut Board) {
    say(format_args!("standin selftest"));
    say(format_args!("arch {ARCHITECTURE}"));
    say(format_args!("firmware {}", board.firmware.name()));
    match &board.disk {
        Ok(disk) => {
            say(format_args!("medium {}", disk.medium));
            say(format_args!("disk-bytes {}", disk.bytes()));
        }
        Err(reason) => say(format_args!("medium none: {reason}")),
    }
    match &board.image {
        Ok(image) => {
            say(format_args!("image-bytes {}", image.bytes));
            say(format_args!("image-sha256 {}", Hex(&image.sha256)));
        }
        Err(reason) => say(format_args!("image-sha256 none: {reason}")),
    }
}
