//! Who uses a block device of this host: file systems, swap, layers above it, the running system.
//!
//! All of it is read from `/proc` and `/sys`; the device itself is not opened. Nothing to clean up.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

/// Where the running system lies; a medium that holds one of these is never written.
const SYSTEM: [&str; 5] = ["/", "/boot", "/boot/efi", "/usr", "/var"];

/// What a device is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// This folder of the running system, or of standin's own, lies on its disk.
    System(PathBuf),
    /// A file system on this device is mounted here.
    Mounted {
        /// The device, which may be a partition.
        device: String,
        /// Where.
        at: PathBuf,
    },
    /// This device is swap.
    Swap(String),
    /// Another device stands on this one, such as LVM, RAID or encryption.
    Held {
        /// The device, which may be a partition.
        device: String,
        /// What stands on it.
        by: String,
    },
}

/// What the block device of this number, or any partition of it, is used for; `None` if for nothing. The disks of
/// the running system and of the folders `keep` are in use, too, whatever of them the number names.
pub fn find(number: u64, keep: &[PathBuf]) -> io::Result<Option<Use>> {
    let target = Node::of(number)?;
    let mounts = mounts(&fs::read("/proc/self/mountinfo")?);
    let disk = target.disk()?;
    for folder in SYSTEM.iter().map(Path::new).chain(keep.iter().map(PathBuf::as_path)) {
        // Folders that are still to be made will lie where their nearest parent does.
        let Some(about) = folder.ancestors().find_map(|folder| fs::metadata(folder).ok()) else { continue };
        let mut disks = Vec::new();
        for number in numbers(about.dev(), &mounts) {
            Node::of(number)?.disks_below(&mut disks)?;
        }
        if disks.contains(&disk) {
            return Ok(Some(Use::System(folder.to_owned())));
        }
    }
    let swaps = swaps(&fs::read("/proc/swaps").unwrap_or_default());
    for node in std::iter::once(target.clone()).chain(target.partitions()?) {
        let number = node.number()?;
        if let Some(mount) = mounts.iter().find(|mount| mount.numbers().contains(&number)) {
            return Ok(Some(Use::Mounted { device: node.name(), at: mount.at.clone() }));
        }
        if swaps.contains(&number) {
            return Ok(Some(Use::Swap(node.name())));
        }
        if let Some(by) = node.linked("holders")?.first() {
            return Ok(Some(Use::Held { device: node.name(), by: by.name() }));
        }
    }
    Ok(None)
}

/// The disk that this partition is a part of; `None` if it is a disk itself.
pub fn disk_of_partition(number: u64) -> io::Result<Option<String>> {
    let node = Node::of(number)?;
    Ok(if node.is_partition() { Some(node.disk()?.name()) } else { None })
}

/// A block device in `/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    dir: PathBuf,
}

impl Node {
    fn of(number: u64) -> io::Result<Self> {
        let link = format!("/sys/dev/block/{}:{}", major(number), minor(number));
        Ok(Self { dir: fs::canonicalize(link)? })
    }

    fn name(&self) -> String {
        // As the kernel writes names with slashes, such as those of RAID controllers.
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        format!("/dev/{}", name.replace('!', "/"))
    }

    fn number(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.dir.join("dev"))?;
        pair(text.trim().as_bytes()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn is_partition(&self) -> bool {
        self.dir.join("partition").exists()
    }

    fn disk(&self) -> io::Result<Self> {
        let parent = || self.dir.parent().ok_or(io::ErrorKind::NotFound);
        Ok(if self.is_partition() { Self { dir: parent()?.to_owned() } } else { self.clone() })
    }

    fn partitions(&self) -> io::Result<Vec<Self>> {
        let inside = fs::read_dir(&self.dir)?.map(|entry| Ok(Self { dir: entry?.path() }));
        let inside: Vec<Self> = inside.collect::<io::Result<_>>()?;
        Ok(inside.into_iter().filter(Self::is_partition).collect())
    }

    /// The devices that a folder of this one leads to.
    fn linked(&self, folder: &str) -> io::Result<Vec<Self>> {
        match fs::read_dir(self.dir.join(folder)) {
            Ok(entries) => entries.map(|entry| Ok(Self { dir: fs::canonicalize(entry?.path())? })).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The disk of this device, and those of all that it stands on.
    fn disks_below(&self, disks: &mut Vec<Self>) -> io::Result<()> {
        let disk = self.disk()?;
        if !disks.contains(&disk) {
            disks.push(disk);
        }
        self.linked("slaves")?.iter().try_for_each(|below| below.disks_below(disks))
    }
}

/// A line of mountinfo; see proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    number: u64,
    at: PathBuf,
    source: PathBuf,
}

impl Mount {
    /// The devices that the file system may lie on: some, such as btrfs, have a number that is no device's.
    fn numbers(&self) -> Vec<u64> {
        if major(self.number) != 0 {
            return vec![self.number];
        }
        device_number(&self.source).into_iter().collect()
    }
}

/// The devices below a file system that files name by this number.
fn numbers(number: u64, mounts: &[Mount]) -> Vec<u64> {
    if major(number) != 0 {
        return vec![number];
    }
    mounts.iter().filter(|mount| mount.number == number).flat_map(Mount::numbers).collect()
}

fn mounts(text: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        // Behind a lone dash, as the number of fields before it varies: the type, and then the source.
        let dash = fields.iter().position(|field| *field == b"-")?;
        let (number, at) = (pair(fields.get(2)?)?, unescaped(fields.get(4)?));
        Some(Mount { number, at, source: unescaped(fields.get(dash + 2)?) })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The numbers of the devices that are swap; swap files are not devices.
fn swaps(text: &[u8]) -> Vec<u64> {
    let lines = text.split(|byte| *byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(|byte| b" \t".contains(byte)).next());
    paths.filter_map(|path| device_number(&unescaped(path))).collect()
}

fn device_number(path: &Path) -> Option<u64> {
    let about = fs::metadata(path).ok()?;
    about.file_type().is_block_device().then(|| about.rdev())
}

/// `8:1` as a device number.
fn pair(text: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A path in which the kernel wrote blanks and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::new(), text);
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\');
        path.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_optional_fields_and_blanks() {
        let text =
            b"36 35 98:0 /mnt1 /media/my\\040card rw,noatime master:1 - ext3 /dev/sd\\134a errors=continue\n\
                     37 35 0:52 / /data rw - btrfs /dev/sdc2 rw\nno mount\n";
        let expected = [
            Mount { number: makedev(98, 0), at: "/media/my card".into(), source: "/dev/sd\\a".into() },
            Mount { number: makedev(0, 52), at: "/data".into(), source: "/dev/sdc2".into() },
        ];
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn the_disk_of_the_running_system_is_in_use() {
        let mounts = mounts(&fs::read("/proc/self/mountinfo").unwrap());
        // In a container the root may lie on no device that is seen here; then no device is named by it.
        for number in numbers(fs::metadata("/").unwrap().dev(), &mounts) {
            assert_eq!(find(number, &[]).unwrap(), Some(Use::System("/".into())));
        }
        assert!(!mounts.is_empty());
    }
}
