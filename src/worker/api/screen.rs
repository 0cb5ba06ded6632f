//! Screen and keyboard: a picture, pictures as they change, and keys. None of them needs its turn with the device.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Api;
use super::error::ApiError;
use super::extract::Asked;
use crate::deadline::Deadline;
use crate::device::DeviceError;
use crate::device::capture::Shown;
use crate::device::keyboard::KeyboardError;
use crate::device::keyboard::key::Stroke;
use crate::device::screen::Seen;
use crate::sys::blocking::blocking;
use crate::worker::answer::typed;
use crate::worker::devices::Lent;

/// Keys to press.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PressKeys {
    /// These, one after the other, such as `enter`, `f2` or `ctrl-alt-delete`.
    #[serde(default)]
    pub press: Vec<String>,
    /// And then those that type this text with US layout.
    pub text: Option<String>,
}

/// The type of a single picture.
pub const PICTURE: &str = "image/png";
/// The type of a stream of them; a browser shows it as a picture that changes.
pub const STREAM: &str = "multipart/x-mixed-replace; boundary=FRAME";

/// How long QEMU may take for a picture.
const LOOKING: Duration = Duration::from_secs(10);

/// How many keys may be pressed at once.
const STROKES: usize = 1024;
/// How long QEMU may take for one of them, beside the 240 ms that four keys together need; see `device::keyboard`.
const TYPING: Duration = Duration::from_secs(10);
const STROKE: Duration = Duration::from_millis(240);

fn not_fitted(lent: &Lent, part: &str) -> ApiError {
    ApiError::nonsense("not-fitted", format!("the stand-in of {} has no {part}", lent.board.slug))
}

pub async fn picture(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    let screen = lent.keeper.handles().screen.ok_or_else(|| not_fitted(&lent, "screen"))?;
    let dark = |why| ApiError::conflict("no-picture", format!("the screen shows nothing: {why}"));
    match screen.frame(Deadline::after(LOOKING)).await.map_err(DeviceError::from)? {
        Seen::Off => Err(dark("the device does not run").hint("power it on first")),
        Seen::NoSignal => Err(dark("there is no signal").hint("the device may show something later")),
        Seen::Picture(picture) => {
            let png = blocking(move || picture.to_png()).await;
            let png =
                png.map_err(|error| ApiError::lab("lab-failed", "cannot encode a picture").cause(error))?;
            Ok(unkept(typed(PICTURE, png)))
        }
    }
}

pub async fn live(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    let view = View::of(lent.clone()).ok_or_else(|| not_fitted(&lent, "screen"))?;
    let parts = stream::unfold(view, |mut view| async move {
        let part = view.next().await?;
        Some((Ok::<_, Infallible>(part), view))
    });
    Ok(unkept(typed(STREAM, Body::from_stream(parts))))
}

fn unkept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a viewer sees, over renewals of the device.
struct View {
    lent: Arc<Lent>,
    hold: u64,
    shown: watch::Receiver<Shown>,
}

impl View {
    fn of(lent: Arc<Lent>) -> Option<Self> {
        let handles = lent.keeper.handles();
        let shown = lent.live.look(&handles)?;
        Some(Self { lent, hold: handles.hold, shown })
    }

    /// The next part of the stream; `None` when the device is closed for good. A slow viewer misses pictures.
    async fn next(&mut self) -> Option<Bytes> {
        let mut status = self.lent.keeper.watch();
        loop {
            let hold = self.hold;
            tokio::select! {
                biased;
                () = self.lent.keeper.closed() => return None,
                // The status lives as long as our clone of the keeper.
                _ = status.wait_for(|status| status.hold != hold) => *self = Self::of(self.lent.clone())?,
                changed = self.shown.changed() => match changed {
                    Ok(()) => {
                        let shown = self.shown.borrow_and_update().clone();
                        if let Some(part) = part(&shown) {
                            return Some(part);
                        }
                    }
                    // It ended as another viewer saw the renewal first.
                    Err(_) => *self = Self::of(self.lent.clone())?,
                },
            }
        }
    }
}

/// A part of the stream: a picture, or a word for people on why there is none.
fn part(shown: &Shown) -> Option<Bytes> {
    const WORDS: &str = "text/plain; charset=utf-8";
    let (kind, body): (_, &[u8]) = match shown {
        Shown::NotYet => return None,
        Shown::Off => (WORDS, b"off"),
        Shown::NoSignal => (WORDS, b"no signal"),
        Shown::Unknown(_) => (WORDS, b"the screen cannot be seen: the lab failed"),
        Shown::Jpeg(jpeg) => ("image/jpeg", jpeg),
    };
    let head = format!("--FRAME\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    Some(Bytes::from([head.as_bytes(), body, b"\r\n"].concat()))
}

pub async fn press(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Asked(PressKeys { press, text }): Asked<PressKeys>,
) -> Result<StatusCode, ApiError> {
    let lent = api.devices.find(&id)?;
    let keyboard = lent.keeper.handles().keyboard.ok_or_else(|| not_fitted(&lent, "keyboard"))?;
    let text = text.unwrap_or_default();
    if press.len().saturating_add(text.len()) > STROKES {
        return Err(ApiError::nonsense(
            "too-many-keys",
            format!("at most {STROKES} keys are pressed at once"),
        ));
    }
    let mut strokes = Vec::new();
    for name in &press {
        let stroke = Stroke::parse(name);
        strokes.push(stroke.map_err(|error| ApiError::nonsense("no-such-key", &error).hint(error.hint()))?);
    }
    strokes.extend(Stroke::typing(&text).map_err(|error| ApiError::nonsense("no-such-key", error))?);
    let given = TYPING + STROKE * u32::try_from(strokes.len()).unwrap_or(u32::MAX);
    match keyboard.press(&strokes, Deadline::after(given)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error @ KeyboardError::NotRunning { .. }) => {
            Err(ApiError::conflict("not-running", error).hint("power it on first"))
        }
        Err(error) => Err(DeviceError::from(error).into()),
    }
}
