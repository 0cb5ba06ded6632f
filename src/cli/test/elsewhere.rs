//! A run on a server: the same suites, told and reported in the same way.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::{Args, Show, check_report_folder, conclude, end_run, folder_of, image_wanted, place_evidence};
use crate::cli::interrupt::{self, Interrupted};
use crate::cli::place::{AcceleratorOption, BackendOption, run_dir};
use crate::cli::remote::Client;
use crate::cli::remote::flash::send_image;
use crate::cli::remote::test::{begin, follow, in_path};
use crate::cli::{CliError, Context, Exit};
use crate::report::detail::{BoardReport, Setting};
use crate::suite::progress::Progress;
use crate::suite::{Suite, builtin};
use crate::sys::run_dir::RunDir;
use crate::worker::api::RunOrder;

/// Runs all suites on the server, one after the other.
pub async fn run(
    args: &Args,
    started: Timestamp,
    suites: &[Suite],
    client: &Client,
    context: &Context,
    interrupted: Interrupted,
) -> Result<Exit, CliError> {
    check(args)?;
    let orders = interrupt::unless(&interrupted, orders(args, suites, client)).await?;
    let run = run_dir(&context.place.host()?)?;
    let outcome = perform(args, started, (suites, orders), client, &run, &interrupted).await;
    if outcome.is_err() && !run.path().join(&args.boards[0]).exists() {
        // Nothing has run, so there is nothing to look at.
        run.remove().map_err(CliError::broken)?;
        return outcome;
    }
    end_run(run, outcome)
}

/// Refuses what only a run on this host can do.
fn check(args: &Args) -> Result<(), CliError> {
    let only_here = [
        (args.backend == BackendOption::Physical, "`--backend physical`"),
        (args.accelerator != AcceleratorOption::Auto, "`--accelerator`"),
        (!args.expectation.is_nothing(), "`--sha256` and `--bmap`"),
        (args.key.is_given(), "`--ssh-key`"),
        (!args.edits.edits()?.is_empty(), "changing the image"),
    ];
    match only_here.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(CliError::usage(format!("{what} is for runs on this host, not on a server"))),
        None => check_report_folder(args),
    }
}

/// What the server is asked, but for the board; the images are there then.
async fn orders(args: &Args, suites: &[Suite], client: &Client) -> Result<Vec<RunOrder>, CliError> {
    for board in &args.boards {
        let _: Value = client.get(&format!("/v1/boards/{}", in_path(board))).await?;
    }
    let images = suites.iter().map(|suite| image_wanted(args, suite)).collect::<Result<Vec<_>, _>>()?;
    let mut orders = Vec::new();
    for (suite, path) in suites.iter().zip(images) {
        let is_built_in = builtin::names().any(|name| name == suite.source);
        let text = match is_built_in {
            true => None,
            // It was read once already, and is what it was.
            false => Some(std::fs::read_to_string(Path::new(&suite.source)).map_err(CliError::usage)?),
        };
        let image = match &path {
            Some(path) => Some(send_image(client, path).await?),
            None => None,
        };
        let set = args.set.iter().filter(|(name, _)| suite.variables.contains_key(name));
        orders.push(RunOrder {
            board: String::new(),
            source: suite.source.clone(),
            text,
            variables: set.cloned().collect(),
            image,
            image_name: path.map(|path| path.display().to_string()),
            fail_fast: args.fail_fast,
            installer: args.installer.into(),
            forward: args.forward.clone(),
        });
    }
    Ok(orders)
}

async fn perform(
    args: &Args,
    started: Timestamp,
    (suites, orders): (&[Suite], Vec<RunOrder>),
    client: &Client,
    run: &RunDir,
    interrupted: &Interrupted,
) -> Result<Exit, CliError> {
    let mut show = Show::new(args.json);
    let mut boards = Vec::new();
    for board in &args.boards {
        let (mut setting, mut reports): (Option<Setting>, _) = (None, Vec::new());
        for (index, (suite, order)) in suites.iter().zip(&orders).enumerate() {
            let order = RunOrder { board: board.clone(), ..order.clone() };
            let begun = begin(client, &order).await?;
            let setting = setting.get_or_insert_with(|| {
                // As on this host, where the SHA-256 comes with the report.
                let mut shown = begun.setting.clone();
                shown.image.iter_mut().for_each(|image| image.sha256 = None);
                show.board(&shown);
                begun.setting.clone()
            });
            setting.image = setting.image.take().or(begun.setting.image.clone());
            let folder = folder_of(board, index, suite);
            let evidence = run.path().join(&folder);
            let told = &mut |news: &Progress<'_>| show.news(news);
            let mut report = follow(client, &begun, &evidence, told, interrupted).await?;
            place_evidence(&mut report, &folder);
            reports.push(report);
        }
        let setting = setting.expect("the command line has at least one suite");
        boards.push(BoardReport { setting, suites: reports });
    }
    // The server has told the SHA-256.
    conclude(args, started, boards, None, run, show).await
}
