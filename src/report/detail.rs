//! `report.json`: everything that is known of a run, for programs. Keys are never renamed, only added.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::board::{Board, word};
use crate::io::image::Image;
use crate::suite::outcome::{Counts, SuiteReport, Verdict};

/// Everything that is known of a run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What came of it on each board, in their order.
    pub boards: Vec<BoardReport>,
    /// Where its evidence lies.
    pub run_dir: PathBuf,
    /// The command that repeats it.
    pub repeat: String,
}

/// What came of a run on one board.
#[derive(Debug, Clone)]
pub struct BoardReport {
    /// On what it ran.
    pub setting: Setting,
    /// Its suites, in their order.
    pub suites: Vec<SuiteReport>,
}

/// On what a run ran: all that may explain why two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The board.
    pub board: BoardFacts,
    /// Who played it, such as `stand-in`.
    pub backend: String,
    /// What executed the guest's instructions, such as `tcg`; `None` on a real board.
    pub accelerator: Option<String>,
    /// The version of the QEMU that played it; `None` on a real board.
    pub qemu: Option<String>,
    /// The image, if there was one.
    pub image: Option<ImageFacts>,
    /// What was changed on the medium after each flash of it, in words; the events tell more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<String>,
    /// The host.
    pub host: HostFacts,
}

/// What tells a board from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoardFacts {
    /// Its slug.
    pub slug: String,
    /// What people call it.
    pub name: String,
    /// Its architecture.
    pub arch: String,
}

impl From<&Board> for BoardFacts {
    fn from(board: &Board) -> Self {
        Self { slug: board.slug.clone(), name: board.name.clone(), arch: word(&board.arch) }
    }
}

/// What tells an image from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// What the user called it.
    pub name: String,
    /// SHA-256 of its raw bytes, in hexadecimal; `None` as long as nobody has asked for it. The report of a
    /// failed run has it, and any that the user wants.
    pub sha256: Option<String>,
    /// How many bytes it has.
    pub bytes: u64,
    /// How long it took to read it; `None` if its content stood in the cache already.
    pub read_ms: Option<u64>,
}

impl From<&Image> for ImageFacts {
    fn from(image: &Image) -> Self {
        let read_ms = image.read_in.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let (name, sha256) = (image.name.clone(), image.base().sha256());
        Self { name, sha256, bytes: image.bytes, read_ms }
    }
}

/// What tells a host from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Its architecture, as `uname -m` says.
    pub machine: String,
}

impl HostFacts {
    /// The host that we run on. Fails only where uname(2) does.
    pub fn here() -> std::io::Result<Self> {
        let names = nix::sys::utsname::uname()?;
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        Ok(Self {
            name: text(names.nodename()),
            kernel: text(names.release()),
            machine: text(names.machine()),
        })
    }
}

impl RunReport {
    /// All suites on all boards.
    pub fn suites(&self) -> impl Iterator<Item = &SuiteReport> + Clone {
        self.boards.iter().flat_map(|board| &board.suites)
    }

    /// The verdict over all suites.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.suites())
    }

    /// How long it took.
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.ended.duration_since(self.started).as_millis()).unwrap_or(0)
    }

    /// The content of `report.json`.
    pub fn to_json(&self) -> Value {
        let verdict = self.verdict();
        let boards: Vec<Value> = self.boards.iter().map(board_json).collect();
        json!({
            "format": 1,
            "standin": env!("CARGO_PKG_VERSION"),
            "verdict": verdict,
            "exit_code": verdict.exit_code(),
            "started": self.started,
            "ended": self.ended,
            "duration_ms": self.duration_ms(),
            "counts": Counts::of(self.suites()),
            "run_dir": self.run_dir,
            "repeat": self.repeat,
            "boards": boards,
        })
    }
}

fn board_json(report: &BoardReport) -> Value {
    let suites: Vec<Value> = report.suites.iter().map(suite_json).collect();
    json!({
        "setting": report.setting,
        "verdict": Verdict::of(&report.suites),
        "counts": Counts::of(&report.suites),
        "suites": suites,
    })
}

fn suite_json(suite: &SuiteReport) -> Value {
    json!({
        "title": suite.title,
        "source": suite.source,
        "verdict": Verdict::of([suite]),
        "started": suite.started,
        "duration_ms": suite.duration_ms,
        "interrupted": suite.interrupted,
        "counts": Counts::of([suite]),
        "tests": suite.tests,
    })
}
