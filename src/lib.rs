//! standin gives every board a stand-in.
//!
//! A [`board`] mirrors a real one; QEMU plays it (`qemu`), a suite runs on it (`suite`), and a report says what
//! was seen. The floors, from the kernel up to the doors, are held by `tests/tidy.rs`.

// `println!` and `eprintln!` panic when nobody reads; `cli::Output` and `cli::say` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![warn(clippy::unwrap_used)]

pub mod board;
pub mod cli;
pub mod deadline;
pub mod device;
pub mod document;
pub mod event;
pub mod io;
pub mod lab;
pub mod message;
pub mod procedure;
pub mod qemu;
pub mod report;
pub mod suite;
pub mod sys;
pub mod worker;
