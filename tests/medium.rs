//! The media of a stand-in, changed by the host between a flash and power-on, as one would with a card in hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use standin::device::Fault;
use standin::device::storage::Content;
use standin::event::EventKind;
use standin::io::image::Image;
use standin::io::prepare::{Edit, Place};
use standin::procedure::{self, flash_and_prepare};
use support::{Hold, seabios_pc, secs};

/// An image of 8 MiB with a FAT of 6 MiB in its only partition.
fn image(hold: &Hold) -> Image {
    let path = hold.dir.path().join("os.img");
    let mut bytes = std::io::Cursor::new(vec![0; 8 << 20]);
    // One entry of type FAT32 from sector 2048 on.
    bytes.seek(SeekFrom::Start(446)).unwrap();
    bytes.write_all(&[0x80, 0, 0, 0, 0x0c, 0, 0, 0]).unwrap();
    bytes.write_all(&[2048_u32.to_le_bytes(), 12288_u32.to_le_bytes()].concat()).unwrap();
    bytes.seek(SeekFrom::Start(510)).unwrap();
    bytes.write_all(&[0x55, 0xaa]).unwrap();
    let part = standin::io::partition::Window::new(&mut bytes, 1 << 20, 6 << 20);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"BOOT       ");
    fatfs::format_volume(part, options).unwrap();
    fs::write(&path, bytes.into_inner()).unwrap();
    Image::open(&path, hold.dir.path(), "disk", 1 << 30).unwrap()
}

fn config() -> Place {
    Place::of_file("boot:/config.json").unwrap()
}

fn write(content: &str) -> Edit {
    Edit::Write { to: config(), content: content.into() }
}

#[track_caller]
fn check_layer(path: &Path) {
    let output =
        Command::new("qemu-img").arg("check").arg(path).output().unwrap_or_else(|error| {
            panic!("qemu-img: {error}; `scripts/install-packages --test` installs it")
        });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("No errors were found"), "{said}{output:?}");
}

#[tokio::test]
async fn a_medium_is_changed_between_flash_and_power_on_and_the_image_never() {
    let mut hold = seabios_pc(Vec::new());
    let image = image(&hold);
    let before = fs::read(hold.dir.path().join("os.img")).unwrap();
    let medium = hold.device.board.flash.medium.clone();
    flash_and_prepare(&mut hold.device, &image, &[write("{}"), Edit::Expand]).await.unwrap();
    assert_eq!(hold.device.read_file(None, &config()).await.unwrap(), b"{}");
    check_layer(hold.device.storage.path(&medium).unwrap());
    let events = hold.device.events.since(0);
    let sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"; // of `{}`, by sha256sum
    let is_told = |kind: &EventKind| {
        matches!(kind, EventKind::Prepared { place, bytes: Some(2), sha256: Some(digest), .. }
            if place == "boot:/config.json" && digest == sha256)
    };
    assert!(events.iter().any(|event| is_told(&event.kind)), "{events:?}");

    // While the board has it, nobody else does.
    hold.device.power_on(secs(10)).await.unwrap();
    let refused = hold.device.prepare(Some(&medium), &[write("2")]).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::User);
    assert!(refused.to_string().contains("power is on"), "{refused}");
    assert_eq!(hold.device.read_file(None, &config()).await.unwrap_err().fault(), Fault::User);
    hold.device.power_off().await.unwrap();

    // What cannot be done leaves the medium as it was.
    let many = [write("3"), Edit::Remove { place: Place::of_file("boot:/none").unwrap() }];
    assert_eq!(hold.device.prepare(None, &many).await.unwrap_err().fault(), Fault::Dut);
    assert_eq!(hold.device.read_file(None, &config()).await.unwrap(), b"{}");
    assert_eq!(hold.device.prepare(Some("none"), &many).await.unwrap_err().fault(), Fault::User);

    procedure::flash(&mut hold.device, &image).await.unwrap();
    assert_eq!(hold.device.read_file(None, &config()).await.unwrap_err().fault(), Fault::Dut);
    assert!(fs::read(hold.dir.path().join("os.img")).unwrap() == before);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_change_that_was_cut_short_or_is_not_what_was_asked_for_needs_a_new_flash() {
    let mut hold = seabios_pc(Vec::new());
    let image = image(&hold);
    let medium = hold.device.board.flash.medium.clone();
    for cut_short in [true, false] {
        if cut_short {
            procedure::flash(&mut hold.device, &image).await.unwrap();
            let edits = [write("{}")];
            tokio::select! {
                biased;
                done = hold.device.prepare(None, &edits) => panic!("it ended at once: {done:?}"),
                () = std::future::ready(()) => {}
            }
        } else {
            let huge = Edit::Write { to: config(), content: vec![1; 7 << 20] };
            let full = flash_and_prepare(&mut hold.device, &image, &[huge]).await.unwrap_err();
            assert_eq!(full.fault(), Fault::Dut, "{full}");
        }
        assert_eq!(hold.device.storage.content(&medium), Some(&Content::Unknown));
        assert_eq!(hold.device.power_on(secs(10)).await.unwrap_err().fault(), Fault::User);
        assert_eq!(hold.device.prepare(None, &[write("{}")]).await.unwrap_err().fault(), Fault::User);
        procedure::flash(&mut hold.device, &image).await.unwrap();
        hold.device.power_on(secs(10)).await.unwrap();
        hold.device.power_off().await.unwrap();
    }
    hold.close_and_expect_nothing_left().await;
}
