//! The Raspberry Pi's SD host (Arasan's SDHCI at 0x3f300000) and the card in it: polled, without
//! DMA.
//!
//! Names are those of the "SD Host Controller Simplified Specification" 3.00, chapter 2, and of
//! the "Physical Layer Simplified Specification", chapter 4.

use crate::reason::Reason;
use alloc::format;

const BASE: usize = 0x3f30_0000;
const BLOCK: usize = 0x04;
const ARGUMENT: usize = 0x08;
const COMMAND: usize = 0x0c;
const RESPONSE: usize = 0x10;
const DATA: usize = 0x20;
const HOST_CONTROL: usize = 0x28;
const CLOCK: usize = 0x2c;
const STATUS: usize = 0x30;
const STATUS_ENABLE: usize = 0x34;

const STATUS_COMMAND_DONE: u32 = 1 << 0;
const STATUS_TRANSFER_DONE: u32 = 1 << 1;
const STATUS_WRITE_READY: u32 = 1 << 4;
const STATUS_READ_READY: u32 = 1 << 5;
const STATUS_ERROR: u32 = 1 << 15;

/// In the upper half of the command register: what answer is expected.
const NO_ANSWER: u32 = 0;
const LONG_ANSWER: u32 = 0x09 << 16;
const SHORT_ANSWER: u32 = 0x1a << 16;
const SHORT_ANSWER_UNCHECKED: u32 = 0x02 << 16;
const BUSY_ANSWER: u32 = 0x1b << 16;
const WITH_DATA: u32 = 0x20 << 16;
/// In the lower half: many blocks, counted, ended by the host itself.
const MANY: u32 = 1 << 5 | 1 << 2 | 1 << 1;
const FROM_CARD: u32 = 1 << 4;

/// More than any command takes under TCG.
const PATIENCE: u32 = 50_000_000;

pub const BLOCK_BYTES: usize = 512;

/// The host with a card that is ready for data.
pub struct SdHost {
    pub block_count: u64,
    /// Whether the card counts in blocks; small cards count in bytes.
    counts_blocks: bool,
}

impl SdHost {
    /// Resets the host and brings the card up.
    pub fn begin() -> Result<SdHost, Reason> {
        write(CLOCK, 1 << 24); // reset
        wait(|| read(CLOCK) & 1 << 24 == 0)?;
        write(HOST_CONTROL, 0x0f << 8); // power
        write(CLOCK, 0x0e_8005); // longest timeout, slow clock, both clocks on
        wait(|| read(CLOCK) & 1 << 1 != 0)?;
        write(STATUS_ENABLE, u32::MAX);

        command(0, 0, NO_ANSWER)?;
        command(8, 0x1aa, SHORT_ANSWER)?;
        let mut conditions = 0;
        for _ in 0..1000 {
            command(55, 0, SHORT_ANSWER)?;
            conditions = command(41, 0x40ff_8000, SHORT_ANSWER_UNCHECKED)?;
            if conditions & 1 << 31 != 0 {
                break;
            }
        }
        command(2, 0, LONG_ANSWER)?;
        let address = command(3, 0, SHORT_ANSWER)? & 0xffff_0000;
        command(9, address, LONG_ANSWER)?;
        let block_count = capacity();
        command(7, address, BUSY_ANSWER)?;
        command(16, BLOCK_BYTES as u32, SHORT_ANSWER)?;
        Ok(SdHost { block_count, counts_blocks: conditions & 1 << 30 != 0 })
    }

    /// Fills the buffer, which is in whole blocks.
    pub fn read(&mut self, block: u64, buffer: &mut [u8]) -> Result<(), Reason> {
        self.start(18, block, buffer.len(), MANY | FROM_CARD)?;
        for part in buffer.chunks_exact_mut(BLOCK_BYTES) {
            wait_for(STATUS_READ_READY)?;
            part.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&read(DATA).to_le_bytes()));
        }
        wait_for(STATUS_TRANSFER_DONE)
    }

    /// Writes the buffer, which is in whole blocks.
    pub fn write(&mut self, block: u64, buffer: &[u8]) -> Result<(), Reason> {
        self.start(25, block, buffer.len(), MANY)?;
        for part in buffer.chunks_exact(BLOCK_BYTES) {
            wait_for(STATUS_WRITE_READY)?;
            for word in part.chunks_exact(4) {
                write(DATA, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        wait_for(STATUS_TRANSFER_DONE)
    }

    fn start(&self, index: u32, block: u64, bytes: usize, mode: u32) -> Result<(), Reason> {
        write(BLOCK, ((bytes / BLOCK_BYTES) as u32) << 16 | BLOCK_BYTES as u32);
        let place = if self.counts_blocks { block } else { block * BLOCK_BYTES as u64 };
        command(index, place as u32, SHORT_ANSWER | WITH_DATA | mode).map(|_| ())
    }
}

/// The card's size in blocks, from its CSD, of which the host keeps bits 8 to 127.
fn capacity() -> u64 {
    let csd = (0..4).rev().fold(0_u128, |csd, word| csd << 32 | u128::from(read(RESPONSE + 4 * word))) << 8;
    let field = |high: u32, low: u32| (csd >> low) as u64 & ((1 << (high - low + 1)) - 1);
    match field(127, 126) {
        0 => (field(73, 62) + 1) << (field(49, 47) + 2 + field(83, 80) - 9),
        _ => (field(69, 48) + 1) * 1024,
    }
}

/// Sends a command and returns the first word of the answer.
fn command(index: u32, argument: u32, kind: u32) -> Result<u32, Reason> {
    write(STATUS, u32::MAX); // written to be cleared
    write(ARGUMENT, argument);
    write(COMMAND, index << 24 | kind);
    wait_for(STATUS_COMMAND_DONE).map_err(|reason| Reason::from(format!("SD command {index}: {reason}")))?;
    Ok(read(RESPONSE))
}

fn wait_for(wanted: u32) -> Result<(), Reason> {
    wait(|| read(STATUS) & (wanted | STATUS_ERROR) != 0)?;
    if read(STATUS) & STATUS_ERROR != 0 {
        return Err(Reason::from("the SD card does not answer"));
    }
    write(STATUS, wanted);
    Ok(())
}

fn wait(mut done: impl FnMut() -> bool) -> Result<(), Reason> {
    (0..PATIENCE).any(|_| done()).then_some(()).ok_or(Reason::from("the SD host does not answer"))
}

fn read(register: usize) -> u32 {
    // SAFETY: the register exists on this board, and is mapped.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}
