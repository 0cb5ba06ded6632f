//! QEMU's qcow2 format: images that users bring, and the layers that QEMU writes over a base.
//!
//! Here it is read; [`empty`] makes layers, and [`write`] changes them. A layer may be opened while no QEMU has it
//! open. From QEMU's docs/interop/qcow2.txt.

pub mod empty;
pub mod write;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A disk in qcow2, read as the bytes that its machine sees.
#[derive(Debug)]
pub struct Disk {
    file: File,
    /// What shines through where the layer has nothing, and its length.
    base: Option<(File, u64)>,
    bytes: u64,
    cluster_bytes: u64,
    cluster_bits: u32,
    zstd: bool,
    l1: Vec<u64>,
    /// The table that was used last, by its offset in the file.
    l2: (u64, Vec<u64>),
    /// The unpacked cluster that was used last, by its entry.
    unpacked: (u64, Vec<u8>),
    at: u64,
}

const MAGIC: u32 = 0x5146_49fb;
const HEADER_BYTES: usize = 112;
/// "Dirty" concerns who writes, and the compression type is looked at.
const UNDERSTOOD_FEATURES: u64 = 1 | 1 << 3;
/// QEMU's own limit, block/qcow2.h.
const MOST_L1_ENTRIES: u64 = (32 << 20) / 8;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const PACKED: u64 = 1 << 62;
const ZEROS: u64 = 1;

/// What a cluster of the disk is.
enum Cluster {
    Absent,
    Zeros,
    At(u64),
    Packed(u64),
}

impl Disk {
    /// An image that stands for itself. One with a backing file is refused: half of it lies elsewhere.
    pub fn open_image(file: &File) -> io::Result<Self> {
        let disk = Self::open(file.try_clone()?, None)?;
        if disk.1 {
            return Err(invalid("it is a layer over another file, not a whole image"));
        }
        Ok(disk.0)
    }

    /// A layer over `base`, which is raw.
    pub fn open_layer(layer: File, base: File) -> io::Result<Self> {
        let bytes = base.metadata()?.len();
        Ok(Self::open(layer, Some((base, bytes)))?.0)
    }

    /// The disk, and whether it has a backing file.
    fn open(file: File, base: Option<(File, u64)>) -> io::Result<(Self, bool)> {
        let mut head = [0; HEADER_BYTES];
        let length = crate::io::image::fill_at(&file, &mut head, 0)?;
        let long = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| head[at + index]));
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| head[at + index]));
        let version = word(4);
        if length < 72 || word(0) != MAGIC || !matches!(version, 2 | 3) {
            return Err(invalid("its qcow2 header is of no known version"));
        }
        let features = if version == 3 { long(72) } else { 0 };
        if features & !UNDERSTOOD_FEATURES != 0 {
            return Err(invalid("it uses features of qcow2 that are not understood"));
        }
        let (cluster_bits, bytes, encryption) = (word(20), long(24), word(32));
        let l1_entries = u64::from(word(36));
        if encryption != 0 {
            return Err(invalid("it is encrypted"));
        }
        if !(9..=21).contains(&cluster_bits) || l1_entries > MOST_L1_ENTRIES {
            return Err(invalid("its qcow2 header is damaged"));
        }
        // Each entry of the first table stands for a table of clusters.
        let reach = (l1_entries << (cluster_bits - 3)).checked_shl(cluster_bits).unwrap_or(u64::MAX);
        if reach < bytes {
            return Err(invalid("its first table is too short for its size"));
        }
        let l1 = read_table(&file, long(40), usize::try_from(l1_entries).map_err(invalid)?)?;
        let disk = Self {
            file,
            base,
            bytes,
            cluster_bytes: 1 << cluster_bits,
            cluster_bits,
            zstd: features & 1 << 3 != 0 && head[104] == 1,
            l1,
            l2: (0, Vec::new()),
            unpacked: (0, Vec::new()),
            at: 0,
        };
        Ok((disk, long(8) != 0))
    }

    /// The size of the disk.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// Tells each cluster that has data of its own, in order, as its place and a reader of it.
    pub fn for_each_extent(
        &mut self,
        mut tell: impl FnMut(u64, &mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.bytes {
            let left = self.cluster_bytes.min(self.bytes - offset);
            // A table that is not there stands for many clusters, and big disks are mostly such.
            if self.table_of(offset) == 0 {
                let step = self.cluster_bytes << (self.cluster_bits - 3);
                offset = (offset / step + 1) * step;
                continue;
            }
            if !matches!(self.cluster(offset)?, Cluster::Absent | Cluster::Zeros) {
                self.at = offset;
                tell(offset, &mut (&mut *self).take(left))?;
            }
            offset += left;
        }
        Ok(())
    }

    fn table_of(&self, offset: u64) -> u64 {
        let index = offset >> (2 * self.cluster_bits - 3);
        usize::try_from(index).ok().and_then(|index| self.l1.get(index)).map_or(0, |entry| entry & OFFSET)
    }

    /// The entry of the cluster at `offset` of the disk; 0 if there is no table for it.
    fn entry(&mut self, offset: u64) -> io::Result<u64> {
        let table = self.table_of(offset);
        if table == 0 {
            return Ok(0);
        }
        let entries = self.cluster_bytes / 8;
        if self.l2.0 != table {
            let length = usize::try_from(entries).map_err(invalid)?;
            self.l2 = (table, read_table(&self.file, table, length)?);
        }
        let index = usize::try_from((offset >> self.cluster_bits) % entries).map_err(invalid)?;
        Ok(self.l2.1[index])
    }

    fn cluster(&mut self, offset: u64) -> io::Result<Cluster> {
        let entry = self.entry(offset)?;
        Ok(match entry {
            _ if entry & PACKED != 0 => Cluster::Packed(entry),
            _ if entry & ZEROS != 0 => Cluster::Zeros,
            _ if entry & OFFSET == 0 => Cluster::Absent,
            _ => Cluster::At(entry & OFFSET),
        })
    }

    fn unpack(&mut self, entry: u64) -> io::Result<()> {
        if self.unpacked.0 == entry {
            return Ok(());
        }
        let sectors_at = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << sectors_at) - 1);
        let sectors = ((entry & !PACKED & !(1 << 63)) >> sectors_at) + 1;
        let length = (sectors * 512 - offset % 512).min(2 * self.cluster_bytes + 512);
        let mut packed = vec![0; usize::try_from(length).map_err(invalid)?];
        let read = crate::io::image::fill_at(&self.file, &mut packed, offset)?;
        packed.truncate(read);
        let mut cluster = vec![0; usize::try_from(self.cluster_bytes).map_err(invalid)?];
        if self.zstd {
            zstd::Decoder::with_buffer(&packed[..])?.single_frame().read_exact(&mut cluster)?;
        } else {
            flate2::read::DeflateDecoder::new(&packed[..]).read_exact(&mut cluster)?;
        }
        self.unpacked = (entry, cluster);
        Ok(())
    }
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let in_cluster = self.at % self.cluster_bytes;
        let left = (self.cluster_bytes - in_cluster).min(self.bytes.saturating_sub(self.at));
        let length = buffer.len().min(usize::try_from(left).map_err(invalid)?);
        let buffer = &mut buffer[..length];
        if length == 0 {
            return Ok(0);
        }
        match (self.cluster(self.at)?, &self.base) {
            (Cluster::Absent, Some((base, bytes))) if self.at < *bytes => {
                let there = crate::io::image::fill_at(base, buffer, self.at)?;
                buffer[there..].fill(0);
            }
            (Cluster::Absent | Cluster::Zeros, _) => buffer.fill(0),
            (Cluster::At(offset), _) => {
                // QEMU does not write the rest of a last cluster whose end it has not touched.
                let there = crate::io::image::fill_at(&self.file, buffer, offset + in_cluster)?;
                if there == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a cluster lies behind its end",
                    ));
                }
                buffer[there..].fill(0);
            }
            (Cluster::Packed(entry), _) => {
                self.unpack(entry)?;
                let start = usize::try_from(in_cluster).map_err(invalid)?;
                buffer.copy_from_slice(&self.unpacked.1[start..start + length]);
            }
        }
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(distance) => self.bytes.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = target.ok_or_else(|| invalid("a seek to before the beginning"))?;
        Ok(self.at)
    }
}

fn read_table(file: &File, offset: u64, entries: usize) -> io::Result<Vec<u64>> {
    // Without this, a damaged header would make us ask for memory that the file cannot fill.
    let end = offset.checked_add(entries as u64 * 8).ok_or_else(|| invalid("a table lies behind its end"))?;
    if end > file.metadata()?.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a table lies behind its end"));
    }
    let mut bytes = vec![0; entries * 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

fn invalid(words: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}
