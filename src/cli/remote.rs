//! A server that the command line is a client of: which one, and how it is asked.
//!
//! A server that runs on this host says where it listens by a file in its run directory, which counts as long as
//! the directory's lock is held.

mod console;
mod device;
pub mod flash;
pub mod test;

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CliError, Context, Exit};
use crate::io::http::{Answer, HttpError, Server};
use crate::sys::run_dir;
use crate::worker::api::error::{ErrorAnswer, ErrorFacts, FaultOf};

pub use self::console::Args as ConsoleArgs;
pub use self::device::Verb;
pub(super) use self::{console::run as console, device::run as device};

/// Which server, and which of its devices.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Which device")]
pub struct Choice {
    /// The server: `http://HOST:PORT` or `unix:PATH` [default: the one that runs on this host]
    #[arg(long, value_name = "URL", env = "STANDIN_WORKER")]
    worker: Option<String>,
    /// A file with the server's token; without the file, the environment variable STANDIN_TOKEN is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The device, by its name on the server
    #[arg(long, value_name = "NAME", default_value = "default")]
    device: String,
}

/// A server that can be asked.
#[derive(Debug, Clone)]
pub struct Client {
    server: Server,
    token: Option<String>,
    /// The path of the device.
    device: String,
}

/// The file in a run directory by which a server is found.
const SERVER_FILE: &str = "server.url";

/// Says where a server listens, for clients on this host; it goes with the run directory.
pub fn announce(run: &Path, url: &str) -> std::io::Result<()> {
    let url = match url.strip_prefix("unix:") {
        Some(path) => format!("unix:{}", std::path::absolute(path)?.display()),
        None => url.to_owned(),
    };
    std::fs::write(run.join(SERVER_FILE), url)
}

/// The URLs of the servers that run on this host.
fn running(runs: &Path) -> Vec<String> {
    // A directory that cannot be read, or goes meanwhile, is that of no server.
    let living = run_dir::living(runs).unwrap_or_default();
    living.iter().filter_map(|run| std::fs::read_to_string(run.join(SERVER_FILE)).ok()).collect()
}

impl Choice {
    /// The server and the device that are meant.
    pub fn client(&self, context: &Context) -> Result<Client, CliError> {
        let url = match &self.worker {
            Some(url) => url.clone(),
            None => only_one(running(&context.place.host()?.runs))?,
        };
        let device = &self.device;
        if device.is_empty() || !device.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(CliError::usage(format!("`{device}` is no device's name")));
        }
        Client::of(&url, self.token_file.as_deref(), device)
    }
}

fn only_one(mut urls: Vec<String>) -> Result<String, CliError> {
    match urls.len() {
        1 => Ok(urls.remove(0)),
        0 => Err(CliError::usage("no server runs on this host").hint(
            "`standin serve BOARD` starts one; `--worker URL`, or STANDIN_WORKER, names one elsewhere",
        )),
        _ => Err(CliError::usage(format!("several servers run on this host: {}", urls.join(", ")))
            .hint("`--worker URL` names the one that is meant")),
    }
}

/// How long a body of an answer may be that is not a stream; the longest are lists of events.
const ANSWER_BYTES: usize = 64 << 20;

impl Client {
    /// A client of a server, with the token in a file or the environment; asks nothing yet.
    fn of(url: &str, token_file: Option<&Path>, device: &str) -> Result<Self, CliError> {
        let server = Server::parse(url).map_err(CliError::usage)?;
        let token = match token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let failed = |error| format!("cannot read token file {}: {error}", path.display());
                Some(read.map_err(|error| CliError::usage(failed(error)))?.trim().to_owned())
            }
            None => std::env::var("STANDIN_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(CliError::usage("the token has characters that no header takes"));
        }
        Ok(Self { server, token, device: format!("/v1/devices/{device}") })
    }

    /// The server that was named, if one was.
    pub fn named(url: Option<&str>, token_file: Option<&Path>) -> Result<Option<Self>, CliError> {
        url.map(|url| Self::of(url, token_file, "default")).transpose()
    }

    /// The path of something of the device.
    pub fn of_device(&self, rest: &str) -> String {
        format!("{}/{rest}", self.device)
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.told(self.send(Method::GET, path, None, Body::empty()).await?).await
    }

    /// Sends JSON.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(CliError::broken)?;
        self.told(self.send(Method::POST, path, Some("application/json"), body.into()).await?).await
    }

    /// Ends or removes something.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.told(self.send(Method::DELETE, path, None, Body::empty()).await?).await
    }

    /// Sends bytes.
    pub async fn send_bytes(&self, method: Method, path: &str, body: Body) -> Result<(), CliError> {
        let _: Value =
            self.told(self.send(method, path, Some("application/octet-stream"), body).await?).await?;
        Ok(())
    }

    /// Opens an answer that is read as it comes.
    pub async fn open(&self, path: &str, accept: &str) -> Result<Answer, CliError> {
        let request = self.request(Method::GET, path).header(header::ACCEPT, accept);
        self.good(self.server.send(request.body(Body::empty()).map_err(CliError::broken)?).await?).await
    }

    /// Whether something is there.
    pub async fn has(&self, path: &str) -> Result<bool, CliError> {
        let answer = self.send(Method::GET, path, None, Body::empty()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        self.good(answer).await.map(|_| true)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Body,
    ) -> Result<Answer, CliError> {
        let mut request = self.request(method, path);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if let Some(length) = axum::body::HttpBody::size_hint(&body).exact() {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        Ok(self.server.send(request.body(body).map_err(CliError::broken)?).await?)
    }

    fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        let request = Request::builder().method(method).uri(path);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    async fn told<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, CliError> {
        let answer = self.good(answer).await?;
        let text = self.whole(answer).await?;
        let text = if text.is_empty() { b"null".as_slice() } else { &text };
        serde_json::from_slice(text).map_err(|error| self.strange(&error.to_string()))
    }

    /// The answer, if it is none of an error.
    async fn good(&self, answer: Answer) -> Result<Answer, CliError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let status = answer.status;
        let text = self.whole(answer).await?;
        match serde_json::from_slice::<ErrorAnswer>(&text) {
            Ok(answer) => Err(answer.error.into()),
            Err(_) => Err(self.strange(&format!("it answered {status}"))),
        }
    }

    async fn whole(&self, mut answer: Answer) -> Result<Vec<u8>, CliError> {
        let mut text = Vec::new();
        while let Some(piece) = answer.next().await.map_err(CliError::broken)? {
            text.extend_from_slice(&piece);
            if text.len() > ANSWER_BYTES {
                return Err(self.strange("its answer does not end"));
            }
        }
        Ok(text)
    }

    fn strange(&self, what: &str) -> CliError {
        CliError::broken(format!("{} does not speak standin's API: {what}", self.server))
            .hint("a server is started by `standin serve` of the same version")
    }
}

impl From<HttpError> for CliError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Connect { .. } => Self::usage(error).hint("is the server started, and the URL right?"),
            error => Self::broken(error),
        }
    }
}

impl From<ErrorFacts> for CliError {
    fn from(facts: ErrorFacts) -> Self {
        let message = match &facts.cause {
            Some(cause) => format!("{}: {cause}", facts.message),
            None => facts.message,
        };
        let exit = match facts.fault {
            FaultOf::User => Exit::Usage,
            FaultOf::Dut => Exit::Failed,
            FaultOf::Lab => Exit::Broken,
        };
        let error = Self::Failed { exit, error: message.into(), hints: Vec::new() };
        match facts.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// How long to wait for the end of an operation before its progress is told again.
const ASKED_EVERY: Duration = Duration::from_secs(1);
