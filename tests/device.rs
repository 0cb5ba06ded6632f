//! A stand-in is what its board is: media, mains, button, reset line and console, on a real QEMU under TCG.

mod support;

use std::io::Read;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use standin::device::DeviceError;
use standin::device::power::PowerState;
use standin::device::storage::Content;
use standin::event::{EventKind, Origin};
use standin::io::selftest::SELFTEST_IMAGE;
use standin::procedure::{self, FlashError};
use support::{processes_with, seabios_pc, secs};

#[tokio::test]
async fn the_flashed_image_runs_and_the_console_survives_a_power_cycle() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    for _ in 0..2 {
        hold.device.power_cycle(secs(10)).await.unwrap();
        hold.wait_for(&format!("image-sha256 {}", image.sha256().unwrap())).await;
        hold.wait_for("selftest# ").await;
    }
    let output = hold.device.console().unwrap().run("uname -m", secs(5)).await.unwrap();
    assert_eq!((output.text.trim(), output.status), ("x86_64", 0));
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn power_verbs_are_idempotent_and_a_blank_board_boots_nothing() {
    let mut hold = seabios_pc(Vec::new());
    hold.device.power_off().await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    assert_eq!(processes_with(hold.dir.path()).len(), 1);
    assert_eq!(hold.device.power_state(), PowerState::Running);
    hold.device.power_off().await.unwrap();
    hold.device.power_off().await.unwrap();
    let seen: Vec<_> = hold.device.events.since(0).into_iter().map(|event| event.kind).collect();
    assert_eq!(seen, [EventKind::PowerOn, EventKind::PowerOff]);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_guest_that_halts_reboots_or_panics_is_told_apart() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let events = hold.device.events.clone();
    for (command, expected) in
        [("reboot", EventKind::Reset { by: Origin::Guest }), ("panic on purpose", EventKind::Panic)]
    {
        hold.type_line(command).await;
        events.wait_for(0, secs(10), |kind| *kind == expected).await.unwrap();
        assert_eq!(hold.device.power_state(), PowerState::Running);
        if command == "reboot" {
            hold.wait_for("selftest# ").await;
        }
    }
    hold.device.reset(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.type_line("halt").await;
    events.wait_for(0, secs(10), |kind| *kind == EventKind::Halt { by: Origin::Guest }).await.unwrap();
    assert_eq!(hold.device.power_state(), PowerState::Halted);
    hold.device.power_off().await.unwrap();
    assert_eq!(hold.device.power_state(), PowerState::Off);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn the_button_asks_a_running_system_to_end_and_starts_a_halted_one() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let off = hold.device.press_button(secs(10)).await.unwrap_err();
    assert!(off.to_string().contains("its mains are off"), "{off}");
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.device.press_button(secs(10)).await.unwrap();
    hold.wait_for("power button pressed").await;
    let events = hold.device.events.clone();
    let halted = |kind: &EventKind| matches!(kind, EventKind::Halt { .. });
    events.wait_for(0, secs(10), halted).await.unwrap();
    hold.device.press_button(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.device.hold_button().await.unwrap();
    assert_eq!(hold.device.power_state(), PowerState::Halted);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn what_the_dut_wrote_is_there_after_a_cut_and_gone_after_a_flash() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    let lba = image.bytes / 512 + 8;
    for (fresh, status) in [(true, 1), (false, 0), (true, 1)] {
        if fresh {
            procedure::flash(&mut hold.device, &image).await.unwrap();
            assert_eq!(hold.device.storage.content("disk"), Some(&Content::Flashed(image.digest.clone())));
        }
        hold.device.power_cycle(secs(10)).await.unwrap();
        hold.wait_for("selftest# ").await;
        let console = hold.device.console().unwrap();
        let check = console.run(&format!("check {lba} 64 kept"), secs(10)).await.unwrap();
        assert_eq!(check.status, status, "{}", check.text);
        let write = console.run(&format!("write {lba} 64 kept; flush"), secs(10)).await.unwrap();
        assert_eq!(write.status, 0, "{}", write.text);
    }
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn the_dut_gets_an_address_and_answers_on_a_forwarded_port() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut hold = seabios_pc(vec![7]);
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let lease = hold.device.console().unwrap().run("dhcp", secs(20)).await.unwrap();
    assert!(lease.text.contains("address 10.0.2."), "{}", lease.text);
    let forwards = hold.device.forwards(secs(5)).await.unwrap();
    let (_, here) = *forwards.iter().find(|(dut, _)| *dut == 7).unwrap();
    assert_eq!(*here.ip(), hold.device.address().unwrap());
    let mut echo = tokio::net::TcpStream::connect(here).await.unwrap();
    echo.write_all(b"is anybody there?\n").await.unwrap();
    let mut answer = [0; 18];
    secs(20).bound(echo.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"is anybody there?\n");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_pulled_cable_stays_out_over_a_power_cycle() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.set_link(None, false, secs(5)).await.unwrap();
    for (up, status) in [(false, 1), (false, 1), (true, 0)] {
        if up {
            hold.device.set_link(Some("eth0"), true, secs(5)).await.unwrap();
        } else {
            hold.device.power_cycle(secs(10)).await.unwrap();
            hold.wait_for("selftest# ").await;
        }
        let lease = hold.device.console().unwrap().run("dhcp 2", secs(20)).await.unwrap();
        assert_eq!(lease.status, status, "{}", lease.text);
    }
    let missing = hold.device.set_link(Some("eth7"), false, secs(5)).await.unwrap_err();
    assert!(missing.to_string().contains("pc-seabios has no such network interface"), "{missing}");
    let events: Vec<_> = hold.device.events.since(0).iter().map(|event| event.kind.name()).collect();
    assert_eq!(events.iter().filter(|name| name.starts_with("link-")).count(), 2, "{events:?}");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn two_boards_have_the_same_port_at_addresses_of_their_own() {
    let (mut first, mut second) = (seabios_pc(vec![2222]), seabios_pc(vec![2222]));
    assert_ne!(first.device.address().unwrap(), second.device.address().unwrap());
    for hold in [&mut first, &mut second] {
        hold.device.power_on(secs(10)).await.unwrap();
        let here = hold.device.forwards(secs(5)).await.unwrap();
        assert_eq!(here, [(2222, std::net::SocketAddrV4::new(hold.device.address().unwrap(), 2222))]);
    }
    first.close_and_expect_nothing_left().await;
    second.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_killed_qemu_is_the_labs_fault_and_the_device_can_be_powered_again() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let machine = &processes_with(hold.dir.path())[0];
    let pid = machine.file_name().unwrap().to_str().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let events = hold.device.events.clone();
    events.wait_for(0, secs(10), |kind| kind.lab_fault().is_some()).await.unwrap();
    assert_eq!(hold.device.power_state(), PowerState::Unknown);
    hold.device.power_cycle(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn an_image_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let mut huge = image.clone();
    huge.bytes = 1 << 40;
    let refused = procedure::flash(&mut hold.device, &huge).await.unwrap_err();
    assert!(matches!(refused, FlashError::Device(DeviceError::Storage(_))));
    assert_eq!(hold.device.storage.content("disk"), Some(&Content::Flashed(image.digest.clone())));
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for(&image.sha256().unwrap()).await;
    hold.close_and_expect_nothing_left().await;
}

/// What the DUT wrote is there for whoever reads its medium while it is off, as a boot ROM does. The card of the
/// Raspberry Pi gets no flush: it has no cache.
#[tokio::test]
async fn what_the_dut_wrote_is_read_from_its_medium_after_a_cut() {
    for (slug, medium, flush) in [("pc-seabios", "disk", "; flush"), ("raspberrypi3-64", "sd", "")] {
        let mut hold = support::stand_in(slug).await;
        let image = hold.selftest();
        procedure::flash(&mut hold.device, &image).await.unwrap();
        let lba = image.bytes / 512 + 8;
        let read = |hold: &support::Hold| {
            let mut bytes = vec![0; 2 << 20];
            hold.device.storage.open(medium).unwrap().read_exact(&mut bytes).unwrap();
            let written = usize::try_from(lba * 512).unwrap();
            (bytes[..1 << 16].to_vec(), bytes[written..written + 64 * 512].to_vec())
        };
        let (begin, blank) = read(&hold);
        assert!(SELFTEST_IMAGE.starts_with(&begin), "{slug}");
        assert!(blank.iter().all(|byte| *byte == 0), "{slug}");
        hold.device.power_on(secs(30)).await.unwrap();
        hold.wait_for("selftest# ").await;
        let console = hold.device.console().unwrap();
        let write = console.run(&format!("write {lba} 64 kept{flush}"), secs(30)).await.unwrap();
        assert_eq!(write.status, 0, "{slug}: {}", write.text);
        hold.device.power_off().await.unwrap();
        let (same, written) = read(&hold);
        assert!(same == begin, "{slug}");
        let empty = written.chunks(512).filter(|block| block.iter().all(|byte| *byte == 0)).count();
        assert_eq!(empty, 0, "{slug}: blocks without what was written");
        procedure::flash(&mut hold.device, &image).await.unwrap();
        assert!(read(&hold).1 == blank, "{slug}");
        hold.close_and_expect_nothing_left().await;
    }
}
