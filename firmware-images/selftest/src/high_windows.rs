//! Windows of devices above 4 GiB, which `boot/bios.rs` has not mapped.
//!
//! SeaBIOS puts large windows there, and newer versions small ones, too, where there is enough
//! memory. UEFI has mapped all of them itself, so its tables are left alone.

use crate::heap::Pages;
use core::arch::asm;
use core::mem::ManuallyDrop;

/// As in `boot/bios.rs`.
const PAGE_TABLES: u64 = 0x10_0000;
const LARGE_PAGE_BYTES: u64 = 2 << 20;

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 1 << 7;
const UNCACHED: u64 = 1 << 4;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Maps a window one to one, if the page tables are ours and have not mapped it.
pub fn map(start: u64, bytes: u64) {
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack)) };
    if root & ADDRESS != PAGE_TABLES {
        return;
    }
    let mut page = start & !(LARGE_PAGE_BYTES - 1);
    while page < start + bytes {
        let second = below(root & ADDRESS, page >> 39 & 511);
        let third = below(second, page >> 30 & 511);
        let entry = entry(third, page >> 21 & 511);
        // SAFETY: the entry is in a table of ours; one that is present is left as it is.
        unsafe {
            if entry.read_volatile() & 1 == 0 {
                entry.write_volatile(page | LARGE | UNCACHED | PRESENT_WRITABLE);
            }
        }
        page += LARGE_PAGE_BYTES;
    }
}

/// The table that an entry leads to; a new one if there is none.
fn below(table: u64, index: u64) -> u64 {
    let entry = entry(table, index);
    // SAFETY: the entry is in a table of ours, and the new table is never freed.
    unsafe {
        if entry.read_volatile() & 1 == 0 {
            let new = ManuallyDrop::new(Pages::with_bytes(4096));
            entry.write_volatile(new.address() | PRESENT_WRITABLE);
        }
        entry.read_volatile() & ADDRESS
    }
}

fn entry(table: u64, index: u64) -> *mut u64 {
    (table + index * 8) as *mut u64
}
