//! What a board is: media, switches, power, serial lines, sockets, screen, and who plays it in QEMU.
//!
//! A [`Board`] is made by [`check`] from a board file, or taken from the [`catalog`], and is valid from then on.
//! Everything here is plain data; nothing to clean up.

pub mod capability;
pub mod catalog;
pub mod check;
pub mod file;
pub mod machine_type;
pub mod quantity;

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use capability::Capability;
pub use catalog::Catalog;
pub use check::BoardFileError;
pub use quantity::{ByteSize, Percent, Time};

/// The name under which files and people know a unit variant, such as `usb-storage`.
///
/// # Panics
///
/// If `value` is not a unit variant of an enum.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a unit variant is a string, not {other:?}"),
    }
}

/// A kind of hardware, as one file in `machines/` describes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Board {
    /// The name of its file and of its balena device type: lower case, digits and `-`.
    pub slug: String,
    /// What people call it.
    pub name: String,
    /// The architecture of its main processor.
    pub arch: Arch,
    /// Radios and lights, as the device type's contract states them.
    pub facts: Facts,
    /// Everything that can hold an operating system, by name, in the order of the file.
    pub media: Vec<Medium>,
    /// The media that its boot ROM or firmware tries, first to last; never empty, each one of `media`.
    pub boot_order: Vec<String>,
    /// How an operating system gets onto it.
    pub flash: Flash,
    /// How it behaves when mains come and go.
    pub power: PowerBehaviour,
    /// Its serial lines; the first is the console.
    pub serial: Vec<SerialLine>,
    /// How a shell is reached on the console.
    pub login: Option<Login>,
    /// Its wired network interfaces.
    pub network: Vec<NetworkInterface>,
    /// The TCP ports on which its usual systems serve; none without a network interface.
    pub ports: Vec<u16>,
    /// Its screen connector, if it has one.
    pub screen: Option<Screen>,
    /// Whether keys can be typed on it: it has a USB or PS/2 socket for a keyboard.
    pub keyboard: Option<KeyboardSocket>,
    /// Its lights, by name.
    pub leds: Vec<String>,
    /// Who plays it in QEMU.
    pub qemu: StandIn,
    /// What the stand-in mirrors of it, and what not.
    pub fidelity: Fidelity,
}

impl Board {
    /// The medium called `name`.
    pub fn medium(&self, name: &str) -> Option<&Medium> {
        self.media.iter().find(|medium| medium.name == name)
    }

    /// Whether somebody can operate what makes it boot from its flash medium; the power of a USB port is a part of
    /// its own.
    pub fn has_boot_switch(&self) -> bool {
        self.flash.switch.is_some_and(|switch| switch != BootSwitch::UsbPower)
    }

    /// The medium that a flash writes.
    pub fn flash_medium(&self) -> &Medium {
        self.medium(&self.flash.medium).expect("check admits only boards whose flash medium exists")
    }
}

/// Processor architectures that we know to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit PC; balena calls it amd64.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm with hardware floating point; balena calls it armv7hf.
    Armv7,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Arch {
    /// The last word of QEMU's program name, as in `qemu-system-aarch64`; also what `uname -m` says, but for Armv7.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Armv7 => "arm",
            Self::Riscv64 => "riscv64",
        }
    }
}

/// Radios and lights, as the device type's contract states them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// It has a Wi-Fi radio.
    pub wifi: bool,
    /// It has a Bluetooth radio.
    pub bluetooth: bool,
}

/// Something that can hold an operating system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Medium {
    /// Its name in the board file, such as `sd` or `internal`.
    pub name: String,
    /// What it is on the real board.
    pub kind: MediumKind,
    /// Whether a person, or an SD mux, can take it out.
    pub removable: bool,
    /// Its capacity; a multiple of 512 bytes.
    pub size: ByteSize,
}

/// What a medium is on the real board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MediumKind {
    /// An SD card.
    Sd,
    /// A USB stick or disk.
    Usb,
    /// Soldered eMMC.
    Emmc,
    /// A SATA disk.
    Sata,
    /// An NVMe disk.
    Nvme,
    /// A disk that only exists in machines that were never real.
    Virtio,
}

/// How an operating system gets onto the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flash {
    /// The procedure of the field that it follows.
    pub procedure: FlashProcedure,
    /// The medium that is written; one of the board's media.
    pub medium: String,
    /// What must be operated so that the board boots its installer or shows its medium.
    pub switch: Option<BootSwitch>,
    /// What an installer does on it, if its procedure is [`FlashProcedure::Flasher`].
    pub installer: Option<Installer>,
}

/// What an installer on the flash medium does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installer {
    /// The medium that it writes; one of the board's media.
    pub medium: String,
    /// How it says that it is done.
    pub ends: InstallEnd,
    /// How long it may take.
    #[serde(serialize_with = "quantity::serialize_duration")]
    pub deadline: Duration,
}

/// How an installer says that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstallEnd {
    /// It has written another medium, and powers the board off.
    PowerOff,
    /// It has rewritten the medium that it runs from, and resets the board.
    Reset,
}

/// The flash procedures of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlashProcedure {
    /// Power off, card to the host, write, card back to the DUT.
    Sd,
    /// An installer on a removable medium writes the internal one; a plain image on it runs from there.
    Flasher,
    /// The boot ROM shows the board's medium as a USB disk, and the host writes it.
    UsbBoot,
    /// The board waits in recovery mode, and a tool of its vendor writes its medium over USB.
    Recovery,
}

impl FlashProcedure {
    /// Whether the medium stays in the board, and the host writes it through the USB boot port.
    pub fn goes_over_usb(self) -> bool {
        matches!(self, Self::UsbBoot | Self::Recovery)
    }
}

/// What is operated to make a board boot from its flash medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootSwitch {
    /// A button that is held while power comes.
    Button,
    /// A jumper or a switch that stays.
    Jumper,
    /// Keys typed into the firmware's boot menu.
    FirmwareMenu,
    /// The power of the USB boot port: while it is on, the board boots over USB.
    UsbPower,
}

/// How the board behaves when mains come and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PowerBehaviour {
    /// Whether it starts when mains come, or waits for its button.
    pub starts_on: StartsOn,
    /// How long mains must stay away before the board has forgotten that it ran (its capacitors' drain time).
    #[serde(serialize_with = "quantity::serialize_duration")]
    pub rest: Duration,
    /// How long the power button must be held to force the system off; `None` if the board has no button.
    #[serde(serialize_with = "quantity::serialize_optional_duration")]
    pub button_hold: Option<Duration>,
}

/// What makes a board start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartsOn {
    /// It starts as soon as mains are on.
    Mains,
    /// It waits until its button is pressed.
    Button,
}

/// One serial line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SerialLine {
    /// Its name, such as `console`.
    pub name: String,
    /// Its speed, as the board's firmware and operating system use it.
    pub baud_rate: u32,
    /// Which of QEMU's serial ports plays it; the machine's own order, from 0.
    pub qemu_port: u8,
}

/// How a shell is reached on the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// The user to log in as, such as `root`.
    pub user: String,
    /// The password, if one is asked for.
    pub password: Option<String>,
}

/// One wired network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its name on the board, such as `eth0`.
    pub name: String,
    /// Which QEMU device plays it.
    pub device: NetworkDevice,
}

/// QEMU devices that can play a wired network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkDevice {
    /// virtio over PCI.
    VirtioNet,
    /// Intel 82574L, what most Intel boards' drivers take.
    E1000e,
    /// RNDIS over USB, for boards whose own interface hangs on USB.
    UsbNet,
}

impl NetworkDevice {
    /// QEMU's name of the device.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::VirtioNet => "virtio-net-pci",
            Self::E1000e => "e1000e",
            Self::UsbNet => "usb-net",
        }
    }
}

/// A screen connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// What it is called on the real board.
    pub connector: ScreenConnector,
    /// What plays it in QEMU.
    pub device: ScreenDevice,
}

/// Screen connectors of real boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScreenConnector {
    /// HDMI in any size.
    Hdmi,
    /// DisplayPort.
    DisplayPort,
    /// VGA.
    Vga,
}

/// What plays the screen in QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScreenDevice {
    /// The standard PCI VGA card.
    Vga,
    /// virtio-gpu over PCI.
    VirtioGpu,
    /// The frame buffer that the machine has by itself.
    BuiltIn,
}

/// The socket that a keyboard is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyboardSocket {
    /// USB.
    Usb,
    /// PS/2, which every PC machine of QEMU has.
    Ps2,
}

/// Who plays the board in QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StandIn {
    /// QEMU's machine type, such as `q35` or `raspi3b`.
    pub machine: String,
    /// The CPU model under TCG; `None` means `max`, or the machine's own on boards with a fixed one.
    pub cpu: Option<String>,
    /// How many processors; more than one is slower under TCG, not faster.
    pub cpus: u8,
    /// Its memory.
    pub memory: ByteSize,
    /// What runs before the operating system.
    pub firmware: Firmware,
    /// Which device each medium hangs on, by the medium's name; every medium of the board has one.
    pub attach: BTreeMap<String, Attachment>,
    /// Whether the machine has a pvpanic device, by which an operating system says that it panicked. Real boards
    /// have none: it is there to tell a panic from a hang.
    pub panic_device: bool,
    /// The watchdog that the machine has beyond its built-in one.
    pub watchdog: Option<Watchdog>,
    /// Its TPM.
    pub tpm: Option<Tpm>,
}

/// What runs before the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS, which comes with QEMU.
    Bios,
    /// UEFI, found through QEMU's firmware descriptors.
    Uefi,
    /// U-Boot for QEMU's `virt` machine.
    UBoot,
    /// The boot ROM and GPU firmware of a Raspberry Pi 3, whose part standin itself plays at each power-on.
    #[serde(rename = "raspberry-pi-3")]
    RaspberryPi3,
    /// The boot ROM and firmware of a Raspberry Pi 4, whose part standin itself plays at each power-on.
    #[serde(rename = "raspberry-pi-4")]
    RaspberryPi4,
}

/// How a medium hangs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// A disk on the machine's AHCI controller.
    Sata,
    /// An NVMe controller with one namespace.
    Nvme,
    /// virtio-blk over PCI.
    VirtioBlk,
    /// A stick on an xHCI controller, or on the machine's own USB.
    UsbStorage,
    /// The machine's own SD controller. Its card's size must be a power of two.
    SdCard,
    /// An SD card behind an SDHCI controller on PCI; also plays eMMC. Its card's size must be a power of two.
    SdhciPci,
}

/// Watchdogs that can be added to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Watchdog {
    /// Intel 6300ESB, over PCI.
    I6300esb,
    /// The one in Intel's ICH9, which q35 has by itself; this lets it reset the machine.
    Itco,
}

/// Versions of the TPM specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tpm {
    /// 2.0, played by swtpm.
    #[serde(rename = "2.0")]
    V2,
}

/// What a stand-in mirrors of the real board, in sentences for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fidelity {
    /// The whole in one word.
    pub level: FidelityLevel,
    /// What is as on the real board.
    pub mirrored: Vec<String>,
    /// What is not.
    pub not_mirrored: Vec<String>,
}

/// How close the stand-in is to the real board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FidelityLevel {
    /// QEMU models this very board, or the board was never real.
    Board,
    /// The same processor architecture and firmware interface, on a generic machine.
    Platform,
    /// Only what can be seen and plugged from outside: media, switches, power, serial, network.
    Wiring,
}

impl FidelityLevel {
    /// What the word means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Board => "QEMU models this very board, or the board was never real",
            Self::Platform => "the same processor architecture and firmware interface, on a generic machine",
            Self::Wiring => "only what can be seen and plugged from outside",
        }
    }
}
