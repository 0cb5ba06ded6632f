//! The worker as leviathan's clients meet it: the real command, the real socket, a real QEMU behind it.

#[path = "support/mod.rs"]
mod support;

use serde_json::{Value, json};
use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::{Worker, gzip};

const OK: fn() -> (u16, String) = || (200, "OK".to_owned());

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reserves_flashes_boots_talks_and_gives_back() {
    let worker = Worker::start("pc-seabios").await;
    assert_eq!(worker.get("/state").await, (200, "IDLE".to_owned()));
    assert_eq!(worker.get("/start").await, OK());
    assert_eq!(worker.get("/start").await, (200, "BUSY".to_owned()));
    assert_eq!(worker.get("/heartbeat").await, OK());
    let contract: Value = serde_json::from_str(&worker.get("/contract").await.1).unwrap();
    assert_eq!(contract["workerType"], "qemu");
    let network = json!({ "wired": { "nat": true } }).to_string();
    assert_eq!(worker.post("/dut/network", network).await, OK());
    worker.flash_selftest().await;
    assert_eq!(worker.post("/dut/on", "").await, OK());
    assert_eq!(worker.post("/dut/on", "").await, OK(), "a retry is no second power-on");
    let ran = worker.post("/dut/serial/exec", json!({ "cmd": "uname -m" }).to_string()).await;
    assert_eq!(ran, (200, "x86_64".to_owned()));
    assert_eq!(worker.post("/dut/off", "").await, OK());
    assert_eq!(worker.post("/dut/off", "").await, OK());
    let (status, log) = worker.get("/dut/serial").await;
    assert!(status == 200 && log.contains("uname -m"), "{log}");
    assert_eq!(worker.get("/dut/flashState").await.1, "DONE");
    assert_eq!(worker.post("/teardown", "").await, OK());
    assert_eq!(worker.get("/state").await.1, "IDLE");
    assert_eq!(worker.get("/dut/flashState").await.1, "IDLE");
    assert_eq!(worker.get("/dut/serial").await, (200, log), "the log is readable after the teardown");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_complete_is_never_flashed() {
    let worker = Worker::start("pc-seabios").await;
    let image = gzip(SELFTEST_IMAGE);
    assert_eq!(worker.post("/dut/flashImage", "").await.0, 200);
    assert_eq!(worker.get("/dut/flashState").await.1, "ERROR", "nothing was sent");
    assert_eq!(worker.send_chunk(0, 2, &image).await.0, 200);
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.get("/dut/flashState").await.1, "ERROR", "a chunk is missing");
    assert_eq!(worker.send_chunk(0, 1, &image[..image.len() / 2]).await.0, 200);
    worker.post("/dut/flashImage", "").await;
    assert_eq!(worker.get("/dut/flashState").await.1, "ERROR", "the gzip is cut off");
    let diagnostics: Value = serde_json::from_str(&worker.get("/dut/diagnostics").await.1).unwrap();
    assert!(diagnostics["flashError"].as_str().unwrap().contains("damaged"), "{diagnostics}");
    assert_eq!(worker.post("/dut/sendImage", "x").await, OK(), "the whole at once, without chunks");
    for (index, total, length, status) in [("1", "1", "1", 400), ("x", "1", "1", 400), ("0", "", "1", 400)] {
        let headers = [("x-chunk-index", index), ("x-total-chunks", total), ("content-length", length)];
        let answer = worker.ask("POST", "/dut/sendImage", &headers, b"x".to_vec()).await;
        assert_eq!(answer.0, status, "{headers:?}: {}", answer.1);
    }
    worker.flash_selftest().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_killed_leaves_an_error_and_no_process_to_the_next() {
    let worker = Worker::start("pc-seabios").await;
    worker.flash_selftest().await;
    assert_eq!(worker.post("/dut/on", "").await, OK());
    let dir = worker.kill();
    let next = Worker::start_in(dir, "pc-seabios").await;
    assert_eq!(next.get("/dut/flashState").await.1, "ERROR", "the flashed media are gone");
    assert_eq!(next.get("/start").await, OK());
    next.flash_selftest().await;
    assert_eq!(next.post("/dut/on", "").await, OK());
    next.close_and_expect_nothing_left().await;
}
