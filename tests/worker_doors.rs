//! Who may use a worker, for how long, and how it is told what to be: leases, tokens, sockets, variables.

#[path = "support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::worker::{Raw, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Takes the worker, and returns the id of the lease.
async fn take(worker: &Worker) -> String {
    let request = hyper::Request::get("/start").body(String::new()).unwrap();
    let answer = worker.server.send(request).await.unwrap();
    let id = answer.headers["x-lease-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.whole().await.unwrap(), "OK");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_who_vanishes_loses_the_device_and_the_log_says_so() {
    let worker = Worker::start_with(dir(), &["pc-seabios", "--heartbeat", "2s"], &[]).await;
    let lost = take(&worker).await;
    worker.flash_selftest().await;
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    let taken = Instant::now();
    while taken.elapsed() < Duration::from_secs(3) {
        assert_eq!(worker.get("/heartbeat").await.1, "OK");
        assert_eq!(worker.get("/state").await.1, "BUSY");
    }
    let silent = Instant::now();
    while worker.get("/state").await.1 == "BUSY" {
        assert!(silent.elapsed() < Duration::from_secs(30), "{}", worker.stderr());
    }
    assert!(silent.elapsed() > Duration::from_millis(1500));
    assert!(worker.stderr().contains("the holder was not heard of for too long"), "{}", worker.stderr());
    assert_eq!(worker.get("/dut/flashState").await.1, "IDLE");
    assert_eq!(worker.diagnostics().await["power"], "off");
    // The next one is not touched by what the one before them still says.
    let held = take(&worker).await;
    for (method, path) in [("GET", "/heartbeat"), ("POST", "/teardown"), ("POST", "/dut/on")] {
        let answer = worker.ask(method, path, &[("x-lease-id", &lost)], Vec::new()).await;
        assert_eq!(answer.0, 409, "{path}: {}", answer.1);
    }
    assert_eq!(worker.get("/state").await.1, "BUSY");
    assert_eq!(worker.ask("POST", "/teardown", &[("x-lease-id", &held)], Vec::new()).await.1, "OK");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enforces_leases_lets_only_the_holder_use_the_device() {
    let worker = Worker::start_with(dir(), &["pc-seabios", "--enforce-leases"], &[]).await;
    let id = take(&worker).await;
    for (method, path) in [("GET", "/dut/diagnostics"), ("POST", "/dut/off"), ("POST", "/teardown")] {
        let without = worker.ask(method, path, &[], Vec::new()).await;
        let wrong = worker.ask(method, path, &[("x-lease-id", "0123")], Vec::new()).await;
        assert_eq!((without.0, wrong.0), (409, 409), "{path}");
        let right = worker.ask(method, path, &[("x-lease-id", &id)], Vec::new()).await;
        assert_eq!(right.0, 200, "{path}: {}", right.1);
    }
    assert_eq!(worker.get("/state").await.1, "IDLE", "asking whose it is needs no lease");
    let (status, text) = worker.ask("GET", "/dut/serial", &[("x-lease-id", &id)], Vec::new()).await;
    assert!(status == 500 && text.contains("never on"), "the last holder may still read the log: {text}");
    take(&worker).await;
    assert_eq!(worker.ask("GET", "/dut/serial", &[("x-lease-id", &id)], Vec::new()).await.0, 409);
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_others_reach_asks_for_its_token() {
    let closed = dir();
    let mut open = Worker::command(closed.path(), &["pc-seabios", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.status().unwrap().code(), Some(2));
    let said = std::fs::read_to_string(closed.path().join("worker.stderr")).unwrap();
    assert!(said.contains("can be reached from beyond this host") && said.contains("--token-file"), "{said}");
    let mut guessable = Worker::command(closed.path(), &["pc-seabios"]);
    assert_eq!(guessable.env("STANDIN_TOKEN", "short").status().unwrap().code(), Some(2));

    let token = "correct-horse-battery";
    let file = closed.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let arguments = ["pc-seabios", "--listen", "0.0.0.0:0", "--token-file", file.to_str().unwrap()];
    let worker = Worker::start_on_tcp(&arguments, &[]).await;
    for (path, header) in [
        ("/state", ""),
        ("/nothing", "Bearer wrong-horse-battery"),
        ("/start", "Basic correct-horse-battery"),
        ("/dut/serial", "Bearer correct-horse-batter"),
    ] {
        let answer = worker.ask("GET", path, &[("authorization", header)], Vec::new()).await;
        assert_eq!(answer.0, 401, "{path} {header}: {}", answer.1);
        assert!(!answer.1.contains(token));
    }
    let bearer = format!("Bearer {token}");
    let answer = worker.ask("GET", "/state", &[("authorization", &bearer)], Vec::new()).await;
    assert_eq!(answer, (200, "IDLE".to_owned()));
    assert!(!worker.stderr().contains(token));
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_its_owners_unless_somebody_says_otherwise() {
    for (arguments, mode) in
        [(vec!["pc-seabios"], 0o600), (vec!["pc-seabios", "--socket-mode", "660"], 0o660)]
    {
        let worker = Worker::start_with(dir(), &arguments, &[]).await;
        let about = std::fs::metadata(worker.dir.path().join("worker.sock")).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, mode);
        worker.close_and_expect_nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stall_do_not_keep_others_out() {
    let worker = Worker::start_on_tcp(&["pc-seabios", "--idle-limit", "5s"], &[]).await;
    worker.flash_selftest().await;
    let beginnings = [
        "",
        "GET /sta",
        "GET /state HTTP/1.1\r\nhost: worker\r\nx-never: ",
        "POST /dut/network HTTP/1.1\r\nhost: worker\r\ncontent-length: 50\r\n\r\n{",
        "POST /dut/flash HTTP/1.1\r\nhost: worker\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    let mut stalled = Vec::new();
    for index in 0..300 {
        let mut connection = worker.connect().await;
        connection.write_all(beginnings[index % beginnings.len()].as_bytes()).await.unwrap();
        stalled.push(connection);
    }
    let asked = Instant::now();
    for _ in 0..20 {
        assert_eq!(worker.get("/state").await.1, "IDLE");
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    // Also when they are more than there are places: who has asked nothing gives way.
    for _ in 0..400 {
        stalled.push(worker.connect().await);
    }
    assert_eq!(worker.get("/state").await.1, "IDLE");
    // Those in the middle of a body are closed by the idle limit.
    let mut closed: std::pin::Pin<Box<dyn Raw>> = stalled.remove(3);
    let mut heard = String::new();
    support::secs(30).bound(closed.read_to_string(&mut heard)).await.unwrap().unwrap();
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    drop(stalled);
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_leviathan_worker_are_another_spelling() {
    let variables = [
        ("WORKER_TYPE", "qemu"),
        ("OS_IMAGE_CHUNK_SIZE_MIB", "7"),
        ("FLASH_TIMEOUT_TRIES", "99"),
        ("QEMU_ARCH", "x86_64"),
        ("QEMU_CPUS", "2"),
        ("QEMU_MEMORY", "192M"),
        ("QEMU_INTERNAL_STORAGE", "true"),
        ("QEMU_FORCE_RAID", ""),
        ("QEMU_SECUREBOOT", "0"),
        ("QEMU_BRIDGE_NAME", "br0"),
        ("SCREEN_CAPTURE", "true"),
        ("BAUD_RATE", "115200"),
        ("BALENA_DEVICE_UUID", "0123abc"),
    ];
    let arguments = ["pc-seabios", "--feature", "modem=true", "--feature", "dut=my-board"];
    let worker = Worker::start_with(dir(), &arguments, &variables).await;
    let contract: Value = serde_json::from_str(&worker.get("/contract").await.1).unwrap();
    let features = json!({ "dut": "my-board", "screencapture": false, "modem": true });
    assert_eq!(contract, json!({ "workerType": "qemu", "supportedFeatures": features, "uuid": "0123abc" }));
    assert_eq!(worker.get("/dut/sendImage/chunkSize").await.1, "{\"chunkMiB\":7}");
    assert_eq!(worker.post("/dut/flashImage", "").await.1, "{\"timeoutTries\":99}");
    worker.flash_selftest().await;
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    let command_line = |process: &PathBuf| std::fs::read(process.join("cmdline")).unwrap_or_default();
    let lines =
        support::processes_with(worker.dir.path()).iter().map(command_line).collect::<Vec<_>>().concat();
    let lines = String::from_utf8_lossy(&lines).replace('\0', " ");
    assert!(lines.contains("-smp 2 -m 192M"), "{lines}");
    let said = worker.stderr();
    assert!(said.contains("QEMU_BRIDGE_NAME makes no difference"), "{said}");
    assert!(said.contains("SCREEN_CAPTURE makes no difference"), "{said}");
    worker.close_and_expect_nothing_left().await;
}

#[test]
fn a_variable_that_makes_no_sense_is_named() {
    let place = dir();
    let rows: [(&[&str], &str, &str, &str); 15] = [
        (&["pc-seabios"], "WORKER_TYPE", "testbot_hat", "no kind of worker"),
        (&["pc-seabios"], "WORKER_TYPE", "autokit", "cannot drive real boards"),
        (&["pc-seabios"], "WORKER_PORT", "http", "neither a port"),
        (&["pc-seabios"], "OS_IMAGE_CHUNK_SIZE_MIB", "many", "invalid digit"),
        (&["pc-seabios"], "OS_IMAGE_CHUNK_SIZE_MIB", "0", "not within 1 and 4096"),
        (&["pc-seabios"], "FLASH_TIMEOUT_TRIES", "1", "not within 2 and 10000"),
        (&["pc-seabios"], "BAUD_RATE", "fast", "invalid digit"),
        (&[], "QEMU_ARCH", "riscv64", "neither `x86_64` nor `aarch64`"),
        (&["pc-seabios"], "QEMU_ARCH", "aarch64", "pc-seabios has x86_64"),
        (&["pc-seabios"], "QEMU_CPUS", "0", "at least 1"),
        (&["pc-seabios"], "QEMU_MEMORY", "lots", "no size"),
        (&["pc-seabios"], "QEMU_FORCE_RAID", "1", "RAID"),
        (&["pc-seabios"], "QEMU_SECUREBOOT", "true", "secure boot"),
        (&["generic-amd64"], "QEMU_EXTERNAL_STORAGE", "false", "flashed by its medium `usb`"),
        (&["generic-amd64"], "QEMU_INTERNAL_STORAGE", "maybe", "neither `true` nor `false`"),
    ];
    for (arguments, name, value, why) in rows {
        let exit = Worker::command(place.path(), arguments).env(name, value).status().unwrap();
        let said = std::fs::read_to_string(place.path().join("worker.stderr")).unwrap();
        assert_eq!(exit.code(), Some(2), "{name}={value}: {said}");
        assert!(said.contains(name) && said.contains(why), "{name}={value}: {said}");
    }
    assert!(!place.path().join("runs").exists());
}

#[test]
fn the_work_directory_of_leviathan_worker_takes_the_run_directory() {
    let place = dir();
    let work = place.path().join("work");
    let mut command = Worker::command(place.path(), &["pc-seabios", "--listen", "127.0.0.1:0"]);
    let mut child = command.env_remove("STANDIN_RUNS").env("WORKDIR", &work).spawn().unwrap();
    let deadline = support::secs(60);
    let stderr = place.path().join("worker.stderr");
    while !std::fs::read_to_string(&stderr).unwrap().contains("waits at") {
        assert!(!deadline.is_past());
    }
    let is_run = |name: &str| name.starts_with("standin-");
    let runs =
        || std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(runs().filter(|name| is_run(name)).count(), 1);
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(runs().filter(|name| is_run(name)).count(), 0);
}

/// A program that watches QEMU itself, and sends JSON without a newline.
struct Watcher(UnixStream);

impl Watcher {
    async fn connect(path: &std::path::Path) -> Self {
        let mut watcher = Self(UnixStream::connect(path).await.unwrap());
        watcher.hear("\"QMP\"").await;
        watcher.say("{\"execute\":\"qmp_capabilities\"}").await;
        watcher.hear("\"return\"").await;
        watcher
    }

    async fn say(&mut self, json: &str) {
        self.0.write_all(json.as_bytes()).await.unwrap();
    }

    /// Reads until these words come.
    async fn hear(&mut self, words: &str) {
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains(words) {
            let read = support::secs(30).bound(self.0.read_buf(&mut heard)).await.unwrap().unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_watch_qemu_themselves_have_a_monitor_of_their_own_while_the_power_is_on() {
    let place = dir();
    let path = place.path().join("qmp.sock");
    let arguments = ["pc-seabios", "--qmp", path.to_str().unwrap()];
    let worker = Worker::start_with(dir(), &arguments, &[]).await;
    worker.flash_selftest().await;
    assert!(!path.exists());
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    for _ in 0..3 {
        let mut watcher = Watcher::connect(&path).await;
        // Our own control goes on beside it.
        assert_eq!(worker.post("/dut/serial/exec", "{\"cmd\": \"true\"}").await.0, 200);
        worker.post("/dut/serial/exec", "{\"cmd\": \"reboot\"}").await;
        watcher.hear("\"RESET\"").await;
    }
    assert_eq!(worker.post("/dut/off", "").await.1, "OK");
    assert!(!path.exists());
    // What such a program does is its own doing.
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    let mut watcher = Watcher::connect(&path).await;
    watcher.say("{\"execute\":\"quit\"}").await;
    let deadline = support::secs(30);
    while worker.diagnostics().await["power"] != "unknown" {
        assert!(!deadline.is_past());
    }
    let told = worker.diagnostics().await.to_string();
    assert!(told.contains("somebody told QEMU to `quit`, at its second monitor"), "{told}");
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    assert_eq!(worker.diagnostics().await["power"], "running");
    // A worker that is killed leaves the socket; the next one replaces it, and nothing else.
    let dir = worker.kill();
    let next = Worker::start_with(dir, &arguments, &[]).await;
    next.flash_selftest().await;
    let deadline = support::secs(30);
    while next.post("/dut/on", "").await.0 != 200 {
        assert!(!deadline.is_past(), "{}", next.stderr());
    }
    Watcher::connect(&path).await;
    assert_eq!(next.post("/dut/off", "").await.1, "OK");
    std::fs::write(&path, "mine").unwrap();
    let (status, text) = next.post("/dut/on", "").await;
    assert!(status == 500 && text.contains("something else is there"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    next.close_and_expect_nothing_left().await;
}
