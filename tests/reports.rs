//! What is told of a run: verdicts, leviathan's file, our own, and words on a terminal.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};
use standin::board::Capability;
use standin::report::detail::{BoardFacts, BoardReport, HostFacts, RunReport, Setting};
use standin::report::json_lines::JsonLines;
use standin::report::summary::Summary;
use standin::report::terminal::{Style, Terminal};
use standin::report::{upstream, write_all};
use standin::suite::outcome::{Outcome, StageReport, StepReport, SuiteReport, TestReport, Verdict};
use standin::suite::progress::Progress;

fn passed() -> Outcome {
    Outcome::Passed
}

fn failed() -> Outcome {
    Outcome::Failed { message: "text `ready` not seen\n  | boot".to_owned() }
}

fn broken() -> Outcome {
    Outcome::Broken { reason: "machine-died: killed by SIGKILL".to_owned() }
}

fn skipped() -> Outcome {
    Outcome::Skipped { missing: vec![Capability::Wifi] }
}

fn not_run() -> Outcome {
    Outcome::NotRun { reason: "not run after `t1` failed".to_owned() }
}

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// A suite whose tests `t0`, `t1` and so on ended like this.
fn suite(outcomes: &[Outcome]) -> SuiteReport {
    let test = |(index, outcome): (usize, &Outcome)| {
        let mut test = TestReport::without_run(&format!("t{index}"), outcome.clone());
        if !matches!(outcome, Outcome::Skipped { .. } | Outcome::NotRun { .. }) {
            test.started = Some(time("2026-11-22T10:00:00Z"));
            test.duration_ms = 1234;
            test.steps = vec![StepReport {
                what: "expect `ready`".to_owned(),
                outcome: outcome.clone(),
                duration_ms: 7,
                own_us: 900,
            }];
            test.stages = vec![StageReport { name: "boot".to_owned(), duration_ms: 1230, own_us: 4000 }];
        }
        test
    };
    SuiteReport {
        title: "Smoke".to_owned(),
        source: "smoke".to_owned(),
        started: time("2026-11-22T10:00:00Z"),
        duration_ms: 5000,
        interrupted: false,
        tests: outcomes.iter().enumerate().map(test).collect(),
    }
}

fn report(suites: Vec<SuiteReport>) -> RunReport {
    let setting = Setting {
        board: BoardFacts { slug: "pc".to_owned(), name: "PC".to_owned(), arch: "x86_64".to_owned() },
        backend: "stand-in".to_owned(),
        accelerator: Some("tcg".to_owned()),
        qemu: Some("7.2.9".to_owned()),
        image: None,
        edits: Vec::new(),
        host: HostFacts::here().expect("uname works"),
    };
    RunReport {
        started: time("2026-11-22T10:00:00Z"),
        ended: time("2026-11-22T10:00:12.345Z"),
        boards: vec![BoardReport { setting, suites }],
        run_dir: PathBuf::from("/runs/7"),
        repeat: "standin test smoke --board pc".to_owned(),
    }
}

#[test]
fn the_exit_code_tells_a_red_product_from_a_broken_bench() {
    for (outcomes, code) in [
        (vec![passed(), passed()], 0),
        (vec![passed(), skipped()], 0),
        (vec![passed(), failed(), not_run()], 1),
        (vec![failed(), broken(), not_run()], 3),
        (vec![broken()], 3),
        (vec![skipped(), skipped()], 4),
    ] {
        assert_eq!(Verdict::of([&suite(&outcomes)]).exit_code(), code, "{outcomes:?}");
    }
    let both = [suite(&[passed()]), suite(&[failed()])];
    assert_eq!(Verdict::of(&both).exit_code(), 1);
    let interrupted = SuiteReport { interrupted: true, ..suite(&[broken(), not_run()]) };
    assert_eq!(Verdict::of([&interrupted]).exit_code(), 130);
}

#[test]
fn the_upstream_file_has_leviathans_shape_and_true_verdicts() {
    let mut doubled = suite(&[passed(), failed(), skipped(), broken(), not_run()]);
    doubled.tests[3].title = "t1".to_owned();
    let written = upstream::final_result(&[doubled], time("2023-04-27T11:58:25Z"));
    let expected = json!([{
        "suite": "Smoke",
        "stats": { "tests": 5, "ran": 3, "skipped": 2, "passed": 1, "failed": 2 },
        "tests": { "t0": "passed", "t1": "failed", "t2": "skipped", "t1 (2)": "failed", "t4": "skipped" },
        "dateTime": "Thu Apr 27 2023 11:58:25 GMT+0000 (Coordinated Universal Time)",
    }]);
    // As text, for the order of keys is part of the shape.
    assert_eq!(written.to_string(), expected.to_string());
}

#[test]
fn both_reports_are_written_whole_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("report.json"), "an old one").unwrap();
    write_all(dir.path(), &report(vec![suite(&[passed(), failed()])])).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["final-result.json", "report.json"]);
    let path = dir.path().join("report.json");
    assert_ne!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o400, 0);
    let detail: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(
        (&detail["verdict"], &detail["exit_code"], &detail["duration_ms"]),
        (&json!("failed"), &json!(1), &json!(12345))
    );
    assert_eq!(detail["boards"][0]["setting"]["accelerator"], "tcg");
    let test = &detail["boards"][0]["suites"][0]["tests"][1];
    assert_eq!((&test["outcome"], &test["steps"][0]["what"]), (&json!("failed"), &json!("expect `ready`")));
    assert_eq!(test["message"], "text `ready` not seen\n  | boot");
    let missing = write_all(&dir.path().join("missing"), &report(Vec::new())).unwrap_err();
    assert!(missing.to_string().ends_with("missing/final-result.json"), "{missing}");
}

#[test]
fn a_failed_run_ends_with_the_failure_the_directory_and_the_command() {
    let summary = Summary::of(&report(vec![suite(&[passed(), failed(), skipped(), not_run()])]));
    assert_eq!(
        summary.to_string(),
        "failed: 4 tests: 1 passed, 1 failed, 1 skipped, 1 not run (12.3 s)\n\
         first failure: pc / Smoke / t1 / expect `ready`\n  text `ready` not seen\n    | boot\n\
         run directory: /runs/7\n\
         repeat with: standin test smoke --board pc"
    );
    let nothing = Summary::of(&report(vec![suite(&[skipped()])])).to_string();
    assert!(!nothing.contains("run directory") && nothing.contains("repeat with"), "{nothing}");
    let broken = Summary::of(&report(vec![suite(&[failed(), broken()])]));
    assert_eq!(broken.first_failure.map(|failure| failure.test).as_deref(), Some("t1"));
    assert_eq!(
        Summary::of(&report(vec![suite(&[passed()])])).to_string(),
        "passed: 1 test: 1 passed (12.3 s)"
    );
}

/// Shows a suite's progress as the runner would.
fn show(suite: &SuiteReport, mut show: impl FnMut(&Progress<'_>)) {
    show(&Progress::SuiteBegins { title: &suite.title, tests: suite.tests.len() });
    for (index, test) in suite.tests.iter().enumerate() {
        let number = index + 1;
        if test.started.is_some() {
            show(&Progress::TestBegins { number, title: &test.title });
            show(&Progress::StepBegins { what: &test.steps[0].what });
            show(&Progress::StepEnds(&test.steps[0]));
        }
        show(&Progress::TestEnds { number, test });
    }
    show(&Progress::end_of(suite));
}

#[test]
fn without_a_terminal_progress_is_plain_lines() {
    let suite = suite(&[passed(), failed(), skipped(), not_run()]);
    let mut out = Vec::new();
    let mut terminal = Terminal::new(&mut out, Style { columns: None, colour: false });
    show(&suite, |news| terminal.show(news));
    let expected = "\
Smoke: 4 tests
running  1/4 t0
passed   1/4 t0 (1.2 s)
         boot     1.23 s, of which standin's own 0.004 s
running  2/4 t1
failed   2/4 t1 (1.2 s)
         boot     1.23 s, of which standin's own 0.004 s
         at step: expect `ready`
         text `ready` not seen
           | boot
skipped  3/4 t2
         the board has no wifi
not run  4/4 t3
         not run after `t1` failed
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn on_a_terminal_one_line_lives_and_colour_only_adds() {
    let suite = suite(&[passed()]);
    let mut out = Vec::new();
    let mut terminal = Terminal::new(&mut out, Style { columns: Some(20), colour: true });
    show(&suite, |news| terminal.show(news));
    terminal.finish(&Summary::of(&report(vec![suite.clone()])));
    let shown = String::from_utf8(out).unwrap();
    assert!(shown.contains("\r\x1b[2K1/1 t0: expect `rea\r\x1b[2K"), "{shown:?}");
    assert!(shown.contains("\r\x1b[2K\x1b[32mpassed \x1b[0m  1/1 t0 (1.2 s)\n"), "{shown:?}");
    assert!(shown.ends_with("\x1b[32mpassed\x1b[0m: 1 test: 1 passed (12.3 s)\n"), "{shown:?}");
}

#[test]
fn json_is_one_object_per_line_and_the_last_is_the_summary() {
    let suite = suite(&[passed(), failed()]);
    let mut out = Vec::new();
    let mut lines = JsonLines::new(&mut out);
    show(&suite, |news| lines.show(news));
    lines.finish(&Summary::of(&report(vec![suite.clone()]))).unwrap();
    let text = String::from_utf8(out).unwrap();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = objects.iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert_eq!(types[..5], ["suite-begins", "test-begins", "step-begins", "step-ends", "test-ends"]);
    assert_eq!((objects[4]["number"].as_u64(), objects[4]["outcome"].as_str()), (Some(1), Some("passed")));
    let last = objects.last().unwrap();
    assert_eq!(
        (&last["type"], &last["exit_code"], &last["counts"]["failed"]),
        (&json!("summary"), &json!(1), &json!(1))
    );
    assert_eq!(
        (&last["first_failure"]["test"], &last["first_failure"]["outcome"]),
        (&json!("t1"), &json!("failed"))
    );
}

#[test]
fn nobody_reading_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let suite = suite(&[passed()]);
    let mut lines = JsonLines::new(Closed);
    let mut terminal = Terminal::new(Closed, Style { columns: None, colour: false });
    show(&suite, |news| lines.show(news));
    show(&suite, |news| terminal.show(news));
    let unread = lines.finish(&Summary::of(&report(vec![suite.clone()]))).unwrap_err();
    assert_eq!(unread.kind(), io::ErrorKind::BrokenPipe);
}
