//! The QEMU that plays boards: what the host offers of it, its argument vector, its process, its monitor.
//!
//! `device` and `lab` play boards with it, and `standin doctor` looks at what there is. Nothing here knows of suites or
//! benches.

pub mod arguments;
pub mod binary;
pub mod boot_rom;
pub mod config_txt;
pub mod firmware;
pub mod hot_plug;
pub mod machine;
pub mod monitor;
pub mod needs;
pub mod package;
pub mod screen;
pub mod side_door;
pub mod tpm;
