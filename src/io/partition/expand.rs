//! Grows the last partition of a disk to the disk's end, as an image does not know how large its medium is.
//!
//! Called when a medium is prepared. Only the table changes: growing the file system in the partition is for the
//! operating system. The caller works on a copy (`io::staged`), so nothing is left of what fails.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{
    MBR_PROTECTIVE, Mbr, PartitionError, SECTOR_BYTES, checksum, has_signature, le32, le64, logical_entries,
    read_gpt_sectors, read_mbr, read_sector,
};

/// A partition that now reaches to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expanded {
    /// Its number.
    pub number: u32,
    /// How long it is now.
    pub size_bytes: u64,
}

/// Grows the partition that lies last on a disk of `disk_bytes` bytes. `None` if there is no partition. One that
/// reaches to the end already, or further, stays as it is.
pub fn expand_last<T: Read + Write + Seek>(
    disk: &mut T,
    disk_bytes: u64,
) -> Result<Option<Expanded>, PartitionError> {
    let Some(mbr) = read_mbr(disk)? else { return Ok(None) };
    let sectors = disk_bytes / SECTOR_BYTES;
    match mbr.entries.iter().position(|entry| entry.kind == MBR_PROTECTIVE) {
        Some(protective) => {
            let only = mbr.entries.iter().filter(|entry| entry.is_used()).count() == 1;
            expand_gpt(disk, sectors, only.then_some((mbr.sector, protective)))
        }
        None => expand_mbr(disk, sectors, mbr),
    }
}

fn expand_mbr<T: Read + Write + Seek>(
    disk: &mut T,
    disk_sectors: u64,
    Mbr { mut sector, entries }: Mbr,
) -> Result<Option<Expanded>, PartitionError> {
    let used = (0..4).filter(|index| entries[*index].is_used());
    let Some(index) = used.max_by_key(|index| entries[*index].end()) else { return Ok(None) };
    let last = &entries[index];
    // An entry has 32 bits for each of both.
    let end = disk_sectors.min(u64::from(last.start) + u64::from(u32::MAX)).max(last.end());
    let mut expanded =
        Expanded { number: index as u32 + 1, size_bytes: (end - u64::from(last.start)) * SECTOR_BYTES };
    set_mbr_size(&mut sector, index, end - u64::from(last.start));
    if last.is_extended() {
        let logical = logical_entries(disk, u64::from(last.start))?;
        let last = (5..).zip(&logical).max_by_key(|(_, logical)| logical.end());
        if let Some((number, last)) = last {
            let size = end.max(last.end()) - last.start();
            expanded = Expanded { number, size_bytes: size * SECTOR_BYTES };
            change_sector(disk, last.record, |record| set_mbr_size(record, 0, size))?;
            // The entry that leads here covers record and partition.
            if let Some(before) = last.linked_from {
                let covered = last.start() + size - last.record;
                change_sector(disk, before, |record| set_mbr_size(record, 1, covered))?;
            }
        }
    }
    write_at(disk, 0, &sector)?;
    Ok(Some(expanded))
}

fn set_mbr_size(sector: &mut [u8; 512], index: usize, sectors: u64) {
    let at = 446 + index * 16;
    // Cylinder 1023, head 254, sector 63: "beyond what can be said", and the size counts.
    sector[at + 5..at + 8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
    sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
}

/// The backup of header and entries goes to the end of the disk, and the last partition follows up to it.
fn expand_gpt<T: Read + Write + Seek>(
    disk: &mut T,
    disk_sectors: u64,
    protective: Option<([u8; 512], usize)>,
) -> Result<Option<Expanded>, PartitionError> {
    let (mut header, mut table) = read_gpt_sectors(disk)?;
    let entry_bytes = le32(&header, 84) as usize;
    let used = |entry: &[u8]| entry[..16] != [0; 16] && le64(entry, 32) != 0;
    let entries = table.chunks_exact_mut(entry_bytes).zip(1..).filter(|(entry, _)| used(entry));
    let Some((entry, number)) = entries.max_by_key(|(entry, _)| le64(entry, 40)) else { return Ok(None) };
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let table_sectors = table_sectors(&header);
    let backup = disk_sectors.saturating_sub(1);
    let last_usable = backup.saturating_sub(table_sectors + 1);
    let expanded = |last: u64| {
        let size_bytes = last.saturating_add(1).saturating_sub(first).saturating_mul(SECTOR_BYTES);
        Some(Expanded { number, size_bytes })
    };
    if last >= last_usable {
        return Ok(expanded(last));
    }
    entry[40..48].copy_from_slice(&last_usable.to_le_bytes());
    let old_backup = le64(&header, 32);
    header[48..56].copy_from_slice(&last_usable.to_le_bytes());
    header[88..92].copy_from_slice(&checksum(&table).to_le_bytes());

    // What was the backup lies within the partition now, where nobody must find it.
    if old_backup < backup
        && let Some(offset) = old_backup.checked_mul(SECTOR_BYTES)
        && let Some(old) = read_sector(disk, offset)?
        && &old[..8] == b"EFI PART"
    {
        write_at(disk, offset, &[0; 512])?;
    }
    let primary_table = le64(&header, 72);
    write_at(disk, primary_table * SECTOR_BYTES, &table)?;
    write_at(disk, SECTOR_BYTES, &sealed(header, 1, backup, primary_table))?;
    write_at(disk, (last_usable + 1) * SECTOR_BYTES, &table)?;
    write_at(disk, backup * SECTOR_BYTES, &sealed(header, backup, 1, last_usable + 1))?;
    if let Some((mut sector, index)) = protective {
        set_mbr_size(&mut sector, index, backup);
        write_at(disk, 0, &sector)?;
    }
    Ok(expanded(last_usable))
}

fn table_sectors(header: &[u8; 512]) -> u64 {
    (u64::from(le32(header, 80)) * u64::from(le32(header, 84))).div_ceil(SECTOR_BYTES)
}

/// A header that lies in sector `own`, with its own checksum.
fn sealed(mut header: [u8; 512], own: u64, other: u64, table: u64) -> [u8; 512] {
    header[24..32].copy_from_slice(&own.to_le_bytes());
    header[32..40].copy_from_slice(&other.to_le_bytes());
    header[72..80].copy_from_slice(&table.to_le_bytes());
    header[16..20].fill(0);
    let covered = le32(&header, 12) as usize;
    let crc = checksum(&header[..covered]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header
}

fn change_sector<T: Read + Write + Seek>(
    disk: &mut T,
    sector: u64,
    change: impl FnOnce(&mut [u8; 512]),
) -> Result<(), PartitionError> {
    let offset = sector * SECTOR_BYTES;
    let Some(mut content) = read_sector(disk, offset)?.filter(has_signature) else { return Ok(()) };
    change(&mut content);
    write_at(disk, offset, &content)
}

fn write_at<T: Write + Seek>(disk: &mut T, offset: u64, bytes: &[u8]) -> Result<(), PartitionError> {
    let written: io::Result<()> = disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.write_all(bytes));
    written.map_err(|source| PartitionError::Write { offset, source })
}
