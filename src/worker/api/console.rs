//! The serial console: typed on, looked at as it speaks, and read afterwards.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::RequestExt as _;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::error::ApiError;
use super::extract::{Asked, Query, whole};
use super::{Api, BYTES, LOG, files};
use crate::deadline::Deadline;
use crate::device::DeviceError;
use crate::device::console::Tap;
use crate::sys::blocking::blocking;
use crate::worker::answer::typed;
use crate::worker::devices::Lent;

/// What to type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TypedKeys {
    /// Typed as it is; the Enter key is a CR, `\r`.
    pub text: String,
}

/// How much of a console's stream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamQuery {
    /// How many KiB of what it said last come first; 64 if left out, 8192 at most.
    pub last_kib: Option<usize>,
}

/// Which log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// The number of a power-on of this hold, from 1; `last`, also after a teardown, if left out; `all` is
    /// everything that was said since the device was opened.
    pub power_on: Option<String>,
    /// Whether a browser shall keep it as a file.
    #[serde(default)]
    pub download: bool,
}

/// How many bytes may be typed at once.
const KEYS_BYTES: usize = 64 << 10;

/// How long the DUT may take to read what is typed.
const TYPING: Duration = Duration::from_secs(10);

/// What a client may call the conversation on a WebSocket; the token may stand beside it, see `worker::access`.
const PROTOCOL: &str = "standin";

const SCROLL_BACK_KIB: usize = 64;
/// All that a console keeps in memory.
const SCROLL_BACK_AT_MOST_KIB: usize = 8 << 10;

pub async fn keys(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let lent = api.devices.find(&id)?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let keys = match kind.map(str::trim) {
        Some(BYTES) => whole(api.pieces(request.into_body()), KEYS_BYTES).await?,
        _ => {
            let Asked(TypedKeys { text }) = request.extract_with_state(&api).await?;
            text.into_bytes()
        }
    };
    tap(&lent)?
        .send_keys(&keys, Deadline::after(TYPING))
        .await
        .map_err(|error| ApiError::from(DeviceError::from(error)))?;
    Ok(StatusCode::NO_CONTENT)
}

fn tap(lent: &Lent) -> Result<Tap, ApiError> {
    let none = || ApiError::nonsense("not-fitted", format!("{} has no serial console", lent.board.slug));
    lent.keeper.handles().console.ok_or_else(none)
}

pub async fn stream(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(query): Query<StreamQuery>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    tap(&lent)?;
    let kib = query.last_kib.unwrap_or(SCROLL_BACK_KIB).min(SCROLL_BACK_AT_MOST_KIB);
    if is_upgrade(request.headers()) {
        let upgrade = request
            .extract_parts::<WebSocketUpgrade>()
            .await
            .map_err(|error| ApiError::user(StatusCode::BAD_REQUEST, "bad-upgrade", error.body_text()))?;
        let upgrade = upgrade.max_message_size(KEYS_BYTES).max_frame_size(KEYS_BYTES);
        // A browser hangs up unless one of those that it offers is taken.
        let upgrade = upgrade.protocols([PROTOCOL]);
        return Ok(upgrade.on_upgrade(move |socket| converse(socket, lent, kib << 10)));
    }
    let feed = Feed::of(lent, kib << 10);
    let pieces = stream::unfold(feed, |mut feed| async move {
        let piece = feed.next().await?;
        Some((Ok::<_, Infallible>(piece), feed))
    });
    let mut response = typed(BYTES, Body::from_stream(pieces));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|upgrade| upgrade.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// What a console says, over renewals of the device.
struct Feed {
    lent: Arc<Lent>,
    /// The hold that is listened to.
    hold: u64,
    scroll_back: Option<Vec<u8>>,
    said: Option<Receiver<Arc<[u8]>>>,
}

impl Feed {
    fn of(lent: Arc<Lent>, scroll_back: usize) -> Self {
        let handles = lent.keeper.handles();
        let (last, said) = match handles.console.map(|tap| tap.subscribe_with_last(scroll_back)) {
            Some((last, said)) => (last, Some(said)),
            None => (Vec::new(), None),
        };
        // At once and even if it is empty, so that a client knows that it is heard.
        Self { lent, hold: handles.hold, scroll_back: Some(last), said }
    }

    /// What is said next; `None` when the device is closed for good. Cancelled, it loses nothing.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(last) = self.scroll_back.take() {
            return Some(last.into());
        }
        let mut status = self.lent.keeper.watch();
        loop {
            let renewed = async {
                let hold = self.hold;
                // The status lives as long as our clone of the keeper.
                let _ = status.wait_for(|status| status.hold != hold).await;
            };
            let said = async {
                match &mut self.said {
                    Some(said) => said.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                said = said => match said {
                    Ok(bytes) => return Some(Bytes::from_owner(bytes)),
                    Err(RecvError::Lagged(_)) => return Some(Bytes::from_static(TOO_SLOW)),
                    Err(RecvError::Closed) => self.said = None,
                },
                () = renewed => {
                    let scroll_back = usize::MAX;
                    let next = Self::of(self.lent.clone(), scroll_back);
                    *self = next;
                    if let Some(last) = self.scroll_back.take().filter(|last| !last.is_empty()) {
                        return Some(last.into());
                    }
                }
                () = self.lent.keeper.closed() => return None,
            }
        }
    }
}

/// What one that reads too slowly sees in place of what it missed.
const TOO_SLOW: &[u8] = b"\r\n[some of the console's output is missing here; the log has all of it]\r\n";

/// Speaks for the console and types what the client sends, until either is gone.
async fn converse(mut socket: WebSocket, lent: Arc<Lent>, scroll_back: usize) {
    let mut feed = Feed::of(lent.clone(), scroll_back);
    loop {
        tokio::select! {
            piece = feed.next() => match piece {
                Some(piece) => if socket.send(Message::Binary(piece)).await.is_err() { return },
                None => break,
            },
            typed = socket.recv() => {
                let keys = match typed {
                    Some(Ok(Message::Binary(keys))) => keys,
                    Some(Ok(Message::Text(keys))) => keys.into(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                let Ok(tap) = tap(&lent) else { continue };
                // A DUT that does not read is no reason to take its output away; a text message is for people.
                if let Err(error) = tap.send_keys(&keys, Deadline::after(TYPING)).await
                    && socket.send(Message::Text(error.to_string().into())).await.is_err()
                {
                    return;
                }
            }
        }
    }
    // The client may be gone already.
    let _ = socket.send(Message::Close(None)).await;
}

pub async fn log(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    let folders = lent.keeper.console_logs();
    let wanted = query.power_on.unwrap_or_else(|| "last".to_owned());
    let file = match wanted.as_str() {
        "last" => blocking(move || crate::worker::leviathan::last_power_on(&folders)).await,
        "all" => folders.last().map(|folder| folder.join("console.log")),
        number => {
            let number: u32 = number.parse().map_err(|_| {
                let message = "`power_on` is neither a number from 1 on, nor `last`, nor `all`";
                ApiError::nonsense("bad-query", message)
            })?;
            folders.last().map(|folder| folder.join(format!("console-{number}.log")))
        }
    };
    let none = || ApiError::not_found("no-such-log", "there is no log of such a power-on");
    let mut response = files::body_of(&file.ok_or_else(none)?, LOG).await?.ok_or_else(none)?;
    if query.download {
        files::as_download(&mut response, &format!("{}-console.log", lent.id));
    }
    Ok(response.into_response())
}
