//! Time since the boot, in milliseconds and microseconds.
//!
//! The x86 time-stamp counter has no known rate, so it is measured against ACPI's timer for a
//! millisecond. An aarch64 CPU says the rate of its counter.

use crate::acpi::Acpi;
use core::arch::asm;

/// A counter and its rate.
pub struct Clock {
    begin: u64,
    counts_per_millisecond: u64,
}

impl Clock {
    /// Starts at zero.
    pub fn begin(acpi: Option<&Acpi>) -> Clock {
        Clock { begin: count(), counts_per_millisecond: measure(acpi).max(1) }
    }

    /// Milliseconds since the beginning.
    pub fn milliseconds(&self) -> u64 {
        (count() - self.begin) / self.counts_per_millisecond
    }

    /// Microseconds since the beginning.
    pub fn microseconds(&self) -> u64 {
        let counts = u128::from(count() - self.begin);
        (counts * 1000 / u128::from(self.counts_per_millisecond)) as u64
    }
}

/// Wastes some time where no clock can be had.
#[cfg(target_arch = "x86_64")]
pub fn spin(rounds: u32) {
    for _ in 0..rounds {
        core::hint::spin_loop();
    }
}

#[cfg(target_arch = "x86_64")]
fn count() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every x86-64 CPU has the counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Counts for a millisecond of ACPI's timer, which runs at 3.579545 MHz and has at least 24 bits.
#[cfg(target_arch = "x86_64")]
fn measure(acpi: Option<&Acpi>) -> u64 {
    const TICKS: u32 = 3580;
    /// QEMU's counter without KVM; only a board without ACPI relies on it.
    const GUESS: u64 = 1_000_000;

    let Some(acpi) = acpi else { return GUESS };
    let (first, begin) = (acpi.timer(), count());
    loop {
        let ticks = acpi.timer().wrapping_sub(first) & 0xff_ffff;
        let counts = count() - begin;
        if ticks >= TICKS {
            return counts * u64::from(TICKS) / u64::from(ticks);
        }
        if counts > 1000 * GUESS * 10 {
            return GUESS;
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn count() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

#[cfg(target_arch = "aarch64")]
fn measure(_acpi: Option<&Acpi>) -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value / 1000
}
