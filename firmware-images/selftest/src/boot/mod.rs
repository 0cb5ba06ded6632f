//! The first instructions: from whatever the firmware gives us to [`crate::run`].
//!
//! The file that the linker writes is a PE image for UEFI and, on x86-64, also carries the boot
//! sector and the way into long mode for a BIOS; on aarch64, a kernel's header. Each way in applies the file's relocations
//! before the first line of Rust runs.

#[cfg(target_arch = "aarch64")]
mod bare_aarch64;
#[cfg(target_arch = "x86_64")]
mod bios;
mod pe_header;
#[cfg_attr(target_arch = "x86_64", path = "uefi_x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "uefi_aarch64.rs")]
mod uefi_entry;
