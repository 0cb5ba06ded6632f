//! What only the kernel can do for us: children that cannot outlive us, descriptors, locked directories.
//!
//! The only module with `unsafe`, and the ground floor: it uses nothing of the crate.

pub mod block_device;
pub mod blocking;
pub mod child;
pub mod clock;
pub mod family;
pub mod run_dir;
pub mod serial_line;
pub mod stream;
pub mod terminal;
