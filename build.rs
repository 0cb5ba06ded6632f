//! Builds the self-test guest and lays it out as a disk image, for `src/io/selftest.rs`.
//!
//! The guest is a cargo workspace of its own in `firmware-images/selftest`, built by a cargo of
//! its own: it needs another panic strategy and another kind of link than this package. The image
//! is the same, byte by byte, wherever it is built. Its layout is told in
//! `firmware-images/README.md`.

use std::env;
use std::fs;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The guest's workspace, seen from this package.
const GUEST: &str = "firmware-images/selftest";
/// For x86-64 boards; their guest is built here, from the standard library every toolchain has.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// For aarch64 boards; made by `scripts/build-firmware-images`, checked by `tests/firmware_images.rs`.
const PREBUILT_AARCH64: &str = "firmware-images/prebuilt/BOOTAA64.EFI";
/// For the boot loader of a Raspberry Pi: a 64-bit kernel without a device tree, and a serial line.
const RASPBERRY_PI_CONFIG: &[u8] = b"arm_64bit=1\nkernel=kernel8.img\ndevice_tree=\nenable_uart=1\n";

fn main() -> Result<()> {
    let variable = |name: &str| env::var_os(name).with_context(|| format!("cargo sets {name}"));
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);

    println!("cargo:rerun-if-changed=build.rs");
    for path in ["src", "Cargo.toml", "Cargo.lock", "build.rs", "image.ld"] {
        println!("cargo:rerun-if-changed={GUEST}/{path}");
    }

    println!("cargo:rerun-if-changed={PREBUILT_AARCH64}");

    let guest = read(&build_guest(&package, &out, Path::new(&variable("CARGO")?))?)?;
    let aarch64 = read(&package.join(PREBUILT_AARCH64))?;
    let files = [
        ("EFI/BOOT/BOOTX64.EFI", &*guest),
        ("EFI/BOOT/BOOTAA64.EFI", &*aarch64),
        ("kernel8.img", &*aarch64), // it is a kernel, too
        ("config.txt", RASPBERRY_PI_CONFIG),
        ("cmdline.txt", b"selftest\n"),
    ];
    let image = DiskImage::assemble(&files, &guest)?;
    let path = out.join("selftest.img");
    fs::write(&path, image.bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Runs cargo for the guest and returns the file it linked.
fn build_guest(package: &Path, out: &Path, cargo: &Path) -> Result<PathBuf> {
    let target = out.join("selftest");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--locked", "--quiet", "--target", GUEST_TARGET])
        .arg("--manifest-path")
        .arg(package.join(GUEST).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_about_this_build) {
            command.env_remove(name);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", guest_flags(package).join("\u{1f}"));

    let output = command.output().with_context(|| format!("cannot run {}", cargo.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "cannot build the self-test guest ({}): {command:?}\n{said}\n\
             hint: if {GUEST_TARGET} is missing, run `rustup target add {GUEST_TARGET}`",
            output.status
        );
    }
    Ok(target.join(GUEST_TARGET).join("release/selftest"))
}

/// Whether a variable was set for this package's build and would change the guest's.
fn is_about_this_build(name: &str) -> bool {
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];
    (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
        || name.starts_with("RUSTFLAGS")
        || name.starts_with("RUSTC")
        || name.starts_with("CLIPPY_")
}

/// Flags that keep this machine's paths out of the guest's panic messages.
fn guest_flags(package: &Path) -> Vec<String> {
    let mut flags = vec![format!("--remap-path-prefix={}=", package.join(GUEST).display())];
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let registry = home.map(|home| home.join("registry/src"));
    let indexes = registry.and_then(|registry| fs::read_dir(registry).ok());
    for index in indexes.into_iter().flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=crates", index.path().display()));
    }
    flags
}

/// A disk: partition table and boot sector, header, the guest for a BIOS, and a FAT partition.
struct DiskImage {
    bytes: Vec<u8>,
}

impl DiskImage {
    const BYTES: usize = 1 << 20;
    const BLOCK: usize = 512;
    /// The header, from which the guest and the boot sector know where things are.
    const HEADER_BLOCK: usize = 1;
    const MAGIC: &[u8; 16] = b"standin selftest";
    /// The guest once more, in a row, for the boot sector.
    const GUEST_BLOCK: usize = 8;
    const PARTITION_BLOCK: usize = 512;
    /// Where the guest's file has the boot sector's code, and how much fits before the table.
    const BOOT_CODE_OFFSET: usize = 0x400;
    const BOOT_CODE_BYTES: usize = 440;
    /// The partition type of an EFI system partition (UEFI 2.10, section 5.2.2).
    const EFI_SYSTEM: u8 = 0xef;
    /// Fixed, so that two builds make the same image: "stdn" for the disk and for the volume.
    const SIGNATURE: u32 = 0x6e64_7473;

    fn assemble(files: &[(&str, &[u8])], bios_guest: &[u8]) -> Result<DiskImage> {
        let mut image = DiskImage { bytes: vec![0; DiskImage::BYTES] };
        image.write_partition_table(bios_guest);
        image.write_header(bios_guest)?;
        let partition = DiskImage::PARTITION_BLOCK * DiskImage::BLOCK;
        fill_partition(&mut image.bytes[partition..], files)
            .context("cannot fill the FAT partition of the self-test image")?;
        Ok(image)
    }

    fn write_partition_table(&mut self, guest: &[u8]) {
        let code = &guest[DiskImage::BOOT_CODE_OFFSET..][..DiskImage::BOOT_CODE_BYTES];
        self.put(0, code);
        self.put(440, &DiskImage::SIGNATURE.to_le_bytes());
        let first = DiskImage::PARTITION_BLOCK as u32;
        let count = (DiskImage::BYTES / DiskImage::BLOCK) as u32 - first;
        // Not active, no cylinders and heads: 0xfeffff means "see the block numbers".
        let mut entry = vec![0x00, 0xfe, 0xff, 0xff, DiskImage::EFI_SYSTEM, 0xfe, 0xff, 0xff];
        entry.extend(first.to_le_bytes());
        entry.extend(count.to_le_bytes());
        self.put(446, &entry);
        self.put(510, &[0x55, 0xaa]);
    }

    fn write_header(&mut self, guest: &[u8]) -> Result<()> {
        let room = (DiskImage::PARTITION_BLOCK - DiskImage::GUEST_BLOCK) * DiskImage::BLOCK;
        ensure!(guest.len() <= room, "the guest has {} bytes, there is room for {room}", guest.len());
        let mut header = DiskImage::MAGIC.to_vec();
        header.extend((DiskImage::BYTES as u64).to_le_bytes());
        header.extend((DiskImage::GUEST_BLOCK as u32).to_le_bytes());
        header.extend((guest.len().div_ceil(DiskImage::BLOCK) as u32).to_le_bytes());
        self.put(DiskImage::HEADER_BLOCK * DiskImage::BLOCK, &header);
        self.put(DiskImage::GUEST_BLOCK * DiskImage::BLOCK, guest);
        Ok(())
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// Makes a FAT volume with these files and their directories.
fn fill_partition(partition: &mut [u8], files: &[(&str, &[u8])]) -> io::Result<()> {
    let options =
        fatfs::FormatVolumeOptions::new().volume_id(DiskImage::SIGNATURE).volume_label(*b"STANDIN    ");
    fatfs::format_volume(Cursor::new(&mut *partition), options)?;
    // Without the `chrono` feature every time is FAT's first: the image tells no date.
    let volume = fatfs::FileSystem::new(Cursor::new(partition), fatfs::FsOptions::new())?;
    let root = volume.root_dir();
    for (path, contents) in files {
        for (end, _) in path.match_indices('/') {
            root.create_dir(&path[..end])?; // opens it if it is there
        }
        root.create_file(path)?.write_all(contents)?;
    }
    drop(root);
    volume.unmount()
}
