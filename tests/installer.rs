//! An installer runs from its stick, writes the internal medium and powers the board off; whatever else it does is
//! told as what it was, and the next flash starts clean. The self-test plays the installer, so each takes moments.

mod support;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use standin::board::InstallEnd;
use standin::device::storage::{Content, Position};
use standin::device::{DeviceError, Fault};
use standin::event::EventKind;
use standin::io::image::Image;
use standin::procedure::{self, FlashError, InstallerChoice, Order};
use support::{Hold, installer_pc, processes_with, secs};

const GOOD: &str = "install; halt";

fn names(hold: &Hold) -> Vec<&'static str> {
    hold.device.events.since(0).iter().map(|event| event.kind.name()).collect()
}

fn content(hold: &Hold, medium: &str) -> Content {
    hold.device.storage.content(medium).unwrap().clone()
}

/// The installed system runs, from the internal medium alone: the image without the line that made it an installer.
async fn expect_installed(hold: &mut Hold, installer: &Image) {
    assert_eq!(content(hold, "internal"), Content::Installed(installer.digest.clone()));
    assert_eq!(hold.device.storage.position("a-stick"), Some(Position::Out));
    hold.device.power_on(secs(10)).await.unwrap();
    let bytes = std::fs::read(installer.base().path()).unwrap();
    let mut installed = bytes[..usize::try_from(installer.bytes).unwrap()].to_vec();
    installed[544..1024].fill(0);
    let digest: String = Sha256::digest(installed).iter().map(|byte| format!("{byte:02x}")).collect();
    hold.wait_for(&format!("image-sha256 {digest}")).await;
    hold.wait_for("selftest# ").await;
}

/// After what went wrong: nothing may be started, and the next flash is as good as the first.
async fn expect_clean_after(hold: &mut Hold) {
    for medium in ["a-stick", "internal"] {
        assert_eq!(content(hold, medium), Content::Unknown, "{medium}");
    }
    let refused = hold.device.power_on(secs(10)).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::User, "{refused}");
    let good = hold.installer(GOOD);
    procedure::flash(&mut hold.device, &good).await.unwrap();
    expect_installed(hold, &good).await;
}

async fn fails(hold: &mut Hold, line: &str, order: Order<'_>) -> (Fault, String) {
    let bad = hold.installer(line);
    let error = procedure::flash_as(&mut hold.device, &bad, &order).await.unwrap_err();
    assert_eq!(hold.device.power_state(), standin::device::power::PowerState::Off);
    assert_eq!(processes_with(hold.dir.path()).len(), 0);
    (error.fault(), error.to_string())
}

#[tokio::test]
async fn an_installer_writes_the_internal_medium_and_the_board_boots_from_it() {
    let mut hold = installer_pc(&[]);
    let installer = hold.installer(GOOD);
    procedure::flash(&mut hold.device, &installer).await.unwrap();
    let card = ["medium-removed", "medium-inserted", "flashed"];
    let run = ["power-on", "halt", "power-off", "medium-removed", "installed"];
    assert_eq!(names(&hold), [&card[..], &run[..]].concat());
    let last = hold.device.events.since(0).pop().unwrap().kind;
    let (medium, digest) = ("internal".to_owned(), installer.digest.clone());
    assert_eq!(last, EventKind::Installed { medium, digest, written_bytes: installer.bytes });
    assert_eq!(content(&hold, "a-stick"), Content::Flashed(installer.digest.clone()));
    expect_installed(&mut hold, &installer).await;
    // Once more over what is installed, which writes the very same.
    procedure::flash(&mut hold.device, &installer).await.unwrap();
    expect_installed(&mut hold, &installer).await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn what_is_no_installer_is_written_and_left_to_be_started() {
    let mut hold = installer_pc(&[]);
    let (plain, installer) = (hold.selftest(), hold.installer(GOOD));
    let no = Order { installer: InstallerChoice::No, ..Order::until(secs(30)) };
    for (image, order) in [(&plain, Order::until(secs(30))), (&installer, no)] {
        procedure::flash_as(&mut hold.device, image, &order).await.unwrap();
        assert_eq!(hold.device.storage.position("a-stick"), Some(Position::Dut));
        assert_eq!(content(&hold, "internal"), Content::Blank);
        assert!(!names(&hold).contains(&"power-on"));
    }
    // One that does not look like an installer is one, if the user says so.
    let mut bytes = support::installer_bytes(GOOD);
    bytes[512 * 512 + 43..][..11].copy_from_slice(b"PLAIN      ");
    let hidden =
        Image::built_in("hidden installer", &bytes, &standin::io::cache::Cache::at(hold.dir.path())).unwrap();
    let yes = Order { installer: InstallerChoice::Yes, ..Order::until(secs(30)) };
    procedure::flash_as(&mut hold.device, &hidden, &yes).await.unwrap();
    expect_installed(&mut hold, &hidden).await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn an_installer_that_fails_is_told_by_what_it_did_and_the_next_flash_starts_clean() {
    let mut hold = installer_pc(&[]);
    let short = Order { install_within: Some(Duration::from_millis(500)), ..Order::until(secs(30)) };
    let long = Order::until(secs(30));
    let resetting = Order { ends: Some(InstallEnd::Reset), ..long };
    for (line, order, why) in [
        ("halt", long, "the installer ended as if it were done, and has not written medium `internal`: "),
        ("echo working; hang", short, "the installer did not power the board off within 500ms: "),
        ("panic on purpose", long, "the installer panicked: "),
        ("halt", resetting, "the installer powered the board off instead of resetting it: "),
    ] {
        let (fault, message) = fails(&mut hold, line, order).await;
        assert_eq!(fault, Fault::Dut, "{message}");
        assert!(message.starts_with(why) && message.contains(&format!("| runs {line}")), "{message}");
        if order.ends.is_none() {
            expect_clean_after(&mut hold).await;
        }
    }
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn an_installer_that_keeps_restarting_is_not_done() {
    let mut hold = installer_pc(&[]);
    let order = Order { install_within: Some(Duration::from_secs(1)), ..Order::until(secs(30)) };
    let (fault, message) = fails(&mut hold, "reboot", order).await;
    assert_eq!(fault, Fault::Dut, "{message}");
    assert!(message.contains("within 1s (it reset it "), "{message}");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn an_installer_that_rewrites_its_own_medium_ends_with_a_reset() {
    let edits = [("medium = \"a-stick\"\n", "medium = \"a-stick\"\ninstall_ends = \"reset\"\n")];
    let mut hold = installer_pc(&edits);
    let installer = hold.installer("write 4096 8 rewritten; flush; reboot");
    procedure::flash(&mut hold.device, &installer).await.unwrap();
    assert_eq!(content(&hold, "a-stick"), Content::Installed(installer.digest.clone()));
    assert_eq!(hold.device.storage.position("a-stick"), Some(Position::Dut));
    assert_eq!(content(&hold, "internal"), Content::Blank);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_qemu_that_dies_under_an_installer_is_the_labs_fault() {
    let mut hold = installer_pc(&[]);
    let hanging = hold.installer("hang");
    let (dir, events) = (hold.dir.path().to_owned(), hold.device.events.clone());
    let murder = async {
        events.wait_for(0, secs(10), |kind| *kind == EventKind::PowerOn).await.unwrap();
        let machine = loop {
            match processes_with(&dir).first() {
                Some(process) => break process.file_name().unwrap().to_str().unwrap().parse().unwrap(),
                None => tokio::task::yield_now().await,
            }
        };
        kill(Pid::from_raw(machine), Signal::SIGKILL).unwrap();
    };
    let (flashed, ()) = tokio::join!(procedure::flash(&mut hold.device, &hanging), murder);
    let error = flashed.unwrap_err();
    assert_eq!(error.fault(), Fault::Lab, "{error}");
    expect_clean_after(&mut hold).await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_cancelled_installation_leaves_both_media_unknown() {
    let mut hold = installer_pc(&[]);
    let hanging = hold.installer("hang");
    let events = hold.device.events.clone();
    tokio::select! {
        done = procedure::flash(&mut hold.device, &hanging) => panic!("{done:?}"),
        seen = events.wait_for(0, secs(10), |kind| *kind == EventKind::PowerOn) => drop(seen.unwrap()),
    }
    hold.device.power_off().await.unwrap();
    expect_clean_after(&mut hold).await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_boot_switch_starts_the_installer_where_the_internal_medium_comes_first() {
    let edits = [
        ("boot_order = [\"a-stick\", \"internal\"]", "boot_order = [\"internal\", \"a-stick\"]"),
        ("medium = \"a-stick\"\n", "medium = \"a-stick\"\nswitch = \"jumper\"\n"),
    ];
    let mut hold = installer_pc(&edits);
    let installer = hold.installer(GOOD);
    // The second time, there is a system that would start instead.
    for _ in 0..2 {
        procedure::flash(&mut hold.device, &installer).await.unwrap();
        expect_installed(&mut hold, &installer).await;
        hold.device.power_off().await.unwrap();
    }
    let positions = hold.device.events.since(0).into_iter().filter_map(|event| match event.kind {
        EventKind::BootSwitch { position } => Some(position),
        _ => None,
    });
    assert_eq!(positions.collect::<Vec<_>>(), ["flash", "normal", "flash", "normal"]);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn an_installer_is_refused_where_none_is_foreseen() {
    let mut hold = support::seabios_pc(Vec::new());
    let installer = hold.installer(GOOD);
    let yes = Order { installer: InstallerChoice::Yes, ..Order::until(secs(30)) };
    let refused = procedure::flash_as(&mut hold.device, &installer, &yes).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::User);
    assert_eq!(refused.to_string(), "pc-seabios is not flashed by an installer: its procedure is `sd`");
    assert!(matches!(hold.device.insert_medium(None, secs(1)).await, Err(DeviceError::NotFitted(_))));
    assert!(!matches!(refused, FlashError::Device(_)));
    hold.close_and_expect_nothing_left().await;
}
