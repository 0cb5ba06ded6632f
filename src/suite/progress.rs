//! News of a run while it goes on, for whoever shows it. Plain data; nothing to clean up.

use serde::{Deserialize, Serialize};

use super::outcome::{StepReport, SuiteReport, TestReport};

/// One piece of news.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Progress<'a> {
    /// A suite begins.
    SuiteBegins {
        /// Its title.
        title: &'a str,
        /// How many tests it has.
        tests: usize,
    },
    /// A test begins; it is not told of one that is not run.
    TestBegins {
        /// Its place in the suite, from 1.
        number: usize,
        /// Its title.
        title: &'a str,
    },
    /// A step begins.
    StepBegins {
        /// The step in the words of the suite.
        what: &'a str,
    },
    /// A step has ended.
    StepEnds(&'a StepReport),
    /// A test has ended, or was not run.
    TestEnds {
        /// Its place in the suite, from 1.
        number: usize,
        /// What is known of it.
        #[serde(flatten)]
        test: &'a TestReport,
    },
    /// A suite has ended.
    SuiteEnds {
        /// Its title.
        title: &'a str,
        /// How long it took.
        duration_ms: u64,
    },
}

impl<'a> Progress<'a> {
    /// The end of this suite.
    pub fn end_of(suite: &'a SuiteReport) -> Self {
        Self::SuiteEnds { title: &suite.title, duration_ms: suite.duration_ms }
    }
}

/// Who is told of progress.
pub type Observer<'o> = &'o mut (dyn FnMut(Progress<'_>) + Send);

/// One piece of news as it is read again, from the server where a suite runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is what it is in `Progress`")]
pub enum ToldProgress {
    SuiteBegins {
        title: String,
        tests: usize,
    },
    TestBegins {
        number: usize,
        title: String,
    },
    StepBegins {
        what: String,
    },
    StepEnds(StepReport),
    TestEnds {
        number: usize,
        #[serde(flatten)]
        test: TestReport,
    },
    SuiteEnds {
        title: String,
        duration_ms: u64,
    },
}

impl ToldProgress {
    /// The news.
    pub fn news(&self) -> Progress<'_> {
        match self {
            Self::SuiteBegins { title, tests } => Progress::SuiteBegins { title, tests: *tests },
            Self::TestBegins { number, title } => Progress::TestBegins { number: *number, title },
            Self::StepBegins { what } => Progress::StepBegins { what },
            Self::StepEnds(step) => Progress::StepEnds(step),
            Self::TestEnds { number, test } => Progress::TestEnds { number: *number, test },
            Self::SuiteEnds { title, duration_ms } => {
                Progress::SuiteEnds { title, duration_ms: *duration_ms }
            }
        }
    }
}
