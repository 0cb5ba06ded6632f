//! The TOML of `machines/<slug>.toml`, key by key.
//!
//! These structs mirror the file and nothing else: [`super::check`] turns them into a [`super::Board`]. Their
//! doc comments are the help that editors show, through `machines/board.schema.json`. Every key may be missing
//! when these are read (`default`), so that one missing key does not hide the other complaints. The schema takes
//! no notice of that (`!default`): there a key may be left out if it has a `default` of its own or is an `Option`
//! that is not `required`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Arch, Attachment, BootSwitch, ByteSize, Facts, FidelityLevel, Firmware, FlashProcedure, InstallEnd,
    KeyboardSocket, MediumKind, NetworkDevice, ScreenConnector, ScreenDevice, StartsOn, Time, Tpm, Watchdog,
};

/// A board of standin: one real board, as a person would see it on the desk, and who plays it in QEMU.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct BoardFile {
    /// The name of this file without `.toml`, and of the balena device type: lower case, digits and `-`.
    #[schemars(required)]
    pub slug: Option<String>,
    /// What people call the board.
    #[schemars(required)]
    pub name: Option<String>,
    /// The architecture of its main processor.
    #[schemars(required)]
    pub arch: Option<Arch>,
    /// The media that its boot ROM or firmware tries, first to last.
    pub boot_order: Vec<String>,
    /// Its wired network interfaces, by name. Each needs a device under `[qemu.network]`.
    #[serde(default)]
    pub network: Vec<String>,
    /// The TCP ports on which its usual systems serve, such as 22222 for SSH on balenaOS; this host reaches them.
    #[serde(default)]
    #[schemars(inner(range(min = 1)))]
    pub ports: Vec<u16>,
    /// Its screen connector, if it has one. It needs `qemu.screen`.
    pub screen: Option<ScreenConnector>,
    /// The socket that a keyboard is plugged into, if it has one.
    pub keyboard: Option<KeyboardSocket>,
    /// Its lights, by name.
    #[serde(default)]
    pub leds: Vec<String>,
    /// Its radios.
    #[serde(default)]
    pub facts: Facts,
    /// Everything that can hold an operating system, by name. Each needs an attachment under `[qemu.attach]`.
    pub media: BTreeMap<String, MediumFile>,
    /// How an operating system gets onto it.
    pub flash: FlashFile,
    /// How it behaves when mains come and go.
    pub power: PowerFile,
    /// Its serial lines, by name; the first is the console. Each needs a port under `[qemu.serial]`.
    pub serial: BTreeMap<String, SerialFile>,
    /// How a shell is reached on the console; left out if no image of this board asks for a login.
    pub login: Option<LoginFile>,
    /// Who plays it in QEMU.
    pub qemu: QemuFile,
    /// What the stand-in mirrors of the real board, and what not.
    pub fidelity: FidelityFile,
}

/// Something that can hold an operating system.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct MediumFile {
    /// What it is on the real board.
    #[schemars(required)]
    pub kind: Option<MediumKind>,
    /// Whether a person, or an SD mux, can take it out.
    #[schemars(required)]
    pub removable: Option<bool>,
    /// Its capacity. An SD card that QEMU plays as one needs a power of two.
    #[schemars(required)]
    pub size: Option<ByteSize>,
}

/// How an operating system gets onto the board.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct FlashFile {
    /// The procedure of the field that it follows.
    #[schemars(required)]
    pub procedure: Option<FlashProcedure>,
    /// The medium that is written; one of `media`.
    #[schemars(required)]
    pub medium: Option<String>,
    /// What must be operated so that the board boots from that medium; left out if it does so by itself.
    pub switch: Option<BootSwitch>,
    /// The medium that an installer writes; may be left out if only one of `media` is not removable.
    pub installs_to: Option<String>,
    /// How an installer says that it is done; `power-off` if left out.
    pub install_ends: Option<InstallEnd>,
    /// How long an installer may take; `25min` if left out.
    pub install_deadline: Option<Time>,
}

/// How the board behaves when mains come and go.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct PowerFile {
    /// Whether it starts when mains come, or waits for its button.
    #[schemars(required)]
    pub starts_on: Option<StartsOn>,
    /// How long mains must stay away before the board has forgotten that it ran, at most `10min`.
    #[schemars(required)]
    pub rest: Option<Time>,
    /// How long the power button must be held to force the system off; left out if the board has no button.
    pub button_hold: Option<Time>,
}

/// One serial line.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct SerialFile {
    /// Its speed, as the board's firmware and operating system use it.
    #[schemars(required)]
    pub baud_rate: Option<u32>,
}

/// How a shell is reached on the console.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct LoginFile {
    /// The user to log in as, such as `root`.
    #[schemars(required)]
    pub user: Option<String>,
    /// The password, if one is asked for.
    pub password: Option<String>,
}

/// Who plays the board in QEMU.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct QemuFile {
    /// QEMU's machine type: `q35`, `pc`, `virt` or `raspi3b`.
    #[schemars(required)]
    pub machine: Option<String>,
    /// The CPU model under TCG; left out for `max`, or for a machine that has its own.
    pub cpu: Option<String>,
    /// How many processors; more than one is slower under TCG, not faster. 1 if left out, or what the machine
    /// has.
    #[schemars(range(min = 1))]
    pub cpus: Option<u8>,
    /// Its memory.
    #[schemars(required)]
    pub memory: Option<ByteSize>,
    /// What runs before the operating system.
    #[schemars(required)]
    pub firmware: Option<Firmware>,
    /// What plays the screen; with `screen` only.
    pub screen: Option<ScreenDevice>,
    /// Whether the machine has a pvpanic device, by which an operating system says that it panicked.
    #[serde(default)]
    pub panic_device: bool,
    /// The watchdog that the machine has beyond its built-in one.
    pub watchdog: Option<Watchdog>,
    /// The TPM that the machine has, which swtpm plays.
    pub tpm: Option<Tpm>,
    /// Which device each medium hangs on, by the medium's name.
    pub attach: BTreeMap<String, Attachment>,
    /// Which device plays each network interface, by the interface's name.
    #[serde(default)]
    pub network: BTreeMap<String, NetworkDevice>,
    /// Which of the machine's serial ports plays each serial line, by the line's name, from 0.
    pub serial: BTreeMap<String, u8>,
}

/// What the stand-in mirrors of the real board, in sentences for people.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(!default)]
pub struct FidelityFile {
    /// The whole in one word.
    #[schemars(required)]
    pub level: Option<FidelityLevel>,
    /// What is as on the real board, a sentence each.
    pub mirrored: Vec<String>,
    /// What is not, a sentence each.
    pub not_mirrored: Vec<String>,
}
