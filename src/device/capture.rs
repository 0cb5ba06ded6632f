//! What a screen shows over time: as numbered files, and live for whoever looks.
//!
//! Both look through [`Screen::paced_frame`], so that together they cost the DUT no more than one of them. Each has one
//! task, which its owner joins by `stop` or `close`; dropped, the task ends by itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::screen::{Changes, Screen, ScreenError, Seen};
use crate::io::picture::{Picture, PictureError};
use crate::message::chain;
use crate::sys::blocking::blocking;

/// Writes what the screen shows into a folder: `000001.jpg` and so on, one file for each picture that is another than
/// the one before.
#[derive(Debug)]
pub struct Capture {
    task: Task<Result<Captured, CaptureError>>,
}

/// How much a capture may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How often the screen is looked at, at most; from 1. It is less where a dump takes longer than a twentieth of
    /// that time.
    pub frames_per_second: u32,
    /// The most files; no more than 999,999, as their names have six digits.
    pub frames: u32,
    /// The most bytes in all files.
    pub bytes: u64,
}

impl Default for Limits {
    /// Ten a second, about as often as a PC's text screen can be dumped within the twentieth; 256 MiB, which is some
    /// 15,000 of its pictures (17 KiB each at 720x400).
    fn default() -> Self {
        Self { frames_per_second: 10, frames: 999_999, bytes: 256 << 20 }
    }
}

/// What a capture has written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// How many files.
    pub frames: u32,
    /// How many bytes are in them.
    pub bytes: u64,
    /// Whether a limit was reached: later pictures are not there. The oldest stay, as their numbers must begin with 1
    /// and leave no gap, and a boot is what a capture is mostly looked at for.
    pub full: bool,
    /// Why the screen could last not be seen, if that happened: pictures may be missing.
    pub blind: Option<String>,
}

/// A capture failed: the lab's fault, but for a folder that is in use.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// What is there already would mix with what is captured.
    #[error("cannot capture into {path}: it is not empty")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file or the folder.
    #[error("cannot write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A picture could not be encoded.
    #[error(transparent)]
    Encode(#[from] PictureError),
}

/// JPEG quality, from 1 to 100: the letters of a console stay sharp.
const QUALITY: u8 = 80;

impl Capture {
    /// Begins to capture into `folder`, which is made if it is not there and must be empty.
    pub fn start(screen: Screen, folder: &Path, limits: Limits) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        if fs::read_dir(folder).map_err(failed)?.next().is_some() {
            return Err(CaptureError::InUse { path: folder.to_owned() });
        }
        let writer = Writer { folder: folder.to_owned(), limits, captured: Captured::default(), last: None };
        let changes = screen.changes(limits.frames_per_second);
        Ok(Self { task: Task::spawn(|stop| writer.run(changes, stop)) })
    }

    /// Whether it has ended by itself: at a limit, or for an error that `stop` tells.
    pub fn has_ended(&self) -> bool {
        self.task.handle.is_finished()
    }

    /// Ends it, and tells what it has written. All files are whole.
    pub async fn stop(self) -> Result<Captured, CaptureError> {
        self.task.end().await
    }
}

struct Writer {
    folder: PathBuf,
    limits: Limits,
    captured: Captured,
    /// The picture that was written last; the screen may have been dark since.
    last: Option<Arc<Picture>>,
}

impl Writer {
    async fn run(
        mut self,
        mut changes: Changes,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<Captured, CaptureError> {
        while !self.captured.full {
            let seen = tokio::select! {
                seen = changes.next() => seen,
                _ = &mut stop => return Ok(self.captured),
            };
            match seen {
                Ok(Seen::Picture(picture)) if self.last.as_ref() != Some(&picture) => {
                    self.last = Some(picture.clone());
                    self.write(picture).await?;
                }
                Ok(_) => {}
                Err(error) => self.captured.blind = Some(chain(&error)),
            }
        }
        Ok(self.captured)
    }

    async fn write(&mut self, picture: Arc<Picture>) -> Result<(), CaptureError> {
        let path = self.folder.join(format!("{:06}.jpg", self.captured.frames + 1));
        let left = self.limits.bytes.saturating_sub(self.captured.bytes);
        let enough = self.captured.frames >= self.limits.frames.min(999_999);
        let written = blocking(move || {
            let jpeg = picture.to_jpeg(QUALITY)?;
            let bytes = jpeg.len() as u64;
            if enough || bytes > left {
                return Ok(None);
            }
            // Whoever looks into the folder meanwhile finds whole pictures only.
            let part = path.with_extension("part");
            match fs::write(&part, jpeg).and_then(|()| fs::rename(&part, &path)) {
                Ok(()) => Ok(Some(bytes)),
                Err(source) => Err(CaptureError::Write { path, source }),
            }
        });
        match written.await? {
            Some(bytes) => {
                self.captured.frames += 1;
                self.captured.bytes += bytes;
            }
            None => self.captured.full = true,
        }
        Ok(())
    }
}

/// The newest picture of a screen, for any number of viewers: all of them together cost one dump and one JPEG a picture,
/// and nothing while nobody looks.
#[derive(Debug)]
pub struct Live {
    shown: Arc<watch::Sender<Shown>>,
    viewer_came: Arc<Notify>,
    task: Task<()>,
}

/// What a viewer sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nobody has looked yet.
    NotYet,
    /// The DUT does not run.
    Off,
    /// The DUT runs and does not drive its screen.
    NoSignal,
    /// A picture, as JPEG.
    Jpeg(Arc<[u8]>),
    /// The lab failed: this is why nobody knows.
    Unknown(Arc<str>),
}

impl Live {
    /// Watches `screen` as soon as somebody looks, at most so many times a second; from 1.
    pub fn start(screen: Screen, frames_per_second: u32) -> Self {
        let shown = Arc::new(watch::Sender::new(Shown::NotYet));
        let viewer_came = Arc::new(Notify::new());
        let (teller, came) = (shown.clone(), viewer_came.clone());
        let task = Task::spawn(move |stop| async move {
            tokio::select! {
                () = tell(screen, frames_per_second, &teller, &came) => {}
                _ = stop => {}
            }
        });
        Self { shown, viewer_came, task }
    }

    /// A view, which costs the DUT something until it is dropped. Its first value is there at once; it may be
    /// [`Shown::NotYet`].
    pub fn look(&self) -> watch::Receiver<Shown> {
        let mut view = self.shown.subscribe();
        view.mark_changed();
        self.viewer_came.notify_one();
        view
    }

    /// Ends it. Views keep what they saw last.
    pub async fn close(self) {
        self.task.end().await;
    }
}

async fn tell(screen: Screen, frames_per_second: u32, shown: &watch::Sender<Shown>, viewer_came: &Notify) {
    loop {
        while shown.receiver_count() == 0 {
            viewer_came.notified().await;
        }
        let mut changes = screen.changes(frames_per_second);
        let watch = async {
            loop {
                let seen = encoded(changes.next().await).await;
                shown.send_if_modified(|last| {
                    let modified = *last != seen;
                    *last = seen;
                    modified
                });
            }
        };
        tokio::select! {
            () = watch => {}
            () = shown.closed() => {}
        }
        // The next viewer must not take for new what was there when the last one left.
        shown.send_replace(Shown::NotYet);
    }
}

async fn encoded(seen: Result<Seen, ScreenError>) -> Shown {
    match seen {
        Ok(Seen::Off) => Shown::Off,
        Ok(Seen::NoSignal) => Shown::NoSignal,
        Ok(Seen::Picture(picture)) => match blocking(move || picture.to_jpeg(QUALITY)).await {
            Ok(jpeg) => Shown::Jpeg(jpeg.into()),
            Err(error) => Shown::Unknown(chain(&error).into()),
        },
        Err(error) => Shown::Unknown(chain(&error).into()),
    }
}

/// A task and the way to end it; dropped, it ends by itself at its next wait.
#[derive(Debug)]
struct Task<T> {
    stop: oneshot::Sender<()>,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Task<T> {
    fn spawn<F: Future<Output = T> + Send + 'static>(work: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, handle: tokio::spawn(work(stopped)) }
    }

    async fn end(self) -> T {
        // Nobody takes it if the task has ended by itself.
        let _ = self.stop.send(());
        match self.handle.await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
