//! `standin flash IMAGE` for a device of a running server: the image is sent if it is not there, and flashed.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::Method;
use futures_util::stream;

use super::{ASKED_EVERY, Client};
use crate::cli::interrupt::{self, Interrupted};
use crate::cli::{CliError, Exit, Output, human, image, say};
use crate::sys::blocking::blocking;
use crate::worker::api::FlashOrder;
use crate::worker::operation::{OperationFacts, OperationState};

/// How much of an image is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Flashes the image to the client's device.
pub async fn flash(
    client: &Client,
    path: &Path,
    json: bool,
    interrupted: &Interrupted,
) -> Result<Exit, CliError> {
    let began = Instant::now();
    let image = interrupt::unless(interrupted, send_image(client, path)).await?;
    let order = FlashOrder { image, name: Some(path.display().to_string()) };
    let mut operation: OperationFacts = client.post(&client.of_device("flash"), &order).await?;
    let at = client.of_device(&format!("operations/{}", operation.id));
    let waited = interrupt::unless(interrupted, wait(client, &at, &mut operation)).await;
    if let Err(CliError::Interrupted) = waited {
        let _: OperationFacts = client.delete(&at).await?;
        say("the flash is cancelled; flash again before the device is switched on");
    }
    waited?;
    if let Some(error) = operation.error {
        return Err(error.into());
    }
    if operation.state == OperationState::Cancelled {
        return Err(CliError::usage("somebody else cancelled the flash"));
    }
    if json {
        Output::default().json(&operation)?;
    } else {
        say(format_args!("flashed {} in {:.1} s", path.display(), began.elapsed().as_secs_f64()));
    }
    Ok(Exit::Passed)
}

/// Waits for the end, and tells how far it is on a terminal.
async fn wait(client: &Client, at: &str, operation: &mut OperationFacts) -> Result<(), CliError> {
    let draws = io::stderr().is_terminal();
    while operation.is_running() {
        if let Some(progress) = operation.progress.filter(|_| draws) {
            let percent = progress.bytes * 100 / progress.total.max(1);
            draw(&format!("flashing: {percent} %, {}/s", human(progress.rate)));
        }
        *operation = client.get(&format!("{at}?wait={}", ASKED_EVERY.as_secs())).await?;
    }
    if draws {
        draw("");
    }
    Ok(())
}

/// To the line's beginning, and what was there is erased: ECMA-48, CR and EL.
fn draw(line: &str) {
    // Nothing fails because nobody looks.
    let _ = write!(io::stderr(), "\r{line}\x1b[K");
}

/// The name by which the server knows the image; it is sent if it is not there.
pub async fn send_image(client: &Client, path: &Path) -> Result<String, CliError> {
    if path.as_os_str() == image::SELFTEST {
        return Ok(image::SELFTEST.to_owned());
    }
    let (digest, bytes) = digest_of(path.to_owned()).await?;
    let name = format!("blake3:{digest}");
    let at = format!("/v1/images/{name}");
    if !client.has(&at).await? {
        if io::stderr().is_terminal() {
            say(format_args!("sending {}: {}", path.display(), human(bytes)));
        }
        let file = open(path)?;
        let body = Body::new(SizedBody { pieces: Body::from_stream(pieces(file)), bytes });
        client.send_bytes(Method::PUT, &at, body).await?;
    }
    Ok(name)
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|source| CliError::usage(ReadError { path: path.to_owned(), source }))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read image {path}")]
struct ReadError {
    path: PathBuf,
    source: io::Error,
}

async fn digest_of(path: PathBuf) -> Result<(String, u64), CliError> {
    let read = blocking(move || {
        let failed = |source| CliError::usage(ReadError { path: path.clone(), source });
        if !path.is_file() {
            return Err(match path.metadata() {
                Err(error) => failed(error),
                Ok(_) => CliError::usage(format!("image {} is no file", path.display())),
            });
        }
        let (mut file, mut hasher) = (open(&path)?, blake3::Hasher::new());
        let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
        while let length @ 1.. = file.read(&mut piece).map_err(failed)? {
            hasher.update(&piece[..length]);
            bytes += length as u64;
        }
        Ok((hasher.finalize().to_hex().to_string(), bytes))
    });
    read.await
}

fn pieces(file: File) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async move {
        let read = blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            io::Result::Ok((piece, file))
        });
        let (piece, file) = read.await?;
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
    })
}

/// A body whose length is known before, so that a server without room refuses it at once.
struct SizedBody {
    pieces: Body,
    bytes: u64,
}

impl axum::body::HttpBody for SizedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.pieces).poll_frame(context)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.bytes)
    }
}
