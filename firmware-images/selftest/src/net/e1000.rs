//! Intel's 82540EM and 82574L, which QEMU calls e1000 and e1000e: polled, with legacy descriptors,
//! which both understand.
//!
//! Registers are named after Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software
//! Developer's Manual", chapters 3 and 13.

use super::interface::FRAME_BYTES;
use crate::heap::Pages;
use crate::pci::{Function, Pci};
use crate::reason::Reason;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

const VENDOR: u16 = 0x8086;
const E1000: u16 = 0x100e;
const E1000E: u16 = 0x10d3;

const CTRL: usize = 0x0000;
const IMC: usize = 0x00d8;
const RCTL: usize = 0x0100;
const TCTL: usize = 0x0400;
const RDBAL: usize = 0x2800;
const TDBAL: usize = 0x3800;
const MTA: usize = 0x5200;
const RAL: usize = 0x5400;
const RAH: usize = 0x5404;
/// From the base register of a ring: its upper half, length, head and tail.
const RING_HIGH: usize = 0x04;
const RING_LENGTH: usize = 0x08;
const RING_HEAD: usize = 0x10;
const RING_TAIL: usize = 0x18;

const CTRL_SET_LINK_UP: u32 = 1 << 6;
const CTRL_RESET: u32 = 1 << 26;
const RCTL_ENABLE: u32 = 1 << 1;
const RCTL_ACCEPT_BROADCAST: u32 = 1 << 15;
const RCTL_STRIP_CHECKSUM: u32 = 1 << 26;
const TCTL_ENABLE: u32 = 1 << 1;
const TCTL_PAD_SHORT: u32 = 1 << 3;

/// In both rings; the length of a ring is a multiple of 128 bytes.
const DESCRIPTORS: usize = 32;
const DESCRIPTOR_BYTES: usize = 16;
const BUFFER_BYTES: usize = 2048;

/// In a descriptor: 64 bits of address, 16 of length; the command at byte 11, the status here.
const STATUS: usize = 12;
const COMMAND_END_OF_PACKET: u8 = 1 << 0;
const COMMAND_INSERT_CHECKSUM: u8 = 1 << 1;
const COMMAND_REPORT_STATUS: u8 = 1 << 3;
const STATUS_DONE: u8 = 1 << 0;

/// The interface and its rings.
pub struct E1000 {
    registers: Registers,
    name: &'static str,
    mac: [u8; 6],
    receive: Ring,
    transmit: Ring,
}

impl E1000 {
    /// Whether it is one of the two.
    pub fn knows(function: &Function) -> bool {
        function.is(VENDOR, E1000) || function.is(VENDOR, E1000E)
    }

    /// Resets and starts it.
    pub fn open(pci: &mut Pci, function: &Function) -> Result<E1000, Reason> {
        pci.enable(function);
        let registers = Registers { window: pci.window(function)? };
        registers.write(CTRL, registers.read(CTRL) | CTRL_RESET);
        while registers.read(CTRL) & CTRL_RESET != 0 {}
        registers.write(IMC, u32::MAX);
        registers.write(CTRL, registers.read(CTRL) | CTRL_SET_LINK_UP);
        (0..128).for_each(|entry| registers.write(MTA + 4 * entry, 0));

        // The reset has loaded the address from the device's own memory.
        let [low, high] = [RAL, RAH].map(|register| registers.read(register).to_le_bytes());
        let mac = [low[0], low[1], low[2], low[3], high[0], high[1]];

        let mut receive = Ring::new();
        (0..DESCRIPTORS).for_each(|entry| receive.give_buffer(entry));
        receive.tell(&registers, RDBAL);
        registers.write(RDBAL + RING_TAIL, DESCRIPTORS as u32 - 1);
        registers.write(RCTL, RCTL_ENABLE | RCTL_ACCEPT_BROADCAST | RCTL_STRIP_CHECKSUM);

        let mut transmit = Ring::new();
        (0..DESCRIPTORS).for_each(|entry| transmit.write_byte(entry, STATUS, STATUS_DONE));
        transmit.tell(&registers, TDBAL);
        registers.write(TCTL, TCTL_ENABLE | TCTL_PAD_SHORT);

        let name = if function.is(VENDOR, E1000) { "e1000" } else { "e1000e" };
        Ok(E1000 { registers, name, mac, receive, transmit })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let entry = self.receive.next;
        if self.receive.read_byte(entry, STATUS) & STATUS_DONE == 0 {
            return None;
        }
        fence(Ordering::SeqCst); // the data only after the status
        let length = self.receive.length(entry).min(BUFFER_BYTES);
        let frame = self.receive.buffer(entry)[..length].to_vec();
        self.receive.give_buffer(entry);
        fence(Ordering::SeqCst);
        self.registers.write(RDBAL + RING_TAIL, entry as u32);
        self.receive.next = (entry + 1) % DESCRIPTORS;
        Some(frame)
    }

    /// Sends the frame, or drops it if the ring is full or the frame too long.
    pub fn send(&mut self, frame: &[u8]) {
        let entry = self.transmit.next;
        let free = self.transmit.read_byte(entry, STATUS) & STATUS_DONE != 0;
        if !free || frame.len() > FRAME_BYTES {
            return;
        }
        self.transmit.buffer(entry)[..frame.len()].copy_from_slice(frame);
        let command = COMMAND_END_OF_PACKET | COMMAND_INSERT_CHECKSUM | COMMAND_REPORT_STATUS;
        self.transmit.write(entry, frame.len() as u16, command);
        self.transmit.next = (entry + 1) % DESCRIPTORS;
        fence(Ordering::SeqCst);
        self.registers.write(TDBAL + RING_TAIL, self.transmit.next as u32);
    }
}

/// The device's window in memory.
struct Registers {
    window: usize,
}

impl Registers {
    fn read(&self, register: usize) -> u32 {
        // SAFETY: the window is the device's, and 128 KiB long.
        unsafe { ((self.window + register) as *const u32).read_volatile() }
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: as above.
        unsafe { ((self.window + register) as *mut u32).write_volatile(value) }
    }
}

/// A ring of descriptors, each with a buffer of its own.
struct Ring {
    descriptors: Pages,
    buffers: Pages,
    next: usize,
}

impl Ring {
    fn new() -> Ring {
        Ring {
            descriptors: Pages::with_bytes(DESCRIPTORS * DESCRIPTOR_BYTES),
            buffers: Pages::with_bytes(DESCRIPTORS * BUFFER_BYTES),
            next: 0,
        }
    }

    /// Tells the device where the ring is, by the registers from `base` on.
    fn tell(&self, registers: &Registers, base: usize) {
        let address = self.descriptors.address();
        registers.write(base, address as u32);
        registers.write(base + RING_HIGH, (address >> 32) as u32);
        registers.write(base + RING_LENGTH, (DESCRIPTORS * DESCRIPTOR_BYTES) as u32);
        registers.write(base + RING_HEAD, 0);
        registers.write(base + RING_TAIL, 0);
    }

    /// Makes the entry's buffer free to be received into.
    fn give_buffer(&mut self, entry: usize) {
        self.write(entry, 0, 0);
    }

    fn write(&mut self, entry: usize, length: u16, command: u8) {
        let buffer = self.buffers.address() + (entry * BUFFER_BYTES) as u64;
        let place = self.place(entry, 0);
        // SAFETY: a descriptor of ours, aligned to its size.
        unsafe {
            place.cast::<u64>().write_volatile(buffer);
            let second = u64::from(length) | u64::from(command) << 24;
            place.add(8).cast::<u64>().write_volatile(second);
        }
    }

    fn length(&self, entry: usize) -> usize {
        // SAFETY: as above; the device has written it.
        usize::from(unsafe { self.place(entry, 8).cast::<u16>().read_volatile() })
    }

    fn read_byte(&self, entry: usize, field: usize) -> u8 {
        // SAFETY: as above.
        unsafe { self.place(entry, field).read_volatile() }
    }

    fn write_byte(&mut self, entry: usize, field: usize, value: u8) {
        // SAFETY: as above.
        unsafe { self.place(entry, field).write_volatile(value) }
    }

    fn place(&self, entry: usize, field: usize) -> *mut u8 {
        (self.descriptors.address() as usize + entry * DESCRIPTOR_BYTES + field) as *mut u8
    }

    fn buffer(&mut self, entry: usize) -> &mut [u8] {
        &mut self.buffers[entry * BUFFER_BYTES..][..BUFFER_BYTES]
    }
}
