//! The command line as people and CI see it: exit codes, messages, reports, and nothing left behind.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::processes_with;
use tempfile::TempDir;

/// One run of `standin` with run directories and cache of its own.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.path().join(name), text).expect("the temporary directory can be written");
        self.path(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = support::standin(self.dir.path());
        command.args(words);
        command
    }

    fn standin(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the built program runs")
    }

    /// What is left in the folder of run directories.
    fn runs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("runs")) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("it can be listed").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| !name.starts_with('.')).collect()
    }

    fn expect_nothing_left(&self) {
        assert_eq!(self.runs(), Vec::<String>::new());
        assert_eq!(processes_with(self.dir.path()), Vec::<std::path::PathBuf>::new());
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the report is there")).expect("the report is JSON")
}

/// A suite that flashes and then expects what the self-test never says.
const RED_SUITE: &str = r#"
title = "Red"
image = "selftest"
[[test]]
title = "It says what it never says"
steps = [
  { flash = "image" },
  { power = "on" },
  { expect = "ready" },
  { expect = "no such words", within = "200ms" },
]
[[test]]
title = "It needs a radio"
needs = ["wifi"]
steps = [{ power = "off" }]
"#;

#[test]
fn bad_input_is_usage_with_a_clear_error_and_nothing_is_started() {
    let place = Place::new();
    let empty = place.write("empty.img", "");
    let packed = place.write("os.img", "\u{fd}7zXZ");
    std::fs::write(&packed, b"\xfd7zXZ\0\0\0").unwrap();
    let huge = place.path("huge.img");
    std::fs::File::create(&huge).unwrap().set_len(300 << 20).unwrap();
    let broken_suite = place.write("broken.toml", "titel = \"x\"\n[[test]]\ntitle = \"t\"\nsteps = []\n");
    let not_toml = place.write("not.toml", "title = \n");
    let boards = place.path("machines");
    std::fs::create_dir(&boards).unwrap();
    place.write("machines/broken.toml", "slug = \"broken\"\npowr = 1\n");
    let missing = place.path("missing.img");
    let folder = place.path("machines");
    let table: [(&[&str], &str); 17] = [
        (&["test", "smoke", "--board", "pc-seabois"], "hint: did you mean `pc-seabios`?"),
        (&["test", "smoke"], "--board"),
        (&["test", "smoek", "--board", "pc-seabios"], "a suite is a file, or built in: smoke"),
        (&["test", &broken_suite, "--board", "pc-seabios"], "titel: no such key"),
        (&["test", &not_toml, "--board", "pc-seabios"], "not.toml: 1 complaint"),
        (&["--boards", &boards, "test", "smoke", "--board", "broken"], "powr: no such key"),
        (&["test", "smoke", "--board", "pc-seabios", "--image", &missing], "No such file"),
        (
            &["test", "smoke", "--board", "pc-seabios", "--image", &folder],
            "is a folder, which cannot be flashed",
        ),
        (&["test", "smoke", "--board", "pc-seabios", "--image", &empty], "is empty"),
        (&["test", "smoke", "--board", "pc-seabios", "--image", &packed], "is damaged at or before byte"),
        (&["test", "smoke", "--board", "pc-seabios", "--image", &huge], "medium `disk` only 268435456"),
        (
            &["test", "smoke", "--board", "pc-seabios", "--set", "nothing=1"],
            "no suite has a variable `nothing`",
        ),
        (&["test", "smoke", "--board", "pc-seabios", "--backend", "physical"], "there is no bench"),
        (&["test", "smoke", "--board", "pc-seabios", "--report", &empty], "cannot write report folder"),
        (
            &["test", "smoke", "--board", "pc-seabios", "--board", "pc-seabios"],
            "board `pc-seabios` is named twice",
        ),
        (&["up", "pc-seabios", "--image", &missing], "No such file"),
        (&["up", "no-such-board"], "there is no board `no-such-board`"),
    ];
    for (words, said) in table {
        let output = place.standin(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{words:?}: {}", stderr(&output));
        place.expect_nothing_left();
    }
}

#[test]
fn a_host_without_qemu_or_firmware_is_told_what_to_install() {
    let place = Place::new();
    let without = |words: &[&str], path: &str| {
        let output = place.command(words).env("PATH", path).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let said = without(&["test", "smoke", "--board", "pc-seabios"], "/nonexistent");
    assert!(
        said.contains("qemu-system-x86_64") && said.contains("hint: install `qemu-system-x86`"),
        "{said}"
    );
    // A descriptor of the user's own that masks the host's firmware by its name.
    let masks = place.dir.path().join("config/qemu/firmware");
    std::fs::create_dir_all(&masks).unwrap();
    for folder in ["/usr/share/qemu/firmware", "/etc/qemu/firmware"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            std::fs::write(masks.join(entry.unwrap().file_name()), "").unwrap();
        }
    }
    let output = place
        .command(&["test", "smoke", "--board", "generic-amd64"])
        .env("XDG_CONFIG_HOME", place.dir.path().join("config"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("no UEFI firmware for x86_64"), "{}", stderr(&output));
    place.expect_nothing_left();
}

#[test]
fn a_passed_run_exits_0_leaves_no_run_directory_and_writes_its_reports() {
    let place = Place::new();
    let report = place.path("report");
    let output = place.standin(&["test", "smoke", "--board", "pc-seabios", "--report", &report]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    place.expect_nothing_left();
    let detail = json(&Path::new(&report).join("report.json"));
    assert_eq!((&detail["verdict"], &detail["counts"]["passed"]), (&"passed".into(), &5.into()));
    assert_eq!(detail["boards"][0]["setting"]["board"]["slug"], "pc-seabios");
    assert_eq!(detail["boards"][0]["setting"]["image"]["sha256"].as_str().map(str::len), Some(64));
    let upstream = json(&Path::new(&report).join("final-result.json"));
    assert_eq!(upstream[0]["stats"]["passed"], 5);
    let console = std::fs::read_to_string(Path::new(&report).join("pc-seabios/1-smoke/console/console.log"));
    assert!(console.unwrap().contains("standin selftest"));
}

#[test]
fn a_failed_test_exits_1_and_says_where_to_look_and_how_to_repeat_it() {
    let place = Place::new();
    let suite = place.write("red.toml", RED_SUITE);
    let output = place.standin(&["test", &suite, "--board", "pc-seabios"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("first failure: pc-seabios / Red / It says what it never says"), "{said}");
    assert!(said.contains("the board has no wifi"), "{said}");
    assert!(said.contains("repeat with: ") && said.contains("run directory: "), "{said}");
    let kept = place.runs();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let run = place.dir.path().join("runs").join(&kept[0]);
    assert!(run.join("pc-seabios/1-red/console/console-1.log").exists());
    let log = std::fs::read_to_string(run.join("standin.log")).unwrap();
    assert!(log.contains("starting QEMU") && log.contains("power-on"), "{log}");
    assert!(!run.join("scratch").exists(), "media are not evidence");
    assert_eq!(processes_with(place.dir.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_suite_that_the_board_cannot_serve_exits_4_and_names_what_is_missing() {
    let place = Place::new();
    let suite = place.write(
        "radio.toml",
        "title = \"Radio\"\nneeds = [\"wifi\"]\n[[test]]\ntitle = \"t\"\nsteps = [{ power = \"off\" }]\n",
    );
    let output = place.standin(&["test", &suite, "--board", "pc-seabios"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("the board has no wifi"), "{}", stderr(&output));
    place.expect_nothing_left();
}

#[test]
fn the_network_suite_reaches_the_dut_at_an_address_of_its_own() {
    let place = Place::new();
    let output = place.standin(&["test", "network", "--board", "pc-seabios", "--board", "raspberrypi4-64"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("6 passed"), "{}", stderr(&output));
    place.expect_nothing_left();
}

#[test]
fn json_is_one_object_per_line_and_the_last_one_is_the_summary() {
    let place = Place::new();
    let suite = place.write("red.toml", RED_SUITE);
    let output = place.standin(&["test", &suite, "--board", "pc-seabios", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "board-begins");
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"]), (&"summary".into(), &1.into()));
    assert_eq!(last["first_failure"]["step"], "expect `no such words`");
    // Nobody had asked for it when the run began; the report that is kept has it.
    assert_eq!(lines[0]["setting"]["image"]["sha256"], Value::Null);
    let report = json(&place.dir.path().join("runs").join(&place.runs()[0]).join("report.json"));
    assert_eq!(report["boards"][0]["setting"]["image"]["sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn a_json_that_cannot_be_written_breaks_the_run_and_keeps_its_evidence() {
    let place = Place::new();
    let full = std::fs::File::create("/dev/full").unwrap();
    let words = ["test", "smoke", "--board", "pc-seabios", "--accelerator", "tcg", "--json"];
    let output = place.command(&words).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write to stdout: No space left"), "{}", stderr(&output));
    assert!(stderr(&output).contains("run directory: "), "{}", stderr(&output));
    let kept = place.runs();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let report = json(&place.dir.path().join("runs").join(&kept[0]).join("report.json"));
    assert_eq!(report["verdict"], "passed");
}

#[test]
fn a_name_that_is_not_utf_8_is_a_name() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let report = place.dir.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    let mut command = place.command(&["test", "smoke", "--board", "pc-seabios", "--accelerator", "tcg"]);
    let output = command.arg("--report").arg(&report).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(report.join("report.json").exists());
    place.expect_nothing_left();
}

#[test]
fn the_command_line_of_qemu_can_be_printed_and_nothing_runs() {
    let place = Place::new();
    let output = place.standin(&["test", "smoke", "--board", "pc-seabios", "--print-qemu-args"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for part in ["qemu-system-x86_64 -nodefaults", "-sandbox on", "virtio-blk-pci", "virtio-net-pci", "fd=3"]
    {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    assert!(!printed.contains("-no-reboot"));
    place.expect_nothing_left();
}

#[test]
fn up_types_standard_input_and_ends_when_the_board_halts() {
    let place = Place::new();
    let input = place.write("keys", "\r\ridentify\rhalt\r");
    let output = place
        .command(&["up", "pc-seabios"])
        .stdin(std::fs::File::open(input).unwrap())
        .output()
        .expect("the built program runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{shown}{}", stderr(&output));
    assert!(shown.contains("standin selftest"), "{shown}");
    assert!(stderr(&output).contains("halted itself"), "{}", stderr(&output));
    place.expect_nothing_left();
}

#[test]
fn a_stderr_that_nobody_reads_changes_no_exit_code() {
    let place = Place::new();
    for (words, code) in [
        (&["test", "smoke", "--board", "pc-seabios", "--accelerator", "tcg", "-vvv"][..], 0),
        (&["test", "smoek", "--board", "pc-seabios"], 2),
        (&["boards", "check", "missing.toml"], 2),
    ] {
        let (unread, stderr) = std::io::pipe().unwrap();
        drop(unread);
        let output = place.command(words).stderr(stderr).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        place.expect_nothing_left();
    }
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let place = Place::new();
    let output = place.standin(&["doctor", "-vv", "--cache", "/proc/nowhere"]);
    assert!(stderr(&output).contains("WARN") && !stderr(&output).contains('\x1b'), "{}", stderr(&output));
}

#[test]
fn a_title_of_any_kind_harms_neither_the_terminal_nor_the_evidence() {
    let place = Place::new();
    let title = format!("\\u001b[2J\\u0007\\n{}", "ü/".repeat(200));
    let suite =
        format!("title = \"{title}\"\n[[test]]\ntitle = \"{title}\"\nsteps = [{{ exec = [\"true\"] }}]\n");
    let suite = place.write(&format!("{}.toml", "s".repeat(250)), &suite);
    let report = place.path("report");
    let output = place.standin(&["test", &suite, "--board", "pc-seabios", "--report", &report]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains(['\x1b', '\x07']), "{}", stderr(&output));
    let evidence =
        &json(&Path::new(&report).join("report.json"))["boards"][0]["suites"][0]["tests"][0]["evidence"];
    assert!(Path::new(&report).join(evidence[0].as_str().unwrap()).is_file(), "{evidence}");
    place.expect_nothing_left();
}

#[test]
fn every_help_tells_what_it_is_for_and_the_exit_codes() {
    let place = Place::new();
    for (command, told) in [
        ("boards", "List, show and check the boards"),
        ("suites", "List the suites"),
        ("test", "The first Ctrl-C ends the run and cleans up"),
        ("up", "Ctrl-]: it takes the power away"),
        ("doctor", "how to mend it"),
    ] {
        let help = String::from_utf8(place.standin(&[command, "--help"]).stdout).unwrap();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(told), "{command}: {help}");
        assert!(command == "suites" || words.contains("Exit codes: 0"), "{command}: {help}");
    }
}

#[test]
fn run_directories_that_cannot_be_made_break_the_lab_and_hint_at_another_place() {
    let place = Place::new();
    for words in [&["test", "smoke", "--board", "pc-seabios"][..], &["up", "pc-seabios"]] {
        let output = place.command(words).args(["--runs", "/proc/nowhere"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(stderr(&output).contains("hint: `--runs DIR`"), "{}", stderr(&output));
    }
}

#[test]
fn a_user_without_a_home_gets_a_folder_that_is_theirs_alone() {
    let place = Place::new();
    let homeless = || {
        let mut command = place.command(&["cache", "list"]);
        for name in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "STANDIN_CACHE", "STANDIN_RUNS"] {
            command.env_remove(name);
        }
        command.env("TMPDIR", place.dir.path()).output().expect("the built program runs")
    };
    let home = place.dir.path().join(format!("standin-home-{}", nix::unistd::getuid()));
    let mode = |mode| std::fs::set_permissions(&home, std::fs::Permissions::from_mode(mode)).unwrap();
    for _ in 0..2 {
        assert_eq!(homeless().status.code(), Some(0));
        assert_eq!(std::fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
    }

    let refused = || {
        let output = homeless();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("is not a folder for this user alone"), "{output:?}");
        assert!(stderr(&output).contains("hint: set HOME, or name folders with"), "{output:?}");
    };
    mode(0o777);
    refused();
    mode(0o700);
    std::fs::rename(&home, place.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &home).unwrap();
    refused();
    std::fs::remove_file(&home).unwrap();
    std::fs::write(&home, "").unwrap();
    refused();
    place.expect_nothing_left();
}
