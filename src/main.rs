//! The `standin` command.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use standin::cli::{Cli, Exit, run, say};
use standin::sys::child::wait_for_all;

/// How long the aftermath of cancelled work may take: dying children need some milliseconds.
const AFTERMATH: Duration = Duration::from_secs(2);

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
    let exit = match runtime.block_on(run(cli)) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    };
    // Ends what was cancelled; a copy that cannot be stopped in the middle is left to the end of the process.
    runtime.shutdown_timeout(AFTERMATH);
    wait_for_all(AFTERMATH);
    exit.into()
}
