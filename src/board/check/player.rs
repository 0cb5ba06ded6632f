//! Whether QEMU's machine can play what the board has: the rules that need [`MachineType`].
//!
//! Called by [`super::board`] alone. Pure; nothing to clean up.

use std::collections::BTreeMap;

use crate::board::file::{BoardFile, QemuFile};
use crate::board::machine_type::{self, Fixed, MachineType};
use crate::board::{
    Attachment, ByteSize, Firmware, KeyboardSocket, MediumKind, NetworkDevice, ScreenDevice, Watchdog, word,
};
use crate::document::{Document, nearest, one_of};

/// With less, AAVMF 2022.11 ends in a synchronous exception before it reaches its shell (tried: 96 MiB).
const LEAST_UEFI_MEMORY: ByteSize = ByteSize::mib(128);

/// Complains about everything that the machine cannot play.
pub(super) fn check(document: &mut Document<'_>, file: &BoardFile) {
    let Some(machine) = machine(document, file) else { return };
    processor_and_memory(document, &file.qemu, machine);
    firmware(document, &file.qemu, machine);
    attachments(document, file, machine);
    serial_ports(document, file, machine);
    network(document, file, machine);
    screen_and_keyboard(document, file, machine);
    watchers(document, &file.qemu, machine);
}

fn machine(document: &mut Document<'_>, file: &BoardFile) -> Option<&'static MachineType> {
    let name = file.qemu.machine.as_deref()?;
    let Some(machine) = MachineType::named(name) else {
        let known = || machine_type::ALL.iter().map(|machine| machine.name);
        let message = format!("expected {}, found `{name}`", one_of(known()));
        match nearest(name, known()) {
            Some(near) => {
                document.complain_with_hint("qemu.machine", message, format!("did you mean `{near}`?"))
            }
            None => document.complain("qemu.machine", message),
        }
        return None;
    };
    if let Some(arch) = file.arch
        && !machine.arches.contains(&arch)
    {
        let fitting = machine_type::ALL.iter().filter(|machine| machine.arches.contains(&arch));
        document.complain_with_hint(
            "qemu.machine",
            format!("`{name}` is no machine of {}", word(&arch)),
            format!("its machines are {}", one_of(fitting.map(|machine| machine.name))),
        );
    }
    Some(machine)
}

fn processor_and_memory(document: &mut Document<'_>, qemu: &QemuFile, machine: &MachineType) {
    if let Some(memory) = qemu.memory
        && (memory.0 == 0 || !memory.0.is_multiple_of(ByteSize::mib(1).0))
    {
        document.complain("qemu.memory", format!("expected a multiple of `1MiB`, found `{memory}`"));
    }
    let Some(Fixed { cpus, memory }) = machine.fixed else { return };
    let name = machine.name;
    if let Some(found) = qemu.memory
        && found != memory
    {
        document
            .complain("qemu.memory", format!("expected `{memory}`, as {name} has no other, found `{found}`"));
    }
    if let Some(found) = qemu.cpus
        && found != cpus
    {
        document.complain("qemu.cpus", format!("expected {cpus}, as {name} has no other, found {found}"));
    }
    if let Some(cpu) = &qemu.cpu {
        let message = format!("expected none, as {name} has its own, found `{cpu}`");
        document.complain_with_hint("qemu.cpu", message, "leave `cpu` out");
    }
}

fn firmware(document: &mut Document<'_>, qemu: &QemuFile, machine: &MachineType) {
    let Some(firmware) = qemu.firmware else { return };
    if !machine.firmware.contains(&firmware) {
        let fitting: Vec<_> = machine.firmware.iter().map(word).collect();
        let fitting = one_of(fitting.iter().map(String::as_str));
        let message = format!("expected {fitting} on {}, found `{}`", machine.name, word(&firmware));
        document.complain("qemu.firmware", message);
    }
    if let (Firmware::Uefi, Some(memory)) = (firmware, qemu.memory)
        && memory < LEAST_UEFI_MEMORY
    {
        let message = format!("expected at least `{LEAST_UEFI_MEMORY}` for UEFI, found `{memory}`");
        document.complain("qemu.memory", message);
    }
}

fn attachments(document: &mut Document<'_>, file: &BoardFile, machine: &MachineType) {
    for (name, attachment) in &file.qemu.attach {
        let key = format!("qemu.attach.{name}");
        let medium = file.media.get(name);
        let kind = medium.and_then(|medium| medium.kind);
        let plays = |attachment: Attachment| kind.is_none_or(|kind| plays(attachment, kind));
        let fitting: Vec<_> = machine.attachments().filter(|one| plays(*one)).map(|one| word(&one)).collect();
        let hint = format!("here fits {}", one_of(fitting.iter().map(String::as_str)));
        let found = word(attachment);
        if let Some(missing) = machine.refuses(*attachment) {
            let message = format!("`{found}` needs what {} has not: {missing}", machine.name);
            document.complain_with_hint(&key, message, &hint);
        } else if let (false, Some(kind)) = (plays(*attachment), kind) {
            let message = format!("`{found}` cannot play a medium of kind `{}`", word(&kind));
            document.complain_with_hint(&key, message, &hint);
        }
        if let (Attachment::SdCard | Attachment::SdhciPci, Some(size)) =
            (attachment, medium.and_then(|medium| medium.size))
            && !size.0.is_power_of_two()
        {
            let next = size.0.checked_next_power_of_two().map_or(size, ByteSize);
            document.complain_with_hint(
                &format!("media.{name}.size"),
                format!("expected a power of two, as QEMU's SD cards have no other size, found `{size}`"),
                format!("the next one is `{next}`"),
            );
        }
    }
}

/// Whether a device may stand for a medium of that kind. virtio-blk may for each, as the plainest disk that there
/// is; a card may sit in a USB reader.
fn plays(attachment: Attachment, kind: MediumKind) -> bool {
    match attachment {
        Attachment::VirtioBlk => true,
        Attachment::Sata => kind == MediumKind::Sata,
        Attachment::Nvme => kind == MediumKind::Nvme,
        Attachment::UsbStorage => matches!(kind, MediumKind::Usb | MediumKind::Sd),
        Attachment::SdCard | Attachment::SdhciPci => matches!(kind, MediumKind::Sd | MediumKind::Emmc),
    }
}

fn serial_ports(document: &mut Document<'_>, file: &BoardFile, machine: &MachineType) {
    let mut taken: BTreeMap<u8, &str> = BTreeMap::new();
    for (line, port) in &file.qemu.serial {
        let key = format!("qemu.serial.{line}");
        if *port >= machine.serial_ports {
            let last = machine.serial_ports - 1;
            document.complain(
                &key,
                format!("expected a port within 0..={last} of {}, found {port}", machine.name),
            );
        }
        if let Some(other) = taken.insert(*port, line) {
            document.complain(&key, format!("port {port} plays `{other}` already"));
        }
    }
}

fn network(document: &mut Document<'_>, file: &BoardFile, machine: &MachineType) {
    for (name, device) in &file.qemu.network {
        let fits = match device {
            NetworkDevice::VirtioNet | NetworkDevice::E1000e => machine.pci,
            // Every machine type that we know has USB.
            NetworkDevice::UsbNet => true,
        };
        if !fits {
            let message = format!("`{}` needs what {} has not: PCI", word(device), machine.name);
            let hint = format!("here fits `{}`", word(&NetworkDevice::UsbNet));
            document.complain_with_hint(&format!("qemu.network.{name}"), message, hint);
        }
    }
}

fn screen_and_keyboard(document: &mut Document<'_>, file: &BoardFile, machine: &MachineType) {
    let name = machine.name;
    // The machines without PCI are those that model a board, and have its frame buffer.
    match file.qemu.screen {
        Some(ScreenDevice::BuiltIn) if machine.pci => {
            let hint = "here fits `vga` or `virtio-gpu`";
            document.complain_with_hint(
                "qemu.screen",
                format!("{name} has no frame buffer of its own"),
                hint,
            );
        }
        Some(device @ (ScreenDevice::Vga | ScreenDevice::VirtioGpu)) if !machine.pci => {
            let message = format!("`{}` needs what {name} has not: PCI", word(&device));
            document.complain_with_hint("qemu.screen", message, "here fits `built-in`");
        }
        _ => {}
    }
    if file.keyboard == Some(KeyboardSocket::Ps2) && !machine.ps2 {
        document.complain_with_hint("keyboard", format!("{name} has no PS/2 socket"), "here fits `usb`");
    }
}

fn watchers(document: &mut Document<'_>, qemu: &QemuFile, machine: &MachineType) {
    let name = machine.name;
    if qemu.panic_device && !machine.pci {
        let message = format!("pvpanic needs what {name} has not: PCI");
        document.complain_with_hint("qemu.panic_device", message, "leave `panic_device` out");
    }
    if qemu.tpm.is_some() && !machine.pci {
        let message = format!("{name} has no place for a TPM");
        document.complain_with_hint("qemu.tpm", message, "leave `tpm` out");
    }
    match qemu.watchdog {
        Some(Watchdog::Itco) if name != "q35" => {
            let hint = if machine.pci { "here fits `i6300esb`" } else { "leave `watchdog` out" };
            document.complain_with_hint(
                "qemu.watchdog",
                format!("only q35 has `itco`, and this is {name}"),
                hint,
            );
        }
        Some(Watchdog::I6300esb) if !machine.pci => {
            let message = format!("`i6300esb` needs what {name} has not: PCI");
            document.complain_with_hint("qemu.watchdog", message, "leave `watchdog` out");
        }
        _ => {}
    }
}
