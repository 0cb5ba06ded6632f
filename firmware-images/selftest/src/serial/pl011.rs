//! The serial lines of aarch64 boards: the PL011 of QEMU's `virt` board, or both of a Raspberry
//! Pi 3.
//!
//! On a Raspberry Pi it depends on the card's `config.txt` which of the two is wired to the pins,
//! so it speaks on both and listens to both.

use core::sync::atomic::{AtomicBool, Ordering};

/// `hw/arm/virt.c`, `VIRT_UART`.
const VIRT: usize = 0x0900_0000;
/// "BCM2837 ARM Peripherals", chapters 13 and 2.
const RASPBERRY_PI: usize = 0x3f20_1000;
const MINI_UART: usize = 0x3f21_5000;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPT_MASK: usize = 0x38;
const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;

const MINI_ENABLE: usize = 0x04;
const MINI_DATA: usize = 0x40;
const MINI_LINE_CONTROL: usize = 0x4c;
const MINI_LINE_STATUS: usize = 0x54;
const MINI_CONTROL: usize = 0x60;
const MINI_DATA_READY: u32 = 1 << 0;
const MINI_TRANSMITTER_ROOM: u32 = 1 << 5;

static ON_RASPBERRY_PI: AtomicBool = AtomicBool::new(false);

/// Called before [`begin`] where the board is one.
pub fn use_raspberry_pi() {
    ON_RASPBERRY_PI.store(true, Ordering::Relaxed);
}

fn on_raspberry_pi() -> bool {
    ON_RASPBERRY_PI.load(Ordering::Relaxed)
}

fn base() -> usize {
    if on_raspberry_pi() { RASPBERRY_PI } else { VIRT }
}

fn read(address: usize) -> u32 {
    // SAFETY: the register exists on this board, and is mapped.
    unsafe { (address as *const u32).read_volatile() }
}

fn write(address: usize, value: u32) {
    // SAFETY: as above.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Sets 8 data bits, FIFO on; the firmware has set the baud rate.
pub fn begin() {
    write(base() + INTERRUPT_MASK, 0);
    write(base() + LINE_CONTROL, 0x70);
    write(base() + CONTROL, 0x301);
    if on_raspberry_pi() {
        write(MINI_UART + MINI_ENABLE, read(MINI_UART + MINI_ENABLE) | 1);
        write(MINI_UART + MINI_LINE_CONTROL, 3);
        write(MINI_UART + MINI_CONTROL, 3);
    }
}

/// The next byte, if there is one.
pub fn receive() -> Option<u8> {
    if read(base() + FLAGS) & RECEIVE_EMPTY == 0 {
        return Some(read(base() + DATA) as u8);
    }
    let waiting = on_raspberry_pi() && read(MINI_UART + MINI_LINE_STATUS) & MINI_DATA_READY != 0;
    waiting.then(|| read(MINI_UART + MINI_DATA) as u8)
}

/// Sends all bytes; returns when the last one is in the FIFO.
pub fn transmit(bytes: &[u8]) {
    for byte in bytes {
        while read(base() + FLAGS) & TRANSMIT_FULL != 0 {}
        write(base() + DATA, u32::from(*byte));
        if on_raspberry_pi() {
            while read(MINI_UART + MINI_LINE_STATUS) & MINI_TRANSMITTER_ROOM == 0 {}
            write(MINI_UART + MINI_DATA, u32::from(*byte));
        }
    }
}
