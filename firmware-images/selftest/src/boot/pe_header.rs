//! The PE32+ header that makes the flat file a UEFI application.
//!
//! Written by hand, because the linkers of the linux targets do not write PE files. There is one
//! section for everything, and an empty relocation directory: we relocate ourselves. Fields are
//! named after Microsoft's "PE Format"; a section's raw data must not run past the end of the
//! file, or EDK2 refuses the image.

use core::arch::global_asm;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 0x8664;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 0xaa64;

// The first 60 bytes: on aarch64 a kernel's header has them, see `bare_aarch64.rs`.
#[cfg(target_arch = "x86_64")]
global_asm!(
    r#"
    .section .head.first, "a"
    .globl image_start
    .hidden image_start
image_start:
    .ascii "MZ"
    .skip 58
    "#
);

global_asm!(
    r#"
    .section .head.pe, "a"
pe_header:                                  // at image_start + 60
    .4byte pe_signature - pe_header + 60
pe_signature:
    .ascii "PE\0\0"
    .2byte {machine}
    .2byte 2                                // NumberOfSections
    .4byte 0, 0, 0                          // TimeDateStamp, PointerToSymbolTable, NumberOfSymbols
    .2byte optional_header_end - optional_header
    .2byte 0x206                            // executable, no line numbers, debug stripped
optional_header:
    .2byte 0x20b                            // PE32+
    .byte 2, 0
    .4byte __image_end - pe_header + 60 - 0x1000   // SizeOfCode
    .4byte 0, 0
    .4byte uefi_entry - pe_header + 60         // AddressOfEntryPoint
    .4byte 0x1000                           // BaseOfCode
    .8byte 0                                // ImageBase
    .4byte 4096, 4096                       // SectionAlignment, FileAlignment
    .2byte 0, 0, 0, 0, 0, 0
    .4byte 0
    .4byte __image_end - pe_header + 60        // SizeOfImage
    .4byte 0x1000                           // SizeOfHeaders
    .4byte 0
    .2byte 10, 0                            // Subsystem: EFI application
    .8byte 0, 0, 0, 0
    .4byte 0, 6                             // NumberOfRvaAndSizes
    .8byte 0, 0, 0, 0, 0, 0
optional_header_end:
    .ascii ".text\0\0\0"
    .4byte __image_end - pe_header + 60 - 0x1000   // VirtualSize: with the zeroed rest
    .4byte 0x1000
    .4byte __file_end - pe_header + 60 - 0x1000    // SizeOfRawData
    .4byte 0x1000
    .4byte 0, 0
    .2byte 0, 0
    .4byte 0xe0000020                       // code; execute, read, write
    .ascii ".reloc\0\0"
    .4byte 0, 0, 0, 0, 0, 0
    .2byte 0, 0
    .4byte 0x42000040
    "#,
    machine = const MACHINE,
);
