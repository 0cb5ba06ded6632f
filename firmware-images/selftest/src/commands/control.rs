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
    /// Units of 2^15 cycles at 33 MHz, half of it for each stage: `hw/watchdog/wdt_i6300esb.c`
    /// halves what it is told.
    const UNITS_PER_SECOND: u32 = 1007;
    const TIMER_1: usize = 0x00;
    const TIMER_2: usize = 0x04;
    const RELOAD: usize = 0x0c;
    const START_AGAIN: u16 = 1 << 8;
    /// In the configuration space.
    const LOCK: u8 = 0x68;
    const ENABLED: u8 = 1 << 1;

    let seconds: u32 = argument(arguments, 0)?;
    let mut pci = Pci::find(board.acpi.as_ref())?;
    let found = pci.functions().into_iter().find(|function| function.is(0x8086, 0x25ab));
    let function = found.ok_or("no i6300esb watchdog")?;
    board.firmware.release(function.place);
    pci.enable(&function);
    let window = pci.window(&function)?;
    // The chip takes a value only after these two.
    let unlock = || {
        for key in [0x80, 0x86] {
            // SAFETY: the window is the chip's, and so long.
            unsafe { ((window + RELOAD) as *mut u16).write_volatile(key) };
        }
    };
    let units = seconds.saturating_mul(UNITS_PER_SECOND);
    for timer in [TIMER_1, TIMER_2] {
        unlock();
        // SAFETY: as above.
        unsafe { ((window + timer) as *mut u32).write_volatile(units) };
    }
    unlock();
    // SAFETY: as above.
    unsafe { ((window + RELOAD) as *mut u16).write_volatile(START_AGAIN) };
    pci.configuration.write_byte(function.place, LOCK, ENABLED);
    Ok(())
}
