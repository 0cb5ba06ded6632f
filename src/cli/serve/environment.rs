//! leviathan-worker's environment variables, as another spelling of the options of `standin serve`.
//!
//! A variable that is empty counts as not set, as compose files pass empty ones on. What cannot be done is refused
//! by the variable's name, or said if the worker does all it can without it; `docs/worker.md` has the table.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::board::{Board, ByteSize};
use crate::cli::CliError;

/// The value of a variable, if it is set and not empty.
pub fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The option, or else the variable, or else the default.
pub fn or<T: FromStr<Err: Display>>(option: Option<T>, name: &str, default: T) -> Result<T, CliError> {
    Ok(match option {
        Some(option) => option,
        None => parsed(name)?.unwrap_or(default),
    })
}

/// The same for a number, which the variable must keep within `range`.
pub fn within(
    option: Option<u16>,
    name: &str,
    default: u16,
    range: RangeInclusive<u16>,
) -> Result<u16, CliError> {
    let number = or(option, name, default)?;
    if range.contains(&number) {
        return Ok(number);
    }
    Err(bad(name, &number.to_string(), format!("not within {} and {}", range.start(), range.end())))
}

/// The variable as a `T`.
pub fn parsed<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, CliError> {
    let Some(text) = text(name) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(bad(name, &text, error)),
    }
}

fn bad(name: &str, text: &str, why: impl Display) -> CliError {
    CliError::usage(format!("environment variable {name} is `{text}`: {why}"))
}

/// `1` and `true`, or `0` and `false`, whatever the case. leviathan-worker takes `0` for true in some of them.
fn switch(name: &str) -> Result<Option<bool>, CliError> {
    let Some(text) = text(name) else { return Ok(None) };
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(Some(true)),
        "0" | "false" => Ok(Some(false)),
        _ => Err(bad(name, &text, "neither `true` nor `false`")),
    }
}

/// Refuses what this worker is not, and what it cannot do.
pub fn check() -> Result<(), CliError> {
    if let Some(kind) = text("WORKER_TYPE") {
        match kind.as_str() {
            "qemu" => {}
            "autokit" => {
                let missing = "this version cannot drive real boards: it knows no relay, SD mux or other part of a bench";
                return Err(bad("WORKER_TYPE", &kind, missing).hint("`qemu` lends a stand-in"));
            }
            _ => return Err(bad("WORKER_TYPE", &kind, "no kind of worker that there is; `qemu` is")),
        }
    }
    if switch("QEMU_FORCE_RAID")? == Some(true) {
        return Err(bad(
            "QEMU_FORCE_RAID",
            "true",
            "a stand-in's disk cannot be made a RAID before it is flashed",
        ));
    }
    if switch("QEMU_SECUREBOOT")? == Some(true) {
        return Err(bad("QEMU_SECUREBOOT", "true", "a stand-in has no secure boot and no TPM yet"));
    }
    parsed::<u32>("BAUD_RATE")?;
    Ok(())
}

/// The board that is meant when none is named: leviathan-worker's own machine of that architecture.
pub fn default_board() -> Result<&'static str, CliError> {
    match text("QEMU_ARCH").as_deref() {
        None | Some("x86_64") => Ok("generic-amd64"),
        Some("aarch64") => Ok("generic-aarch64"),
        Some(other) => Err(bad("QEMU_ARCH", other, "neither `x86_64` nor `aarch64`")),
    }
}

/// Changes the stand-in as the variables say.
pub fn change(board: &mut Board) -> Result<(), CliError> {
    if let Some(architecture) = text("QEMU_ARCH")
        && architecture != board.arch.qemu_name()
    {
        let why = format!("{} has {}", board.slug, board.arch.qemu_name());
        return Err(bad("QEMU_ARCH", &architecture, why));
    }
    if let Some(cpus) = parsed::<u8>("QEMU_CPUS")? {
        if cpus == 0 {
            return Err(bad("QEMU_CPUS", "0", "a machine has at least 1"));
        }
        board.qemu.cpus = cpus;
    }
    if let Some(text) = text("QEMU_MEMORY") {
        board.qemu.memory =
            memory(&text).ok_or_else(|| bad("QEMU_MEMORY", &text, "no size such as `512M` or `4G`"))?;
    }
    let flashed = board.flash.medium.clone();
    if switch("QEMU_EXTERNAL_STORAGE")? == Some(false) && board.flash_medium().removable {
        let why = format!("{} is flashed by its medium `{flashed}`, which is the external one", board.slug);
        return Err(bad("QEMU_EXTERNAL_STORAGE", "false", why));
    }
    if switch("QEMU_INTERNAL_STORAGE")? == Some(false) {
        board.media.retain(|medium| medium.name == flashed);
        board.boot_order.retain(|medium| *medium == flashed);
        board.qemu.attach.retain(|medium, _| *medium == flashed);
    }
    Ok(())
}

/// As QEMU's `-m` takes it: MiB, unless a letter says otherwise.
fn memory(text: &str) -> Option<ByteSize> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    // QEMU's machines take whole MiB; 1 TiB is more than any host of a stand-in has.
    (1 << 20..=1 << 40).contains(&bytes).then_some(ByteSize(bytes))
}

/// What is set and makes no difference here, with the reason.
pub fn remarks(has_screen: bool) -> Vec<String> {
    let unused = [
        ("BALENA_API_KEY", "the contract's tags are not fetched; `--feature KEY=VALUE` names them"),
        ("BALENA_APP_LOCK_PATH", "no update lock is held"),
        ("QEMU_BRIDGE_NAME", BRIDGE),
        ("QEMU_BRIDGE_ADDRESS", BRIDGE),
        ("QEMU_DHCP_RANGE", BRIDGE),
        ("QEMU_VNC_PORT", VNC),
        ("QEMU_VNC_MIN_PORT", VNC),
        ("QEMU_VNC_MAX_PORT", VNC),
        ("SERIAL_PATH", "serial commands go to the stand-in's own console"),
    ];
    let is_set = |name: &str| text(name).is_some();
    let mut said: Vec<String> = unused
        .iter()
        .filter(|(name, _)| is_set(name))
        .map(|(name, why)| format!("{name} makes no difference: {why}"))
        .collect();
    if text("SCREEN_CAPTURE").as_deref() == Some("true") && !has_screen {
        said.push(
            "SCREEN_CAPTURE makes no difference: this stand-in has no screen that can be captured".to_owned(),
        );
    }
    said
}

const BRIDGE: &str = "there is no bridge; the DUT is reached on a loopback address";
const VNC: &str = "there is no VNC";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_qemu_reads_it() {
        let mib = |text| memory(text).map(|size| size.0 >> 20);
        assert_eq!([mib("512M"), mib("4G"), mib("1024"), mib("2048k")], [512, 4096, 1024, 2].map(Some));
        for nonsense in ["", "M", "0", "12X", "-1G", "4GiB", "99999999999G", "1.5G", "1K"] {
            assert_eq!(mib(nonsense), None, "{nonsense}");
        }
    }
}
