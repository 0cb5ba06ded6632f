//! The way in for a boot loader that knows Linux kernels: a Raspberry Pi's, or QEMU's `-kernel`.
//!
//! The same file is also an arm64 kernel image (Linux's `Documentation/arch/arm64/booting.rst`):
//! its 64-byte header shares the first page with the PE header, as in Linux itself. Loaded in the
//! first GiB it runs on a Raspberry Pi 3, where memory ends and devices begin at 0x3f000000;
//! elsewhere on QEMU's `virt`, which has devices in the first GiB and memory from the second on.
//!
//! Memory is mapped one to one: normal memory, or else unaligned accesses would be faults.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .head.first, "ax"
    .globl image_start
    .hidden image_start
image_start:
    .4byte 0x91005a4d               // "MZ", and an instruction without consequence
    b bare_entry
    .8byte 0                        // text_offset
    .8byte __image_end - image_start    // image_size
    .8byte 0xa                      // flags: pages of 4 KiB, to be placed anywhere
    .8byte 0, 0, 0
    .ascii "ARM\x64"

    .text
    .globl bare_entry
bare_entry:
    msr daifset, #15
    mrs x1, currentel
    cmp x1, #(2 << 2)
    b.ne 2f
    mov x1, #(1 << 31)              // from the hypervisor's level down to the kernel's: 64 bits,
    msr hcr_el2, x1
    mov x1, #0x33ff                 // FPU and
    msr cptr_el2, x1
    mrs x1, cnthctl_el2             // timers are free to use
    orr x1, x1, #3
    msr cnthctl_el2, x1
    msr cntvoff_el2, xzr
    mov x1, #0x3c5
    msr spsr_el2, x1
    adr x1, 2f
    msr elr_el2, x1
    eret
2:  mov x1, #(3 << 20)
    msr cpacr_el1, x1

    adrp x8, image_start
    add x8, x8, :lo12:image_start
    adrp x9, __file_end
    add x9, x9, :lo12:__file_end
    adrp x10, __image_end
    add x10, x10, :lo12:__image_end
3:  cmp x9, x10
    b.hs 4f
    stp xzr, xzr, [x9], #16
    b 3b
4:  adrp x9, __relocations_start
    add x9, x9, :lo12:__relocations_start
    adrp x10, __relocations_end
    add x10, x10, :lo12:__relocations_end
5:  cmp x9, x10
    b.hs 6f
    ldr x11, [x9]                   // all are R_AARCH64_RELATIVE: place, kind, addend
    ldr x12, [x9, #16]
    add x12, x12, x8
    str x12, [x11, x8]
    add x9, x9, #24
    b 5b

6:  adrp x9, first_level            // entries are 1 GiB; 0x401 is a device, 0x705 normal memory
    mov x11, #0x401
    mov x12, #0x705
    mov x13, #0x40000000
    lsr x10, x8, #30
    cbnz x10, 9f
    adrp x14, second_level          // Raspberry Pi: entries of 2 MiB in the first GiB
    orr x15, x14, #3
    str x15, [x9]
    orr x15, x13, x11               // the cores' own devices
    str x15, [x9, #8]
    mov x10, #0
7:  lsl x15, x10, #21
    cmp x10, #504
    b.hs 8f
    orr x15, x15, x12
    b 10f
8:  orr x15, x15, x11
10: str x15, [x14, x10, lsl #3]
    add x10, x10, #1
    cmp x10, #512
    b.ne 7b
    b 12f
9:  str x11, [x9]                   // virt
    mov x10, #1
11: orr x15, x12, x10, lsl #30
    str x15, [x9, x10, lsl #3]
    add x10, x10, #1
    cmp x10, #5
    b.ne 11b
    mov x10, #256                   // PCI's configuration space
    orr x15, x11, x10, lsl #30
    str x15, [x9, x10, lsl #3]

12: msr ttbr0_el1, x9
    mov x1, #0xff00                 // kind 0: device, kind 1: memory, cached
    msr mair_el1, x1
    mov x1, #0x3519                 // 39 bits of addresses, in pages of 4 KiB,
    movk x1, #0x80, lsl #16
    movk x1, #2, lsl #32            // 40 of them physical
    msr tcr_el1, x1
    tlbi vmalle1
    dsb sy
    isb
    mov x1, #0x1805                 // MMU and caches
    movk x1, #0x30d0, lsl #16
    msr sctlr_el1, x1
    isb
    adrp x1, stack_top
    mov sp, x1
    mov x0, x8
    bl {start}

    // Where the other cores sleep for ever.
    .globl parked
parked:
    wfi
    b parked

    .section .bss.boot, "aw", @nobits
    .balign 4096
first_level: .skip 4096
second_level: .skip 4096
    .skip 131072
stack_top:
    .skip 4096
    "#,
    start = sym crate::bare::start,
);
