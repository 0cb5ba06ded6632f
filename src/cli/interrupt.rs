//! Ctrl-C, SIGTERM and a closed terminal: the first asks everything to end and clean up, the second leaves at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{CliError, Exit, say};
use crate::sys::terminal;

/// Becomes true when the run is to end.
pub type Interrupted = watch::Receiver<bool>;

/// Becomes true at the first SIGINT, SIGTERM or SIGHUP; the second ends the process.
///
/// The children of a process that leaves at once are killed by the kernel; its run directory goes at the next
/// start. To be called before anything is made that has to be cleaned up. Must be called in a tokio runtime; the
/// listener ends with it.
pub fn listen() -> Result<Interrupted, CliError> {
    let signals = || -> io::Result<[Signal; 3]> {
        let hear = |kind: SignalKind| signal(kind);
        Ok([hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?, hear(SignalKind::hangup())?])
    };
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(count(signals().map_err(CliError::broken)?, sender));
    Ok(receiver)
}

/// What `work` comes to, unless it is interrupted: then it is dropped.
pub async fn unless<T>(
    interrupted: &Interrupted,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut interrupted = interrupted.clone();
    tokio::select! {
        biased;
        _ = interrupted.wait_for(|asked| *asked) => Err(CliError::Interrupted),
        done = work => done,
    }
}

async fn count([mut interrupt, mut terminate, mut hang_up]: [Signal; 3], asked: watch::Sender<bool>) {
    let mut times = 0;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        times += 1;
        if times == 1 {
            asked.send_replace(true);
            say("interrupted: ending and cleaning up; once more leaves at once");
        } else {
            terminal::restore();
            std::process::exit(Exit::Interrupted.code().into());
        }
    }
}
