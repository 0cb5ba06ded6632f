//! One QMP connection: our own wire under qapi's types.
//!
//! qapi 0.15's own connection ends for good on an event that it does not know and panics after a dropped
//! command, so the socket is ours: one task reads always and hands each answer to whoever waits for it, by an
//! id of ours. A caller may stop waiting at any time. `machine` owns the monitor and joins its task by
//! [`Monitor::closed`]; the task ends when QEMU's end closes.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qapi::qmp::QmpCommand;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::deadline::{Deadline, Elapsed};

/// A QMP connection after its greeting and negotiation.
#[derive(Debug)]
pub struct Monitor {
    writer: AsyncMutex<OwnedWriteHalf>,
    waiting: Waiting,
    next_id: AtomicU64,
    reader: JoinHandle<()>,
}

/// An event as QEMU sent it: the name as in QEMU's documentation, the data whatever came with it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RawEvent {
    /// Such as `RESET`.
    #[serde(rename = "event")]
    pub name: String,
    /// Its values; null where it has none.
    #[serde(default)]
    pub data: Value,
}

/// A QMP command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// QEMU closed the connection: it is gone or going.
    #[error("QEMU closed its monitor before it answered `{command}`")]
    Closed {
        /// The QMP command.
        command: String,
    },
    /// QEMU refused.
    #[error("QEMU refuses `{command}`: {reason}")]
    Refused {
        /// The QMP command.
        command: String,
        /// QEMU's own words.
        reason: String,
    },
    /// QEMU's answer was not what the command promises.
    #[error("QEMU's answer to `{command}` makes no sense")]
    Answer {
        /// The QMP command.
        command: String,
        /// What serde found.
        #[source]
        source: serde_json::Error,
    },
    /// QEMU is silent.
    #[error("QEMU did not answer `{command}`")]
    Silent {
        /// The QMP command.
        command: String,
        /// How long it was given.
        #[source]
        source: Elapsed,
    },
    /// The socket failed.
    #[error("cannot talk to QEMU's monitor")]
    Socket(#[source] io::Error),
}

type Answer = Result<Value, String>;
/// Who waits for which answer; `None` once the connection has ended, and no answer will come any more.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

impl Monitor {
    /// Takes the greeting and negotiates. Events come on the returned channel, which ends with the connection.
    pub async fn open(
        socket: StdUnixStream,
        deadline: Deadline,
    ) -> Result<(Self, mpsc::UnboundedReceiver<RawEvent>), MonitorError> {
        socket.set_nonblocking(true).map_err(MonitorError::Socket)?;
        let (reader, writer) = UnixStream::from_std(socket).map_err(MonitorError::Socket)?.into_split();
        let waiting = Waiting::new(Mutex::new(Some(HashMap::new())));
        let (events, received) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(BufReader::new(reader), waiting.clone(), events));
        let monitor = Self { writer: AsyncMutex::new(writer), waiting, next_id: AtomicU64::new(0), reader };
        // QEMU greets first, but takes this before as well as after it; its answer comes when the machine is
        // built, and not before.
        monitor.execute_raw("qmp_capabilities", json!({}), deadline).await?;
        Ok((monitor, received))
    }

    /// Runs a command that qapi knows.
    pub async fn execute<C: QmpCommand>(
        &self,
        command: C,
        deadline: Deadline,
    ) -> Result<C::Ok, MonitorError> {
        let failed = |source| MonitorError::Answer { command: C::NAME.to_owned(), source };
        let arguments = serde_json::to_value(&command).map_err(failed)?;
        let answer = self.execute_raw(C::NAME, arguments, deadline).await?;
        serde_json::from_value(answer).map_err(failed)
    }

    /// Runs any command. Dropped while it waits, it leaves the command to run; the answer is then ignored.
    pub async fn execute_raw(
        &self,
        command: &str,
        arguments: Value,
        deadline: Deadline,
    ) -> Result<Value, MonitorError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let closed = || MonitorError::Closed { command: command.to_owned() };
        let (sender, answer) = oneshot::channel();
        locked(&self.waiting).as_mut().ok_or_else(closed)?.insert(id, sender);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let exchange = async {
            // A command cut in the middle would spoil the next one; so the write is one call under one lock.
            let mut writer = self.writer.lock().await;
            let written = writer.write_all(line.as_bytes()).await;
            drop(writer);
            match written {
                Ok(()) => answer.await.map_err(|_| closed()),
                // The second, if QEMU went without having read what was written before.
                Err(error)
                    if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]
                        .contains(&error.kind()) =>
                {
                    Err(closed())
                }
                Err(error) => Err(MonitorError::Socket(error)),
            }
        };
        let outcome = deadline.bound(exchange).await;
        if let Some(waiting) = &mut *locked(&self.waiting) {
            waiting.remove(&id);
        }
        outcome
            .map_err(|source| MonitorError::Silent { command: command.to_owned(), source })??
            .map_err(|reason| MonitorError::Refused { command: command.to_owned(), reason })
    }

    /// Waits until QEMU's end is closed and everything that it sent has been read.
    pub async fn closed(self) {
        drop(self.writer);
        if let Err(error) = self.reader.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(reader: BufReader<OwnedReadHalf>, waiting: Waiting, events: mpsc::UnboundedSender<RawEvent>) {
    let mut lines = reader.lines();
    // A socket error is the same news as end of file: QEMU is gone.
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::trace!(%line, "QMP");
        match serde_json::from_str::<Value>(&line) {
            Ok(message) => dispatch(message, &waiting, &events),
            Err(error) => tracing::warn!(%line, %error, "QEMU's monitor sent what is not JSON"),
        }
    }
    // Whoever still waits learns by the dropped sender, and whoever comes later finds nothing to wait for.
    locked(&waiting).take();
}

fn dispatch(mut message: Value, waiting: &Waiting, events: &mpsc::UnboundedSender<RawEvent>) {
    if message.get("event").is_some() {
        if let Ok(event) = serde_json::from_value(message) {
            // Nobody listens any more: the machine is being closed.
            let _ = events.send(event);
        }
        return;
    }
    let Some(id) = message.get("id").and_then(Value::as_u64) else {
        return; // the greeting
    };
    let asked = locked(waiting).as_mut().and_then(|waiting| waiting.remove(&id));
    let answer = match message.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(message["error"]["desc"].as_str().unwrap_or("no reason given").to_owned()),
    };
    if let Some(asked) = asked {
        // The caller may have stopped waiting.
        let _ = asked.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    use super::*;

    /// No QEMU does this on purpose; one that is being torn down may.
    #[tokio::test]
    async fn a_command_after_the_end_of_the_connection_waits_for_nothing() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || {
            let mut asked = io::BufReader::new(&theirs);
            asked.read_line(&mut String::new()).unwrap();
            (&theirs).write_all(b"{\"return\": {}, \"id\": 0}\n").unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            theirs // which could still be written to
        });
        let deadline = Deadline::after(Duration::from_secs(60));
        let (monitor, mut events) = Monitor::open(ours, deadline).await.unwrap();
        let _theirs = answering.join().unwrap();
        assert_eq!(events.recv().await, None);
        let ended =
            monitor.execute_raw("query-status", json!({}), Deadline::after(Duration::from_secs(60))).await;
        assert!(matches!(ended, Err(MonitorError::Closed { .. })), "{ended:?}");
        assert!(deadline.remaining() > Duration::from_secs(30));
        monitor.closed().await;
    }
}
