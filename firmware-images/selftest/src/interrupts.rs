//! The two interrupts that wake an idle PC under a BIOS, and the exceptions that stop it.
//!
//! The timer ticks every two milliseconds, and COM1 interrupts for each byte. Both only end a
//! `hlt`: they are let through nowhere else. Handlers have a stack of their own, because compiled
//! code uses memory below the stack pointer (the red zone).

use crate::ports::write_byte;
use crate::{fault, serial};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

/// The PIT counts at 1.193182 MHz; this many make two milliseconds.
const TICK_COUNTS: u16 = 2386;

/// The interrupt controllers are moved to where no exception is.
const FIRST_INTERRUPT: u8 = 0x20;
const TIMER: usize = 0x20;
const COM1: usize = 0x24;
/// What a request that has gone away is answered with.
const SPURIOUS: usize = 0x27;

const CODE_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

unsafe extern "C" {
    fn interrupt_wakes();
    fn interrupt_is_spurious();
    fn exception_stops();
}

global_asm!(
    r#"
    .text
interrupt_wakes:
    push rax
    mov al, 0x20                    // end of interrupt
    out 0x20, al
    pop rax
interrupt_is_spurious:
    iretq
exception_stops:
    cld
    and rsp, -16
    call {exception}
    "#,
    exception = sym exception,
);

extern "C" fn exception() -> ! {
    serial::say(format_args!("panic: an exception of the CPU"));
    fault::halt()
}

/// The tables that the CPU reads, and the handlers' stack.
#[repr(C, align(16))]
struct Tables {
    descriptors: [u64; 6],
    gates: [[u64; 2]; 48],
    task: [u32; 26],
    stack: [u8; 4096],
}

struct Shared(UnsafeCell<Tables>);

// SAFETY: there is one CPU, and only `begin` writes to it.
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    // The same selectors as in the boot sector: none, 32-bit code, data, 64-bit code, task.
    descriptors: [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff, 0, 0],
    gates: [[0; 2]; 48],
    task: [0; 26],
    stack: [0; 4096],
}));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

fn gate(handler: unsafe extern "C" fn()) -> [u64; 2] {
    let address = handler as *const () as u64;
    let low = (address & 0xffff)
        | u64::from(CODE_SELECTOR) << 16
        | 1 << 32 // first entry of the interrupt stack table
        | 0x8e << 40 // present, interrupt gate
        | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}

/// Sets everything up. Interrupts stay off, but for [`rest`].
pub fn begin() {
    // SAFETY: called once, before any interrupt is let through.
    let tables = unsafe { &mut *TABLES.0.get() };
    for number in 0..32 {
        tables.gates[number] = gate(exception_stops);
    }
    tables.gates[TIMER] = gate(interrupt_wakes);
    tables.gates[COM1] = gate(interrupt_wakes);
    tables.gates[SPURIOUS] = gate(interrupt_is_spurious);

    let stack_top = tables.stack.as_ptr_range().end as u64;
    tables.task[9] = stack_top as u32;
    tables.task[10] = (stack_top >> 32) as u32;
    let task = tables.task.as_ptr() as u64;
    tables.descriptors[4] = 103 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    tables.descriptors[5] = task >> 32;

    let descriptors = TablePointer { limit: 47, base: tables.descriptors.as_ptr() as u64 };
    let gates = TablePointer { limit: 48 * 16 - 1, base: tables.gates.as_ptr() as u64 };
    // SAFETY: the new table has the same code and data segments at the same places.
    unsafe {
        asm!(
            "lgdt [{descriptors}]", "lidt [{gates}]", "ltr {task:x}",
            descriptors = in(reg) &descriptors, gates = in(reg) &gates, task = in(reg) TASK_SELECTOR,
            options(nostack),
        );
    }

    for (port, value) in [
        // Both controllers: begin, first vector, how they are joined, 8086 mode, mask.
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, FIRST_INTERRUPT),
        (0xa1, FIRST_INTERRUPT + 8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, !(1 << 0 | 1 << 4)),
        (0xa1, 0xff),
        // Timer 0: rate generator.
        (0x43, 0x34),
        (0x40, TICK_COUNTS as u8),
        (0x40, (TICK_COUNTS >> 8) as u8),
    ] {
        write_byte(port, value);
    }
}

/// Sleeps until one of the two.
pub fn rest() {
    // SAFETY: the handlers change nothing; `sti` takes effect after `hlt` has begun.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}
