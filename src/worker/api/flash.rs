//! Flashes, and the operations that they are.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::extract::{Asked, Json, Query};
use super::{Api, Told};
use crate::deadline::Deadline;
use crate::device::Device;
use crate::io::image::progress::Progress;
use crate::procedure;
use crate::sys::blocking::blocking;
use crate::worker::devices::Lent;
use crate::worker::operation::{Operation, OperationFacts, OperationKind};

/// What to flash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlashOrder {
    /// The digest of an image that is here, as `GET /v1/images/{digest}` knows it, or `selftest`, the image that is
    /// built in.
    pub image: String,
    /// What people call the image, for events and reports.
    pub name: Option<String>,
}

/// How long to wait.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// How many seconds the answer may be held back until the operation has ended; 30 at most.
    pub wait: Option<u64>,
}

/// How long an answer is held back at most: many clients give up after 30 s of silence.
const WAIT_AT_MOST: u64 = 30;
/// How long that of a flash is by itself: a known image is flashed by then.
const WAIT_FOR_KNOWN: Duration = Duration::from_millis(500);

pub async fn flash(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
    Asked(asked): Asked<FlashOrder>,
) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    let (known, image) = (api.clone(), asked.image.clone());
    blocking(move || known.images.check(&image)).await?;
    let subject = asked.name.unwrap_or_else(|| asked.image.clone());
    let begun = lent.operations.begin(OperationKind::Flash, subject, lent.keeper.status().hold);
    let operation = begun.map_err(|running| {
        let message = format!("operation {running} is under way on this device");
        ApiError::conflict("busy", message)
            .hint(format!("DELETE /v1/devices/{id}/operations/{running} cancels it"))
    })?;
    let (working, device) = (operation.clone(), lent.clone());
    // It goes on when the client hangs up. The keeper owns the work, and the task ends with it.
    tokio::spawn(async move {
        let performed = perform(api, &device, &working, asked.image).await;
        working.end(performed.map_err(|error| *error.facts));
    });
    let wait = query.wait.map_or(WAIT_FOR_KNOWN, |seconds| Duration::from_secs(seconds.min(WAIT_AT_MOST)));
    let facts = operation.ended(Deadline::after(wait)).await;
    let location = [(header::LOCATION, format!("/v1/devices/{id}/operations/{}", facts.id))];
    Ok((StatusCode::ACCEPTED, location, Json(facts)).into_response())
}

async fn perform(
    api: Arc<Api>,
    lent: &Lent,
    operation: &Arc<Operation>,
    image: String,
) -> Result<String, ApiError> {
    let asked = operation.clone();
    let work = lent.keeper.perform("flash", move |device| {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = asked.cancelled() => Err(cancelled()),
                flashed = write(api, device, &asked, image) => flashed,
            }
        })
    });
    tokio::select! {
        // While it waits for its turn.
        () = operation.cancelled(), if lent.keeper.status().activity != Some("flash") => Err(cancelled()),
        flashed = work => flashed?,
    }
}

fn cancelled() -> ApiError {
    ApiError::conflict("cancelled", "the operation was cancelled")
}

async fn write(
    api: Arc<Api>,
    device: &mut Device,
    operation: &Arc<Operation>,
    image: String,
) -> Result<String, ApiError> {
    let medium = device.board.flash_medium();
    let (medium, capacity) = (medium.name.clone(), medium.size.0);
    let told = operation.clone();
    let opened = blocking(move || {
        let mut progress = |now: Progress| {
            told.progress(now.read, now.file);
            if told.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        api.images.open(&image, (&medium, capacity), &mut progress)
    });
    let image = opened.await?;
    procedure::flash(device, &image).await?;
    Ok(format!("content:{}", image.digest))
}

pub async fn list(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Told<Vec<OperationFacts>> {
    Ok(Json(api.devices.find(&id)?.operations.list()))
}

pub async fn show(
    State(api): State<Arc<Api>>,
    Path((id, number)): Path<(String, String)>,
    Query(query): Query<WaitQuery>,
) -> Told<OperationFacts> {
    let operation = find(&api, &id, &number)?;
    let wait = Duration::from_secs(query.wait.unwrap_or(0).min(WAIT_AT_MOST));
    Ok(Json(operation.ended(Deadline::after(wait)).await))
}

pub async fn cancel(
    State(api): State<Arc<Api>>,
    Path((id, number)): Path<(String, String)>,
) -> Told<OperationFacts> {
    let operation = find(&api, &id, &number)?;
    operation.cancel();
    Ok(Json(operation.ended(Deadline::after(Duration::from_secs(WAIT_AT_MOST))).await))
}

fn find(api: &Api, id: &str, number: &str) -> Result<Arc<Operation>, ApiError> {
    let lent = api.devices.find(id)?;
    let operation = number.parse().ok().and_then(|number| lent.operations.find(number));
    operation.ok_or_else(|| ApiError::not_found("no-such-operation", "there is no such operation"))
}
