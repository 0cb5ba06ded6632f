//! What started us, and what only that can do for us.

use crate::acpi::Acpi;
#[cfg(target_arch = "aarch64")]
use crate::bare::Bare;
#[cfg(target_arch = "x86_64")]
use crate::bios::Bios;
use crate::disk::Disk;
use crate::reason::Reason;
use crate::uefi::Uefi;
use virtio_drivers::transport::pci::bus::DeviceFunction;

/// The kinds of firmware this guest boots from.
pub enum Firmware {
    #[cfg(target_arch = "x86_64")]
    Bios(Bios),
    /// Its boot services stay in use.
    Uefi(Uefi),
    /// We were loaded as a kernel.
    #[cfg(target_arch = "aarch64")]
    Bare(Bare),
}

impl Firmware {
    /// As the banner says it.
    pub fn name(&self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(_) => "bios",
            Firmware::Uefi(_) => "uefi",
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(_) => "none",
        }
    }

    /// Where ACPI's tables begin, if there are any.
    pub fn acpi_root(&self) -> Option<u64> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.acpi_root(),
            Firmware::Uefi(uefi) => uefi.acpi_root(),
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(_) => None,
        }
    }

    /// The whole disk that we were booted from.
    pub fn open_disk(&self, acpi: Option<&Acpi>) -> Result<Disk, Reason> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.open_disk(acpi),
            Firmware::Uefi(uefi) => {
                let _ = acpi;
                uefi.open_disk()
            }
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(bare) => bare.open_disk(),
        }
    }

    /// A disk to install to: not the one that we were booted from, and none that can be taken out.
    pub fn open_other_disk(&self, acpi: Option<&Acpi>, booted: &Disk) -> Result<Disk, Reason> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.open_other_disk(acpi, booted),
            Firmware::Uefi(uefi) => {
                let _ = acpi;
                uefi.open_other_disk(booted)
            }
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(bare) => bare.open_other_disk(booted),
        }
    }

    /// Makes the firmware's own drivers let go of a PCI device.
    pub fn release(&self, function: DeviceFunction) {
        match self {
            // A BIOS uses what it has booted from, and nothing else once we run.
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(_) => {}
            Firmware::Uefi(uefi) => uefi.release(function),
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(_) => {}
        }
    }

    /// Sleeps until something may have happened: at most two milliseconds.
    pub fn rest(&self) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.rest(),
            Firmware::Uefi(uefi) => uefi.rest(),
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(bare) => bare.rest(),
        }
    }

    /// Takes the power away.
    pub fn power_off(&self, acpi: Option<&Acpi>) -> ! {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.power_off(acpi),
            Firmware::Uefi(uefi) => {
                let _ = acpi;
                uefi.power_off()
            }
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(bare) => bare.power_off(),
        }
    }

    /// Starts the board again.
    pub fn reboot(&self) -> ! {
        match self {
            #[cfg(target_arch = "x86_64")]
            Firmware::Bios(bios) => bios.reboot(),
            Firmware::Uefi(uefi) => uefi.reboot(),
            #[cfg(target_arch = "aarch64")]
            Firmware::Bare(bare) => bare.reboot(),
        }
    }
}
