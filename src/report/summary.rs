//! The last words of a run: how it ended, and for a failed one what to look at and how to repeat it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::detail::RunReport;
use crate::suite::outcome::{Counts, Outcome, TestReport, Verdict};

/// The end of a run; printed as a few lines, or as one JSON object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename = "summary")]
pub struct Summary {
    /// The verdict over all suites.
    pub verdict: Verdict,
    /// What the process ends with.
    pub exit_code: u8,
    /// How many tests ended how.
    pub counts: Counts,
    /// How long it took.
    pub duration_ms: u64,
    /// The first test that failed or broke.
    pub first_failure: Option<FirstFailure>,
    /// Where the evidence lies.
    pub run_dir: PathBuf,
    /// The command that repeats the run.
    pub repeat: String,
}

/// Where to look first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstFailure {
    /// The board's slug.
    pub board: String,
    /// The suite's title.
    pub suite: String,
    /// The test's title.
    pub test: String,
    /// The step, if the test got to one.
    pub step: Option<String>,
    /// How it ended, and why.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Summary {
    /// The summary of a run.
    pub fn of(report: &RunReport) -> Self {
        let verdict = report.verdict();
        Self {
            verdict,
            exit_code: verdict.exit_code(),
            counts: Counts::of(report.suites()),
            duration_ms: report.duration_ms(),
            first_failure: first_failure(report, verdict),
            run_dir: report.run_dir.clone(),
            repeat: report.repeat.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { tests, passed, failed, skipped, not_run, broken } = self.counts;
        let parts = [
            (passed, "passed"),
            (failed, "failed"),
            (broken, "broken"),
            (skipped, "skipped"),
            (not_run, "not run"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
        let plural = if tests == 1 { "" } else { "s" };
        let seconds = self.duration_ms as f64 / 1000.0;
        write!(f, "{}: {tests} test{plural}: {} ({seconds:.1} s)", self.verdict.word(), parts.join(", "))?;
        if let Some(failure) = &self.first_failure {
            write!(f, "\nfirst failure: {} / {} / {}", failure.board, failure.suite, failure.test)?;
            if let Some(step) = &failure.step {
                write!(f, " / {step}")?;
            }
            let message = failure.outcome.message().unwrap_or_default();
            message.lines().try_for_each(|line| write!(f, "\n  {line}"))?;
        }
        // A run of nothing leaves nothing to look at.
        if !matches!(self.verdict, Verdict::Passed | Verdict::NothingRun) {
            write!(f, "\nrun directory: {}", self.run_dir.display())?;
        }
        if self.verdict != Verdict::Passed {
            write!(f, "\nrepeat with: {}", self.repeat)?;
        }
        Ok(())
    }
}

/// What a broken run broke on comes before what failed earlier: it is what has to be mended first.
fn first_failure(report: &RunReport, verdict: Verdict) -> Option<FirstFailure> {
    let mut tests = report.boards.iter().flat_map(|board| {
        let slug = &board.setting.board.slug;
        board.suites.iter().flat_map(move |suite| suite.tests.iter().map(move |test| (slug, suite, test)))
    });
    let broken = |test: &TestReport| matches!(test.outcome, Outcome::Broken { .. });
    let failed = |test: &TestReport| matches!(test.outcome, Outcome::Failed { .. });
    let (slug, suite, test) = tests.find(|(_, _, test)| match verdict {
        Verdict::Broken => broken(test),
        _ => broken(test) || failed(test),
    })?;
    Some(FirstFailure {
        board: slug.clone(),
        suite: suite.title.clone(),
        test: test.title.clone(),
        step: test.steps.last().map(|step| step.what.clone()),
        outcome: test.outcome.clone(),
    })
}
