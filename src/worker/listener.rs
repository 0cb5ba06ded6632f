//! The door: takes connections on a TCP port or a Unix socket and hands requests to the router.
//!
//! A client that is slow to ask, or too many at once, cannot keep others out. [`serve`] returns when it is told to
//! stop and all connections are closed; a Unix socket's file is removed.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Uri};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt as _;

use super::patience::Patient;

/// Where a worker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket: its path, and who may use it in the bits of chmod(2).
    Unix(PathBuf, u32),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path, _) => path.display().fmt(f),
        }
    }
}

/// An open door.
#[derive(Debug)]
pub enum Listener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket; its file goes with it.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, removed when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// How many connections may be open: far more than the clients of one device have, and little for a host.
const CONNECTIONS: usize = 512;

/// How long a client may take to ask, from the first byte to the end of the headers; also how long a connection
/// may stay open without a request.
const ASKS_WITHIN: Duration = Duration::from_secs(60);

impl Listener {
    /// Opens the door. A file that a dead worker left in place of the socket is replaced; a living worker's is not.
    pub async fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Address::Unix(path, mode) => {
                if is_abandoned(path) {
                    fs::remove_file(path)?;
                }
                // Nobody else gets in before the mode is set. What another thread makes meanwhile is closed, too.
                let mask = umask(Mode::from_bits_truncate(0o177));
                let bound = UnixListener::bind(path);
                umask(mask);
                let listener = bound?;
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it is, in the words of a URL.
    pub fn url(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Unix(_, file) => Ok(format!("unix:{}", file.0.display())),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, somebody else has cleaned up.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether a socket's file is there and nobody listens behind it.
fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
}

/// Serves until `stop` ends; then no new connection is taken, and those that are open are closed. A client may take
/// nothing of its answer for as long as `silence`.
pub async fn serve(
    listener: Listener,
    router: Router,
    silence: Duration,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<Open> = VecDeque::new();
    tokio::pin!(stop);
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= CONNECTIONS {
            // Whoever came first and has asked nothing yet gives way.
            let silent = open.iter().position(|one| !one.asked.load(Ordering::Relaxed));
            if let Some(connection) = silent.and_then(|place| open.remove(place)) {
                connection.task.abort();
            }
        }
        let full = open.len() >= CONNECTIONS;
        tokio::select! {
            biased;
            () = &mut stop => break,
            // One that panicked has closed its connection, and has been told of by the panic itself.
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if !full => match accepted {
                Ok(stream) => {
                    let asked = Arc::new(AtomicBool::new(false));
                    let stream = Patient::new(stream, silence);
                    let task = connections.spawn(converse(stream, router.clone(), asked.clone()));
                    open.push_back(Open { task, asked });
                }
                // The client is gone already, or the host has no descriptor left: the next one may have more luck.
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    // sleep: accept(2) fails at once again while the host is out of descriptors.
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            },
        }
    }
    connections.shutdown().await;
    Ok(())
}

/// A connection that is open.
struct Open {
    task: AbortHandle,
    /// Whether a whole request has come on it.
    asked: Arc<AtomicBool>,
}

/// How long to leave a host alone that is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Listener::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
    }
}

async fn converse(stream: impl Stream + 'static, router: Router, asked: Arc<AtomicBool>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        if let Some(uri) = without_double_slashes(request.uri()) {
            *request.uri_mut() = uri;
        }
        router.clone().oneshot(request)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(ASKS_WITHIN);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Clients that are given a URL with `/` at its end ask for `//dut/on`.
fn without_double_slashes(uri: &Uri) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    let (path, query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
    if !path.contains("//") {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}{query}", parts.join("/")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_slashes_are_one() {
        let mended = |uri: &str| without_double_slashes(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(mended("//dut/on").as_deref(), Some("/dut/on"));
        assert_eq!(mended("//dut///on?a=//b").as_deref(), Some("/dut/on?a=//b"));
        assert_eq!(mended("/dut/on?a=//b"), None);
    }
}
