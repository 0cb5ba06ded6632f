//! QEMU's argument vector for a board: a pure function, so that it can be printed, compared and run by hand.
//!
//! The machine gets `-nodefaults` and only what the board has. Descriptors are inherited under fixed numbers:
//! 3 is QMP, the serial lines follow in the board's order.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::firmware::FlashFormat;
use crate::board::machine_type::MachineType;
use crate::board::{
    Arch, Attachment, Board, Firmware, KeyboardSocket, NetworkDevice, ScreenDevice, Tpm, Watchdog,
};

/// Everything besides the board that decides how QEMU is started.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// Whether this QEMU can confine itself (`-sandbox`).
    pub sandbox: bool,
    /// What runs before the operating system, as files.
    pub firmware: FirmwareFiles,
    /// What plays each medium that is plugged in, by its name in the board file.
    pub media: Vec<(String, Disk)>,
    /// The medium that the board's boot switch puts before all others.
    pub boots_first: Option<String>,
    /// How this host reaches the DUT's TCP ports.
    pub reach: Reach,
}

/// How this host reaches the DUT's TCP ports: on a loopback address, under the DUT's own port numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The address, one of 127.0.0.0/8.
    pub address: Ipv4Addr,
    /// The DUT's ports.
    pub ports: Vec<u16>,
    /// The first port that we may listen on; for a lower one QEMU chooses another.
    pub first_free_port: u16,
}

impl Reach {
    /// No port at all.
    pub const NOTHING: Self = Self { address: Ipv4Addr::LOCALHOST, ports: Vec::new(), first_free_port: 0 };
}

/// What plays a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// A raw file.
    Raw(PathBuf),
    /// A layer in qcow2, which takes what the DUT writes, over a raw base that is never written.
    Layer {
        /// The layer.
        layer: PathBuf,
        /// The base.
        base: PathBuf,
    },
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Linux's hypervisor, only where a real boot has proved that it works.
    Kvm,
    /// QEMU's own translator: slow, and everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What runs before the operating system, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareFiles {
    /// The machine's own: SeaBIOS on a PC.
    BuiltIn,
    /// UEFI in two flash chips: its code, and this board's own copy of the variables.
    Uefi {
        /// The firmware, never written.
        code: PathBuf,
        /// The board's variables, written by the firmware.
        variables: PathBuf,
        /// The format of both.
        format: FlashFormat,
    },
    /// One image in place of the machine's own firmware, such as U-Boot.
    Image(PathBuf),
    /// A kernel that standin, playing the boot ROM, took from the board's medium.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// Its initial RAM file system.
        initrd: Option<PathBuf>,
        /// Its device tree; `None` means the machine's own.
        device_tree: Option<PathBuf>,
        /// Its command line.
        command_line: String,
    },
}

/// What QEMU may not do to itself: QEMU's manual, `-sandbox`.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The number under which QEMU inherits its end of QMP.
pub const QMP_FD: i32 = crate::sys::child::FIRST_INHERITED_FD;

/// QEMU's arguments, without the program itself.
pub fn arguments(board: &Board, launch: &Launch) -> Vec<String> {
    let mut args = Arguments::default();
    args.flag("-nodefaults").flag("-no-user-config").option("-display", "none");
    if launch.sandbox {
        args.option("-sandbox", SANDBOX);
    }
    args.option("-name", format!("standin-{}", board.slug));
    machine(&mut args, board, launch);
    firmware(&mut args, &launch.firmware);
    monitor(&mut args);
    serial_lines(&mut args, board);
    usb(&mut args, board);
    // U-Boot tries the first disk that it finds, and no other.
    let is_first = |name: &String| launch.boots_first.as_ref() == Some(name);
    let (first, others): (Vec<_>, Vec<_>) = launch.media.iter().partition(|(name, _)| is_first(name));
    for (name, disk) in first.into_iter().chain(others) {
        medium(&mut args, board, name, disk, boot_place(board, name, launch.boots_first.as_deref()));
    }
    for index in 0..board.network.len() {
        network(&mut args, board, index, &launch.reach);
    }
    screen_and_keys(&mut args, board);
    tpm(&mut args, board);
    watchers(&mut args, board);
    args.0
}

/// The name of the block node, and of the device, that plays a medium; events of QEMU carry it.
pub fn medium_of_node(node: &str) -> Option<&str> {
    node.strip_prefix(MEDIUM_PREFIX)
}

/// The medium that a device plays, by the id under which QEMU's events name it.
pub fn medium_of_device(device: &str) -> Option<&str> {
    medium_of_node(device.strip_suffix("-disk")?)
}

pub(super) const MEDIUM_PREFIX: &str = "medium-";

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }
}

fn machine(args: &mut Arguments, board: &Board, launch: &Launch) {
    let qemu = &board.qemu;
    let accelerator = match launch.accelerator {
        Accelerator::Tcg => TCG,
        Accelerator::Kvm => Accelerator::Kvm.name(),
    };
    args.option("-machine", &qemu.machine).option("-accel", accelerator);
    if let Some(model) = cpu_model(board, launch.accelerator) {
        args.option("-cpu", model);
    }
    args.option("-smp", qemu.cpus.to_string());
    args.option("-m", format!("{}M", qemu.memory.0 >> 20));
    // A guest that ends stays visible as a halted machine until we take its power; so QEMU's own end is never
    // the DUT's doing. A panic is reported, and what happens then is up to the guest, as on a real board.
    args.option("-action", "reboot=reset,shutdown=pause,panic=none,watchdog=reset");
}

/// TCG keeps translated code for as long as it has room, 1 GiB if left alone, also over a reset; and then each write to
/// a page of memory that code was translated from is slow. After a restart of Linux, firmware that clears the memory took
/// six times as long as at power-on (OVMF, QEMU 7.2: 3 s and 20 s), with 128 MiB about as long as at first.
const TCG: &str = "tcg,tb-size=128";

/// The CPU model for this accelerator; `None` leaves the machine its own.
///
/// Under KVM a PC takes the host's processor, whatever the file says for TCG.
pub fn cpu_model(board: &Board, accelerator: Accelerator) -> Option<&str> {
    match (accelerator, &board.qemu.cpu) {
        (Accelerator::Kvm, _) => Some("host"),
        (Accelerator::Tcg, Some(model)) => Some(model),
        // raspi and other boards have a fixed processor; on PCs `max` is everything that TCG can translate.
        (Accelerator::Tcg, None) => (board.arch == Arch::X86_64).then_some("max"),
    }
}

fn firmware(args: &mut Arguments, files: &FirmwareFiles) {
    match files {
        FirmwareFiles::BuiltIn => {}
        FirmwareFiles::Uefi { code, variables, format } => {
            let chip = |path: &Path, more: &str| {
                format!("if=pflash,format={},file={}{more}", format.qemu_name(), comma_safe(path))
            };
            args.option("-drive", chip(code, ",readonly=on"));
            args.option("-drive", chip(variables, ""));
        }
        FirmwareFiles::Image(path) => {
            args.option("-bios", path.display().to_string());
        }
        FirmwareFiles::Kernel { kernel, initrd, device_tree, command_line } => {
            args.option("-kernel", kernel.display().to_string());
            if let Some(initrd) = initrd {
                args.option("-initrd", initrd.display().to_string());
            }
            if let Some(device_tree) = device_tree {
                args.option("-dtb", device_tree.display().to_string());
            }
            args.option("-append", command_line);
        }
    }
}

fn monitor(args: &mut Arguments) {
    args.option("-chardev", format!("socket,id=qmp,fd={QMP_FD}"));
    args.option("-mon", "chardev=qmp,mode=control");
}

/// QEMU hands `-serial` options to the machine's ports in order, so unused ports before a used one need `none`.
fn serial_lines(args: &mut Arguments, board: &Board) {
    let ports = board.serial.iter().map(|line| line.qemu_port + 1).max().unwrap_or(0);
    for (index, line) in board.serial.iter().enumerate() {
        let fd = QMP_FD + 1 + i32::try_from(index).expect("a board has a handful of serial lines");
        args.option("-chardev", format!("socket,id=serial-{},fd={fd}", line.name));
    }
    for port in 0..ports {
        match board.serial.iter().find(|line| line.qemu_port == port) {
            Some(line) => args.option("-serial", format!("chardev:serial-{}", line.name)),
            None => args.option("-serial", "null"),
        };
    }
}

/// An xHCI controller where the machine has PCI and something hangs on USB.
fn usb(args: &mut Arguments, board: &Board) {
    let media = board.qemu.attach.values().any(|attachment| *attachment == Attachment::UsbStorage);
    let keyboard = board.keyboard == Some(KeyboardSocket::Usb);
    let network = board.network.iter().any(|interface| interface.device == NetworkDevice::UsbNet);
    if (media || keyboard || network) && has_pci(board) {
        args.option("-device", "qemu-xhci,id=usb");
    }
}

/// Whether the machine has PCI; one that has none, as a Raspberry Pi, has its USB built in.
fn has_pci(board: &Board) -> bool {
    MachineType::named(&board.qemu.machine).is_some_and(|machine| machine.pci)
}

fn medium(args: &mut Arguments, board: &Board, name: &str, disk: &Disk, boot_place: Option<usize>) {
    let node = format!("{MEDIUM_PREFIX}{name}");
    let attachment = board.qemu.attach.get(name).expect("check admits only boards that attach every medium");
    // A flush to this host's disk would only help if the host lost power: the file ends with the run. What a
    // power cut takes from the guest is decided elsewhere.
    let (driver, file, backing) = match disk {
        Disk::Raw(path) => ("raw", path, String::new()),
        Disk::Layer { layer, base } => {
            let base = comma_safe(base);
            let backing = format!(
                ",backing.driver=raw,backing.read-only=on,backing.file.driver=file,backing.file.filename={base}"
            );
            ("qcow2", layer, backing)
        }
    };
    let file = comma_safe(file);
    // A card has no volatile cache and its host no command to flush one. QEMU, which keeps the map of a layer in
    // memory until a flush, must therefore write it with each block, or a power cut would take more than a card loses.
    let card = |interface: &str| {
        format!(
            "if={interface},id={node},format={driver},cache.writeback=off,cache.no-flush=on,file={file}{backing}"
        )
    };
    match attachment {
        // The machine makes its own card and takes the first SD drive for it; `-device` cannot reach it.
        Attachment::SdCard => {
            args.option("-drive", card("sd"));
            return;
        }
        Attachment::SdhciPci => args.option("-drive", card("none")),
        _ => args.option(
            "-blockdev",
            format!(
                "driver={driver},node-name={node},cache.no-flush=on,discard=unmap,file.driver=file,file.filename={file}{backing}"
            ),
        ),
    };
    let boot = boot_place.map(|place| format!(",bootindex={place}")).unwrap_or_default();
    match attachment {
        Attachment::SdCard => unreachable!("handled above"),
        Attachment::Sata => args.option("-device", format!("ide-hd,id={node}-disk,drive={node}{boot}")),
        Attachment::Nvme => {
            args.option("-device", format!("nvme,id={node}-disk,serial=standin-{name},drive={node}{boot}"))
        }
        Attachment::VirtioBlk => {
            args.option("-device", format!("virtio-blk-pci,id={node}-disk,drive={node}{boot}"))
        }
        Attachment::UsbStorage => {
            args.option("-device", format!("usb-storage,id={node}-disk,removable=on,drive={node}{boot}"))
        }
        Attachment::SdhciPci => args
            .option("-device", format!("sdhci-pci,id={node}-slot"))
            .option("-device", format!("sd-card,id={node}-disk,drive={node}")),
    };
}

/// Only PC firmware and UEFI read QEMU's boot order; elsewhere the board's own stage chooses.
pub(super) fn boot_place(board: &Board, medium: &str, first: Option<&str>) -> Option<usize> {
    let place = match board.boot_order.iter().position(|name| name == medium) {
        _ if first == Some(medium) => Some(0),
        place => place.map(|place| place + usize::from(first.is_some())),
    };
    place.filter(|_| matches!(board.qemu.firmware, Firmware::Bios | Firmware::Uefi))
}

fn network(args: &mut Arguments, board: &Board, index: usize, reach: &Reach) {
    let interface = &board.network[index];
    let name = &interface.name;
    let mut back_end = format!("user,id={name}");
    if index == 0 {
        for port in &reach.ports {
            let here = if *port < reach.first_free_port { 0 } else { *port };
            back_end.push_str(&format!(",hostfwd=tcp:{}:{here}-:{port}", reach.address));
        }
    }
    args.option("-netdev", back_end);
    // Firmware that tries to boot from the network costs seconds and is not what boards do by default.
    let rom = if interface.device == NetworkDevice::UsbNet { "" } else { ",romfile=" };
    let mac = mac_address(&board.slug, index);
    args.option(
        "-device",
        format!("{},id={},netdev={name},mac={mac}{rom}", interface.device.qemu_name(), card(name)),
    );
}

/// QEMU's id of the device that plays a network interface.
pub fn card(interface: &str) -> String {
    format!("{interface}-card")
}

/// The same address for the same board and interface each time, as on real hardware, in QEMU's own range
/// 52:54:00.
fn mac_address(slug: &str, index: usize) -> String {
    // FNV-1a, by its published constants: any spread will do.
    let seed =
        slug.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [_, high, middle, low] = seed.wrapping_add(index as u32).to_be_bytes();
    format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}")
}

fn screen_and_keys(args: &mut Arguments, board: &Board) {
    match board.screen.as_ref().map(|screen| screen.device) {
        Some(ScreenDevice::Vga) => {
            args.option("-device", "VGA,id=screen");
        }
        Some(ScreenDevice::VirtioGpu) => {
            args.option("-device", "virtio-gpu-pci,id=screen");
        }
        Some(ScreenDevice::BuiltIn) | None => {}
    }
    if board.keyboard == Some(KeyboardSocket::Usb) {
        args.option("-device", "usb-kbd,id=keyboard");
    }
}

/// QEMU's end of the socket to swtpm comes after the serial lines.
fn tpm(args: &mut Arguments, board: &Board) {
    let Some(Tpm::V2) = board.qemu.tpm else { return };
    let fd = QMP_FD + 1 + i32::try_from(board.serial.len()).expect("a board has a handful of serial lines");
    args.option("-chardev", format!("socket,id=tpm-socket,fd={fd}"));
    args.option("-tpmdev", "emulator,id=tpm,chardev=tpm-socket");
    let device = if board.arch == Arch::X86_64 { "tpm-tis" } else { "tpm-tis-device" };
    args.option("-device", format!("{device},tpmdev=tpm"));
}

fn watchers(args: &mut Arguments, board: &Board) {
    if board.qemu.panic_device {
        args.option("-device", if board.arch == Arch::X86_64 { "pvpanic" } else { "pvpanic-pci" });
    }
    match board.qemu.watchdog {
        Some(Watchdog::I6300esb) => {
            args.option("-device", "i6300esb,id=watchdog");
        }
        // The chip is there; its strap says that it may not reset the machine unless this clears it.
        Some(Watchdog::Itco) => {
            args.option("-global", "ICH9-LPC.noreboot=false");
        }
        None => {}
    }
}

/// QEMU splits option values at commas; a doubled one stands for itself.
pub(super) fn comma_safe(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
