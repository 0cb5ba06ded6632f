//! The command line: what people and CI type, and what they are told.
//!
//! Each subcommand is a file of its own with its `Args` and `run`. Data goes to stdout, words go to stderr, and
//! the exit code says whose fault it was. Environment variables are read here and nowhere else.

mod boards;
mod cache;
pub mod doctor;
mod error;
mod flash;
mod image;
mod image_content;
mod interrupt;
mod log;
mod meter;
mod output;
mod place;
mod prepare;
mod remote;
mod serve;
mod ssh;
mod suites;
mod test;
mod up;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use error::{CliError, Exit};
pub use log::Log;
pub use output::{Output, human, say};

use crate::board::Catalog;

/// A stand-in for every board: suites run on QEMU today and on the real board in the lab, unchanged.
///
/// Exit codes: 0 all passed, 1 a test failed, 2 usage or configuration, 3 the lab broke, 4 nothing was run,
/// 130 interrupted.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    boards: BoardFolder,
    #[command(flatten)]
    place: place::Place,
    /// What is logged on stderr.
    #[command(flatten)]
    pub log: Log,
    #[command(subcommand)]
    command: Command,
}

// What each one does is told by its `Args`; a word of it here would hide what those say of exit codes and keys.
#[derive(Debug, Subcommand)]
enum Command {
    Boards(boards::Args),
    Suites(suites::Args),
    Test(test::Args),
    Up(up::Args),
    Flash(flash::Args),
    Serve(serve::Args),
    #[command(flatten)]
    Device(remote::Verb),
    Console(remote::ConsoleArgs),
    Ssh(ssh::Args),
    Doctor(doctor::Args),
    /// List, prune and verify what flashes are made of
    Cache(cache::Args),
    /// Look into an image: its partitions, and files in its boot partition
    Image(image_content::Args),
}

/// Does what was asked; `Ok` holds what a script should know.
pub async fn run(cli: Cli) -> Result<Exit, CliError> {
    let context = Context { boards: cli.boards, place: cli.place };
    match cli.command {
        Command::Boards(args) => boards::run(args, &context).await,
        Command::Suites(args) => suites::run(args),
        Command::Test(args) => test::run(args, &context).await,
        Command::Up(args) => up::run(args, &context).await,
        Command::Flash(args) => flash::run(args, &context).await,
        Command::Serve(args) => serve::run(args, &context).await,
        Command::Device(verb) => remote::device(verb, &context).await,
        Command::Console(args) => remote::console(args, &context).await,
        Command::Ssh(args) => ssh::run(args, &context).await,
        Command::Doctor(args) => doctor::run(args, &context).await,
        Command::Cache(args) => cache::run(args, &context).await,
        Command::Image(args) => image_content::run(args, &context).await,
    }
}

/// What every subcommand is given.
#[derive(Debug)]
pub struct Context {
    boards: BoardFolder,
    place: place::Place,
}

impl Context {
    /// The boards that there are, those of the user's folder included.
    pub fn catalog(&self) -> Result<Catalog, CliError> {
        Ok(Catalog::load(self.boards.path().as_deref())?)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Where things are")]
struct BoardFolder {
    /// Folder of board files that add to the built-in boards and override them
    /// [default: standin/machines in $XDG_CONFIG_HOME or ~/.config, if it is there]
    #[arg(long = "boards", value_name = "DIR", env = "STANDIN_BOARDS", global = true)]
    folder: Option<PathBuf>,
}

impl BoardFolder {
    /// The folder that was named, or else the user's own if there is one.
    fn path(&self) -> Option<PathBuf> {
        self.folder.clone().or_else(|| {
            let folder = place::below("XDG_CONFIG_HOME", ".config")?.join("standin/machines");
            Some(folder).filter(|path| path.is_dir())
        })
    }
}

/// Whether words on stderr may be coloured: on a terminal, unless `NO_COLOR` says otherwise.
fn has_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
