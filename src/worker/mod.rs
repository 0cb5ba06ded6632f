//! The worker: an HTTP server that lends one device to those who ask, in the words of leviathan-worker.
//!
//! [`keeper`] owns the device, [`listener`] the connections, [`lease`] says whose it is, and [`leviathan`] answers
//! leviathan's clients, [`api`] all others, and [`page`] is a client of the latter for people. `cli::serve` starts and
//! closes it; it leaves no process.

pub mod access;
pub mod answer;
pub mod api;
mod body;
pub mod devices;
pub mod journal;
pub mod keeper;
pub mod lease;
pub mod leviathan;
pub mod listener;
pub mod live;
pub mod operation;
pub mod page;
mod patience;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::board::Board;
use crate::device::DeviceError;
use crate::io::cache::Cache;
use crate::qemu::arguments::Accelerator;
use keeper::{Keeper, Open};
use lease::Lease;
use leviathan::flash::Flash;
use leviathan::screen::Views;
use leviathan::upload::Upload;

/// How a worker behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The board that its device is.
    pub board: Arc<Board>,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The cache of images.
    pub images: Cache,
    /// Where uploads are put, and nothing else is.
    pub uploads: PathBuf,
    /// Where the pictures of a capture are put, and nothing else is.
    pub captures: PathBuf,
    /// Where it is written down that a flash is under way; outlives the worker, so that the next one knows.
    pub flash_state: PathBuf,
    /// The length of an uploaded piece in bytes, as the client is told.
    pub chunk_bytes: u64,
    /// How large an upload may be, in bytes.
    pub upload_limit: u64,
    /// How often a client asks, every 25 s, whether a flash has ended.
    pub flash_tries: u32,
    /// How long a holder may be silent.
    pub heartbeat: Duration,
    /// Whether a device is only for those who can say that they hold it.
    pub enforce_leases: bool,
    /// What the contract says beyond what is known of the board, or instead of it.
    pub features: Vec<(String, String)>,
    /// How long a client may be silent in the middle of a request.
    pub silence: Duration,
    /// The worker's own identity, if it has one.
    pub uuid: Option<String>,
}

/// A worker without its connections.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    keeper: Keeper,
    lease: Lease,
    upload: Upload,
    flash: Flash,
    views: Views,
}

impl Worker {
    /// Opens the first device. Must be called in a tokio runtime.
    pub fn start(settings: Settings, open: Open) -> Result<Arc<Self>, StartError> {
        let flash = Flash::start(&settings.flash_state)?;
        let upload = Upload::new(settings.uploads.clone(), settings.chunk_bytes, settings.upload_limit);
        let keeper = Keeper::start(open)?;
        let lease = Lease::new(settings.heartbeat);
        let views = Views::new(settings.captures.clone());
        Ok(Arc::new(Self { settings, keeper, lease, upload, flash, views }))
    }

    /// Tears down what a holder left who has not been heard of for too long; never ends.
    pub async fn watch_lease(&self) {
        loop {
            let generation = self.lease.lost().await;
            tracing::warn!(
                given = ?self.settings.heartbeat,
                "the holder was not heard of for too long: the device is taken back"
            );
            self.teardown(Some(generation)).await;
        }
    }

    /// The pieces of a request's body.
    fn pieces(&self, body: axum::body::Body) -> body::Pieces {
        body::Pieces::of(body, self.settings.silence)
    }

    /// Ends what is under way, gives the device back fresh and frees the worker, whatever fails on the way; returns
    /// what did. With a generation, only if that holder still has it.
    async fn teardown(&self, generation: Option<u64>) -> Vec<String> {
        let Some(freeing) = self.lease.begin_freeing(generation).await else { return Vec::new() };
        let captured = self.views.clear().await;
        let mut failures = match self.keeper.renew().await {
            Ok(failures) => failures,
            Err(error) => vec![crate::message::chain(&error)],
        };
        failures.extend(captured);
        self.upload.clear();
        failures.extend(self.flash.forget().err().map(|error| crate::message::chain(&error)));
        for failure in &failures {
            tracing::error!(failure, "teardown");
        }
        freeing.done();
        failures
    }

    /// Who holds its device.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Closes the device; a flash that was under way is cut and needs no mention to the next worker.
    pub async fn close(&self) -> Result<(), CloseError> {
        if let Some(failure) = self.views.clear().await {
            tracing::error!(failure, "a capture was not ended well");
        }
        self.upload.clear();
        let closed = self.keeper.close().await;
        self.flash.forget()?;
        Ok(closed?)
    }
}

/// The worker was not closed well: the lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The device was not.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What is known of its flash could not be removed.
    #[error(transparent)]
    Flash(#[from] leviathan::flash::StateError),
}

/// The worker cannot start: the lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no device.
    #[error(transparent)]
    Open(#[from] crate::lab::OpenError),
    /// What is known of earlier flashes cannot be read or written.
    #[error(transparent)]
    Flash(#[from] leviathan::flash::StateError),
}

/// A lock that a panic elsewhere does not spoil: what it guards is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
