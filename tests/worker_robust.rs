//! What no client should do, and some do: a worker killed at any moment, and requests that make no sense.
//!
//! `STANDIN_WORKER_KILLS` and `STANDIN_WORKER_NONSENSE` make them many; `scripts/endurance` does.

#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::{Worker, gzip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Numbers that look random and are the same each time: splitmix64, by its published constants.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap();
        of[index]
    }
}

fn count(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// All that a client does with a worker; `false` if the worker went away meanwhile.
async fn use_it(worker: &Worker, image: &[u8]) -> bool {
    let chunk = [("x-chunk-index", "0"), ("x-total-chunks", "1")];
    let exec = b"{\"cmd\": \"uname -m\"}".as_slice();
    let steps: [(&str, &str, Headers, &[u8]); 10] = [
        ("GET", "/start", &[], b""),
        ("POST", "/dut/network", &[], b"{\"wired\": {\"nat\": true}}"),
        ("POST", "/dut/sendImage", &chunk, image),
        ("POST", "/dut/flashImage", &[], b""),
        ("GET", "/dut/flashState", &[], b""),
        ("POST", "/dut/on", &[], b""),
        ("POST", "/dut/serial/exec", &[], exec),
        ("POST", "/dut/off", &[], b""),
        ("GET", "/dut/serial", &[], b""),
        ("POST", "/teardown", &[], b""),
    ];
    for (method, path, headers, body) in steps {
        match worker.server.ask(method.parse().unwrap(), path, headers, body.to_vec()).await {
            Ok((status, text)) => assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&text)),
            Err(_) => return false,
        }
    }
    true
}

fn has_flash_file(dir: &Path) -> bool {
    let runs = std::fs::read_dir(dir.join("runs")).unwrap().flatten();
    runs.filter(|entry| entry.path().extension().is_some_and(|end| end == "flash")).count() > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_at_any_moment_leaves_nothing_but_an_error_to_the_next() {
    let mut dice = Dice(4);
    let image = gzip(SELFTEST_IMAGE);
    let mut worker = Worker::start("pc-seabios").await;
    // How long a whole conversation takes here and now.
    let begun = Instant::now();
    assert!(use_it(&worker, &image).await);
    let whole = u64::try_from(begun.elapsed().as_micros()).unwrap();
    for _ in 0..count("STANDIN_WORKER_KILLS", 6) {
        let moment = Duration::from_micros(dice.below(whole));
        let pid = worker.pid();
        tokio::join!(use_it(&worker, &image), async {
            // sleep: the moment of the kill is what is tested.
            tokio::time::sleep(moment).await;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        });
        let dir = worker.kill();
        let accepted = has_flash_file(dir.path());
        worker = Worker::start_in(dir, "pc-seabios").await;
        // Its QEMU dies with it; the kernel may need a moment.
        let deadline = support::secs(30);
        while support::processes_with(worker.dir.path()).len() > 1 {
            let left: Vec<PathBuf> = support::processes_with(worker.dir.path());
            assert!(!deadline.is_past(), "killed after {moment:?}: {left:?}");
        }
        let state = worker.get("/dut/flashState").await.1;
        assert_eq!(state, if accepted { "ERROR" } else { "IDLE" }, "killed after {moment:?}");
        assert_eq!(worker.get("/state").await.1, "IDLE");
    }
    assert!(use_it(&worker, &image).await, "the next client is served");
    worker.close_and_expect_nothing_left().await;
}

const PATHS: [&str; 24] = [
    "/state",
    "/heartbeat",
    "/contract",
    "/proxy",
    "/dut/network",
    "/dut/ip",
    "/dut/diagnostics",
    "/dut/serial",
    "/dut/keyboard",
    "/dut/capture",
    "/dut/liveStream",
    "/dut/flashState",
    "/dut/sendImage/chunkSize",
    "/dut/sendImage",
    "/dut/sendImage",
    "/dut/flash",
    "/dut/flashImage/",
    "//dut///sendImage",
    "/dut/../../etc/passwd",
    "/%2e%2e/%00",
    "*",
    "http://elsewhere/state",
    "/dut/sendImage?x-chunk-index=0",
    "/\u{e4}",
];

const BODIES: [&[u8]; 9] = [
    b"",
    b"{",
    b"{}",
    b"null",
    b"[[[[[[[[",
    b"{\"target\": 5, \"key\": [], \"cmd\": {}}",
    b"{\"target\": \"$(reboot).local\", \"port\": \"; reboot\"}",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    b"\xff\xfe\x00\x00",
];

/// A request as no client should send it. None of them asks for a flash of what was uploaded, which is no nonsense.
fn nonsense(dice: &mut Dice) -> Vec<u8> {
    let method = dice.one(&["GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "BREW", "G\u{0}T", ""]);
    let version = dice.one(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9", ""]);
    let body = dice.one(&BODIES);
    let mut request = format!("{method} {} {version}\r\n", dice.one(&PATHS)).into_bytes();
    let numbers =
        ["0", "0", "1", "-1", "abc", "", " 7", "18446744073709551615", "99999999999999999999", "0x1"];
    for name in ["x-chunk-index", "x-total-chunks", "x-lease-id"] {
        if dice.below(3) == 0 {
            request.extend_from_slice(format!("{name}: {}\r\n", dice.one(&numbers)).as_bytes());
        }
    }
    match dice.below(6) {
        0 => request.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        1 => request.extend_from_slice(format!("content-length: {}\r\n", dice.one(&numbers)).as_bytes()),
        2 => request.extend_from_slice(b"content-length: 1000000\r\n"),
        _ => request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes()),
    }
    if dice.below(8) == 0 {
        let long = "x".repeat(usize::try_from(dice.below(100_000)).unwrap());
        request.extend_from_slice(format!("x-long: {long}\r\n").as_bytes());
    }
    request.extend_from_slice(b"host: worker\r\nconnection: close\r\n\r\n");
    request.extend_from_slice(body);
    // Cut off, or with a byte changed.
    let place = usize::try_from(dice.below(request.len() as u64)).unwrap();
    match dice.below(6) {
        0 => request.truncate(place),
        1 => request[place] ^= 1 << dice.below(8),
        _ => {}
    }
    request
}

/// Resident memory in KiB, and open descriptors.
fn size(pid: i32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (resident, std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

async fn send_nonsense(worker: &Worker, dice: &mut Dice, count: u64) {
    for _ in 0..count {
        let request = nonsense(dice);
        let mut connection = worker.connect().await;
        let _ = connection.write_all(&request).await;
        // What is cut off would be waited for until the idle limit; a client that hangs up is nonsense enough.
        let mut heard = [0; 12];
        let patience = support::secs(20).within(Duration::from_millis(20));
        if let Ok(Ok(_)) = patience.bound(connection.read_exact(&mut heard)).await {
            let heard = String::from_utf8_lossy(&heard);
            assert!(heard.starts_with("HTTP/1."), "{heard} to {}", String::from_utf8_lossy(&request));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_neither_ends_nor_grows_a_worker_and_does_nothing_to_the_device() {
    let all = count("STANDIN_WORKER_NONSENSE", 2000);
    // It has every part: what is asked of a screen or a keyboard is answered by one.
    // glibc keeps memory for each thread, which grows with chance until all of them have been busy. With one such
    // place for all, what grows is what was not given back.
    let one_arena = [("MALLOC_ARENA_MAX", "1")];
    let worker = Worker::start_with(tempfile::tempdir().unwrap(), &["generic-amd64"], &one_arena).await;
    worker.flash_selftest().await;
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    let power = |told: &serde_json::Value| (told["power"].clone(), told["address"].clone());
    let device = power(&worker.diagnostics().await);
    let mut dice = Dice(20_000);
    // What grows once, as buffers, threads and the first pictures of the screen do, has grown by then.
    let deadline = support::secs(60);
    worker.post("/dut/capture", "").await;
    while worker.post("/dut/serial/exec", "{\"cmd\": \"uname -m\"}").await.0 != 200 {
        assert!(!deadline.is_past(), "it does not boot: {}", worker.stderr());
    }
    assert_eq!(worker.get("/dut/capture").await.0, 200);
    send_nonsense(&worker, &mut dice, all / 4).await;
    let grown = |worker: &Worker| size(worker.pid());
    let before = grown(&worker);
    send_nonsense(&worker, &mut dice, all - all / 4).await;
    // A flash that nonsense asked for is an error, and was never begun on the device.
    assert_ne!(worker.flash_ended().await, "PENDING");
    assert_eq!(power(&worker.diagnostics().await), device, "{}", worker.stderr());
    assert_eq!(worker.post("/dut/serial/exec", "{\"cmd\": \"uname -m\"}").await.1, "x86_64");
    let deadline = support::secs(60);
    let after = loop {
        let after = grown(&worker);
        if after.1 <= before.1 || deadline.is_past() {
            break after;
        }
    };
    assert!(after.1 <= before.1, "descriptors: {} and then {}", before.1, after.1);
    assert!(after.0 < before.0 + 8 * 1024, "KiB of memory: {} and then {}", before.0, after.0);
    assert!(!worker.stderr().contains("panicked"), "{}", worker.stderr());
    println!("{all} requests: {} KiB and then {} KiB", before.0, after.0);
    worker.close_and_expect_nothing_left().await;
}
