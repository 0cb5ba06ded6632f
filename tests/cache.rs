//! `standin cache` as people and CI see it: runs fill the cache, damage in it is found, and it can be emptied.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::processes_with;
use tempfile::TempDir;

/// Run directories and a cache of its own.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("cache/images")
    }

    fn standin(&self, words: &[&str]) -> Output {
        support::standin(self.dir.path()).args(words).output().expect("the built program runs")
    }

    #[track_caller]
    fn smoke(&self) {
        let output = self.standin(&["test", "smoke", "--board", "pc-seabios", "--accelerator", "tcg"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    /// The objects of `standin cache … --json`, and its summary.
    #[track_caller]
    fn cache(&self, words: &[&str], exit: i32) -> (Vec<Value>, Value) {
        let output = self.standin(&[&["cache"], words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(exit), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("the output is text");
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect();
        let summary = lines.pop().expect("there is a summary");
        assert_eq!(summary["type"], "summary", "{text}");
        (lines, summary)
    }

    /// The digest of the only base.
    #[track_caller]
    fn only_base(&self) -> String {
        let (bases, summary) = self.cache(&[], 0);
        assert_eq!(bases.len(), 1, "{bases:?}");
        assert_eq!((&bases[0]["type"], &bases[0]["in_use"]), (&"base".into(), &false.into()));
        assert_eq!((&summary["bases"], &summary["limit_bytes"]), (&1.into(), &(20u64 << 30).into()));
        assert_eq!(summary["disk_bytes"], bases[0]["disk_bytes"]);
        bases[0]["digest"].as_str().expect("a digest is text").to_owned()
    }

    fn expect_nothing_left(&self) {
        assert_eq!(processes_with(self.dir.path()), Vec::<PathBuf>::new());
    }
}

/// Turns over a byte, as a bad disk does: no time stamp tells of it.
fn damage(base: &Path) {
    fs::set_permissions(base, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(base).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[!byte[0]], 0).unwrap();
    file.set_modified(before).unwrap();
}

#[test]
fn a_run_fills_the_cache_and_prune_empties_it() {
    let place = Place::new();
    assert_eq!(place.cache(&["list"], 0).0, Vec::<Value>::new());
    place.smoke();
    let digest = place.only_base();

    let table = String::from_utf8(place.standin(&["cache", "list"]).stdout).unwrap();
    assert!(
        table.lines().nth(1).is_some_and(|row| row.starts_with(&digest) && row.ends_with("selftest")),
        "{table}"
    );
    assert_eq!(place.cache(&["prune"], 0).1["removed"], 0, "it is far below the limit");
    assert_eq!(place.cache(&["prune", "--limit", "1GiB"], 0).1["removed"], 0);

    let (removed, summary) = place.cache(&["prune", "--all"], 0);
    assert_eq!(removed.len(), 1);
    assert_eq!((&removed[0]["type"], &removed[0]["digest"]), (&"removed".into(), &digest.into()));
    assert_eq!((&summary["bases"], &summary["disk_bytes"]), (&0.into(), &0.into()));
    assert_eq!(place.cache(&[], 0).0, Vec::<Value>::new());
    place.smoke();
    place.expect_nothing_left();
}

#[test]
fn a_damaged_base_is_found_and_never_used_again() {
    let place = Place::new();
    place.smoke();
    let digest = place.only_base();
    let (damaged, summary) = place.cache(&["verify"], 0);
    assert_eq!((damaged.len(), &summary["bases"]), (0, &1.into()));

    let base = place.images().join(&digest).join("base.img");
    damage(&base);
    let (damaged, summary) = place.cache(&["verify"], 3);
    assert_eq!((&damaged[0]["type"], &damaged[0]["digest"]), (&"damaged".into(), &digest.clone().into()));
    assert_eq!((&summary["damaged"], &summary["removed"]), (&1.into(), &1.into()));
    assert!(!base.exists());

    place.smoke();
    assert_eq!(place.only_base(), digest);
    assert_eq!(place.cache(&["verify"], 0).1["damaged"], 0);
    place.expect_nothing_left();
}

#[test]
fn a_base_in_use_stays_and_people_are_told() {
    let place = Place::new();
    place.smoke();
    let digest = place.only_base();
    let base = place.images().join(&digest).join("base.img");
    damage(&base);
    let held = standin::io::cache::Cache::at(&place.images()).hold(&digest).unwrap().unwrap();

    assert_eq!(place.cache(&[], 0).0[0]["in_use"], true);
    let pruned = place.standin(&["cache", "prune", "--all"]);
    assert!(String::from_utf8_lossy(&pruned.stderr).contains("what is left is in use"), "{pruned:?}");
    let verified = place.standin(&["cache", "verify"]);
    assert_eq!(verified.status.code(), Some(3));
    let told = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(told.contains(&format!("{digest}: damaged; in use")), "{verified:?}");
    assert!(base.exists());
    let again = standin::io::cache::Cache::at(&place.images()).hold(&digest).unwrap();
    assert!(again.is_none(), "nobody begins to use it");

    drop(held);
    assert_eq!(place.cache(&["verify"], 3).1["removed"], 1);
    assert!(!base.exists());
}

#[test]
fn no_cache_is_an_empty_one_and_none_is_made() {
    let place = Place::new();
    for words in [&["list"][..], &["prune", "--all"], &["verify"]] {
        place.cache(words, 0);
    }
    assert!(!place.images().exists());
}

#[test]
fn the_limit_is_a_setting() {
    let place = Place::new();
    place.smoke();
    assert_eq!(place.cache(&["list", "--cache-limit", "5GiB"], 0).1["limit_bytes"], 5u64 << 30);
    let said =
        support::standin(place.dir.path()).arg("cache").env("STANDIN_CACHE_LIMIT", "6MiB").output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains(" of 6.0 MiB in "), "{said:?}");
    let (_, pruned) = place.cache(&["prune", "--cache-limit", "0B"], 0);
    assert_eq!((&pruned["removed"], &pruned["limit_bytes"]), (&1.into(), &0.into()));
    for nonsense in ["much", "-1GiB", "20", ""] {
        let refused = support::standin(place.dir.path())
            .arg("cache")
            .env("STANDIN_CACHE_LIMIT", nonsense)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2), "{nonsense}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("expected a size such as"), "{refused:?}");
    }
}

#[test]
fn what_cannot_be_done_is_told_with_its_place() {
    let place = Place::new();
    let wrong = place.standin(&["cache", "prune", "--limit", "much"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("expected a size such as"), "{wrong:?}");
    assert_eq!(place.standin(&["cache", "prune", "--all", "--limit", "1GiB"]).status.code(), Some(2));

    fs::create_dir_all(place.images().parent().unwrap()).unwrap();
    fs::write(place.images(), "no folder").unwrap();
    let broken = place.standin(&["cache"]);
    assert_eq!(broken.status.code(), Some(3));
    let told = format!("cannot list the image cache in `{}`: ", place.images().display());
    assert!(String::from_utf8_lossy(&broken.stderr).contains(&told), "{broken:?}");
}
