//! The self-test guest: a program of a hundred kilobytes in the place of an operating system.
//!
//! It boots from a flashed medium as any system does, says on the serial line what it found, and
//! then obeys a small shell. What it can do is told in `firmware-images/README.md`.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod banner;
#[cfg(target_arch = "aarch64")]
mod bare;
#[cfg(target_arch = "x86_64")]
mod bios;
mod board;
mod boot;
mod clock;
mod commands;
mod disk;
mod fault;
mod firmware;
mod heap;
#[cfg(target_arch = "x86_64")]
mod high_windows;
mod image;
#[cfg(target_arch = "x86_64")]
mod interrupts;
mod memory;
mod net;
mod pattern;
mod pci;
#[cfg(target_arch = "x86_64")]
mod ports;
mod prompt;
mod reason;
#[cfg(target_arch = "aarch64")]
mod sd_host;
mod serial;
mod shell;
mod uefi;
mod virtio;

use board::Board;
use firmware::Firmware;

/// Everything after the first instructions. The heap and the serial line are ready.
fn run(firmware: Firmware) -> ! {
    let mut board = Board::find(firmware);
    banner::print(&mut board);
    serial::say(format_args!("ready"));
    prompt::serve(board)
}
