//! Suites that run on the server: each on a device of its own, told as it goes on, with its evidence.
//!
//! The task of a run belongs to [`Runs`]; `close` cancels and joins them. A client removes a run when it has
//! fetched what it wants.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::{ApiError, ErrorFacts};
use super::extract::{Asked, Json};
use super::files::{FileFacts, download_from, facts_of};
use super::{Api, Told};
use crate::board::Board;
use crate::io::image::Image;
use crate::io::ssh::{Credentials, Identity};
use crate::lab::{Places, open_stand_in};
use crate::message::chain;
use crate::procedure::InstallerChoice;
use crate::report::detail::{HostFacts, ImageFacts, Setting};
use crate::suite::outcome::{Outcome, SuiteReport, TestReport, Verdict};
use crate::suite::progress::Progress;
use crate::suite::run::{Options, run as run_suite};
use crate::suite::{Action, Suite, builtin, check};
use crate::sys::blocking::blocking;
use crate::worker::answer::typed;
use crate::worker::devices::{Admission, Supply};
use crate::worker::lock;

/// A suite that is to be run on a board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunOrder {
    /// The slug of the board.
    pub board: String,
    /// What the suite is called in reports: its path at the client, or the name of a built-in one.
    pub source: String,
    /// The suite's text; if left out, `source` names a built-in one.
    pub text: Option<String>,
    /// Other values for its variables.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The digest of the image that it flashes, as `GET /v1/images/{digest}` knows it, or `selftest`.
    pub image: Option<String>,
    /// What people call that image.
    pub image_name: Option<String>,
    /// Whether the first failure ends the suite, whatever it says itself.
    #[serde(default)]
    pub fail_fast: bool,
    /// Whether what is flashed is an installer.
    #[serde(default)]
    pub installer: InstallerChoice,
    /// TCP ports of the device that the server's host reaches, beside those that the suite names.
    #[serde(default)]
    pub forward: Vec<u16>,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunFacts {
    /// Its number.
    pub id: u64,
    /// The slug of the board.
    pub board: String,
    /// What the suite is called.
    pub source: String,
    /// Whether it goes on.
    pub running: bool,
    /// On what it runs, as in `report.json` of `standin test`.
    pub setting: Value,
    /// What came of it, as a suite in that file; `null` until it has ended.
    pub report: Option<Value>,
    /// Why there is no report, though it has ended.
    pub error: Option<ErrorFacts>,
}

/// The runs of a server.
#[derive(Debug)]
pub struct Runs {
    /// Whether suites may start programs on this host.
    pub allow_exec: bool,
    all: Mutex<BTreeMap<u64, Arc<OneRun>>>,
    number: Mutex<u64>,
}

#[derive(Debug)]
struct OneRun {
    facts: watch::Sender<RunFacts>,
    /// What is told of it, a JSON object on each line.
    lines: Mutex<Vec<String>>,
    told: watch::Sender<usize>,
    cancel: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    evidence: PathBuf,
    scratch: PathBuf,
}

/// How many runs are kept; more have not been removed by clients that forgot them.
const KEPT: usize = 100;

/// The type of progress: a JSON object on each line.
pub const LINES: &str = "application/x-ndjson";

impl Runs {
    /// None yet.
    pub fn new(allow_exec: bool) -> Self {
        Self { allow_exec, all: Mutex::default(), number: Mutex::default() }
    }

    /// Cancels all, and waits until they have ended.
    pub async fn close(&self) {
        let all: Vec<_> = std::mem::take(&mut *lock(&self.all)).into_values().collect();
        for run in all {
            run.end().await;
        }
    }

    fn find(&self, number: &str) -> Result<Arc<OneRun>, ApiError> {
        let found = number.parse().ok().and_then(|number: u64| lock(&self.all).get(&number).cloned());
        found.ok_or_else(|| ApiError::not_found("no-such-run", "there is no such run"))
    }
}

impl OneRun {
    fn tell(&self, line: &impl Serialize) {
        let line = serde_json::to_string(line).expect("progress has text keys and no value that can fail");
        lock(&self.lines).push(line + "\n");
        self.told.send_modify(|count| *count += 1);
    }

    fn since(&self, from: usize) -> (String, usize) {
        let lines = lock(&self.lines);
        (lines[from..].concat(), lines.len())
    }

    /// Cancels it and waits until it has ended.
    async fn end(&self) {
        self.cancel.send_replace(true);
        let task = lock(&self.task).take();
        if let Some(Err(panicked)) = async { Some(task?.await) }.await {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
}

pub async fn add(State(api): State<Arc<Api>>, Asked(order): Asked<RunOrder>) -> Result<Response, ApiError> {
    let suite = read(&order, api.runs.allow_exec)?;
    let board = api.devices.board(&order.board)?;
    let admission = api.devices.admit(&board)?;
    let chosen = api.devices.choose(&board).await?;
    let image = open_image(&api, &order, &suite, &board).await?;
    let failed = |error: String| ApiError::lab("lab-failed", "cannot begin the run").cause(error);
    let facts = match image.clone() {
        // The client may keep the report, and then wants to know the SHA-256.
        Some(image) => {
            blocking(move || {
                let sha256 = image.sha256().ok();
                Some(ImageFacts { sha256, ..ImageFacts::from(&image) })
            })
            .await
        }
        None => None,
    };
    let setting = Setting {
        board: board.as_ref().into(),
        backend: BACKEND.to_owned(),
        accelerator: Some(chosen.player.accelerator.name().to_owned()),
        qemu: Some(chosen.qemu_version.clone()),
        image: facts,
        edits: Vec::new(),
        host: HostFacts::here().map_err(|error| failed(error.to_string()))?,
    };
    let setting = serde_json::to_value(setting).map_err(|error| failed(error.to_string()))?;
    let id = {
        let mut number = lock(&api.runs.number);
        *number += 1;
        *number
    };
    let supply = &api.devices.supply;
    let (board_slug, source) = (board.slug.clone(), order.source.clone());
    let (report, error) = (None, None);
    let facts = RunFacts { id, board: board_slug, source, running: true, setting, report, error };
    let run = Arc::new(OneRun {
        facts: watch::Sender::new(facts.clone()),
        lines: Mutex::default(),
        told: watch::Sender::new(0),
        cancel: watch::Sender::new(false),
        task: Mutex::new(None),
        evidence: supply.evidence.join(format!("run-{id}")),
        scratch: supply.scratch.join(format!("run-{id}")),
    });
    let job = Job { suite, order, board, player: chosen.player, image, admission, supply: supply.clone() };
    let oldest = {
        let mut all = lock(&api.runs.all);
        *lock(&run.task) = Some(tokio::spawn(job.work(run.clone())));
        all.insert(id, run);
        if all.len() > KEPT { all.pop_first() } else { None }
    };
    if let Some((_, oldest)) = oldest {
        forget(&oldest).await;
    }
    let location = [(header::LOCATION, format!("/v1/runs/{id}"))];
    Ok((StatusCode::CREATED, location, Json(facts)).into_response())
}

/// What reports call a DUT that QEMU plays.
const BACKEND: &str = "stand-in";

/// The suite of an order; one that needs something of the client's host is refused.
fn read(order: &RunOrder, allow_exec: bool) -> Result<Suite, ApiError> {
    let suite = match &order.text {
        Some(text) => check::parse_elsewhere(&order.source, text),
        None if builtin::names().any(|name| name == order.source) => builtin::find(&order.source),
        None => return Err(ApiError::nonsense("no-such-suite", "there is no built-in suite of this name")),
    };
    let mut suite =
        suite.map_err(|error| ApiError::nonsense("bad-suite", "the suite makes no sense").cause(error))?;
    for (name, value) in &order.variables {
        suite.set(name, value).map_err(|error| ApiError::nonsense("bad-suite", error))?;
    }
    let mut actions = suite.tests.iter().flat_map(|test| &test.steps).map(|step| &step.action);
    let is_refused = |action: &Action| match action {
        Action::Exec(_) if !allow_exec => Some("starts programs, and this server does not allow that"),
        action if action.brings_files() => {
            Some("brings files of its own, which only a run on their host can use")
        }
        _ => None,
    };
    if let Some(reason) = actions.find_map(is_refused) {
        let message = format!("suite `{}` {reason}", order.source);
        let hint = "a server that is started with --allow-exec lets suites start programs on its host";
        return Err(ApiError::nonsense("not-allowed", message).hint(hint));
    }
    Ok(suite)
}

async fn open_image(
    api: &Arc<Api>,
    order: &RunOrder,
    suite: &Suite,
    board: &Board,
) -> Result<Option<Image>, ApiError> {
    let Some(name) = order.image.clone() else {
        if suite.wants_image() {
            let message = format!("suite `{}` flashes an image, and none is given", order.source);
            return Err(ApiError::nonsense("no-image", message));
        }
        return Ok(None);
    };
    let medium = board.flash_medium();
    let (medium, capacity, api) = (medium.name.clone(), medium.size.0, api.clone());
    let opened =
        blocking(move || api.images.open(&name, (&medium, capacity), &mut |_| ControlFlow::Continue(())));
    let mut image = opened.await?;
    image.name = order.image_name.clone().unwrap_or(image.name);
    Ok(Some(image))
}

/// All that a run needs.
struct Job {
    suite: Suite,
    order: RunOrder,
    board: Arc<Board>,
    player: crate::device::power::Player,
    image: Option<Image>,
    /// Its place among the devices.
    admission: Admission,
    supply: Supply,
}

impl Job {
    async fn work(self, run: Arc<OneRun>) {
        let ended = self.perform(&run).await;
        // What cannot be removed goes with the server's run directory.
        let _ = fs::remove_dir_all(&run.scratch);
        drop(self.admission);
        let (report, error) = match ended {
            Ok(report) => (serde_json::to_value(report).ok(), None),
            Err(error) => (None, Some(*error.facts)),
        };
        run.tell(&json!({ "type": "run-ends", "report": report, "error": error }));
        run.facts.send_modify(|facts| {
            (facts.running, facts.report, facts.error) = (false, report, error);
        });
        // Whoever reads the lines sees the end.
        run.told.send_modify(|_| {});
    }

    async fn perform(&self, run: &Arc<OneRun>) -> Result<SuiteReport, ApiError> {
        let failed = |error: &dyn std::error::Error| {
            ApiError::lab("cannot-open", "cannot open a device").cause(chain(error))
        };
        let places = Places::create(&run.evidence, &run.scratch).map_err(|error| failed(&error))?;
        let forwards: BTreeSet<u16> = self.suite.forward.iter().chain(&self.order.forward).copied().collect();
        let opened =
            open_stand_in(self.board.clone(), self.player.clone(), &places, forwards.into_iter().collect());
        let mut device = opened.map_err(|error| failed(&error))?;
        // A key for this device alone: the server's own are no client's business.
        let made = Identity::make(&run.scratch.join("ssh-key"));
        let identity = Some(made.map_err(|error| failed(&error))?);
        let credentials = Credentials { identity, agent: None, password: None };
        let options = Options {
            installer: self.order.installer,
            credentials: &credentials,
            image: self.image.as_ref(),
            edits: &[],
            fail_fast: self.order.fail_fast.then_some(true),
            run_dir: &run.evidence,
            images: &self.supply.images,
            backend: BACKEND,
            cancel: run.cancel.subscribe(),
        };
        let teller = run.clone();
        let mut observer = move |news: Progress<'_>| teller.tell(&news);
        let mut report = run_suite(&self.suite, &mut device, &options, &mut observer).await;
        if let Err(error) = device.close().await {
            let outcome = Outcome::Broken { reason: chain(&error) };
            report.tests.push(TestReport::without_run("closing the device", outcome));
        }
        tracing::info!(run = run.facts.borrow().id, verdict = ?Verdict::of([&report]), "a run has ended");
        Ok(report)
    }
}

pub async fn list(State(api): State<Arc<Api>>) -> Json<Vec<RunFacts>> {
    Json(lock(&api.runs.all).values().map(|run| run.facts.borrow().clone()).collect())
}

pub async fn show(State(api): State<Arc<Api>>, Path(number): Path<String>) -> Told<RunFacts> {
    Ok(Json(api.runs.find(&number)?.facts.borrow().clone()))
}

/// From the beginning, until it has ended.
pub async fn progress(State(api): State<Arc<Api>>, Path(number): Path<String>) -> Result<Response, ApiError> {
    let run = api.runs.find(&number)?;
    let told = run.told.subscribe();
    let lines = stream::unfold((run, told, 0), |(run, mut told, from)| async move {
        loop {
            told.borrow_and_update();
            // Before the lines: what comes between the two comes with the next ones.
            let ended = !run.facts.borrow().running;
            let (text, next) = run.since(from);
            if !text.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(text)), (run, told, next)));
            }
            if ended || told.changed().await.is_err() {
                return None;
            }
        }
    });
    Ok(typed(LINES, Body::from_stream(lines)))
}

pub async fn files(State(api): State<Arc<Api>>, Path(number): Path<String>) -> Told<Vec<FileFacts>> {
    Ok(Json(facts_of(api.runs.find(&number)?.evidence.clone()).await))
}

pub async fn download(
    State(api): State<Arc<Api>>,
    Path((number, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    download_from(api.runs.find(&number)?.evidence.clone(), &name).await
}

/// Cancels it; it stays, with its report, until it is removed by asking again.
pub async fn remove(State(api): State<Arc<Api>>, Path(number): Path<String>) -> Result<Response, ApiError> {
    let run = api.runs.find(&number)?;
    let was_running = run.facts.borrow().running;
    // In a task of its own: a client that hangs up must not leave it half removed.
    let removed = tokio::spawn(async move {
        run.end().await;
        if !was_running {
            lock(&api.runs.all).remove(&run.facts.borrow().id);
            forget(&run).await;
        }
        run.facts.borrow().clone()
    });
    match removed.await {
        Ok(facts) => Ok(Json(facts).into_response()),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn forget(run: &OneRun) {
    run.end().await;
    let evidence = run.evidence.clone();
    // What cannot be removed goes with the server's run directory.
    let _ = blocking(move || fs::remove_dir_all(evidence)).await;
}
