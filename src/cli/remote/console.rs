//! `standin console`: the serial console of a device of a running server, in the terminal.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::Method;

use super::Choice;
use crate::cli::up::read_keys;
use crate::cli::{CliError, Context, Exit, interrupt, say};
use crate::sys::terminal::RawTerminal;

/// Show the serial console of a device that a server has, and type on it
///
/// What it said last comes first. Every key goes to the board, Ctrl-C too, but for Ctrl-]: it leaves, and the
/// device stays as it is. Without a terminal, standard input is typed as it comes, and its end is no end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print what was said since the last power-on, and leave
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    choice: Choice,
}

/// The key that leaves, as in telnet: Ctrl-].
const DETACH: u8 = 0x1d;

pub async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let client = args.choice.client(context)?;
    let mut interrupted = interrupt::listen()?;
    let path = client.of_device(if args.print { "console/log" } else { "console/stream" });
    let mut said = interrupt::unless(&interrupted, client.open(&path, "*/*")).await?;
    let raw = if args.print { None } else { RawTerminal::enter().map_err(CliError::broken)? };
    if raw.is_some() {
        say("Ctrl-] leaves");
    }
    let mut keys = (!args.print).then(read_keys);
    loop {
        let typed = async {
            match &mut keys {
                Some(keys) => keys.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            piece = said.next() => match piece.map_err(CliError::broken)? {
                Some(piece) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&piece)?;
                    out.flush()?;
                }
                None if args.print => return Ok(Exit::Passed),
                None => return Err(CliError::broken("the server ended, or closed the device")),
            },
            typed = typed => match typed {
                Some(typed) => {
                    let end = typed.iter().position(|byte| raw.is_some() && *byte == DETACH);
                    let keys = typed[..end.unwrap_or(typed.len())].to_vec();
                    if !keys.is_empty() {
                        let path = client.of_device("console/keys");
                        client.send_bytes(Method::POST, &path, Body::from(keys)).await?;
                    }
                    if end.is_some() {
                        return Ok(Exit::Passed);
                    }
                }
                None => keys = None,
            },
            _ = interrupted.wait_for(|asked| *asked) => return Ok(Exit::Interrupted),
        }
    }
}
