//! No firmware at all: started as a kernel, on a Raspberry Pi 3 or on QEMU's `virt`.
//!
//! Nobody has set up anything but memory and the serial line, so that what a system does there is
//! done here: PCI devices get their places, and power is switched by the board's own means.

use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::pci::{self, Pci};
use crate::reason::Reason;
use crate::sd_host::SdHost;
use crate::serial;
use crate::{fault, heap, image};
use core::arch::asm;
use core::ptr;

/// Behind the image, and before anything that QEMU loads (`hw/arm/boot.c`).
const HEAP_OFFSET: usize = 4 << 20;

/// The first line of Rust, called by `boot/bare_aarch64.rs` with the place of the image.
pub extern "C" fn start(image: usize) -> ! {
    // SAFETY: both boards have more memory than that, and this is called once.
    unsafe { heap::begin((image + HEAP_OFFSET) as *mut u8) };
    // As in `boot/bare_aarch64.rs`.
    let bare = if image >> 30 == 0 { Bare::RaspberryPi3 } else { Bare::Virt };
    bare.let_timer_wake_us();
    match bare {
        Bare::RaspberryPi3 => {
            park_other_cores();
            serial::use_raspberry_pi();
        }
        Bare::Virt => {
            pci::begin_at(VIRT_PCI_CONFIGURATION);
            place_devices();
        }
    }
    serial::begin();
    crate::run(Firmware::Bare(bare))
}

/// `hw/arm/virt.c`, `VIRT_HIGH_PCIE_ECAM` where the board has no more than 255 GiB.
const VIRT_PCI_CONFIGURATION: usize = 0x40_1000_0000;
/// `VIRT_PCIE_MMIO`.
const VIRT_PCI_WINDOW: u32 = 0x1000_0000;

/// How often a resting CPU looks around: each 2 ms.
const RESTS_PER_SECOND: u64 = 500;

/// The boards.
pub enum Bare {
    RaspberryPi3,
    Virt,
}

impl Bare {
    /// Connects the timer's interrupt to the CPU.
    fn let_timer_wake_us(&self) {
        let registers: &[(usize, u32)] = match self {
            // "BCM2836 ARM-local peripherals", section 4.6: core 0's timer interrupt control.
            Bare::RaspberryPi3 => &[(0x4000_0040, 1 << 1)],
            // The timer is interrupt 30 of the GICv2 (`VIRT_GIC_DIST`, `VIRT_GIC_CPU`): enable the
            // distributor, the interrupt, the CPU's interface, and all priorities there.
            Bare::Virt => &[(0x0800_0000, 1), (0x0800_0100, 1 << 30), (0x0801_0000, 1), (0x0801_0004, 0xff)],
        };
        for (register, value) in registers {
            // SAFETY: the registers exist on this board.
            unsafe { ptr::write_volatile(*register as *mut u32, *value) };
        }
    }

    /// The card, or the first virtio disk that carries this image.
    pub fn open_disk(&self) -> Result<Disk, Reason> {
        match self {
            Bare::RaspberryPi3 => SdHost::begin().map(Disk::on_card),
            Bare::Virt => Disk::find_virtio(Pci::find(None)?, None, |disk| image::header(disk).map(drop)),
        }
    }

    /// The first virtio disk but that one; a Raspberry Pi has none.
    pub fn open_other_disk(&self, booted: &Disk) -> Result<Disk, Reason> {
        match self {
            Bare::RaspberryPi3 => Err(Reason::from("there is no other disk")),
            Bare::Virt => Disk::find_virtio(Pci::find(None)?, booted.place, |_| Ok(())),
        }
    }

    /// Sleeps until the timer's interrupt is pending. It is let through nowhere, so it needs no
    /// handler: setting the timer anew takes it back.
    pub fn rest(&self) {
        // SAFETY: the timer is ours, and nothing but this waits for it.
        unsafe {
            asm!(
                "mrs {ticks}, cntfrq_el0",
                "udiv {ticks}, {ticks}, {rate}",
                "msr cntp_tval_el0, {ticks}",
                "msr cntp_ctl_el0, {on}",
                "isb",
                "wfi",
                "msr cntp_ctl_el0, xzr",
                ticks = out(reg) _, rate = in(reg) RESTS_PER_SECOND, on = in(reg) 1_u64,
                options(nomem, nostack),
            );
        }
    }

    pub fn power_off(&self) -> ! {
        match self {
            // "Partition 63" means halt to the boot ROM.
            Bare::RaspberryPi3 => raspberry_pi_reset(0x555),
            Bare::Virt => psci(0x8400_0008),
        }
    }

    pub fn reboot(&self) -> ! {
        match self {
            Bare::RaspberryPi3 => raspberry_pi_reset(0),
            Bare::Virt => psci(0x8400_0009),
        }
    }
}

/// Sends the Raspberry Pi's other cores from a busy loop, in which QEMU has them wait for a place
/// to go to, into a sleep. The places are those of `hw/arm/raspi.c`, `SPINTABLE_ADDR`.
fn park_other_cores() {
    const PLACES: [usize; 3] = [0xe0, 0xe8, 0xf0];
    unsafe extern "C" {
        fn parked();
    }
    for place in PLACES {
        // SAFETY: the memory below the image is ours, and the cores run nothing else.
        unsafe { ptr::write_volatile(place as *mut u64, parked as *const () as u64) };
    }
    // SAFETY: only wakes them.
    unsafe { asm!("dsb sy", "sev", options(nostack)) };
}

/// Gives each device on bus 0 a place for each of its memory windows.
fn place_devices() {
    let Ok(mut pci) = Pci::find(None) else { return };
    let mut next = VIRT_PCI_WINDOW;
    for function in pci.functions() {
        pci.place(&function, &mut next);
    }
}

/// By the power management's watchdog (`hw/misc/bcm2835_powermgt.c`), which takes values only with
/// its password, as Linux's `bcm2835_wdt` does.
fn raspberry_pi_reset(partition: u32) -> ! {
    const RESET_CONTROL: usize = 0x3f10_001c;
    const RESET_STATUS: usize = 0x3f10_0020;
    const WATCHDOG: usize = 0x3f10_0024;
    const PASSWORD: u32 = 0x5a00_0000;
    for (register, value) in [(RESET_STATUS, partition), (WATCHDOG, 10), (RESET_CONTROL, 0x20)] {
        // SAFETY: the registers exist on this board, and writing them ends us.
        unsafe { ptr::write_volatile(register as *mut u32, PASSWORD | value) };
    }
    fault::halt()
}

/// Calls QEMU's firmware interface (Arm's PSCI) for what never comes back.
fn psci(function: u64) -> ! {
    // SAFETY: it ends us.
    unsafe { asm!("hvc #0", in("x0") function, options(nostack)) };
    fault::halt()
}
