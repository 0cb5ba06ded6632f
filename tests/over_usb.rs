//! A board whose medium stays in it shows that over USB, while switch, mains and port are as they must be.

mod support;

use standin::board::InstallEnd;
use standin::device::Fault;
use standin::device::boot_switch::SwitchPosition;
use standin::device::power::PowerState;
use standin::procedure::{self, InstallerChoice, Order};
use support::{Hold, processes_with, secs};

fn refusal(hold: &Hold) -> String {
    let refused = hold.device.medium_over_usb().unwrap_err();
    assert_eq!(refused.fault(), Fault::User, "{refused}");
    refused.to_string()
}

#[tokio::test]
async fn a_compute_module_is_written_over_usb_and_boots_from_its_emmc() {
    let mut hold = support::stand_in("raspberrypicm4-ioboard").await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let names: Vec<_> = hold.device.events.since(0).iter().map(|event| event.kind.name()).collect();
    let expected =
        ["boot-switch", "usb-port-on", "power-on", "power-off", "boot-switch", "usb-port-off", "flashed"];
    assert_eq!(names, expected);
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for(&format!("image-sha256 {}", image.sha256().unwrap())).await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_shows_its_medium_only_while_all_is_as_it_must_be() {
    let mut hold = support::stand_in("raspberrypicm4-ioboard").await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let begins = |why: &str| format!("raspberrypicm4-ioboard shows no medium over USB: {why}");
    assert_eq!(refusal(&hold), begins("its USB boot port has no power"));
    hold.device.set_usb_port(true).unwrap();
    assert_eq!(refusal(&hold), begins("its mains are off"));
    hold.device.power_on(secs(30)).await.unwrap();
    hold.device.set_boot_switch(SwitchPosition::Flash).unwrap();
    assert_eq!(refusal(&hold), begins("its jumper was not set when its power came"));
    hold.device.power_cycle(secs(30)).await.unwrap();
    assert_eq!(hold.device.medium_over_usb().unwrap(), "emmc");
    // It waits there, and no system runs, until power goes.
    assert_eq!(hold.device.power_state(), PowerState::Halted);
    assert_eq!(processes_with(hold.dir.path()).len(), 0);
    let reset = hold.device.reset(secs(1)).await.unwrap_err();
    let waits = "cannot reset raspberrypicm4-ioboard: it waits in its boot ROM for what comes over USB";
    assert_eq!((reset.fault(), reset.to_string()), (Fault::User, waits.to_owned()));
    hold.device.set_boot_switch(SwitchPosition::Normal).unwrap();
    assert_eq!(hold.device.medium_over_usb().unwrap(), "emmc");
    hold.device.set_usb_port(false).unwrap();
    assert_eq!(refusal(&hold), begins("its USB boot port has no power"));
    hold.device.power_cycle(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_in_recovery_mode_is_written_by_the_same_parts() {
    let mut hold = support::stand_in("jetson-xavier").await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for("medium virtio").await;
    let order =
        Order { installer: InstallerChoice::Yes, ends: Some(InstallEnd::PowerOff), ..Order::until(secs(30)) };
    let refused = procedure::flash_as(&mut hold.device, &image, &order).await.unwrap_err();
    let why = "jetson-xavier is not flashed by an installer: its procedure is `recovery`";
    assert_eq!((refused.fault(), refused.to_string()), (Fault::User, why.to_owned()));
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_without_these_parts_says_so() {
    let mut hold = support::seabios_pc(Vec::new());
    let switch = hold.device.set_boot_switch(SwitchPosition::Flash).unwrap_err();
    assert_eq!(switch.to_string(), "pc-seabios has no boot switch");
    let port = hold.device.set_usb_port(true).unwrap_err();
    assert_eq!(port.to_string(), "pc-seabios has no USB boot port");
    assert_eq!(refusal(&hold), "pc-seabios has no USB boot port");
    hold.close_and_expect_nothing_left().await;
}

const SUITE: &str = r#"
title = "Jumper"
image = "selftest"
[[test]]
title = "It waits in its boot ROM with the jumper set, and starts without"
steps = [
  { flash = "image" },
  { boot_switch = "flash" },
  { usb_port = "on" },
  { wait_event = "usb-port-on" },
  { power = "on" },
  { assert = { power_state = "halted" } },
  { boot_switch = "normal" },
  { power = "cycle" },
  { expect = "selftest# " },
]
"#;

#[test]
fn a_suite_operates_jumper_and_port() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("jumper.toml");
    std::fs::write(&suite, SUITE).unwrap();
    for (board, passes) in [("raspberrypicm4-ioboard", true), ("pc-seabios", false)] {
        let mut command = support::standin(dir.path());
        command.arg("test").arg(&suite).args(["--board", board, "--accelerator", "tcg"]);
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if passes { 0 } else { 4 }), "{words}");
        // What a board has not is no failure of its own.
        assert!(passes || words.contains("boot-switch, usb-boot-port"), "{words}");
    }
}
