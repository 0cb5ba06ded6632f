//! QEMU's machine types that can play a board, and what can be plugged into each.
//!
//! Read by [`super::check`], so that a board file that QEMU would refuse is refused with its line instead.
//! A table of plain data; nothing to clean up.

use super::{Arch, Attachment, ByteSize, Firmware};

/// What can be plugged into one of QEMU's machine types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineType {
    /// QEMU's name of it, without a version.
    pub name: &'static str,
    /// The architectures whose QEMU has it.
    pub arches: &'static [Arch],
    /// What may run on it before the operating system.
    pub firmware: &'static [Firmware],
    /// Whether it has PCI, and so takes virtio, NVMe, xHCI, display cards and the like.
    pub pci: bool,
    /// Whether it has an AHCI controller of its own.
    pub ahci: bool,
    /// Whether it has an SD controller of its own.
    pub sd: bool,
    /// Whether it has the PC's PS/2 sockets.
    pub ps2: bool,
    /// How many serial ports it has.
    pub serial_ports: u8,
    /// Its processor, memory and frame buffer, if they cannot be chosen.
    pub fixed: Option<Fixed>,
}

/// What cannot be chosen on a machine that models one real board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// How many processors it has.
    pub cpus: u8,
    /// How much memory it has.
    pub memory: ByteSize,
}

/// A PC takes four ISA serial ports (QEMU's `MAX_ISA_SERIAL_PORTS`).
const PC: MachineType = MachineType {
    name: "pc",
    arches: &[Arch::X86_64],
    firmware: &[Firmware::Bios, Firmware::Uefi],
    pci: true,
    ahci: false,
    sd: false,
    ps2: true,
    serial_ports: 4,
    fixed: None,
};

/// A Raspberry Pi of QEMU 7.2: `docs/system/arm/raspi.rst`. QEMU refuses other memory and processors
/// ("Invalid RAM size, should be 1 GiB", "The min CPUs supported by machine 'raspi3b' is 4").
/// Serial port 0 is the PL011, port 1 the mini UART.
///
/// QEMU's other Pis are not known: a board file cannot say that its boot ROM is a Pi 2's or a Pi 3 A+'s, and played as
/// a Pi 3's it would start another kernel than the real one.
const RASPI3B: MachineType = MachineType {
    name: "raspi3b",
    arches: &[Arch::Aarch64],
    firmware: &[Firmware::RaspberryPi3],
    pci: false,
    ahci: false,
    sd: true,
    ps2: false,
    serial_ports: 2,
    fixed: Some(Fixed { cpus: 4, memory: ByteSize::mib(1024) }),
};

/// All of them. QEMU has many more, but nobody has taught standin to start them.
pub const ALL: [MachineType; 4] = [
    MachineType { name: "q35", ahci: true, ..PC },
    PC,
    MachineType {
        name: "virt",
        arches: &[Arch::Aarch64, Arch::Armv7, Arch::Riscv64],
        firmware: &[Firmware::Uefi, Firmware::UBoot, Firmware::RaspberryPi3, Firmware::RaspberryPi4],
        pci: true,
        ahci: false,
        sd: false,
        ps2: false,
        serial_ports: 1,
        fixed: None,
    },
    RASPI3B,
];

impl MachineType {
    /// The machine type that QEMU knows as `name`, with or without a version: `q35` and `pc-q35-7.2` are one.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = match name.strip_prefix("pc-") {
            Some(rest) if rest.starts_with("i440fx-") => "pc",
            Some(rest) => rest.strip_prefix("q35-").map_or(name, |_| "q35"),
            None => name.strip_prefix("virt-").map_or(name, |_| "virt"),
        };
        ALL.iter().find(|machine| machine.name == name)
    }

    /// What `attachment` would need and this machine has not; `None` if it fits.
    pub fn refuses(&self, attachment: Attachment) -> Option<&'static str> {
        match attachment {
            Attachment::Nvme | Attachment::VirtioBlk | Attachment::SdhciPci => (!self.pci).then_some("PCI"),
            Attachment::Sata => (!self.ahci).then_some("AHCI controller"),
            Attachment::SdCard => (!self.sd).then_some("SD controller"),
            // Every one of them has USB: its own, or xHCI on PCI.
            Attachment::UsbStorage => None,
        }
    }

    /// The attachments that fit this machine.
    pub fn attachments(&self) -> impl Iterator<Item = Attachment> {
        use Attachment::{Nvme, Sata, SdCard, SdhciPci, UsbStorage, VirtioBlk};
        let all = [Sata, Nvme, VirtioBlk, UsbStorage, SdCard, SdhciPci];
        all.into_iter().filter(|attachment| self.refuses(*attachment).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_versioned_name_is_the_machine_type_without_its_version() {
        for (name, known) in [
            ("q35", Some("q35")),
            ("pc-q35-7.2", Some("q35")),
            ("pc-i440fx-7.2", Some("pc")),
            ("virt-7.2", Some("virt")),
            ("raspi3b", Some("raspi3b")),
            ("pc-foo", None),
            ("q35-7.2", None),
            ("versatilepb", None),
        ] {
            assert_eq!(MachineType::named(name).map(|machine| machine.name), known, "{name}");
        }
    }
}
