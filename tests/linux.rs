//! Real operating systems boot from their flashed media: Debian's kernels with a busybox shell.
//!
//! `scripts/linux-image` builds the images, and `scripts/test` hands them over by environment variables.

mod support;

use std::path::PathBuf;

use standin::device::console::Pattern;
use standin::device::power::PowerState;
use standin::event::EventKind;
use standin::io::image::Image;
use standin::procedure;
use support::secs;

fn image_of(variable: &str, kind: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("no {variable}: run `scripts/test`, or `scripts/linux-image {kind} FILE` and set it to FILE")
    })
}

/// Flashes the image, boots it to its shell, asks for the architecture, and has it power itself off.
async fn boots_linux(slug: &str, image: PathBuf, arch: &str) {
    let mut hold = support::stand_in(slug).await;
    let board = hold.device.board.clone();
    let medium = board.flash_medium();
    let image = Image::open(&image, hold.dir.path(), &medium.name, medium.size.0).unwrap();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(30)).await.unwrap();
    let console = hold.device.console().unwrap();
    console.wait_for(&Pattern::text(&format!("standin-linux up on {arch}")), secs(180)).await.unwrap();
    console.log_in(board.login.as_ref().unwrap(), secs(60)).await.unwrap();
    let uname = console.run("uname -m", secs(30)).await.unwrap();
    assert_eq!((uname.text.trim(), uname.status), (arch, 0));
    let failed = console.run("ls /nonexistent", secs(30)).await.unwrap();
    assert_eq!(failed.status, 1, "{}", failed.text);
    console.send_line("poweroff -f", secs(10)).await.unwrap();
    let events = hold.device.events.clone();
    if board.power.button_hold.is_some() {
        events.wait_for(0, secs(60), |kind| matches!(kind, EventKind::Halt { .. })).await.unwrap();
    }
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn generic_amd64_boots_debian_from_usb_under_uefi() {
    boots_linux("generic-amd64", image_of("STANDIN_LINUX_AMD64", "amd64-uefi"), "x86_64").await;
}

#[tokio::test]
async fn generic_aarch64_boots_debian_under_uefi() {
    boots_linux("generic-aarch64", image_of("STANDIN_LINUX_ARM64", "arm64-uefi"), "aarch64").await;
}

#[tokio::test]
async fn raspberrypi3_boots_debian_from_its_cards_boot_partition() {
    boots_linux("raspberrypi3-64", image_of("STANDIN_LINUX_RPI", "raspberrypi-64"), "aarch64").await;
}

#[tokio::test]
async fn raspberrypi4_boots_debian_from_its_cards_boot_partition() {
    boots_linux("raspberrypi4-64", image_of("STANDIN_LINUX_RPI", "raspberrypi-64"), "aarch64").await;
}

#[tokio::test]
async fn a_raspberry_pi_without_a_bootable_card_does_not_boot() {
    let mut hold = support::stand_in("raspberrypi3-64").await;
    let blank = hold.device.power_on(secs(30)).await.unwrap_err();
    assert!(blank.to_string().contains("the card does not boot: it is blank"), "{blank}");
    assert_eq!(hold.device.power_state(), PowerState::Off);
    hold.close_and_expect_nothing_left().await;
}
