//! The PL011 of QEMU's aarch64 `virt` board, at 0x09000000 (`hw/arm/virt.c`, `VIRT_UART`).

const BASE: usize = 0x0900_0000;
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPT_MASK: usize = 0x38;

const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;

fn read(register: usize) -> u32 {
    // SAFETY: the register exists on this board, and the firmware has mapped it.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

/// Sets 8 data bits, FIFO on; the firmware has set the baud rate.
pub fn begin() {
    write(INTERRUPT_MASK, 0);
    write(LINE_CONTROL, 0x70);
    write(CONTROL, 0x301);
}

/// The next byte, if there is one.
pub fn receive() -> Option<u8> {
    (read(FLAGS) & RECEIVE_EMPTY == 0).then(|| read(DATA) as u8)
}

/// Sends all bytes; returns when the last one is in the FIFO.
pub fn transmit(bytes: &[u8]) {
    for byte in bytes {
        while read(FLAGS) & TRANSMIT_FULL != 0 {}
        write(DATA, u32::from(*byte));
    }
}
