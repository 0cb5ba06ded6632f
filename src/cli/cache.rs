//! `standin cache`: what flashes are made of, as it lies on this host's disk, and how to get rid of it.
//!
//! The cache keeps itself in order; nobody has to call this. What some other process uses stays untouched.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::{CliError, Context, Exit, Output, human, say};
use crate::board::ByteSize;
use crate::io::cache::{Cache, Entry};

/// What follows `standin cache`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 if it is done, 3 if a base was damaged or the cache cannot be used.")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object per line, the last one the summary
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the bases that there are, the one that was used last first; this is the default
    List,
    /// Remove bases, the one that was not used for longest first, but none that is in use
    Prune {
        /// Remove all that are not in use
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// How much disk the rest may take, such as `5GiB` [default: what `--cache-limit` says]
        #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
        limit: Option<ByteSize>,
    },
    /// Read every base, and remove those that are damaged
    Verify,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} the image cache in `{}`", dir.display())]
struct CacheError {
    attempt: &'static str,
    dir: PathBuf,
    source: std::io::Error,
}

/// Lists the bases, or does what the subcommand says.
pub async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let cache = context.place.images()?;
    // Reading all of them takes as long as the disk does.
    tokio::task::spawn_blocking(move || perform(&args, &cache)).await.map_err(CliError::broken)?
}

fn perform(args: &Args, cache: &Cache) -> Result<Exit, CliError> {
    let mut output = Output::default();
    match args.command {
        None | Some(Command::List) => list(cache, args.json, &mut output),
        Some(Command::Prune { all: true, .. }) => prune(cache, 0, args.json, &mut output),
        Some(Command::Prune { limit, .. }) => {
            prune(cache, limit.map_or(cache.limit(), |limit| limit.0), args.json, &mut output)
        }
        Some(Command::Verify) => verify(cache, args.json, &mut output),
    }
}

fn list(cache: &Cache, json: bool, output: &mut Output) -> Result<Exit, CliError> {
    let entries = entries(cache)?;
    if json {
        entries.iter().try_for_each(|entry| output.json(&typed("base", entry)))?;
        output.json(&json!({
            "type": "summary",
            "bases": entries.len(),
            "disk_bytes": disk_bytes(&entries),
            "limit_bytes": cache.limit(),
            "dir": cache.dir(),
        }))?;
        return Ok(Exit::Passed);
    }
    let head = ["DIGEST", "SIZE", "ON DISK", "LAST USE", "MADE FROM"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(entries.iter().map(|entry| row(entry, cache))).collect();
    output.table(&rows)?;
    say(format_args!(
        "{} of {} in {}",
        human(disk_bytes(&entries)),
        human(cache.limit()),
        cache.dir().display()
    ));
    Ok(Exit::Passed)
}

fn prune(cache: &Cache, limit: u64, json: bool, output: &mut Output) -> Result<Exit, CliError> {
    // Whoever has no cache gets none.
    let removed = if cache.dir().exists() {
        cache.prune(limit).map_err(|source| broken("prune", cache, source))?
    } else {
        Vec::new()
    };
    let left = entries(cache)?;
    if json {
        removed.iter().try_for_each(|entry| output.json(&typed("removed", entry)))?;
        output.json(&json!({
            "type": "summary",
            "removed": removed.len(),
            "freed_bytes": disk_bytes(&removed),
            "bases": left.len(),
            "disk_bytes": disk_bytes(&left),
            "limit_bytes": limit,
            "dir": cache.dir(),
        }))?;
        return Ok(Exit::Passed);
    }
    removed.iter().try_for_each(|entry| output.line(format_args!("{}: removed", entry.digest)))?;
    say(format_args!(
        "{} freed, {} left in {}",
        human(disk_bytes(&removed)),
        human(disk_bytes(&left)),
        cache.dir().display()
    ));
    if disk_bytes(&left) > limit {
        say("what is left is in use");
    }
    Ok(Exit::Passed)
}

fn verify(cache: &Cache, json: bool, output: &mut Output) -> Result<Exit, CliError> {
    let bases = entries(cache)?.len();
    let damaged = cache.verify().map_err(|source| broken("verify", cache, source))?;
    if json {
        damaged.iter().try_for_each(|entry| output.json(&typed("damaged", entry)))?;
        output.json(&json!({
            "type": "summary",
            "bases": bases,
            "damaged": damaged.len(),
            "removed": damaged.iter().filter(|entry| !entry.in_use).count(),
            "dir": cache.dir(),
        }))?;
    } else {
        for entry in &damaged {
            let done = if entry.in_use { "in use, so it stays for that alone" } else { "removed" };
            output.line(format_args!("{}: damaged; {done}", entry.digest))?;
        }
        say(format_args!("bases read: {bases}, damaged: {}, in {}", damaged.len(), cache.dir().display()));
        if damaged.iter().any(|entry| entry.in_use) {
            say("hint: run `standin cache verify` again when nothing else runs");
        }
    }
    Ok(if damaged.is_empty() { Exit::Passed } else { Exit::Broken })
}

fn entries(cache: &Cache) -> Result<Vec<Entry>, CliError> {
    cache.list().map_err(|source| broken("list", cache, source))
}

fn broken(attempt: &'static str, cache: &Cache, source: std::io::Error) -> CliError {
    CliError::broken(CacheError { attempt, dir: cache.dir().to_owned(), source })
}

fn typed(kind: &str, entry: &Entry) -> Json {
    let mut line = json!(entry);
    line["type"] = json!(kind);
    line
}

fn row(entry: &Entry, cache: &Cache) -> [String; 5] {
    let used = if entry.in_use { "in use".to_owned() } else { ago(entry.idle_seconds) };
    // The self-test comes from a file that lies in the cache for a moment.
    let is_built_in = cache.dir().canonicalize().is_ok_and(|dir| entry.source.starts_with(dir));
    let source = if is_built_in { "selftest".to_owned() } else { entry.source.display().to_string() };
    [entry.digest.clone(), human(entry.bytes), human(entry.disk_bytes), used, source]
}

fn disk_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.disk_bytes).sum()
}

/// A span of time as people say it, in its largest whole unit.
fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_said_as_people_say_them() {
        let sizes = [0, 1_023, 1_536, (1 << 20) - 1, 20 << 30].map(human);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "1023.9 KiB", "20.0 GiB"]);
        let times = [0, 59, 60, 7_200, 200_000].map(ago);
        assert_eq!(times, ["0 s ago", "59 s ago", "1 min ago", "2 h ago", "2 d ago"]);
    }
}
