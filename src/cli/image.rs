//! The image that the user named: what they expect of it, and what they are told while it is read.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::meter::Meter;
use super::{CliError, human};
use crate::board::Medium;
use crate::io::cache::Cache;
use crate::io::image::progress::Progress;
use crate::io::image::{Expected, Image};
use crate::io::selftest::SELFTEST_IMAGE;
use crate::sys::blocking::blocking;

/// What the user expects of the image.
#[derive(Debug, Clone, clap::Args)]
pub struct Expectation {
    /// SHA-256 that the image must have, as a file or unpacked [default: what IMAGE.sha256 says, if it is there]
    #[arg(long, value_name = "HEX", requires = "image")]
    sha256: Option<String>,
    /// Block map of the image: only its blocks are flashed, and checked [default: IMAGE.bmap, or for `os.img.gz`
    /// also `os.img.bmap`, if it is there]
    #[arg(long, value_name = "FILE", requires = "image")]
    bmap: Option<PathBuf>,
}

impl Expectation {
    /// Whether nothing is expected.
    pub fn is_nothing(&self) -> bool {
        self.sha256.is_none() && self.bmap.is_none()
    }
}

/// The name of the built-in image.
pub const SELFTEST: &str = "selftest";

/// Opens the image that the user named: the built-in one or a file. It fits on `medium`.
///
/// Shows how far it is on stderr. Cancelled, it stops reading and leaves nothing.
pub async fn open(
    name: &Path,
    expectation: &Expectation,
    cache: &Cache,
    medium: &Medium,
) -> Result<Image, CliError> {
    let Expectation { sha256, bmap } = expectation;
    if name.as_os_str() == SELFTEST {
        if sha256.is_some() || bmap.is_some() {
            let option = if sha256.is_some() { "--sha256" } else { "--bmap" };
            let words = format!("`{option}` is for image files, and `selftest` is part of standin");
            let error = CliError::usage(words);
            return Err(error.hint("`./selftest` names a file"));
        }
        let image = Image::built_in(SELFTEST, SELFTEST_IMAGE, cache)?;
        image.check_fits(&medium.name, medium.size.0)?;
        return Ok(image);
    }
    open_file(name, expectation, cache, &medium.name, medium.size.0).await
}

/// The same of a file, for a medium of such a name and so many bytes.
pub async fn open_file(
    path: &Path,
    expectation: &Expectation,
    cache: &Cache,
    medium: &str,
    capacity: u64,
) -> Result<Image, CliError> {
    let Expectation { sha256, bmap } = expectation.clone();
    let (path, cache, medium) = (path.to_owned(), cache.clone(), medium.to_owned());
    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
    let is_wanted = wanted.0.clone();
    let opened = blocking(move || {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut meter = Meter::start();
        let mut progress = |progress: Progress| {
            if !is_wanted.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            meter.tell(|elapsed| line(&name, progress, elapsed));
            ControlFlow::Continue(())
        };
        let expected = Expected { medium: &medium, capacity, sha256, bmap, progress: &mut progress };
        Image::open_expected(&path, &cache, expected)
    });
    Ok(opened.await?)
}

/// Whether anybody still waits for the image.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// `os.img.xz: 42 %, 860.1 MiB of 2.0 GiB, 101.2 MiB/s, 12 s left`
fn line(name: &str, progress: Progress, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = (progress.written as f64 / seconds) as u64;
    let percent = (progress.share() * 100.0) as u64;
    let of = progress.content().map(|bytes| format!(" of {}", human(bytes))).unwrap_or_default();
    let left = progress.left(elapsed).map(|left| format!(", {} left", span(left))).unwrap_or_default();
    format!("{name}: {percent} %, {}{of}, {}/s{left}", human(progress.written), human(rate))
}

/// A span of time to come, rounded up: `12 s`, `3 min`.
fn span(time: Duration) -> String {
    match time.as_secs_f64().ceil() as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long_still() {
        let known = Progress { read: 10 << 20, file: 100 << 20, written: 512 << 20, hint: Some(2 << 30) };
        let told = line("os.img.xz", known, Duration::from_secs(4));
        assert_eq!(told, "os.img.xz: 25 %, 512.0 MiB of 2.0 GiB, 128.0 MiB/s, 12 s left");
        // Nobody says how long it is, so it goes by what was read of the file.
        let unknown = Progress { hint: None, ..known };
        let told = line("os.img.gz", unknown, Duration::from_secs(40));
        assert_eq!(told, "os.img.gz: 10 %, 512.0 MiB, 12.7 MiB/s, 6 min left");
    }
}
