//! The command line as a client of a running server, which it finds by itself or is told.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Output;

use support::worker::Worker;

#[tokio::test(flavor = "multi_thread")]
async fn verbs_work_on_the_server_that_runs_on_this_host_and_on_one_that_is_named() {
    let worker =
        Worker::start_with(tempfile::tempdir().unwrap(), &["pc-seabios", "--forward", "7"], &[]).await;
    let dir = worker.dir.path();
    let url = format!("unix:{}", dir.join("worker.sock").display());
    let here: &[&str] = &[];
    let named: &[&str] = &["--worker", &url];
    for on in [here, named] {
        assert_eq!(text(say(dir, &["flash", "selftest"], on, 0).stderr).lines().count(), 1);
        assert_eq!(said(dir, &["power", "on"], on), "running\n");
        assert_eq!(said(dir, &["run", "uname -m"], on), "x86_64\n");
        let failed = say(dir, &["run", "nonsense"], on, 1);
        assert!(text(failed.stdout).contains("not found"));
        assert!(said(dir, &["network"], on).contains("port 7 is 127."));
        assert_eq!(said(dir, &["link", "down", "--interface", "eth0"], on), "running\n");
        assert_eq!(said(dir, &["link", "up"], on), "running\n");
        assert!(said(dir, &["console", "--print"], on).contains("uname -m"));
        assert!(said(dir, &["events"], on).contains("link-down interface=eth0"));
        let events = said(dir, &["events", "--json", "--since", "1"], on);
        let first: serde_json::Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        assert_eq!(first["id"], 2);
        assert!(said(dir, &["status"], on).contains("pc-seabios  running"));
        assert_eq!(said(dir, &["power", "hold"], on), "halted\n");
        assert_eq!(said(dir, &["press"], on), "running\n");
        assert_eq!(said(dir, &["power", "off"], on), "off\n");
    }
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_the_fault_of_whose_it_is() {
    let alone = tempfile::tempdir().unwrap();
    let error = text(say(alone.path(), &["power", "on"], &[], 2).stderr);
    assert!(error.contains("no server runs on this host\nhint: `standin serve BOARD`"), "{error}");
    let worker = Worker::start("beaglebone-black").await;
    let dir = worker.dir.path();
    for (words, code, told) in [
        (vec!["power", "reset"], 2, "mains are off"),
        (vec!["power", "on", "--device", "d9"], 2, "no such device"),
        (vec!["power", "on", "--device", "../d9"], 2, "no device's name"),
        (vec!["link", "up", "--interface", "wlan9"], 2, "has no such network interface"),
        (vec!["run", "ls"], 2, "the device is off"),
        (vec!["flash", "/nowhere.img"], 2, "cannot read image /nowhere.img"),
        (vec!["flash", "selftest", "--yes"], 2, "--to"),
        (vec!["power", "on", "--worker", "unix:/nowhere.sock"], 2, "cannot reach unix:/nowhere.sock"),
        (vec!["power", "on", "--worker", "ftp://x"], 2, "neither `http://HOST:PORT` nor `unix:PATH`"),
    ] {
        let error = text(say(dir, &words, &[], code).stderr);
        assert!(error.contains(told), "{words:?}: {error}");
    }
    let damaged = dir.join("damaged.img.gz");
    std::fs::write(&damaged, &support::worker::gzip(&[7; 100_000])[..100]).unwrap();
    let error = text(say(dir, &["flash", damaged.to_str().unwrap()], &[], 2).stderr);
    assert!(error.contains("damaged"), "{error}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_token_is_used_with_it() {
    let token = "0123456789abcdef-secret";
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("token"), token).unwrap();
    let file = place.path().join("token").display().to_string();
    let options = ["pc-seabios", "--token-file", &file];
    let worker = Worker::start_with(tempfile::tempdir().unwrap(), &options, &[]).await;
    let dir = worker.dir.path();
    let error = text(say(dir, &["status"], &[], 2).stderr);
    assert!(error.contains("Authorization: Bearer"), "{error}");
    assert!(said(dir, &["status"], &["--token-file", &file]).contains("pc-seabios"));
    let mut command = support::standin(dir);
    let listed = command.arg("status").env("STANDIN_TOKEN", token).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suite_on_a_server_gives_the_report_of_one_on_this_host() {
    let worker = Worker::start("beaglebone-black").await;
    let dir = worker.dir.path();
    let url = format!("unix:{}", dir.join("worker.sock").display());
    let suite = dir.join("mixed.toml");
    std::fs::write(&suite, SUITE).unwrap();
    let packed = dir.join("os.img.gz");
    std::fs::write(&packed, support::worker::gzip(standin::io::selftest::SELFTEST_IMAGE)).unwrap();
    let mut reports = Vec::new();
    for (name, more) in [("here", ["--accelerator", "tcg"]), ("there", ["--worker", &url])] {
        let folder = dir.join(name).display().to_string();
        let words = [
            "test",
            suite.to_str().unwrap(),
            "smoke",
            "--board",
            "pc-seabios",
            "--image",
            packed.to_str().unwrap(),
            "--set",
            "machine=x86_64",
            "--report",
            &folder,
            "--json",
        ];
        let output = support::standin(dir).args(words).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lines = text(output.stdout).lines().map(|line| shape(line, &folder)).collect::<Vec<_>>();
        let report = std::fs::read_to_string(Path::new(&folder).join("report.json")).unwrap();
        let console = Path::new(&folder).join("pc-seabios/1-mixed/console/console-1.log");
        assert!(std::fs::read_to_string(console).unwrap().contains("uname -m"), "evidence is there");
        reports.push((shape(&report, &folder), lines));
    }
    let (here, there) = (&reports[0], &reports[1]);
    assert_eq!(here.0, there.0);
    assert_eq!(here.1, there.1);
    for left in std::fs::read_dir(dir.join("runs")).unwrap() {
        // The failed runs keep their evidence, which is not what is asked here.
        let path = left.unwrap().path();
        if path.join("kept").exists() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suite_starts_programs_on_a_server_only_if_that_allows_it() {
    for (options, code, told) in [
        (vec!["pc-seabios"], 2, "starts programs, and this server does not allow that"),
        (vec!["pc-seabios", "--allow-exec"], 0, "1 passed"),
    ] {
        let worker = Worker::start_with(tempfile::tempdir().unwrap(), &options, &[]).await;
        let dir = worker.dir.path();
        let suite = dir.join("program.toml");
        let program = "title = \"p\"\n[[test]]\ntitle = \"t\"\nsteps = [{ exec = [\"true\"] }]\n";
        std::fs::write(&suite, program).unwrap();
        let url = format!("unix:{}", dir.join("worker.sock").display());
        let words = ["test", suite.to_str().unwrap(), "--board", "pc-seabios"];
        let output = text(say(dir, &words, &["--worker", &url], code).stderr);
        assert!(output.contains(told), "{output}");
        worker.close_and_expect_nothing_left().await;
    }
}

const SUITE: &str = r#"
title = "Some of each"
variables = { machine = "?" }

[[test]]
title = "boots and answers"
steps = [
  { flash = "image" },
  { power = "on" },
  { login = true },
  { run = "uname -m", output = "${machine}" },
]

[[test]]
title = "fails"
steps = [{ assert = { equal = ["${machine}", "m68k"] } }]

[[test]]
title = "is skipped"
needs = ["wifi"]
steps = [{ power = "off" }]
"#;

/// A report or a line of progress without what no two runs share: times, places, addresses, and how often a PC's
/// firmware resets once more before it starts.
fn shape(json: &str, folder: &str) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                for name in
                    ["at", "started", "ended", "duration_ms", "run_dir", "repeat", "read_ms", "own_us"]
                {
                    fields.remove(name);
                }
                if fields.contains_key("event") {
                    fields.remove("id");
                }
                fields.values_mut().for_each(strip);
            }
            serde_json::Value::Array(values) => {
                values.iter_mut().for_each(strip);
                let is_reset = |value: &serde_json::Value| value["event"] == "reset";
                values.dedup_by(|next, before| is_reset(next) && next == before);
            }
            _ => {}
        }
    }
    let mut value = serde_json::from_str(&json.replace(folder, "FOLDER")).unwrap();
    strip(&mut value);
    value
}

fn say(dir: &Path, words: &[&str], more: &[&str], code: i32) -> Output {
    // What follows the command of `run` is its own.
    let output = support::standin(dir).arg(words[0]).args(more).args(&words[1..]).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    output
}

fn said(dir: &Path, words: &[&str], more: &[&str]) -> String {
    text(say(dir, words, more, 0).stdout)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
