//! Leviathan-worker's protocol, row by row: what a client asks, and what it is answered.
//!
//! A row is a request and its answer; the rows of a table are one conversation, in their order.

#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::{Worker, gzip};

/// What is asked: method and path, headers, body.
struct Ask(&'static str, &'static [(&'static str, &'static str)], &'static str);

/// What is answered.
enum Answer {
    /// Exactly this.
    Text(u16, &'static str),
    /// One line that is no page and has this in it.
    Line(u16, &'static str),
    /// JSON with these values at these places.
    Json(&'static [(&'static str, &'static str)]),
}

use Answer::{Json, Line, Text};

async fn converse(worker: &Worker, rows: &[(Ask, Answer)]) {
    for (Ask(request, headers, body), expected) in rows {
        let (method, path) = request.split_once(' ').unwrap();
        let (status, text) = worker.ask(method, path, headers, body.as_bytes().to_vec()).await;
        let seen = format!("{request} {headers:?} {body}: {status} {text}");
        match expected {
            Text(code, whole) => assert_eq!((status, text.as_str()), (*code, *whole), "{seen}"),
            Line(code, part) => {
                assert_eq!(status, *code, "{seen}");
                assert!(text.contains(part) && !text.contains('\n') && !text.contains('<'), "{seen}");
            }
            Json(values) => {
                let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{seen}"));
                assert_eq!(status, 200, "{seen}");
                for (place, value) in *values {
                    assert_eq!(json.pointer(place).map(Value::to_string).as_deref(), Some(*value), "{seen}");
                }
            }
        }
    }
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

const WITHOUT_AN_IMAGE: &[(Ask, Answer)] = &[
    // The lease.
    (Ask("GET /state", &[], ""), Text(200, "IDLE")),
    (Ask("GET /heartbeat", &[], ""), Text(200, "OK")),
    (Ask("GET /state", &[], ""), Text(200, "IDLE")),
    (Ask("GET /start", &[], ""), Text(200, "OK")),
    (Ask("GET /start", &[], ""), Text(200, "BUSY")),
    (Ask("GET /state", &[], ""), Text(200, "BUSY")),
    (Ask("GET /heartbeat", &[], ""), Text(200, "OK")),
    (Ask("POST /state", &[], ""), Line(404, "nothing of this method and path")),
    (Ask("GET /nothing", &[], ""), Line(404, "nothing of this method and path")),
    // What it is.
    (
        Ask("GET /contract", &[], ""),
        Json(&[("/workerType", "\"qemu\""), ("/supportedFeatures/dut", "\"pc-seabios\"")]),
    ),
    (Ask("GET /dut/diagnostics", &[], ""), Json(&[("/power", "\"off\""), ("/flash", "\"idle\"")])),
    (Ask("POST /proxy", JSON, "{\"port\": 80}"), Text(200, "127.0.0.1")),
    (Ask("POST /proxy", JSON, ""), Text(200, "OK")),
    // The network.
    (Ask("POST /dut/network", &[], ""), Text(200, "OK")),
    (Ask("POST /dut/network", JSON, "{\"wired\": {\"nat\": true}}"), Text(200, "OK")),
    (
        Ask("POST /dut/network", JSON, "{\"wireless\": {\"ssid\": \"a\", \"psk\": \"b\", \"nat\": true}}"),
        Text(200, "OK"),
    ),
    (Ask("POST /dut/network", JSON, "{"), Line(500, "EOF while parsing")),
    (Ask("GET /dut/ip", JSON, "{\"target\": \"10.1.2.3\"}"), Text(200, "10.1.2.3")),
    (Ask("GET /dut/ip", &[], ""), Text(500, "Target missing")),
    (Ask("GET /dut/ip", JSON, "{\"target\": \"abc1234.local\"}"), Line(200, "127.")),
    // Power, and what needs it.
    (Ask("POST /dut/off", &[], ""), Text(200, "OK")),
    (Ask("POST //dut//off", &[], ""), Text(200, "OK")),
    (Ask("POST /dut/serial/exec", JSON, "{\"cmd\": \"true\"}"), Line(500, "off")),
    (Ask("POST /dut/serial/exec", JSON, ""), Text(500, "cmd missing")),
    (Ask("GET /dut/serial", &[], ""), Line(500, "never on")),
    // What this board does not have.
    (Ask("POST /dut/keyboard", JSON, "{\"key\": \"a\"}"), Line(500, "pc-seabios has no keyboard")),
    (Ask("POST /dut/capture", &[], ""), Line(500, "pc-seabios has no screen")),
    (Ask("GET /dut/capture", &[], ""), Line(500, "pc-seabios has no screen")),
    (Ask("GET /dut/liveStream", &[], ""), Line(500, "pc-seabios has no screen")),
    // Images that are none.
    (Ask("GET /dut/flashState", &[], ""), Text(200, "IDLE")),
    (Ask("GET /dut/sendImage/chunkSize", &[], ""), Text(200, "{\"chunkMiB\":40}")),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "abc"), ("x-total-chunks", "1")], "x"),
        Line(400, "x-chunk-index is no number"),
    ),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "-1"), ("x-total-chunks", "1")], "x"),
        Line(400, "x-chunk-index is no number"),
    ),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "3"), ("x-total-chunks", "1")], "x"),
        Line(400, "there is no chunk 3 of 1"),
    ),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "0"), ("x-total-chunks", "0")], "x"),
        Line(400, "there is no chunk 0 of 0"),
    ),
    (Ask("POST /dut/sendImage", &[("x-chunk-index", "0")], "x"), Line(400, "needs x-total-chunks")),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "1"), ("x-total-chunks", "2")], "x"),
        Line(400, "chunk 0 has not come yet"),
    ),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "0"), ("x-total-chunks", "99999999")], "x"),
        Line(413, "of this host's disk"),
    ),
    (
        Ask(
            "POST /dut/sendImage",
            &[("x-chunk-index", "0"), ("x-total-chunks", "18446744073709551615")],
            "x",
        ),
        Line(413, "of this host's disk"),
    ),
    (Ask("GET /dut/flashState", &[], ""), Text(200, "IDLE")),
    (Ask("POST /dut/sendImage", &[], "this is no gzip"), Text(200, "OK")),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "0"), ("x-total-chunks", "1")], "x"),
        Text(200, "CHUNK_OK"),
    ),
    (
        Ask("POST /dut/sendImage", &[("x-chunk-index", "1"), ("x-total-chunks", "2")], "x"),
        Line(400, "x-total-chunks is 2, and was 1"),
    ),
    // What is no packed image is never flashed: told by the state, and in the old way by the text.
    (Ask("POST /dut/flashImage", &[], ""), Json(&[("/timeoutTries", "60")])),
    (Ask("GET /dut/flashState", &[], ""), Text(200, "ERROR")),
    (
        Ask("POST /dut/flash", &[], "this is no gzip"),
        Text(
            202,
            "error: the image is not packed, as gzip packs it, so nobody can say whether it is wholestatus: done",
        ),
    ),
    (Ask("POST /teardown", &[], ""), Text(200, "OK")),
    (Ask("GET /state", &[], ""), Text(200, "IDLE")),
    (Ask("POST /teardown", &[], ""), Text(200, "OK")),
    (Ask("GET /heartbeat", &[], ""), Text(200, "OK")),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_as_clients_know_it_and_never_with_a_page() {
    let worker = Worker::start("pc-seabios").await;
    converse(&worker, WITHOUT_AN_IMAGE).await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_types_and_headers_that_clients_look_at() {
    let worker = Worker::start("pc-seabios").await;
    let word = "content-type: text/html; charset=utf-8";
    let rows = [
        ("GET /state", "200", word),
        ("GET /dut/flashState", "200", word),
        ("GET /contract", "200", "content-type: application/json"),
        ("GET /dut/sendImage/chunkSize", "200", "content-type: application/json"),
        ("GET /dut/sendImage/chunkSize", "200", "connection: close"),
        ("GET /dut/serial", "500", "content-type: text/plain; charset=utf-8"),
        ("POST /dut/flash", "202", "content-type: text/event-stream"),
    ];
    for (request, status, header) in rows {
        let said =
            format!("{request} HTTP/1.1\r\nhost: worker\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let heard = worker.say(said.as_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {heard}");
        assert!(heard.contains(&format!("\r\n{header}\r\n")), "{request}: {heard}");
    }
    let without_a_length = "POST /dut/sendImage HTTP/1.1\r\nhost: worker\r\nx-chunk-index: 0\r\n\
                            x-total-chunks: 1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let heard = worker.say(without_a_length.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 411 "), "{heard}");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_way_of_flashing_tells_how_far_it_is_and_always_ends_with_done() {
    let worker = Worker::start("pc-seabios").await;
    let (status, text) = worker.post("/dut/flash", &gzip(SELFTEST_IMAGE)[..100]).await;
    assert_eq!(status, 202);
    assert!(text.starts_with("error: ") || text.contains("error: "), "{text}");
    assert!(text.contains("damaged") && text.ends_with("status: done"), "{text}");
    assert_eq!(worker.get("/dut/flashState").await.1, "ERROR");
    let (status, text) = worker.post("/dut/flash", gzip(SELFTEST_IMAGE)).await;
    assert_eq!(status, 202);
    assert!(!text.contains("error: ") && text.ends_with("status: done"), "{text}");
    assert_eq!(worker.get("/dut/flashState").await.1, "DONE");
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    let ran = worker.post("/dut/serial/exec", "{\"cmd\": \"uname -m\"}").await;
    assert_eq!(ran, (200, "x86_64".to_owned()));
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_on_that_fails_is_told_in_one_line_and_the_worker_lives() {
    let worker = Worker::start("raspberrypi3-64").await;
    for _retry in 0..2 {
        let (status, text) = worker.post("/dut/on", "").await;
        assert_eq!(status, 500, "the card is blank: {text}");
        assert!(!text.contains('\n') && !text.contains("OK"), "{text}");
    }
    assert_eq!(worker.get("/state").await.1, "IDLE");
    worker.close_and_expect_nothing_left().await;
}

/// A QEMU that takes its time before it runs a machine, or gives up.
fn slow_qemu(dir: &std::path::Path, then: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("slow-qemu");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *standin-pc-seabios*) sleep 6; {then};; esac\nexec qemu-system-x86_64 \"$@\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_patience_come_while_a_board_is_slow_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = slow_qemu(dir.path(), ":");
    let worker = Worker::start_with(dir, &["pc-seabios"], &[("STANDIN_QEMU", &qemu)]).await;
    worker.flash_selftest().await;
    let (on, off) = tokio::join!(worker.post("/dut/on", ""), worker.get("/dut/diagnostics"));
    assert_eq!(on, (200, "status: pendingOK".to_owned()));
    assert_eq!(off.0, 200);
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_words_of_patience_ends_the_text_and_is_never_ok() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = slow_qemu(dir.path(), "echo broken >&2; exit 1");
    let worker = Worker::start_with(dir, &["pc-seabios"], &[("STANDIN_QEMU", &qemu)]).await;
    worker.flash_selftest().await;
    let (status, text) = worker.post("/dut/on", "").await;
    assert_eq!(status, 200);
    assert!(text.starts_with("status: pendingerror: ") && text.contains("broken"), "{text}");
    assert!(!text.ends_with("OK"), "{text}");
    assert_eq!(worker.get("/state").await.1, "IDLE");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_has_halted_itself_is_switched_off_and_on_like_any_other() {
    let worker = Worker::start("pc-seabios").await;
    worker.flash_selftest().await;
    for _ in 0..2 {
        assert_eq!(worker.post("/dut/on", "").await.1, "OK");
        // Nothing comes after it.
        let (status, _) = worker.post("/dut/serial/exec", "{\"cmd\": \"halt\"}").await;
        assert_eq!((status, &worker.diagnostics().await["power"]), (500, &Value::from("halted")));
    }
    assert_eq!(worker.post("/dut/off", "").await.1, "OK");
    assert_eq!(worker.post("/dut/on", "").await.1, "OK");
    assert_eq!(worker.diagnostics().await["power"], "running");
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serial_log_begins_anew_with_each_power_on() {
    let worker = Worker::start("pc-seabios").await;
    worker.flash_selftest().await;
    for word in ["first", "second"] {
        assert_eq!(worker.post("/dut/on", "").await.1, "OK");
        let ran = worker.post("/dut/serial/exec", format!("{{\"cmd\": \"echo {word}\"}}")).await;
        assert_eq!(ran, (200, word.to_owned()));
        assert_eq!(worker.post("/dut/off", "").await.1, "OK");
    }
    let log = worker.get("/dut/serial").await.1;
    assert!(log.contains("second") && !log.contains("first"), "{log}");
    worker.close_and_expect_nothing_left().await;
}
