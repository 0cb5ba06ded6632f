//! The image of the self-test guest, which `build.rs` makes from `firmware-images/selftest`.
//!
//! It is flashed like any other image and boots from x86-64 BIOS and UEFI firmware. What it then
//! says and obeys is told in `firmware-images/README.md`.

/// A whole disk of 1 MiB: uncompressed, with a partition table. It may be followed by free space.
pub static SELFTEST_IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/selftest.img"));
