//! The log: on stderr as much as the user wants, and in the run directory everything that may explain a run.
//!
//! Standin's own errors and verdicts are not log lines; those go through `say` and the reports.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use clap::{ArgAction, Args};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::has_colours;

/// What is logged on stderr.
#[derive(Debug, Args)]
pub struct Log {
    /// Log more; repeat for still more
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log what this filter says, such as `standin::qemu=debug`; wins over -v and -q
    #[arg(long = "log", value_name = "FILTER", env = "STANDIN_LOG", global = true,
          value_parser = |filter: &str| EnvFilter::try_new(filter))]
    filter: Option<EnvFilter>,
}

impl Log {
    /// Begins to log; called once.
    pub fn start(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, 2) => "debug",
            (false, _) => "trace",
        };
        let filter = self.filter.clone().unwrap_or_else(|| EnvFilter::new(level));
        // They would panic on a stderr that nobody reads, and on a full disk.
        let on_stderr = fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(has_colours())
            .log_internal_errors(false)
            .with_filter(filter);
        let in_run_dir = fmt::layer()
            .with_writer(|| RunLog)
            .with_ansi(false)
            .log_internal_errors(false)
            .with_filter(LevelFilter::DEBUG);
        tracing_subscriber::registry().with(on_stderr).with(in_run_dir).init();
    }
}

/// From now on, the log also goes to `standin.log` in this directory; the first one that is named stays.
pub(super) fn keep_in(run_dir: &Path) -> io::Result<()> {
    let file = File::create(run_dir.join("standin.log"))?;
    // A process has one run; whatever follows it belongs to it.
    let _ = RUN_LOG.set(Arc::new(file));
    Ok(())
}

static RUN_LOG: OnceLock<Arc<File>> = OnceLock::new();

/// Writes to the run's log, and nowhere before there is one.
struct RunLog;

impl Write for RunLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        RUN_LOG.get().map_or(Ok(bytes.len()), |file| file.as_ref().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
