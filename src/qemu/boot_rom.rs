//! The stage that a Raspberry Pi's boot ROM and GPU firmware play, and QEMU does not.
//!
//! The real board's firmware reads `config.txt` from the card's boot partition and loads kernel, initial RAM disk
//! and device tree into memory. QEMU starts at the kernel, so [`boot_stage`] does that part: at each power-on
//! `device::power` hands it the card, and gives QEMU what it found. The copies lie in a folder of the caller's, who also
//! removes it. It blocks: call it where blocking is allowed.
//!
//! The rules are those of Raspberry Pi's documentation, <https://www.raspberrypi.com/documentation/computers/>:
//! `config_txt.html` (its chapters are named below), `raspberry-pi.html` and `configuration.html`. Where it is
//! silent, the source of the rule is named.

mod command_line;
mod names;
mod partition;

use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

pub use command_line::PrimaryUart;
use names::Names;
use partition::BootPartition;

use super::config_txt::{ConfigTxt, Filters};
use crate::io::device_tree;
use crate::io::fat::{FatError, FatVolume};

/// What the firmware loaded, ready for QEMU's `-kernel`, `-initrd`, `-dtb` and `-append`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootStage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The device tree, without overlays.
    pub device_tree: Option<PathBuf>,
    /// The kernel's command line, of at most [`MAX_COMMAND_LINE_BYTES`] and without control characters.
    pub command_line: String,
    /// The serial line that is on the board's GPIO 14 and 15: the console that a person would wire.
    pub primary_uart: PrimaryUart,
    /// What of the card is not played, and what is odd about it: sentences for the report.
    pub notes: Vec<String>,
}

/// Why there is nothing to start.
#[derive(Debug, thiserror::Error)]
pub enum BootRomError {
    /// The real board would not boot this card either: the DUT's fault.
    #[error("the card does not boot: {0}")]
    NoBoot(NoBoot),
    /// The real board may boot this card, but the stand-in cannot play it: the lab's limit.
    #[error("the stand-in cannot boot this card: {0}")]
    NotPlayed(String),
    /// The host cannot read the card's image.
    #[error("cannot read the card's image")]
    Image(#[source] io::Error),
    /// The host cannot keep what was loaded.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Why a real board stays at its rainbow, or blinks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBoot {
    /// Neither a partition table nor a FAT file system.
    #[error("it is blank: it has no partition table and no FAT file system")]
    Blank,
    /// The partition table cannot be trusted.
    #[error("{0}")]
    PartitionTable(String),
    /// There are partitions, but none that the boot ROM looks into.
    #[error("none of its {partitions} partitions is of a FAT type")]
    NoFatPartition {
        /// How many there are.
        partitions: usize,
    },
    /// `autoboot.txt` asks for a partition that is not there.
    #[error("autoboot.txt asks for partition {number}, which the card does not have")]
    NoSuchPartition {
        /// The partition's number.
        number: u32,
    },
    /// The boot partition cannot be read.
    #[error("{partition}: {reason}")]
    Unreadable {
        /// Which partition.
        partition: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The boot partition holds no kernel.
    #[error("{partition} holds no kernel `{kernel}`")]
    NoKernel {
        /// Which partition.
        partition: String,
        /// The file that was looked for.
        kernel: String,
    },
}

impl NoBoot {
    /// How the real board blinks then: long and short flashes of its activity light (LED warning flash codes).
    pub fn flashes(&self) -> (u8, u8) {
        match self {
            // Nothing found is "start*.elf not found": the firmware is what the boot ROM looks for first.
            Self::Blank | Self::PartitionTable(_) | Self::NoFatPartition { .. } => (0, 4),
            Self::NoSuchPartition { .. } => (2, 1),
            Self::Unreadable { .. } => (2, 2),
            Self::NoKernel { .. } => (0, 7),
        }
    }
}

/// The models that QEMU has machines for, and that are booted by this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Raspberry Pi 2 Model B.
    Pi2,
    /// Raspberry Pi 3 Model B.
    Pi3,
    /// Raspberry Pi 4 Model B.
    Pi4,
}

impl Model {
    /// The model that QEMU's machine type plays.
    pub fn of_machine(machine: &str) -> Option<Self> {
        match machine {
            "raspi2b" => Some(Self::Pi2),
            "raspi3b" => Some(Self::Pi3),
            "raspi4b" => Some(Self::Pi4),
            _ => None,
        }
    }

    /// Model Filters, and the types of new-style revision codes (raspberry-pi.html).
    fn filters(self) -> Filters {
        match self {
            Self::Pi2 => Filters { models: &["pi2"], board_type: 0x04 },
            Self::Pi3 => Filters { models: &["pi3"], board_type: 0x08 },
            Self::Pi4 => Filters { models: &["pi4"], board_type: 0x11 },
        }
    }

    /// The names of its device tree: Raspberry Pi's own, and upstream's (`upstream_kernel`).
    fn device_trees(self) -> (&'static str, &'static str) {
        match self {
            Self::Pi2 => ("bcm2709-rpi-2-b.dtb", "bcm2836-rpi-2-b.dtb"),
            Self::Pi3 => ("bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"),
            Self::Pi4 => ("bcm2711-rpi-4-b.dtb", "bcm2711-rpi-4-b.dtb"),
        }
    }

    /// The 32-bit kernel's default name (`kernel`).
    fn kernel_32bit(self) -> &'static str {
        match self {
            Self::Pi2 | Self::Pi3 => "kernel7.img",
            Self::Pi4 => "kernel7l.img",
        }
    }

    /// What the boot ROM and the first stage look for on the card (The boot folder).
    fn firmware_files(self) -> &'static [&'static str] {
        match self {
            Self::Pi2 | Self::Pi3 => &["bootcode.bin", "start.elf"],
            Self::Pi4 => &["start4.elf"],
        }
    }
}

/// What one kernel and its initial RAM disk may have together. QEMU's machines have 1 GiB, and QEMU ends with an
/// error when they do not fit, which would look like the lab's fault.
pub const MAX_LOADED_BYTES: u64 = 512 << 20;

/// Linux on 64-bit Arm takes no more (COMMAND_LINE_SIZE in arch/arm64/include/uapi/asm/setup.h).
pub const MAX_COMMAND_LINE_BYTES: usize = 2048;

const MAX_TEXT_BYTES: u64 = 256 << 10;
const MAX_DEVICE_TREE_BYTES: u64 = 2 << 20;

/// Plays the firmware of `model` with the card whose raw image is `card`, and copies what it loads into `folder`.
///
/// The card is only read. After an error, or when cut short, `folder` may hold part of the copies.
pub fn boot_stage<T: Read + Seek>(
    model: Model,
    card: &mut T,
    folder: &Path,
) -> Result<BootStage, BootRomError> {
    let boot = BootPartition::find(card)?;
    let mut notes = boot.notes;
    let volume = boot.volume;
    let partition = boot.name;
    let on_card = |error| fault(&partition, error);

    let config = match read_text(&volume, "config.txt").map_err(on_card)? {
        Some(text) => {
            let include = |name: &str| read_text(&volume, name).ok().flatten();
            ConfigTxt::read(&text, model.filters(), include)
        }
        None => ConfigTxt::default(), // "an optional text file" (What is config.txt)
    };
    notes.extend(config.notes.iter().cloned());
    note_unplayed(&config, &mut notes);
    note_missing_firmware(model, &volume, &mut notes).map_err(on_card)?;

    let names = Names::choose(model, &config, &volume).map_err(on_card)?;
    notes.extend(names.notes);
    if let Some(reason) = names.not_played {
        return Err(BootRomError::NotPlayed(reason));
    }

    let no_kernel = || {
        let (partition, kernel) = (partition.clone(), names.kernel.clone());
        BootRomError::NoBoot(NoBoot::NoKernel { partition, kernel })
    };
    let kernel = volume.read(&names.kernel, MAX_LOADED_BYTES).map_err(on_card)?.ok_or_else(no_kernel)?;
    if kernel.is_empty() {
        return Err(no_kernel());
    }
    if kernel.starts_with(b"\x7fELF") {
        notes.push(format!(
            "`{}` is an ELF file, which QEMU starts; the firmware expects a flat image",
            names.kernel
        ));
    }
    let initrd_limit = MAX_LOADED_BYTES - kernel.len() as u64;
    let initrd = load_initrd(&volume, &names.initramfs, initrd_limit, &mut notes).map_err(on_card)?;
    let device_tree = load_device_tree(&volume, names.device_tree.as_deref(), &mut notes).map_err(on_card)?;

    let command_line_file = volume.read(&names.command_line, MAX_TEXT_BYTES).map_err(on_card)?;
    if command_line_file.is_none() {
        notes.push(format!(
            "`{}` is not there: the kernel gets no command line of the card",
            names.command_line
        ));
    }
    let primary_uart = PrimaryUart::of(model, &config);
    let of_card = String::from_utf8_lossy(command_line_file.as_deref().unwrap_or_default()).into_owned();
    let of_device_tree = device_tree.as_deref().and_then(device_tree::boot_arguments).unwrap_or_default();
    let command_line = command_line::build(of_device_tree, &of_card, primary_uart, &config, &mut notes);

    let keep = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        match fs::write(&path, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(BootRomError::Write { path, source }),
        }
    };
    Ok(BootStage {
        kernel: keep("kernel", &kernel)?,
        initrd: initrd.map(|content| keep("initrd", &content)).transpose()?,
        device_tree: device_tree.map(|content| keep("device-tree.dtb", &content)).transpose()?,
        command_line,
        primary_uart,
        notes,
    })
}

/// Damage is the card's, and so are files too large for a real board; an unreadable image is the lab's.
fn fault(partition: &str, error: FatError) -> BootRomError {
    match error {
        FatError::Host(source) => BootRomError::Image(source),
        FatError::Damaged(reason) => {
            BootRomError::NoBoot(NoBoot::Unreadable { partition: partition.to_owned(), reason })
        }
        large @ FatError::TooLarge { .. } => BootRomError::NotPlayed(format!("{partition}: {large}")),
    }
}

fn read_text<T: Read + Seek>(volume: &FatVolume<T>, name: &str) -> Result<Option<String>, FatError> {
    let content = volume.read(name, MAX_TEXT_BYTES)?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// "All the loaded files are concatenated in memory and treated as a single ramfs blob" (ramfsfile).
fn load_initrd<T: Read + Seek>(
    volume: &FatVolume<T>,
    names: &[String],
    limit_bytes: u64,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, FatError> {
    let mut joined = Vec::new();
    for name in names {
        match volume.read(name, limit_bytes - joined.len() as u64)? {
            Some(content) => joined.extend(content),
            None => notes
                .push(format!("the initial RAM disk `{name}` is not there: the kernel starts without it")),
        }
    }
    Ok((!joined.is_empty()).then_some(joined))
}

fn load_device_tree<T: Read + Seek>(
    volume: &FatVolume<T>,
    name: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, FatError> {
    let Some(name) = name else { return Ok(None) };
    let content = volume.read(name, MAX_DEVICE_TREE_BYTES)?.unwrap_or_default();
    if device_tree::is_usable(&content) {
        return Ok(Some(content));
    }
    notes.push(format!("`{name}` is no usable device tree: the kernel gets none"));
    Ok(None)
}

fn note_unplayed(config: &ConfigTxt, notes: &mut Vec<String>) {
    if !config.overlays.is_empty() {
        notes.push(format!("not applied to the device tree: {}", config.overlays.join(", ")));
    }
    if !config.not_played.is_empty() {
        notes.push(format!("not played: {}", config.not_played.join(", ")));
    }
}

/// The firmware's own files are not needed here, as this module plays it; but a real board needs them.
fn note_missing_firmware<T: Read + Seek>(
    model: Model,
    volume: &FatVolume<T>,
    notes: &mut Vec<String>,
) -> Result<(), FatError> {
    for name in model.firmware_files() {
        if !volume.has_file(name)? {
            notes.push(format!("a real board would not boot this card: it holds no `{name}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
