//! Finding PCI devices and their registers. The firmware has placed them; we only look.

use crate::acpi::Acpi;
#[cfg(target_arch = "x86_64")]
use crate::ports;
use crate::reason::Reason;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(target_arch = "aarch64")]
use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(target_arch = "aarch64")]
use virtio_drivers::transport::pci::bus::MemoryBarType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType, PciRoot,
};

/// A function on a bus, and what it says it is.
pub struct Function {
    pub place: DeviceFunction,
    pub info: DeviceFunctionInfo,
}

impl Function {
    /// Whether it is this very chip.
    pub fn is(&self, vendor: u16, device: u16) -> bool {
        self.info.vendor_id == vendor && self.info.device_id == device
    }
}

/// The board's PCI.
pub struct Pci {
    pub root: PciRoot<Configuration>,
    /// For the registers that `PciRoot` does not know.
    pub configuration: Configuration,
}

impl Pci {
    /// The way to it.
    pub fn find(acpi: Option<&Acpi>) -> Result<Pci, Reason> {
        let configuration = Configuration::find(acpi)?;
        Ok(Pci { root: PciRoot::new(configuration), configuration })
    }

    /// All functions on all buses, those behind a bridge after it.
    pub fn functions(&self) -> Vec<Function> {
        const SECONDARY_BUS: u8 = 0x18;
        let mut found = Vec::new();
        let mut buses = vec![0];
        while let Some(bus) = buses.pop() {
            for (place, info) in self.root.enumerate_bus(bus) {
                if info.header_type == HeaderType::PciPciBridge {
                    let secondary = (self.configuration.read_word(place, SECONDARY_BUS) >> 8) as u8;
                    if secondary > bus {
                        buses.push(secondary);
                    }
                }
                found.push(Function { place, info });
            }
        }
        found
    }

    /// Lets a device answer and reach memory.
    pub fn enable(&mut self, function: &Function) {
        let (_, command) = self.root.get_status_command(function.place);
        let wanted = command | Command::MEMORY_SPACE | Command::BUS_MASTER;
        self.root.set_command(function.place, wanted);
    }

    /// Puts the device's memory windows at `next` and after it, for want of a firmware.
    #[cfg(target_arch = "aarch64")]
    pub fn place(&mut self, function: &Function, next: &mut u32) {
        let Ok(windows) = self.root.bars(function.place) else { return };
        for (index, window) in (0..).zip(windows) {
            let Some(BarInfo::Memory { address_type, size, .. }) = window else { continue };
            let size = size as u32;
            *next = next.next_multiple_of(size);
            match address_type {
                MemoryBarType::Width64 => self.root.set_bar_64(function.place, index, (*next).into()),
                _ => self.root.set_bar_32(function.place, index, *next),
            }
            *next += size;
        }
    }

    /// Where the device's first memory window is.
    pub fn window(&mut self, function: &Function) -> Result<usize, Reason> {
        match self.root.bar_info(function.place, 0) {
            Ok(Some(BarInfo::Memory { address, size, .. })) if address != 0 => {
                map(address, size);
                Ok(address as usize)
            }
            _ => Err(Reason::from("the firmware gave the device no memory window")),
        }
    }
}

/// Makes sure that we can reach a window.
pub fn map(start: u64, bytes: u64) {
    #[cfg(target_arch = "x86_64")]
    crate::high_windows::map(start, bytes);
    #[cfg(target_arch = "aarch64")]
    let _ = (start, bytes); // all are mapped
}

/// PCI's configuration space through the PC's ports 0xcf8 and 0xcfc.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Configuration {
    _private: (),
}

#[cfg(target_arch = "x86_64")]
impl Configuration {
    fn find(_acpi: Option<&Acpi>) -> Result<Configuration, Reason> {
        Ok(Configuration { _private: () })
    }

    /// Writes a single byte, for registers that take no more at a time.
    pub fn write_byte(&mut self, place: DeviceFunction, register: u8, value: u8) {
        Configuration::select(place, register);
        ports::write_byte(0xcfc + u16::from(register & 3), value);
    }

    fn select(place: DeviceFunction, register: u8) {
        let address = 1 << 31
            | u32::from(place.bus) << 16
            | u32::from(place.device) << 11
            | u32::from(place.function) << 8
            | u32::from(register & 0xfc);
        ports::write_long(0xcf8, address);
    }
}

#[cfg(target_arch = "x86_64")]
impl ConfigurationAccess for Configuration {
    fn read_word(&self, place: DeviceFunction, register: u8) -> u32 {
        Configuration::select(place, register);
        ports::read_long(0xcfc)
    }

    fn write_word(&mut self, place: DeviceFunction, register: u8, value: u32) {
        Configuration::select(place, register);
        ports::write_long(0xcfc, value);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// Where the configuration space is, on a board that has no ACPI to tell it; or 0.
#[cfg(target_arch = "aarch64")]
static KNOWN_BASE: AtomicUsize = AtomicUsize::new(0);

/// Tells where the configuration space is.
#[cfg(target_arch = "aarch64")]
pub fn begin_at(base: usize) {
    KNOWN_BASE.store(base, Ordering::Relaxed);
}

/// PCI's configuration space in memory, at the place that ACPI's MCFG names.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub struct Configuration {
    base: usize,
}

#[cfg(target_arch = "aarch64")]
impl Configuration {
    fn find(acpi: Option<&Acpi>) -> Result<Configuration, Reason> {
        let told = acpi.and_then(|acpi| acpi.pci_configuration).map(|base| base as usize);
        let known = KNOWN_BASE.load(Ordering::Relaxed);
        let base = told.or((known != 0).then_some(known)).ok_or("no PCI")?;
        Ok(Configuration { base })
    }

    /// Writes a single byte, for registers that take no more at a time.
    pub fn write_byte(&mut self, place: DeviceFunction, register: u8, value: u8) {
        let address = self.address(place, register) + usize::from(register & 3);
        // SAFETY: the firmware has mapped the whole configuration space.
        unsafe { (address as *mut u8).write_volatile(value) }
    }

    fn address(&self, place: DeviceFunction, register: u8) -> usize {
        self.base
            + (usize::from(place.bus) << 20)
            + (usize::from(place.device) << 15)
            + (usize::from(place.function) << 12)
            + usize::from(register & 0xfc)
    }
}

#[cfg(target_arch = "aarch64")]
impl ConfigurationAccess for Configuration {
    fn read_word(&self, place: DeviceFunction, register: u8) -> u32 {
        // SAFETY: the firmware has mapped the whole configuration space.
        unsafe { (self.address(place, register) as *const u32).read_volatile() }
    }

    fn write_word(&mut self, place: DeviceFunction, register: u8, value: u32) {
        // SAFETY: as above.
        unsafe { (self.address(place, register) as *mut u32).write_volatile(value) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
