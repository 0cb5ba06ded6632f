//! How a subcommand ends: with an exit code, or with an error, whose fault it is, and advice.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use super::say;
use crate::board::BoardFileError;
use crate::board::catalog::CatalogError;
use crate::device::{DeviceError, Fault};
use crate::io::image::ImageError;
use crate::lab::player::PlayerError;
use crate::message::chain;
use crate::procedure::FlashError;
use crate::suite::outcome::Verdict;

/// How the program ends; a red product and a broken lab never look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All passed, or what was asked is done.
    Passed,
    /// A test failed.
    Failed,
    /// The command line or a file of the user's is wrong.
    Usage,
    /// The lab broke, so nothing is known of the DUT.
    Broken,
    /// There was nothing to run.
    NothingRun,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// A command that ran for the user on the DUT ended with this status.
    Status(u8),
}

impl Exit {
    /// The number that a shell sees.
    pub fn code(self) -> u8 {
        match self {
            // No run comes of it, so no verdict.
            Self::Usage => 2,
            Self::Passed => Verdict::Passed.exit_code(),
            Self::Failed => Verdict::Failed.exit_code(),
            Self::Broken => Verdict::Broken.exit_code(),
            Self::NothingRun => Verdict::NothingRun.exit_code(),
            Self::Interrupted => Verdict::Interrupted.exit_code(),
            Self::Status(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a subcommand gave up.
#[derive(Debug)]
pub enum CliError {
    /// It could not do what was asked.
    Failed {
        /// Whose fault it is.
        exit: Exit,
        /// What was attempted, and why it failed.
        error: Box<dyn Error + Send + Sync>,
        /// How to mend it, a line each.
        hints: Vec<String>,
    },
    /// Somebody pressed Ctrl-C, and has been told.
    Interrupted,
    /// Nobody reads stdout any more, which is no error: `standin boards | head -1`.
    ClosedPipe,
}

impl CliError {
    /// The command line or a file of the user's is wrong.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { exit: Exit::Usage, error: error.into(), hints: Vec::new() }
    }

    /// The lab, or the host, is at fault.
    pub fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { exit: Exit::Broken, error: error.into(), hints: Vec::new() }
    }

    /// Outside of a suite there is no verdict on the DUT: what it did wrong is told as an error.
    fn by(fault: Fault, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        match fault {
            Fault::User => Self::usage(error),
            Fault::Dut => Self::Failed { exit: Exit::Failed, error: error.into(), hints: Vec::new() },
            Fault::Lab => Self::broken(error),
        }
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Failed { hints, .. } = &mut self {
            hints.push(hint.into());
        }
        self
    }

    /// Tells the user on stderr, and says how the program ends.
    pub fn report(&self) -> Exit {
        match self {
            Self::ClosedPipe => Exit::Passed,
            Self::Interrupted => Exit::Interrupted,
            Self::Failed { exit, error, hints } => {
                say(format_args!("error: {}", chain(error.as_ref())));
                for hint in hints {
                    say(format_args!("hint: {hint}"));
                }
                *exit
            }
        }
    }
}

impl From<io::Error> for CliError {
    /// The error of writing to stdout.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::broken(WriteOutput { source: error }),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout")]
struct WriteOutput {
    source: io::Error,
}

impl From<CatalogError> for CliError {
    fn from(error: CatalogError) -> Self {
        let hint = error.hint();
        let error = Self::usage(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<BoardFileError> for CliError {
    fn from(error: BoardFileError) -> Self {
        Self::usage(error)
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Passed,
            Verdict::Failed => Self::Failed,
            Verdict::Broken => Self::Broken,
            Verdict::NothingRun => Self::NothingRun,
            Verdict::Interrupted => Self::Interrupted,
        }
    }
}

impl From<PlayerError> for CliError {
    fn from(error: PlayerError) -> Self {
        let hint = error.hint();
        let error = Self::usage(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<ImageError> for CliError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::TooWide { .. } => Self::usage(error)
                .hint("packed by `xz -9`, or by zstd with `--long=27` at most, it can be flashed"),
            _ if error.is_users() => Self::usage(error),
            _ => Self::broken(error),
        }
    }
}

impl From<DeviceError> for CliError {
    fn from(error: DeviceError) -> Self {
        Self::by(error.fault(), error)
    }
}

impl From<FlashError> for CliError {
    fn from(error: FlashError) -> Self {
        Self::by(error.fault(), error)
    }
}
