//! From the text of a board file to a valid [`Board`], or to every complaint about it at once.
//!
//! [`crate::document`] finds what does not fit the file's form; here stand the rules that no form can say: that
//! names meet their counterparts and, in `player`, that QEMU's machine can play what the board has. Each rule is
//! one function that skips what is missing, as that has been complained about already. Pure; nothing to clean up.

mod flash;
mod player;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use super::file::BoardFile;
use super::machine_type::MachineType;
use super::{
    Board, Fidelity, Login, Medium, NetworkInterface, PowerBehaviour, Screen, SerialLine, StandIn, StartsOn,
    Time,
};
use crate::document::{Document, DocumentError, nearest, one_of};

/// Everything that is wrong with one board file; its text is what a person is shown.
pub type BoardFileError = DocumentError;

/// A longer drain would be a mistake in the unit: the longest that leviathan's Autokit knows is its `CAP_DELAY`
/// of 300 s for Jetsons.
const MOST_REST: Duration = Duration::from_secs(600);

/// Reads and checks the board file at `path`, of which `text` is the content.
pub fn board(path: &Path, text: &str) -> Result<Board, BoardFileError> {
    let name = path.display().to_string();
    let mut document = Document::parse(&name, text)?;
    let Some(file) = document.read::<BoardFile>() else {
        return Err(document.finish().expect_err("what cannot be read has been complained about"));
    };
    identity(&mut document, &file, path);
    media(&mut document, &file);
    flash::check(&mut document, &file);
    power(&mut document, &file);
    serial(&mut document, &file);
    parts_have_players(&mut document, &file);
    player::check(&mut document, &file);
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
    if document.has("media") && document.keys("media").is_empty() {
        let hint = "begin a table such as `[media.sd]`";
        document.complain_with_hint("media", "expected at least one medium", hint);
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
    if file.boot_order.is_empty() && document.has("boot_order") {
        document.complain("boot_order", "expected at least one medium, found an empty list");
    }
    for (index, name) in file.boot_order.iter().enumerate() {
        known_medium(document, &format!("boot_order[{index}]"), name);
        if file.boot_order[..index].contains(name) {
            document.complain(&format!("boot_order[{index}]"), format!("`{name}` stands here twice"));
        }
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

fn serial(document: &mut Document<'_>, file: &BoardFile) {
    if document.has("serial") && document.keys("serial").is_empty() {
        let hint = "begin a table such as `[serial.console]`";
        document.complain_with_hint("serial", "expected at least one line, for the console", hint);
    }
    for (name, line) in &file.serial {
        if line.baud_rate == Some(0) {
            let key = format!("serial.{name}.baud_rate");
            document.complain(&key, "expected a speed above zero, found 0");
        }
    }
}

/// Every medium, serial line, network interface and screen has a player, and every player has its part.
fn parts_have_players(document: &mut Document<'_>, file: &BoardFile) {
    for (index, name) in file.network.iter().enumerate() {
        if file.network[..index].contains(name) {
            document.complain(&format!("network[{index}]"), format!("`{name}` stands here twice"));
        }
    }
    let (media, serial) = (document.keys("media"), document.keys("serial"));
    paired(document, "medium", &media, "qemu.attach");
    paired(document, "serial line", &serial, "qemu.serial");
    paired(document, "network interface", &file.network, "qemu.network");
    for (index, port) in file.ports.iter().enumerate() {
        if file.ports[..index].contains(port) {
            document.complain(&format!("ports[{index}]"), format!("`{port}` stands here twice"));
        }
    }
    if !file.ports.is_empty() && file.network.is_empty() {
        document.complain("ports", "expected none, as there is no network interface under `network`");
    }
    match (file.screen, file.qemu.screen) {
        (Some(_), None) if !document.has("qemu.screen") => {
            document.complain("qemu.screen", "nothing plays `screen`");
        }
        (None, Some(_)) if !document.has("screen") => {
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

/// Complains unless there is such a medium.
fn known_medium(document: &mut Document<'_>, key: &str, name: &str) -> bool {
    // A medium that is there but wrong is no unknown one.
    let media = document.keys("media");
    if media.is_empty() || media.iter().any(|medium| medium == name) {
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
        flash: flash::build(flash, &file.media)?,
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
        ports: file.ports,
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
            tpm: qemu.tpm,
        },
        fidelity: Fidelity {
            level: fidelity.level?,
            mirrored: fidelity.mirrored,
            not_mirrored: fidelity.not_mirrored,
        },
    })
}
