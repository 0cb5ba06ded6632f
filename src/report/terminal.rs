//! Progress for people: one line that lives on a terminal, plain lines elsewhere.

use std::io::Write;

use super::detail::Setting;
use super::summary::Summary;
use crate::device::console::visible;
use crate::suite::outcome::{Outcome, TestReport, Verdict};
use crate::suite::progress::Progress;

/// How progress may look; `cli` decides by stderr, its width and `NO_COLOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The width of the terminal on which a line may be drawn again and again; `None` for plain lines.
    pub columns: Option<usize>,
    /// Whether words may be coloured.
    pub colour: bool,
}

/// Shows progress. What cannot be written is dropped: a run does not fail because nobody looks.
#[derive(Debug)]
pub struct Terminal<W> {
    out: W,
    style: Style,
    /// How many tests the suite in hand has.
    tests: usize,
    /// The test in hand, as the living line shows it.
    running: String,
}

impl<W: Write> Terminal<W> {
    /// Writes to `out`, which is stderr in all but tests.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, tests: 0, running: String::new() }
    }

    /// Tells on what the suites that follow run.
    pub fn board(&mut self, setting: &Setting) {
        let player =
            setting.accelerator.iter().fold(setting.backend.clone(), |words, more| words + ", " + more);
        self.line(&format!("on {} ({player})", setting.board.slug));
    }

    /// Tells one piece of news.
    pub fn show(&mut self, news: &Progress<'_>) {
        match news {
            Progress::SuiteBegins { title, tests } => {
                self.tests = *tests;
                let plural = if *tests == 1 { "" } else { "s" };
                self.line(&format!("{}: {tests} test{plural}", harmless(title)));
            }
            Progress::TestBegins { number, title } => {
                self.running = format!("{number}/{} {}", self.tests, harmless(title));
                match self.style.columns {
                    Some(_) => self.living_line(""),
                    None => self.line(&format!("running  {}", self.running)),
                }
            }
            Progress::StepBegins { what } => self.living_line(what),
            Progress::TestEnds { number, test } => self.test(*number, test),
            Progress::StepEnds(_) | Progress::SuiteEnds { .. } => {}
        }
    }

    /// Tells the end.
    pub fn finish(&mut self, summary: &Summary) {
        let text: Vec<String> = summary.to_string().lines().map(harmless).collect();
        let text = text.join("\n");
        let word = summary.verdict.word();
        let colour = match summary.verdict {
            Verdict::Passed => GREEN,
            Verdict::Failed | Verdict::Broken => RED,
            Verdict::NothingRun | Verdict::Interrupted => YELLOW,
        };
        let rest = text.strip_prefix(word).unwrap_or(&text);
        self.line(&format!("{}{rest}", self.coloured(colour, word)));
    }

    fn test(&mut self, number: usize, test: &TestReport) {
        let (colour, word) = match test.outcome {
            Outcome::Passed => (GREEN, "passed "),
            Outcome::Failed { .. } => (RED, "failed "),
            Outcome::Broken { .. } => (RED, "broken "),
            Outcome::Skipped { .. } => (YELLOW, "skipped"),
            Outcome::NotRun { .. } => (YELLOW, "not run"),
        };
        let word = self.coloured(colour, word);
        let seconds = test.duration_ms as f64 / 1000.0;
        let time = if test.started.is_some() { format!(" ({seconds:.1} s)") } else { String::new() };
        self.line(&format!("{word}  {number}/{} {}{time}", self.tests, harmless(&test.title)));
        self.stages(test);
        if let Some(step) = test.steps.last().filter(|_| test.outcome != Outcome::Passed) {
            self.line(&format!("         at step: {}", harmless(&step.what)));
        }
        for line in test.outcome.message().unwrap_or_default().lines() {
            self.line(&format!("         {}", harmless(line)));
        }
    }

    fn stages(&mut self, test: &TestReport) {
        let width = test.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0);
        for stage in &test.stages {
            let (name, seconds) = (harmless(&stage.name), stage.duration_ms as f64 / 1000.0);
            let own = stage.own_us as f64 / 1e6;
            self.line(&format!("         {name:width$} {seconds:8.2} s, of which standin's own {own:.3} s"));
        }
    }

    /// Draws the line of the test in hand anew, no wider than the terminal.
    fn living_line(&mut self, step: &str) {
        let Some(columns) = self.style.columns else { return };
        let step = if step.is_empty() { String::new() } else { format!(": {}", harmless(step)) };
        let shown: String = (self.running.clone() + &step).chars().take(columns.saturating_sub(1)).collect();
        self.write(&format!("{ERASE}{shown}"));
    }

    fn line(&mut self, text: &str) {
        let erase = if self.style.columns.is_some() { ERASE } else { "" };
        self.write(&format!("{erase}{text}\n"));
    }

    fn write(&mut self, text: &str) {
        // A closed pipe, or a terminal that is gone; see the type.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn coloured(&self, colour: &str, word: &str) -> String {
        if self.style.colour { format!("{colour}{word}{PLAIN}") } else { word.to_owned() }
    }
}

/// A line in which nothing that a DUT or a suite says can move the cursor or change colours.
fn harmless(line: &str) -> String {
    visible(line.as_bytes())
}

/// Back to the start of the line, and nothing on it (ECMA-48, EL).
const ERASE: &str = "\r\x1b[2K";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";
