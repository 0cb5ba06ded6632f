//! A worker under test: the real command, served on a Unix socket in a temporary place.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use standin::io::http::Server;
use standin::io::selftest::SELFTEST_IMAGE;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub use super::gzip;
use super::{processes_with, standin};

pub struct Worker {
    pub server: Server,
    pub dir: TempDir,
    child: Option<Child>,
}

impl Worker {
    /// Starts `standin serve` and waits until it answers.
    pub async fn start(board: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), board).await
    }

    /// The same, in a folder where another one may have been before.
    pub async fn start_in(dir: TempDir, board: &str) -> Self {
        Self::start_with(dir, &[board], &[]).await
    }

    /// The same, with options and environment variables.
    pub async fn start_with(dir: TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Self::command(dir.path(), arguments);
        command.arg("--listen").arg(dir.path().join("worker.sock")).envs(variables.iter().copied());
        let server = Server::Unix(dir.path().join("worker.sock"));
        let worker = Self { child: Some(command.spawn().unwrap()), server, dir };
        worker.wait_until_it_answers().await;
        worker
    }

    /// The same, on a TCP port of this host.
    pub async fn start_on_tcp(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Self::command(dir.path(), arguments);
        command.envs(variables.iter().copied());
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let server = Server::Tcp(String::new());
        let mut worker = Self { child: Some(command.spawn().unwrap()), server, dir };
        let deadline = super::secs(60);
        let port = loop {
            let said = worker.stderr();
            let port = said
                .split_once("waits at http://")
                .and_then(|(_, rest)| rest.split_once(';')?.0.rsplit(':').next()?.parse::<u16>().ok());
            if let Some(port) = port {
                break port;
            }
            assert!(!deadline.is_past(), "the worker did not begin to listen: {said}");
            tokio::task::yield_now().await;
        };
        worker.server = Server::Tcp(format!("127.0.0.1:{port}"));
        worker.wait_until_it_answers().await;
        worker
    }

    async fn wait_until_it_answers(&self) {
        let deadline = super::secs(60);
        while self.server.ask("GET".parse().unwrap(), "/state", &[], "").await.is_err() {
            assert!(!deadline.is_past(), "the worker did not begin to answer: {}", self.stderr());
            // Its first words on stderr would tell, but who reads a pipe must read all of it.
            tokio::task::yield_now().await;
        }
    }

    /// The command, without the place where it listens, and without any variable of leviathan-worker's.
    pub fn command(dir: &Path, arguments: &[&str]) -> Command {
        let mut command = standin(dir);
        command.arg("serve").args(arguments).args(["--accelerator", "tcg"]);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(dir.join("worker.stderr")).unwrap());
        command
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, &[], Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
        self.ask("POST", path, &[], body.into()).await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, String) {
        let asked = self.server.ask(method.parse().unwrap(), path, headers, body).await;
        let (status, body) =
            asked.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.stderr()));
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends an image in pieces of the worker's length, as leviathan's client does.
    pub async fn send_image(&self, image: &[u8]) {
        const PIECE: usize = 40 << 20;
        let total = image.len().div_ceil(PIECE);
        for (index, piece) in image.chunks(PIECE).enumerate() {
            let answer = self.send_chunk(index, total, piece).await;
            assert_eq!(answer, (200, "CHUNK_OK".to_owned()));
        }
    }

    pub async fn send_chunk(&self, index: usize, total: usize, piece: &[u8]) -> (u16, String) {
        let headers = [("x-chunk-index", index.to_string()), ("x-total-chunks", total.to_string())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.ask("POST", "/dut/sendImage", &headers, piece.to_vec()).await
    }

    /// Flashes the self-test image, packed as leviathan's client packs it.
    pub async fn flash_selftest(&self) {
        self.send_image(&gzip(SELFTEST_IMAGE)).await;
        assert_eq!(self.post("/dut/flashImage", "").await.0, 200);
        assert_eq!(self.get("/dut/flashState").await.1, "DONE", "{}", self.stderr());
    }

    /// What `/dut/diagnostics` tells.
    pub async fn diagnostics(&self) -> Value {
        serde_json::from_str(&self.get("/dut/diagnostics").await.1).unwrap()
    }

    /// The state of the flash, once it has ended.
    pub async fn flash_ended(&self) -> String {
        let deadline = super::secs(120);
        loop {
            let state = self.get("/dut/flashState").await.1;
            if state != "PENDING" {
                return state;
            }
            assert!(!deadline.is_past(), "the flash does not end: {}", self.stderr());
        }
    }

    /// A connection on which a test says whatever it likes.
    pub async fn connect(&self) -> Pin<Box<dyn Raw>> {
        match &self.server {
            Server::Tcp(address) => Box::pin(TcpStream::connect(address.as_str()).await.unwrap()),
            Server::Unix(path) => Box::pin(UnixStream::connect(path).await.unwrap()),
        }
    }

    /// Sends these bytes, and returns what comes back until the worker closes the connection.
    pub async fn say(&self, bytes: &[u8]) -> String {
        let mut connection = self.connect().await;
        let mut heard = Vec::new();
        // It may refuse before it has heard all.
        let _ = connection.write_all(bytes).await;
        let _ = super::secs(60).bound(connection.read_to_end(&mut heard)).await.unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("worker.stderr")).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Ends it as an impatient system does, and gives the folder back.
    pub fn kill(mut self) -> TempDir {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// Ends it as a person does, and proves that nothing is left.
    pub async fn close_and_expect_nothing_left(mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let exit = child.wait().unwrap();
        assert!(exit.success(), "{exit}\n{}", self.stderr());
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
        assert!(!self.dir.path().join("worker.sock").exists());
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("runs"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [".gate"], "{}", self.stderr());
    }
}

pub trait Raw: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Raw for T {}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A test that failed; what it started goes with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
