//! Who plays a board here: found and proved on this host, whatever it is.

mod support;

use std::time::Instant;

use standin::board::catalog::Catalog;
use standin::deadline::Deadline;
use standin::device::console::Pattern;
use standin::lab::accelerator::prove_kvm;
use standin::lab::player::{AcceleratorChoice, choose};
use standin::procedure;
use standin::qemu::arguments::Accelerator;
use support::secs;

/// Boots the self-test on a board as this host plays it under TCG, and proves that this very image runs.
async fn boots_the_selftest(slug: &str) {
    let mut hold = support::stand_in(slug).await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(30)).await.unwrap();
    let proof = Pattern::text(&format!("image-sha256 {}", image.sha256().unwrap()));
    let begun = Instant::now();
    hold.device.console().unwrap().wait_for(&proof, secs(60)).await.unwrap();
    println!("{slug}: {:?}", begun.elapsed());
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn generic_amd64_boots_the_selftest_from_usb_under_uefi() {
    boots_the_selftest("generic-amd64").await;
}

#[tokio::test]
async fn genericx86_64_ext_boots_the_selftest_from_usb_under_uefi() {
    boots_the_selftest("genericx86-64-ext").await;
}

#[tokio::test]
async fn intel_nuc_boots_the_selftest_from_usb_under_uefi() {
    boots_the_selftest("intel-nuc").await;
}

#[tokio::test]
async fn generic_aarch64_boots_the_selftest_under_uefi() {
    boots_the_selftest("generic-aarch64").await;
}

/// No system for 32-bit Arm is at hand, so it is shown to run its boot loader, which sees the board's media.
#[tokio::test]
async fn beaglebone_black_runs_u_boot_and_sees_its_media() {
    let mut hold = support::stand_in("beaglebone-black").await;
    hold.device.power_on(secs(30)).await.unwrap();
    let console = hold.device.console().unwrap();
    console.wait_for(&Pattern::text("Hit any key to stop autoboot"), secs(60)).await.unwrap();
    console.send_keys(b"\r", secs(5)).await.unwrap();
    console.wait_for(&Pattern::text("=> "), secs(30)).await.unwrap();
    console.send_line("virtio info", secs(5)).await.unwrap();
    console.wait_for(&Pattern::text("4.0 GB"), secs(30)).await.unwrap();
    console.wait_for(&Pattern::text("8.0 GB"), secs(30)).await.unwrap();
    hold.close_and_expect_nothing_left().await;
}

/// Where KVM runs guests it is taken; where it does not, the probe says why. Either way the verdict is true,
/// remembered, and free the second time.
#[tokio::test]
async fn kvm_is_taken_only_if_a_guest_was_seen_to_run_and_the_verdict_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let host = support::host(dir.path());
    let board = Catalog::load(None).unwrap().board("pc-seabios").unwrap();
    let chosen = choose(&board, &host, AcceleratorChoice::Auto).await.unwrap();
    let first = prove_kvm(&board, &chosen.player, &host.cache, &host.runs).await;
    println!("KVM on this host: {first:?}");
    assert_eq!(chosen.player.accelerator == Accelerator::Kvm, first.usable);
    assert_eq!(chosen.remark.is_some(), !first.usable);
    if std::path::Path::new("/dev/kvm").exists() {
        assert!(host.cache.join("accelerators.json").exists());
    }
    let begun = Deadline::after(std::time::Duration::from_millis(200));
    assert_eq!(prove_kvm(&board, &chosen.player, &host.cache, &host.runs).await, first);
    assert!(!begun.is_past(), "a remembered verdict is not probed again");
    assert!(support::processes_with(dir.path()).is_empty());
}

#[tokio::test]
async fn who_asks_for_kvm_where_qemu_has_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let host = support::host(dir.path());
    // Of another architecture than any host that KVM runs on as a matter of course.
    let slug = if cfg!(target_arch = "x86_64") { "generic-aarch64" } else { "pc-seabios" };
    let board = Catalog::load(None).unwrap().board(slug).unwrap();
    let refused = choose(&board, &host, AcceleratorChoice::Only(Accelerator::Kvm)).await.unwrap_err();
    assert!(refused.to_string().ends_with("was built without it"), "{refused}");
    let chosen = choose(&board, &host, AcceleratorChoice::Auto).await.unwrap();
    assert_eq!((chosen.player.accelerator, chosen.remark), (Accelerator::Tcg, None));
}

#[tokio::test]
async fn a_probe_that_could_not_be_made_is_no_verdict_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let host = support::host(dir.path());
    let board = Catalog::load(None).unwrap().board("pc-seabios").unwrap();
    let chosen = choose(&board, &host, AcceleratorChoice::Only(Accelerator::Tcg)).await.unwrap();
    let no_folder = dir.path().join("file");
    std::fs::write(&no_folder, "").unwrap();
    let verdict = prove_kvm(&board, &chosen.player, &host.cache, &no_folder).await;
    assert!(!verdict.usable, "{verdict:?}");
    assert!(!host.cache.join("accelerators.json").exists(), "{verdict:?}");
}
