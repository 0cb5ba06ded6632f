//! What a board shows and what is typed on it, on a real QEMU: firmware draws and reads keys, so no system is needed.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use standin::board::{Capability, Catalog};
use standin::device::capture::{Capture, CaptureError, Limits, Live, Shown};
use standin::device::keyboard::KeyboardError;
use standin::device::keyboard::key::Stroke;
use standin::device::screen::{Screen, Seen};
use standin::event::{EventKind, Origin};
use standin::io::picture::Picture;
use standin::procedure;
use support::{Hold, seabios_pc, seabios_pc_with_screen, secs};

/// Looks until the screen shows what `wanted` accepts.
async fn wait_until(screen: &Screen, mut wanted: impl FnMut(&Picture) -> bool) -> Arc<Picture> {
    let deadline = secs(60);
    loop {
        match deadline.bound(screen.paced_frame()).await.unwrap().unwrap() {
            Seen::Picture(picture) if wanted(&picture) => return picture,
            Seen::Off => panic!("the screen is off"),
            Seen::Picture(_) | Seen::NoSignal => {}
        }
    }
}

fn strokes(names: &[&str]) -> Vec<Stroke> {
    names.iter().map(|name| Stroke::parse(name).unwrap()).collect()
}

fn dumps_in(hold: &Hold) -> Vec<std::ffi::OsString> {
    let names =
        std::fs::read_dir(hold.dir.path().join("scratch")).unwrap().map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains("screen")).collect()
}

#[tokio::test]
async fn a_screen_is_off_without_power_and_shows_what_the_firmware_draws() {
    let mut hold = seabios_pc_with_screen();
    let screen = hold.device.screen().unwrap();
    for _ in 0..2 {
        assert_eq!(screen.frame(secs(10)).await.unwrap(), Seen::Off);
        hold.device.power_on(secs(10)).await.unwrap();
        let picture = wait_until(&screen, |picture| picture.drawn() > 0.001).await;
        assert_eq!(picture.to_string(), "720x400", "the VGA text mode of 80x25 letters");
        hold.device.power_off().await.unwrap();
    }
    assert_eq!(screen.frame(secs(10)).await.unwrap(), Seen::Off);
    assert_eq!(dumps_in(&hold), Vec::<std::ffi::OsString>::new());
    hold.close_and_expect_nothing_left().await;
    assert_eq!(screen.frame(secs(10)).await.unwrap(), Seen::Off, "a screen outlives its device");
}

#[tokio::test]
async fn a_system_that_has_halted_shows_nothing() {
    let mut hold = seabios_pc_with_screen();
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let screen = hold.device.screen().unwrap();
    assert!(matches!(screen.frame(secs(10)).await.unwrap(), Seen::Picture(_)));
    hold.type_line("halt").await;
    let halted = |kind: &EventKind| matches!(kind, EventKind::Halt { .. });
    hold.device.events.wait_for(0, secs(10), halted).await.unwrap();
    assert_eq!(screen.frame(secs(10)).await.unwrap(), Seen::Off);
    let keyboard = hold.device.keyboard().unwrap();
    let refused = keyboard.press(&strokes(&["enter"]), secs(10)).await.unwrap_err();
    assert!(matches!(refused, KeyboardError::NotRunning { .. }), "{refused}");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_dump_that_nobody_waits_for_leaves_no_file_behind() {
    let mut hold = seabios_pc_with_screen();
    let screen = hold.device.screen().unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    for _ in 0..20 {
        tokio::select! {
            biased;
            seen = screen.frame(secs(10)) => panic!("{seen:?} came at once"),
            () = tokio::task::yield_now() => {}
        }
    }
    // At every point of one: QEMU dumps within a few milliseconds, and we read within a few more.
    for microseconds in (0..20_000).step_by(250) {
        let given = Duration::from_micros(microseconds);
        if let Ok(seen) = tokio::time::timeout(given, screen.frame(secs(10))).await {
            seen.unwrap();
        }
    }
    let seen = screen.frame(secs(10)).await.unwrap();
    assert_ne!(seen, Seen::Off, "what was abandoned spoils nothing");
    hold.device.power_off().await.unwrap();
    assert_eq!(dumps_in(&hold), Vec::<std::ffi::OsString>::new());
    hold.close_and_expect_nothing_left().await;
}

/// It has screens of three kinds: VGA, virtio-gpu, and the frame buffer of a Raspberry Pi.
#[tokio::test]
async fn every_board_with_a_screen_gives_a_signal_or_says_that_there_is_none() {
    let catalog = Catalog::load(None).unwrap();
    let mut seen = BTreeSet::new();
    for slug in catalog.entries().map(|entry| entry.slug.as_str()) {
        let board = catalog.board(slug).unwrap();
        let Some(screen) = &board.screen else { continue };
        assert!(board.stand_in_capabilities().contains(&Capability::Screen), "{slug}");
        let device = format!("{:?} {:?}", screen.device, board.qemu.firmware);
        if !seen.insert(device) {
            continue;
        }
        let mut hold = support::stand_in(slug).await;
        let image = hold.selftest();
        procedure::flash(&mut hold.device, &image).await.unwrap();
        hold.device.power_on(secs(60)).await.unwrap();
        match hold.device.screen().unwrap().frame(secs(30)).await.unwrap() {
            Seen::Picture(picture) => {
                assert!((320..=4096).contains(&picture.width()), "{slug}: {picture}");
                assert!((200..=4096).contains(&picture.height()), "{slug}: {picture}");
            }
            Seen::NoSignal => assert_ne!(slug, "raspberrypi3-64", "its frame buffer has a size of its own"),
            Seen::Off => panic!("{slug} is on"),
        }
        if slug == "raspberrypi4-64" {
            let seen = hold.device.screen().unwrap().frame(secs(30)).await.unwrap();
            assert_eq!(seen, Seen::NoSignal, "no firmware and no driver of the self-test image drives it");
        }
        hold.close_and_expect_nothing_left().await;
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[tokio::test]
async fn a_virtual_display_has_no_signal_after_a_reset() {
    let mut hold = support::stand_in("generic-aarch64").await;
    hold.device.power_on(secs(20)).await.unwrap();
    let screen = hold.device.screen().unwrap();
    wait_until(&screen, |picture| picture.drawn() > 0.0).await;
    let deadline = secs(60);
    loop {
        hold.device.reset(deadline).await.unwrap();
        match screen.frame(deadline).await.unwrap() {
            Seen::NoSignal => break,
            // A host that was busy gave the firmware the second that it needs to draw.
            seen => assert!(!deadline.is_past(), "QEMU's own words are no picture: {seen:?}"),
        }
    }
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_without_screen_and_keyboard_says_so() {
    let hold = seabios_pc(Vec::new());
    let missing = hold.device.screen().unwrap_err();
    assert_eq!(missing.to_string(), "pc-seabios has no screen");
    assert_eq!(hold.device.keyboard().unwrap_err().to_string(), "pc-seabios has no keyboard");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn control_alt_delete_resets_a_pc() {
    let mut hold = seabios_pc_with_screen();
    let keyboard = hold.device.keyboard().unwrap();
    let off = keyboard.press(&strokes(&["a"]), secs(10)).await.unwrap_err();
    assert_eq!(off.to_string(), "cannot type on the keyboard of pc-seabios: it does not run");
    hold.device.power_on(secs(10)).await.unwrap();
    wait_until(&hold.device.screen().unwrap(), |picture| picture.drawn() > 0.001).await;
    let events = hold.device.events.clone();
    let deadline = secs(30);
    let by_keys = |kind: &EventKind| *kind == EventKind::Reset { by: Origin::Guest };
    // SeaBIOS may draw before it reads keys.
    while events.since(0).iter().all(|event| !by_keys(&event.kind)) {
        assert!(!deadline.is_past(), "{:?}", events.since(0));
        keyboard.press(&strokes(&["ctrl-alt-delete"]), deadline).await.unwrap();
    }
    hold.close_and_expect_nothing_left().await;
}

/// A USB keyboard, and nothing else: `virt` has no PS/2. The shell of UEFI echoes what is typed, and `cls` with a
/// number colours the screen.
#[tokio::test]
async fn text_typed_on_a_usb_keyboard_reaches_the_uefi_shell() {
    let mut hold = support::stand_in("generic-aarch64").await;
    hold.device.power_on(secs(20)).await.unwrap();
    let (screen, keyboard) = (hold.device.screen().unwrap(), hold.device.keyboard().unwrap());
    hold.wait_for("Shell> ").await;
    keyboard.press(&Stroke::typing("cls 1\n").unwrap(), secs(20)).await.unwrap();
    let blue = |picture: &Picture| {
        let [red, green, blue] = picture.pixel(picture.width() - 1, picture.height() / 2);
        blue > 100 && red < 50 && green < 50
    };
    wait_until(&screen, blue).await;
    keyboard
        .press(&Stroke::typing("echo \"It's 100% {OK} & <fine>; a_B=~1\"\n").unwrap(), secs(30))
        .await
        .unwrap();
    hold.wait_for("It's 100% {OK} & <fine>; a_B=~1\r\n").await;
    hold.close_and_expect_nothing_left().await;
}

/// Restarts the PC until `done`: each time it clears its screen, and SeaBIOS draws anew.
async fn restart_until(hold: &Hold, done: impl Fn() -> bool) {
    let (screen, keyboard) = (hold.device.screen().unwrap(), hold.device.keyboard().unwrap());
    let deadline = secs(60);
    while !done() {
        wait_until(&screen, |picture| picture.drawn() > 0.001).await;
        keyboard.press(&strokes(&["ctrl-alt-delete"]), deadline).await.unwrap();
    }
}

fn files_in(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_capture_numbers_what_changed_and_costs_the_dut_less_than_a_twentieth() {
    let mut hold = seabios_pc_with_screen();
    let (screen, folder) = (hold.device.screen().unwrap(), hold.dir.path().join("capture"));
    let capture = Capture::start(screen.clone(), &folder, Limits::default()).unwrap();
    let clock = std::time::Instant::now();
    hold.device.power_on(secs(10)).await.unwrap();
    restart_until(&hold, || files_in(&folder).len() >= 3).await;
    hold.device.power_cycle(secs(10)).await.unwrap();
    restart_until(&hold, || files_in(&folder).len() >= 5).await;
    let captured = capture.stop().await.unwrap();
    let cost = screen.cost().await;
    secs(30).bound(screen.paced_frame()).await.unwrap().unwrap(); // once QEMU has rested from the last of them
    let lasted = clock.elapsed();

    let expected: BTreeSet<String> = (1..=captured.frames).map(|number| format!("{number:06}.jpg")).collect();
    assert_eq!(files_in(&folder), expected);
    assert!(captured.frames >= 4 && !captured.full && captured.blind.is_none(), "{captured:?}");
    assert!(
        u64::from(captured.frames) < cost.dumps,
        "{captured:?} of {cost:?}: the same picture is not written twice"
    );
    let mut before = Vec::new();
    for name in &expected {
        let jpeg = std::fs::read(folder.join(name)).unwrap();
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg != before, "{name}");
        before = jpeg;
    }
    println!("{captured:?}, {cost:?} in {lasted:?}");
    assert!(cost.taken * 20 <= lasted, "{cost:?} in {lasted:?}");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_capture_keeps_to_its_limits_and_mixes_with_nothing() {
    let mut hold = seabios_pc_with_screen();
    let (screen, folder) = (hold.device.screen().unwrap(), hold.dir.path().join("capture"));
    hold.device.power_on(secs(10)).await.unwrap();
    let limits = Limits { frames: 2, ..Limits::default() };
    let capture = Capture::start(screen.clone(), &folder, limits).unwrap();
    restart_until(&hold, || capture.has_ended()).await;
    let captured = capture.stop().await.unwrap();
    assert!(captured.full && captured.frames == 2, "{captured:?}");
    assert_eq!(files_in(&folder).into_iter().collect::<Vec<_>>(), ["000001.jpg", "000002.jpg"]);

    let refused = Capture::start(screen.clone(), &folder, limits).unwrap_err();
    assert!(matches!(refused, CaptureError::InUse { .. }), "{refused}");

    let small =
        Capture::start(screen, &hold.dir.path().join("small"), Limits { bytes: 10, ..limits }).unwrap();
    restart_until(&hold, || small.has_ended()).await;
    let captured = small.stop().await.unwrap();
    assert!(captured.full && captured.frames == 0 && captured.bytes == 0, "{captured:?}");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn many_viewers_cost_one_dump_and_none_looks_for_nobody() {
    let mut hold = seabios_pc_with_screen();
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let screen = hold.device.screen().unwrap();
    let live = Live::start(screen.clone(), 10);
    let mut views: Vec<_> = (0..20).map(|_| live.look()).collect();
    views[0].wait_for(|shown| *shown == Shown::Off).await.unwrap();
    hold.device.power_on(secs(10)).await.unwrap();
    for view in &mut views {
        let jpeg = view.wait_for(|shown| matches!(shown, Shown::Jpeg(_)));
        secs(30).bound(jpeg).await.unwrap().unwrap();
    }
    let with_viewers = screen.cost().await.dumps;
    assert!((1..20).contains(&with_viewers), "{with_viewers} dumps for 20 viewers");

    drop(views);
    let before = screen.cost().await.dumps;
    for _ in 0..5 {
        hold.device.power_cycle(secs(10)).await.unwrap();
        hold.wait_for("selftest# ").await;
    }
    let unseen = screen.cost().await.dumps - before;
    assert!(unseen <= 1, "{unseen} dumps while nobody looked");

    let mut late = live.look();
    let jpeg = late.wait_for(|shown| matches!(shown, Shown::Jpeg(_)));
    secs(30).bound(jpeg).await.unwrap().unwrap();
    live.close().await;
    hold.close_and_expect_nothing_left().await;
}
