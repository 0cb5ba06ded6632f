//! The `standin` command.

use std::process::ExitCode;

use clap::Parser as _;
use standin::cli::{Cli, Exit, run, say};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("error: cannot start the runtime: {error}"));
            return Exit::Broken.into();
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(error) => error.report().into(),
    }
}
