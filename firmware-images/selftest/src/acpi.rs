//! The few things we want from ACPI: the power button, soft-off, a timer, and where PCI is.
//!
//! Offsets are those of ACPI 6.5, chapter 5.2. There is no interpreter: what the DSDT says is
//! found by its bytes.

use crate::firmware::Firmware;
#[cfg(target_arch = "x86_64")]
use crate::ports;
use alloc::vec::Vec;

/// What the tables said.
pub struct Acpi {
    power_button: Option<PowerButton>,
    /// Where PCI's configuration space lies in memory (MCFG).
    #[cfg(target_arch = "aarch64")]
    pub pci_configuration: Option<u64>,
    #[cfg(target_arch = "x86_64")]
    control_port: u16,
    #[cfg(target_arch = "x86_64")]
    timer_port: u16,
    /// The value of the sleep type that means soft-off.
    #[cfg(target_arch = "x86_64")]
    soft_off: u16,
}

enum PowerButton {
    /// A status port that latches the press once it is enabled.
    #[cfg(target_arch = "x86_64")]
    Fixed { status_port: u16 },
    /// The selector of QEMU's generic event device: bit 1 is the button, and reading clears it
    /// (`hw/acpi/generic_event_device.c`).
    #[cfg(target_arch = "aarch64")]
    GenericEvent { selector: usize },
}

/// Bit 8 of both PM1 status and PM1 enable.
#[cfg(target_arch = "x86_64")]
const PM1_POWER_BUTTON: u16 = 1 << 8;

/// `hw/arm/virt.c`, `VIRT_ACPI_GED`.
#[cfg(target_arch = "aarch64")]
const GENERIC_EVENT_SELECTOR: usize = 0x0908_0000;

impl Acpi {
    /// Reads the tables and enables the power button.
    pub fn find(firmware: &Firmware) -> Option<Acpi> {
        let tables = tables(firmware.acpi_root()?);
        let of = |name: &[u8; 4]| tables.iter().find(|table| table.signature() == *name).copied();
        let fixed = of(b"FACP")?;
        let definitions = Table { address: fixed.definitions() };
        #[cfg(target_arch = "x86_64")]
        return Some(Acpi::with(fixed, definitions));
        #[cfg(target_arch = "aarch64")]
        return Some(Acpi::with(definitions, of(b"MCFG").map(|table| table.long_long(44))));
    }

    #[cfg(target_arch = "x86_64")]
    fn with(fixed: Table, definitions: Table) -> Acpi {
        let status_port = fixed.long(56) as u16;
        let enable_port = status_port + u16::from(fixed.byte(88) / 2);
        ports::write_word(status_port, PM1_POWER_BUTTON); // written to be cleared
        ports::write_word(enable_port, PM1_POWER_BUTTON);
        Acpi {
            power_button: Some(PowerButton::Fixed { status_port }),
            control_port: fixed.long(64) as u16,
            timer_port: fixed.long(76) as u16,
            soft_off: definitions.soft_off(),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn with(definitions: Table, pci_configuration: Option<u64>) -> Acpi {
        // The identifier of a generic event device (ACPI 6.5, section 5.6.4).
        let selector = GENERIC_EVENT_SELECTOR;
        let power_button = definitions.position(b"ACPI0013").map(|_| PowerButton::GenericEvent { selector });
        Acpi { power_button, pci_configuration }
    }

    /// Whether the button was pressed since the last question.
    pub fn power_button_pressed(&self) -> bool {
        match self.power_button {
            None => false,
            #[cfg(target_arch = "x86_64")]
            Some(PowerButton::Fixed { status_port }) => {
                let pressed = ports::read_word(status_port) & PM1_POWER_BUTTON != 0;
                if pressed {
                    ports::write_word(status_port, PM1_POWER_BUTTON);
                }
                pressed
            }
            #[cfg(target_arch = "aarch64")]
            Some(PowerButton::GenericEvent { selector }) => {
                // SAFETY: the DSDT has the device, and the firmware has mapped it.
                unsafe { (selector as *const u32).read_volatile() & 1 << 1 != 0 }
            }
        }
    }

    /// Enters soft-off. Comes back only where the tables were wrong.
    #[cfg(target_arch = "x86_64")]
    pub fn power_off(&self) {
        const SLEEP_ENABLE: u16 = 1 << 13;
        ports::write_word(self.control_port, self.soft_off << 10 | SLEEP_ENABLE);
        crate::clock::spin(10_000_000);
    }

    /// The timer of 3.579545 MHz; its upper byte may be missing.
    #[cfg(target_arch = "x86_64")]
    pub fn timer(&self) -> u32 {
        ports::read_long(self.timer_port)
    }
}

/// One table in memory.
#[derive(Clone, Copy)]
struct Table {
    address: u64,
}

/// All tables that the root table lists.
fn tables(root: u64) -> Vec<Table> {
    let root = Table { address: root };
    let (list, entry_bytes) = match root.byte(15) {
        0 => (u64::from(root.long(16)), 4),
        _ => (root.long_long(24), 8),
    };
    let list = Table { address: list };
    (36..list.length())
        .step_by(entry_bytes)
        .map(|offset| match entry_bytes {
            4 => u64::from(list.long(offset)),
            _ => list.long_long(offset),
        })
        .map(|address| Table { address })
        .collect()
}

impl Table {
    fn bytes<const COUNT: usize>(self, offset: usize) -> [u8; COUNT] {
        // SAFETY: the firmware put the table there; tables need not be aligned.
        unsafe { (self.address as *const u8).add(offset).cast::<[u8; COUNT]>().read_unaligned() }
    }

    fn byte(self, offset: usize) -> u8 {
        self.bytes::<1>(offset)[0]
    }

    fn long(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    fn long_long(self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }

    fn signature(self) -> [u8; 4] {
        self.bytes(0)
    }

    fn length(self) -> usize {
        self.long(4) as usize
    }

    /// Where the FADT says the DSDT is.
    fn definitions(self) -> u64 {
        let extended = if self.length() >= 148 { self.long_long(140) } else { 0 };
        if extended != 0 { extended } else { u64::from(self.long(40)) }
    }

    /// Where the bytes begin that the table has first.
    fn position(self, wanted: &[u8]) -> Option<usize> {
        // SAFETY: the firmware put a table of this length there.
        let all = unsafe { core::slice::from_raw_parts(self.address as *const u8, self.length()) };
        all.windows(wanted.len()).position(|window| window == wanted)
    }

    /// The first element of the package `_S5_`, which is a byte constant in one of three forms.
    #[cfg(target_arch = "x86_64")]
    fn soft_off(self) -> u16 {
        const PACKAGE: u8 = 0x12;
        const BYTE_PREFIX: u8 = 0x0a;
        let Some(name) = self.position(b"_S5_") else { return 0 };
        if self.byte(name + 4) != PACKAGE {
            return 0;
        }
        // The package's length takes one to four bytes, as its top two bits say; then a count.
        let element = name + 5 + 1 + usize::from(self.byte(name + 5) >> 6) + 1;
        match self.byte(element) {
            BYTE_PREFIX => u16::from(self.byte(element + 1)),
            value @ 0..=1 => u16::from(value),
            _ => 0,
        }
    }
}
