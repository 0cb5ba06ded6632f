//! Android sparse images: what vendors' flashing tools take, a list of chunks of which most are holes.
//!
//! From AOSP's system/core/libsparse/sparse_format.h. A packed one (`.img.gz`) is not looked into.

use std::io::{self, Read};

use super::digest::BLOCK_BYTES;
use super::pass::Out;

/// What the first four bytes are, as they stand in the file.
pub const MAGIC: [u8; 4] = [0x3a, 0xff, 0x26, 0xed];

const HEADER_BYTES: u16 = 28;
const CHUNK_HEADER_BYTES: u16 = 12;

const RAW: u16 = 0xcac1;
const FILL: u16 = 0xcac2;
const HOLE: u16 = 0xcac3;
const CRC: u16 = 0xcac4;

/// Puts the content of a sparse image; `told` is told how long it will be before it begins.
///
/// Lengths are checked, and that nothing stands behind the end. Checksums are not: those who write them disagree on
/// whether holes count, so nobody who reads them looks.
pub fn unsparse(file: &mut impl Read, out: &mut Out, told: impl FnOnce(u64)) -> io::Result<()> {
    let head = read::<{ HEADER_BYTES as usize }>(file)?;
    let (major, header, chunk_header) = (short(&head, 4), short(&head, 8), short(&head, 10));
    let (block_bytes, blocks, chunks) = (u64::from(word(&head, 12)), word(&head, 16), word(&head, 20));
    if (major, header, chunk_header) != (1, HEADER_BYTES, CHUNK_HEADER_BYTES) {
        return Err(invalid("its sparse header is of no known version"));
    }
    if block_bytes == 0 || block_bytes % 4 != 0 {
        return Err(invalid(format!("its blocks have {block_bytes} bytes, which is no multiple of 4")));
    }
    let bytes = u64::from(blocks) * block_bytes;
    out.check(bytes)?;
    told(bytes);
    for index in 0..chunks {
        let head = read::<{ CHUNK_HEADER_BYTES as usize }>(file)?;
        let (kind, length) = (short(&head, 0), u64::from(word(&head, 4)) * block_bytes);
        let stored = u64::from(word(&head, 8)).checked_sub(u64::from(CHUNK_HEADER_BYTES));
        let end = out.offset() + length;
        if end > bytes {
            return Err(invalid(format!("chunk {index} reaches behind the end of {bytes} bytes")));
        }
        match (kind, stored) {
            (RAW, Some(stored)) if stored == length => out.put_all(&mut file.take(length))?,
            (FILL, Some(4)) => fill(read(file)?, end, out)?,
            (HOLE, Some(0)) => fill([0; 4], end, out)?,
            (CRC, Some(4)) if length == 0 => drop(read::<4>(file)?),
            _ => return Err(invalid(format!("chunk {index} is of no known kind, or of a wrong length"))),
        }
        if out.offset() != end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if out.offset() != bytes {
        return Err(invalid(format!("its chunks end at byte {}, and it should have {bytes}", out.offset())));
    }
    if file.read(&mut [0])? != 0 {
        return Err(invalid("garbage behind the end of the sparse image"));
    }
    Ok(())
}

/// Puts four bytes again and again up to `end`; zeros where blocks begin become a hole.
fn fill(pattern: [u8; 4], end: u64, out: &mut Out) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    if pattern == [0; 4] && out.offset().is_multiple_of(block) && end.is_multiple_of(block) {
        return out.jump(end);
    }
    struct Pattern([u8; 4]);
    impl Read for Pattern {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.iter_mut().zip(self.0.iter().cycle()).for_each(|(at, from)| *at = *from);
            self.0.rotate_left(buffer.len() % 4);
            Ok(buffer.len())
        }
    }
    let length = end - out.offset();
    out.put_all(&mut Pattern(pattern).take(length))
}

fn read<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn invalid(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.into())
}
