//! A removable medium is in the DUT, at the host or out, and comes and goes as it would on the desk.

mod support;

use std::path::{Path, PathBuf};

use standin::device::DeviceError;
use standin::device::storage::Position;
use standin::event::EventKind;
use standin::procedure;
use support::{Hold, installer_pc, processes_with, seabios_pc, secs};

/// Whether the machine of `hold` has the file that plays `medium` open.
fn is_open(hold: &Hold, medium: &str) -> bool {
    let file = hold.device.storage.path(medium).unwrap();
    let processes = processes_with(hold.dir.path());
    processes.iter().flat_map(|process| files_of(process)).any(|open| open == file)
}

fn files_of(process: &Path) -> Vec<PathBuf> {
    let descriptors = std::fs::read_dir(process.join("fd")).unwrap();
    descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect()
}

fn moves(hold: &Hold) -> Vec<(&'static str, String)> {
    let events = hold.device.events.since(0).into_iter();
    let moved = events.filter_map(|event| match &event.kind {
        EventKind::MediumInserted { medium } | EventKind::MediumRemoved { medium } => {
            Some((event.kind.name(), medium.clone()))
        }
        _ => None,
    });
    moved.collect()
}

fn fault_of(refused: &DeviceError) -> (standin::device::Fault, String) {
    (refused.fault(), refused.to_string())
}

#[tokio::test]
async fn a_stick_comes_and_goes_while_the_dut_runs() {
    let mut hold = installer_pc(&[]);
    let image = hold.selftest();
    for media in ["spare", "a-stick"] {
        hold.device.storage.flash(media, &image).await.unwrap();
    }
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    assert!(is_open(&hold, "spare"));
    for _ in 0..2 {
        hold.device.remove_medium(Some("spare"), secs(10)).await.unwrap();
        hold.device.remove_medium(Some("spare"), secs(10)).await.unwrap();
        assert!(!is_open(&hold, "spare"));
        assert_eq!(hold.device.storage.position("spare"), Some(Position::Out));
        hold.device.insert_medium(Some("spare"), secs(10)).await.unwrap();
        hold.device.insert_medium(Some("spare"), secs(10)).await.unwrap();
        assert!(is_open(&hold, "spare"));
    }
    let of_spare = |name| (name, "spare".to_owned());
    let expected = ["medium-removed", "medium-inserted", "medium-removed", "medium-inserted"].map(of_spare);
    assert_eq!(moves(&hold), expected);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_stick_that_is_out_is_not_in_the_machine_at_power_on() {
    let mut hold = installer_pc(&[]);
    hold.device.remove_medium(Some("spare"), secs(10)).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    assert!(!is_open(&hold, "spare") && is_open(&hold, "a-stick") && is_open(&hold, "internal"));
    hold.device.insert_medium(Some("spare"), secs(10)).await.unwrap();
    assert!(is_open(&hold, "spare"));
    hold.device.power_cycle(secs(10)).await.unwrap();
    assert!(is_open(&hold, "spare"));
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_whose_card_is_out_has_nothing_to_boot_from() {
    let mut hold = support::stand_in("raspberrypi4-64").await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.remove_medium(None, secs(10)).await.unwrap();
    let refused = hold.device.power_on(secs(30)).await.unwrap_err();
    let why = "raspberrypi4-64 has nothing to boot from: medium `sd` is out";
    assert_eq!(fault_of(&refused), (standin::device::Fault::Dut, why.to_owned()));
    hold.device.insert_medium(None, secs(10)).await.unwrap();
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn what_cannot_be_moved_is_the_users_fault_and_says_why() {
    use standin::device::Fault::User;
    let mut hold = installer_pc(&[]);
    let built_in = hold.device.remove_medium(Some("internal"), secs(10)).await.unwrap_err();
    let why = "medium `internal` of installer-pc is built in, so nobody can take it out or put it in";
    assert_eq!(fault_of(&built_in), (User, why.to_owned()));
    let unnamed = hold.device.remove_medium(None, secs(10)).await.unwrap_err();
    let why = "installer-pc has several media that can be moved, `a-stick` and `spare`, and none was named";
    assert_eq!(fault_of(&unnamed), (User, why.to_owned()));
    let unknown = hold.device.insert_medium(Some("sd"), secs(10)).await.unwrap_err();
    let why = "installer-pc has no medium `sd`; it has `a-stick` and `internal` and `spare`";
    assert_eq!(fault_of(&unknown), (User, why.to_owned()));
    hold.device.power_on(secs(10)).await.unwrap();
    let running = hold.device.remove_medium(Some("a-stick"), secs(10)).await.unwrap_err();
    let why =
        "medium `a-stick` of installer-pc hangs on `virtio-blk`, which takes no medium while the DUT runs";
    assert_eq!(fault_of(&running), (User, why.to_owned()));
    assert_eq!(moves(&hold), []);
    hold.device.power_off().await.unwrap();
    hold.device.remove_medium(Some("a-stick"), secs(10)).await.unwrap();
    hold.close_and_expect_nothing_left().await;

    let mut fixed = seabios_pc(Vec::new());
    let none = fixed.device.remove_medium(None, secs(10)).await.unwrap_err();
    assert_eq!(fault_of(&none), (User, "pc-seabios has no medium that can be moved".to_owned()));
    fixed.close_and_expect_nothing_left().await;
}
