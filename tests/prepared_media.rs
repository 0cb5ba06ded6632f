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
use standin::procedure::{self, FlashError, Order};
use support::{Hold, seabios_pc, secs};

async fn flash_and_prepare(hold: &mut Hold, image: &Image, edits: &[Edit]) -> Result<(), FlashError> {
    let order = Order { edits, ..Order::until(secs(60)) };
    procedure::flash_as(&mut hold.device, image, &order).await
}

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
    Image::open(&path, &standin::io::cache::Cache::at(hold.dir.path()), "disk", 1 << 30).unwrap()
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
    flash_and_prepare(&mut hold, &image, &[write("{}"), Edit::Expand]).await.unwrap();
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
            let full = flash_and_prepare(&mut hold, &image, &[huge]).await.unwrap_err();
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

#[tokio::test]
async fn what_the_dut_has_written_and_what_the_host_changes_stand_side_by_side() {
    let mut hold = seabios_pc(Vec::new());
    let image = hold.selftest();
    let medium = hold.device.board.flash.medium.clone();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let place = Place::of_file("standin:/from the host/file").unwrap();
    for round in 0..3_u64 {
        hold.device.power_on(secs(10)).await.unwrap();
        hold.wait_for("selftest# ").await;
        // Right behind the image, in clusters that host and DUT share, and far away; what is not flushed may be lost.
        let lbas = [2048 + round * 40, 70_000 + round * 100_000];
        for command in
            lbas.map(|lba| format!("write {lba} 33 round{round}; flush; write {} 5 lost", lba + 33))
        {
            let console = hold.device.console().unwrap();
            assert_eq!(console.run(&command, secs(30)).await.unwrap().status, 0, "{command}");
        }
        hold.device.power_off().await.unwrap();
        let content = vec![b'0' + round as u8; 30_000 + round as usize];
        let edits = [Edit::Write { to: place.clone(), content: content.clone() }, Edit::Expand];
        hold.device.prepare(None, &edits).await.unwrap();
        check_layer(hold.device.storage.path(&medium).unwrap());
        hold.device.power_on(secs(10)).await.unwrap();
        hold.wait_for("selftest# ").await;
        for command in lbas.map(|lba| format!("check {lba} 33 round{round}")) {
            let output = hold.device.console().unwrap().run(&command, secs(30)).await.unwrap();
            assert_eq!(output.status, 0, "{command}: {}", output.text);
        }
        hold.device.power_off().await.unwrap();
        assert_eq!(hold.device.read_file(None, &place).await.unwrap(), content);
    }
    hold.close_and_expect_nothing_left().await;
}

/// The end of `standin WORDS`: its exit code, what it printed and what it said.
fn standin(dir: &Path, words: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let output = support::standin(dir).args(words).output().expect("the built program runs");
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn whoever_is_at_fault_for_what_stands_on_a_medium_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("s.toml");
    let suite_name = suite.to_str().unwrap();
    let words = ["test", suite_name, "--board", "pc-seabios", "--accelerator", "tcg", "--image", "selftest"];
    for (steps, exit, expected) in [
        (
            "{ read_file = 'standin:/new', content = 'x', save = 'it' }, { assert = { equal = ['${it}', 'x'] } }",
            0,
            "",
        ),
        ("{ read_file = 'standin:/new', content = 'y' }", 1, "`standin:/new` should say `y`, and says"),
        (
            "{ read_file = 'standin:/new', content_regex = '^y' }",
            1,
            "`standin:/new` should match regex `^y`, and says",
        ),
        ("{ read_file = 'standin:/none' }", 1, "cannot read `standin:/none` on medium"),
        ("{ remove_file = 'boot:/new' }", 1, "there is no partition `boot`, but partition 1 (STANDIN)"),
        ("{ power = 'on' }, { remove_file = 'standin:/new' }", 1, "whose power is on; it must be off"),
        (
            "{ remove_file = 'standin:/new', medium = 'none' }",
            1,
            "the suite asks for what cannot be: pc-seabios has no such medium",
        ),
        ("{ merge_json = 'standin:/new', content = '{}' }", 1, "is no JSON object"),
    ] {
        let text = "title = 'S'\n[[test]]\ntitle = 'T'\nsteps = [\n{ flash = 'image' },\n";
        fs::write(&suite, format!("{text}{steps}]\n")).unwrap();
        let (code, _, said) = standin(dir.path(), &[&words[..], &["--set-file", "STANDIN:/new=x"]].concat());
        assert!(code == Some(exit) && said.contains(expected), "{steps}: {code:?} {said}");
    }
    // A mistake of the command line is told before anything starts.
    for (edit, expected) in [
        ("boot:/new=x", "there is no partition `boot`"),
        ("standin:/new=@/no/such", "cannot read /no/such"),
        ("new=x", "there is no `:/` in it"),
    ] {
        for words in [&words[..], &["up", "pc-seabios", "--accelerator", "tcg"]] {
            let (code, _, said) = standin(dir.path(), &[words, &["--set-file", edit]].concat());
            assert!(code == Some(2) && said.contains(expected), "{words:?} {edit}: {code:?} {said}");
        }
    }
    assert!(support::processes_with(dir.path()).is_empty());
}

#[test]
fn an_image_is_looked_into_whatever_it_is_packed_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("os.img.zst");
    let mut disk = std::io::Cursor::new(standin::io::selftest::SELFTEST_IMAGE.to_vec());
    let mut staged = standin::io::staged::Staged::new(&mut disk).unwrap();
    let write = Edit::Write { to: Place::of_file("1:/folder/a").unwrap(), content: b"\xff\0".to_vec() };
    standin::io::prepare::stage(&mut staged, &[write]).unwrap();
    staged.commit().unwrap();
    let packed = zstd::encode_all(&disk.get_ref()[..], 1).unwrap();
    fs::write(&path, &packed).unwrap();
    let image = path.to_str().unwrap();
    let lines = |words: &[&str]| {
        let (code, said, error) = standin(dir.path(), words);
        assert_eq!(code, Some(0), "{words:?}: {error}");
        let said = String::from_utf8(said).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let listed = lines(&["image", "partitions", image, "--json"]);
    assert_eq!((&listed[0]["number"], &listed[0]["label"]), (&1.into(), &"STANDIN".into()));
    assert_eq!((&listed[0]["file_system"], &listed[0]["kind"]), (&"fat12".into(), &"ef".into()));
    assert_eq!((&listed[1]["scheme"], &listed[1]["partitions"]), (&"mbr".into(), &1.into()));
    let folder = lines(&["image", "ls", image, "standin:/Folder", "--json"]);
    assert_eq!(folder, [serde_json::json!({ "name": "a", "bytes": 2 })]);
    assert_eq!(standin(dir.path(), &["image", "cat", image, "1:/FOLDER/A"]).1, b"\xff\0");
    for (place, expected) in [("1:/b", "there is no `1:/b`"), ("2:/a", "there is no partition `2`")] {
        let (code, printed, said) = standin(dir.path(), &["image", "cat", image, place]);
        assert!(code == Some(2) && printed.is_empty() && said.contains(expected), "{code:?} {said}");
    }
    assert!(fs::read(&path).unwrap() == packed);
}
