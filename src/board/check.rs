//! From the text of a board file to a valid [`Board`], or to every complaint about it at once.
//!
//! [`crate::document`] finds what does not fit the file's form; here stand the rules that no form can say: that
//! names meet their counterparts, and that QEMU's machine can play what the board has. Each rule is one function
//! that skips what is missing, as that has been complained about already. Pure; nothing to clean up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::file::{BoardFile, QemuFile};
use super::machine_type::{self, Fixed, MachineType};
use super::{
    Attachment, Board, ByteSize, Fidelity, Firmware, Flash, FlashProcedure, KeyboardSocket, Login, Medium,
    MediumKind, NetworkDevice, NetworkInterface, PowerBehaviour, Screen, ScreenDevice, SerialLine, StandIn,
    StartsOn, Time, Watchdog, word,
};
use crate::document::{Document, DocumentError, nearest, one_of};

/// Everything that is wrong with one board file; its text is what a person is shown.
pub type BoardFileError = DocumentError;

/// A longer drain would be a mistake in the unit: the longest that leviathan's Autokit knows is its `CAP_DELAY`
/// of 300 s for Jetsons.
const MOST_REST: Duration = Duration::from_secs(600);

/// With less, AAVMF 2022.11 ends in a synchronous exception before it reaches its shell (tried: 96 MiB).
const LEAST_UEFI_MEMORY: ByteSize = ByteSize::mib(128);

/// Reads and checks the board file at `path`, of which `text` is the content.
pub fn board(path: &Path, text: &str) -> Result<Board, BoardFileError> {
    let name = path.display().to_string();
    let mut document = Document::parse(&name, text)?;
    let Some(file) = document.read::<BoardFile>() else {
        return Err(document.finish().expect_err("what cannot be read has been complained about"));
    };
    identity(&mut document, &file, path);
    media(&mut document, &file);
    flash(&mut document, &file);
    power(&mut document, &file);
    parts_have_players(&mut document, &file);
    if let Some(machine) = machine(&mut document, &file) {
        processor_and_memory(&mut document, &file.qemu, machine);
        firmware(&mut document, &file.qemu, machine);
        attachments(&mut document, &file, machine);
        serial_ports(&mut document, &file, machine);
        network(&mut document, &file, machine);
        screen_and_keyboard(&mut document, &file, machine);
        watchers(&mut document, &file.qemu, machine);
    }
    let board = build(&document, file);
    document.finish()?;
    Ok(board.expect("what the schema requires is there once nothing was complained about"))
}

fn identity(document: &mut Document<'_>, file: &BoardFile, path: &Path) {
    let Some(slug) = &file.slug else { return };
    if slug.is_empty() || !slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        document.complain("slug", format!("expected lower-case letters, digits and `-`, found `{slug}`"));
    } else if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
        && stem != slug
    {
        let message = format!("expected `{stem}`, as the file is called, found `{slug}`");
        document.complain_with_hint(
            "slug",
            message,
            format!("rename the file to `{slug}.toml`, or the slug"),
        );
    }
}

fn media(document: &mut Document<'_>, file: &BoardFile) {
    if file.media.is_empty() && !document.keys("media").is_empty() {
        return; // what is there has been complained about
    }
    if file.media.is_empty() {
        document.complain_with_hint(
            "media",
            "expected at least one medium",
            "begin a table such as `[media.sd]`",
        );
    }
    for (name, medium) in &file.media {
        if !is_part_name(name) {
            let message =
                format!("expected a name of lower-case letters, digits, `-` and `_`, found `{name}`");
            document.complain(&format!("media.{name}"), message);
        }
        if let Some(size) = medium.size
            && (size.0 == 0 || !size.0.is_multiple_of(512))
        {
            let message = format!("expected a multiple of the sector size, 512B, found `{size}`");
            document.complain(&format!("media.{name}.size"), message);
        }
    }
    if file.boot_order.is_empty() && document.keys("").iter().any(|key| key == "boot_order") {
        document.complain("boot_order", "expected at least one medium, found an empty list");
    }
    for (index, name) in file.boot_order.iter().enumerate() {
        known_medium(document, file, &format!("boot_order[{index}]"), name);
        if file.boot_order[..index].contains(name) {
            document.complain(&format!("boot_order[{index}]"), format!("`{name}` stands here twice"));
        }
    }
}

fn flash(document: &mut Document<'_>, file: &BoardFile) {
    let Some(name) = &file.flash.medium else { return };
    if !known_medium(document, file, "flash.medium", name) {
        return;
    }
    let Some(medium) = file.media.get(name) else { return };
    // A disk that was never real lies on the host anyway.
    if medium.removable == Some(false) && medium.kind.is_some_and(|kind| kind != MediumKind::Virtio) {
        document.complain_with_hint(
            "flash.medium",
            format!("expected a removable medium, found `{name}`, which nobody can take to the host"),
            "name the medium that carries the installer, with `procedure = \"flasher\"`",
        );
    }
    let has_internal = file.media.values().any(|medium| medium.removable != Some(true));
    if file.flash.procedure == Some(FlashProcedure::Flasher) && !has_internal {
        document.complain_with_hint(
            "flash.procedure",
            "`flasher` needs a medium that is not removable, to install to",
            "use `sd` if the flashed medium is the one that the board runs from",
        );
    }
    let earlier = file.boot_order.iter().take_while(|other| *other != name).last();
    if let (Some(earlier), None) = (earlier, file.flash.switch) {
        document.complain_with_hint(
            "flash.switch",
            format!(
                "expected what makes the board boot `{name}`, as `{earlier}` comes before it in boot_order"
            ),
            format!("put `{name}` first in `boot_order`, or say what is operated: {}", {
                use super::BootSwitch::{Button, FirmwareMenu, Jumper};
                one_of([word(&Button), word(&Jumper), word(&FirmwareMenu)].iter().map(String::as_str))
            }),
        );
    }
}

fn power(document: &mut Document<'_>, file: &BoardFile) {
    let power = &file.power;
    if let Some(rest) = power.rest
        && rest.0 > MOST_REST
    {
        document.complain("power.rest", format!("expected at most `{}`, found `{rest}`", Time(MOST_REST)));
    }
    if power.starts_on == Some(StartsOn::Button) && power.button_hold.is_none() {
        document.complain_with_hint(
            "power.starts_on",
            "`button` needs a button, and the board has none",
            "say in `power.button_hold` how long it must be held to force the system off",
        );
    }
    if power.button_hold == Some(Time(Duration::ZERO)) {
        document.complain_with_hint(
            "power.button_hold",
            "expected a time above zero, found `0s`",
            "leave `button_hold` out if the board has no button",
        );
    }
}

/// Every medium, serial line, network interface and screen has a player, and every player has its part.
fn parts_have_players(document: &mut Document<'_>, file: &BoardFile) {
    let serial = document.keys("serial");
    if serial.is_empty() && document.keys("").iter().any(|key| key == "serial") {
        let hint = "begin a table such as `[serial.console]`";
        document.complain_with_hint("serial", "expected at least one line, for the console", hint);
    }
    for (index, name) in file.network.iter().enumerate() {
        if file.network[..index].contains(name) {
            document.complain(&format!("network[{index}]"), format!("`{name}` stands here twice"));
        }
    }
    let media = document.keys("media");
    paired(document, "medium", &media, "qemu.attach");
    paired(document, "serial line", &serial, "qemu.serial");
    paired(document, "network interface", &file.network, "qemu.network");
    match (file.screen, file.qemu.screen) {
        (Some(_), None) if !document.keys("qemu").iter().any(|key| key == "screen") => {
            document.complain("qemu.screen", "nothing plays `screen`");
        }
        (None, Some(_)) if !document.keys("").iter().any(|key| key == "screen") => {
            document.complain_with_hint(
                "qemu.screen",
                "the board has no screen",
                "say which connector it has in `screen`",
            );
        }
        _ => {}
    }
}

fn paired(document: &mut Document<'_>, what: &str, parts: &[String], players: &str) {
    let played = document.keys(players);
    for name in parts.iter().filter(|name| !played.contains(name)) {
        document.complain(&format!("{players}.{name}"), format!("nothing plays the {what} `{name}`"));
    }
    for name in played.iter().filter(|name| !parts.contains(name)) {
        let key = format!("{players}.{name}");
        let message = format!("the board has no {what} called `{name}`");
        match nearest(name, parts.iter().map(String::as_str)) {
            Some(near) => {
                document.complain_with_hint(&key, message, format!("did you mean `{players}.{near}`?"))
            }
            None => document.complain(&key, message),
        }
    }
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
    for (line, serial) in &file.serial {
        if serial.baud_rate == Some(0) {
            document.complain(&format!("serial.{line}.baud_rate"), "expected a speed above zero, found 0");
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

/// Complains unless there is such a medium.
fn known_medium(document: &mut Document<'_>, file: &BoardFile, key: &str, name: &str) -> bool {
    // A medium that is there but wrong is no unknown one.
    let media = document.keys("media");
    if file.media.contains_key(name) || media.iter().any(|medium| medium == name) {
        return true;
    }
    let message = format!("expected {}, found `{name}`", one_of(media.iter().map(String::as_str)));
    match nearest(name, media.iter().map(String::as_str)) {
        Some(near) => document.complain_with_hint(key, message, format!("did you mean `{near}`?")),
        None => document.complain(key, message),
    }
    false
}

fn is_part_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// The board, if every required key is there. Names follow the order of the file.
fn build(document: &Document<'_>, file: BoardFile) -> Option<Board> {
    let BoardFile { qemu, fidelity, flash, power, .. } = file;
    let fixed = MachineType::named(qemu.machine.as_deref()?).and_then(|machine| machine.fixed);
    let medium = |name: String| {
        let medium = file.media.get(&name)?;
        Some(Medium { kind: medium.kind?, removable: medium.removable?, size: medium.size?, name })
    };
    let line = |name: String| {
        let (baud_rate, qemu_port) = (file.serial.get(&name)?.baud_rate?, *qemu.serial.get(&name)?);
        Some(SerialLine { name, baud_rate, qemu_port })
    };
    let interface =
        |name: &String| Some(NetworkInterface { name: name.clone(), device: *qemu.network.get(name)? });
    Some(Board {
        slug: file.slug?,
        name: file.name?,
        arch: file.arch?,
        facts: file.facts,
        media: document.keys("media").into_iter().map(medium).collect::<Option<_>>()?,
        boot_order: file.boot_order,
        flash: Flash { procedure: flash.procedure?, medium: flash.medium?, switch: flash.switch },
        power: PowerBehaviour {
            starts_on: power.starts_on?,
            rest: power.rest?.0,
            button_hold: power.button_hold.map(|hold| hold.0),
        },
        serial: document.keys("serial").into_iter().map(line).collect::<Option<_>>()?,
        login: match file.login {
            Some(login) => Some(Login { user: login.user?, password: login.password }),
            None => None,
        },
        network: file.network.iter().map(interface).collect::<Option<_>>()?,
        screen: match file.screen {
            Some(connector) => Some(Screen { connector, device: qemu.screen? }),
            None => None,
        },
        keyboard: file.keyboard,
        leds: file.leds,
        qemu: StandIn {
            machine: qemu.machine?,
            cpu: qemu.cpu,
            cpus: qemu.cpus.or(fixed.map(|fixed| fixed.cpus)).unwrap_or(1),
            memory: qemu.memory?,
            firmware: qemu.firmware?,
            attach: qemu.attach,
            panic_device: qemu.panic_device,
            watchdog: qemu.watchdog,
        },
        fidelity: Fidelity {
            level: fidelity.level?,
            mirrored: fidelity.mirrored,
            not_mirrored: fidelity.not_mirrored,
        },
    })
}

#[cfg(test)]
mod tests;
