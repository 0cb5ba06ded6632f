//! Which partition of the card the boot ROM and the firmware boot from.

use std::io::{Read, Seek, SeekFrom};

use super::super::config_txt::{ConfigTxt, Filters};
use super::{BootRomError, MAX_TEXT_BYTES, NoBoot, fault};
use crate::io::fat::{FatError, FatVolume};
use crate::io::partition::{self, PartitionError, PartitionTable, Window};

/// "autoboot.txt is limited to 512 bytes" (autoboot.txt).
const MAX_AUTOBOOT_BYTES: usize = 512;

pub(super) struct BootPartition<'a, T: Read + Seek> {
    pub(super) volume: FatVolume<&'a mut T>,
    /// For messages: `partition 1`, or `the card` if it has no partitions.
    pub(super) name: String,
    pub(super) notes: Vec<String>,
}

impl<'a, T: Read + Seek> BootPartition<'a, T> {
    /// "the default partition which is the first bootable FAT partition", unless `autoboot.txt` there names
    /// another (autoboot.txt). GPT counts too: "The boot ROM also now supports GUID partitioning"
    /// (Boot sequence).
    pub(super) fn find(card: &'a mut T) -> Result<Self, BootRomError> {
        let table = match partition::read_table(card) {
            Ok(table) => table,
            Err(PartitionError::Read { source, .. }) => return Err(BootRomError::Image(source)),
            Err(damaged) => return Err(BootRomError::NoBoot(NoBoot::PartitionTable(damaged.to_string()))),
        };
        let Some(table) = table else { return Self::on_bare_card(card) };
        let first = first_bootable(card, &table)?;
        let (number, notes) = match autoboot_partition(card, &table, first)? {
            Some(number) => (number, vec![format!("autoboot.txt chose partition {number}")]),
            None => (first, Vec::new()),
        };
        let chosen = table.partitions.iter().find(|partition| partition.number == number);
        let chosen = chosen.ok_or(BootRomError::NoBoot(NoBoot::NoSuchPartition { number }))?;
        let name = format!("partition {number}");
        let volume = FatVolume::open(Window::on(card, chosen)).map_err(|error| fault(&name, error))?;
        Ok(Self { volume, name, notes })
    }

    /// A card without a partition table may be one file system.
    fn on_bare_card(card: &'a mut T) -> Result<Self, BootRomError> {
        let size = card.seek(SeekFrom::End(0)).map_err(BootRomError::Image)?;
        match FatVolume::open(Window::new(card, 0, size)) {
            Ok(volume) => Ok(Self { volume, name: "the card".to_owned(), notes: Vec::new() }),
            Err(FatError::Host(source)) => Err(BootRomError::Image(source)),
            Err(_) => Err(BootRomError::NoBoot(NoBoot::Blank)),
        }
    }
}

/// Files that make a partition one to boot from: the firmware, or what it would be told.
const BOOT_MARKS: [&str; 7] =
    ["bootcode.bin", "start.elf", "start4.elf", "config.txt", "autoboot.txt", "kernel7.img", "kernel8.img"];

/// The number of the first FAT partition with anything to boot; of the first FAT partition, if there is none.
fn first_bootable<T: Read + Seek>(card: &mut T, table: &PartitionTable) -> Result<u32, BootRomError> {
    let mut first = None;
    for partition in table.partitions.iter().filter(|partition| partition.kind.may_hold_fat()) {
        first.get_or_insert(partition.number);
        let marked = FatVolume::open(Window::on(&mut *card, partition)).and_then(|volume| {
            let mut marks = BOOT_MARKS.iter().map(|mark| volume.has_file(mark));
            marks.try_fold(false, |found, mark| Ok(found || mark?))
        });
        match marked {
            Ok(true) => return Ok(partition.number),
            Err(FatError::Host(source)) => return Err(BootRomError::Image(source)),
            Ok(false) | Err(_) => {}
        }
    }
    first.ok_or(BootRomError::NoBoot(NoBoot::NoFatPartition { partitions: table.partitions.len() }))
}

/// `boot_partition` of the `autoboot.txt` on partition `first`. Its `[tryboot]` section never counts: the flag
/// is lost with the power.
fn autoboot_partition<T: Read + Seek>(
    card: &mut T,
    table: &PartitionTable,
    first: u32,
) -> Result<Option<u32>, BootRomError> {
    let Some(partition) = table.partitions.iter().find(|partition| partition.number == first) else {
        return Ok(None);
    };
    let text = FatVolume::open(Window::on(card, partition))
        .and_then(|volume| volume.read("autoboot.txt", MAX_TEXT_BYTES))
        .map_err(|error| fault(&format!("partition {first}"), error))?;
    let Some(mut text) = text else { return Ok(None) };
    text.truncate(MAX_AUTOBOOT_BYTES);
    let no_model = Filters { models: &[], board_type: 0 };
    let config = ConfigTxt::read(&String::from_utf8_lossy(&text), no_model, |_| None);
    // "Specifying partition 0 means boot from the default partition" (autoboot.txt).
    Ok(config.boot_partition.filter(|number| *number != 0))
}
