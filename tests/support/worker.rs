//! A worker under test: the real command, served on a Unix socket in a temporary place.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use standin::io::http::Server;
use standin::io::selftest::SELFTEST_IMAGE;
use tempfile::TempDir;

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
        Self::start_with(dir, board, &[]).await
    }

    /// The same, with more options.
    pub async fn start_with(dir: TempDir, board: &str, options: &[&str]) -> Self {
        let child = Self::spawn(dir.path(), board, options);
        let server = Server::Unix(dir.path().join("worker.sock"));
        let worker = Self { server, dir, child: Some(child) };
        let deadline = super::secs(60);
        while worker.server.ask("GET".parse().unwrap(), "/state", &[], "").await.is_err() {
            assert!(!deadline.is_past(), "the worker did not begin to answer");
            // Its first words on stderr would tell, but who reads a pipe must read all of it.
            tokio::task::yield_now().await;
        }
        worker
    }

    fn spawn(dir: &Path, board: &str, options: &[&str]) -> Child {
        let mut command = standin(dir);
        command.args(["serve", board, "--accelerator", "tcg", "--listen"]).arg(dir.join("worker.sock"));
        command.args(options);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(dir.join("worker.stderr")).unwrap());
        command.spawn().unwrap()
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

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A test that failed; what it started goes with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}
