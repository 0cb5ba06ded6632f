//! Who has the worker, and what it says of itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::board::Capability;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, plain, typed, word};
use crate::worker::body;

/// Only the exact `OK` means that the caller has it.
pub async fn start(State(worker): State<Arc<Worker>>) -> Response {
    match worker.lease.take() {
        Some(generation) => {
            tracing::info!(generation, "the worker is taken");
            word("OK")
        }
        None => word("BUSY"),
    }
}

pub async fn state(State(worker): State<Arc<Worker>>) -> Response {
    word(if worker.lease.is_busy() { "BUSY" } else { "IDLE" })
}

/// A late one, of somebody who has lost the worker, is answered and changes nothing.
pub async fn heartbeat(State(worker): State<Arc<Worker>>) -> Response {
    worker.lease.heartbeat();
    word("OK")
}

/// Frees the worker whatever fails on the way; what did is told.
pub async fn teardown(State(worker): State<Arc<Worker>>) -> Response {
    // In a task of its own: a client that hangs up must not leave it half done.
    let failures = match tokio::spawn(async move { worker.teardown(None).await }).await {
        Ok(failures) => failures,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    if failures.is_empty() { word("OK") } else { plain(format!("OK, but: {}", failures.join("; "))) }
}

/// What clients choose a worker by.
pub async fn contract(State(worker): State<Arc<Worker>>) -> Response {
    let board = &worker.settings.board;
    let capabilities = board.stand_in_capabilities();
    let mut contract = json!({
        "workerType": "qemu",
        "supportedFeatures": {
            "dut": board.slug,
            "screencapture": capabilities.contains(&Capability::Screen),
        },
    });
    if let Some(uuid) = &worker.settings.uuid {
        contract["uuid"] = json!(uuid);
    }
    typed("application/json", contract.to_string())
}

#[derive(Debug, Deserialize)]
pub struct Proxy {
    port: Option<serde_json::Value>,
}

/// There has been no proxy for long; its answer is still asked for.
pub async fn proxy(request: Body) -> Result<Response, Refusal> {
    let asked: Proxy = body::json(request).await?;
    Ok(if asked.port.is_some() { plain("127.0.0.1") } else { word("OK") })
}
