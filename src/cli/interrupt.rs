//! Ctrl-C and SIGTERM: the first asks everything to end and clean up, the second leaves at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, say};

/// Becomes true at the first SIGINT or SIGTERM; the second ends the process.
///
/// The children of a process that leaves at once are killed by the kernel; its run directory goes at the next
/// start. Must be called in a tokio runtime; the listener ends with it.
pub fn listen() -> io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let interrupts = signal(SignalKind::interrupt())?;
    let terminations = signal(SignalKind::terminate())?;
    tokio::spawn(count(interrupts, terminations, sender));
    Ok(receiver)
}

async fn count(mut interrupts: Signal, mut terminations: Signal, asked: watch::Sender<bool>) {
    let mut times = 0;
    loop {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        times += 1;
        if times == 1 {
            say("interrupted: ending and cleaning up; once more leaves at once");
            asked.send_replace(true);
        } else {
            std::process::exit(Exit::Interrupted.code().into());
        }
    }
}
