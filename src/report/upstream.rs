//! `final-result.json` as leviathan's client writes it, with verdicts that are true.
//!
//! Leviathan's own file is wrong whenever something fails (leviathan issue #683): a failed assertion is told as
//! `skipped`, a status may land on the next test, and two tests of one title share an entry. The shape here is
//! the same; the verdicts come from what happened. It knows three words only, so what broke is told as `failed`:
//! it ran, and must not look green. What was not run is told as `skipped`, as leviathan does.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::suite::outcome::{Outcome, SuiteReport};

/// The whole file: one object for each suite.
pub fn final_result<'r>(suites: impl IntoIterator<Item = &'r SuiteReport>, now: Timestamp) -> Value {
    suites.into_iter().map(|suite| summary(suite, now)).collect()
}

/// The object of one suite, which leviathan also writes as `test-summary.json`.
pub fn summary(suite: &SuiteReport, now: Timestamp) -> Value {
    let mut tests = Map::new();
    for test in &suite.tests {
        tests.insert(unused(&tests, &test.title), word(&test.outcome).into());
    }
    let count = |wanted: &str| tests.values().filter(|word| *word == wanted).count();
    let (passed, failed, skipped) = (count("passed"), count("failed"), count("skipped"));
    let ran = passed + failed;
    json!({
        "suite": suite.title,
        "stats": { "tests": tests.len(), "ran": ran, "skipped": skipped, "passed": passed, "failed": failed },
        "tests": tests,
        "dateTime": date_to_string(now),
    })
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed { .. } | Outcome::Broken { .. } => "failed",
        Outcome::Skipped { .. } | Outcome::NotRun { .. } => "skipped",
    }
}

/// The title, or with a number if another test has it already: an object cannot hold a key twice.
fn unused(taken: &Map<String, Value>, title: &str) -> String {
    let numbered = (2..).map(|number| format!("{title} ({number})"));
    let mut candidates = std::iter::once(title.to_owned()).chain(numbered);
    candidates.find(|title| !taken.contains_key(title)).expect("there are more numbers than tests")
}

/// As JavaScript's `Date.prototype.toString` in UTC (ECMA-262, 21.4.4.41); the zone is named as V8 names it.
fn date_to_string(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC);
    time.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_javascript_does() {
        let time: Timestamp = "2023-04-07T11:58:25.999Z".parse().unwrap();
        assert_eq!(date_to_string(time), "Fri Apr 07 2023 11:58:25 GMT+0000 (Coordinated Universal Time)");
    }
}
