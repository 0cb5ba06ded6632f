//! `standin doctor`: what this host can play, what it lacks, and how to mend it.
//!
//! Gathering ([`facts`]) is apart from judging ([`report`]), which is pure. Nothing is changed on the host but the
//! cache: what QEMU can do is asked anew, and KVM is tried if it never was. Nothing to clean up.

pub mod accelerator;
pub mod facts;
pub mod report;

use super::{CliError, Context, Exit, Output, interrupt};
use accelerator::AcceleratorReport;
use facts::Facts;
use report::Report;

/// Say what this host can play, what it lacks, and how to mend it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 if at least one board can be played completely on this host, 3 if none can. \
                  What is missing for other boards is told, and is no error."
)]
pub struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at the host, and tells.
pub async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let catalog = context.catalog()?;
    let boards: Vec<_> = catalog.entries().filter_map(|entry| entry.board.clone().ok()).collect();
    let host = context.place.host()?;
    let gathered = async {
        let mut facts = Facts::gather(&boards, &host).await;
        facts.accelerators.push(AcceleratorReport::kvm(&boards, &host).await);
        Ok(facts)
    };
    let facts = interrupt::unless(&interrupt::listen()?, gathered).await?;
    let report = report::assemble(&boards, &facts);
    let mut output = Output::default();
    if args.json {
        output.json(&report)?;
    } else {
        print(&report, &mut output)?;
    }
    Ok(if report.can_play_any() { Exit::Passed } else { Exit::Broken })
}

fn print(report: &Report, output: &mut Output) -> Result<(), CliError> {
    for (index, (title, rows)) in report.sections().into_iter().enumerate() {
        if index > 0 {
            output.line("")?;
        }
        output.line(title)?;
        output.table(&rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
