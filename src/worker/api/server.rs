//! What a server is, and what it has.

use std::sync::Arc;

use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;
use super::extract::Json;
use super::{Api, Told};
use crate::board::word;
use crate::worker::devices::memory_available;

/// What a server is, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerFacts {
    /// The version of standin.
    pub standin: String,
    /// The version of this API, which is in its paths.
    pub api: String,
    /// How many devices there are.
    pub devices: usize,
    /// How many there may be.
    pub devices_limit: usize,
    /// The memory of all devices when they run, in bytes.
    pub memory_bytes: u64,
    /// How much that may be.
    pub memory_limit_bytes: u64,
    /// What the host could still give, in bytes.
    pub memory_available_bytes: u64,
    /// The processors of all devices.
    pub cpus: u64,
    /// How many that may be.
    pub cpus_limit: u64,
    /// How long an image that is sent may be, in bytes.
    pub image_limit_bytes: u64,
    /// Whether suites may start programs on the server's host.
    pub allow_exec: bool,
}

/// A board in the list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BoardLine {
    /// What it is asked for by.
    pub slug: String,
    /// What people call it.
    pub name: String,
    /// The architecture of its main processor.
    pub arch: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: u8,
}

pub async fn facts(State(api): State<Arc<Api>>) -> Json<ServerFacts> {
    let (usage, limits) = (api.devices.usage(), api.devices.limits);
    Json(ServerFacts {
        standin: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        devices: usage.devices,
        devices_limit: limits.devices,
        memory_bytes: usage.memory_bytes,
        memory_limit_bytes: limits.memory_bytes,
        memory_available_bytes: memory_available(),
        cpus: usage.cpus,
        cpus_limit: limits.cpus,
        image_limit_bytes: api.images.limit(),
        allow_exec: api.runs.allow_exec,
    })
}

pub async fn openapi() -> Json<Value> {
    Json(super::openapi())
}

/// A board whose file is broken is none; who asks for it hears of it.
pub async fn boards(State(api): State<Arc<Api>>) -> Json<Vec<BoardLine>> {
    let entries = api.devices.supply.catalog.entries();
    let boards = entries.filter_map(|entry| entry.board.as_ref().ok()).map(|board| BoardLine {
        slug: board.slug.clone(),
        name: board.name.clone(),
        arch: word(&board.arch),
        memory_bytes: board.qemu.memory.0,
        cpus: board.qemu.cpus,
    });
    Json(boards.collect())
}

pub async fn board(State(api): State<Arc<Api>>, Path(slug): Path<String>) -> Told<Value> {
    let board = api.devices.board(&slug).map_err(|mut error| {
        error.status = axum::http::StatusCode::NOT_FOUND;
        error
    })?;
    serde_json::to_value(&*board).map(Json).map_err(|error| ApiError::lab("lab-failed", error))
}
