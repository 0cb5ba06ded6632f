//! Makes empty layers over bases: qcow2 files, by the QEMU that plays the board, so that nothing else is needed.
//!
//! `device::storage` is the caller. The process is gone when [`create`] returns, in whatever way.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::arguments::QMP_FD;
use super::monitor::{Monitor, MonitorError};
use crate::deadline::{Deadline, Elapsed};
use crate::sys::child;

/// A layer could not be made: the lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// QEMU could not be started or stopped, or the file not be made.
    #[error("cannot make layer {path}")]
    Io {
        /// The layer.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// QEMU would not talk.
    #[error("cannot make layer {path} with {program}")]
    Monitor {
        /// The layer.
        path: PathBuf,
        /// QEMU's program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: MonitorError,
    },
    /// QEMU would, and failed.
    #[error("{program} made no layer {path}: {said}")]
    Refused {
        /// The layer.
        path: PathBuf,
        /// QEMU's program.
        program: PathBuf,
        /// Its words.
        said: String,
    },
    /// QEMU did not end its work.
    #[error("{program} did not end layer {path}")]
    Late {
        /// The layer.
        path: PathBuf,
        /// QEMU's program.
        program: PathBuf,
        /// How long was waited.
        #[source]
        source: Elapsed,
    },
}

/// Makes `layer`, empty, of `bytes` bytes, over the raw file `base`, by a machine that has nothing.
pub async fn create(
    program: &Path,
    layer: &Path,
    base: &Path,
    bytes: u64,
    deadline: Deadline,
) -> Result<(), LayerError> {
    let failed = |source| LayerError::Io { path: layer.to_owned(), source };
    File::create(layer).map_err(failed)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut qemu = Command::new(program);
    qemu.args(["-M", "none", "-nodefaults", "-no-user-config", "-S", "-display", "none"])
        .args(["-chardev", &format!("socket,id=qmp,fd={QMP_FD}"), "-mon", "chardev=qmp,mode=control"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child::spawn(qemu, vec![theirs.into()]).await.map_err(failed)?;
    let made = order(program, layer, base, bytes, ours, deadline).await;
    child::kill_and_wait(&mut child).await.map_err(failed)?;
    made
}

async fn order(
    program: &Path,
    layer: &Path,
    base: &Path,
    bytes: u64,
    socket: UnixStream,
    deadline: Deadline,
) -> Result<(), LayerError> {
    let (program, path) = (|| program.to_owned(), || layer.to_owned());
    let silent = |source| LayerError::Monitor { path: path(), program: program(), source };
    let (monitor, mut events) = Monitor::open(socket, deadline).await.map_err(silent)?;
    let node = json!({ "driver": "file", "node-name": "layer", "filename": layer });
    monitor.execute_raw("blockdev-add", node, deadline).await.map_err(silent)?;
    let options = json!({
        "driver": "qcow2", "file": "layer", "size": bytes, "backing-file": base, "backing-fmt": "raw",
    });
    let job = json!({ "job-id": "create", "options": options });
    monitor.execute_raw("blockdev-create", job, deadline).await.map_err(silent)?;
    let concluded = async {
        while let Some(event) = events.recv().await {
            if event.name == "JOB_STATUS_CHANGE" && event.data["status"] == "concluded" {
                break;
            }
        }
    };
    deadline.bound(concluded).await.map_err(|source| LayerError::Late {
        path: path(),
        program: program(),
        source,
    })?;
    let jobs = monitor.execute_raw("query-jobs", json!({}), deadline).await.map_err(silent)?;
    if let Some(said) = jobs[0]["error"].as_str() {
        return Err(LayerError::Refused { path: path(), program: program(), said: said.to_owned() });
    }
    // Closed, QEMU has written everything that belongs to the file.
    monitor.execute_raw("job-dismiss", json!({ "id": "create" }), deadline).await.map_err(silent)?;
    monitor.execute_raw("blockdev-del", json!({ "node-name": "layer" }), deadline).await.map_err(silent)?;
    monitor.execute_raw("quit", json!({}), deadline).await.map_err(silent)?;
    monitor.closed().await;
    Ok(())
}
