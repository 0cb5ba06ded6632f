//! What the end-to-end tests share: a stand-in opened in a temporary place, and the proof that nothing is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this")]

pub mod api;
pub mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use standin::board::{Board, Catalog};
use standin::deadline::Deadline;
use standin::device::Device;
use standin::device::console::Pattern;
use standin::device::power::{InstalledFirmware, Player};
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::io::selftest::SELFTEST_IMAGE;
use standin::lab::player::{AcceleratorChoice, Host, choose};
use standin::lab::{Places, open_stand_in};
use standin::qemu::arguments::Accelerator;
use tempfile::TempDir;

/// A stand-in and the directory that all of its files lie in.
pub struct Hold {
    pub device: Device,
    pub dir: TempDir,
}

pub fn secs(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

/// A stand-in of the SeaBIOS PC under TCG, off and blank.
pub fn seabios_pc(forwards: Vec<u16>) -> Hold {
    let player = Player {
        program: "qemu-system-x86_64".into(),
        accelerator: Accelerator::Tcg,
        sandbox: true,
        firmware: InstalledFirmware::None,
    };
    let dir = tempfile::tempdir().unwrap();
    let board = Catalog::load(None).unwrap().board("pc-seabios").unwrap();
    Hold { device: open(dir.path(), board, player, forwards), dir }
}

/// A stand-in of any board, off and blank, as this host plays it under TCG.
pub async fn stand_in(slug: &str) -> Hold {
    stand_in_with_forwards(slug, Vec::new()).await
}

/// The same, with TCP ports of the DUT that the host reaches.
pub async fn stand_in_with_forwards(slug: &str, forwards: Vec<u16>) -> Hold {
    let dir = tempfile::tempdir().unwrap();
    let board = Catalog::load(None).unwrap().board(slug).unwrap();
    let only_tcg = AcceleratorChoice::Only(Accelerator::Tcg);
    let chosen = choose(&board, &host(dir.path()), only_tcg).await.unwrap_or_else(|error| {
        panic!("{error}; {}", error.hint().unwrap_or_default());
    });
    Hold { device: open(dir.path(), board, chosen.player, forwards), dir }
}

fn open(dir: &Path, board: Arc<Board>, player: Player, forwards: Vec<u16>) -> Device {
    let places = Places::create(&dir.join("evidence"), &dir.join("scratch")).unwrap();
    open_stand_in(board, player, &places, forwards).unwrap()
}

impl Hold {
    pub fn selftest(&self) -> Image {
        Image::built_in("selftest", SELFTEST_IMAGE, &Cache::at(self.dir.path())).unwrap()
    }

    pub async fn wait_for(&mut self, text: &str) {
        self.device.console().unwrap().wait_for(&Pattern::text(text), secs(30)).await.unwrap();
    }

    pub async fn type_line(&mut self, line: &str) {
        self.device.console().unwrap().send_line(line, secs(5)).await.unwrap();
    }

    /// Closes the device and proves that no process uses its files any more.
    pub async fn close_and_expect_nothing_left(self) {
        self.device.close().await.unwrap();
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
    }
}

/// The processes whose command lines name `path`.
pub fn processes_with(path: &Path) -> Vec<PathBuf> {
    let needle = path.as_os_str().as_encoded_bytes();
    let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.filter(|process| {
        // A process may end while we look; then it has no command line.
        let command_line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        command_line.windows(needle.len()).any(|part| part == needle)
    })
    .collect()
}

/// This host as the tests see it: its own QEMU and firmware, and nothing of the user's.
pub fn host(dir: &Path) -> Host {
    Host {
        qemu: None,
        search_path: "/usr/local/bin:/usr/bin:/bin".into(),
        config: None,
        cache: dir.join("cache"),
        runs: dir.join("runs"),
    }
}

/// The `standin` command with run directories and cache below `dir`, and nothing of the user's settings for them.
pub fn standin(dir: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_standin"));
    command
        .env("STANDIN_RUNS", dir.join("runs"))
        .env("STANDIN_CACHE", dir.join("cache"))
        .env_remove("STANDIN_LOG")
        .env_remove("STANDIN_WORKER")
        .env_remove("STANDIN_TOKEN")
        .env_remove("STANDIN_CACHE_LIMIT")
        .stdin(std::process::Stdio::null());
    command
}

/// A shell script in mounts of its own, which go with it. `$0` in it is `standin`, as [`standin`] sets it up; it runs
/// in `dir`.
pub fn in_own_mounts(dir: &Path, script: &str) -> std::process::Command {
    let standin = standin(dir);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script]).arg(standin.get_program());
    for (name, value) in standin.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(dir).stdin(std::process::Stdio::null());
    command
}

/// A folder of boards whose `pc-seabios` has a disk of 8 GiB.
pub fn large_pc(boards: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines/pc-seabios.toml");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("size = \"256MiB\""), "{text}");
    std::fs::create_dir_all(boards).unwrap();
    std::fs::write(boards.join("pc-seabios.toml"), text.replace("size = \"256MiB\"", "size = \"8GiB\""))
        .unwrap();
}

/// The self-test with so many times 16 MiB of zeros behind it, packed: a small file that takes long to read.
pub fn large_image(zeros: usize) -> Vec<u8> {
    [gzip(SELFTEST_IMAGE), gzip(&vec![0; 16 << 20]).repeat(zeros)].concat()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, content).unwrap();
    packer.finish().unwrap()
}

/// Waits until the file's last change is older than what time stamps can tell apart.
pub fn settle(path: &Path) {
    let changed = std::fs::metadata(path).unwrap().modified().unwrap();
    while changed.elapsed().unwrap_or_default() < Duration::from_millis(50) {
        std::thread::yield_now();
    }
}
