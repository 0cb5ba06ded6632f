//! Changes of a disk that are kept in memory until all of them are known to succeed.
//!
//! Whoever looks into a disk that may be damaged, or changes it, works on a [`Staged`] one: what fails on the way
//! has changed nothing, and neither has what is dropped. Reading is bounded, because damaged structures may lead
//! around in a circle.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// A disk with changes that only we see.
#[derive(Debug)]
pub struct Staged<T> {
    disk: T,
    size: u64,
    at: u64,
    changed: BTreeMap<u64, Vec<u8>>,
    /// The block that was read last, as file systems are read in small pieces.
    last: (u64, Vec<u8>),
    budget: u64,
}

/// The disk itself could not be read or written, whatever stands on it: the fault of the host.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostFault(#[source] pub io::Error);

/// Small enough that little is read for nothing, and large enough for few calls of the kernel.
const BLOCK_BYTES: u64 = 4096;

/// What may be read in all: the largest content of a card's boot partition, and generous room for tables.
const READ_BUDGET_BYTES: u64 = 2 << 30;

impl<T: Read + Seek> Staged<T> {
    /// A disk without changes, as long as it is now.
    pub fn new(mut disk: T) -> io::Result<Self> {
        let size = disk.seek(SeekFrom::End(0)).map_err(host_fault)?;
        Ok(Self::with_size(disk, size))
    }

    /// The same, of another length: behind its end it has zeros, as an image has on a larger medium. With what
    /// is changed there it cannot be committed.
    pub fn with_size(disk: T, size: u64) -> Self {
        let last = (u64::MAX, Vec::new());
        Self { disk, size, at: 0, changed: BTreeMap::new(), last, budget: READ_BUDGET_BYTES }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn block(&mut self, index: u64) -> io::Result<&mut Vec<u8>> {
        if let Some(changed) = self.changed.get_mut(&index) {
            return Ok(changed);
        }
        if self.last.0 != index {
            let start = index * BLOCK_BYTES;
            let length = BLOCK_BYTES.min(self.size - start);
            self.last = (u64::MAX, Vec::new());
            let mut block = Vec::new();
            self.disk.seek(SeekFrom::Start(start)).map_err(host_fault)?;
            (&mut self.disk).take(length).read_to_end(&mut block).map_err(host_fault)?;
            block.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            self.last = (index, block);
        }
        Ok(&mut self.last.1)
    }

    /// Where the next byte lies in its block, and how many of `wanted` bytes follow in there.
    fn piece(&self, wanted: usize) -> (u64, usize, usize) {
        let (index, start) = (self.at / BLOCK_BYTES, self.at % BLOCK_BYTES);
        let left = (BLOCK_BYTES - start).min(self.size.saturating_sub(self.at));
        // Both are at most the length of a block.
        (index, start as usize, wanted.min(left as usize))
    }
}

impl<T: Read + Write + Seek> Staged<T> {
    /// Brings the changes to the disk. Failed, or cut short, it has brought some of them.
    pub fn commit(mut self) -> io::Result<()> {
        for (index, block) in &self.changed {
            self.disk.seek(SeekFrom::Start(index * BLOCK_BYTES))?;
            self.disk.write_all(block)?;
        }
        self.disk.flush()
    }
}

impl<T: Read + Seek> Read for Staged<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (index, start, length) = self.piece(buffer.len());
        // One is for the call itself, so that even reads of nothing come to an end.
        let left = self.budget.checked_sub(length as u64 + 1);
        self.budget = left.ok_or_else(|| io::Error::other("its structures lead around in a circle"))?;
        if length > 0 {
            buffer[..length].copy_from_slice(&self.block(index)?[start..start + length]);
            self.at += length as u64;
        }
        Ok(length)
    }
}

impl<T: Read + Seek> Write for Staged<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (index, start, length) = self.piece(bytes.len());
        if length > 0 {
            let block = self.block(index)?;
            block[start..start + length].copy_from_slice(&bytes[..length]);
            if self.last.0 == index {
                let (index, block) = std::mem::replace(&mut self.last, (u64::MAX, Vec::new()));
                self.changed.insert(index, block);
            }
            self.at += length as u64;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T> Seek for Staged<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(distance) => self.size.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = target.ok_or_else(|| io::Error::other("a seek to before the beginning"))?;
        Ok(self.at)
    }
}

fn host_fault(error: io::Error) -> io::Error {
    io::Error::other(HostFault(error))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_disk_changes_only_when_its_changes_are_committed() {
        let mut bytes: Vec<u8> = (0..10_000_u32).map(|index| index as u8).collect();
        let old = bytes.clone();
        for commits in [false, true] {
            let mut staged = Staged::new(Cursor::new(&mut bytes)).unwrap();
            let mut seen = Vec::new();
            staged.seek(SeekFrom::Start(4000)).unwrap();
            staged.write_all(&[7; 200]).unwrap();
            staged.seek(SeekFrom::End(-2)).unwrap();
            assert!(staged.write_all(b"abc").is_err(), "a disk does not grow");
            staged.seek(SeekFrom::Start(0)).unwrap();
            staged.read_to_end(&mut seen).unwrap();
            if commits {
                staged.commit().unwrap();
            }
            let wanted = [&old[..4000], &[7; 200], &old[4200..9998], b"ab"].concat();
            assert!(seen == wanted);
            assert!(bytes == if commits { wanted } else { old.clone() });
        }
    }

    #[test]
    fn a_disk_that_is_made_longer_has_zeros_behind_its_end() {
        let mut staged = Staged::with_size(Cursor::new(vec![1; 5000]), 10_000);
        let mut seen = Vec::new();
        staged.read_to_end(&mut seen).unwrap();
        assert!(seen == [vec![1; 5000], vec![0; 5000]].concat());
    }
}
