//! `standin suites`: the suites that are built in, and what editors want to know of one's own.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, Exit, Output};
use crate::document::schema_of;
use crate::suite::builtin;
use crate::suite::file::SuiteFile;

/// List the suites that are built in, and help to write others
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object per line, the last one the summary
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the JSON Schema of suite files, for editors
    Schema,
}

/// Lists the built-in suites, or does what the subcommand says.
pub fn run(args: Args) -> Result<Exit, CliError> {
    let mut output = Output::default();
    match args.command {
        None => list(args.json, &mut output)?,
        // As `tests/suites/suite.schema.json` has it.
        Some(Command::Schema) => output.line(format_args!("{:#}", schema_of::<SuiteFile>()))?,
    }
    Ok(Exit::Passed)
}

fn list(json: bool, output: &mut Output) -> Result<(), CliError> {
    let mut rows = vec![["NAME", "TITLE", "TESTS"].map(str::to_owned)];
    for name in builtin::names() {
        let suite = builtin::find(name).map_err(CliError::broken)?;
        if json {
            output.json(&json!({ "name": name, "title": suite.title, "tests": suite.tests.len() }))?;
        }
        rows.push([name.to_owned(), suite.title, suite.tests.len().to_string()]);
    }
    if json {
        return output.json(&json!({ "suites": rows.len() - 1 }));
    }
    output.table(&rows)
}
