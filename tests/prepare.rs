//! What is changed on a disk by us is right in the eyes of the tools that others use: mtools, fsck.fat, sfdisk, sgdisk.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use standin::io::partition::Scheme;
use standin::io::prepare::listing::partitions;
use standin::io::prepare::{Change, Edit, Place, PrepareError, files, stage};
use standin::io::staged::Staged;

const MIB: u64 = 1 << 20;

/// Runs a tool with this input, and returns what it printed.
#[track_caller]
fn run(program: &str, words: &[&str], input: &str) -> String {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut child = Command::new(program)
        .args(words)
        .env("PATH", path)
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `scripts/install-packages --test` installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {words:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A disk of so many MiB with the partitions of this sfdisk script.
fn disk(path: &Path, mib: u64, script: &str) {
    File::create(path).unwrap().set_len(mib * MIB).unwrap();
    run("sfdisk", &["--quiet", path.to_str().unwrap()], script);
}

/// Puts a FAT of this kind and label at the first MiB.
fn format(path: &Path, mib: u64, bits: &str, label: &str) {
    let blocks = (mib * 1024).to_string();
    let words = ["--offset=2048", "-F", bits, "-n", label, path.to_str().unwrap(), &blocks];
    run("mkfs.fat", &words, "");
}

fn open(path: &Path) -> Staged<File> {
    Staged::new(File::options().read(true).write(true).open(path).unwrap()).unwrap()
}

#[track_caller]
fn apply(path: &Path, edits: &[Edit]) -> Vec<Change> {
    let mut disk = open(path);
    let changes = stage(&mut disk, edits).unwrap_or_else(|error| panic!("{error}: {}", error.source));
    disk.commit().unwrap();
    changes
}

fn refused(path: &Path, edit: Edit) -> PrepareError {
    let before = fs::read(path).unwrap();
    let error = stage(&mut open(path), &[edit]).unwrap_err().source;
    assert!(fs::read(path).unwrap() == before, "a refused edit changed something");
    error
}

fn place(text: &str) -> Place {
    Place::of_file(text).unwrap()
}

fn write(to: &str, content: &[u8]) -> Edit {
    Edit::Write { to: place(to), content: content.to_vec() }
}

/// fsck.fat finds no fault in the FAT of `mib` MiB at the first MiB.
#[track_caller]
fn check_fat(disk: &Path, mib: u64) {
    let part = disk.with_extension("part");
    let content = fs::read(disk).unwrap();
    let (start, end) = (MIB as usize, ((1 + mib) * MIB) as usize);
    fs::write(&part, &content[start..end]).unwrap();
    run("fsck.fat", &["-n", "-v", part.to_str().unwrap()], "");
}

/// A number of xorshift64: the same in each run.
fn random(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap() % below
}

#[test]
fn files_written_at_random_are_what_mtools_reads_and_fsck_finds_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    for (bits, mib) in [("12", 4), ("16", 20), ("32", 40)] {
        disk(&path, mib + 2, &format!("label: dos\nstart=1MiB, size={mib}MiB, type=c"));
        format(&path, mib, bits, "BOOT");
        let names = [
            "config.json",
            "A Long Name, of Übergröße.txt",
            "system-connections/Wi-Fi at home.nmconnection",
            "system-connections/b",
            "deep/deeper/deepest/file.with.dots",
            "cmdline.txt",
        ];
        let (mut state, mut oracle) = (1, BTreeMap::new());
        for _ in 0..25 {
            // Several at once, so that one sees what the others of its list did.
            let edits: Vec<Edit> = (0..4)
                .map(|_| {
                    let name = names[random(&mut state, names.len())];
                    let to = format!("boot:/{name}");
                    if oracle.contains_key(name) && random(&mut state, 3) == 0 {
                        oracle.remove(name);
                        return Edit::Remove { place: place(&to) };
                    }
                    let longest = [1, 600, 5000, 200_000][random(&mut state, 4)];
                    let content = vec![random(&mut state, 256) as u8; random(&mut state, longest)];
                    oracle.insert(name, content.clone());
                    write(&to, &content)
                })
                .collect();
            apply(&path, &edits);
        }
        check_fat(&path, mib);
        for (name, content) in &oracle {
            assert!(files::read(&mut open(&path), &place(&format!("1:/{name}"))).unwrap() == *content);
            let out = dir.path().join("out");
            let image = format!("{}@@1M", path.display());
            run("mcopy", &["-n", "-o", "-i", &image, &format!("::{name}"), out.to_str().unwrap()], "");
            assert!(fs::read(&out).unwrap() == *content, "FAT{bits}: {name} is another to mtools");
        }
        let root: Place = "1:/".parse().unwrap();
        let listed = files::list(&mut open(&path), &root).unwrap();
        let plain: Vec<&str> = listed.iter().filter(|e| e.bytes.is_some()).map(|e| e.name.as_str()).collect();
        let wanted: Vec<&&str> = oracle.keys().filter(|name| !name.contains('/')).collect();
        assert_eq!(plain.iter().collect::<Vec<_>>(), wanted, "FAT{bits}");
    }
}

#[test]
fn a_full_file_system_is_refused_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    disk(&path, 6, "label: dos\nstart=1MiB, size=4MiB, type=c");
    format(&path, 4, "12", "BOOT");
    apply(&path, &[write("boot:/old", &[1; 3 << 20])]);
    let error = refused(&path, write("boot:/new/file", &[2; 2 << 20]));
    assert_eq!(error.to_string(), "the file system of partition 1 (BOOT) is full");
    check_fat(&path, 4);
    // The root folder of a FAT12 does not grow.
    let many: Vec<Edit> = (0..600).map(|index| write(&format!("boot:/{index}"), b"")).collect();
    let full = stage(&mut open(&path), &many).unwrap_err();
    assert!(matches!(full.source, PrepareError::Full { .. }), "{full:?}");
    // What it can take, it takes: the old one makes room.
    apply(&path, &[Edit::Remove { place: place("boot:/old") }, write("boot:/new/file", &[2; 2 << 20])]);
    check_fat(&path, 4);
}

#[test]
fn a_partition_is_known_by_number_name_and_label_and_doubt_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let script = "label: gpt\n\
                  start=1MiB, size=4MiB, type=uefi, name=resin-boot\n\
                  size=1MiB, type=linux, name=data\n\
                  size=1MiB, type=linux, name=DATA\n\
                  size=1MiB, type=swap, name=boot";
    disk(&path, 16, script);
    format(&path, 4, "12", "FIRMWARE");
    let swap = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&swap, b"SWAPSPACE2", 7 * MIB + 4086).unwrap();
    let (scheme, listed) = partitions(&mut open(&path)).unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|l| (l.partition.number, l.partition.name.as_str(), l.label.as_str(), l.file_system))
        .collect();
    assert_eq!(scheme, Scheme::Gpt);
    assert_eq!(
        seen,
        [
            (1, "resin-boot", "FIRMWARE", Some("fat12")),
            (2, "data", "", None),
            (3, "DATA", "", None),
            (4, "boot", "", Some("swap"))
        ]
    );
    for name in ["1", "resin-boot", "Resin-BOOT", "firmware"] {
        apply(&path, &[write(&format!("{name}:/x"), name.as_bytes())]);
        assert_eq!(files::read(&mut open(&path), &place("1:/X")).unwrap(), name.as_bytes());
    }
    for (edit, said) in [
        (write("Data:/x", b""), "`Data` may be partition 2 (data), partition 3 (DATA); a number says which"),
        (write("data:/x", b""), "partition 2 (data) holds no file system that is known, and only"),
        (write("boot:/x", b""), "partition 4 (boot) holds swap, and only files of a FAT file system"),
        (
            write("rootfs:/x", b""),
            "there is no partition `rootfs`, but partition 1 (resin-boot, FIRMWARE), partition 2",
        ),
        (write("9:/x", b""), "there is no partition `9`, but partition 1"),
        (Edit::Remove { place: place("1:/y/z") }, "there is no `1:/y/z`"),
        (write("1:/x/y", b""), "a folder stands where a file is wanted, or a file where a folder is"),
    ] {
        let error = refused(&path, edit).to_string();
        assert!(error.starts_with(said), "{error}");
    }
    // A name does not get to speak to terminals.
    let mut bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len() - 8).filter(|at| &bytes[*at..at + 8] == b"FIRMWARE").collect::<Vec<_>>() {
        bytes[at] = 0x1b;
    }
    fs::write(&path, bytes).unwrap();
    assert_eq!(partitions(&mut open(&path)).unwrap().1[0].label, "\u{fffd}IRMWARE");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    assert!(matches!(refused(&path, Edit::Expand), PrepareError::NoTable));
}

#[test]
fn json_is_merged_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    disk(&path, 6, "label: dos\nstart=1MiB, size=4MiB, type=c");
    format(&path, 4, "12", "BOOT");
    let merge = |patch: &str| Edit::MergeJson {
        into: place("boot:/config.json"),
        patch: serde_json::from_str(patch).unwrap(),
    };
    apply(&path, &[merge(r#"{"uuid": "1", "os": {"network": {"wifi": 1}, "a": 2}, "gone": null}"#)]);
    apply(&path, &[merge(r#"{"hostname": "dut", "os": {"network": {"wifi": null}, "a": [3]}}"#)]);
    let seen = files::read(&mut open(&path), &place("boot:/config.json")).unwrap();
    let wanted = r#"{"uuid":"1","os":{"network":{},"a":[3]},"hostname":"dut"}"#;
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(seen.to_string(), wanted);
    apply(&path, &[write("boot:/config.json", b"[1]")]);
    assert!(matches!(refused(&path, merge("{}")), PrepareError::NoJson { .. }));
}

/// The sectors of each partition, by its number, as sfdisk sees them.
fn sectors(path: &Path) -> BTreeMap<u64, (u64, u64)> {
    let table = run("sfdisk", &["--json", path.to_str().unwrap()], "");
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap().iter();
    let number = |node: &str| node.strip_prefix(path.to_str().unwrap()).unwrap().parse().unwrap();
    let entry = |p: &serde_json::Value| {
        (number(p["node"].as_str().unwrap()), (p["start"].as_u64().unwrap(), p["size"].as_u64().unwrap()))
    };
    partitions.map(entry).collect()
}

#[test]
fn the_last_partition_grows_to_the_end_and_others_tools_find_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let name = path.to_str().unwrap();
    // In MiB where sectors count from 1 MiB; the GPT's backup takes 33 sectors at the end.
    for (script, number, end) in [
        ("label: gpt\nsize=2MiB, name=a\nsize=3MiB, name=b", 2, 64 * 2048 - 33),
        ("label: gpt\nstart=6MiB, size=1MiB\nstart=1MiB, size=2MiB", 1, 64 * 2048 - 33),
        ("label: dos\nsize=2MiB, type=c\nsize=3MiB, type=83", 2, 64 * 2048),
        ("label: dos\nsize=2MiB, type=c\nsize=5MiB, type=f\nx5 : size=1MiB\nx6 : size=1MiB", 6, 64 * 2048),
        ("label: dos\nsize=2MiB, type=c\nsize=5MiB, type=f\nx5 : size=1MiB", 5, 64 * 2048),
    ] {
        disk(&path, 9, script);
        let before = sectors(&path);
        File::options().write(true).open(&path).unwrap().set_len(64 * MIB).unwrap();
        for _ in 0..2 {
            // Twice is once.
            let changes = apply(&path, &[Edit::Expand]);
            let mut after = sectors(&path);
            let (start, size) = after[&number];
            assert_eq!(start + size, end, "{script}");
            let change = (changes[0].place.as_str(), changes[0].bytes);
            assert_eq!(change, (format!("{number}:").as_str(), Some(size * 512)), "{script}");
            after.insert(number, before[&number]);
            // An extended partition grows with the logical one in it.
            after.extend(before.get(&2).filter(|_| number > 4).map(|extended| (2, *extended)));
            assert_eq!(after, before, "{script}");
            run("sfdisk", &["--verify", name], "");
            if script.contains("gpt") {
                let said = run("sgdisk", &["-v", name], "");
                assert!(said.contains("No problems found"), "{script}: {said}");
            }
        }
    }
}

#[test]
fn damage_anywhere_is_an_answer_and_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    for (label, bits, mib) in [("dos", "12", 1), ("gpt", "16", 9), ("dos", "32", 34)] {
        let kind = if label == "gpt" { "uefi" } else { "c" };
        disk(&path, mib + 2, &format!("label: {label}\nstart=1MiB, size={mib}MiB, type={kind}"));
        format(&path, mib, bits, "BOOT");
        apply(&path, &[write("boot:/a long name/b", &[7; 9000]), write("boot:/config.json", b"{}")]);
        let whole = fs::read(&path).unwrap();
        let edits = [
            write("1:/a long name/c/d", &[8; 3000]),
            write("1:/config.json", &[9; 3000]),
            Edit::Remove { place: place("1:/a long name/b") },
            Edit::Expand,
        ];
        let (mut state, mut done) = (1, 0);
        for _ in 0..1000 {
            let mut staged = Staged::new(Cursor::new(&whole[..])).unwrap();
            for _ in 0..3 {
                // The table, the boot sector, and what follows: the file allocation table and the root folder.
                let (start, reach) = [(0, 2048), (MIB, 90), (MIB, 70_000)][random(&mut state, 3)];
                staged.seek(SeekFrom::Start(start + random(&mut state, reach) as u64)).unwrap();
                staged.write_all(&[random(&mut state, 256) as u8]).unwrap();
            }
            for edit in &edits {
                done += u32::from(stage(&mut staged, std::slice::from_ref(edit)).is_ok());
            }
        }
        assert!((1000..4000).contains(&done), "FAT{bits}: of 4000 edits of damaged disks {done} were done");
    }
}
