//! `standin flash` onto files and loop devices: what it refuses, what it writes, and that it finds every lie of a
//! medium.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use standin::io::image::Image;
use standin::io::medium::{Checks, LARGEST_BYTES, Order, Progress, Target, WriteError, Written};
use support::{processes_with, standin};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// An image with a partition table, runs of data with long and short runs of zeros between, and an end within a block.
fn content() -> Vec<u8> {
    let mut content = vec![0; 9 * MIB + 1000];
    for (start, length) in [(0, MIB), (4 * MIB - 4096, 2 * MIB), (6 * MIB + 4096, 300), (9 * MIB, 1000)] {
        let bytes = content[start..start + length].iter_mut().enumerate();
        bytes.for_each(|(index, byte)| *byte = (index % 251) as u8 + 1);
    }
    // A master boot record: one partition of 1 MiB, 1 MiB from the beginning.
    content[440..512].fill(0);
    content[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    content
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(place.path("os.img"), content()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flash(&self, to: &Path, words: &[&str]) -> Output {
        let mut command = standin(self.dir.path());
        command.arg("flash").arg(self.path("os.img")).arg("--to").arg(to).args(words).output().unwrap()
    }

    #[track_caller]
    fn flashed(&self, to: &Path, words: &[&str]) -> Value {
        let output = self.flash(to, &[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, to: &Path, words: &[&str], expected: &str) {
        expect(&self.flash(to, words), 2, expected);
    }

    fn image(&self) -> Image {
        Image::open(
            &self.path("os.img"),
            &standin::io::cache::Cache::at(&self.path("cache/images")),
            "file",
            u64::MAX,
        )
        .unwrap()
    }

    /// Writes through the library; `progress` acts on the medium while it is written.
    fn write(
        &self,
        to: &Path,
        mut progress: impl FnMut(Progress, &AtomicBool),
    ) -> Result<Written, WriteError> {
        let checks = Checks { largest: LARGEST_BYTES, keep: Vec::new(), is_meant: true };
        let mut target = Target::open(to, &checks).unwrap();
        let cancelled = AtomicBool::new(false);
        let mut progress = |now| progress(now, &cancelled);
        target.write(&self.image(), Order { progress: &mut progress, cancelled: &cancelled })
    }

    fn expect_nothing_left(self) {
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
    }
}

#[track_caller]
fn expect(output: &Output, code: i32, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(expected), "expected `{expected}` in: {said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
}

/// Turns a byte over behind the writer's back.
fn turn_over(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[test]
fn a_file_becomes_the_image_with_its_length_and_its_holes() {
    let place = Place::new();
    let to = place.path("card");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&content()).unwrap();
    fs::write(place.path("os.img"), packed.finish().unwrap()).unwrap();

    let summary = place.flashed(&to, &[]);
    assert!(fs::read(&to).unwrap() == content());
    assert!(fs::metadata(&to).unwrap().blocks() * 512 < 4 * MIB as u64);
    assert_eq!(
        (&summary["type"], &summary["verified"], &summary["bytes"], &summary["extents"]),
        (&"summary".into(), &true.into(), &content().len().into(), &3.into()),
        "{summary}"
    );

    place.refused(&to, &[], "is there already and has 9438184 bytes");
    fs::write(&to, vec![0xff; 12 * MIB]).unwrap();
    place.flashed(&to, &["--yes"]);
    assert!(fs::read(&to).unwrap() == content(), "nothing of the old content shows");
    place.expect_nothing_left();
}

#[test]
fn what_is_no_medium_or_no_good_image_is_refused_and_nothing_is_made() {
    let place = Place::new();
    place.refused(place.dir.path(), &[], "is a folder; expected a block device or a file");
    place.refused(Path::new("/dev/null"), &["--yes"], "is a character device; expected a block device");
    nix::unistd::mkfifo(&place.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.refused(&place.path("pipe"), &["--yes"], "is a pipe; expected a block device or a file");
    place.refused(&place.path("no/card"), &[], "cannot open medium");
    std::os::unix::fs::symlink("nowhere", place.path("dangling")).unwrap();
    place.refused(&place.path("dangling"), &["--yes"], "cannot open medium");
    place.refused(&place.path("os.img"), &["--yes"], "are the same file");
    std::os::unix::fs::symlink("os.img", place.path("link")).unwrap();
    place.refused(&place.path("link"), &["--yes"], "are the same file");
    assert!(fs::read(place.path("os.img")).unwrap() == content());

    place.refused(&place.path("card"), &["--sha256", &"0".repeat(64)], "neither is the expected");
    place.refused(&place.path("card"), &["--largest", "much"], "expected a size such as");
    assert!(!place.path("card").exists());

    let held = File::create(place.path("held")).unwrap();
    let _held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockSharedNonblock).unwrap();
    place.refused(&place.path("held"), &[], "is in use by another process");
    place.expect_nothing_left();
}

#[test]
fn a_medium_that_loses_a_byte_is_faulty_at_that_byte() {
    let place = Place::new();
    let to = place.path("card");
    for offset in [0, 4 * MIB as u64 + 77, content().len() as u64 - 1] {
        fs::write(&to, "old").unwrap();
        let mut done = false;
        let wrote = place.write(&to, |now, _| {
            if now.written == now.total && !done {
                turn_over(&to, offset);
                done = true;
            }
        });
        let error = wrote.expect_err("the byte is wrong");
        let expected = format!("is faulty: at byte {offset} it does not hold what was written");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
    place.expect_nothing_left();
}

#[test]
fn a_base_that_was_changed_is_never_written_as_the_image() {
    let place = Place::new();
    let base = place.image().base().path();
    let to = place.path("card");
    let checks = Checks { largest: LARGEST_BYTES, keep: Vec::new(), is_meant: false };
    let mut target = Target::open(&to, &checks).unwrap();
    let image = place.image();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o644)).unwrap();
    turn_over(&base, 5 * MIB as u64);
    let cancelled = AtomicBool::new(false);
    let wrote = target.write(&image, Order { progress: &mut |_| {}, cancelled: &cancelled });
    assert!(matches!(wrote, Err(WriteError::Damaged { .. })), "{wrote:?}");
    drop(target);
    assert!(!to.exists());
    place.expect_nothing_left();
}

#[test]
fn a_write_that_was_cancelled_leaves_no_new_file_and_says_so() {
    let place = Place::new();
    let to = place.path("card");
    let wrote = place.write(&to, |_, cancelled| cancelled.store(true, Ordering::Relaxed));
    assert!(matches!(wrote, Err(WriteError::Cancelled { .. })), "{wrote:?}");
    assert!(!to.exists());

    // Large enough that it cannot be over before the signal comes, which is sent when it has begun.
    fs::write(place.path("os.img"), vec![0x55; 192 * MIB]).unwrap();
    fs::write(&to, "old").unwrap();
    let mut command = standin(place.dir.path());
    command.arg("flash").arg(place.path("os.img")).arg("--to").arg(&to).arg("--yes");
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while fs::metadata(&to).unwrap().len() < MIB as u64 {
        assert!(begun.elapsed().as_secs() < 60, "it never began to write");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    expect(&child.wait_with_output().unwrap(), 130, "card holds is unknown now; flash it again");
    place.expect_nothing_left();
}

// --- On real block devices: loop devices, which only root makes ---

const NEEDS_LOOP: &str = "it takes root and the kernel's loop devices";

/// A block device over a file, gone when it is dropped.
struct Loop {
    device: PathBuf,
    backing: PathBuf,
}

impl Loop {
    /// Over a file with 16 MiB of old content.
    fn over(backing: PathBuf) -> Self {
        fs::write(&backing, vec![0xff; 16 * MIB]).unwrap();
        let output = Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(&backing).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{NEEDS_LOOP}: {output:?}");
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Self { device, backing }
    }

    /// The partition of the image that it holds; by partx, as not every kernel reads partition tables itself.
    fn partition(&self) -> PathBuf {
        let read = Command::new("partx").arg("--update").arg(&self.device).status();
        assert!(read.unwrap().success());
        PathBuf::from(format!("{}p1", self.device.display()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.device).status();
        assert!(detached.is_ok_and(|status| status.success()), "{} stays", self.device.display());
    }
}

/// Runs a script that may mount; the image is `$1`, and the words follow.
fn in_own_mounts(place: &Place, script: &str, words: &[&Path]) -> Output {
    let mut command = support::in_own_mounts(place.dir.path(), script);
    command.arg(place.path("os.img")).args(words).output().unwrap()
}

#[test]
#[ignore = "needs loop devices; `scripts/test` runs it where they may be made"]
fn a_block_device_holds_the_image_and_its_old_content_behind_it() {
    let place = Place::new();
    let card = Loop::over(place.path("backing"));
    let summary = place.flashed(&card.device, &[]);
    assert_eq!(summary["partitions_read"], true, "{summary}");
    let found = fs::read(&card.backing).unwrap();
    // The image ends within a block, and that block with zeros.
    let end = content().len().next_multiple_of(512);
    assert!(
        found[..content().len()] == content() && found[content().len()..end].iter().all(|byte| *byte == 0)
    );
    assert!(found[end..].iter().all(|byte| *byte == 0xff));

    let link = place.path("by-id");
    std::os::unix::fs::symlink(&card.device, &link).unwrap();
    place.flashed(&link, &["--largest", "16MiB"]);
    place.refused(&link, &["--largest", "15MiB"], "has 16777216 bytes, more than the 15728640");
    place.flashed(&link, &["--largest", "15MiB", "--yes"]);
    place.refused(&card.partition(), &[], "is a partition of /dev/loop");
    place.refused(&card.partition(), &["--yes"], "only 1048576");
    place.expect_nothing_left();
}

#[test]
#[ignore = "needs loop devices; `scripts/test` runs it where they may be made"]
fn a_block_device_that_is_in_use_is_refused_whatever_is_said() {
    let place = Place::new();
    let card = Loop::over(place.path("backing"));
    place.flashed(&card.device, &[]);
    let partition = card.partition();
    let formatted = Command::new("mkfs.ext2").arg("-q").arg(&partition).status().unwrap();
    assert!(formatted.success());
    let before = fs::read(&card.backing).unwrap();

    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    let mounted = r#"mount -o ro "$3" "$4"; "$0" flash "$1" --to "$2" --yes"#;
    let output = in_own_mounts(&place, mounted, &[&card.device, &partition, &folder]);
    expect(&output, 2, &format!("{} is mounted at {}", partition.display(), folder.display()));
    let kept = r#"mount -o ro "$3" "$4"; "$0" --cache "$4/cache" flash "$1" --to "$2" --yes"#;
    let output = in_own_mounts(&place, kept, &[&card.device, &partition, &folder]);
    expect(&output, 2, &format!("is a disk of this host: {}/cache lies on it", folder.display()));
    // Somebody else's mounts are not seen, but the kernel knows of them.
    let unseen = r#"mount -o ro "$3" "$4"; unshare --mount sh -c 'umount "$4"; exec "$0" flash "$1" --to "$2" --yes' "$@""#;
    let unseen = unseen.replace(r#""$@""#, r#""$0" "$@""#);
    let output = in_own_mounts(&place, &unseen, &[&card.device, &partition, &folder]);
    expect(&output, 2, "is in use by another process");

    let locked = r#"exec flock --exclusive "$2" "$0" flash "$1" --to "$2" --yes"#;
    expect(&in_own_mounts(&place, locked, &[&card.device]), 2, "is in use by another process");
    let read_only = r#"blockdev --setro "$2"; code=0; "$0" flash "$1" --to "$2" --yes || code=$?; blockdev --setrw "$2"; exit $code"#;
    expect(&in_own_mounts(&place, read_only, &[&card.device]), 2, "is write-protected");
    assert!(fs::read(&card.backing).unwrap() == before, "nothing was written");

    let swap = r#"mkswap -q "$2" >&2; swapon "$2"; code=0; "$0" flash "$1" --to "$2" --yes || code=$?; swapoff "$2"; exit $code"#;
    expect(&in_own_mounts(&place, swap, &[&card.device]), 2, "is swap of this host");
    place.expect_nothing_left();
}

#[test]
#[ignore = "needs loop devices; `scripts/test` runs it where they may be made"]
fn a_block_device_that_lies_is_faulty_in_data_and_in_zeros() {
    let place = Place::new();
    let card = Loop::over(place.path("backing"));
    for offset in [300, 3 * MIB as u64] {
        let mut done = false;
        let wrote = place.write(&card.device, |now, _| {
            if now.written == now.total && !done {
                turn_over(&card.backing, offset);
                done = true;
            }
        });
        let error = wrote.expect_err("the byte is wrong");
        assert!(error.to_string().contains(&format!("is faulty: at byte {offset} it")), "{error}");
    }
    place.expect_nothing_left();
}

/// A file in ramfs has no holes to be punched, so its loop device makes no zeros by itself.
#[test]
#[ignore = "needs loop devices; `scripts/test` runs it where they may be made"]
fn a_block_device_that_makes_no_zeros_gets_them_written() {
    let place = Place::new();
    fs::create_dir(place.path("ram")).unwrap();
    let script = r#"mount -t ramfs ramfs ram
        head -c 16777216 /dev/zero | tr '\0' '\377' > ram/backing
        device=$(losetup --find --show ram/backing)
        trap 'losetup --detach "$device"' EXIT
        test "$(cat "/sys/block/${device#/dev/}/queue/write_zeroes_max_bytes")" = 0
        "$0" flash "$1" --to "$device"
        cmp --bytes="$(stat -c %s "$1")" "$1" "$device" >&2
        "$0" flash "$1" --to "$device""#;
    let output = in_own_mounts(&place, script, &[]);
    expect(&output, 0, "written and verified");
    place.expect_nothing_left();
}

#[test]
#[ignore = "needs loop devices; `scripts/test` runs it where they may be made"]
fn a_medium_that_fails_in_the_middle_is_named_with_the_byte() {
    let place = Place::new();
    fs::create_dir(place.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=2m tmpfs small\n";
    let file =
        format!(r#"{mount} "$0" flash "$1" --to small/card || code=$?; test ! -e small/card; exit $code"#);
    let output = in_own_mounts(&place, &file, &[]);
    expect(&output, 3, "cannot write medium small/card at byte ");
    expect(&output, 3, "hint: small/card was removed, as it was not whole");

    let device = format!(
        r#"{mount} truncate --size 16M small/backing
        device=$(losetup --find --show small/backing)
        trap 'losetup --detach "$device"' EXIT
        "$0" flash "$1" --to "$device""#
    );
    let output = in_own_mounts(&place, &device, &[]);
    expect(&output, 3, "cannot write medium /dev/loop");
    expect(&output, 3, "holds is unknown now; flash it again before anything uses it");
    place.expect_nothing_left();
}
