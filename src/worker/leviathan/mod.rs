//! Leviathan-worker's protocol: what its clients ask and the words that they understand.
//!
//! What clients depend on is kept to the letter; the defects that they had to live with are not. Every call may
//! arrive twice, as clients try again when an answer was lost. The names here are the protocol's.

mod dut;
pub mod flash;
mod hold;
pub mod upload;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::Worker;
use super::answer::Refusal;
pub(in crate::worker) use dut::last_power_on;

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
        .route("/dut/sendImage/chunkSize", get(upload::chunk_size))
        .route("/dut/sendImage", post(upload::send_image))
        .route("/dut/flashImage", post(flash::flash_image))
        .route("/dut/flashState", get(flash::flash_state))
        .fallback(unknown)
        .with_state(worker)
}

async fn unknown() -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, message: "no such path".to_owned() }
}
