//! The ways in which a guest ends badly.

use crate::acpi::Acpi;
use crate::pci::Pci;
#[cfg(target_arch = "x86_64")]
use crate::ports;
use crate::serial::say;
use core::arch::asm;
use core::panic::PanicInfo;

/// pvpanic's "the guest has panicked" (QEMU's `docs/specs/pvpanic.txt`).
const PANICKED: u8 = 1 << 0;

/// Tells QEMU's pvpanic device, if the board has it.
pub fn tell_hypervisor(acpi: Option<&Acpi>) {
    #[cfg(target_arch = "x86_64")]
    tell_port();
    let Ok(mut pci) = Pci::find(acpi) else { return };
    let Some(function) = pci.functions().into_iter().find(|one| one.is(0x1b36, 0x0011)) else {
        return;
    };
    pci.enable(&function);
    if let Ok(window) = pci.window(&function) {
        // SAFETY: the window is the device's, and has one byte.
        unsafe { (window as *mut u8).write_volatile(PANICKED) };
    }
}

/// The device on the ISA bus reads as the events that it understands.
#[cfg(target_arch = "x86_64")]
fn tell_port() {
    const PORT: u16 = 0x505;
    let understood = ports::read_byte(PORT);
    if understood != 0xff && understood & PANICKED != 0 {
        ports::write_byte(PORT, PANICKED);
    }
}

/// Stops the CPU. It sleeps, so the host's is free.
pub fn halt() -> ! {
    // SAFETY: nothing runs after this. A pending interrupt would end the sleep even though it is
    // not let through, so the timers are stopped, too.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("msr daifset, #15", "msr cntp_ctl_el0, xzr", "msr cntv_ctl_el0, xzr", options(nomem, nostack));
    }
    loop {
        // SAFETY: as above.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("cli", "hlt", options(nomem, nostack));
            #[cfg(target_arch = "aarch64")]
            asm!("wfi", options(nomem, nostack));
        }
    }
}

/// Stops answering, with the CPU busy.
pub fn hang() -> ! {
    // SAFETY: as above.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("cli", options(nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        asm!("msr daifset, #15", options(nomem, nostack));
    }
    loop {
        core::hint::spin_loop();
    }
}

/// A mistake of ours.
#[panic_handler]
fn panic(information: &PanicInfo) -> ! {
    say(format_args!("panic: {information}"));
    #[cfg(target_arch = "x86_64")]
    tell_port();
    halt()
}
