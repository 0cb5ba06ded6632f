//! What happened to a device: as a list since an id, and as a stream of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Query};
use crate::deadline::Deadline;
use crate::worker::answer::typed;
use crate::worker::devices::Lent;
use crate::worker::journal::Entry;

/// The type of a stream of server-sent events (HTML, 9.2).
pub const STREAM: &str = "text/event-stream";

/// Which events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Those that follow the one with this id; all that are known if left out. A stream prefers the header
    /// `Last-Event-ID`, which browsers send when they connect again.
    pub since: Option<u64>,
}

/// How many entries are told at once.
const AT_ONCE: usize = 1000;

/// How often a stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub async fn events(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let since = query.since.unwrap_or(0);
    if !text(header::ACCEPT).is_some_and(|kinds| kinds.contains(STREAM)) {
        return Ok(Json(lent.keeper.journal().since(since, AT_ONCE)).into_response());
    }
    let since = match text(header::HeaderName::from_static("last-event-id")) {
        None | Some("") => since,
        Some(last) => last.parse().map_err(|_| {
            ApiError::nonsense("bad-query", "the header Last-Event-ID is no number from 0 on")
        })?,
    };
    let mut response = typed(STREAM, Body::from_stream(stream(lent, since)));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The entries after `since` and all that follow, until the device is closed. One that reads slowly holds up
/// nobody: what it has not asked for stays in the journal.
fn stream(lent: Arc<Lent>, since: u64) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    let journal = lent.keeper.journal().clone();
    let watch = journal.watch();
    // At once, so that a client knows that it is heard before anything happens.
    let hello = Bytes::from_static(b": standin\n\n");
    stream::unfold((lent, since, watch, Some(hello)), move |(lent, mut since, mut watch, hello)| {
        let journal = journal.clone();
        async move {
            if let Some(hello) = hello {
                return Some((Ok(hello), (lent, since, watch, None)));
            }
            loop {
                watch.borrow_and_update();
                let entries = journal.since(since, AT_ONCE);
                if let Some(last) = entries.last() {
                    since = last.id;
                    let text: String = entries.iter().map(message).collect();
                    return Some((Ok(text.into()), (lent, since, watch, None)));
                }
                tokio::select! {
                    changed = Deadline::after(HEARTBEAT).bound(watch.changed()) => if changed.is_err() {
                        return Some((Ok(Bytes::from_static(b": alive\n\n")), (lent, since, watch, None)));
                    },
                    () = lent.keeper.closed() => if journal.last() == since { return None },
                }
            }
        }
    })
}

fn message(entry: &Entry) -> String {
    let data = serde_json::to_string(entry).expect("it has text keys alone");
    format!("id: {}\nevent: {}\ndata: {data}\n\n", entry.id, entry.news.name())
}
