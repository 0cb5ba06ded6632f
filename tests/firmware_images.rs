//! The self-test image: what is committed fits its sources, and what is built boots.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use standin::io::selftest::SELFTEST_IMAGE;

#[test]
fn prebuilt_guest_is_that_of_the_sources() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-images");
    let guest = images.join("selftest");
    let mut sources: Vec<PathBuf> =
        ["Cargo.toml", "Cargo.lock", "build.rs", "image.ld"].iter().map(|name| guest.join(name)).collect();
    add_files_below(&guest.join("src"), &mut sources);

    // As `sha256sum` writes it; sorted by path, byte by byte, as `LC_ALL=C sort` does.
    let mut names: Vec<String> =
        sources.iter().map(|path| path.strip_prefix(&guest).expect("below").display().to_string()).collect();
    names.sort();
    let lines: String = names
        .iter()
        .map(|name| format!("{}  {name}\n", sha256(&fs::read(guest.join(name)).expect("readable"))))
        .collect();

    let recorded = fs::read_to_string(images.join("prebuilt/BOOTAA64.EFI.sources-sha256"))
        .expect("the digest lies beside the guest");
    assert_eq!(
        recorded.trim(),
        sha256(lines.as_bytes()),
        "firmware-images/prebuilt/BOOTAA64.EFI was made from other sources; run scripts/build-firmware-images"
    );
}

#[test]
fn a_guest_with_a_line_installs_itself_without_it() {
    let stick = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut image = SELFTEST_IMAGE.to_vec();
    image[544..][..13].copy_from_slice(b"install; halt"); // see firmware-images/README.md
    fs::write(stick.path(), image).expect("the image fits");
    let internal = tempfile::NamedTempFile::new().expect("a temporary file");
    internal.as_file().set_len(2 << 20).expect("a sparse file");

    let console = run(&[stick.path(), internal.path()], b"");
    assert!(console.contains("runs install; halt\r\ninstalled 1048576 bytes"), "{console}");
    let console = run(&[internal.path()], b"\r\rhalt\r");
    assert!(console.contains(&format!("image-sha256 {}", sha256(SELFTEST_IMAGE))), "{console}");
    assert!(!console.contains("runs "), "{console}");
}

#[test]
fn flashed_guest_tells_its_own_digest_and_obeys() {
    let disk = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(disk.path(), SELFTEST_IMAGE).expect("the image fits");
    disk.as_file().set_len(64 << 20).expect("a sparse file");

    let console = run(&[disk.path()], b"\r\rwrite 4096 64 word; check 4096 64 word; echo status $?\rhalt\r");
    let digest = sha256(SELFTEST_IMAGE);
    for line in [
        "standin selftest\r\narch x86_64\r\nfirmware bios\r\nmedium virtio\r\ndisk-bytes 67108864\r\n",
        &format!("image-bytes {}\r\nimage-sha256 {digest}\r\nready\r\n", SELFTEST_IMAGE.len()),
        "\r\nstatus 0\r\n",
    ] {
        assert!(console.contains(line), "{line:?} is not in:\n{console}");
    }
}

fn add_files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            add_files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// What a machine with these disks says until it powers off. The commands wait in QEMU until the guest takes them,
/// and the last one ends QEMU.
fn run(disks: &[&Path], commands: &[u8]) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["60", "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults"])
        .args(["-no-user-config", "-display", "none", "-serial", "stdio"]);
    for disk in disks {
        command.arg("-drive").arg(format!("if=virtio,format=raw,file={}", disk.display()));
    }
    let mut machine = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("timeout runs, see the package coreutils");
    machine.stdin.take().expect("piped").write_all(commands).expect("QEMU reads");
    let output = machine.wait_with_output().expect("it ends");
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "no QEMU (install qemu-system-x86), or it did not end:\n{console}");
    console
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
