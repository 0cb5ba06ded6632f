//! Who has the worker, and what it says of itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::board::Capability;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, plain, typed, word};
use crate::worker::api::error::ApiError;
use crate::worker::body;
use crate::worker::devices::DEFAULT;
use crate::worker::lease::{Owner, Taken};

/// The header with which a holder says who they are, and is told so.
const LEASE_ID: &str = "x-lease-id";

/// Only the exact `OK` means that the caller has it.
pub async fn start(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    let taken = worker.lease.take();
    let taken = taken.map_err(|error| Refusal::failed(format!("cannot make a lease id: {error}")))?;
    let Some(Taken { generation, id }) = taken else { return Ok(word("BUSY")) };
    tracing::info!(generation, "the worker is taken");
    let mut answer = word("OK");
    let id = HeaderValue::from_str(&id).expect("hexadecimal digits may stand in a header");
    answer.headers_mut().insert(LEASE_ID, id);
    Ok(answer)
}

/// Refuses who says that they hold the device and do not, and with enforcement also who does not say it. Whoever
/// had it last may still read the serial log, as clients do after the teardown.
pub async fn check(State(worker): State<Arc<Worker>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let guarded = path.starts_with("/dut/") || path == "/teardown" || drives_default(&request);
    let says = request.headers().get(LEASE_ID).map(|id| worker.lease.owner(id.to_str().unwrap_or_default()));
    let refused = match says {
        Some(Owner::Present) => None,
        Some(Owner::Last) if path == "/dut/serial" => None,
        Some(_) if guarded || path == "/heartbeat" => Some("you do not hold this worker, or no more"),
        None if guarded && worker.settings.enforce_leases => {
            Some("this worker asks for the header `x-lease-id`, as `/start` answers it")
        }
        _ => None,
    };
    match refused {
        Some(message) if path.starts_with("/v1") => ApiError::conflict("not-holder", message).into_response(),
        Some(message) => {
            Refusal { status: StatusCode::CONFLICT, message: message.to_owned() }.into_response()
        }
        None => next.run(request).await,
    }
}

/// Whether a request of the API does something to the device of this protocol; looking on is for everybody. A name
/// that is written in another way might be that device's, too.
fn drives_default(request: &Request) -> bool {
    let name = request.uri().path().strip_prefix("/v1/devices/").and_then(|rest| rest.split('/').next());
    let is_meant = name.is_some_and(|name| name == DEFAULT || name.contains('%'));
    is_meant && (!request.method().is_safe() || request.headers().contains_key(header::UPGRADE))
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
    for (feature, value) in &worker.settings.features {
        contract["supportedFeatures"][feature] = match value.as_str() {
            "true" => json!(true),
            text => json!(text),
        };
    }
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
pub async fn proxy(State(worker): State<Arc<Worker>>, request: Body) -> Result<Response, Refusal> {
    let asked: Proxy = body::json(worker.pieces(request)).await?;
    Ok(if asked.port.is_some() { plain("127.0.0.1") } else { word("OK") })
}
