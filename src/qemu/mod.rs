//! The QEMU that plays boards: what the host offers of it, and what it does not play by itself.

pub mod accelerator;
pub mod binary;
pub mod boot_rom;
pub mod config_txt;
pub mod firmware;
pub mod package;
