//! The media of a machine that runs: sticks on USB that come and go, as only that bus takes them at any time, and
//! what the system writes.
//!
//! `device::power` calls it. The watcher of [`super::machine`] records the removal when QEMU tells of it.

use serde_json::{Value, json};

use super::arguments::{Disk, MEDIUM_PREFIX, boot_place};
use super::machine::{Machine, MachineError};
use crate::board::Board;
use crate::deadline::Deadline;

impl Machine {
    /// Puts a stick into a USB socket.
    ///
    /// Cancelled, it may leave the stick half in: the file is open, and the DUT sees nothing.
    pub async fn insert_stick(
        &self,
        board: &Board,
        medium: &str,
        disk: &Disk,
        deadline: Deadline,
    ) -> Result<(), MachineError> {
        let (node, mut stick) = (block_node(medium, disk), stick(medium));
        if let Some(place) = boot_place(board, medium, None) {
            stick["bootindex"] = json!(place);
        }
        self.monitor.execute_raw("blockdev-add", node, deadline).await?;
        self.monitor.execute_raw("device_add", stick, deadline).await?;
        Ok(())
    }

    /// Asks QEMU to take a stick out; an event tells when it has.
    pub async fn pull_stick(&self, medium: &str, deadline: Deadline) -> Result<(), MachineError> {
        let id = stick(medium)["id"].clone();
        self.monitor.execute_raw("device_del", json!({ "id": id }), deadline).await?;
        Ok(())
    }

    /// How many bytes the system has written to a medium.
    pub async fn written_bytes(&self, medium: &str, deadline: Deadline) -> Result<u64, MachineError> {
        let node = node_name(medium);
        // qapi's type of the answer is that of a newer QEMU.
        let all = self.monitor.execute_raw("query-blockstats", json!({}), deadline).await?;
        let is_it = |stats: &&Value| {
            [&stats["device"], &stats["node-name"]].iter().any(|name| name.as_str() == Some(&node))
        };
        let stats = all.as_array().and_then(|all| all.iter().find(is_it));
        Ok(stats.and_then(|stats| stats["stats"]["wr_bytes"].as_u64()).unwrap_or(0))
    }

    /// Closes the file of a stick that was taken out.
    pub async fn forget_stick(&self, medium: &str, deadline: Deadline) -> Result<(), MachineError> {
        let node = json!({ "node-name": node_name(medium) });
        self.monitor.execute_raw("blockdev-del", node, deadline).await?;
        Ok(())
    }
}

fn node_name(medium: &str) -> String {
    format!("{MEDIUM_PREFIX}{medium}")
}

/// As `arguments` has it on the command line.
fn block_node(medium: &str, disk: &Disk) -> Value {
    let file = |path: &std::path::Path| json!({ "driver": "file", "filename": path });
    let mut node = json!({
        "node-name": node_name(medium),
        "cache": { "no-flush": true },
        "discard": "unmap",
    });
    match disk {
        Disk::Raw(path) => {
            node["driver"] = json!("raw");
            node["file"] = file(path);
        }
        Disk::Layer { layer, base } => {
            node["driver"] = json!("qcow2");
            node["file"] = file(layer);
            node["backing"] = json!({ "driver": "raw", "read-only": true, "file": file(base) });
        }
    }
    node
}

fn stick(medium: &str) -> Value {
    let node = node_name(medium);
    json!({ "driver": "usb-storage", "id": format!("{node}-disk"), "removable": true, "drive": node })
}
