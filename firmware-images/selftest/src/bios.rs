//! What a PC BIOS leaves us: nothing but memory and ports. Disks are driven by ourselves.

use crate::acpi::Acpi;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::pci::Pci;
use crate::reason::Reason;
use crate::{clock, fault, heap, image, interrupts, ports, serial};

/// Above the page tables and the stack, see `boot/bios.rs`.
const HEAP_START: usize = 0x40_0000;

/// The first line of Rust, called by `boot/bios.rs` with interrupts off.
pub extern "C" fn start() -> ! {
    // SAFETY: SeaBIOS leaves this memory alone, and this is called once.
    unsafe { heap::begin(HEAP_START as *mut u8) };
    serial::begin();
    interrupts::begin();
    crate::run(Firmware::Bios(Bios { _private: () }))
}

/// A BIOS that has done its part.
pub struct Bios {
    _private: (),
}

impl Bios {
    /// Looks for "RSD PTR " where ACPI 6.5, section 5.2.5.1, says: in the first kilobyte of the
    /// extended BIOS data area, and in the BIOS's own read-only memory.
    pub fn acpi_root(&self) -> Option<u64> {
        const SIGNATURE: u64 = u64::from_le_bytes(*b"RSD PTR ");
        // SAFETY: memory below 1 MiB is mapped and readable on every PC.
        let read = |address: usize| unsafe { (address as *const u64).read_volatile() };
        let extended = (read(0x40e) & 0xffff) as usize * 16;
        (extended..extended + 1024)
            .step_by(16)
            .chain((0xe_0000..0x10_0000).step_by(16))
            .find(|address| read(*address) == SIGNATURE)
            .map(|address| address as u64)
    }

    /// The first virtio disk that carries this image.
    pub fn open_disk(&self, acpi: Option<&Acpi>) -> Result<Disk, Reason> {
        Disk::find_virtio(Pci::find(acpi)?, None, |disk| image::header(disk).map(drop))
    }

    /// The first virtio disk but that one.
    pub fn open_other_disk(&self, acpi: Option<&Acpi>, booted: &Disk) -> Result<Disk, Reason> {
        Disk::find_virtio(Pci::find(acpi)?, booted.place, |_| Ok(()))
    }

    /// Sleeps until a byte arrives or the timer ticks.
    pub fn rest(&self) {
        interrupts::rest();
    }

    /// By ACPI's soft-off state.
    pub fn power_off(&self, acpi: Option<&Acpi>) -> ! {
        if let Some(acpi) = acpi {
            acpi.power_off();
        }
        serial::say(format_args!("selftest: the board does not power off"));
        fault::halt()
    }

    /// By the reset register of the chipset, or else by the keyboard controller's reset line.
    pub fn reboot(&self) -> ! {
        ports::write_byte(0xcf9, 0x02);
        ports::write_byte(0xcf9, 0x06);
        clock::spin(1_000_000);
        ports::write_byte(0x64, 0xfe);
        fault::halt()
    }
}
