//! Where things are on this host, from options and the environment.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, log};
use crate::lab::player::{AcceleratorChoice, Host};
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
    /// Folder for run directories; it should be on a disk, as media lie there
    /// [default: standin/runs in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR", env = "STANDIN_RUNS", global = true)]
    runs: Option<PathBuf>,
}

impl Place {
    /// The same, with another default for the folder of run directories.
    pub fn host_with_runs(&self, runs: Option<PathBuf>) -> Host {
        let host = self.host();
        let runs = runs.filter(|_| self.runs.is_none()).unwrap_or_else(|| host.runs.clone());
        Host { runs, ..host }
    }

    /// The host as everything below the command line sees it.
    pub fn host(&self) -> Host {
        let cache = || below("XDG_CACHE_HOME", ".cache").join("standin");
        let runs = || below("XDG_STATE_HOME", ".local/state").join("standin/runs");
        Host {
            qemu: self.qemu.clone(),
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            config: Some(below("XDG_CONFIG_HOME", ".config")),
            cache: self.cache.clone().unwrap_or_else(cache),
            runs: self.runs.clone().unwrap_or_else(runs),
        }
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
/// below the home directory. A process without a home, as in some containers, gets one in the temporary folder.
pub fn below(variable: &str, default: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let homeless = || std::env::temp_dir().join(format!("standin-home-{}", nix::unistd::getuid()));
    set.unwrap_or_else(|| home().unwrap_or_else(homeless).join(default))
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
