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

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use standin::device::Device;
use standin::device::console::Pattern;
use standin::event::EventKind;
use standin::io::cache::Cache;
use standin::io::image::Image;
use standin::procedure;
use support::{Hold, secs};

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
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; mcopy is in package mtools, ssh in openssh-client")
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn suite_passes(suite: &str, board: &str, image: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["test", suite, "--board", board, "--accelerator", "tcg", "--image"])
        .arg(image)
        .arg("--runs")
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
fn the_reference_os_passes_its_suite() {
    let image = image_of("STANDIN_REFERENCE_OS", "disk");
    suite_passes("tests/suites/reference-os.toml", "generic-amd64", &image);
}

#[test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
fn an_update_boots_and_a_broken_one_rolls_back() {
    let image = image_of("STANDIN_REFERENCE_OS", "disk");
    suite_passes("tests/suites/reference-os-update.toml", "generic-amd64", &image);
}

#[tokio::test]
#[ignore = "needs firmware-images/reference-os/build amd64 disk"]
async fn the_host_reaches_the_reference_os_with_a_key_from_config_json() {
    let Hold { mut device, dir } = support::stand_in_with_forwards("generic-amd64", vec![22222]).await;
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at("key")]);
    let key = std::fs::read_to_string(at("key.pub")).unwrap();
    let config = format!(r#"{{"uuid": "c0ffee5{:025}", "os": {{"sshKeys": ["{}"]}}}}"#, 0, key.trim());
    std::fs::write(at("config.json"), config).unwrap();
    let built = image_of("STANDIN_REFERENCE_OS", "disk");
    run("cp", &["--sparse=always", built.to_str().unwrap(), &at("image")]);
    // The boot partition begins at 1 MiB.
    run("mcopy", &["-o", "-i", &format!("{}@@1M", at("image")), &at("config.json"), "::config.json"]);

    let image = image_for(&device, Path::new(&at("image")), dir.path());
    procedure::flash(&mut device, &image).await.unwrap();
    device.power_on(secs(30)).await.unwrap();
    wait_for(&mut device, HEALTHY).await;
    let (_, address) = device.forwards(secs(30)).await.unwrap()[0];
    let (key, port, root) = (at("key"), address.port().to_string(), format!("root@{}", address.ip()));
    let answer = tokio::task::spawn_blocking(move || {
        let mut words = vec!["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
        words.extend(["-i", &key, "-p", &port, &root, "cat /proc/sys/kernel/hostname /run/os/slot"]);
        run("ssh", &words)
    });
    assert_eq!(String::from_utf8_lossy(&answer.await.unwrap().stdout), "c0ffee5\na\n");
    Hold { device, dir }.close_and_expect_nothing_left().await;
}

#[tokio::test]
#[ignore = "needs firmware-images/reference-os/build amd64 installer"]
async fn the_installer_makes_an_intel_nuc_boot_from_its_internal_medium() {
    let Hold { mut device, dir } = support::stand_in("intel-nuc").await;
    let installer = image_for(&device, &image_of("STANDIN_REFERENCE_OS_INSTALLER", "installer"), dir.path());
    procedure::flash(&mut device, &installer).await.unwrap();
    device.power_on(secs(30)).await.unwrap();
    wait_for(&mut device, "installer: done, powering off").await;
    let events = device.events.clone();
    events.wait_for(0, secs(60), |kind| matches!(kind, EventKind::Halt { .. })).await.unwrap();
    device.power_off().await.unwrap();

    // In place of taking the stick out: nothing on it that could boot.
    let blank = dir.path().join("blank");
    std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
    let blank = image_for(&device, &blank, dir.path());
    device.storage.flash("usb", &blank).await.unwrap();
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
