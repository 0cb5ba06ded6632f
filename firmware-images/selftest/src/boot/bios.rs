//! The way in from a PC BIOS: boot sector, protected mode, long mode.
//!
//! The boot sector reads the image's header (LBA 1) to 0x7e00 and then the guest's file, from
//! where the header says, to 0x10000. It runs in place there. Memory is used as follows:
//!
//! | from | what |
//! | --- | --- |
//! | 0x7c00 | boot sector, its GDT stays in use until `interrupts.rs` brings another |
//! | 0x10000 | this file |
//! | 0x100000 | page tables: 4 GiB, one to one, in pages of 2 MiB |
//! | 0x200000 | end of the stack |
//! | 0x400000 | heap, see `bios.rs` |

use core::arch::global_asm;

/// Where the page tables begin.
const PAGE_TABLES: u32 = 0x10_0000;
/// The stack grows down from here.
const STACK_TOP: u32 = 0x20_0000;

global_asm!(
    r#"
    .section .head.boot_sector, "ax"
    .code16
boot_sector:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    ljmp $0, $(0x7c00 + 6f - boot_sector)
6:  sti
    cld
    call read_packet
    movl 0x7e18, %eax               // header: first block and number of blocks of the file
    movl %eax, 0x7c00 + packet_block - boot_sector
    movw 0x7e1c, %cx
    movl $0x10000000, 0x7c00 + packet_address - boot_sector
2:  movw $64, %ax                   // 32 KiB at a time never cross a bound of 64 KiB
    cmpw %ax, %cx
    ja 3f
    movw %cx, %ax
3:  movw %ax, 0x7c00 + packet_count - boot_sector
    pushw %ax
    call read_packet
    popw %ax
    movzwl %ax, %eax
    addl %eax, 0x7c00 + packet_block - boot_sector
    subw %ax, %cx
    shlw $5, %ax                    // blocks to paragraphs
    addw %ax, 0x7c00 + packet_address + 2 - boot_sector
    testw %cx, %cx
    jnz 2b

    cli
    inb $0x92, %al                  // the fast A20 gate
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    lgdtl 0x7c00 + gdt_pointer - boot_sector
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $0x10600

    // Reads what the packet says from the drive that the BIOS left in dl; keeps cx and dx.
read_packet:
    pushw %cx
    pushw %dx
    movw $(0x7c00 + packet - boot_sector), %si
    movb $0x42, %ah
    int $0x13
    popw %dx
    popw %cx
    jc 2f
    ret
2:  int $0x18                       // "no bootable device", said by the BIOS
3:  hlt
    jmp 3b

    .balign 8
packet:
    .byte 16, 0
packet_count:
    .2byte 1
packet_address:
    .2byte 0x7e00, 0
packet_block:
    .8byte 1
gdt:
    .8byte 0
    .8byte 0x00cf9b000000ffff       // 0x08 code, 32 bits
    .8byte 0x00cf93000000ffff       // 0x10 data
    .8byte 0x00af9b000000ffff       // 0x18 code, 64 bits
gdt_pointer:
    .2byte 31
    .4byte 0x7c00 + gdt - boot_sector
    .org boot_sector + 440          // an error if it runs into the partition table

    .section .head.bios, "ax"
    .code32
bios_entry:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl ${stack_top}, %esp
    movl ${page_tables}, %edi       // one top level, one second level, four of 512 large pages
    xorl %eax, %eax
    movl $0x1800, %ecx
    cld
    rep stosl
    movl ${page_tables} + 0x1003, {page_tables}
    movl ${page_tables} + 0x2003, {page_tables} + 0x1000
    movl ${page_tables} + 0x3003, {page_tables} + 0x1008
    movl ${page_tables} + 0x4003, {page_tables} + 0x1010
    movl ${page_tables} + 0x5003, {page_tables} + 0x1018
    movl ${page_tables} + 0x2000, %edi
    movl $0x83, %eax                // present, writable, large
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 2b
    movl ${page_tables}, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                // PAE, and SSE for the compiled core library
    movl %eax, %cr4
    movl $0xc0000080, %ecx          // EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax          // no emulation of the FPU
    orl $0x80000003, %eax
    movl %eax, %cr0
    ljmpl $0x18, $(0x10600 + 3f - bios_entry)
    .code64
3:  leaq image_start(%rip), %r8
    leaq __relocations_start(%rip), %r9
    leaq __relocations_end(%rip), %r10
4:  cmpq %r10, %r9
    jae 5f
    movq (%r9), %rax
    movq 16(%r9), %r11
    addq %r8, %r11
    movq %r11, (%rax,%r8)
    addq $24, %r9
    jmp 4b
5:  leaq __file_end(%rip), %rdi
    leaq __image_end(%rip), %rcx
    subq %rdi, %rcx
    xorl %eax, %eax
    rep stosb
    xorl %ebp, %ebp
    call {start}
    "#,
    page_tables = const PAGE_TABLES,
    stack_top = const STACK_TOP,
    start = sym crate::bios::start,
    options(att_syntax),
);
