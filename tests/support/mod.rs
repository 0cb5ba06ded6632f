//! What the end-to-end tests share: a stand-in opened in a temporary place, and the proof that nothing is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this")]

pub mod api;
pub mod worker;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use standin::board::{Board, Catalog, KeyboardSocket, Screen, ScreenConnector, ScreenDevice, check};
use standin::deadline::Deadline;
use standin::device::Device;
use standin::device::console::Pattern;
use standin::device::power::{InstalledFirmware, Player};
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::io::selftest::SELFTEST_IMAGE;
use standin::io::ssh::Credentials;
use standin::lab::player::{AcceleratorChoice, Host, choose};
use standin::lab::{Places, open_stand_in};
use standin::procedure::InstallerChoice;
use standin::qemu::arguments::Accelerator;
use standin::suite::Suite;
use standin::suite::outcome::SuiteReport;
use standin::suite::progress::Observer;
use standin::suite::run::{Options, run};
use tempfile::TempDir;
use tokio::sync::watch;

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
    seabios(Catalog::load(None).unwrap().board("pc-seabios").unwrap(), forwards)
}

/// A stand-in of the PC that an installer is for, after `edits` of its board file.
pub fn installer_pc(edits: &[(&str, &str)]) -> Hold {
    let text = edited(include_str!("installer-pc.toml").to_owned(), edits);
    seabios(Arc::new(check::board(Path::new("installer-pc.toml"), &text).unwrap()), Vec::new())
}

fn seabios(board: Arc<Board>, forwards: Vec<u16>) -> Hold {
    let player = Player {
        program: "qemu-system-x86_64".into(),
        accelerator: Accelerator::Tcg,
        sandbox: true,
        firmware: InstalledFirmware::None,
        tpm: None,
    };
    let dir = tempfile::tempdir().unwrap();
    Hold { device: open(dir.path(), board, player, forwards), dir }
}

/// The same with a VGA screen and a PS/2 keyboard: SeaBIOS draws on it within a quarter of a second, says that there
/// is nothing to boot, and resets on Ctrl-Alt-Delete.
pub fn seabios_pc_with_screen() -> Hold {
    let mut board = (*Catalog::load(None).unwrap().board("pc-seabios").unwrap()).clone();
    board.screen = Some(Screen { connector: ScreenConnector::Vga, device: ScreenDevice::Vga });
    board.keyboard = Some(KeyboardSocket::Ps2);
    seabios(Arc::new(board), Vec::new())
}

/// A stand-in of any board, off and blank, as this host plays it under TCG.
pub async fn stand_in(slug: &str) -> Hold {
    stand_in_with_forwards(slug, Vec::new()).await
}

/// The same, with TCP ports of the DUT that the host reaches.
pub async fn stand_in_with_forwards(slug: &str, forwards: Vec<u16>) -> Hold {
    play(Catalog::load(None).unwrap().board(slug).unwrap(), forwards).await
}

/// A stand-in of a built-in board, after `edits` of its file.
pub async fn edited_stand_in(slug: &str, edits: &[(&str, &str)]) -> Hold {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("machines/{slug}.toml"));
    let text = edited(std::fs::read_to_string(&path).unwrap(), edits);
    play(Arc::new(check::board(&path, &text).unwrap()), Vec::new()).await
}

fn edited(text: String, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "the board does not say {from}");
        text.replacen(from, to, 1)
    })
}

async fn play(board: Arc<Board>, forwards: Vec<u16>) -> Hold {
    let dir = tempfile::tempdir().unwrap();
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

/// The self-test with the label of an installer, and a line that it runs at boot; for where these stand, see
/// `firmware-images/README.md`.
pub fn installer_bytes(line: &str) -> Vec<u8> {
    let mut image = SELFTEST_IMAGE.to_vec();
    image[544..][..line.len()].copy_from_slice(line.as_bytes());
    image[512 * 512 + 43..][..11].copy_from_slice(b"FLASH-BOOT ");
    image
}

impl Hold {
    pub fn selftest(&self) -> Image {
        Image::built_in("selftest", SELFTEST_IMAGE, &Cache::at(self.dir.path())).unwrap()
    }

    /// The self-test as an installer's image that runs `line` at boot.
    pub fn installer(&self, line: &str) -> Image {
        Image::built_in(&format!("installer: {line}"), &installer_bytes(line), &Cache::at(self.dir.path()))
            .unwrap()
    }

    pub async fn wait_for(&mut self, text: &str) {
        self.device.console().unwrap().wait_for(&Pattern::text(text), secs(30)).await.unwrap();
    }

    pub async fn type_line(&mut self, line: &str) {
        self.device.console().unwrap().send_line(line, secs(5)).await.unwrap();
    }

    /// Runs a suite on it.
    pub async fn run(
        &mut self,
        suite: &Suite,
        cancel: watch::Receiver<bool>,
        observer: Observer<'_>,
    ) -> SuiteReport {
        let image = self.selftest();
        let options = Options {
            image: Some(&image),
            fail_fast: None,
            run_dir: self.dir.path(),
            edits: &[],
            installer: InstallerChoice::Auto,
            images: &Cache::at(self.dir.path()),
            credentials: &Credentials::default(),
            backend: "stand-in",
            cancel,
        };
        run(suite, &mut self.device, &options, observer).await
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

pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("the kernel's process ids are positive i32"))
}

/// The process ids of the QEMUs that use files below `dir`.
pub fn machines(dir: &Path) -> Vec<Pid> {
    let numbers = processes_with(&dir.join("runs")).into_iter();
    let numbers = numbers.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    numbers.map(Pid::from_raw).collect()
}

/// Looks until `done` says so; panics after 20 s.
pub fn look_until<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    look_until_within(Duration::from_secs(20), what, done)
}

/// Looks until `done` says so; panics when `given` is over.
pub fn look_until_within<T>(given: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(begun.elapsed() < given, "{what} was not seen within {given:?}");
        std::thread::yield_now();
    }
}

pub fn run_dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("runs")).into_iter().flatten();
    entries.map(|entry| entry.expect("it can be listed").path()).filter(|path| path.is_dir()).collect()
}
