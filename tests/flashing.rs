//! Image files through the command: what is expected of them, two runs at once, and one that is killed.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};
use standin::io::cache::{Cache, Identity};
use standin::io::selftest::SELFTEST_IMAGE;
use support::{gzip, large_image, large_pc, processes_with};
use tempfile::TempDir;

/// A folder for run directories, cache, boards and images.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let suite = "title = 'Boot'\n[[test]]\ntitle = 'It boots'\nsteps = [{ flash = 'image' }, { power = 'on' }, \
                     { expect_regex = '^ready$' }]\n";
        fs::write(dir.path().join("boot.toml"), suite).unwrap();
        large_pc(&dir.path().join("boards"));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn images(&self) -> Cache {
        Cache::at(&self.path("cache/images"))
    }

    /// A command that tests `image` on a PC with a large disk.
    fn test(&self, image: &Path) -> Command {
        let mut command = support::standin(self.dir.path());
        command.arg("--boards").arg(self.path("boards"));
        command.args(["test", "--board", "pc-seabios", "--accelerator", "tcg", "--image"]).arg(image);
        command.arg(self.path("boot.toml"));
        command
    }

    /// Flashes `image` and starts nothing.
    fn flash(&self, image: &Path, options: &[&str]) -> Output {
        self.test(image).arg("--print-qemu-args").args(options).output().unwrap()
    }

    fn halves(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.images().dir()).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("new-")).collect()
    }

    fn expect_nothing_left(&self) {
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
        assert_eq!(self.halves(), Vec::<PathBuf>::new());
    }
}

/// How long the reading of the image took, as the report says; null if it stood in the cache.
#[track_caller]
fn read_ms(report: &Path) -> Value {
    let report: Value = serde_json::from_slice(&fs::read(report.join("report.json")).unwrap()).unwrap();
    let image = &report["boards"][0]["setting"]["image"];
    assert!(image["sha256"].is_string(), "{report}");
    image["read_ms"].clone()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_image_with_another_digest_than_expected_is_refused() {
    let place = Place::new();
    let (raw, packed) = (SELFTEST_IMAGE, gzip(SELFTEST_IMAGE));
    let path = place.path("os.img.gz");
    fs::write(&path, &packed).unwrap();
    let refused = |options: &[&str], reason: &str| {
        let output = place.flash(&path, options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(reason), "{options:?}: {output:?}");
    };
    let other = "0".repeat(64);
    let unexpected = format!(
        "image {} has SHA-256 {}, and its content {}; neither is the expected {other}",
        path.display(),
        hex(&packed),
        hex(raw)
    );
    refused(&["--sha256", &other], &unexpected);
    refused(&["--sha256", "abc"], "`abc`, expected of image");
    refused(&["--sha256", &"g".repeat(64)], "is no SHA-256: 64 hexadecimal digits");
    assert_eq!(place.images().list().unwrap(), [], "what is refused is not kept");
    for right in [hex(raw), hex(&packed).to_uppercase()] {
        let output = place.flash(&path, &["--sha256", &right]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    refused(&["--sha256", &other], "neither is the expected");

    let up = |words: &[&str]| {
        let output =
            support::standin(place.dir.path()).args(["up", "pc-seabios"]).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = up(&["--sha256", &other, "--image", path.to_str().unwrap()]);
    assert!(told.contains(&unexpected), "{told}");
    assert!(up(&["--sha256", &other]).contains("--image <FILE>"));
    let told = up(&["--sha256", &other, "--image", "selftest"]);
    assert!(told.contains("`selftest` is part of standin"), "{told}");
    place.expect_nothing_left();
}

#[test]
fn two_runs_that_flash_the_same_new_image_read_it_once() {
    let place = Place::new();
    let path = place.path("os.img.gz");
    fs::write(&path, large_image(16)).unwrap();
    support::settle(&path);
    // Both are held at the door until both have come.
    let identity = Identity::of(&path, &fs::File::open(&path).unwrap()).unwrap();
    let door = place.images().claim(&identity).unwrap();
    let runs: Vec<_> = ["one", "two"]
        .map(|name| {
            let mut command = place.test(&path);
            command.args(["-v", "--report"]).arg(place.path(name));
            (name, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .into_iter()
        .collect();
    let waiting: Vec<_> = runs.into_iter().map(|(name, child)| (name, wait_until_it_waits(child))).collect();
    drop(door);
    let times: Vec<_> = waiting
        .into_iter()
        .map(|(name, (mut child, mut rest))| {
            let mut said = String::new();
            std::io::Read::read_to_string(&mut rest, &mut said).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
            read_ms(&place.path(name))
        })
        .collect();
    assert_eq!(times.iter().filter(|time| time.is_u64()).count(), 1, "{times:?}");
    assert_eq!(times.iter().filter(|time| time.is_null()).count(), 1, "{times:?}");
    assert_eq!(place.images().list().unwrap().len(), 1);
    assert_eq!(place.images().verify().unwrap(), []);
    place.expect_nothing_left();
}

/// Reads what a run says until it waits for another one; it is left running.
fn wait_until_it_waits(mut child: Child) -> (Child, impl BufRead) {
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut all = String::new();
    while !all.contains("waiting for another process") {
        let read = said.read_line(&mut all).unwrap();
        assert_ne!(read, 0, "it ended: {all}");
    }
    (child, said)
}

#[test]
fn an_insertion_that_was_killed_is_never_used() {
    let place = Place::new();
    let path = place.path("os.img.gz");
    fs::write(&path, large_image(256)).unwrap();
    support::settle(&path);
    for swept_by in ["prune", "the next run"] {
        let mut child = place.test(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let has_begun = || {
            let halves = place.halves();
            halves.iter().any(|half| fs::metadata(half.join("base.img")).is_ok_and(|base| base.len() > 0))
        };
        while !has_begun() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it was killed");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(place.halves().len(), 1, "it was killed in the middle");
        assert_eq!(place.images().list().unwrap(), []);
        if swept_by == "prune" {
            place.images().prune(u64::MAX).unwrap();
            place.expect_nothing_left();
        }
    }
    let output = place.test(&path).arg("--report").arg(place.path("report")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(read_ms(&place.path("report")).is_u64());
    assert_eq!(place.images().list().unwrap().len(), 1);
    assert_eq!(place.images().verify().unwrap(), []);
    place.expect_nothing_left();
}
