//! What stands on a disk: its partitions, how they are called and what they hold.

use std::io::{Read, Seek, SeekFrom};

use fatfs::{FatType, FileSystem, FsOptions};

use super::{PrepareError, is_host_fault};
use crate::io::partition::{self, Partition, PartitionTable, Window};
use crate::io::staged::Staged;

/// A partition and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it lies, and what the table says of it.
    pub partition: Partition,
    /// What its file system holds, such as `fat32` or `ext4`; `None` if it is none that we recognise.
    pub file_system: Option<&'static str>,
    /// What its file system calls itself; empty if it has no name.
    pub label: String,
}

impl Listed {
    /// For people: `partition 1 (boot)`.
    pub fn title(&self) -> String {
        let mut names = vec![self.partition.name.as_str(), self.label.as_str()];
        names.retain(|name| !name.is_empty());
        names.dedup();
        match names.as_slice() {
            [] => format!("partition {}", self.partition.number),
            names => format!("partition {} ({})", self.partition.number, names.join(", ")),
        }
    }

    /// Whether our file operations work on it.
    pub fn is_fat(&self) -> bool {
        self.file_system.is_some_and(|name| name.starts_with("fat"))
    }

    fn is_called(&self, wanted: &str, same: fn(&str, &str) -> bool) -> bool {
        same(&self.partition.name, wanted) || same(&self.label, wanted)
    }
}

/// The partitions of a disk, in the order of its table, and whose table it is.
pub fn partitions<T: Read + Seek>(
    disk: &mut Staged<T>,
) -> Result<(partition::Scheme, Vec<Listed>), PrepareError> {
    let PartitionTable { scheme, partitions } = partition::read_table(disk)?.ok_or(PrepareError::NoTable)?;
    let listed = partitions.into_iter().map(|mut partition| {
        let (file_system, label) = file_system(disk, &partition)?;
        partition.name = harmless(&partition.name);
        let label = harmless(&label);
        Ok(Listed { partition, file_system, label })
    });
    Ok((scheme, listed.collect::<Result<_, PrepareError>>()?))
}

/// A name that somebody wrote on a disk, without what a terminal would obey.
pub(super) fn harmless(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// The partition of that number, or else of that name: as it is, or if there is none, whatever its case.
pub(super) fn find<T: Read + Seek>(disk: &mut Staged<T>, wanted: &str) -> Result<Listed, PrepareError> {
    let (_, all) = partitions(disk)?;
    let number: Option<u32> = wanted.parse().ok();
    let titles = |found: &[&Listed]| {
        let titles: Vec<String> = found.iter().map(|listed| listed.title()).collect();
        titles.join(", ")
    };
    let found: Vec<&Listed> = match number {
        Some(number) => all.iter().filter(|listed| listed.partition.number == number).collect(),
        None => [str::eq, str::eq_ignore_ascii_case]
            .into_iter()
            .map(|same| all.iter().filter(|listed| listed.is_called(wanted, same)).collect::<Vec<_>>())
            .find(|found| !found.is_empty())
            .unwrap_or_default(),
    };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let there = titles(&all.iter().collect::<Vec<_>>());
            Err(PrepareError::NoPartition { wanted: wanted.to_owned(), there })
        }
        several => Err(PrepareError::Ambiguous { wanted: wanted.to_owned(), candidates: titles(several) }),
    }
}

/// Marks that file systems and their like carry at a fixed byte. From util-linux's description of each in libblkid.
const MARKS: [(&str, usize, &[u8]); 9] = [
    ("squashfs", 0, b"hsqs"),
    ("xfs", 0, b"XFSB"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    // In the last ten bytes of the first page.
    ("swap", 4086, b"SWAPSPACE2"),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
];

/// Where the last mark ends.
const HEAD_BYTES: u64 = 0x1_0048;

fn file_system<T: Read + Seek>(
    disk: &mut Staged<T>,
    partition: &Partition,
) -> Result<(Option<&'static str>, String), PrepareError> {
    let mut window = Window::on(&mut *disk, partition);
    let mut head = Vec::new();
    window.seek(SeekFrom::Start(0)).and_then(|_| (&mut window).take(HEAD_BYTES).read_to_end(&mut head))?;
    let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
    if let Some((name, ..)) = MARKS.iter().find(|(_, at, mark)| has(*at, mark)) {
        return Ok((Some(name), String::new()));
    }
    // The superblock's s_magic, s_feature_compat, s_feature_incompat and s_volume_name, from the kernel's
    // Documentation/filesystems/ext4/super.rst.
    if has(1024 + 56, &[0x53, 0xef]) && head.len() >= 2048 {
        let name = match (head[1024 + 0x5c] & 4 != 0, head[1024 + 0x60] & 0x40 != 0) {
            (_, true) => "ext4",
            (true, false) => "ext3",
            (false, false) => "ext2",
        };
        let label = &head[1024 + 0x78..1024 + 0x88];
        let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok((Some(name), String::from_utf8_lossy(label).into_owned()));
    }
    window.seek(SeekFrom::Start(0))?;
    let volume = match FileSystem::new(window, FsOptions::new()) {
        Ok(volume) => volume,
        Err(error) if is_host_fault(&error) => return Err(error.into()),
        Err(_) => return Ok((None, String::new())), // it is none
    };
    let name = match volume.fat_type() {
        FatType::Fat12 => "fat12",
        FatType::Fat16 => "fat16",
        FatType::Fat32 => "fat32",
    };
    // The boot sector keeps a copy, which some tools forget.
    let label = match volume.read_volume_label_from_root_dir() {
        Ok(label) => label.unwrap_or_else(|| volume.volume_label()),
        Err(error) if is_host_fault(&error) => return Err(error.into()),
        Err(_) => String::new(), // damaged, which whoever reads a file is told
    };
    let label = if label == "NO NAME" { String::new() } else { label };
    Ok((Some(name), label))
}
