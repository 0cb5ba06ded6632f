//! A program that a suite runs on the host: started without a shell, killed with its children at the deadline. What
//! it leaves in the background is killed when it ends.
//!
//! What it says goes to two files in the run directory, which stay as evidence.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use tokio::process::Command;

use super::step::StepError;
use crate::deadline::Deadline;
use crate::device::console::quote;
use crate::io::file;
use crate::message::chain;
use crate::sys::family::Family;

/// A program that is about to run.
pub(super) struct Program<'a> {
    /// The program and its arguments; never empty.
    pub words: &'a [String],
    /// What it finds in its environment besides ours.
    pub environment: Vec<(String, String)>,
    /// The suite's directory: where it runs, and where a relative path to it starts.
    pub dir: Option<&'a Path>,
    pub run_dir: &'a Path,
    /// The name of its evidence files, without their ends.
    pub name: String,
}

impl Program<'_> {
    /// The files that take what it says, relative to the run directory.
    pub fn evidence(&self) -> [PathBuf; 2] {
        ["stdout", "stderr"].map(|stream| PathBuf::from(format!("{}.{stream}", self.name)))
    }

    /// Runs it. It passes with exit status 0 and with no other: what a test needs of a board is said by `needs`,
    /// so there is no status that means "skipped".
    pub async fn run(self, deadline: Deadline, cancelled: impl Future<Output = ()>) -> Result<(), StepError> {
        let broken =
            |what: &str, error: &std::io::Error| StepError::Broken(format!("{what}: {}", chain(error)));
        let [stdout, stderr] = self.evidence().map(|name| self.run_dir.join(name));
        let create = |path: &Path| {
            File::create(path).map_err(|error| broken(&format!("cannot create {}", path.display()), &error))
        };
        let shown = self.words.join(" ");
        let mut command = Command::new(self.program());
        command
            .args(&self.words[1..])
            .envs(self.environment.iter().cloned())
            .current_dir(self.dir.unwrap_or(self.run_dir))
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?);
        let started = Family::start(command).await;
        let mut family = started.map_err(|error| {
            let what = format!("cannot start `{shown}`");
            // Not there, or no program; see execve(2).
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::EACCES | Errno::ENOEXEC | Errno::ENOTDIR | Errno::EISDIR) => {
                    StepError::impossible(&format!("{what}: {error}"))
                }
                _ => broken(&what, &error),
            }
        })?;
        let ended = tokio::select! {
            ended = deadline.bound(family.wait()) => Some(ended),
            () = cancelled => None,
        };
        let status = match ended {
            Some(Ok(status)) => {
                status.map_err(|error| broken(&format!("cannot wait for `{shown}`"), &error))?
            }
            killed => {
                let kill = family.kill().await;
                kill.map_err(|error| broken(&format!("cannot kill `{shown}`"), &error))?;
                return Err(StepError::Failed(match killed {
                    Some(Err(elapsed)) => {
                        format!("`{shown}` did not end within {:?}{}", elapsed.given, last(&stderr))
                    }
                    _ => format!("`{shown}` was interrupted"),
                }));
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(StepError::Failed(format!("`{shown}` failed with {status}{}", last(&stderr))))
    }

    /// A path with a directory in it starts from the suite's directory; a bare name is looked up in `PATH`.
    fn program(&self) -> PathBuf {
        let program = Path::new(&self.words[0]);
        match self.dir.map(Path::canonicalize) {
            Some(Ok(dir)) if program.components().count() > 1 => dir.join(program),
            _ => program.to_owned(),
        }
    }
}

/// Enough for the lines that are quoted.
const STDERR_TAIL_BYTES: u64 = 4096;

/// The last lines of what it wrote to stderr; nothing if there is none.
fn last(stderr: &Path) -> String {
    match file::tail(stderr, STDERR_TAIL_BYTES) {
        Ok(said) if !said.is_empty() => format!(", its stderr ended with:{}", quote(&said)),
        _ => String::new(),
    }
}
