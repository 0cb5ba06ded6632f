//! Real operating systems boot from their flashed media: Debian's kernels with a busybox shell.
//!
//! `scripts/linux-image` builds the images, and `scripts/test` hands them over by environment variables.

mod support;

use std::path::PathBuf;

use standin::device::power::PowerState;
use support::secs;

fn image_of(variable: &str, kind: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("no {variable}: run `scripts/test`, or `scripts/linux-image {kind} FILE` and set it to FILE")
    })
}

/// Runs tests/suites/linux.toml through the command, as its user would.
fn boots_linux(slug: &str, image: PathBuf, tests_passed: u32) {
    passes(slug, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suites/linux.toml"), image, tests_passed);
}

fn passes(slug: &str, suite: &str, image: PathBuf, tests_passed: u32) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let output = support::standin(dir.path())
        .args(["test", suite, "--accelerator", "tcg", "--board", slug, "--image"])
        .arg(image)
        .output()
        .expect("the built program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!(" {tests_passed} passed")), "{said}");
    assert!(support::processes_with(dir.path()).is_empty());
}

#[test]
fn generic_amd64_boots_debian_from_usb_under_uefi() {
    boots_linux("generic-amd64", image_of("STANDIN_LINUX_AMD64", "amd64-uefi"), 2);
}

#[test]
fn generic_aarch64_boots_debian_under_uefi() {
    boots_linux("generic-aarch64", image_of("STANDIN_LINUX_ARM64", "arm64-uefi"), 2);
}

#[test]
fn raspberrypi3_boots_debian_from_its_cards_boot_partition() {
    boots_linux("raspberrypi3-64", image_of("STANDIN_LINUX_RPI", "raspberrypi-64"), 1);
}

#[test]
fn raspberrypi4_boots_debian_from_its_cards_boot_partition() {
    boots_linux("raspberrypi4-64", image_of("STANDIN_LINUX_RPI", "raspberrypi-64"), 1);
}

/// Linux hears Magic SysRq from the keyboard itself, so no terminal on the screen is needed.
#[test]
fn a_raspberry_pis_usb_keyboard_reaches_linux() {
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suites/keyboard.toml");
    passes("raspberrypi3-64", suite, image_of("STANDIN_LINUX_RPI", "raspberrypi-64"), 1);
}

#[tokio::test]
async fn a_raspberry_pi_without_a_bootable_card_does_not_boot() {
    let mut hold = support::stand_in("raspberrypi3-64").await;
    let blank = hold.device.power_on(secs(30)).await.unwrap_err();
    assert!(blank.to_string().contains("the card does not boot: it is blank"), "{blank}");
    assert_eq!(hold.device.power_state(), PowerState::Off);
    hold.close_and_expect_nothing_left().await;
}

/// Runs tests/suites/prepare.toml through the command, as its user would.
#[test]
fn raspberrypi3_boots_from_what_was_written_to_its_card_and_the_image_stays_as_it_is() {
    let image = image_of("STANDIN_LINUX_RPI", "raspberrypi-64");
    let before = std::fs::read(&image).expect("the image can be read");
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suites/prepare.toml");
    let output = support::standin(dir.path())
        .args(["test", suite, "--accelerator", "tcg", "--board", "raspberrypi3-64", "--report"])
        .arg(dir.path().join("report"))
        .args(["--merge-json", r#"STANDIN:/config.json={"hostname":"dut"}"#, "--expand", "--image"])
        .arg(&image)
        .output()
        .expect("the built program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(std::fs::read(&image).expect("it still can") == before, "the image was changed");
    // What was changed is told, as it is part of what was tested.
    let report = std::fs::read(dir.path().join("report/report.json")).expect("there is a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
    let edits = &report["boards"][0]["setting"]["edits"];
    assert_eq!(edits[1], "merge JSON into `STANDIN:/config.json`", "{report:#}");
    let told: Vec<_> = report["boards"][0]["suites"][0]["tests"]
        .as_array()
        .expect("the tests are a list")
        .iter()
        .flat_map(|test| test["events"].as_array().expect("the events are a list"))
        .filter(|event| event["event"] == "prepared")
        .map(|event| format!("{} {}", event["change"], event["place"]).replace('"', ""))
        .collect();
    let of_command = ["expand 1:", "merge-json STANDIN:/config.json"];
    let of_suite = [
        "write 1:/cmdline.txt",
        "write 1:/network profiles/Wi-Fi.nmconnection",
        "merge-json 1:/config.json",
        "expand 1:",
        "remove 1:/network profiles/wi-fi.nmconnection",
    ];
    assert_eq!(told, [&of_command[..], &of_suite, &of_command, &["write 1:/words"]].concat());
    assert!(support::processes_with(dir.path()).is_empty());
}
