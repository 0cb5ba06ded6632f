//! The boot ROM's stage on real FAT images, whole and damaged.

use std::io::{Cursor, Write};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::*;
use crate::deadline::Deadline;
use crate::io::device_tree::tests::with_boot_arguments;
use crate::sys::child;

const PARTITION_AT: usize = 1 << 20;
const PARTITION_BYTES: usize = 4 << 20;

/// A card with an MBR whose first partition is a FAT with these files.
fn card(files: &[(&str, &[u8])]) -> Cursor<Vec<u8>> {
    let mut image = vec![0; PARTITION_AT];
    list_partition(&mut image, 0, 0x0c, PARTITION_AT, PARTITION_BYTES);
    image.extend(fat(files));
    Cursor::new(image)
}

fn list_partition(image: &mut [u8], index: usize, kind: u8, offset: usize, size: usize) {
    let entry = &mut image[446 + index * 16..][..16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&(offset as u32 / 512).to_le_bytes());
    entry[12..16].copy_from_slice(&(size as u32 / 512).to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn fat(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = Cursor::new(vec![0; PARTITION_BYTES]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new()).unwrap();
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
    for (name, content) in files {
        if let Some((folder, _)) = name.rsplit_once('/') {
            volume.root_dir().create_dir(folder).unwrap();
        }
        volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    }
    drop(volume);
    image.into_inner()
}

/// What was loaded, by content.
#[derive(Debug)]
struct Loaded {
    stage: BootStage,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    device_tree: Option<Vec<u8>>,
}

fn boot(model: Model, mut card: Cursor<Vec<u8>>) -> Result<Loaded, BootRomError> {
    let folder = tempfile::tempdir().unwrap();
    let before = card.clone();
    let stage = boot_stage(model, &mut card, folder.path())?;
    assert_eq!(card.get_ref(), before.get_ref(), "the card is only read");
    let read = |path: &PathBuf| fs::read(path).unwrap();
    Ok(Loaded {
        kernel: read(&stage.kernel),
        initrd: stage.initrd.as_ref().map(read),
        device_tree: stage.device_tree.as_ref().map(read),
        stage,
    })
}

fn no_boot(model: Model, card: Cursor<Vec<u8>>) -> NoBoot {
    match boot(model, card) {
        Err(BootRomError::NoBoot(reason)) => reason,
        other => panic!("expected a card that does not boot, found {other:?}"),
    }
}

#[test]
fn a_raspberry_pi_os_card_boots_with_everything_it_names() {
    let tree = with_boot_arguments("coherent_pool=1M 8250.nr_uarts=1");
    let config = "dtparam=audio=on\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d\narm_64bit=1\n[cm4]\notg_mode=1\n\
                  [pi4]\nkernel=other\n[all]\nenable_uart=1\n";
    let loaded = boot(
        Model::Pi3,
        card(&[
            ("bootcode.bin", b"x"),
            ("start.elf", b"x"),
            ("config.txt", config.as_bytes()),
            ("cmdline.txt", b"console=serial0,115200 root=PARTUUID=1-02 rootwait\n"),
            ("kernel8.img", b"KERNEL8"),
            ("kernel7.img", b"KERNEL7"),
            ("initramfs8", b"INITRAMFS8"),
            ("bcm2710-rpi-3-b.dtb", &tree),
        ]),
    )
    .unwrap();
    assert_eq!(loaded.kernel, b"KERNEL8");
    assert_eq!(loaded.initrd.as_deref(), Some(&b"INITRAMFS8"[..]));
    assert_eq!(loaded.device_tree, Some(tree));
    assert_eq!(
        loaded.stage.command_line,
        "coherent_pool=1M 8250.nr_uarts=1 console=ttyS0,115200 root=PARTUUID=1-02 rootwait"
    );
    assert_eq!(loaded.stage.primary_uart, PrimaryUart::MiniUart);
    assert_eq!(
        loaded.stage.notes,
        ["not applied to the device tree: dtparam=audio=on, dtoverlay=vc4-kms-v3d"]
    );
}

#[test]
fn named_files_prefixes_and_joined_ram_disks_are_followed() {
    let tree = with_boot_arguments("");
    let files: [(&str, &[u8]); 6] = [
        ("a/vmlinuz", b"KERNEL"),
        ("b/my.dtb", &tree),
        ("one", b"1"),
        ("two", b"2"),
        ("line.txt", b"quiet"),
        (
            "config.txt",
            b"arm_64bit=1\nos_prefix=a/\nkernel=vmlinuz\ninitramfs /one,/two followkernel\n\
                         device_tree=/b/my.dtb\ncmdline=/line.txt\nenable_uart=1",
        ),
    ];
    let loaded = boot(Model::Pi4, card(&files)).unwrap();
    assert_eq!(loaded.kernel, b"KERNEL");
    assert_eq!(loaded.initrd.as_deref(), Some(&b"12"[..]));
    assert_eq!(loaded.device_tree, Some(tree));
    assert_eq!(loaded.stage.command_line, "quiet");
    assert_eq!(loaded.stage.notes, ["a real board would not boot this card: it holds no `start4.elf`"]);
}

#[test]
fn a_prefix_without_its_files_is_ignored_and_upstream_names_are_preferred_when_asked_for() {
    let tree = with_boot_arguments("upstream");
    let files: [(&str, &[u8]); 4] = [
        ("kernel8.img", b"KERNEL"),
        ("bcm2837-rpi-3-b.dtb", &tree),
        ("bcm2710-rpi-3-b.dtb", b"not this one"),
        ("config.txt", b"arm_64bit=1\nos_prefix=gone/\nupstream_kernel=1"),
    ];
    let loaded = boot(Model::Pi3, card(&files)).unwrap();
    assert_eq!(loaded.device_tree, Some(tree));
    assert!(loaded.stage.notes.iter().any(|note| note.starts_with("os_prefix `gone/` is ignored")));
}

#[test]
fn autoboot_chooses_the_partition() {
    let mut image =
        card(&[("autoboot.txt", b"[all]\nboot_partition=2\n[tryboot]\nboot_partition=3")]).into_inner();
    list_partition(&mut image, 1, 0x0c, PARTITION_AT + PARTITION_BYTES, PARTITION_BYTES);
    image.extend(fat(&[("kernel8.img", b"SECOND")]));
    let loaded = boot(Model::Pi4, Cursor::new(image.clone())).unwrap();
    assert_eq!(loaded.kernel, b"SECOND");
    list_partition(&mut image, 1, 0, 0, 0);
    assert_eq!(no_boot(Model::Pi4, Cursor::new(image)), NoBoot::NoSuchPartition { number: 2 });
}

#[test]
fn the_first_fat_partition_with_anything_to_boot_is_taken() {
    let mut image = card(&[("readme.txt", b"nothing to boot")]).into_inner();
    list_partition(&mut image, 1, 0x83, 512, 512);
    list_partition(&mut image, 2, 0x0e, PARTITION_AT + PARTITION_BYTES, PARTITION_BYTES);
    image.extend(fat(&[("kernel8.img", b"THIRD")]));
    assert_eq!(boot(Model::Pi4, Cursor::new(image)).unwrap().kernel, b"THIRD");
}

#[test]
fn a_card_that_is_one_file_system_boots() {
    let bare = Cursor::new(fat(&[("kernel8.img", b"KERNEL")]));
    assert_eq!(boot(Model::Pi3, bare).unwrap().kernel, b"KERNEL");
}

#[test]
fn a_card_that_does_not_boot_says_exactly_why() {
    assert_eq!(no_boot(Model::Pi3, Cursor::new(vec![0; 1 << 20])), NoBoot::Blank);
    assert_eq!(no_boot(Model::Pi3, Cursor::new(Vec::new())), NoBoot::Blank);

    let mut linux_only = vec![0; 4096];
    list_partition(&mut linux_only, 0, 0x83, 512, 512);
    assert_eq!(no_boot(Model::Pi3, Cursor::new(linux_only)), NoBoot::NoFatPartition { partitions: 1 });

    let empty = no_boot(Model::Pi4, card(&[("config.txt", b"kernel=my.img")]));
    assert_eq!(empty.to_string(), "partition 1 holds no kernel `my.img`");
    assert_eq!(empty.flashes(), (0, 7));
    assert!(matches!(no_boot(Model::Pi4, card(&[("kernel8.img", b"")])), NoBoot::NoKernel { .. }));

    let mut wiped = card(&[("kernel8.img", b"KERNEL")]).into_inner();
    wiped[PARTITION_AT..PARTITION_AT + 512].fill(0);
    let reason = no_boot(Model::Pi4, Cursor::new(wiped));
    assert!(
        matches!(&reason, NoBoot::Unreadable { partition, .. } if partition == "partition 1"),
        "{reason:?}"
    );

    let mut torn = card(&[("kernel8.img", b"KERNEL")]).into_inner();
    torn.truncate(PARTITION_AT);
    assert!(matches!(no_boot(Model::Pi4, Cursor::new(torn)), NoBoot::Unreadable { .. }));
}

#[test]
fn the_mode_is_the_boards_default_unless_the_card_says_otherwise() {
    let both: [(&str, &[u8]); 2] = [("kernel7.img", b"7"), ("kernel8.img", b"8")];
    assert!(matches!(boot(Model::Pi3, card(&both)), Err(BootRomError::NotPlayed(_))));
    assert_eq!(boot(Model::Pi4, card(&both)).unwrap().kernel, b"8");
    assert_eq!(boot(Model::Pi2, card(&both)).unwrap().kernel, b"7");
    assert_eq!(boot(Model::Pi3, card(&both[1..])).unwrap().kernel, b"8");
    let named: [(&str, &[u8]); 2] = [("kernel8.img", b"8"), ("config.txt", b"kernel=kernel8.img")];
    assert_eq!(boot(Model::Pi3, card(&named)).unwrap().kernel, b"8");
    let off: [(&str, &[u8]); 3] =
        [("kernel7l.img", b"7"), ("kernel8.img", b"8"), ("config.txt", b"arm_64bit=0")];
    assert!(matches!(boot(Model::Pi4, card(&off)), Err(BootRomError::NotPlayed(_))));
    // The firmware does not try another kernel when the one it wants is not there.
    assert!(matches!(boot(Model::Pi4, card(&off[1..])), Err(BootRomError::NoBoot(NoBoot::NoKernel { .. }))));
}

#[test]
fn what_is_missing_beside_the_kernel_is_noted_and_the_kernel_starts() {
    let files: [(&str, &[u8]); 3] = [
        ("kernel8.img", b"\x7fELF"),
        ("bcm2711-rpi-4-b.dtb", b"not a device tree"),
        ("config.txt", b"initramfs gone followkernel\nenable_uart=1"),
    ];
    let loaded = boot(Model::Pi4, card(&files)).unwrap();
    assert_eq!((&loaded.initrd, &loaded.device_tree), (&None, &None));
    for expected in [
        "`kernel8.img` is an ELF",
        "RAM disk `gone` is not",
        "is no usable device tree",
        "`cmdline.txt` is not",
    ] {
        assert!(loaded.stage.notes.iter().any(|note| note.contains(expected)), "{expected}: {loaded:?}");
    }
}

/// Stores each letter into the PL011's data register, which is at 0x3f201000 on a BCM2837. It is a
/// flat image, as the firmware loads it.
fn kernel_that_says(text: &[u8]) -> Vec<u8> {
    let mut code = vec![0xd282_0000, 0xf2a7_e400]; // movz x0, #0x1000; movk x0, #0x3f20, lsl #16
    for letter in text {
        code.push(0x5280_0001 | u32::from(*letter) << 5); // movz w1, #letter
        code.push(0xb900_0001); // str w1, [x0]
    }
    code.push(0x1400_0000); // b .
    code.iter().flat_map(|instruction: &u32| instruction.to_le_bytes()).collect()
}

#[tokio::test]
async fn qemu_starts_what_the_stage_loaded() {
    let files: [(&str, &[u8]); 5] = [
        ("kernel8.img", &kernel_that_says(b"started\n")),
        ("initramfs8", b"any"),
        ("bcm2710-rpi-3-b.dtb", &with_boot_arguments("first")),
        ("config.txt", b"arm_64bit=1\nenable_uart=1\nauto_initramfs=1"),
        ("cmdline.txt", b"console=serial0"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let stage = boot_stage(Model::Pi3, &mut card(&files), folder.path()).unwrap();
    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args(["-M", "raspi3b", "-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&stage.kernel)
        .arg("-initrd")
        .arg(stage.initrd.unwrap())
        .arg("-dtb")
        .arg(stage.device_tree.unwrap())
        .args(["-append", &stage.command_line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = child::spawn(qemu, Vec::new()).await.expect("qemu-system-arm is installed");
    let mut said = [0; 7];
    let reading = child.stdout.as_mut().unwrap().read_exact(&mut said);
    Deadline::after(Duration::from_secs(20)).bound(reading).await.unwrap().unwrap();
    child::kill_and_wait(&mut child).await.unwrap();
    assert_eq!(&said, b"started");
}

#[test]
fn no_damage_to_a_card_is_more_than_an_answer() {
    let image = card(&[("config.txt", b"kernel=a\ninclude b"), ("a", &[7; 9000]), ("b", b"initramfs a 0")]);
    let folder = tempfile::tempdir().unwrap();
    let mut state = 7_u64; // xorshift64: the same damage in each run
    for _ in 0..300 {
        let mut damaged = image.clone();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (start, reach) =
                [(0, 512), (PARTITION_AT, 90), (PARTITION_AT, 20 << 10)][(state >> 60) as usize % 3];
            damaged.get_mut()[start + state as usize % reach] = (state >> 32) as u8;
        }
        let _ = boot_stage(Model::Pi4, &mut damaged, folder.path());
    }
}
