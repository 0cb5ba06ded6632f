//! Screen and keyboard, which no stand-in plays yet: said in one line, and never answered with `OK`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;

use crate::worker::Worker;
use crate::worker::answer::Refusal;
use crate::worker::body;

fn not_fitted(worker: &Worker, part: &str) -> Refusal {
    Refusal::failed(format!("the stand-in of {} has no {part}", worker.settings.board.slug))
}

/// Start, stop or stream.
pub async fn no_screen(State(worker): State<Arc<Worker>>) -> Refusal {
    not_fitted(&worker, "screen that can be captured")
}

#[derive(Debug, Deserialize)]
struct Keyboard {
    key: Option<String>,
}

/// Types a key.
pub async fn keyboard(State(worker): State<Arc<Worker>>, request: Body) -> Refusal {
    match body::json::<Keyboard>(worker.pieces(request)).await {
        Ok(Keyboard { key: Some(_) }) => not_fitted(&worker, "keyboard that can be typed on"),
        Ok(Keyboard { key: None }) => Refusal::failed("key missing"),
        Err(refusal) => refusal,
    }
}
