//! Flashing for leviathan's clients: accepted at once, told by its state.
//!
//! From acceptance to teardown the state is never `IDLE`, which clients take for success; a worker that starts
//! after one that died says `ERROR`. The state's file is this module's; `forget` removes it.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;

use super::upload::Complete;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::io::cache::Cache;
use crate::io::image::progress::Progress;
use crate::io::image::{Expected, Image};
use crate::message::chain;
use crate::procedure;
use crate::sys::blocking::blocking;
use crate::worker::Worker;
use crate::worker::answer::{typed, word};

/// How far the flash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlashState {
    /// None was asked for.
    Idle,
    /// It is under way.
    Pending,
    /// The whole image is on the medium, and was verified.
    Done,
    /// It failed; the medium is as the procedure says.
    Error(String),
}

/// The state's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the state of the flash in {path}")]
pub struct StateError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The worker's flashes, one at a time.
#[derive(Debug)]
pub struct Flash {
    now: Arc<watch::Sender<Now>>,
    progress: Arc<watch::Sender<Option<Progress>>>,
    file: PathBuf,
}

#[derive(Debug, Clone)]
struct Now {
    /// Counts the flashes, so that the end of one that was cut never tells of the next.
    number: u64,
    state: FlashState,
}

/// How often clients ask, in seconds between two times: leviathan's core, lib/common/worker.js.
const CLIENT_ASKS_EVERY: Duration = Duration::from_secs(25);

/// How long the answer to `flashImage` is held back, so that a client sees the end of a short flash at once and not
/// when it asks next. It gives up after 30 s of silence.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

impl Flash {
    /// `IDLE`, or `ERROR` if `file` tells of a flash of a worker that died.
    pub fn start(file: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError { path: file.to_owned(), source };
        let state = match fs::read_to_string(file) {
            Ok(_) => FlashState::Error(
                "the worker ended after it had accepted this flash, and its media are gone".to_owned(),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => FlashState::Idle,
            Err(error) => return Err(failed(error)),
        };
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let now = Arc::new(watch::Sender::new(Now { number: 0, state }));
        Ok(Self { now, progress: Arc::new(watch::Sender::new(None)), file: file.to_owned() })
    }

    /// How far it is.
    pub fn state(&self) -> FlashState {
        self.now.borrow().state.clone()
    }

    /// How far the image has been read, in the flash that is under way or in the last one.
    pub fn progress(&self) -> Option<Progress> {
        *self.progress.borrow()
    }

    /// Tells each change of it.
    pub fn watch_progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }

    /// `IDLE` again; what was under way has been cut.
    pub fn forget(&self) -> Result<(), StateError> {
        self.now.send_modify(|now| *now = Now { number: now.number + 1, state: FlashState::Idle });
        self.progress.send_replace(None);
        match fs::remove_file(&self.file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError { path: self.file.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// `PENDING`, unless it is already.
    pub(super) fn begin(&self) -> Option<UnderWay> {
        let mut number = None;
        self.now.send_if_modified(|now| {
            let idle = now.state != FlashState::Pending;
            if idle {
                *now = Now { number: now.number + 1, state: FlashState::Pending };
                number = Some(now.number);
            }
            idle
        });
        let under_way = UnderWay { now: self.now.clone(), number: number?, ended: false };
        self.progress.send_replace(None);
        match fs::write(&self.file, "accepted\n") {
            Ok(()) => Some(under_way),
            Err(error) => {
                under_way.end(Err(format!("cannot write {}: {error}", self.file.display())));
                None
            }
        }
    }

    /// Waits until none is under way.
    async fn ended(&self) -> FlashState {
        let mut now = self.now.subscribe();
        // The sender is `self`'s own.
        let ended = now.wait_for(|now| now.state != FlashState::Pending).await;
        ended.map_or(FlashState::Idle, |now| now.state.clone())
    }
}

/// A flash that is under way; dropped before its end, it has failed.
pub(super) struct UnderWay {
    now: Arc<watch::Sender<Now>>,
    number: u64,
    ended: bool,
}

impl UnderWay {
    pub(super) fn end(mut self, outcome: Result<(), String>) {
        self.ended = true;
        self.replace(match outcome {
            Ok(()) => FlashState::Done,
            Err(cause) => {
                tracing::error!(cause, "the flash failed");
                FlashState::Error(cause)
            }
        });
    }

    /// A teardown meanwhile has the last word.
    fn replace(&self, ended: FlashState) {
        self.now.send_if_modified(|now| {
            let counts = now.number == self.number;
            if counts {
                now.state = ended;
            }
            counts
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended {
            self.replace(FlashState::Error("it was cut short".to_owned()));
        }
    }
}

/// Accepts always; what was wrong is told by the state. Asked again while one is under way, it is the same one.
pub async fn flash_image(State(worker): State<Arc<Worker>>) -> Response {
    if let Some(under_way) = worker.flash.begin() {
        // It goes on when the client hangs up. The keeper owns the work; the task ends with it.
        tokio::spawn(flash_uploaded(worker.clone(), under_way));
    }
    // What has not ended by then, the client will see by its state.
    let _ = Deadline::after(ANSWER_WITHIN).bound(worker.flash.ended()).await;
    typed("text/html; charset=utf-8", json!({ "timeoutTries": worker.settings.flash_tries }).to_string())
}

/// Flashes what was uploaded, and ends with the flash.
pub(super) async fn flash_uploaded(worker: Arc<Worker>, under_way: UnderWay) {
    let flashed = match worker.upload.complete() {
        Ok(image) => {
            let images = worker.settings.images.clone();
            let given = CLIENT_ASKS_EVERY * worker.settings.flash_tries.saturating_sub(1).max(1);
            let progress = worker.flash.progress.clone();
            let work = worker.keeper.perform("flash", move |device| {
                Box::pin(async move { flash(device, image, images, progress, Deadline::after(given)).await })
            });
            work.await.unwrap_or_else(|cut| Err(cut.to_string()))
        }
        Err(refusal) => Err(refusal.message),
    };
    under_way.end(flashed);
}

/// How far the flash is, in one word.
pub async fn flash_state(State(worker): State<Arc<Worker>>) -> Response {
    word(match worker.flash.state() {
        FlashState::Idle => "IDLE",
        FlashState::Pending => "PENDING",
        FlashState::Done => "DONE",
        FlashState::Error(_) => "ERROR",
    })
}

async fn flash(
    device: &mut Device,
    upload: Arc<Complete>,
    images: Cache,
    progress: Arc<watch::Sender<Option<Progress>>>,
    deadline: Deadline,
) -> Result<(), String> {
    let medium = device.board.flash_medium();
    let (medium, capacity) = (medium.name.clone(), medium.size.0);
    let flashed = async {
        let open = move || {
            let mut progress = |now| {
                progress.send_replace(Some(now));
                ControlFlow::Continue(())
            };
            let (medium, progress) = (medium.as_str(), &mut progress);
            let expected = Expected { medium, capacity, sha256: None, bmap: None, progress };
            upload.check_packed()?;
            let opened = Image::open_expected(&upload.path(), &images, expected);
            opened.map_err(|error| chain(&error))
        };
        let image = blocking(open).await?;
        procedure::flash(device, &image).await.map_err(|error| chain(&error))
    };
    let late = |elapsed: crate::deadline::Elapsed| format!("it did not end within {:?}", elapsed.given);
    deadline.bound(flashed).await.map_err(late)?
}
