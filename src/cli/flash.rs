//! `standin flash`: an image onto a real medium, or into a file, read back and right.
//!
//! It never asks: what it would ask is an error whose hint says what to add. Everything that can be wrong is found
//! before the first byte is written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::interrupt::Interrupted;
use super::meter::Meter;
use super::{CliError, Context, Exit, Output, human, image, interrupt, remote, say};
use crate::board::ByteSize;
use crate::io::image::Image;
use crate::io::medium::{Checks, LARGEST_BYTES, Order, Progress, Refusal, Target, WriteError, Written};
use crate::sys::blocking::blocking;

/// Write an image to a card, a stick or a file, or to a device of a running server
///
/// With `--to`, a medium of this host is written and read back. Without it, the device of the server that runs
/// on this host is flashed, or that of `--worker`; the image is sent only if the server does not have it.
///
/// The image may be raw or packed in any way that suites may flash. All that was written is read back from the
/// medium, past every cache of this host. A device that is mounted, is swap or a part of LVM or RAID, or holds the
/// running system or standin's own folders is always refused.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it is written and verified, 2 the image or the medium is refused and nothing was \
                  written, 3 the medium or this host failed, 130 interrupted. After 3 and 130 what the medium holds \
                  is unknown."
)]
pub struct Args {
    /// The image: raw, gzip, xz, zstd, bzip2, lz4, zip or qcow2
    image: PathBuf,
    /// The block device, as a whole, or the file; a file that is not there is made. Without it, a device of a
    /// running server is flashed
    #[arg(long = "to", value_name = "PATH", conflicts_with_all = ["device", "token_file"])]
    to: Option<PathBuf>,
    /// It is meant: a device larger than `--largest`, a partition, or a file that has content
    #[arg(long, requires = "to")]
    yes: bool,
    /// The largest device that is written without `--yes`, such as `64GiB` [default: 256GiB]
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, requires = "to")]
    largest: Option<ByteSize>,
    #[command(flatten)]
    expectation: image::Expectation,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: remote::Choice,
}

#[derive(Debug, thiserror::Error)]
#[error("image {} and medium {} are the same file", image.display(), medium.display())]
struct SameFile {
    image: PathBuf,
    medium: PathBuf,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    match &args.to {
        Some(to) => flash_medium(&args, to, context).await,
        None => flash_device(&args, context).await,
    }
}

async fn flash_device(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let interrupted = interrupt::listen()?;
    if !args.expectation.is_nothing() {
        return Err(CliError::usage("`--sha256` and `--bmap` are for media, and no `--to` names one"));
    }
    let client = args.choice.client(context).map_err(|error| error.hint("`--to PATH` writes a medium"))?;
    remote::flash::flash(&client, &args.image, args.json, &interrupted).await
}

async fn flash_medium(args: &Args, to: &Path, context: &Context) -> Result<Exit, CliError> {
    let begun = Instant::now();
    let interrupted = interrupt::listen()?;
    refuse_same_file(&args.image, to)?;
    let host = context.place.host()?;
    let checks = Checks {
        largest: args.largest.map_or(LARGEST_BYTES, |size| size.0),
        keep: vec![host.cache.clone(), host.runs.clone()],
        is_meant: args.yes,
    };
    let path = to.to_owned();
    let target = blocking(move || Target::open(&path, &checks)).await?;
    let (images, medium) = (context.place.images()?, to.display().to_string());
    let open = image::open_file(&args.image, &args.expectation, &images, &medium, target.capacity());
    let image = interrupt::unless(&interrupted, open).await?;
    let written = write(target, image, &interrupted).await?;
    tell(args, to, &written, begun.elapsed())?;
    Ok(Exit::Passed)
}

/// Writing an image over itself would leave it unpacked, or cut off.
fn refuse_same_file(image: &Path, medium: &Path) -> Result<(), CliError> {
    let number = |path| fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    if number(image).is_some_and(|image| number(medium) == Some(image)) {
        let (image, medium) = (image.to_owned(), medium.to_owned());
        return Err(CliError::usage(SameFile { image, medium }));
    }
    Ok(())
}

async fn write(mut target: Target, image: Image, interrupted: &Interrupted) -> Result<Written, CliError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let (path, is_new) = (target.path().to_owned(), target.is_new());
    let seen = cancelled.clone();
    let work = blocking(move || {
        let mut meter = Meter::start();
        let mut progress = |progress: Progress| meter.tell(|took| line(progress, took));
        target.write(&image, Order { progress: &mut progress, cancelled: &seen })
    });
    tokio::pin!(work);
    let mut interrupted = interrupted.clone();
    let written = tokio::select! {
        biased;
        _ = interrupted.wait_for(|asked| *asked) => {
            cancelled.store(true, Ordering::Relaxed);
            work.await
        }
        written = &mut work => written,
    };
    let left = if is_new {
        format!("{} was removed, as it was not whole", path.display())
    } else {
        format!("what {} holds is unknown now; flash it again before anything uses it", path.display())
    };
    written.map_err(|error| match error {
        WriteError::Image(error) => error.into(),
        WriteError::Cancelled { .. } => {
            say(left);
            CliError::Interrupted
        }
        WriteError::Damaged { .. } => {
            CliError::broken(error).hint("`standin cache verify` finds what else is damaged").hint(left)
        }
        error => CliError::broken(error).hint(left),
    })
}

fn tell(args: &Args, to: &Path, written: &Written, took: Duration) -> Result<(), CliError> {
    if args.json {
        return Output::default().json(&json!({
            "type": "summary",
            "image": args.image,
            "medium": to,
            "bytes": written.bytes,
            "written_bytes": written.written_bytes,
            "zero_bytes": written.zero_bytes,
            "extents": written.extents,
            "seconds": took.as_secs_f64(),
            "digest": written.digest,
            "verified": true,
            "partitions_read": written.partitions_read,
        }));
    }
    let Written { bytes, written_bytes, .. } = written;
    say(format_args!(
        "{} holds {}: {} with {} of data, written and verified in {:.1} s",
        to.display(),
        args.image.display(),
        human(*bytes),
        human(*written_bytes),
        took.as_secs_f64()
    ));
    Ok(())
}

/// `written 42 %, verified 12 %; 21.0 MB/s, 90 s left`
fn line(progress: Progress, took: Duration) -> String {
    let Progress { written, verified, total } = progress;
    // Both are work to be done, side by side.
    let rate = (written + verified) as f64 / took.as_secs_f64();
    let left = (2 * total - written - verified) as f64 / rate;
    format!(
        "written {} %, verified {} %; {:.1} MB/s, {left:.0} s left",
        percent(written, total),
        percent(verified, total),
        written as f64 / took.as_secs_f64() / 1e6
    )
}

fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 100 } else { (part.min(whole) as f64 / whole as f64 * 100.0) as u64 }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        let hint = refusal.hint();
        let error = if refusal.is_users() { Self::usage(refusal) } else { Self::broken(refusal) };
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
