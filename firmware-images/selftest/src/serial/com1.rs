//! A PC's COM1: a 16550A at port 0x3f8.

use crate::ports::{read_byte, write_byte};

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;

const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// What an empty port reads as.
const NO_PORT: u8 = 0xff;

/// How much the transmit FIFO takes once it is empty.
const FIFO_BYTES: usize = 16;

/// Sets 115200 baud, 8 data bits, no parity, one stop bit; FIFO on; an interrupt for each byte
/// received, which wakes the CPU where `interrupts.rs` listens for it.
pub fn begin() {
    write_byte(INTERRUPT_ENABLE, 0);
    write_byte(LINE_CONTROL, 0x80);
    write_byte(DATA, 1);
    write_byte(INTERRUPT_ENABLE, 0);
    write_byte(LINE_CONTROL, 0x03);
    write_byte(FIFO_CONTROL, 0x01);
    write_byte(MODEM_CONTROL, 0x0b);
    write_byte(INTERRUPT_ENABLE, 0x01);
}

/// The next byte, if there is one.
pub fn receive() -> Option<u8> {
    let status = read_byte(LINE_STATUS);
    (status != NO_PORT && status & DATA_READY != 0).then(|| read_byte(DATA))
}

/// Sends all bytes; returns when the last one is in the FIFO.
pub fn transmit(bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO_BYTES) {
        while read_byte(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
        for byte in chunk {
            write_byte(DATA, *byte);
        }
    }
}
