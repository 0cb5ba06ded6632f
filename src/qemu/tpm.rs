//! The TPM of a machine: swtpm, one process for each power-on, which keeps its state in a folder.
//!
//! `machine` starts it before QEMU and ends it after; QEMU and swtpm talk over a pair of sockets that nobody else
//! has, so nothing is left in the file system but the state, which `device::power` owns.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::{AccessFlags, access};
use tokio::process::{Child, Command};

use super::package::Package;
use crate::sys::child::{self, FIRST_INHERITED_FD};

const PROGRAM: &str = "swtpm";

/// Nothing here can play a TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{PROGRAM} is not in PATH, and it plays the TPM of boards that have one")]
pub struct Missing;

impl Missing {
    /// How to mend it.
    pub fn hint(&self) -> String {
        Package::Swtpm.hint()
    }
}

/// The program, from the folders of `search_path`, the value of `PATH`.
pub fn find(search_path: &OsStr) -> Result<PathBuf, Missing> {
    let mut candidates = std::env::split_paths(search_path).map(|folder| folder.join(PROGRAM));
    let can_run = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    candidates.find(can_run).ok_or(Missing)
}

/// How to start a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmStart {
    /// swtpm's program.
    pub program: PathBuf,
    /// Where its state lives from power-on to power-on; made if it is not there.
    pub state: PathBuf,
    /// Where its own words go; truncated at each start.
    pub stderr: PathBuf,
}

/// Starts swtpm; the second is the end that QEMU inherits.
///
/// Dropped, the process is killed. It ends by itself when QEMU has gone.
pub async fn start(start: &TpmStart) -> io::Result<(Child, OwnedFd)> {
    fs::create_dir_all(&start.state)?;
    let (ours, of_qemu) = UnixStream::pair()?;
    let mut command = Command::new(&start.program);
    command
        .args(["socket", "--tpm2", "--ctrl", &format!("type=unixio,clientfd={FIRST_INHERITED_FD}")])
        .arg("--tpmstate")
        .arg(state_argument(&start.state))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&start.stderr)?);
    Ok((child::spawn(command, vec![ours.into()]).await?, of_qemu.into()))
}

fn state_argument(state: &Path) -> OsString {
    let mut argument = OsString::from("dir=");
    argument.push(state);
    argument
}
