//! What is known after a run: outcomes of steps, tests and suites, as plain data, and the verdict over all.
//!
//! A test *failed* if the DUT did not do what was expected, or the suite asked for what cannot be; it is *broken* if
//! the lab failed, so that nothing is known of the DUT. It was *skipped* if the board lacks something that it needs,
//! and is *not run* if it could have run but something before it ended the suite.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::board::Capability;
use crate::event::Event;

/// How a step or a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The DUT did what was expected.
    Passed,
    /// The DUT did not.
    Failed {
        /// What was expected, and what was seen.
        message: String,
    },
    /// The board lacks something.
    Skipped {
        /// What it lacks; never empty.
        missing: Vec<Capability>,
    },
    /// It was not begun, or was left in the middle, and says nothing of the DUT.
    NotRun {
        /// Why not.
        reason: String,
    },
    /// The lab failed, so nothing is known of the DUT.
    Broken {
        /// What failed.
        reason: String,
    },
}

impl Outcome {
    /// The word for it, as in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::NotRun { .. } => "not-run",
            Self::Broken { .. } => "broken",
        }
    }

    /// Why it did not pass; `None` if it did.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Passed => None,
            Self::Failed { message: text }
            | Self::NotRun { reason: text }
            | Self::Broken { reason: text } => Some(text.clone()),
            Self::Skipped { missing } => {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                Some(format!("the board has no {}", missing.join(", ")))
            }
        }
    }
}

/// What is known of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step in the words of the suite.
    pub what: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took.
    pub duration_ms: u64,
    /// How much of that was standin's own, at most, in microseconds: what its process computed, by how much it may
    /// have noticed too late what it waited for, and all of a flash.
    pub own_us: u64,
}

/// What a part of a test's time was spent on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// As the suite calls it.
    pub name: String,
    /// How long it took.
    pub duration_ms: u64,
    /// How much of that was standin's own; see [`StepReport::own_us`].
    pub own_us: u64,
}

/// What is known of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    /// Its title.
    pub title: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When it began; `None` if it did not.
    pub started: Option<Timestamp>,
    /// How long it took.
    pub duration_ms: u64,
    /// Its steps up to the last that was begun.
    pub steps: Vec<StepReport>,
    /// The stages that ended in it.
    pub stages: Vec<StageReport>,
    /// What happened to the DUT meanwhile.
    pub events: Vec<Event>,
    /// Files with more to see, relative to the run directory.
    pub evidence: Vec<PathBuf>,
}

impl TestReport {
    /// A test that was not begun.
    pub fn without_run(title: &str, outcome: Outcome) -> Self {
        Self {
            title: title.to_owned(),
            outcome,
            started: None,
            duration_ms: 0,
            steps: Vec::new(),
            stages: Vec::new(),
            events: Vec::new(),
            evidence: Vec::new(),
        }
    }
}

/// What is known of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Its title.
    pub title: String,
    /// What to give on the command line to run it again.
    pub source: String,
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether it was cancelled.
    pub interrupted: bool,
    /// Its tests, all of them, in the order of the suite.
    pub tests: Vec<TestReport>,
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All tests.
    pub tests: usize,
    /// Those that passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those whose board lacks something.
    pub skipped: usize,
    /// Those that were not run for another reason.
    pub not_run: usize,
    /// Those during which the lab failed.
    pub broken: usize,
}

impl Counts {
    /// Counts the tests of these suites.
    pub fn of<'r>(suites: impl IntoIterator<Item = &'r SuiteReport>) -> Self {
        let mut counts = Self::default();
        for test in suites.into_iter().flat_map(|suite| &suite.tests) {
            counts.tests += 1;
            *match test.outcome {
                Outcome::Passed => &mut counts.passed,
                Outcome::Failed { .. } => &mut counts.failed,
                Outcome::Skipped { .. } => &mut counts.skipped,
                Outcome::NotRun { .. } => &mut counts.not_run,
                Outcome::Broken { .. } => &mut counts.broken,
            } += 1;
        }
        counts
    }
}

/// The whole of a run in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Tests ran, and all that ran passed.
    Passed,
    /// A test failed.
    Failed,
    /// The lab failed. Some tests may have failed before; but of the rest nothing is known, so the run must be
    /// repeated before anybody looks at the product.
    Broken,
    /// Nothing was run: the board lacks what every test needs.
    NothingRun,
    /// Somebody cancelled it.
    Interrupted,
}

impl Verdict {
    /// The verdict over these suites.
    pub fn of<'r>(suites: impl IntoIterator<Item = &'r SuiteReport> + Clone) -> Self {
        let counts = Counts::of(suites.clone());
        match counts {
            _ if suites.into_iter().any(|suite| suite.interrupted) => Self::Interrupted,
            Counts { broken: 1.., .. } => Self::Broken,
            Counts { failed: 1.., .. } => Self::Failed,
            Counts { passed: 1.., .. } => Self::Passed,
            _ => Self::NothingRun,
        }
    }

    /// What the process ends with; the whole table of exit codes stands in the README.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Broken => 3,
            Self::NothingRun => 4,
            Self::Interrupted => 130, // 128 and SIGINT, as shells say it
        }
    }

    /// The word for it, as in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::NothingRun => "nothing-run",
            Self::Interrupted => "interrupted",
        }
    }
}
