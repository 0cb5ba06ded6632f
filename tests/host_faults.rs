//! A host that fails is told apart from a DUT that fails.

mod support;

const FULL_SUITE: &str = r#"
title = "Full"
image = "selftest"
[[test]]
title = "It writes more than this host has"
steps = [
  { flash = "image" },
  { power = "on" },
  { expect = "ready" },
  { run = "write 4096 32768 x; flush" },
]
"#;

/// The DUT writes 16 MiB to a medium whose file lies on a file system of 5 MiB.
#[test]
#[ignore = "needs to mount a small file system; `scripts/test` runs it where that may be done"]
fn a_full_disk_of_the_host_breaks_the_run_and_does_not_fail_the_dut() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("full.toml"), FULL_SUITE).unwrap();
    std::fs::create_dir(dir.path().join("small")).unwrap();
    let script = r#"mount -t tmpfs -o size=5m tmpfs small; exec "$0" --runs small "$@""#;
    let output = support::in_own_mounts(dir.path(), script)
        .args(["test", "full.toml", "--board", "pc-seabios", "--accelerator", "tcg"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("this host's disk is full, so medium `disk` takes no more"), "{said}");
}
