//! Screen and keyboard of the device: captures as numbered JPEGs, a live stream, and keys.
//!
//! None of them needs its turn with the device. A capture and the live stream end with the hold; the capture's files
//! lie in a folder of the worker's, and the next capture or the teardown removes them.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::deadline::Deadline;
use crate::device::capture::{Capture, Limits, Shown};
use crate::device::keyboard::key::Stroke;
use crate::io::tar;
use crate::message::chain;
use crate::sys::blocking::blocking;
use crate::worker::Worker;
use crate::worker::answer::{Refusal, typed, word};
use crate::worker::body;
use crate::worker::live::LiveScreen;

/// What is captured and shown in this hold.
#[derive(Debug)]
pub struct Views {
    folder: PathBuf,
    capture: tokio::sync::Mutex<Captures>,
    live: LiveScreen,
}

#[derive(Debug, Default)]
enum Captures {
    #[default]
    None,
    Running(Capture),
    /// It has ended; its files are there.
    Ended,
}

/// How long a key may take.
const TYPING: Duration = Duration::from_secs(10);

impl Views {
    /// None yet; `folder` will take the files of captures.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, capture: tokio::sync::Mutex::default(), live: LiveScreen::default() }
    }

    /// Ends all, and removes the files. Returns what went wrong.
    pub async fn clear(&self) -> Option<String> {
        self.live.end();
        let ended = match std::mem::take(&mut *self.capture.lock().await) {
            Captures::Running(capture) => capture.stop().await.err().map(|error| chain(&error)),
            Captures::None | Captures::Ended => None,
        };
        ended.or(remove(&self.folder).err().map(|error| format!("cannot remove a capture: {error}")))
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A part of the device; a board without it says so.
fn fitted<T>(worker: &Worker, part: Option<T>, name: &str) -> Result<T, Refusal> {
    part.ok_or_else(|| {
        Refusal::failed(format!("the stand-in of {} has no {name}", worker.settings.board.slug))
    })
}

/// Begins to capture; already begun is fine.
pub async fn start_capture(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    let screen = fitted(&worker, worker.keeper.handles().screen, "screen that can be captured")?;
    let mut captures = worker.views.capture.lock().await;
    if !matches!(&*captures, Captures::Running(_)) {
        let failed = |error: io::Error| Refusal::failed(format!("cannot remove the last capture: {error}"));
        remove(&worker.views.folder).map_err(failed)?;
        let capture = Capture::start(screen, &worker.views.folder, Limits::default());
        *captures = Captures::Running(capture.map_err(|error| Refusal::failed(chain(&error)))?);
    }
    Ok(word("OK"))
}

/// Ends the capture, and sends its files; asked again, it sends them again.
pub async fn stop_capture(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    let mut captures = worker.views.capture.lock().await;
    match std::mem::take(&mut *captures) {
        Captures::Running(capture) => {
            let captured = capture.stop().await;
            *captures = Captures::Ended;
            let captured = captured.map_err(|error| Refusal::failed(chain(&error)))?;
            tracing::info!(
                frames = captured.frames,
                full = captured.full,
                blind = captured.blind,
                "captured"
            );
        }
        Captures::Ended => *captures = Captures::Ended,
        Captures::None => {
            fitted(&worker, worker.keeper.handles().screen, "screen that can be captured")?;
            return Err(Refusal::failed("nothing is captured: no capture was started"));
        }
    }
    let (pieces, sent) = mpsc::channel(PIECES_WAITING);
    let folder = worker.views.folder.clone();
    // It ends with the archive, or when the client has gone.
    tokio::spawn(async move {
        if let Err(error) = blocking(move || pack(&folder, pieces)).await {
            tracing::warn!(%error, "a capture was not sent to its end");
        }
    });
    let body = stream::unfold(sent, |mut sent| async move { Some((sent.recv().await?, sent)) });
    Ok(typed("application/gzip", Body::from_stream(body)))
}

/// How many pieces of an archive wait for a client that reads slowly.
const PIECES_WAITING: usize = 4;

/// A piece of an archive, or why there are no more.
type Sent = mpsc::Sender<io::Result<Bytes>>;

/// As leviathan-worker packs it: the folder itself, and then its files by their names.
fn pack(folder: &Path, to: Sent) -> io::Result<()> {
    let packed = (|| {
        let mut names =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        // JPEGs do not get smaller.
        let mut archive =
            GzEncoder::new(io::BufWriter::with_capacity(64 << 10, Pieces(&to)), Compression::fast());
        tar::folder(&mut archive, ".")?;
        for name in names.iter().filter_map(|name| name.to_str()).filter(|name| name.ends_with(".jpg")) {
            tar::file(&mut archive, name, &fs::read(folder.join(name))?)?;
        }
        tar::end(&mut archive)?;
        archive.finish()?.flush()
    })();
    if let Err(error) = &packed {
        // So that the client does not take what it has for all; it may be gone itself.
        let _ = to.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
    }
    packed
}

struct Pieces<'a>(&'a Sent);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the screen shows, as it changes, until the client leaves or the worker is given back.
pub async fn live_stream(State(worker): State<Arc<Worker>>) -> Result<Response, Refusal> {
    let view = worker.views.live.look(&worker.keeper.handles());
    let view = fitted(&worker, view, "screen that can be captured")?;
    let parts = stream::unfold(view, |mut view| async move {
        loop {
            // Ends when the live view does.
            view.changed().await.ok()?;
            let shown = view.borrow_and_update().clone();
            if let Shown::Jpeg(jpeg) = shown {
                return Some((Ok::<_, Infallible>(part(&jpeg)), view));
            }
        }
    });
    Ok(typed("multipart/x-mixed-replace; boundary=FRAME", Body::from_stream(parts)))
}

/// One picture of a live stream.
fn part(jpeg: &[u8]) -> Bytes {
    let head = format!("--FRAME\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
    Bytes::from([head.as_bytes(), jpeg, b"\r\n"].concat())
}

#[derive(Debug, Deserialize)]
struct Key {
    key: Option<String>,
}

/// Types a key, by the name that suites have for it.
pub async fn keyboard(State(worker): State<Arc<Worker>>, request: Body) -> Result<Response, Refusal> {
    let asked: Key = body::json(worker.pieces(request)).await?;
    let Some(key) = asked.key else { return Err(Refusal::failed("key missing")) };
    let keyboard = fitted(&worker, worker.keeper.handles().keyboard, "keyboard that can be typed on")?;
    let stroke =
        Stroke::parse(&key).map_err(|error| Refusal::failed(format!("{error}; {}", error.hint())))?;
    let pressed = keyboard.press(&[stroke], Deadline::after(TYPING)).await;
    pressed.map_err(|error| Refusal::failed(chain(&error)))?;
    Ok(word("OK"))
}
