//! A file descriptor that tokio watches: sockets, ptys and ttys in one type. It closes with its owner.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;

/// Makes a stream non-blocking and has the runtime watch it. Must be called in a tokio runtime.
pub fn watch(stream: File) -> io::Result<AsyncFd<File>> {
    let flags = OFlag::from_bits_retain(fcntl(&stream, FcntlArg::F_GETFL)?);
    fcntl(&stream, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: a `File` owns its descriptor, answers with the same one for as long as it lives, and the `AsyncFd`
    // owns the `File`; the rule of `AsyncFd::register`.
    unsafe { AsyncFd::register(stream) }.map_err(io::Error::from)
}
