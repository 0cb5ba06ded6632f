//! Flashing for leviathan's clients: accepted at once, told by its state.
//!
//! From acceptance to teardown the state is never `IDLE`, which clients take for success; a worker that starts
//! after one that died says `ERROR`. The state's file is this module's; `forget` removes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;

use crate::deadline::Deadline;
use crate::device::Device;
use crate::io::image::Image;
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
    state: Arc<watch::Sender<FlashState>>,
    file: PathBuf,
}

/// How often clients ask, in seconds between two times: leviathan's core, lib/components/worker.
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
        Ok(Self { state: Arc::new(watch::Sender::new(state)), file: file.to_owned() })
    }

    /// How far it is.
    pub fn state(&self) -> FlashState {
        self.state.borrow().clone()
    }

    /// `IDLE` again; what was under way has been cut.
    pub fn forget(&self) -> Result<(), StateError> {
        self.state.send_replace(FlashState::Idle);
        match fs::remove_file(&self.file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError { path: self.file.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// `PENDING`, unless it is already.
    fn begin(&self) -> Option<UnderWay> {
        let begun = self.state.send_if_modified(|state| {
            let idle = *state != FlashState::Pending;
            *state = FlashState::Pending;
            idle
        });
        if !begun {
            return None;
        }
        let under_way = UnderWay { state: self.state.clone(), ended: false };
        match fs::write(&self.file, "accepted\n") {
            Ok(()) => Some(under_way),
            Err(error) => {
                under_way.end(Err(format!("cannot write {}: {error}", self.file.display())));
                None
            }
        }
    }
}

/// A flash that is under way; dropped before its end, it has failed.
struct UnderWay {
    state: Arc<watch::Sender<FlashState>>,
    ended: bool,
}

impl UnderWay {
    fn end(mut self, outcome: Result<(), String>) {
        self.ended = true;
        let state = match outcome {
            Ok(()) => FlashState::Done,
            Err(cause) => {
                tracing::error!(cause, "the flash failed");
                FlashState::Error(cause)
            }
        };
        self.replace(state);
    }

    /// A teardown meanwhile has the last word.
    fn replace(&self, ended: FlashState) {
        self.state.send_if_modified(|state| {
            let counts = *state == FlashState::Pending;
            if counts {
                *state = ended;
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
        let uploaded = worker.upload.complete();
        let images = worker.settings.images.clone();
        let given = CLIENT_ASKS_EVERY * worker.settings.flash_tries.saturating_sub(1).max(1);
        let keeper = worker.keeper.clone();
        // It goes on when the client hangs up. The keeper owns the work; the task ends with it.
        tokio::spawn(async move {
            let flashed = match uploaded {
                Ok(path) => {
                    let work = keeper.perform("flash", move |device| {
                        Box::pin(async move { flash(device, &path, &images, Deadline::after(given)).await })
                    });
                    work.await.unwrap_or_else(|cut| Err(cut.to_string()))
                }
                Err(refusal) => Err(refusal.message),
            };
            under_way.end(flashed);
        });
    }
    let mut state = worker.flash.state.subscribe();
    let ended = state.wait_for(|state| *state != FlashState::Pending);
    // What has not ended by then, the client will see by its state.
    let _ = Deadline::after(ANSWER_WITHIN).bound(ended).await;
    typed("text/html; charset=utf-8", json!({ "timeoutTries": worker.settings.flash_tries }).to_string())
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

async fn flash(device: &mut Device, path: &Path, images: &Path, deadline: Deadline) -> Result<(), String> {
    let medium = device.board.flash_medium();
    let (medium, capacity) = (medium.name.clone(), medium.size.0);
    let (path, images) = (path.to_owned(), images.to_owned());
    let flashed = async {
        let image = blocking(move || Image::open(&path, &images, &medium, capacity)).await;
        let image = image.map_err(|error| chain(&error))?;
        procedure::flash(device, &image).await.map_err(|error| chain(&error))
    };
    let late = |elapsed: crate::deadline::Elapsed| format!("it did not end within {:?}", elapsed.given);
    deadline.bound(flashed).await.map_err(late)?
}
