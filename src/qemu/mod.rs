//! QEMU as the player of a board: its argument vector, its process, its monitor.
//!
//! `device` is the only caller. Nothing here knows of suites or benches.

pub mod arguments;
pub mod machine;
pub mod monitor;
