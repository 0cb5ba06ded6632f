//! What a machine's screen shows, by QMP's `screendump`, and whether that is the guest's picture at all.
//!
//! `device::screen` asks, one dump at a time. The dump goes through a file, which is removed as soon as it was
//! read; one that was abandoned goes with the next dump or the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::machine::Contact;
use super::monitor::MonitorError;
use crate::deadline::Deadline;
use crate::io::picture::{Picture, PictureError};
use crate::sys::blocking::blocking;

/// The screen could not be seen. Always the lab's fault: a guest that draws nothing has a picture, or no signal.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// QEMU did not dump it.
    #[error("cannot see the screen")]
    Monitor(#[from] MonitorError),
    /// The dump cannot be read.
    #[error("cannot read the dump of the screen {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The dump is no picture.
    #[error("QEMU's dump of the screen makes no sense")]
    Format(#[from] PictureError),
}

/// The name of the file that dumps go through.
pub const DUMP: &str = "screen.ppm";

/// Has QEMU dump the screen into a file in `folder`, to be read by [`read`].
///
/// PPM and not PNG, as QEMU dumps in its main loop, in which it also plays the board's devices: at 1280x800 a PPM
/// takes it some 11 ms and a PNG 42 ms (QEMU 7.2). Cancelled, it leaves a file at most, which QEMU may still write.
pub async fn dump(machine: &Contact, folder: &Path, deadline: Deadline) -> Result<(), MonitorError> {
    // No `format`: it came with QEMU 7.1, and PPM has always been the default.
    let arguments = json!({ "filename": folder.join(DUMP) });
    machine.execute_raw("screendump", arguments, deadline).await.map(drop)
}

/// Reads and removes the dump; `None` if the guest gives no signal. `turn` is what keeps others from dumping into the
/// same file; it comes back, or is dropped when the file has gone, also if this is cancelled.
pub async fn read<T: Send + 'static>(folder: &Path, turn: T) -> (T, Result<Option<Picture>, DumpError>) {
    let path = folder.join(DUMP);
    blocking(move || {
        let picture = take(&path)
            .map_err(|source| DumpError::Read { path, source })
            .and_then(|bytes| Ok(Picture::from_ppm(&bytes)?));
        (turn, picture.map(|picture| if is_placeholder(&picture) { None } else { Some(picture) }))
    })
    .await
}

fn take(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    fs::remove_file(path)?;
    Ok(bytes)
}

/// QEMU draws a sentence on the screen while the guest drives none: `qemu_create_placeholder_surface` in its
/// ui/console.c, and who calls it. The length of the sentence, and its bits' digest.
const PLACEHOLDERS: [(u32, u64); 2] = [
    (44, 0x66ce_b132_7382_aab3), // Guest has not initialized the display (yet).
    (29, 0x6538_eb33_04bd_b8f5), // Display output is not active.
];

/// QEMU's font, in pixels, and its grey.
const LETTER: (u32, u32) = (8, 16);
const GREY: [u8; 3] = [0xaa; 3];

/// Whether this is QEMU's sentence in the middle of an otherwise black screen, and so no picture of the guest's.
fn is_placeholder(picture: &Picture) -> bool {
    let (columns, rows) = (picture.width() / LETTER.0, picture.height() / LETTER.1);
    let lit = || {
        (0..picture.height())
            .flat_map(|y| (0..picture.width()).map(move |x| (x, y)))
            .filter(|(x, y)| picture.pixel(*x, *y) != [0; 3])
    };
    let top = rows.saturating_sub(1) / 2 * LETTER.1;
    if !picture.begins_black(top) {
        return false; // as nearly every picture of a guest's
    }
    PLACEHOLDERS.iter().any(|(letters, digest)| {
        let left = columns.saturating_sub(*letters) / 2 * LETTER.0;
        let (right, bottom) = (left + letters * LETTER.0, top + LETTER.1);
        let inside = |(x, y): (u32, u32)| (left..right).contains(&x) && (top..bottom).contains(&y);
        right <= picture.width()
            && lit().all(|(x, y)| inside((x, y)) && picture.pixel(x, y) == GREY)
            && digest_of(picture, (left..right, top..bottom)) == *digest
    })
}

/// FNV-1a, by its published constants, over one byte a pixel: 1 if it is lit.
fn digest_of(picture: &Picture, (columns, rows): (std::ops::Range<u32>, std::ops::Range<u32>)) -> u64 {
    let bits = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
    bits.map(|(x, y)| u64::from(picture.pixel(x, y) != [0; 3]))
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, bit| (hash ^ bit).wrapping_mul(0x0100_0000_01b3))
}
