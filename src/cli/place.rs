//! Where things are on this host, from options and the environment.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use clap::Args;

use super::{CliError, log};
use crate::board::ByteSize;
use crate::io::cache::{Cache, LIMIT_BYTES};
use crate::lab::player::{AcceleratorChoice, Host};
use crate::procedure::InstallerChoice;
use crate::qemu::arguments::Accelerator;
use crate::sys::run_dir::RunDir;

/// Where things are on this host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where things are")]
pub struct Place {
    /// QEMU's program, instead of the `qemu-system-<arch>` in PATH
    #[arg(long, value_name = "PROGRAM", env = "STANDIN_QEMU", global = true)]
    qemu: Option<PathBuf>,
    /// Folder for what is found out once (what QEMU can do, whether KVM works) and for images
    /// [default: standin in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", env = "STANDIN_CACHE", global = true)]
    cache: Option<PathBuf>,
    /// How much disk images may take there, such as `5GiB`; those that were not used for longest go first
    #[arg(long, value_name = "SIZE", env = "STANDIN_CACHE_LIMIT", global = true, value_parser = ByteSize::parse,
          default_value_t = ByteSize(LIMIT_BYTES))]
    cache_limit: ByteSize,
    /// Folder for run directories; it should be on a disk, as media lie there
    /// [default: standin/runs in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR", env = "STANDIN_RUNS", global = true)]
    runs: Option<PathBuf>,
}

impl Place {
    /// The same, with another default for the folder of run directories.
    pub fn host_with_runs(&self, runs: Option<PathBuf>) -> Result<Host, CliError> {
        let host = self.host()?;
        let runs = runs.filter(|_| self.runs.is_none()).unwrap_or_else(|| host.runs.clone());
        Ok(Host { runs, ..host })
    }

    /// The host as everything below the command line sees it.
    pub fn host(&self) -> Result<Host, CliError> {
        let cache = || Ok::<_, CliError>(kept("XDG_CACHE_HOME", ".cache")?.join("standin"));
        let runs = || Ok::<_, CliError>(kept("XDG_STATE_HOME", ".local/state")?.join("standin/runs"));
        Ok(Host {
            qemu: self.qemu.clone(),
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            config: below("XDG_CONFIG_HOME", ".config"),
            cache: self.cache.clone().map_or_else(cache, Ok)?,
            runs: self.runs.clone().map_or_else(runs, Ok)?,
        })
    }

    /// The cache of images on this host.
    pub fn images(&self) -> Result<Cache, CliError> {
        Ok(Cache::at(&self.host()?.cache.join("images")).with_limit(self.cache_limit.0))
    }
}

/// A new run directory among those of the host; the log goes there from now on.
pub fn run_dir(host: &Host) -> Result<RunDir, CliError> {
    let hint = "`--runs DIR`, or STANDIN_RUNS, names another folder for run directories";
    let run = RunDir::create(&host.runs).map_err(|error| CliError::broken(error).hint(hint))?;
    log::keep_in(run.path()).map_err(|error| CliError::broken(error).hint(hint))?;
    Ok(run)
}

/// A folder of the XDG Base Directory Specification: the variable if it is an absolute path, else the default
/// below the home directory; `None` for a process without a home, as in some containers.
pub fn below(variable: &str, default: &str) -> Option<PathBuf> {
    let absolute =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(default)))
}

/// The same, for what standin itself writes: a process without a home gets one in the temporary folder.
fn kept(variable: &str, default: &str) -> Result<PathBuf, CliError> {
    match below(variable, default) {
        Some(folder) => Ok(folder),
        None => Ok(home_of_the_homeless()?.join(default)),
    }
}

#[derive(Debug, thiserror::Error)]
enum HomelessError {
    #[error("HOME is not set, and folder {path} cannot be made in its place")]
    Make { path: PathBuf, source: io::Error },
    #[error("HOME is not set, and {path}, which would take its place, is not a folder for this user alone")]
    NotOurs { path: PathBuf },
}

/// A folder of a name that everybody knows, in a place where everybody writes: it is used only if it is ours and
/// nobody else's, as whoever owns it could exchange what we run.
fn home_of_the_homeless() -> Result<PathBuf, CliError> {
    let user = nix::unistd::getuid();
    let path = std::env::temp_dir().join(format!("standin-home-{user}"));
    let refused = |error: HomelessError| {
        CliError::usage(error).hint("set HOME, or name folders with `--cache DIR` and `--runs DIR`")
    };
    let failed = |source| refused(HomelessError::Make { path: path.clone(), source });
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // Of a link itself, not of what it leads to.
    let found = fs::symlink_metadata(&path).map_err(failed)?;
    if found.is_dir() && found.uid() == user.as_raw() && found.mode() & 0o077 == 0 {
        return Ok(path);
    }
    Err(refused(HomelessError::NotOurs { path }))
}

/// What executes the guest's instructions, as people choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AcceleratorOption {
    /// KVM if a guest was seen to run under it here, else TCG.
    Auto,
    /// KVM, or exit code 2 if it does not work here.
    Kvm,
    /// TCG: slow, the same everywhere.
    Tcg,
}

impl From<AcceleratorOption> for AcceleratorChoice {
    fn from(option: AcceleratorOption) -> Self {
        match option {
            AcceleratorOption::Auto => Self::Auto,
            AcceleratorOption::Kvm => Self::Only(Accelerator::Kvm),
            AcceleratorOption::Tcg => Self::Only(Accelerator::Tcg),
        }
    }
}

/// Whether an image is an installer, as people choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum InstallerOption {
    /// What is in the image tells, on a board that is flashed by installers.
    Auto,
    /// It is one: it is run until it powers the board off.
    Yes,
    /// It is none: it is only written.
    No,
}

impl From<InstallerOption> for InstallerChoice {
    fn from(option: InstallerOption) -> Self {
        match option {
            InstallerOption::Auto => Self::Auto,
            InstallerOption::Yes => Self::Yes,
            InstallerOption::No => Self::No,
        }
    }
}

/// Who is to be the DUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendOption {
    /// The bench if there is one, else the stand-in; this version knows no bench.
    Auto,
    /// The stand-in.
    Virtual,
    /// The real board on the bench, never anything else; this version knows no bench.
    Physical,
}
