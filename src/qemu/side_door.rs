//! A second monitor at a path, for programs that watch or drive QEMU themselves; our own control never shares it.
//!
//! QEMU serves it from power-on to power-off, to one client after another, and passes its own events. QEMU is
//! killed at power-off and removes nothing, so `device::power` calls [`clear`] then, and before each start.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::arguments::comma_safe;

/// QEMU's arguments for it.
pub fn arguments(path: &Path) -> [String; 4] {
    let socket = format!("socket,id=side-door,path={},server=on,wait=off", comma_safe(path));
    ["-chardev".to_owned(), socket, "-mon".to_owned(), "chardev=side-door,mode=control".to_owned()]
}

/// Removes the socket of a QEMU that is gone. QEMU itself would remove whatever lies at the path, so anything else
/// is an error.
pub fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there"));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program serves it"));
    }
    fs::remove_file(path)
}
