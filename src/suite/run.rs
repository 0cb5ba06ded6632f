//! Runs a suite on a device, test by test, and says what came of it.
//!
//! The caller owns the device and closes it afterwards; its state goes from test to test. Nothing of the suite's
//! own outlives [`run`].

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::Instrument;

use super::outcome::{Outcome, StageReport, StepReport, SuiteReport, TestReport};
use super::progress::{Observer, Progress};
use super::step::{self, Scene, StepError};
use super::template::Values;
use super::{Action, Step, Suite, Test};
use crate::board::{Capability, word};
use crate::deadline::Deadline;
use crate::device::Device;
use crate::event::{Event, EventKind};
use crate::io::cache::Cache;
use crate::io::image::Image;
use crate::io::prepare::Edit;
use crate::io::ssh::Credentials;
use crate::procedure::InstallerChoice;
use crate::sys::clock::cpu_time;

/// What a run is given besides suite and device.
#[derive(Debug)]
pub struct Options<'a> {
    /// The image that `flash = "image"` writes; `None` only for a suite that does not want one.
    pub image: Option<&'a Image>,
    /// What is changed on the medium after each `flash = "image"`.
    pub edits: &'a [Edit],
    /// Whether the first failure ends the suite; `None` leaves it to the suite.
    pub fail_fast: Option<bool>,
    /// Whether what a step flashes is an installer, if the step does not say.
    pub installer: InstallerChoice,
    /// Where evidence goes.
    pub run_dir: &'a Path,
    /// The cache for images that steps bring along.
    pub images: &'a Cache,
    /// By what steps log in over SSH.
    pub credentials: &'a Credentials,
    /// The backend's name, for programs that the suite starts.
    pub backend: &'a str,
    /// Becomes true when the run is to end as soon as possible.
    pub cancel: watch::Receiver<bool>,
}

/// Runs all tests of a suite, and reports on each of them, run or not.
///
/// To end it early, cancel it through its options; a dropped run leaves the device as it is and no report.
pub async fn run(
    suite: &Suite,
    device: &mut Device,
    options: &Options<'_>,
    observer: Observer<'_>,
) -> SuiteReport {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let deadline = Deadline::after(suite.deadline);
    observer(Progress::SuiteBegins { title: &suite.title, tests: suite.tests.len() });
    let mut runner = Runner {
        suite,
        options,
        values: values(suite, device, options).await,
        heed_from: after_last_fault(&device.events.since(0)),
        device,
    };
    let mut ended: Option<String> = None;
    let mut tests = Vec::new();
    for (index, test) in suite.tests.iter().enumerate() {
        let number = index + 1;
        let missing = runner.missing(test);
        let report = if let Some(reason) = &ended {
            TestReport::without_run(&test.title, Outcome::NotRun { reason: reason.clone() })
        } else if runner.is_cancelled() {
            TestReport::without_run(&test.title, Outcome::NotRun { reason: INTERRUPTED.to_owned() })
        } else if !missing.is_empty() {
            TestReport::without_run(&test.title, Outcome::Skipped { missing })
        } else if deadline.is_past() {
            let message = format!("the suite's {:?} were over before it began", suite.deadline);
            TestReport::without_run(&test.title, Outcome::Failed { message })
        } else {
            observer(Progress::TestBegins { number, title: &test.title });
            let span = tracing::info_span!("test", number, title = test.title);
            runner.test(number, test, deadline.within(test.deadline), observer).instrument(span).await
        };
        let fail_fast = options.fail_fast.unwrap_or(suite.fail_fast);
        ended = ended.or_else(|| match &report.outcome {
            Outcome::Broken { .. } => Some(format!("not run after the lab broke in `{}`", test.title)),
            Outcome::Failed { .. } if fail_fast => Some(format!("not run after `{}` failed", test.title)),
            Outcome::Failed { .. } if deadline.is_past() => {
                Some(format!("not run because the suite's {:?} are over", suite.deadline))
            }
            _ => None,
        });
        observer(Progress::TestEnds { number, test: &report });
        tests.push(report);
    }
    let report = SuiteReport {
        title: suite.title.clone(),
        source: suite.source.clone(),
        started,
        duration_ms: milliseconds(clock),
        interrupted: runner.is_cancelled() && tests.iter().any(is_interrupted),
        tests,
    };
    observer(Progress::end_of(&report));
    report
}

const INTERRUPTED: &str = "interrupted";

/// How long the player may take to show that it lives when a step has failed: QEMU answers within milliseconds, and
/// a host that keeps it waiting for longer is no lab.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

fn is_interrupted(test: &TestReport) -> bool {
    matches!(&test.outcome, Outcome::NotRun { reason } if reason == INTERRUPTED)
}

struct Runner<'a> {
    suite: &'a Suite,
    options: &'a Options<'a>,
    device: &'a mut Device,
    values: Values,
    /// Events from here on end a wait on the console that can no longer succeed.
    heed_from: usize,
}

impl Runner<'_> {
    /// What the device lacks of what the test needs, each once and in the order of the list of capabilities.
    fn missing(&self, test: &Test) -> Vec<Capability> {
        let present = self.device.capabilities();
        let needs = self.suite.needs.iter().chain(&test.needs).copied();
        let missing: std::collections::BTreeSet<_> = needs.filter(|need| !present.contains(need)).collect();
        missing.into_iter().collect()
    }

    async fn test(
        &mut self,
        number: usize,
        test: &Test,
        deadline: Deadline,
        observer: Observer<'_>,
    ) -> TestReport {
        let (started, clock) = (Timestamp::now(), Instant::now());
        let events = self.device.events.clone();
        let first_event = events.len();
        let mut scene = Scene {
            device: &mut *self.device,
            suite: self.suite,
            options: self.options,
            values: self.values.clone(),
            heed_from: self.heed_from,
            acted_at: first_event,
            screen_before: step::screen::Before::of(test),
            evidence: Vec::new(),
            prefix: format!("{}-{number}", file_name(&self.suite.title)),
            late: Duration::ZERO,
        };
        let mut steps = Vec::new();
        let mut stages = Stages::begin();
        let mut outcome = Outcome::Passed;
        for step in &test.steps {
            let what = step.action.to_string();
            observer(Progress::StepBegins { what: &what });
            let (clock, computed) = (Instant::now(), cpu_time());
            let deadline = step.within.map_or(deadline, |within| deadline.within(within));
            let mut done = perform(&mut scene, &step.action, deadline, self.options.cancel.clone()).await;
            if let Some(Err(StepError::Failed(_))) = &done
                && let Err(silent) = scene.device.check_player(Deadline::after(ANSWER_WITHIN)).await
            {
                done = Some(Err(silent.into()));
            }
            outcome = match (done, lab_fault(&events.since(first_event))) {
                (None, _) => Outcome::NotRun { reason: INTERRUPTED.to_owned() },
                (Some(_), Some(reason)) => Outcome::Broken { reason },
                (Some(Ok(())), None) => Outcome::Passed,
                (Some(Err(StepError::Broken(reason))), None) => Outcome::Broken { reason },
                (Some(Err(StepError::Failed(message))), None) => {
                    Outcome::Failed { message: with_events(message, &events.since(first_event)) }
                }
            };
            let took = clock.elapsed();
            let own = match step.action {
                Action::Flash(_) => took,
                _ => cpu_time().saturating_sub(computed) + scene.take_late(),
            };
            stages.add(step, own, outcome == Outcome::Passed);
            let (outcome, duration_ms) = (outcome.clone(), microseconds(took) / 1000);
            let report = StepReport { what, outcome, duration_ms, own_us: microseconds(own) };
            observer(Progress::StepEnds(&report));
            let passed = report.outcome == Outcome::Passed;
            steps.push(report);
            if !passed {
                break;
            }
        }
        TestReport {
            title: test.title.clone(),
            outcome,
            started: Some(started),
            duration_ms: milliseconds(clock),
            steps,
            stages: stages.ended,
            events: events.since(first_event),
            evidence: scene.evidence,
        }
    }

    fn is_cancelled(&self) -> bool {
        *self.options.cancel.borrow()
    }
}

/// What a test's time goes to, stage by stage.
struct Stages {
    since: Instant,
    own: Duration,
    ended: Vec<StageReport>,
}

impl Stages {
    fn begin() -> Self {
        Self { since: Instant::now(), own: Duration::ZERO, ended: Vec::new() }
    }

    /// Takes a step that has just ended; one that passed may end a stage.
    fn add(&mut self, step: &Step, own: Duration, passed: bool) {
        self.own += own;
        if let Some(name) = step.stage.clone().filter(|_| passed) {
            let (duration_ms, own_us) = (milliseconds(self.since), microseconds(self.own));
            self.ended.push(StageReport { name, duration_ms, own_us });
            (self.since, self.own) = (Instant::now(), Duration::ZERO);
        }
    }
}

/// Performs a step; `None` if the run was cancelled meanwhile.
async fn perform(
    scene: &mut Scene<'_>,
    action: &Action,
    deadline: Deadline,
    mut cancel: watch::Receiver<bool>,
) -> Option<Result<(), StepError>> {
    let is_cancelled = cancel.clone();
    let cancelled = async {
        if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
            // Nobody is left who could cancel.
            std::future::pending::<()>().await;
        }
    };
    let done = match action {
        // A program has children of its own: it is not dropped but killed, and waited for.
        Action::Exec(words) => Some(step::exec(scene, words, deadline, cancelled).await),
        _ => tokio::select! {
            biased;
            () = cancelled => None,
            done = step::perform(scene, action, deadline) => Some(done),
        },
    };
    done.filter(|_| !*is_cancelled.borrow())
}

/// Has a value only where a suite names it, as it takes half a second for each GiB.
const IMAGE_SHA256: &str = "image.sha256";

/// The values of all variables but those that a test sets itself.
async fn values(suite: &Suite, device: &Device, options: &Options<'_>) -> Values {
    let board = &device.board;
    let mut values = suite.variables.clone();
    values.insert("board.slug".to_owned(), board.slug.clone());
    values.insert("board.arch".to_owned(), step::uname_machine(board.arch).to_owned());
    values.insert("flash.medium.kind".to_owned(), word(&board.flash_medium().kind));
    if let Ok(address) = device.address() {
        values.insert("dut.address".to_owned(), address.to_string());
    }
    if let Some(identity) = &options.credentials.identity {
        values.insert("ssh.public_key".to_owned(), identity.public_line());
    }
    if let Some(image) = options.image {
        // A base that cannot be read any more leaves the variable without a value, and a test that uses it says so.
        if suite.names(IMAGE_SHA256)
            && let Some(sha256) = step::sha256_of(image).await
        {
            values.insert(IMAGE_SHA256.to_owned(), sha256);
        }
        values.insert("image.bytes".to_owned(), image.bytes.to_string());
    }
    values
}

/// Where the events begin that still say something about the DUT.
fn after_last_fault(events: &[Event]) -> usize {
    events.iter().rev().find(|event| event.kind.lab_fault().is_some()).map_or(0, |event| event.id + 1)
}

/// A title as the beginning of file names: lower case, `-` for what is neither letter nor digit, and cut where it
/// grows too long for one. The number of the test follows it, so no two are the same.
fn file_name(title: &str) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' }
    };
    title.chars().take(LONGEST_FILE_NAME).map(plain).collect()
}

/// Characters; file systems take names of 255 bytes (NAME_MAX), and more than the title stands in one.
const LONGEST_FILE_NAME: usize = 60;

fn lab_fault(events: &[Event]) -> Option<String> {
    let name = |event: &Event| Some(format!("{}: {}", event.kind.name(), event.kind.lab_fault()?));
    events.iter().find_map(name)
}

/// Adds to a failure what else went wrong with the DUT, which is often its cause.
fn with_events(message: String, events: &[Event]) -> String {
    let notes = events.iter().filter_map(|event| match &event.kind {
        EventKind::Panic => Some("the DUT panicked during this test".to_owned()),
        EventKind::Watchdog { action } => Some(format!("a watchdog fired during this test ({action})")),
        EventKind::BlockError { medium, operation, reason } => {
            Some(format!("a {operation} of medium `{medium}` failed during this test ({reason})"))
        }
        _ => None,
    });
    notes.fold(message, |message, note| format!("{message}\n{note}"))
}

fn milliseconds(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
