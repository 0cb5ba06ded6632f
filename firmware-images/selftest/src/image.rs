//! The image that was flashed: how long it is, and what its bytes on the medium hash to.

use crate::disk::Disk;
use crate::reason::Reason;
use alloc::string::String;
use sha2::{Digest, Sha256};

/// Where the header lies, behind the partition table. `build.rs` of standin writes it there, and
/// the boot sector reads the fields after the length.
const HEADER_OFFSET_BYTES: usize = 512;
const MAGIC: &[u8; 16] = b"standin selftest";
/// Where the line begins in the header: behind length, first block and block count of the guest.
pub const LINE_OFFSET_BYTES: usize = HEADER_OFFSET_BYTES + 32;
/// The header ends with its block.
pub const LINE_END_BYTES: usize = 2 * HEADER_OFFSET_BYTES;

/// What is told of the image.
pub struct Image {
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// What is run before the first prompt; empty in the image as it is built.
    pub line: String,
}

/// Reads the header: the length of the image in bytes, and the line that is run at boot.
pub fn header(disk: &mut Disk) -> Result<(u64, String), Reason> {
    let block_bytes = disk.block_bytes;
    let (block, offset) = (HEADER_OFFSET_BYTES / block_bytes, HEADER_OFFSET_BYTES % block_bytes);
    let (mut bytes, mut line) = (0, String::new());
    disk.read(block as u64, 1, |_, data| {
        let header = &data[offset..];
        if header[..16] != *MAGIC {
            return Err(Reason::from("the disk does not carry the selftest image"));
        }
        let mut length = [0; 8];
        length.copy_from_slice(&header[16..24]);
        bytes = u64::from_le_bytes(length);
        let text = &header[LINE_OFFSET_BYTES - HEADER_OFFSET_BYTES..LINE_END_BYTES - HEADER_OFFSET_BYTES];
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        line = String::from_utf8_lossy(&text[..end]).into_owned();
        Ok(())
    })?;
    Ok((bytes, line))
}

/// Reads the whole image back.
pub fn read(disk: &mut Disk) -> Result<Image, Reason> {
    let (bytes, line) = header(disk)?;
    let blocks = bytes.div_ceil(disk.block_bytes as u64);
    let mut left = bytes as usize;
    let mut digest = Sha256::new();
    disk.read(0, blocks, |_, data| {
        let part = data.len().min(left);
        digest.update(&data[..part]);
        left -= part;
        Ok(())
    })?;
    Ok(Image { bytes, sha256: digest.finalize().into(), line })
}

/// Bytes as lower-case hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
