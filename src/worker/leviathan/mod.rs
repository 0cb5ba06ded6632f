//! Leviathan-worker's protocol: what its clients ask and the words that they understand.
//!
//! What clients depend on is kept to the letter; the defects that they had to live with are not. Every call may
//! arrive twice, as clients try again when an answer was lost. The names here are the protocol's.

mod direct;
mod dut;
pub mod flash;
mod hold;
pub mod screen;
mod spool;
pub mod upload;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::Worker;
use super::answer::Refusal;
pub(in crate::worker) use dut::last_power_on;

/// How often a client that waits is told that it does not wait in vain; it gives up after 30 s of silence.
const DRIP: Duration = Duration::from_secs(5);

/// The routes of the protocol.
pub fn router(worker: Arc<Worker>) -> Router {
    Router::new()
        .route("/start", get(hold::start))
        .route("/state", get(hold::state))
        .route("/heartbeat", get(hold::heartbeat))
        .route("/teardown", post(hold::teardown))
        .route("/contract", get(hold::contract))
        .route("/proxy", post(hold::proxy))
        .route("/dut/on", post(dut::on))
        .route("/dut/off", post(dut::off))
        .route("/dut/network", post(dut::network))
        .route("/dut/ip", get(dut::ip))
        .route("/dut/diagnostics", get(dut::diagnostics))
        .route("/dut/serial", get(dut::serial))
        .route("/dut/serial/exec", post(dut::serial_exec))
        .route("/dut/keyboard", post(screen::keyboard))
        .route("/dut/capture", post(screen::start_capture).get(screen::stop_capture))
        .route("/dut/liveStream", get(screen::live_stream))
        .route("/dut/sendImage/chunkSize", get(upload::chunk_size))
        .route("/dut/sendImage", post(upload::send_image))
        .route("/dut/flashImage", post(flash::flash_image))
        .route("/dut/flashState", get(flash::flash_state))
        .route("/dut/flash", post(direct::flash))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(from_fn_with_state(worker.clone(), hold::check))
        .with_state(worker)
}

/// A router beside the protocol, for whose requests the same holder counts.
pub fn for_holder(router: Router, worker: Arc<Worker>) -> Router {
    router.layer(from_fn_with_state(worker, hold::check))
}

async fn unknown() -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, message: "there is nothing of this method and path".to_owned() }
}
