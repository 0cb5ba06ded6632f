//! Writes into a layer in QEMU's qcow2 format, as QEMU itself would: what a host changes on a medium.
//!
//! `device::storage` opens a [`Layer`] while no QEMU has it open. What is written goes to the file at once, data
//! before the tables that lead to it, so there is nothing to close; a layer whose writer was cut short is whole,
//! but its content is half of the old and half of the new. From QEMU's docs/interop/qcow2.txt.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::{Cluster, Disk, OFFSET, invalid, read_table};
use crate::io::image::fill_at;

/// A layer over a raw base that can be read and written.
#[derive(Debug)]
pub struct Layer {
    disk: Disk,
    refcounts: Refcounts,
    l1_at: u64,
}

/// The cluster of an entry has no other user.
const COPIED: u64 = 1 << 63;
/// "The refcount blocks' entries have 2^order bits"; QEMU makes 16.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNT_BYTES: u64 = 2;

impl Layer {
    /// A layer over `base`, which is raw and never written. Layers with snapshots, or left dirty or damaged by a
    /// crash, are refused: nobody here makes such.
    pub fn open(file: File, base: File) -> io::Result<Self> {
        let mut head = [0; super::HEADER_BYTES];
        file.read_exact_at(&mut head, 0)?;
        let disk = Disk::open_layer(file, base)?;
        let long = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| head[at + index]));
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| head[at + index]));
        let (is_dirty, snapshots) = (long(72) & 1 != 0, word(60));
        if word(4) != 3 || word(96) != REFCOUNT_ORDER || is_dirty || snapshots != 0 {
            return Err(invalid("it is not a layer as this version of standin makes them"));
        }
        // "If software doesn't know about a bit, it must clear it": what it stands for is outdated by what follows.
        if long(88) != 0 {
            disk.file.write_all_at(&[0; 8], 88)?;
        }
        let refcounts = Refcounts::read(&disk.file, disk.cluster_bytes, long(48), word(56))?;
        Ok(Self { l1_at: long(40), refcounts, disk })
    }

    /// Writes what lies within one cluster.
    fn write_in_cluster(&mut self, bytes: &[u8]) -> io::Result<()> {
        let at = self.disk.at;
        let in_cluster = at % self.disk.cluster_bytes;
        let kept = match self.disk.cluster(at)? {
            Cluster::At(offset) => return self.disk.file.write_all_at(bytes, offset + in_cluster),
            Cluster::Packed(_) => return Err(invalid("it has packed clusters, which no layer has")),
            // Zeros may have a cluster of their own, which is used then.
            Cluster::Zeros => self.disk.entry(at)? & OFFSET,
            Cluster::Absent => 0,
        };
        // The rest of the cluster comes from where it was read until now.
        let mut cluster = Vec::new();
        self.disk.at = at - in_cluster;
        let length = self.disk.cluster_bytes;
        let read = (&mut self.disk).take(length).read_to_end(&mut cluster);
        self.disk.at = at;
        read?;
        cluster.resize(usize::try_from(self.disk.cluster_bytes).map_err(invalid)?, 0);
        let start = usize::try_from(in_cluster).map_err(invalid)?;
        cluster[start..start + bytes.len()].copy_from_slice(bytes);
        let offset = match kept {
            0 => self.refcounts.allocate(&self.disk.file)?,
            kept => kept,
        };
        self.disk.file.write_all_at(&cluster, offset)?;
        self.lead_to(at, offset)
    }

    /// Makes the tables lead to the cluster at `offset` of the file.
    fn lead_to(&mut self, at: u64, offset: u64) -> io::Result<()> {
        let disk = &mut self.disk;
        if disk.table_of(at) == 0 {
            let table = self.refcounts.allocate(&disk.file)?;
            let zeros = vec![0; usize::try_from(disk.cluster_bytes).map_err(invalid)?];
            disk.file.write_all_at(&zeros, table)?;
            let index = at >> (2 * disk.cluster_bits - 3);
            let entry = table | COPIED;
            disk.file.write_all_at(&entry.to_be_bytes(), self.l1_at + index * 8)?;
            disk.l1[usize::try_from(index).map_err(invalid)?] = entry;
        }
        let entries = disk.cluster_bytes / 8;
        let index = (at >> disk.cluster_bits) % entries;
        let entry = offset | COPIED;
        disk.file.write_all_at(&entry.to_be_bytes(), disk.table_of(at) + index * 8)?;
        // Also where it is not the table that was used last.
        disk.entry(at)?;
        disk.l2.1[usize::try_from(index).map_err(invalid)?] = entry;
        Ok(())
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(buffer)
    }
}

impl Seek for Layer {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

impl Write for Layer {
    /// Ends where the disk does, as a write to a block device.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let disk = &self.disk;
        let left = disk.cluster_bytes - disk.at % disk.cluster_bytes;
        let left = left.min(disk.bytes.saturating_sub(disk.at));
        let length = bytes.len().min(usize::try_from(left).map_err(invalid)?);
        if length > 0 {
            self.write_in_cluster(&bytes[..length])?;
            self.disk.at += length as u64;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which clusters of the file are used: a table of blocks of counters. The table does not grow: QEMU's first one,
/// with the 64 KiB clusters that it makes, is enough for 16 TiB.
#[derive(Debug)]
struct Refcounts {
    cluster_bytes: u64,
    table_at: u64,
    table: Vec<u64>,
    /// The first cluster behind all that is used.
    next: u64,
}

impl Refcounts {
    fn read(file: &File, cluster_bytes: u64, table_at: u64, table_clusters: u32) -> io::Result<Self> {
        let entries = usize::try_from(u64::from(table_clusters) * cluster_bytes / 8).map_err(invalid)?;
        let table = read_table(file, table_at, entries)?;
        let per_block = cluster_bytes / REFCOUNT_BYTES;
        // A cluster may be counted that was never written, and written that was not counted, if QEMU was killed.
        let mut next = file.metadata()?.len().div_ceil(cluster_bytes);
        for (index, entry) in (0..).zip(&table).filter(|(_, entry)| **entry & OFFSET != 0) {
            let mut block = vec![0; usize::try_from(cluster_bytes).map_err(invalid)?];
            fill_at(file, &mut block, entry & OFFSET)?;
            if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
                next = next.max(index * per_block + last as u64 / REFCOUNT_BYTES + 1);
            }
        }
        Ok(Self { cluster_bytes, table_at, table, next })
    }

    /// The offset of a cluster at the end of the file that from now on is used once.
    fn allocate(&mut self, file: &File) -> io::Result<u64> {
        let cluster = self.take();
        self.count(file, cluster)?;
        Ok(cluster * self.cluster_bytes)
    }

    fn take(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn count(&mut self, file: &File, cluster: u64) -> io::Result<()> {
        let per_block = self.cluster_bytes / REFCOUNT_BYTES;
        let index = usize::try_from(cluster / per_block).map_err(invalid)?;
        let entry = *self.table.get(index).ok_or_else(|| invalid("its table of refcounts is full"))?;
        let mut block = entry & OFFSET;
        if block == 0 {
            let taken = self.take();
            block = taken * self.cluster_bytes;
            file.write_all_at(&vec![0; usize::try_from(self.cluster_bytes).map_err(invalid)?], block)?;
            file.write_all_at(&block.to_be_bytes(), self.table_at + index as u64 * 8)?;
            self.table[index] = block;
            // It mostly counts itself.
            self.count(file, taken)?;
        }
        file.write_all_at(&1_u16.to_be_bytes(), block + cluster % per_block * REFCOUNT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const BASE_BYTES: usize = (5 << 20) + 777;
    /// Larger than the base, with half a cluster at its end, and with two tables of clusters.
    const DISK_BYTES: usize = (600 << 20) + 512;

    fn run(program: &str, words: &[&str]) -> String {
        let output = Command::new(program).args(words).output().unwrap_or_else(|error| {
            panic!("{program}: {error}; `scripts/install-packages --test` installs it")
        });
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {words:?}: {said}{output:?}");
        said
    }

    fn open(path: &Path) -> (Layer, Vec<u8>) {
        let layer = File::options().read(true).write(true).open(path.join("layer.qcow2")).unwrap();
        let base = std::fs::read(path.join("base.img")).unwrap();
        (Layer::open(layer, File::open(path.join("base.img")).unwrap()).unwrap(), base)
    }

    /// A number of xorshift64: the same in each run.
    fn random(state: &mut u64, below: usize) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 16).unwrap() % below
    }

    #[test]
    fn what_is_written_at_random_is_what_qemu_reads_and_the_file_is_without_fault() {
        let dir = tempfile::tempdir().unwrap();
        let [base, layer, oracle] =
            ["base.img", "layer.qcow2", "oracle.img"].map(|name| dir.path().join(name));
        let [base_name, layer_name, oracle_name] =
            [&base, &layer, &oracle].map(|path| path.to_str().unwrap());
        let mut state = 1;
        let content: Vec<u8> = (0..BASE_BYTES).map(|_| random(&mut state, 256) as u8).collect();
        std::fs::write(&base, &content).unwrap();
        let size = DISK_BYTES.to_string();
        for cluster_bytes in [2048, 4096, 65536] {
            let option = format!("cluster_size={cluster_bytes}");
            run(
                "qemu-img",
                &[
                    "create", "-q", "-f", "qcow2", "-b", base_name, "-F", "raw", "-o", &option, layer_name,
                    &size,
                ],
            );
            // QEMU has written to it before: data, and zeros with and without a cluster of their own.
            run(
                "qemu-io",
                &[
                    "-c",
                    "write -P 7 1M 200k",
                    "-c",
                    "write -z 2M 300k",
                    "-c",
                    "write -P 9 3M 128k",
                    "-c",
                    "write -z -u 3M 128k",
                    layer_name,
                ],
            );
            run("qemu-img", &["convert", "-O", "raw", layer_name, oracle_name]);
            let plain = File::options().read(true).write(true).open(&oracle).unwrap();
            let (mut written, _) = open(dir.path());
            for _ in 0..400 {
                // Mostly where the base is; here and there anywhere; and up to the very end.
                let reach = [6 << 20, 6 << 20, 4 << 20, DISK_BYTES][random(&mut state, 4)];
                let start = random(&mut state, reach);
                let longest = [600, 70_000, 300_000][random(&mut state, 3)];
                let length = random(&mut state, longest).min(DISK_BYTES - start);
                let bytes: Vec<u8> = (0..length).map(|_| random(&mut state, 256) as u8).collect();
                written.seek(SeekFrom::Start(start as u64)).unwrap();
                written.write_all(&bytes).unwrap();
                plain.write_all_at(&bytes, start as u64).unwrap();
            }
            written.seek(SeekFrom::End(-3)).unwrap();
            assert_eq!(written.write(b"abcdef").unwrap(), 3);
            plain.write_all_at(b"abc", DISK_BYTES as u64 - 3).unwrap();
            // What we read, before and after it is opened again, and what QEMU reads.
            let (mut reopened, base_now) = open(dir.path());
            for layer in [&mut written, &mut reopened] {
                for (start, length) in [(0, 7 << 20), (DISK_BYTES - (1 << 20), 1 << 20)] {
                    let (mut seen, mut wanted) = (vec![0; length], vec![0; length]);
                    layer.seek(SeekFrom::Start(start as u64)).unwrap();
                    layer.read_exact(&mut seen).unwrap();
                    plain.read_exact_at(&mut wanted, start as u64).unwrap();
                    assert!(seen == wanted, "{cluster_bytes}: what is read from byte {start} is another");
                }
            }
            let said = run("qemu-img", &["check", layer_name]);
            assert!(said.starts_with("No errors were found"), "{said}");
            run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", layer_name, oracle_name]);
            assert!(base_now == content, "the base was written");
        }
    }
}
