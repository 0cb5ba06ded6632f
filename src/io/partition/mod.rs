//! Partition tables of disk and card images: what they list, and a [`Window`] on each partition.
//!
//! Called wherever an image is looked into: by the boot stage of the Raspberry Pi, and when an image is prepared.
//! The images come from the DUT or its makers, so nothing in them is believed before it is checked. Nothing to
//! clean up. [`expand`] grows the last one. Layouts: MBR as Linux reads it (block/partitions/msdos.c), GPT as the UEFI specification 2.10,
//! chapter 5, has it.

pub mod expand;

use std::io::{self, Read, Seek, SeekFrom, Write};

use flate2::Crc;

/// The only sector size that images are addressed in; cards and USB sticks have no other.
pub const SECTOR_BYTES: u64 = 512;

/// The partitions of an image, in the order of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// How the table is written.
    pub scheme: Scheme,
    /// Its used entries.
    pub partitions: Vec<Partition>,
}

/// How a partition table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Four primary partitions in the first sector, and a chain of logical ones.
    Mbr,
    /// A GUID partition table.
    Gpt,
}

/// One entry of a partition table. It may lie outside of the image; reading it then ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number as Linux counts: primary ones from 1, logical ones from 5.
    pub number: u32,
    /// What a GPT calls it; empty if it has no name there.
    pub name: String,
    /// What it says it holds.
    pub kind: PartitionKind,
    /// Where it begins in the image.
    pub offset_bytes: u64,
    /// How long it is.
    pub size_bytes: u64,
}

/// What a partition says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// The type byte of an MBR entry.
    Mbr(u8),
    /// The type GUID of a GPT entry, in the byte order of the disk.
    Gpt([u8; 16]),
}

impl PartitionKind {
    /// Whether it may hold a FAT file system: the FAT types of an MBR and the EFI system partition of both, and
    /// GPT's basic data.
    pub fn may_hold_fat(self) -> bool {
        match self {
            Self::Mbr(kind) => matches!(kind, 0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e | 0xef),
            Self::Gpt(kind) => kind == GPT_EFI_SYSTEM || kind == GPT_BASIC_DATA,
        }
    }
}

/// GPT type C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
pub const GPT_EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// GPT type EBD0A0A2-B9E5-4433-87C0-68B6B72699C7.
pub const GPT_BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

/// Why a partition table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The image itself could not be read.
    #[error("cannot read the partition table at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The image itself could not be written.
    #[error("cannot write the partition table at byte {offset}")]
    Write {
        /// Where.
        offset: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The first sector promises a GPT, but it is damaged. Its backup is not consulted: Linux does not either,
    /// unless it is told to.
    #[error("the GUID partition table is damaged: {0}")]
    DamagedGpt(&'static str),
}

/// Reads the partition table of `image`; `None` if it has none, as a blank one or one with a bare file system.
pub fn read_table<T: Read + Seek>(image: &mut T) -> Result<Option<PartitionTable>, PartitionError> {
    let Some(Mbr { entries, .. }) = read_mbr(image)? else { return Ok(None) };
    if entries.iter().any(|entry| entry.kind == MBR_PROTECTIVE) {
        let partitions = read_gpt(image)?;
        return Ok(Some(PartitionTable { scheme: Scheme::Gpt, partitions }));
    }
    let mut partitions = Vec::new();
    for (entry, number) in entries.iter().zip(1..) {
        if entry.is_extended() {
            let logical = logical_entries(image, u64::from(entry.start))?;
            let numbered = logical.iter().zip(5..);
            partitions
                .extend(numbered.map(|(logical, number)| logical.entry.partition(number, logical.record)));
        } else if entry.is_used() {
            partitions.push(entry.partition(number, 0));
        }
    }
    partitions.sort_by_key(|partition| partition.number);
    Ok(Some(PartitionTable { scheme: Scheme::Mbr, partitions }))
}

struct Mbr {
    sector: [u8; 512],
    entries: [MbrEntry; 4],
}

/// The first sector and its entries, if they are a partition table.
fn read_mbr<T: Read + Seek>(image: &mut T) -> Result<Option<Mbr>, PartitionError> {
    let Some(sector) = read_sector(image, 0)? else { return Ok(None) };
    let entries: [MbrEntry; 4] = std::array::from_fn(|index| MbrEntry::parse(&sector, index));
    // A bare FAT begins with a sector that carries the same signature, with code where the entries would be.
    let plausible = has_signature(&sector) && entries.iter().all(|entry| matches!(entry.status, 0 | 0x80));
    Ok((plausible && entries.iter().any(MbrEntry::is_used)).then_some(Mbr { sector, entries }))
}

const MBR_PROTECTIVE: u8 = 0xee;

/// Linux gives up after so many logical partitions without a used one; here it is the most that are read.
const MAX_LOGICAL: u32 = 100;

struct MbrEntry {
    status: u8,
    kind: u8,
    start: u32,
    sectors: u32,
}

impl MbrEntry {
    fn parse(sector: &[u8; 512], index: usize) -> Self {
        let at = 446 + index * 16;
        Self {
            status: sector[at],
            kind: sector[at + 4],
            start: le32(sector, at + 8),
            sectors: le32(sector, at + 12),
        }
    }

    fn is_used(&self) -> bool {
        self.kind != 0 && self.start != 0 && self.sectors != 0
    }

    fn is_extended(&self) -> bool {
        self.is_used() && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// The sector behind it, counted from where its start is.
    fn end(&self) -> u64 {
        u64::from(self.start) + u64::from(self.sectors)
    }

    fn partition(&self, number: u32, base_sector: u64) -> Partition {
        Partition {
            number,
            name: String::new(),
            kind: PartitionKind::Mbr(self.kind),
            offset_bytes: (base_sector + u64::from(self.start)) * SECTOR_BYTES,
            size_bytes: u64::from(self.sectors) * SECTOR_BYTES,
        }
    }
}

/// A logical partition, and the record that lists it.
struct Logical {
    record: u64,
    entry: MbrEntry,
    /// The record that leads to this one's.
    linked_from: Option<u64>,
}

impl Logical {
    fn start(&self) -> u64 {
        self.record + u64::from(self.entry.start)
    }

    fn end(&self) -> u64 {
        self.record + self.entry.end()
    }
}

/// Follows the chain of extended boot records: each lists one logical partition, and where the next record is.
fn logical_entries<T: Read + Seek>(image: &mut T, first_record: u64) -> Result<Vec<Logical>, PartitionError> {
    let mut found = Vec::new();
    let (mut record, mut linked_from) = (first_record, None);
    for _ in 0..MAX_LOGICAL {
        let Some(sector) = read_sector(image, record * SECTOR_BYTES)?.filter(has_signature) else { break };
        let (entry, next) = (MbrEntry::parse(&sector, 0), MbrEntry::parse(&sector, 1));
        if entry.is_used() && !entry.is_extended() {
            found.push(Logical { record, entry, linked_from });
        }
        if !next.is_extended() {
            break;
        }
        linked_from = Some(record);
        record = first_record + u64::from(next.start);
    }
    Ok(found)
}

/// More entries, or larger ones, than any tool writes; the specification sets no limit.
const MAX_GPT_TABLE_BYTES: usize = 1 << 20;

fn read_gpt<T: Read + Seek>(image: &mut T) -> Result<Vec<Partition>, PartitionError> {
    let (header, table) = read_gpt_sectors(image)?;
    let entries = table.chunks_exact(le32(&header, 84) as usize).zip(1..);
    Ok(entries.filter_map(|(entry, number)| gpt_partition(entry, number)).collect())
}

/// The header and the entries, whose checksums are right. The header's own one is left out of it.
fn read_gpt_sectors<T: Read + Seek>(image: &mut T) -> Result<([u8; 512], Vec<u8>), PartitionError> {
    use PartitionError::DamagedGpt;

    let mut header = read_sector(image, SECTOR_BYTES)?.ok_or(DamagedGpt("the image ends before it"))?;
    if &header[..8] != b"EFI PART" {
        return Err(DamagedGpt("its header has no signature"));
    }
    let header_bytes = le32(&header, 12) as usize;
    let header_crc = le32(&header, 16);
    header[16..20].fill(0);
    let covered = header.get(..header_bytes).filter(|covered| covered.len() >= 92);
    if covered.map(checksum) != Some(header_crc) {
        return Err(DamagedGpt("its header's checksum is wrong"));
    }
    let (entries_at, count, entry_bytes) = (le64(&header, 72), le32(&header, 80), le32(&header, 84) as usize);
    let table_bytes = (count as usize).checked_mul(entry_bytes).filter(|bytes| *bytes <= MAX_GPT_TABLE_BYTES);
    let (Some(table_bytes), true) = (table_bytes, entry_bytes >= 128) else {
        return Err(DamagedGpt("its header gives impossible sizes"));
    };
    let offset =
        entries_at.checked_mul(SECTOR_BYTES).ok_or(DamagedGpt("its entries lie beyond all disks"))?;
    let mut table = vec![0; table_bytes];
    match read_exact_at(image, offset, &mut table) {
        Ok(true) => {}
        Ok(false) => return Err(DamagedGpt("the image ends before its entries")),
        Err(source) => return Err(PartitionError::Read { offset, source }),
    }
    if checksum(&table) != le32(&header, 88) {
        return Err(DamagedGpt("its entries' checksum is wrong"));
    }
    Ok((header, table))
}

fn gpt_partition(entry: &[u8], number: u32) -> Option<Partition> {
    let kind: [u8; 16] = entry[..16].try_into().expect("16 bytes are an array of 16 bytes");
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    let used = kind != [0; 16] && first != 0;
    used.then_some(())?;
    let units = entry[56..128].as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Some(Partition {
        number,
        name: String::from_utf16_lossy(&name),
        kind: PartitionKind::Gpt(kind),
        offset_bytes: first.checked_mul(SECTOR_BYTES)?,
        size_bytes: sectors.checked_mul(SECTOR_BYTES)?,
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn has_signature(sector: &[u8; 512]) -> bool {
    sector[510..] == [0x55, 0xaa]
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes are an array of 4 bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes are an array of 8 bytes"))
}

/// `None` if the image ends before the sector does.
fn read_sector<T: Read + Seek>(image: &mut T, offset: u64) -> Result<Option<[u8; 512]>, PartitionError> {
    let mut sector = [0; 512];
    let whole = read_exact_at(image, offset, &mut sector);
    whole.map(|whole| whole.then_some(sector)).map_err(|source| PartitionError::Read { offset, source })
}

fn read_exact_at<T: Read + Seek>(image: &mut T, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    image.seek(SeekFrom::Start(offset))?;
    match image.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// A part of an image that looks like a whole one: nothing outside of it can be read or written.
#[derive(Debug)]
pub struct Window<T> {
    image: T,
    offset: u64,
    size: u64,
    position: u64,
}

impl<T> Window<T> {
    /// The `size_bytes` of `image` that begin at `offset_bytes`. A window that no image can hold is empty.
    pub fn new(image: T, offset_bytes: u64, size_bytes: u64) -> Self {
        let size = if offset_bytes.checked_add(size_bytes).is_some() { size_bytes } else { 0 };
        Self { image, offset: offset_bytes, size, position: 0 }
    }

    /// The bytes of one partition.
    pub fn on(image: T, partition: &Partition) -> Self {
        Self::new(image, partition.offset_bytes, partition.size_bytes)
    }

    /// How much of a buffer of `wanted` bytes lies before the end.
    fn admitted(&self, wanted: usize) -> usize {
        usize::try_from(self.size.saturating_sub(self.position)).map_or(wanted, |left| left.min(wanted))
    }
}

impl<T: Read + Seek> Read for Window<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let admitted = self.admitted(buffer.len());
        if admitted == 0 {
            return Ok(0);
        }
        self.image.seek(SeekFrom::Start(self.offset + self.position))?;
        let count = self.image.read(&mut buffer[..admitted])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<T: Write + Seek> Write for Window<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let admitted = self.admitted(bytes.len());
        if admitted == 0 {
            return Ok(0);
        }
        self.image.seek(SeekFrom::Start(self.offset + self.position))?;
        let count = self.image.write(&bytes[..admitted])?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()
    }
}

impl<T> Seek for Window<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.size, by),
        };
        self.position = base
            .checked_add_signed(by)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the window's start"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// An MBR with entries of (type, first sector, sectors), in its first sector.
    fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        write_entries(&mut sector, entries);
        sector
    }

    fn write_entries(sector: &mut [u8], entries: &[(u8, u32, u32)]) {
        for (index, (kind, start, sectors)) in entries.iter().enumerate() {
            let at = 446 + index * 16;
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn gpt(partitions: &[([u8; 16], u64, u64)]) -> Vec<u8> {
        let mut image = mbr(&[(MBR_PROTECTIVE, 1, 99)]);
        image.resize(64 * 512, 0);
        for (index, (kind, first, last)) in partitions.iter().enumerate() {
            let entry = &mut image[1024 + index * 128..][..128];
            entry[..16].copy_from_slice(kind);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let entries_crc = checksum(&image[1024..1024 + 4 * 128]);
        let header = &mut image[512..1024];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[72..80].copy_from_slice(&2_u64.to_le_bytes());
        header[80..84].copy_from_slice(&4_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        let crc = checksum(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        image
    }

    #[test]
    fn primary_and_logical_partitions_are_listed_as_linux_numbers_them() {
        let mut image = mbr(&[(0x0c, 8, 16), (0x05, 32, 64), (0x83, 100, 4)]);
        image.resize(128 * 512, 0);
        write_entries(&mut image[32 * 512..33 * 512], &[(0x83, 1, 7), (0x05, 16, 16)]);
        write_entries(&mut image[48 * 512..49 * 512], &[(0x83, 2, 5)]);
        let table = read_table(&mut Cursor::new(image)).unwrap().unwrap();
        let seen: Vec<_> =
            table.partitions.iter().map(|p| (p.number, p.offset_bytes / 512, p.size_bytes / 512)).collect();
        assert_eq!(table.scheme, Scheme::Mbr);
        assert_eq!(seen, [(1, 8, 16), (3, 100, 4), (5, 33, 7), (6, 50, 5)]);
    }

    #[test]
    fn a_ring_of_extended_records_ends() {
        let mut image = mbr(&[(0x05, 2, 64)]);
        image.resize(16 * 512, 0);
        write_entries(&mut image[2 * 512..3 * 512], &[(0x83, 1, 1), (0x05, 4, 1)]);
        write_entries(&mut image[6 * 512..7 * 512], &[(0x83, 1, 1), (0x05, 4, 1)]);
        let table = read_table(&mut Cursor::new(image)).unwrap().unwrap();
        assert_eq!(table.partitions.len(), MAX_LOGICAL as usize);
    }

    #[test]
    fn a_guid_partition_table_is_read_and_a_damaged_one_is_refused() {
        let image = gpt(&[(GPT_EFI_SYSTEM, 40, 47), ([0; 16], 0, 0), (GPT_BASIC_DATA, 48, 48)]);
        let table = read_table(&mut Cursor::new(&image)).unwrap().unwrap();
        let seen: Vec<_> = table.partitions.iter().map(|p| (p.number, p.kind.may_hold_fat())).collect();
        assert_eq!((table.scheme, seen), (Scheme::Gpt, vec![(1, true), (3, true)]));
        for damaged in [512, 600, 1030] {
            let mut image = image.clone();
            image[damaged] ^= 1;
            let refused = read_table(&mut Cursor::new(image));
            assert!(matches!(refused, Err(PartitionError::DamagedGpt(_))), "byte {damaged}: {refused:?}");
        }
    }

    #[test]
    fn blank_short_and_bare_images_have_no_table() {
        let mut bare = vec![0; 1 << 20];
        fatfs::format_volume(Cursor::new(&mut bare), fatfs::FormatVolumeOptions::new()).unwrap();
        for image in [Vec::new(), vec![0; 100], vec![0; 4096], mbr(&[]), mbr(&[(0x0c, 0, 99)]), bare] {
            assert_eq!(read_table(&mut Cursor::new(image)).unwrap(), None);
        }
    }

    #[test]
    fn a_window_shows_and_changes_nothing_but_its_own_bytes() {
        let mut image = Cursor::new(b"0123456789".to_vec());
        let mut window = Window::new(&mut image, 3, 4);
        let mut seen = String::new();
        window.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "3456");
        assert_eq!(window.seek(SeekFrom::End(-1)).unwrap(), 3);
        assert_eq!(window.write(b"abc").unwrap(), 1);
        assert!(window.write_all(b"x").is_err());
        assert!(window.seek(SeekFrom::Current(-9)).is_err());
        assert_eq!(image.into_inner(), b"012345a789");
    }
}
