//! Commands that end the guest, in one way or another.

use super::argument;
use crate::board::Board;
use crate::fault;
use crate::pci::Pci;
use crate::reason::Reason;
use crate::serial::say;
use alloc::string::String;

pub fn halt(_: &[String], board: &mut Board) -> Result<(), Reason> {
    board.power_off()
}

pub fn reboot(_: &[String], board: &mut Board) -> Result<(), Reason> {
    board.firmware.reboot()
}

/// Ends like a kernel that found something impossible.
pub fn panic(words: &[String], board: &mut Board) -> Result<(), Reason> {
    say(format_args!("panic: {}", words.join(" ")));
    fault::tell_hypervisor(board.acpi.as_ref());
    fault::halt()
}

pub fn hang(_: &[String], _: &mut Board) -> Result<(), Reason> {
    fault::hang()
}

/// Both stages of the i6300esb run for half of the time; the second one's end is the action.
pub fn watchdog(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    /// Units of 2^15 cycles at 33 MHz (`hw/watchdog/wdt_i6300esb.c`).
    const UNITS_PER_SECOND: u32 = 1007;
    const TIMER_1: usize = 0x00;
    const TIMER_2: usize = 0x04;
    const RELOAD: usize = 0x0c;
    /// In the configuration space: enabled.
    const LOCK: u8 = 0x68;

    let seconds: u32 = argument(arguments, 0)?;
    let mut pci = Pci::find(board.acpi.as_ref())?;
    let found = pci.functions().into_iter().find(|function| function.is(0x8086, 0x25ab));
    let function = found.ok_or("no i6300esb watchdog")?;
    board.firmware.release(function.place);
    pci.enable(&function);
    let window = pci.window(&function)?;
    let write = |register: usize, value: u32| {
        // The chip takes a value only after these two.
        for (register, value) in [(RELOAD, 0x80), (RELOAD, 0x86), (register, value)] {
            // SAFETY: the window is the chip's, and so long.
            unsafe { ((window + register) as *mut u32).write_volatile(value) };
        }
    };
    let units = seconds.saturating_mul(UNITS_PER_SECOND).div_ceil(2);
    write(TIMER_1, units);
    write(TIMER_2, units);
    write(RELOAD, 1 << 8);
    pci.write_byte(&function, LOCK, 1 << 1);
    Ok(())
}
