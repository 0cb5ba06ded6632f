//! The serial line: the board's only voice. Polled, so it works from the first line to the panic.
//!
//! Nothing is ever lost: QEMU holds back what the receive FIFO cannot take.

use core::fmt;

#[cfg_attr(target_arch = "x86_64", path = "serial/com1.rs")]
#[cfg_attr(target_arch = "aarch64", path = "serial/pl011.rs")]
mod port;

#[cfg(target_arch = "aarch64")]
pub use port::use_raspberry_pi;
pub use port::{begin, receive};

/// The transmitting side, for `write!`.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        port::transmit(text.as_bytes());
        Ok(())
    }
}

/// Writes text as it is.
pub fn print(text: fmt::Arguments) {
    // The line itself never fails; a value's formatting might, and there is nobody to tell.
    let _ = fmt::write(&mut Serial, text);
}

/// Writes a line.
pub fn say(text: fmt::Arguments) {
    print(text);
    port::transmit(b"\r\n");
}
