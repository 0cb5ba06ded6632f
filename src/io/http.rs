//! A small HTTP client, over TCP or a Unix socket: a connection for each request, closed with its answer.
//!
//! Whoever drops an [`Answer`] or the future of a request closes the connection; nothing else is left.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// At `host:port`.
    Tcp(String),
    /// Behind a Unix socket.
    Unix(PathBuf),
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// How it went.
    pub status: StatusCode,
    /// Its headers.
    pub headers: hyper::HeaderMap,
    body: Incoming,
    _connection: Connection,
}

/// A request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It is no URL that we know.
    #[error("`{url}` is neither `http://HOST:PORT` nor `unix:PATH`")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody is there.
    #[error("cannot reach {server}")]
    Connect {
        /// Who was asked.
        server: Server,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The conversation ended early.
    #[error("{server} did not answer to the end")]
    Broken {
        /// Who was asked.
        server: Server,
        /// Why not.
        #[source]
        source: hyper::Error,
    },
}

impl Server {
    /// `http://HOST[:PORT]` or `unix:PATH`.
    pub fn parse(url: &str) -> Result<Self, HttpError> {
        if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if !authority.is_empty() && !authority.contains('/') => {
                let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
                Ok(Self::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:80") }))
            }
            _ => Err(HttpError::Url { url: url.to_owned() }),
        }
    }

    /// Asks with a body in memory, and takes the whole answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let body: Bytes = body.into();
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_LENGTH, body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(Full::new(body)).expect("the callers' methods, paths and headers are valid");
        let answer = self.send(request).await?;
        let status = answer.status;
        Ok((status, answer.whole().await.map_err(|source| self.broken(source))?))
    }

    /// Sends any request. Cancelled, it closes the connection.
    pub async fn send<B>(&self, mut request: Request<B>) -> Result<Answer, HttpError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connect = |source| HttpError::Connect { server: self.clone(), source };
        let (stream, host): (Pin<Box<dyn Stream>>, _) = match self {
            Self::Tcp(authority) => {
                let stream = TcpStream::connect(authority.as_str()).await.map_err(connect)?;
                (Box::pin(stream), authority.as_str())
            }
            Self::Unix(path) => (Box::pin(UnixStream::connect(path).await.map_err(connect)?), "localhost"),
        };
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        let broken = |source| self.broken(source);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = Connection(tokio::spawn(async move {
            // What goes wrong, the request and the body tell.
            let _ = connection.await;
        }));
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, _connection: connection })
    }

    fn broken(&self, source: hyper::Error) -> HttpError {
        HttpError::Broken { server: self.clone(), source }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end. Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(piece) = frame?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The whole body.
    pub async fn whole(self) -> Result<Bytes, hyper::Error> {
        Ok(self.body.collect().await?.to_bytes())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// The task that moves the bytes; it ends with its owner.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_a_url() {
        let parsed = |url| Server::parse(url).map(|server| server.to_string()).ok();
        assert_eq!(parsed("http://worker").as_deref(), Some("http://worker:80"));
        assert_eq!(parsed("http://127.0.0.1:8080/").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(parsed("unix:/run/worker.sock").as_deref(), Some("unix:/run/worker.sock"));
        for nonsense in ["", "worker", "https://worker", "http://", "http://a/b", "unix:"] {
            assert_eq!(parsed(nonsense), None, "{nonsense}");
        }
    }
}
