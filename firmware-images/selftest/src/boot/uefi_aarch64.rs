//! The way in from aarch64 UEFI: relocate, then call [`crate::uefi::start`].

use core::arch::global_asm;

global_asm!(
    r#"
    .text
    .globl uefi_entry
uefi_entry:
    adrp x8, image_start
    add x8, x8, :lo12:image_start
    adrp x9, __relocations_start
    add x9, x9, :lo12:__relocations_start
    adrp x10, __relocations_end
    add x10, x10, :lo12:__relocations_end
2:  cmp x9, x10
    b.hs 3f
    ldr x11, [x9]                   // all are R_AARCH64_RELATIVE: place, kind, addend
    ldr x12, [x9, #16]
    add x12, x12, x8
    str x12, [x11, x8]
    add x9, x9, #24
    b 2b
3:  bl {start}
    "#,
    start = sym crate::uefi::start,
);
