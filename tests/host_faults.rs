//! A host that fails is told apart from a DUT that fails.

mod support;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use standin::deadline::Deadline;
use standin::io::http::{HttpError, Server};
use standin::io::selftest::SELFTEST_IMAGE;

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

/// A worker whose uploads lie on a file system of 8 MiB is sent 12 MiB, and then an image that fits.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs to mount a small file system; `scripts/test` runs it where that may be done"]
async fn an_upload_that_fills_the_disk_is_refused_and_the_next_one_is_flashed() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let socket = dir.path().join("worker.sock");
    // The mount lives in a namespace of its own and goes with it.
    let mut worker = Command::new("unshare")
        .args(["--mount", "sh", "-c", r#"mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@""#, "sh"])
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_standin"))
        .args(["--runs".as_ref(), small.as_os_str(), "serve".as_ref(), "pc-seabios".as_ref()])
        .args(["--accelerator".as_ref(), "tcg".as_ref(), "--listen".as_ref(), socket.as_os_str()])
        .env("STANDIN_CACHE", dir.path().join("cache"))
        .spawn()
        .unwrap();
    let server = Server::Unix(socket);
    let ask = async |method: &str, path: &str, body: Vec<u8>| {
        let (status, text) = server.ask(method.parse().unwrap(), path, &[], body).await?;
        Ok::<_, HttpError>((status.as_u16(), String::from_utf8_lossy(&text).into_owned()))
    };
    let deadline = Deadline::after(Duration::from_secs(60));
    while ask("GET", "/state", Vec::new()).await.is_err() {
        assert!(!deadline.is_past(), "the worker did not begin to answer");
    }
    let (status, text) = ask("POST", "/dut/sendImage", vec![1; 12 << 20]).await.unwrap();
    assert!(status == 507 && text.contains("No space left on device"), "{status} {text}");
    ask("POST", "/dut/flashImage", Vec::new()).await.unwrap();
    assert_eq!(ask("GET", "/dut/flashState", Vec::new()).await.unwrap().1, "ERROR");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(SELFTEST_IMAGE).unwrap();
    let (status, text) = ask("POST", "/dut/sendImage", packed.finish().unwrap()).await.unwrap();
    assert_eq!(status, 200, "{text}");
    ask("POST", "/dut/flashImage", Vec::new()).await.unwrap();
    assert_eq!(ask("GET", "/dut/flashState", Vec::new()).await.unwrap().1, "DONE");
    let pid = nix::unistd::Pid::from_raw(worker.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(worker.wait().unwrap().success());
}
