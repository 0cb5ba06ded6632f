//! A host that fails is told apart from a DUT that fails.

use std::process::Command;

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
    let suite = dir.path().join("full.toml");
    std::fs::write(&suite, FULL_SUITE).unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    // The mount lives in a namespace of its own and goes with it.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", r#"mount -t tmpfs -o size=5m tmpfs "$1" && shift && exec "$@""#, "sh"])
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_standin"))
        .args(["--runs".as_ref(), small.as_os_str(), "test".as_ref(), suite.as_os_str()])
        .args(["--board", "pc-seabios", "--accelerator", "tcg"])
        .env("STANDIN_CACHE", dir.path().join("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("this host's disk is full, so medium `disk` takes no more"), "{said}");
}
