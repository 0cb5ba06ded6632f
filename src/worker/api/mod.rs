//! Standin's own API, under `/v1`: typed JSON, told in full by the document at `/v1/openapi.json`.
//!
//! [`endpoints`] is the list of all that can be asked; router and document are made of it. It works on the
//! [`Devices`] of a server and owns nothing but the images that were sent; `close` closes what clients left.

mod console;
mod device;
mod document;
pub mod error;
mod events;
mod extract;
mod files;
mod flash;
mod images;
mod runs;
mod screen;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, delete, get, post, put};

use self::document::Endpoint;
use self::error::ApiError;
use self::extract::Json;
use self::images::Images;
use self::runs::Runs;
use super::body::Pieces;
use super::devices::Devices;
use super::operation::OperationFacts;

pub use self::console::TypedKeys;
pub use self::device::{
    DeviceFacts, Given, NetworkFacts, NewDevice, Run, SetLink, SetPower, StatusFacts, Wanted,
};
pub use self::files::FileFacts;
pub use self::flash::FlashOrder;
pub use self::images::ImageFacts;
pub use self::runs::{RunFacts, RunOrder};
pub use self::screen::PressKeys;
pub use self::server::{BoardLine, ServerFacts};

/// What the endpoints work on.
#[derive(Debug)]
pub struct Api {
    devices: Arc<Devices>,
    images: Images,
    runs: Runs,
    /// How long a client may be silent in the middle of a body.
    silence: Duration,
}

impl Api {
    /// On these devices. Images that are sent lie in `uploads` until they are flashed, at most `limit` bytes together. A client
    /// may be silent in the middle of a body for as long as `silence`.
    /// Suites may start programs on this host only if `allow_exec` says so.
    pub fn new(
        devices: Arc<Devices>,
        (uploads, limit): (PathBuf, u64),
        silence: Duration,
        allow_exec: bool,
    ) -> Arc<Self> {
        let images = Images::new(uploads, devices.supply.images.clone(), limit);
        Arc::new(Self { devices, images, runs: Runs::new(allow_exec), silence })
    }

    /// The pieces of a request's body.
    fn pieces(&self, body: Body) -> Pieces {
        Pieces::of(body, self.silence)
    }

    /// Ends the runs and closes the devices that clients left.
    pub async fn close(&self) -> Result<(), crate::device::DeviceError> {
        self.runs.close().await;
        self.devices.close().await
    }
}

/// The routes of the API.
pub fn router(api: Arc<Api>) -> Router {
    document::router(endpoints())
        .route("/v1/{*rest}", any(unknown))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(refuse_other_pages))
        .with_state(api)
}

/// The OpenAPI document.
pub fn openapi() -> serde_json::Value {
    document::document(&endpoints())
}

const LOG: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// All that can be asked.
fn endpoints() -> Vec<Endpoint> {
    let ask = |path, summary, handler| Endpoint::new(Method::GET, path, summary, handler);
    let tell = |path, summary, handler| Endpoint::new(Method::POST, path, summary, handler);
    let remove = |path, summary, handler| Endpoint::new(Method::DELETE, path, summary, handler);
    vec![
        ask("/v1", "What this server is, and what it has", get(server::facts))
            .answers::<ServerFacts>(200, "The server"),
        ask("/v1/openapi.json", "This document", get(server::openapi))
            .answers::<serde_json::Value>(200, "The document"),
        ask("/v1/boards", "The boards that a device can be", get(server::boards))
            .answers::<Vec<BoardLine>>(200, "The boards, by slug"),
        ask("/v1/boards/{slug}", "All that is known of a board, and what its stand-in mirrors", get(server::board))
            .answers::<serde_json::Value>(200, "The board, as `standin boards show --json` prints it")
            .refuses(&[404]),
        ask("/v1/devices", "The devices of this server", get(device::list))
            .answers::<Vec<DeviceFacts>>(200, "The devices, by name"),
        tell("/v1/devices", "Opens a new device: off, with blank media", post(device::add))
            .takes::<NewDevice>()
            .answers::<DeviceFacts>(201, "The device")
            .refuses(&[413, 415, 422, 503]),
        ask("/v1/devices/{id}", "A device at a glance", get(device::show))
            .answers::<DeviceFacts>(200, "The device")
            .refuses(&[404]),
        remove("/v1/devices/{id}", "Closes a device that was opened by POST", delete(device::remove))
            .answers_nothing(204, "It is gone, and nothing is left of it")
            .refuses(&[404, 409]),
        ask("/v1/devices/{id}/status", "What a device does now; never waits", get(device::status))
            .answers::<StatusFacts>(200, "The status")
            .refuses(&[404]),
        tell("/v1/devices/{id}/power", "Operates mains, button or reset line", post(device::power))
            .takes::<SetPower>()
            .answers::<StatusFacts>(200, "It is done; the status then")
            .refuses(&[404, 409, 413, 415, 422, 502]),
        tell("/v1/devices/{id}/link", "Puts a network cable in, or pulls it out", post(device::link))
            .takes::<SetLink>()
            .answers::<StatusFacts>(200, "It is done; the status then")
            .refuses(&[404, 409, 413, 415, 422, 502]),
        ask("/v1/devices/{id}/network", "Where the device is reached", get(device::network))
            .answers::<NetworkFacts>(200, "Address and ports")
            .refuses(&[404, 409]),
        tell("/v1/devices/{id}/run", "Runs a command in the shell on the serial console", post(device::run))
            .takes::<Run>()
            .answers::<Given>(200, "The command has ended, well or not")
            .refuses(&[404, 409, 413, 415, 422, 502]),
        tell("/v1/devices/{id}/console/keys", "Types on the serial console", post(console::keys))
            .takes::<TypedKeys>()
            .takes_bytes(BYTES)
            .answers_nothing(204, "All of it is typed")
            .refuses(&[404, 413, 415, 422, 502]),
        ask(
            "/v1/devices/{id}/console/stream",
            "The serial console from its last bytes on, as a stream of bytes that does not end; as a WebSocket, if \
             the request asks for an upgrade: binary messages are the console's bytes, and those of the client are typed",
            get(console::stream),
        )
        .query::<console::StreamQuery>()
        .answers_bytes(200, BYTES, "The console's bytes, as they come")
        .answers_nothing(101, "A WebSocket")
        .refuses(&[404, 422]),
        ask("/v1/devices/{id}/console/log", "What the serial console said since a power-on", get(console::log))
            .query::<console::LogQuery>()
            .answers_bytes(200, LOG, "The console's bytes")
            .refuses(&[404, 422]),
        ask("/v1/devices/{id}/screen", "What the screen shows now", get(screen::picture))
            .answers_bytes(200, screen::PICTURE, "A picture of it")
            .refuses(&[404, 409, 422]),
        ask(
            "/v1/devices/{id}/screen/live",
            "What the screen shows, as it changes: a stream of JPEGs that does not end, and a word in place of one \
             while there is no picture",
            get(screen::live),
        )
        .answers_bytes(200, screen::STREAM, "The pictures, as they come")
        .refuses(&[404, 422]),
        tell("/v1/devices/{id}/keyboard", "Presses keys of the keyboard", post(screen::press))
            .takes::<PressKeys>()
            .answers_nothing(204, "All of them have been pressed")
            .refuses(&[404, 409, 413, 415, 422]),
        ask(
            "/v1/devices/{id}/events",
            "What happened to the device since an id; as a stream of server-sent events that does not end, if the \
             request accepts `text/event-stream`",
            get(events::events),
        )
        .query::<events::EventsQuery>()
        .answers::<Vec<super::journal::Entry>>(200, "What happened, the oldest first")
        .answers_bytes(200, events::STREAM, "An event for each; its `data` is one such entry, its `id` the entry's")
        .refuses(&[404, 422]),
        ask("/v1/devices/{id}/files", "The logs of the device and what else is evidence", get(files::list))
            .answers::<Vec<FileFacts>>(200, "The files of this hold and the one before it")
            .refuses(&[404]),
        ask("/v1/devices/{id}/files/{*name}", "One of the files", get(files::download))
            .answers_bytes(200, BYTES, "Its bytes")
            .refuses(&[404]),
        tell(
            "/v1/devices/{id}/flash",
            "Flashes an image that is here: power off, written, verified; off afterwards",
            post(flash::flash),
        )
        .query::<flash::WaitQuery>()
        .takes::<FlashOrder>()
        .answers::<OperationFacts>(202, "It was begun; it may have ended already")
        .refuses(&[404, 409, 413, 415, 422]),
        ask("/v1/devices/{id}/operations", "What was begun on the device", get(flash::list))
            .answers::<Vec<OperationFacts>>(200, "The operations, the oldest first")
            .refuses(&[404]),
        ask("/v1/devices/{id}/operations/{n}", "An operation, and how far it is", get(flash::show))
            .query::<flash::WaitQuery>()
            .answers::<OperationFacts>(200, "The operation")
            .refuses(&[404, 422]),
        remove("/v1/devices/{id}/operations/{n}", "Cancels an operation", delete(flash::cancel))
            .answers::<OperationFacts>(200, "It has ended, cancelled or not")
            .refuses(&[404, 422]),
        ask("/v1/images", "The images that are here", get(images::list))
            .answers::<Vec<ImageFacts>>(200, "The images"),
        ask("/v1/images/{digest}", "Whether an image is here", get(images::show))
            .answers::<ImageFacts>(200, "It is here, and need not be sent")
            .refuses(&[404, 422]),
        Endpoint::new(Method::PUT, "/v1/images/{digest}", "Sends an image, unless it is here", put(images::receive))
            .takes_bytes(BYTES)
            .answers::<ImageFacts>(200, "It was here already; what was sent of it was not read")
            .answers::<ImageFacts>(201, "It is here now")
            .refuses(&[408, 413, 422, 507]),
        ask("/v1/runs", "The suites that run or have run here", get(runs::list))
            .answers::<Vec<RunFacts>>(200, "The runs, the oldest first"),
        tell("/v1/runs", "Runs a suite on a board, on a device of its own", post(runs::add))
            .takes::<RunOrder>()
            .answers::<RunFacts>(201, "It has begun")
            .refuses(&[404, 413, 415, 422, 503]),
        ask("/v1/runs/{n}", "A run, and what came of it", get(runs::show))
            .answers::<RunFacts>(200, "The run")
            .refuses(&[404]),
        remove("/v1/runs/{n}", "Cancels a run that goes on; removes one that has ended", delete(runs::remove))
            .answers::<RunFacts>(200, "It has ended; what is known of it")
            .refuses(&[404]),
        ask("/v1/runs/{n}/progress", "A run from its beginning on, as it goes on", get(runs::progress))
            .answers_bytes(
                200,
                runs::LINES,
                "A JSON object on each line, as `standin test --json` prints them; the last one is `run-ends`, with \
                 the report or the error",
            )
            .refuses(&[404]),
        ask("/v1/runs/{n}/files", "The evidence of a run", get(runs::files))
            .answers::<Vec<FileFacts>>(200, "The files")
            .refuses(&[404]),
        ask("/v1/runs/{n}/files/{*name}", "One of the files", get(runs::download))
            .answers_bytes(200, BYTES, "Its bytes")
            .refuses(&[404]),
    ]
}

async fn unknown() -> ApiError {
    ApiError::not_found("no-such-path", "there is no such path").hint("GET /v1/openapi.json tells of all")
}

async fn wrong_method() -> ApiError {
    let (status, code) = (StatusCode::METHOD_NOT_ALLOWED, "no-such-method");
    ApiError::user(status, code, "there is no such method of this path")
        .hint("GET /v1/openapi.json tells of all")
}

/// A page of another server's, in the browser of somebody who reaches this one, must not drive it: browsers say
/// where a page comes from whenever it changes something or opens a WebSocket (Fetch, `Origin`).
async fn refuse_other_pages(request: axum::extract::Request, next: Next) -> Result<Response, ApiError> {
    if !is_own_page(request.headers()) {
        let message = "the request comes from a page of another server";
        return Err(ApiError::user(StatusCode::FORBIDDEN, "other-origin", message));
    }
    Ok(next.run(request).await)
}

fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let authority = |origin: &str| Some(origin.split_once("://")?.1.to_ascii_lowercase());
    text(header::ORIGIN).is_none_or(|origin| authority(origin) == Some(host.to_ascii_lowercase()))
}

/// A kind of facts as an answer.
type Told<T> = Result<Json<T>, ApiError>;
