//! Reading what a client sends: never more than is allowed, and never waiting for one that is silent.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use crate::deadline::Deadline;

/// How long a body of words may be: leviathan-worker's own limit.
const WORDS_BYTES: usize = 100 << 10;

/// The pieces of a body, as they come.
pub struct Pieces {
    body: axum::body::BodyDataStream,
    silence: Duration,
    /// Nothing more is to be expected.
    over: bool,
}

impl Pieces {
    /// Of this body, whose client may be silent for as long as `silence`.
    pub fn of(body: Body, silence: Duration) -> Self {
        Self { body: body.into_data_stream(), silence, over: false }
    }

    /// The next piece; `None` at the end. Fails if the client is silent for too long, or gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let came = Deadline::after(self.silence).bound(self.body.next()).await;
        self.over = !matches!(came, Ok(Some(Ok(_))));
        match came {
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(Refusal::failed("the body ended before it was complete")),
            Err(_) => Err(Refusal {
                status: StatusCode::REQUEST_TIMEOUT,
                message: format!("nothing came for {:?} in the middle of the body", self.silence),
            }),
        }
    }

    /// Takes up to `limit` bytes of what still comes, and forgets them.
    pub async fn discard(&mut self, limit: u64) {
        let mut taken = 0;
        while !self.over && taken < limit {
            // A failure says that nothing more comes, which is as good as the end.
            taken += self.next().await.ok().flatten().map_or(0, |piece| piece.len() as u64);
        }
    }
}

/// A JSON object; nothing at all is an empty one. What is no JSON is told as leviathan-worker tells it, by a 500.
pub async fn json<T: DeserializeOwned>(mut pieces: Pieces) -> Result<T, Refusal> {
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await? {
        if text.len() + piece.len() > WORDS_BYTES {
            let message = format!("the body is longer than {} KiB", WORDS_BYTES >> 10);
            return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message });
        }
        text.extend_from_slice(&piece);
    }
    let text = if text.is_empty() { b"{}".as_slice() } else { &text };
    serde_json::from_slice(text).map_err(Refusal::failed)
}
