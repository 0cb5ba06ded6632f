//! The reference OS on the boards that it is made for: what suites cannot do alone, and the suites themselves.
//!
//! The images take `firmware-images/reference-os/build` half a minute and boot in another, so these tests run on
//! demand only:
//!
//! ```text
//! firmware-images/reference-os/build amd64 disk target/reference-os.img
//! firmware-images/reference-os/build amd64 installer target/reference-os-installer.img
//! STANDIN_REFERENCE_OS=$PWD/target/reference-os.img \
//!     STANDIN_REFERENCE_OS_INSTALLER=$PWD/target/reference-os-installer.img \
//!     cargo test --test reference_os -- --ignored --test-threads=1
//! ```

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use standin::device::Device;
use standin::device::console::Pattern;
use standin::device::network::Visit;
use standin::device::storage::Position;
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::io::prepare::Edit;
use standin::io::ssh::{Credentials, Identity};
use standin::message::chain;
use standin::procedure;
use support::{Hold, look_until, look_until_within, machines, run_dirs, secs};

const HEALTHY: &str = "reference-os: slot a is healthy";

fn image_of(variable: &str, kind: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("no {variable}: run `firmware-images/reference-os/build amd64 {kind} FILE` and set it to FILE")
    })
}

/// The image, for the medium that the board's procedure writes.
fn image_for(device: &Device, path: &Path, dir: &Path) -> Image {
    let medium = device.board.flash_medium();
    Image::open(path, &Cache::at(dir), &medium.name, medium.size.0).unwrap()
}

async fn wait_for(device: &mut Device, text: &str) {
    device.console().unwrap().wait_for(&Pattern::text(text), secs(300)).await.unwrap();
}

/// Runs a program of the host to its end; panics if it fails.
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}; ssh is in package openssh-client"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a suite, which must pass; how often the DUT reset itself in each of its tests.
fn suite_passes(suite: &str, board: &str, image: &Path) -> Vec<usize> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["test", suite, "--board", board, "--accelerator", "tcg", "--json", "--image"])
        .arg(image)
        .arg("--runs")
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let news = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_guest = |event: &&Value| event["event"] == "reset" && event["by"] == "guest";
    let resets = |test: Value| test["events"].as_array().unwrap().iter().filter(of_guest).count();
    news.filter(|news| news["type"] == "test-ends").map(resets).collect()
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
fn the_reference_os_passes_its_suite() {
    let image = image_of("STANDIN_REFERENCE_OS", "disk");
    let resets = suite_passes("tests/suites/reference-os.toml", "generic-amd64", &image);
    assert!(resets.iter().all(|resets| *resets == 0), "{resets:?}");
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
fn an_update_boots_and_a_broken_one_rolls_back() {
    let image = image_of("STANDIN_REFERENCE_OS", "disk");
    // Into the update; into the broken one twice and back; into the unhealthy one and back; none.
    assert_eq!(suite_passes("tests/suites/reference-os-update.toml", "generic-amd64", &image), [1, 3, 2, 0]);
}

/// What lets this key in, merged into config.json.
fn config(key: &Identity) -> String {
    let (uuid, keys) = (format!("c0ffee5{:025}", 0), [key.public_line()]);
    json!({ "uuid": uuid, "os": { "sshKeys": keys } }).to_string()
}

#[tokio::test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
async fn the_host_reaches_the_reference_os_with_a_key_from_config_json() {
    let Hold { mut device, dir } = support::stand_in_with_forwards("generic-amd64", vec![22222]).await;
    let key = Identity::make(&dir.path().join("key")).unwrap();
    let image = image_for(&device, &image_of("STANDIN_REFERENCE_OS", "disk"), dir.path());
    procedure::flash(&mut device, &image).await.unwrap();
    let patch = serde_json::from_str(&config(&key)).unwrap();
    let edit = Edit::MergeJson { into: "boot:/config.json".parse().unwrap(), patch };
    device.prepare(None, &[edit]).await.unwrap();
    device.power_on(secs(30)).await.unwrap();
    // No word on the console is waited for: a DUT that boots is not up yet, and nothing else.
    let credentials = Credentials { identity: Some(key.clone()), ..Credentials::default() };
    let root = Visit { port: device.ssh_port(), user: "root", credentials: &credentials, heed_from: 0 };
    device.log_in_over_ssh(root, secs(300)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let other = Credentials::default();
    let refused = device.log_in_over_ssh(Visit { credentials: &other, ..root }, secs(60)).await.unwrap_err();
    assert!(chain(&refused).contains("`root` was refused: tried nothing"), "{}", chain(&refused));

    let (_, address) = device.forwards(secs(30)).await.unwrap()[0];
    let (key, port, root) =
        (key.file.display().to_string(), address.port().to_string(), format!("root@{}", address.ip()));
    let answer = tokio::task::spawn_blocking(move || {
        let mut words = vec!["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
        words.extend(["-i", &key, "-p", &port, &root, "cat /proc/sys/kernel/hostname /run/os/slot"]);
        run("ssh", &words)
    });
    assert_eq!(String::from_utf8_lossy(&answer.await.unwrap().stdout), "c0ffee5\na\n");
    Hold { device, dir }.close_and_expect_nothing_left().await;
}

/// A board that `standin up` holds, and the id by which `standin ssh` finds it.
fn hold_up(dir: &Path, image: &Path, key: &Identity) -> (Child, String) {
    let mut up = support::standin(dir);
    up.args(["up", "generic-amd64", "--accelerator", "tcg", "--image"]).arg(image);
    up.arg("--merge-json").arg(format!("boot:/config.json={}", config(key)));
    let mut up =
        up.arg("--ssh-key").arg(&key.file).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let words = BufReader::new(up.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let told =
        words.filter_map(|line| line.split_once("standin ssh --run ").map(|(_, rest)| rest.to_owned()));
    let id = { told }.next().expect("it tells how to log in").split('`').next().unwrap().to_owned();
    (up, id)
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
fn two_boards_that_are_held_at_once_are_logged_in_to_by_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let key = Identity::make(&dir.path().join("key")).unwrap();
    let image = image_of("STANDIN_REFERENCE_OS", "disk");
    let held = [hold_up(dir.path(), &image, &key), hold_up(dir.path(), &image, &key)];
    let boot_ids = held.each_ref().map(|(_, id)| {
        let mut ssh = support::standin(dir.path());
        ssh.args(["ssh", "--within", "5min", "--run", id, "--", "cat", "/proc/sys/kernel/random/boot_id"]);
        let output = ssh.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    });
    assert_eq!(boot_ids[0].len(), 37, "{boot_ids:?}");
    assert_ne!(boot_ids[0], boot_ids[1]);
    for (mut up, _) in held {
        run("kill", &["-INT", &up.id().to_string()]);
        assert_eq!(up.wait().unwrap().code(), Some(130));
    }
    assert_eq!(support::processes_with(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
#[ignore = "needs firmware-images/reference-os/build amd64 installer"]
async fn the_installer_makes_an_intel_nuc_boot_from_its_internal_medium() {
    let Hold { mut device, dir } = support::stand_in("intel-nuc").await;
    let installer = image_for(&device, &image_of("STANDIN_REFERENCE_OS_INSTALLER", "installer"), dir.path());
    procedure::flash(&mut device, &installer).await.unwrap();
    assert_eq!(device.storage.position("usb"), Some(Position::Out));
    device.power_on(secs(30)).await.unwrap();
    wait_for(&mut device, HEALTHY).await;
    let login = device.board.login.clone().unwrap();
    let console = device.console().unwrap();
    console.log_in(&login, secs(60)).await.unwrap();
    let disk =
        console.run("readlink -f /sys/class/block/$(basename $(readlink /run/os/root-a))", secs(30)).await;
    let disk = disk.unwrap();
    assert!(disk.text.contains("/ata"), "{}", disk.text);
    // The same driver as a NUC's, and its watchdog in systemd's hands.
    let driver = console.run("readlink /sys/class/net/eth0/device/driver; wdctl -n", secs(30)).await.unwrap();
    assert!(driver.text.contains("e1000e") && driver.text.contains("iTCO_wdt"), "{}", driver.text);
    Hold { device, dir }.close_and_expect_nothing_left().await;
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 installer"]
fn the_installer_passes_its_suite() {
    let image = image_of("STANDIN_REFERENCE_OS_INSTALLER", "installer");
    suite_passes("tests/suites/reference-os-installer.toml", "intel-nuc", &image);
}

/// What cuts an installation that writes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Machine,
    Standin,
    Deadline,
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 installer"]
fn an_installation_cut_in_the_middle_is_told_as_what_it_was_and_the_next_is_clean() {
    let image = image_of("STANDIN_REFERENCE_OS_INSTALLER", "installer");
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string("tests/suites/reference-os-installer.toml").unwrap();
    let start = |within: &str| {
        let suite = dir.path().join("installer.toml");
        std::fs::write(&suite, text.replace("\"5min\"", within)).unwrap();
        let mut command = support::standin(dir.path());
        command.arg("test").arg(suite).args(["--board", "intel-nuc", "--accelerator", "tcg", "--image"]);
        command.arg(&image).stderr(Stdio::null()).spawn().unwrap()
    };
    for cut in [Cut::Machine, Cut::Standin, Cut::Deadline] {
        // After 30 s the installer is at it on any machine that boots it within the five minutes.
        let mut run = start(if cut == Cut::Deadline { "\"30s\"" } else { "\"5min\"" });
        if cut != Cut::Deadline {
            look_until_within(Duration::from_secs(240), "the installer at work", || {
                std::thread::sleep(Duration::from_millis(100)); // sleep: to look all the time would slow the board down
                let console = newest_console(dir.path())?;
                console.contains("installer: writing").then_some(())
            });
        }
        let code = match cut {
            Cut::Machine => {
                kill(machines(dir.path())[0], Signal::SIGKILL).unwrap();
                Some(3)
            }
            Cut::Standin => {
                run.kill().unwrap();
                None
            }
            Cut::Deadline => Some(1),
        };
        assert_eq!(run.wait().unwrap().code(), code, "{cut:?}");
        look_until("the end of every machine", || machines(dir.path()).is_empty().then_some(()));
    }
    assert!(start("\"5min\"").wait().unwrap().success());
    // Of the run that was killed nothing is left, of those that failed their evidence.
    assert_eq!(run_dirs(dir.path()).len(), 2);
}

/// What the console of the run that is going has said.
fn newest_console(dir: &Path) -> Option<String> {
    let running = run_dirs(dir).into_iter().find(|run| run.join("scratch").exists())?;
    let suite = std::fs::read_dir(running.join("intel-nuc")).ok()?.next()?.ok()?;
    let logs = std::fs::read_dir(suite.path().join("console")).ok()?;
    let texts = logs.filter_map(|log| std::fs::read(log.ok()?.path()).ok());
    Some(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
}
