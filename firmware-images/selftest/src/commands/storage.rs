//! Commands that use the disk. Blocks are counted from the beginning of the disk.

use super::argument;
use crate::board::Board;
use crate::disk::TRANSFER_BYTES;
use crate::image::{Hex, LINE_END_BYTES, LINE_OFFSET_BYTES};
use crate::pattern;
use crate::reason::Reason;
use crate::serial::say;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};

pub fn disk(_: &[String], board: &mut Board) -> Result<(), Reason> {
    let disk = board.disk()?;
    say(format_args!("sectors {} bytes-per-sector {}", disk.block_count, disk.block_bytes));
    Ok(())
}

pub fn read(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let (first, count) = (argument(arguments, 0)?, argument(arguments, 1)?);
    let mut digest = Sha256::new();
    board.disk()?.read(first, count, |_, data| {
        digest.update(data);
        Ok(())
    })?;
    say(format_args!("sha256 {}", Hex(&digest.finalize())));
    Ok(())
}

/// The image itself is not written, so that the guest boots again.
pub fn write(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let (first, count) = (argument(arguments, 0)?, argument(arguments, 1)?);
    let word: String = argument(arguments, 2)?;
    let image_bytes = board.image.as_ref().map_err(Reason::clone)?.bytes;
    let disk = board.disk()?;
    let block_bytes = disk.block_bytes;
    let first_free = image_bytes.div_ceil(block_bytes as u64);
    if first < first_free {
        return Err(Reason::from(format!("the image lies there, up to block {first_free}")));
    }
    disk.write(first, count, |block, data| pattern::fill(&word, block, block_bytes, data))
}

pub fn check(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let (first, count) = (argument(arguments, 0)?, argument(arguments, 1)?);
    let word: String = argument(arguments, 2)?;
    let disk = board.disk()?;
    let block_bytes = disk.block_bytes;
    disk.read(first, count, |block, data| match pattern::first_difference(&word, block, block_bytes, data) {
        None => Ok(()),
        Some(block) => Err(Reason::from(format!("block {block} differs"))),
    })
}

pub fn flush(_: &[String], board: &mut Board) -> Result<(), Reason> {
    board.disk()?.flush()
}

/// As an installer does: the whole image onto a disk that cannot be taken out.
pub fn install(_: &[String], board: &mut Board) -> Result<(), Reason> {
    let image_bytes = board.image.as_ref().map_err(Reason::clone)?.bytes;
    let source = board.disk.as_mut().map_err(|reason| reason.clone())?;
    let mut target = board.firmware.open_other_disk(board.acpi.as_ref(), source)?;
    if target.block_bytes != source.block_bytes {
        return Err(Reason::from("the disks have blocks of different sizes"));
    }
    let (blocks, step) =
        (image_bytes / source.block_bytes as u64, (TRANSFER_BYTES / source.block_bytes) as u64);
    for first in (0..blocks).step_by(step as usize) {
        let count = step.min(blocks - first);
        let mut piece = Vec::new();
        source.read(first, count, |_, data| {
            piece.extend_from_slice(data);
            Ok(())
        })?;
        if first == 0 {
            piece[LINE_OFFSET_BYTES..LINE_END_BYTES].fill(0);
        }
        target.write(first, count, |_, data| data.copy_from_slice(&piece))?;
    }
    target.flush()?;
    say(format_args!("installed {image_bytes} bytes"));
    Ok(())
}
