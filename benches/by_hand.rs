//! The baseline of every figure: the same QEMU command line with the least that can read its console.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};

/// Starts QEMU with two socketpairs, for QMP and the console, reads until `text`, and kills it.
pub fn boot(program: &Path, arguments: &[String], text: &str) -> Duration {
    let begun = Instant::now();
    let (_qmp, far_qmp) = UnixStream::pair().unwrap();
    let (mut serial, far_serial) = UnixStream::pair().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let qmp = FdMapping { parent_fd: far_qmp.into(), child_fd: 3 };
    let console = FdMapping { parent_fd: far_serial.into(), child_fd: 4 };
    command.fd_mappings(vec![qmp, console]).unwrap();
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !seen.windows(text.len()).any(|part| part == text.as_bytes()) {
        let length = serial.read(&mut piece).unwrap();
        assert_ne!(length, 0, "QEMU ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..length]);
    }
    let took = begun.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    took
}

/// The middle one.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
