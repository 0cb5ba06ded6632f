//! The one directory in which everything of a run lives, locked while its owner lives.
//!
//! `RUNS/standin-<id>` holds `scratch/` (media, firmware variables: gone when the run ends, in any way) and,
//! beside it, the evidence (logs, console, report). A run that went well removes all; one that did not keeps the
//! evidence. Whoever creates a run first sweeps what dead owners left: a directory that nobody locks and nobody
//! chose to keep, and the oldest of those that were kept.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

/// How many kept directories stay; older ones go at the next start. Enough to look back over a day's failures,
/// too few to fill a disk: evidence is text of some hundred KiB.
const KEPT_RUNS: usize = 20;

const PREFIX: &str = "standin-";
const LOCK: &str = "lock";
const KEPT: &str = "kept";

/// A run's directory, held.
#[derive(Debug)]
pub struct RunDir {
    dir: Option<TempDir>,
    path: PathBuf,
    lock: Option<Flock<File>>,
}

/// The run directory could not be made, kept or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} run directory {path}")]
pub struct RunDirError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl RunDir {
    /// Sweeps `runs`, then makes a new directory in it and locks it.
    pub fn create(runs: &Path) -> Result<Self, RunDirError> {
        let failed = |source| RunDirError { action: "create", path: runs.to_owned(), source };
        fs::create_dir_all(runs).map_err(failed)?;
        let _gate = gate(runs).map_err(failed)?;
        sweep(runs).map_err(failed)?;
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(runs).map_err(failed)?;
        let own = lock(&dir.path().join(LOCK), FlockArg::LockExclusiveNonblock).map_err(failed)?;
        fs::create_dir(dir.path().join("scratch")).map_err(failed)?;
        Ok(Self { path: dir.path().to_owned(), dir: Some(dir), lock: Some(own) })
    }

    /// Where the evidence goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where media and everything else goes that has no worth after the run.
    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// Removes all of it.
    pub fn remove(mut self) -> Result<(), RunDirError> {
        let failed = |source| RunDirError { action: "remove", path: self.path.clone(), source };
        let _gate = gate(self.runs()).map_err(failed)?;
        self.dir.take().expect("only the two consuming functions take it").close().map_err(failed)
    }

    /// Removes the scratch and keeps the evidence; returns where it is.
    pub fn keep_evidence(mut self) -> Result<PathBuf, RunDirError> {
        let failed = |source| RunDirError { action: "keep evidence in", path: self.path.clone(), source };
        let _gate = gate(self.runs()).map_err(failed)?;
        fs::remove_dir_all(self.scratch()).map_err(failed)?;
        File::create(self.path.join(KEPT)).map_err(failed)?;
        let path = self.dir.take().expect("only the two consuming functions take it").keep();
        self.lock = None;
        Ok(path)
    }

    fn runs(&self) -> &Path {
        self.path.parent().expect("it was made in the folder of runs")
    }
}

/// The directories in `runs` whose owners live, in no order; none if there is no such folder.
pub fn living(runs: &Path) -> io::Result<Vec<PathBuf>> {
    if !runs.is_dir() {
        return Ok(Vec::new());
    }
    // Whoever looks at a lock holds it for a moment, in which its owner must not want it.
    let _gate = gate(runs)?;
    let mut living = Vec::new();
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        // An owner that has ended has left no lock, or one that is free.
        let Ok(file) = OpenOptions::new().write(true).open(path.join(LOCK)) else { continue };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err() {
            living.push(path);
        }
    }
    Ok(living)
}

/// Lets one at a time make, remove and sweep directories: nobody shall find one that is half made or half gone.
fn gate(runs: &Path) -> io::Result<Flock<File>> {
    lock(&runs.join(".gate"), FlockArg::LockExclusive)
}

/// Removes what dead owners left in `runs`, and the oldest of what was kept.
fn sweep(runs: &Path) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(runs)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match lock(&path.join(LOCK), FlockArg::LockExclusiveNonblock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // its owner lives
            Ok(_held) if path.join(KEPT).exists() => kept.push((entry.metadata()?.modified()?, path)),
            _ => {
                tracing::debug!(path = %path.display(), "removing what a dead owner left");
                fs::remove_dir_all(&path)?;
            }
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_RUNS);
    kept.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_dir_all(path))
}

fn lock(path: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_in(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    #[test]
    fn a_removed_run_leaves_nothing_and_a_kept_one_its_evidence() {
        let runs = tempfile::tempdir().unwrap();
        let removed = RunDir::create(runs.path()).unwrap();
        let kept = RunDir::create(runs.path()).unwrap();
        fs::write(kept.path().join("console.log"), "evidence").unwrap();
        fs::write(kept.scratch().join("sd.img"), "medium").unwrap();
        removed.remove().unwrap();
        let path = kept.keep_evidence().unwrap();
        assert_eq!(runs_in(runs.path()), std::slice::from_ref(&path));
        RunDir::create(runs.path()).unwrap().remove().unwrap();
        assert!(path.join("console.log").exists());
        assert!(!path.join("scratch").exists());
    }

    #[test]
    fn the_next_start_sweeps_dead_owners_and_spares_living_ones() {
        let runs = tempfile::tempdir().unwrap();
        let living = RunDir::create(runs.path()).unwrap();
        let dead = runs.path().join("standin-dead");
        fs::create_dir_all(dead.join("scratch")).unwrap();
        let next = RunDir::create(runs.path()).unwrap();
        let mut left = runs_in(runs.path());
        left.sort();
        let mut expected = [living.path().to_owned(), next.path().to_owned()];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn only_runs_whose_owners_live_are_living() {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(living(&runs.path().join("none")).unwrap(), Vec::<PathBuf>::new());
        let here = RunDir::create(runs.path()).unwrap();
        let kept = RunDir::create(runs.path()).unwrap().keep_evidence().unwrap();
        assert!(kept.exists());
        assert_eq!(living(runs.path()).unwrap(), [here.path().to_owned()]);
    }

    #[test]
    fn only_the_newest_kept_runs_stay() {
        let runs = tempfile::tempdir().unwrap();
        for _ in 0..KEPT_RUNS + 3 {
            RunDir::create(runs.path()).unwrap().keep_evidence().unwrap();
        }
        RunDir::create(runs.path()).unwrap().remove().unwrap();
        assert_eq!(runs_in(runs.path()).len(), KEPT_RUNS);
    }

    #[test]
    fn runs_that_begin_and_end_at_once_do_not_disturb_each_other() {
        let runs = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        RunDir::create(runs.path()).unwrap().remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(runs_in(runs.path()), Vec::<PathBuf>::new());
    }
}
