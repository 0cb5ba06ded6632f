//! Bytes, images and what lies in them, and SSH. It knows no board, no QEMU and no bench.

pub mod cache;
pub mod device_tree;
pub mod fat;
pub mod file;
pub mod http;
pub mod image;
pub mod installer;
pub mod medium;
pub mod partition;
pub mod picture;
pub mod prepare;
pub mod qcow2;
pub mod selftest;
pub mod ssh;
pub mod staged;
