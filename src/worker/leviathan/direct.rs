//! The old way of flashing: the image in one body, and how far it is in words that come meanwhile.
//!
//! The answer is there at once, and tells of failures in its text. The task that takes the image and flashes it
//! ends with the flash, also when the client hangs up.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream;
use serde_json::json;
use tokio::sync::mpsc;

use super::DRIP;
use super::flash::{FlashState, UnderWay, flash_uploaded};
use crate::deadline::Deadline;
use crate::io::image::progress::Progress;
use crate::worker::Worker;
use crate::worker::answer::typed;
use crate::worker::body::Pieces;

/// How many words may wait for a client that reads slowly.
const WAITING: usize = 8;

/// How often progress is told at most: as often as a person wants to see it move.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Takes an image and flashes it.
pub async fn flash(State(worker): State<Arc<Worker>>, body: Body) -> Response {
    let (say, words) = mpsc::channel(WAITING);
    // It goes on when the client hangs up. The keeper owns the work; the task ends with it.
    tokio::spawn(converse(worker, body, say));
    let words = stream::unfold(words, |mut words| async move {
        let word: String = words.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from(word)), words))
    });
    let mut answer = typed("text/event-stream", Body::from_stream(words));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

async fn converse(worker: Arc<Worker>, body: Body, say: mpsc::Sender<String>) {
    let pieces = worker.pieces(body);
    let flashed = match worker.flash.begin() {
        None => Err("another flash is under way".to_owned()),
        Some(under_way) => receive_and_flash(&worker, pieces, under_way, &say).await,
    };
    // The client may be gone.
    if let Err(cause) = flashed {
        let _ = say.send(format!("error: {cause}")).await;
    }
    let _ = say.send("status: done".to_owned()).await;
}

async fn receive_and_flash(
    worker: &Arc<Worker>,
    mut pieces: Pieces,
    under_way: UnderWay,
    say: &mpsc::Sender<String>,
) -> Result<(), String> {
    let work = async {
        match worker.upload.receive_whole(&mut pieces).await {
            Ok(()) => flash_uploaded(worker.clone(), under_way).await,
            Err(refusal) => under_way.end(Err(refusal.message)),
        }
    };
    tokio::pin!(work);
    let mut told = Deadline::after(Duration::ZERO);
    let mut progress = worker.flash.watch_progress();
    loop {
        let word = tokio::select! {
            biased;
            () = &mut work => break,
            moved = Deadline::after(DRIP).bound(progress.changed()) => match moved {
                Err(_) => "status: pending".to_owned(),
                Ok(_) => match *progress.borrow_and_update() {
                    Some(now) if told.is_past() => {
                        told = Deadline::after(TOLD_EVERY);
                        format!("progress: {}", progress_json(now))
                    }
                    _ => continue,
                },
            },
        };
        // Never waited for: a client that does not read must not hold the flash up.
        let _ = say.try_send(word);
    }
    match worker.flash.state() {
        FlashState::Error(cause) => Err(cause),
        FlashState::Idle => Err("it was cut short".to_owned()),
        FlashState::Pending | FlashState::Done => Ok(()),
    }
}

/// In the words of etcher's, as far as they mean something here.
fn progress_json(now: Progress) -> serde_json::Value {
    let percentage = 100.0 * now.read as f64 / now.file.max(1) as f64;
    json!({
        "type": "flashing",
        "active": 1,
        "failed": 0,
        "bytes": now.written,
        "position": now.written,
        "size": now.file,
        "percentage": percentage,
    })
}
