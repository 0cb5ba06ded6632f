//! standin gives every board a stand-in.
//!
//! A [`board`] mirrors a real one; QEMU plays it (`qemu`), a suite runs on it (`suite`), and a report says what
//! was seen. The floors, from the kernel up to the doors, are held by `tests/tidy.rs`.

pub mod board;
pub mod cli;
pub mod deadline;
pub mod document;
pub mod event;
