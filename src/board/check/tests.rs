//! Every rule of [`super`], each by an edit of a built-in board that breaks it and nothing else.

use super::*;
use crate::board::catalog::BUILT_IN;
use crate::document::Complaint;

/// A text of a file, and what it becomes.
type Edit = (&'static str, &'static str);

/// Path and text of the built-in board `slug` once each `from` has become `to`.
fn edited(slug: &str, edits: &[Edit]) -> (String, String) {
    let path = format!("machines/{slug}.toml");
    let (_, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == path).unwrap();
    let text = edits.iter().fold((*text).to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{path} does not say {from}");
        text.replacen(from, to, 1)
    });
    (path, text)
}

/// What is wrong with an edited board, as `key: message | hint`.
fn complaints(slug: &str, edits: &[Edit]) -> Vec<String> {
    let (path, text) = edited(slug, edits);
    let complaints = board(Path::new(&path), &text).err().map_or_else(Vec::new, |error| error.complaints);
    let told = |complaint: Complaint| {
        let hint = complaint.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
        format!("{}: {}{hint}", complaint.key, complaint.message)
    };
    complaints.into_iter().map(told).collect()
}

#[test]
fn an_edit_that_breaks_no_rule_is_not_complained_about() {
    for (slug, from, to) in [
        ("pc-seabios", "machine = \"q35\"", "machine = \"pc-q35-7.2\""),
        ("pc-seabios", "machine = \"q35\"", "machine = \"pc\""),
        ("pc-seabios", "panic_device = true", "panic_device = true\nwatchdog = \"i6300esb\""),
        ("pc-seabios", "rest = \"0s\"", "rest = \"10min\""),
        ("pc-seabios", "starts_on = \"mains\"", "starts_on = \"button\""),
        ("raspberrypi3-64", "cpus = 4", ""),
        ("raspberrypi4-64", "sd = \"virtio-blk\"", "sd = \"sdhci-pci\""),
        ("raspberrypi4-64", "firmware = \"raspberry-pi-4\"", "firmware = \"u-boot\""),
        ("generic-amd64", "usb = \"usb-storage\"", "usb = \"virtio-blk\""),
        ("intel-nuc", "boot_order = [\"usb\", \"internal\"]", "boot_order = [\"usb\"]"),
    ] {
        assert_eq!(complaints(slug, &[(from, to)]), [""; 0], "{slug}: {to}");
    }
}

#[test]
fn every_broken_rule_is_complained_about_and_nothing_else() {
    let rules: [(&str, &[Edit], &str); 56] = [
        (
            "pc-seabios",
            &[("slug = \"pc-seabios\"", "slug = \"PC\"")],
            "slug: expected lower-case letters, digits and `-`, found `PC`",
        ),
        (
            "pc-seabios",
            &[("slug = \"pc-seabios\"", "slug = \"pc\"")],
            "slug: expected `pc-seabios`, as the file is called, found `pc` | rename the file to `pc.toml`, or the slug",
        ),
        (
            "pc-seabios",
            &[
                ("[media.disk]\nkind = \"virtio\"\nremovable = false\nsize = \"256MiB\"", "[media]"),
                ("disk = \"virtio-blk\"", ""),
            ],
            "media: expected at least one medium | begin a table such as `[media.sd]`",
        ),
        (
            "pc-seabios",
            &[("boot_order = [\"disk\"]", "boot_order = []")],
            "boot_order: expected at least one medium, found an empty list",
        ),
        (
            "pc-seabios",
            &[("boot_order = [\"disk\"]", "boot_order = [\"disk\", \"dsik\"]")],
            "boot_order[1]: expected `disk`, found `dsik` | did you mean `disk`?",
        ),
        (
            "pc-seabios",
            &[("boot_order = [\"disk\"]", "boot_order = [\"disk\", \"disk\"]")],
            "boot_order[1]: `disk` stands here twice",
        ),
        (
            "pc-seabios",
            &[("size = \"256MiB\"", "size = \"1000B\"")],
            "media.disk.size: expected a multiple of the sector size, 512B, found `1000B`",
        ),
        (
            "pc-seabios",
            &[("medium = \"disk\"", "medium = \"sd\"")],
            "flash.medium: expected `disk`, found `sd`",
        ),
        (
            "pc-seabios",
            &[("procedure = \"sd\"", "procedure = \"flasher\""), ("removable = false", "removable = true")],
            "flash.procedure: `flasher` needs a medium that is not removable, to install to | use `sd` if the flashed \
             medium is the one that the board runs from",
        ),
        (
            "raspberrypi3-64",
            &[("removable = true", "removable = false")],
            "flash.medium: expected a removable medium, found `sd`, which nobody can take to the host | name the \
             medium that carries the installer, with `procedure = \"flasher\"`",
        ),
        (
            "beaglebone-black",
            &[("switch = \"button\"", "")],
            "flash.switch: expected what makes the board boot `sd`, as `internal` comes before it in boot_order | put \
             `sd` first in `boot_order`, or say what is operated: `button`, `jumper` or `firmware-menu`",
        ),
        (
            "intel-nuc",
            &[("medium = \"usb\"", "medium = \"usb\"\ninstalls_to = \"intern\"")],
            "flash.installs_to: expected `usb` or `internal`, found `intern` | did you mean `internal`?",
        ),
        (
            "intel-nuc",
            &[("medium = \"usb\"", "medium = \"usb\"\ninstalls_to = \"usb\"")],
            "flash.installs_to: `usb` does not go with `install_ends = \"power-off\"` | an installer that resets \
             rewrites the medium it runs from, one that powers off another one",
        ),
        (
            "intel-nuc",
            &[("medium = \"usb\"", "medium = \"usb\"\ninstalls_to = \"internal\"\ninstall_ends = \"reset\"")],
            "flash.installs_to: `internal` does not go with `install_ends = \"reset\"` | an installer that resets \
             rewrites the medium it runs from, one that powers off another one",
        ),
        (
            "intel-nuc",
            &[("medium = \"usb\"", "medium = \"usb\"\ninstall_deadline = \"0s\"")],
            "flash.install_deadline: expected more than no time at all, found `0s`",
        ),
        (
            "raspberrypi3-64",
            &[("medium = \"sd\"", "medium = \"sd\"\ninstall_deadline = \"5min\"")],
            "flash.install_deadline: only an installer has it | it goes with `procedure = \"flasher\"`",
        ),
        (
            "intel-nuc",
            &[
                (
                    "[media.internal]",
                    "[media.second]\nkind = \"sata\"\nremovable = false\nsize = \"8GiB\"\n\n[media.internal]",
                ),
                ("internal = \"sata\"", "internal = \"sata\"\nsecond = \"sata\""),
            ],
            "flash.installs_to: expected the medium that an installer writes: `internal` or `second`",
        ),
        (
            "raspberrypi3-64",
            &[("machine = \"raspi3b\"", "machine = \"raspi3b\"\ntpm = \"2.0\"")],
            "qemu.tpm: raspi3b has no place for a TPM | leave `tpm` out",
        ),
        (
            "raspberrypicm4-ioboard",
            &[("switch = \"jumper\"", "")],
            "flash.switch: expected what makes the board wait for `usb-boot`, one of `button`, `jumper` or `usb-power`, \
             found none",
        ),
        (
            "jetson-xavier",
            &[("switch = \"jumper\"", "switch = \"firmware-menu\"")],
            "flash.switch: expected what makes the board wait for `recovery`, one of `button`, `jumper` or `usb-power`, \
             found `firmware-menu`",
        ),
        (
            "beaglebone-black",
            &[("switch = \"button\"", "switch = \"usb-power\"")],
            "flash.switch: `usb-power` makes a board show its medium over USB, and this one is flashed otherwise | it \
             goes with `usb-boot` or `recovery`",
        ),
        (
            "pc-seabios",
            &[("rest = \"0s\"", "rest = \"11min\"")],
            "power.rest: expected at most `10min`, found `11min`",
        ),
        (
            "raspberrypi3-64",
            &[("starts_on = \"mains\"", "starts_on = \"button\"")],
            "power.starts_on: `button` needs a button, and the board has none | say in `power.button_hold` how long \
             it must be held to force the system off",
        ),
        (
            "pc-seabios",
            &[("button_hold = \"4s\"", "button_hold = \"0s\"")],
            "power.button_hold: expected a time above zero, found `0s` | leave `button_hold` out if the board has no \
             button",
        ),
        (
            "pc-seabios",
            &[("[serial.console]\nbaud_rate = 115200", "[serial]"), ("console = 0", "")],
            "serial: expected at least one line, for the console | begin a table such as `[serial.console]`",
        ),
        (
            "pc-seabios",
            &[("baud_rate = 115200", "baud_rate = 0")],
            "serial.console.baud_rate: expected a speed above zero, found 0",
        ),
        (
            "pc-seabios",
            &[("console = 0", "console = 4")],
            "qemu.serial.console: expected a port within 0..=3 of q35, found 4",
        ),
        (
            "generic-aarch64",
            &[("console = 0", "console = 1")],
            "qemu.serial.console: expected a port within 0..=0 of virt, found 1",
        ),
        (
            "pc-seabios",
            &[
                ("[serial.console]", "[serial.modem]\nbaud_rate = 9600\n[serial.console]"),
                ("console = 0", "console = 0\nmodem = 0"),
            ],
            "qemu.serial.modem: port 0 plays `console` already",
        ),
        (
            "pc-seabios",
            &[("console = 0", "")],
            "qemu.serial.console: nothing plays the serial line `console`",
        ),
        (
            "pc-seabios",
            &[("network = [\"eth0\"]", "network = [\"eth0\", \"eth0\"]")],
            "network[1]: `eth0` stands here twice",
        ),
        (
            "pc-seabios",
            &[("network = [\"eth0\"]", "network = [\"eth0\"]\nports = [22, 22]")],
            "ports[1]: `22` stands here twice",
        ),
        (
            "pc-seabios",
            &[("network = [\"eth0\"]", "ports = [22]"), ("eth0 = \"virtio-net\"", "")],
            "ports: expected none, as there is no network interface under `network`",
        ),
        (
            "pc-seabios",
            &[("eth0 = \"virtio-net\"", "")],
            "qemu.network.eth0: nothing plays the network interface `eth0`",
        ),
        (
            "raspberrypi3-64",
            &[("eth0 = \"usb-net\"", "eth0 = \"e1000e\"")],
            "qemu.network.eth0: `e1000e` needs what raspi3b has not: PCI | here fits `usb-net`",
        ),
        (
            "pc-seabios",
            &[("disk = \"virtio-blk\"", "disk = \"virtio-blk\"\ndisc = \"sata\"")],
            "qemu.attach.disc: the board has no medium called `disc` | did you mean `qemu.attach.disk`?",
        ),
        (
            "pc-seabios",
            &[("disk = \"virtio-blk\"", "disk = \"nvme\"")],
            "qemu.attach.disk: `nvme` cannot play a medium of kind `virtio` | here fits `virtio-blk`",
        ),
        (
            "generic-amd64",
            &[("machine = \"q35\"", "machine = \"pc\"")],
            "qemu.attach.internal: `sata` needs what pc has not: AHCI controller | here fits `virtio-blk`",
        ),
        (
            "raspberrypi4-64",
            &[("sd = \"virtio-blk\"", "sd = \"sd-card\"")],
            "qemu.attach.sd: `sd-card` needs what virt has not: SD controller | here fits `virtio-blk`, \
             `usb-storage` or `sdhci-pci`",
        ),
        (
            "raspberrypi3-64",
            &[("sd = \"sd-card\"", "sd = \"virtio-blk\"")],
            "qemu.attach.sd: `virtio-blk` needs what raspi3b has not: PCI | here fits `usb-storage` or `sd-card`",
        ),
        (
            "raspberrypi3-64",
            &[("size = \"4GiB\"", "size = \"3GiB\"")],
            "media.sd.size: expected a power of two, as QEMU's SD cards have no other size, found `3GiB` | the next \
             one is `4GiB`",
        ),
        (
            "pc-seabios",
            &[("machine = \"q35\"", "machine = \"q53\"")],
            "qemu.machine: expected `q35`, `pc`, `virt` or `raspi3b`, found `q53` | did you \
             mean `q35`?",
        ),
        (
            "pc-seabios",
            &[("arch = \"x86_64\"", "arch = \"aarch64\"")],
            "qemu.machine: `q35` is no machine of aarch64 | its machines are `virt` or `raspi3b`",
        ),
        // Nothing plays their boot ROMs.
        (
            "raspberrypi3-64",
            &[("machine = \"raspi3b\"", "machine = \"raspi3ap\"")],
            "qemu.machine: expected `q35`, `pc`, `virt` or `raspi3b`, found `raspi3ap` | did you mean `raspi3b`?",
        ),
        (
            "raspberrypi3-64",
            &[("machine = \"raspi3b\"", "machine = \"raspi2b\"")],
            "qemu.machine: expected `q35`, `pc`, `virt` or `raspi3b`, found `raspi2b` | did you mean `raspi3b`?",
        ),
        (
            "raspberrypi3-64",
            &[("memory = \"1GiB\"", "memory = \"2GiB\"")],
            "qemu.memory: expected `1GiB`, as raspi3b has no other, found `2GiB`",
        ),
        (
            "raspberrypi3-64",
            &[("cpus = 4", "cpus = 1")],
            "qemu.cpus: expected 4, as raspi3b has no other, found 1",
        ),
        (
            "raspberrypi3-64",
            &[("cpus = 4", "cpu = \"max\"")],
            "qemu.cpu: expected none, as raspi3b has its own, found `max` | leave `cpu` out",
        ),
        (
            "pc-seabios",
            &[("firmware = \"bios\"", "firmware = \"u-boot\"")],
            "qemu.firmware: expected `bios` or `uefi` on q35, found `u-boot`",
        ),
        (
            "generic-aarch64",
            &[("memory = \"1GiB\"", "memory = \"64MiB\"")],
            "qemu.memory: expected at least `128MiB` for UEFI, found `64MiB`",
        ),
        (
            "intel-nuc",
            &[("screen = \"vga\"", "screen = \"built-in\"")],
            "qemu.screen: q35 has no frame buffer of its own | here fits `vga` or `virtio-gpu`",
        ),
        (
            "intel-nuc",
            &[("screen = \"hdmi\"\n", "")],
            "qemu.screen: the board has no screen | say which connector it has in `screen`",
        ),
        ("intel-nuc", &[("screen = \"vga\"\n", "")], "qemu.screen: nothing plays `screen`"),
        (
            "intel-nuc",
            &[("internal = \"sata\"", "")],
            "qemu.attach.internal: nothing plays the medium `internal`",
        ),
        (
            "generic-aarch64",
            &[("keyboard = \"usb\"", "keyboard = \"ps2\"")],
            "keyboard: virt has no PS/2 socket | here fits `usb`",
        ),
        (
            "generic-aarch64",
            &[("screen = \"virtio-gpu\"", "screen = \"virtio-gpu\"\nwatchdog = \"itco\"")],
            "qemu.watchdog: only q35 has `itco`, and this is virt | here fits `i6300esb`",
        ),
    ];
    for (slug, edits, told) in rules {
        assert_eq!(complaints(slug, edits), [told], "{slug}: {edits:?}");
    }
}

#[test]
fn what_needs_pci_is_refused_on_a_raspberry_pi() {
    let edits = [("screen = \"built-in\"", "screen = \"vga\"\npanic_device = true\nwatchdog = \"i6300esb\"")];
    let told = complaints("raspberrypi3-64", &edits);
    let keys: Vec<_> = told.iter().filter_map(|told| told.split_once(':')).map(|(key, _)| key).collect();
    assert_eq!(keys, ["qemu.screen", "qemu.panic_device", "qemu.watchdog"], "{told:?}");
    assert!(told.iter().all(|told| told.contains("needs what raspi3b has not: PCI")), "{told:?}");
}

#[test]
fn wrong_types_and_unknown_keys_do_not_hide_the_broken_rules() {
    let edits = [
        ("rest = \"0s\"", "rset = \"0s\""),
        ("size = \"256MiB\"", "size = 256"),
        ("button_hold = \"4s\"", "button_hold = \"4 seconds\""),
        ("memory = \"128MiB\"", "memory = \"0B\""),
        ("disk = \"virtio-blk\"", "disk = \"virtio\""),
        ("console = 0", "console = 7"),
    ];
    let told = complaints("pc-seabios", &edits);
    assert_eq!(
        told,
        [
            "media.disk.size: expected a size such as `8GiB` or `512MiB`, found the number `256`",
            "power.rset: no such key | did you mean `power.rest`?",
            "power.button_hold: expected a time such as `250ms`, `2s` or `5min`, found `4 seconds`",
            "qemu.memory: expected a multiple of `1MiB`, found `0B`",
            "qemu.attach.disk: expected `sata`, `nvme`, `virtio-blk`, `usb-storage`, `sd-card` or `sdhci-pci`, found \
             `virtio`",
            "qemu.serial.console: expected a port within 0..=3 of q35, found 7",
        ]
    );
}

#[test]
fn a_medium_needs_a_plain_name() {
    let told = complaints(
        "pc-seabios",
        &[(
            "[media.disk]",
            "[media.\"My Disk\"]\nkind = \"virtio\"\nremovable = false\nsize = \"1MiB\"\n[media.disk]",
        )],
    );
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|told| told.starts_with("media.My Disk: expected a name of lower-case letters")));
    assert!(told.iter().any(|told| told.contains("nothing plays the medium `My Disk`")));
}

#[test]
fn names_keep_the_order_of_the_file() {
    let modem = "[serial.modem]\nbaud_rate = 9600\n[serial.console]";
    let (path, text) =
        edited("pc-seabios", &[("[serial.console]", modem), ("console = 0", "console = 1\nmodem = 0")]);
    let board = board(Path::new(&path), &text).unwrap();
    let lines: Vec<_> = board.serial.iter().map(|line| (line.name.as_str(), line.qemu_port)).collect();
    assert_eq!(lines, [("modem", 0), ("console", 1)]);
}

/// A file that lacks a line, or says something else there, is whole or complained about; nothing else happens.
#[test]
fn a_mangled_file_is_a_board_or_has_complaints() {
    let (path, text) = edited("beaglebone-black", &[]);
    let lines: Vec<_> = text.lines().collect();
    for (index, line) in
        lines.iter().enumerate().filter(|(_, line)| line.contains('=') || line.starts_with('['))
    {
        let key = line.split('=').next().unwrap();
        let others = ["3", "true", "''", "'x'", "[]", "[3]", "{}", "{ x = 1 }"];
        let mut manglings: Vec<_> = others.iter().map(|value| format!("{key}= {value}")).collect();
        manglings.push(String::new());
        for mangling in manglings {
            let mut lines = lines.clone();
            lines[index] = &mangling;
            if let Err(error) = board(Path::new(&path), &lines.join("\n")) {
                assert!(!error.complaints.is_empty(), "{mangling} instead of {line}");
            }
        }
    }
    let all = board(Path::new("x.toml"), "").unwrap_err().complaints;
    let keys: Vec<_> = all.iter().map(|complaint| complaint.key.as_str()).collect();
    let required =
        ["slug", "name", "arch", "boot_order", "media", "flash", "power", "serial", "qemu", "fidelity"];
    assert_eq!(keys, required, "{all:#?}");
}
