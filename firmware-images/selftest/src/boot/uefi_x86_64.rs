//! The way in from x86-64 UEFI: relocate, then call [`crate::uefi::start`].

use core::arch::global_asm;

global_asm!(
    r#"
    .text
    .globl uefi_entry
uefi_entry:
    sub rsp, 40                     // shadow space of the Microsoft convention, and alignment
    lea r8, [rip + image_start]
    lea r9, [rip + __relocations_start]
    lea r10, [rip + __relocations_end]
2:  cmp r9, r10
    jae 3f
    mov rax, [r9]                   // all are R_X86_64_RELATIVE: place, kind, addend
    mov r11, [r9 + 16]
    add r11, r8
    mov [rax + r8], r11
    add r9, 24
    jmp 2b
3:  call {start}
    "#,
    start = sym crate::uefi::start,
);
