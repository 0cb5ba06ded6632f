//! `standin test`: suites on boards, and what is known of each afterwards.
//!
//! Everything that can be wrong with what was asked is found before anything is started. Then each suite gets a
//! device of its own on each board, off and blank, and the whole run one directory.

mod elsewhere;

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::interrupt::Interrupted;
use super::place::{AcceleratorOption, BackendOption, InstallerOption, run_dir};
use super::prepare::{EditOptions, rehearse};
use super::remote::Client;
use super::ssh::KeyOption;
use super::{CliError, Context, Exit, has_colours, image, interrupt, say, up};
use crate::board::Board;
use crate::device::Device;
use crate::io::cache::Cache;
use crate::io::image::Image;
use crate::io::prepare::Edit;
use crate::io::ssh::Identity;
use crate::lab::player::{self, Chosen};
use crate::lab::{Places, open_stand_in};
use crate::message::{chain, shell_line};
use crate::procedure;
use crate::report::detail::{BoardReport, HostFacts, RunReport, Setting};
use crate::report::json_lines::JsonLines;
use crate::report::summary::Summary;
use crate::report::terminal::{Style, Terminal};
use crate::report::write_all;
use crate::suite::outcome::{Outcome, SuiteReport, TestReport, Verdict};
use crate::suite::progress::Progress;
use crate::suite::run::{Options, run as run_suite};
use crate::suite::{ImageChoice, Suite, builtin};
use crate::sys::blocking::blocking;
use crate::sys::run_dir::RunDir;

/// Run suites on boards
///
/// Each suite gets a board of its own: off, and with blank media. The first Ctrl-C ends the run and cleans up, the
/// second leaves at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all passed, 1 a test failed, 2 usage or configuration, 3 the lab broke, \
                  4 nothing was run, 130 interrupted."
)]
pub struct Args {
    /// Suites: files, or the name of a built-in one, such as `smoke`
    #[arg(required = true, value_name = "SUITE")]
    suites: Vec<String>,
    /// The board to run on; may be given several times
    #[arg(long = "board", value_name = "SLUG", required = true)]
    boards: Vec<String>,
    /// The image that suites flash, raw or packed, instead of their own; `selftest` is the built-in one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    expectation: image::Expectation,
    /// Whether the image is an installer, which `flash` then runs
    #[arg(long, value_enum, default_value = "auto")]
    installer: InstallerOption,
    /// Whether the stand-in or the real board is the DUT
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendOption,
    /// What executes the stand-in's instructions
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorOption,
    /// Folder for the reports and the evidence; made if it is not there
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Give a variable of the suites another value
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    set: Vec<(String, String)>,
    /// End a suite at its first failure, whatever it says itself
    #[arg(long)]
    fail_fast: bool,
    /// Make this TCP port of the DUT reachable besides those of the board and the suite; may be given several times
    #[arg(long, value_name = "PORT")]
    forward: Vec<u16>,
    #[command(flatten)]
    key: KeyOption,
    /// One JSON object per line on stdout, the last one the summary
    #[arg(long)]
    json: bool,
    /// Print QEMU's command line for each board, flashed with the first suite's image, and run nothing
    #[arg(long)]
    print_qemu_args: bool,
    /// Run on a server, `http://HOST:PORT` or `unix:PATH`: suites and images are sent, evidence is fetched
    #[arg(long, value_name = "URL", env = "STANDIN_WORKER")]
    worker: Option<String>,
    /// A file with the server's token; without the file, the environment variable STANDIN_TOKEN is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    // With a heading of its own, which would be that of all that follows.
    #[command(flatten)]
    edits: EditOptions,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A board that is going to be the DUT, and who plays it.
struct Cast {
    board: Arc<Board>,
    chosen: Chosen,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let started = Timestamp::now();
    let suites = read_suites(&args)?;
    args.key.credentials()?;
    let interrupted = interrupt::listen()?;
    if let Some(client) = Client::named(args.worker.as_deref(), args.token_file.as_deref())?
        && !args.print_qemu_args
    {
        return elsewhere::run(&args, started, &suites, &client, context, interrupted).await;
    }
    let casts = interrupt::unless(&interrupted, cast(&args, context)).await?;
    let host = context.place.host()?;
    let run = run_dir(&host)?;
    let cache = context.place.images()?;
    let prepared = interrupt::unless(&interrupted, prepare(&args, &suites, &casts, &run, &cache)).await;
    let Ok(Some(images)) = prepared else {
        run.remove().map_err(CliError::broken)?;
        return prepared.map(|_| Exit::Passed);
    };
    let outcome = perform(&args, started, &suites, &casts, &images, &run, interrupted).await;
    end_run(run, outcome)
}

/// Keeps the evidence of a run that did not go well.
fn end_run(run: RunDir, outcome: Result<Exit, CliError>) -> Result<Exit, CliError> {
    if matches!(outcome, Ok(Exit::Passed | Exit::NothingRun)) {
        run.remove().map_err(CliError::broken)?;
    } else {
        let kept = run.keep_evidence().map_err(CliError::broken)?;
        if outcome.is_err() {
            say(format_args!("run directory: {}", kept.display()));
        }
    }
    outcome
}

/// The images that the suites flash; `None` if QEMU's command lines were all that was asked for.
async fn prepare(
    args: &Args,
    suites: &[Suite],
    casts: &[Cast],
    run: &RunDir,
    cache: &Cache,
) -> Result<Option<Images>, CliError> {
    let images = open_images(args, suites, casts, cache).await?;
    if args.print_qemu_args {
        print_qemu_args(args, suites, casts, &images, run).await?;
        return Ok(None);
    }
    check_report_folder(args)?;
    Ok(Some(images))
}

/// An hour later would be too late to find out.
fn check_report_folder(args: &Args) -> Result<(), CliError> {
    let Some(dir) = &args.report else { return Ok(()) };
    let writable = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    writable.map(drop).map_err(|source| CliError::usage(ReportError { dir: dir.clone(), source }))
}

/// Runs all, and reports on it. Failed, it leaves what it had found out in the run directory.
async fn perform(
    args: &Args,
    started: Timestamp,
    suites: &[Suite],
    casts: &[Cast],
    images: &Images,
    run: &RunDir,
    cancel: Interrupted,
) -> Result<Exit, CliError> {
    let mut show = Show::new(args.json);
    if args.backend == BackendOption::Auto {
        say("stand-ins play, as there is no bench");
    }
    let edits: Vec<String> = images.edits.iter().map(ToString::to_string).collect();
    if !edits.is_empty() {
        say(format_args!("after each flash of the image: {}", edits.join(", ")));
    }
    let flashed = suites.iter().find_map(|suite| images.of(args, suite));
    let mut boards = Vec::new();
    for cast in casts {
        let mut setting = setting_of(cast)?;
        if let Some(image) = flashed {
            setting.image = Some(image.into());
            setting.edits.clone_from(&edits);
        }
        if let Some(remark) = &cast.chosen.remark {
            say(remark);
        }
        show.board(&setting);
        let mut reports = Vec::new();
        for (index, suite) in suites.iter().enumerate() {
            let name = folder_of(&cast.board.slug, index, suite);
            let image = images.of(args, suite);
            let (cache, edits, cancel) = (&images.cache, &images.edits, cancel.clone());
            let hold = Hold { args, cast, run, name, image, cache, edits, cancel };
            reports.push(hold.run(suite, &mut show).await?);
        }
        boards.push(BoardReport { setting, suites: reports });
    }
    conclude(args, started, boards, flashed, run, show).await
}

/// Writes the reports and tells the end. `flashed` is the image whose SHA-256 they name.
async fn conclude(
    args: &Args,
    started: Timestamp,
    boards: Vec<BoardReport>,
    flashed: Option<&Image>,
    run: &RunDir,
    mut show: Show,
) -> Result<Exit, CliError> {
    let mut report = RunReport {
        started,
        ended: Timestamp::now(),
        boards,
        run_dir: run.path().to_owned(),
        repeat: shell_line(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
    };
    if let Some(image) = flashed
        && (args.report.is_some() || matches!(report.verdict(), Verdict::Failed | Verdict::Broken))
    {
        // Half a second for each GiB, if nobody has asked before; a report that nobody keeps does without. One whose
        // base cannot be read any more is of more use without it than not at all.
        let image = image.clone();
        let sha256 = blocking(move || image.sha256().ok()).await;
        for facts in report.boards.iter_mut().filter_map(|board| board.setting.image.as_mut()) {
            facts.sha256.clone_from(&sha256);
        }
    }
    let written = write_reports(run.path(), args.report.as_deref(), &report);
    // What is known is told, also when it cannot be written down.
    show.finish(&Summary::of(&report), args.report.as_deref().filter(|_| written.is_ok()))?;
    written?;
    Ok(report.verdict().into())
}

/// The folder of a suite on a board in the run directory.
fn folder_of(board: &str, index: usize, suite: &Suite) -> String {
    format!("{board}/{}-{}", index + 1, file_name(&suite.source))
}

fn write_reports(run: &Path, copy: Option<&Path>, report: &RunReport) -> Result<(), CliError> {
    write_all(run, report).map_err(CliError::broken)?;
    match copy {
        Some(dir) => copy_evidence(run, dir)
            .map_err(|source| CliError::broken(ReportError { dir: dir.to_owned(), source })),
        None => Ok(()),
    }
}

/// One suite on one board, from opening the device to closing it.
struct Hold<'a> {
    args: &'a Args,
    cast: &'a Cast,
    run: &'a RunDir,
    /// Its folder in the run directory.
    name: String,
    image: Option<&'a Image>,
    /// Where the images that its steps bring along are kept.
    cache: &'a Cache,
    edits: &'a [Edit],
    cancel: Interrupted,
}

impl Hold<'_> {
    async fn run(&self, suite: &Suite, show: &mut Show) -> Result<SuiteReport, CliError> {
        let evidence = self.run.path().join(&self.name);
        let scratch = self.run.scratch().join(&self.name);
        let places = Places::create(&evidence, &scratch).map_err(CliError::broken)?;
        let mut device = self.open(suite, &places)?;
        let mut credentials = self.args.key.credentials()?;
        if credentials.identity.is_none() {
            // A key for this DUT alone; what the suite does not give it, it does not take.
            let made = Identity::make(&scratch.join("ssh-key")).map_err(CliError::broken)?;
            credentials.identity = Some(made);
        }
        let options = Options {
            image: self.image,
            edits: self.edits,
            fail_fast: self.args.fail_fast.then_some(true),
            installer: self.args.installer.into(),
            run_dir: &evidence,
            images: self.cache,
            credentials: &credentials,
            backend: BACKEND,
            cancel: self.cancel.clone(),
        };
        let mut report =
            run_suite(suite, &mut device, &options, &mut |news: Progress<'_>| show.news(&news)).await;
        place_evidence(&mut report, &self.name);
        if let Err(error) = device.close().await {
            report.tests.push(not_closed(chain(&error)));
        }
        std::fs::remove_dir_all(&scratch).map_err(CliError::broken)?;
        Ok(report)
    }

    fn open(&self, suite: &Suite, places: &Places) -> Result<Device, CliError> {
        let (board, player) = (self.cast.board.clone(), self.cast.chosen.player.clone());
        let ports = suite.ports(&board, &self.args.forward);
        open_stand_in(board, player, places, ports).map_err(CliError::broken)
    }
}

/// Makes the names of evidence start from the run directory.
fn place_evidence(report: &mut SuiteReport, folder: &str) {
    for file in report.tests.iter_mut().flat_map(|test| &mut test.evidence) {
        *file = Path::new(folder).join(&file);
    }
}

/// A device that does not close is a lab that broke, after the last test.
fn not_closed(reason: String) -> TestReport {
    TestReport::without_run("closing the device", Outcome::Broken { reason })
}

/// What reports call a DUT that QEMU plays.
const BACKEND: &str = "stand-in";

fn read_suites(args: &Args) -> Result<Vec<Suite>, CliError> {
    let mut suites = Vec::new();
    for source in &args.suites {
        suites.push(builtin::find(source).map_err(|error| {
            let error = CliError::usage(error);
            if Path::new(source).exists() { error } else { error.hint(built_in_names()) }
        })?);
    }
    for (name, value) in &args.set {
        let mut known = false;
        for suite in &mut suites {
            known |= suite.set(name, value).is_ok();
        }
        if !known {
            return Err(CliError::usage(format!("no suite has a variable `{name}`")));
        }
    }
    Ok(suites)
}

fn built_in_names() -> String {
    format!("a suite is a file, or built in: {}", builtin::names().collect::<Vec<_>>().join(", "))
}

/// The boards, and who plays each; all of them, before anything is started.
async fn cast(args: &Args, context: &Context) -> Result<Vec<Cast>, CliError> {
    if args.backend == BackendOption::Physical {
        let error = CliError::usage("there is no bench: this version of standin drives stand-ins only");
        return Err(error.hint("`--backend virtual` runs on the stand-in"));
    }
    if let Some(twice) = args.boards.iter().enumerate().find(|(at, slug)| args.boards[..*at].contains(slug)) {
        let error = CliError::usage(format!("board `{}` is named twice", twice.1));
        return Err(error.hint("a suite that is named twice runs twice"));
    }
    let catalog = context.catalog()?;
    let boards = args.boards.iter().map(|slug| catalog.board(slug)).collect::<Result<Vec<_>, _>>()?;
    let host = context.place.host()?;
    let mut casts = Vec::new();
    for board in boards {
        if args.installer == InstallerOption::Yes {
            procedure::check_installs(&board)?;
        }
        let chosen = player::choose(&board, &host, args.accelerator.into()).await?;
        casts.push(Cast { board, chosen });
    }
    Ok(casts)
}

/// The images of a run, each opened once.
struct Images {
    opened: HashMap<PathBuf, Image>,
    /// Where they are kept, and those that steps bring along as well.
    cache: Cache,
    /// What is changed on a medium after each of them was flashed.
    edits: Vec<Edit>,
}

impl Images {
    fn of(&self, args: &Args, suite: &Suite) -> Option<&Image> {
        self.opened.get(&image_of(args, suite)?)
    }
}

/// The image that a suite flashes: the user's, or else its own.
fn image_of(args: &Args, suite: &Suite) -> Option<PathBuf> {
    args.image.clone().or_else(|| {
        suite.image.as_ref().map(|choice| match choice {
            ImageChoice::Selftest => PathBuf::from(image::SELFTEST),
            ImageChoice::File(path) => path.clone(),
        })
    })
}

/// The same; a suite that flashes one and has none is an error.
fn image_wanted(args: &Args, suite: &Suite) -> Result<Option<PathBuf>, CliError> {
    let image = image_of(args, suite);
    if image.is_none() && suite.wants_image() {
        let error = CliError::usage(format!("suite `{}` flashes an image, and names none", suite.source));
        return Err(error.hint("name one with --image FILE"));
    }
    Ok(image)
}

async fn open_images(
    args: &Args,
    suites: &[Suite],
    casts: &[Cast],
    cache: &Cache,
) -> Result<Images, CliError> {
    let mut images: HashMap<PathBuf, Image> = HashMap::new();
    let edits = args.edits.edits()?;
    for suite in suites {
        let Some(name) = image_wanted(args, suite)? else { continue };
        for cast in casts {
            let medium = cast.board.flash_medium();
            match images.get(&name) {
                Some(image) => image.check_fits(&medium.name, medium.size.0)?,
                None => {
                    images.insert(name.clone(), image::open(&name, &args.expectation, cache, medium).await?);
                }
            }
            rehearse(&edits, &images[&name], &cast.board.slug, medium).await?;
        }
    }
    if images.is_empty() && !edits.is_empty() {
        return Err(CliError::usage("no suite flashes an image whose medium could be changed"));
    }
    Ok(Images { opened: images, cache: cache.clone(), edits })
}

async fn print_qemu_args(
    args: &Args,
    suites: &[Suite],
    casts: &[Cast],
    images: &Images,
    run: &RunDir,
) -> Result<(), CliError> {
    for cast in casts {
        let dir = run.scratch().join(&cast.board.slug);
        let places = Places::create(&dir, &dir).map_err(CliError::broken)?;
        let image = suites.iter().find_map(|suite| images.of(args, suite));
        let flashed = image.map(|image| (image, &images.edits[..]));
        let ports = suites[0].ports(&cast.board, &args.forward);
        up::print_qemu_args(&cast.board, &cast.chosen, &places, flashed, ports).await?;
    }
    Ok(())
}

fn setting_of(cast: &Cast) -> Result<Setting, CliError> {
    Ok(Setting {
        board: cast.board.as_ref().into(),
        backend: BACKEND.to_owned(),
        accelerator: Some(cast.chosen.player.accelerator.name().to_owned()),
        qemu: Some(cast.chosen.qemu_version.clone()),
        image: None,
        edits: Vec::new(),
        host: HostFacts::here().map_err(CliError::broken)?,
    })
}

/// The last part of a suite's path without its end, as a folder's name: at most 60 characters of up to 4 bytes, as
/// file systems take 255 bytes (NAME_MAX). The suite's number stands before it, so no two are the same.
fn file_name(source: &str) -> String {
    let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy();
    stem.chars()
        .take(60)
        .map(|letter| if letter.is_alphanumeric() || letter == '-' { letter } else { '_' })
        .collect()
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write report folder {dir}")]
struct ReportError {
    dir: PathBuf,
    source: io::Error,
}

/// Copies everything but scratch and locks; files of an older report with the same names are replaced.
fn copy_evidence(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "scratch" {
            copy_evidence(&path, &to.join(name))?;
        } else if path.is_file() && name != "lock" {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Who is told of the run: people on stderr, and programs on stdout if they asked.
struct Show {
    terminal: Option<Terminal<io::Stderr>>,
    json: Option<JsonLines<io::Stdout>>,
}

impl Show {
    fn new(json: bool) -> Self {
        let on_terminal = io::stderr().is_terminal();
        let columns = on_terminal.then(crate::sys::terminal::columns).flatten();
        match json {
            true => Self { terminal: None, json: Some(JsonLines::new(io::stdout())) },
            false => Self {
                terminal: Some(Terminal::new(io::stderr(), Style { columns, colour: has_colours() })),
                json: None,
            },
        }
    }

    fn board(&mut self, setting: &Setting) {
        self.terminal.iter_mut().for_each(|terminal| terminal.board(setting));
        self.json.iter_mut().for_each(|json| json.board(setting));
    }

    fn news(&mut self, news: &Progress<'_>) {
        self.terminal.iter_mut().for_each(|terminal| terminal.show(news));
        self.json.iter_mut().for_each(|json| json.show(news));
    }

    fn finish(&mut self, summary: &Summary, report: Option<&Path>) -> Result<(), CliError> {
        self.terminal.iter_mut().for_each(|terminal| terminal.finish(summary));
        if let Some(dir) = report {
            say(format_args!("report: {}", dir.join("report.json").display()));
        }
        match self.json.take().map_or(Ok(()), |json| json.finish(summary)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // nobody reads any more
            written => Ok(written?),
        }
    }
}
