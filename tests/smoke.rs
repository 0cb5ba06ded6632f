//! Suites on a real stand-in: QEMU plays the SeaBIOS PC, which boots the self-test image in a moment.

mod support;

use standin::suite::outcome::{Outcome, SuiteReport, Verdict};
use standin::suite::{Suite, builtin, check};
use support::Hold;
use tokio::sync::watch;

/// Runs a suite on a fresh stand-in, and gives its report and what was told meanwhile.
async fn run_on_pc(suite: &Suite, cancel: watch::Receiver<bool>) -> (SuiteReport, Vec<String>, Hold) {
    run_on(support::seabios_pc(vec![80]), suite, cancel).await
}

async fn run_on(
    mut hold: Hold,
    suite: &Suite,
    cancel: watch::Receiver<bool>,
) -> (SuiteReport, Vec<String>, Hold) {
    let mut told = Vec::new();
    let mut observe = |news: standin::suite::progress::Progress<'_>| {
        told.push(serde_json::to_value(news).unwrap()["type"].as_str().unwrap().to_owned());
    };
    let report = hold.run(suite, cancel, &mut observe).await;
    (report, told, hold)
}

async fn run_tests(tests: &str) -> SuiteReport {
    let first = "{ flash = 'image' }, { power = 'on' }, { expect_regex = '^ready$' }";
    let text = format!("title = 'S'\n[[test]]\ntitle = 'boot'\nsteps = [{first}]\n{tests}");
    let suite = check::parse("s.toml", &text, None).unwrap_or_else(|error| panic!("{error}"));
    let (_keep, cancel) = watch::channel(false);
    let (report, _, hold) = run_on_pc(&suite, cancel).await;
    hold.close_and_expect_nothing_left().await;
    report
}

fn outcomes(report: &SuiteReport) -> Vec<&'static str> {
    report.tests.iter().map(|test| test.outcome.word()).collect()
}

fn message(report: &SuiteReport, index: usize) -> String {
    report.tests[index].outcome.message().unwrap_or_default()
}

#[tokio::test]
async fn the_smoke_suite_passes() {
    let (_keep, cancel) = watch::channel(false);
    let (report, told, hold) = run_on_pc(&builtin::find("smoke").unwrap(), cancel).await;
    hold.close_and_expect_nothing_left().await;
    assert!(outcomes(&report).iter().all(|word| *word == "passed"), "{report:#?}");
    assert_eq!(Verdict::of([&report]), Verdict::Passed);
    assert_eq!(
        (told.first().unwrap().as_str(), told.last().unwrap().as_str()),
        ("suite-begins", "suite-ends")
    );
    assert_eq!(told.iter().filter(|kind| *kind == "test-ends").count(), report.tests.len());
    let events: Vec<_> =
        report.tests.iter().flat_map(|test| &test.events).map(|event| event.kind.name()).collect();
    assert_eq!(events.iter().filter(|name| **name == "power-on").count(), 3, "{events:?}");
}

#[tokio::test]
async fn variables_commands_and_programs_work_together() {
    let report = run_tests(
        r#"
        [[test]]
        title = "shell"
        steps = [
          { login = true },
          { run = "uname -m", output = "${board.arch}", save = "machine" },
          { assert = { equal = ["${machine}", "x86_64"] } },
          { send = "identify" },
          { expect_regex = '^image-sha256 (?<digest>[0-9a-f]+)$', capture = { digest = "digest" } },
          { exec = ["sh", "-c", 'test "$STANDIN_IMAGE_SHA256" = "$1" && echo "$STANDIN_FORWARD_80"', "sh", "${digest}"] },
        ]
        "#,
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "passed"], "{report:#?}");
    assert_eq!(report.tests[1].evidence[0].to_str(), Some("s-2-exec-1.stdout"));
}

#[tokio::test]
async fn a_failure_says_what_was_seen_and_the_next_test_still_runs() {
    let report = run_tests(
        r#"
        [[test]]
        title = "never said"
        steps = [{ send = "echo hello" }, { expect = "good bye", within = "300ms" }, { power = "off" }]
        [[test]]
        title = "never happened"
        steps = [{ wait_event = "power-on", within = "200ms" }]
        [[test]]
        title = "not so"
        steps = [{ assert = { power_state = "off" } }]
        [[test]]
        title = "bad program"
        steps = [{ exec = ["sh", "-c", "echo no luck >&2; exit 7"] }]
        [[test]]
        title = "slow program"
        steps = [{ exec = ["sleep", "600"], within = "200ms" }]
        [[test]]
        title = "fine"
        steps = [{ send = "echo fine" }, { expect_regex = "^fine$" }]
        "#,
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "failed", "failed", "failed", "failed", "failed", "passed"]);
    assert_eq!(report.tests[1].steps.len(), 2, "what follows a failed step is not run");
    assert!(message(&report, 1).contains("| hello"), "{}", message(&report, 1));
    assert!(
        message(&report, 2).contains("no event was seen"),
        "an old event counted: {}",
        message(&report, 2)
    );
    assert_eq!(message(&report, 3), "expected power to be off, found running");
    assert!(message(&report, 4).ends_with("its stderr ended with:\n  | no luck"), "{}", message(&report, 4));
    assert!(
        message(&report, 5).starts_with("`sleep 600` did not end within 200ms"),
        "{}",
        message(&report, 5)
    );
    assert_eq!(Verdict::of([&report]), Verdict::Failed);
}

#[tokio::test]
async fn a_suite_that_asks_for_what_cannot_be_fails_and_breaks_no_lab() {
    let report = run_tests(
        r#"
        [[test]]
        title = "no mains for the button"
        steps = [{ power = "off" }, { power = "press" }]
        [[test]]
        title = "no mains for the reset"
        steps = [{ power = "reset" }]
        [[test]]
        title = "no such program"
        steps = [{ exec = ["/nonexistent/program"] }]
        [[test]]
        title = "no program"
        steps = [{ exec = ["/"] }]
        [[test]]
        title = "no such cable"
        steps = [{ link = "down", interface = "eth9" }]
        [[test]]
        title = "fine"
        steps = [{ power = "on" }, { expect = "ready" }]
        "#,
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "failed", "failed", "failed", "failed", "failed", "passed"]);
    for (test, expected) in [
        (1, "cannot press the button of pc-seabios: its mains are off"),
        (2, "cannot reset pc-seabios: its mains are off"),
        (3, "cannot start `/nonexistent/program`: No such file or directory (os error 2)"),
        (4, "cannot start `/`: Permission denied (os error 13)"),
        (5, "pc-seabios has no such network interface"),
    ] {
        assert_eq!(message(&report, test), format!("the suite asks for what cannot be: {expected}"));
    }
    assert_eq!(Verdict::of([&report]), Verdict::Failed);
}

#[tokio::test]
async fn a_halt_ends_a_wait_and_a_panic_is_named() {
    let report = run_tests(
        r#"
        [[test]]
        title = "halts"
        steps = [{ send = "halt" }, { expect = "never" }]
        [[test]]
        title = "typing to nobody"
        steps = [{ send = "hello" }]
        [[test]]
        title = "panics"
        steps = [{ power = "cycle" }, { expect_regex = '^ready$' }, { send = "panic" }, { wait_event = "panic" },
                 { expect = "never", within = "300ms" }]
        "#,
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "failed", "failed", "failed"], "{report:#?}");
    assert!(message(&report, 1).contains("the DUT has halted by itself"), "{}", message(&report, 1));
    assert!(report.tests[1].duration_ms < 30_000);
    assert_eq!(message(&report, 2), "cannot type on the console: the DUT has halted");
    assert!(message(&report, 3).contains("the DUT panicked during this test"), "{}", message(&report, 3));
}

#[tokio::test]
async fn a_dead_machine_breaks_the_test_and_ends_the_suite() {
    let report = run_tests(
        r#"
        [[test]]
        title = "the lab fails"
        steps = [
          # The machine is known by the files of this run, which stand in its command line.
          { exec = ["sh", "-c", """
              for process in /proc/[0-9]*; do
                if grep -qsa "$STANDIN_RUN_DIR/scratch" $process/cmdline; then kill -9 $${process##*/}; fi
              done
              true
            """] },
          { expect = "never" },
        ]
        "#,
    )
    .await;
    assert_eq!(outcomes(&report), ["passed", "broken"], "{report:#?}");
    assert!(message(&report, 1).starts_with("machine-died: "), "{}", message(&report, 1));
    assert_eq!(Verdict::of([&report]), Verdict::Broken);
}

#[tokio::test]
async fn what_a_board_lacks_is_skipped_and_fail_fast_is_not_run() {
    let text = "title = 'S'\nfail_fast = true
        [[test]]\ntitle = 'radio'\nneeds = ['wifi']\nsteps = [{ power = 'on' }]
        [[test]]\ntitle = 'wrong'\nsteps = [{ expect = 'never switched on' }]
        [[test]]\ntitle = 'after'\nsteps = [{ power = 'on' }]";
    let suite = check::parse("s.toml", text, None).unwrap();
    let (_keep, cancel) = watch::channel(false);
    let (report, _, hold) = run_on_pc(&suite, cancel).await;
    hold.close_and_expect_nothing_left().await;
    assert_eq!(outcomes(&report), ["skipped", "failed", "not-run"]);
    assert_eq!(message(&report, 0), "the board has no wifi");
    assert_eq!(message(&report, 2), "not run after `wrong` failed");
}

#[tokio::test]
async fn a_cancelled_run_kills_its_program_and_is_told_as_interrupted() {
    let text = "title = 'S'
        [[test]]\ntitle = 'waits'\nsteps = [{ exec = ['sleep', '600'] }]
        [[test]]\ntitle = 'after'\nsteps = [{ power = 'on' }]";
    let suite = check::parse("s.toml", text, None).unwrap();
    let (cancel, cancelled) = watch::channel(false);
    let stop = async { cancel.send(true).unwrap() };
    let ((report, _, hold), ()) = tokio::join!(run_on_pc(&suite, cancelled), stop);
    hold.close_and_expect_nothing_left().await;
    assert!(report.interrupted);
    assert_eq!(Verdict::of([&report]).exit_code(), 130);
    let interrupted = Outcome::NotRun { reason: "interrupted".to_owned() };
    assert!(report.tests.iter().all(|test| test.outcome == interrupted), "{report:#?}");
}

/// Another architecture, with firmware that takes seconds and not a tenth of one.
#[tokio::test]
async fn the_smoke_suite_passes_on_aarch64_under_uefi() {
    let (_keep, cancel) = watch::channel(false);
    let hold = support::stand_in("generic-aarch64").await;
    let (report, _, hold) = run_on(hold, &builtin::find("smoke").unwrap(), cancel).await;
    hold.close_and_expect_nothing_left().await;
    assert!(outcomes(&report).iter().all(|word| ["passed", "skipped"].contains(word)), "{report:#?}");
    assert_eq!(Verdict::of([&report]), Verdict::Passed);
}

#[tokio::test]
async fn stages_split_the_time_of_a_test_and_tell_what_is_our_own() {
    let steps = "{ run = 'echo 1' }, { run = 'echo 2', stage = 'talk' }, { power = 'off', stage = 'power' }, \
                 { run = 'true', stage = 'after the end' }";
    let report = run_tests(&format!("[[test]]\ntitle = 'T'\nsteps = [{steps}]")).await;
    let stages = &report.tests[1].stages;
    assert_eq!(stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>(), ["talk", "power"]);
    for stage in stages {
        assert!(stage.own_us > 0 && stage.duration_ms < 30_000, "{stage:?}");
    }
    let flash = &report.tests[0].steps[0];
    assert!(flash.own_us / 1000 >= flash.duration_ms, "all of a flash is our own: {flash:?}");
}
