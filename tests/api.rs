//! The API as its clients meet it: the real command, the real socket, a real QEMU behind it. Every answer is held
//! against the server's own document; see `support::api`.

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use standin::io::http::Server;
use standin::io::selftest::SELFTEST_IMAGE;
use support::api::Api;
use support::worker::gzip;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

const DEFAULT: &str = "/v1/devices/default";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_flashes_boots_talks_and_looks_on() {
    let api = Api::start("pc-seabios", &["--forward", "7"]).await;
    assert_eq!(api.get("/v1").await.expect(200)["devices"], 1);
    let boards = api.get("/v1/boards").await.expect(200);
    assert!(boards.as_array().unwrap().iter().any(|board| board["slug"] == "intel-nuc"), "{boards}");
    assert_eq!(api.get("/v1/boards/pc-seabios").await.expect(200)["flash"]["medium"], "disk");
    let device = api.get(DEFAULT).await.expect(200);
    assert_eq!((&device["board"], &device["accelerator"]), (&json!("pc-seabios"), &json!("tcg")));
    let flashed = flash(&api, DEFAULT, "selftest").await;
    assert_eq!(flashed["state"], "done", "{flashed}");
    assert_eq!(power(&api, DEFAULT, "on").await["power"], "running");
    let ran = api.post(&at("run"), json!({ "command": "uname -m" })).await.expect(200);
    assert_eq!(ran, json!({ "status": 0, "output": "x86_64" }));
    let ran = api.post(&at("run"), json!({ "command": "nonsense" })).await.expect(200);
    assert_ne!(ran["status"], 0, "a command that fails has been run");
    let network = api.get(&at("network")).await.expect(200);
    assert_eq!(network["forwards"][0]["port"], 7, "{network}");
    for action in ["down", "up"] {
        api.post(&at("link"), json!({ "action": action })).await.expect(200);
    }
    power(&api, DEFAULT, "reset").await;
    power(&api, DEFAULT, "cycle").await;
    assert_eq!(power(&api, DEFAULT, "hold").await["power"], "halted");
    assert_eq!(power(&api, DEFAULT, "press").await["power"], "running");
    assert_eq!(power(&api, DEFAULT, "off").await["power"], "off");
    let log = api.get(&at("console/log?power_on=1")).await.expect(200);
    assert!(log.as_str().unwrap().contains("uname -m"), "{log}");
    assert_eq!(api.get(&at("console/log?power_on=9")).await.code(), "no-such-log");
    let all = api.get(&at("console/log?power_on=all&download=true")).await.expect(200);
    assert!(all.as_str().unwrap().starts_with(log.as_str().unwrap()), "{all}");
    let files = api.get(&at("files")).await.expect(200);
    let names: Vec<&str> =
        files.as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"hold-1/console/console-1.log"), "{names:?}");
    assert_eq!(api.get(&at("files/hold-1/console/console-1.log")).await.expect(200), log);
    let events = api.get(&at("events")).await.expect(200);
    let named = |name: &str| events.as_array().unwrap().iter().any(|entry| entry["event"] == name);
    for name in ["flashed", "power-on", "link-down", "link-up", "reset", "halt", "button-press", "power-off"]
    {
        assert!(named(name), "{name} in {events}");
    }
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_tells_the_status_after_what_was_asked() {
    let api = Api::start("pc-seabios", &[]).await;
    for _ in 0..20 {
        for (action, power) in [("on", "running"), ("off", "off")] {
            let status = api.post(&at("power"), json!({ "action": action })).await.expect(200);
            assert_eq!((&status["power"], &status["activity"]), (&json!(power), &json!(null)));
        }
    }
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_document_is_answered_and_no_other_method_is() {
    let api = Api::start("pc-seabios", &[]).await;
    let mut asked = 0;
    for (template, operations) in api.document["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "nope").replace("{slug}", "nope").replace("{n}", "1");
        let path = path.replace("{name}", "a/b").replace("{digest}", "blake3:00");
        for method in ["get", "post", "put", "delete", "patch"] {
            let said = api.ask(&method.to_uppercase(), &path, Some(json!({}))).await;
            let is_answered = !["no-such-path", "no-such-method"].contains(&said.code());
            assert_eq!(is_answered, operations.get(method).is_some(), "{method} {path}: {}", said.body);
            asked += 1;
        }
    }
    assert!(asked > 50, "the document has {asked} paths and methods");
    api.get("/v1/nope").await.expect_error(404, "no-such-path", "user");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_one_sequence_over_teardowns_and_come_again_from_an_id_on() {
    let api = Api::start("pc-seabios", &[]).await;
    let accept = ("accept", "text/event-stream");
    let mut stream = api.open(&at("events"), &[accept]).await;
    stream.until(": standin\n\n").await;
    flash(&api, DEFAULT, "selftest").await;
    power(&api, DEFAULT, "on").await;
    let mut seen = stream.until("\"event\":\"power-on\"").await;
    assert_eq!(api.worker.get("/start").await.1, "OK");
    assert_eq!(api.worker.post("/teardown", "").await.1, "OK");
    power(&api, DEFAULT, "on").await;
    power(&api, DEFAULT, "off").await;
    seen += &stream.until("\"event\":\"power-off\"").await;
    seen += &stream.until("\"hold\":2").await;
    seen += &stream.until("\"event\":\"power-off\"").await;
    let ids = |text: &str| -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    };
    let seen = ids(&seen);
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>(), "no gap and none twice");
    let last = seen[3].to_string();
    for headers in [vec![accept, ("last-event-id", last.as_str())], vec![accept]] {
        let mut again = api.open(&at(&format!("events?since={last}")), &headers).await;
        let text = again.until("\"event\":\"power-on\"").await;
        assert_eq!(ids(&text)[0], seen[4], "{text}");
    }
    let list = api.get(&at(&format!("events?since={last}"))).await.expect(200);
    assert_eq!(list[0]["id"], seen[4]);
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_seen_and_typed_on_as_a_stream_and_as_a_web_socket() {
    let api = Api::start("pc-seabios", &[]).await;
    flash(&api, DEFAULT, "selftest").await;
    let mut stream = api.open(&at("console/stream"), &[]).await;
    power(&api, DEFAULT, "on").await;
    stream.until("ready\r\nselftest# ").await;
    api.post(&at("console/keys"), json!({ "text": "echo one\r" })).await.expect(204);
    stream.until("\r\none\r\n").await;
    let bytes = [("content-type", "application/octet-stream")];
    api.send("POST", &at("console/keys"), &bytes, b"echo two\r".to_vec()).await.expect(204);
    stream.until("\r\ntwo\r\n").await;

    let mut socket = web_socket(&api).await;
    let mut seen = String::new();
    hear(&mut socket, &mut seen, "\r\ntwo\r\n").await;
    assert!(seen.contains("ready"), "what was said before comes first: {seen}");
    socket.send(Message::binary(b"echo three\r".as_slice())).await.unwrap();
    hear(&mut socket, &mut seen, "\r\nthree\r\n").await;
    assert_eq!(api.worker.post("/teardown", "").await.1, "OK");
    flash(&api, DEFAULT, "selftest").await;
    power(&api, DEFAULT, "on").await;
    stream.until("ready\r\nselftest# ").await;
    seen.clear();
    hear(&mut socket, &mut seen, "ready\r\n").await;
    drop(socket);
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_sent_once_and_then_flashed_at_once() {
    let api = Api::start("pc-seabios", &[]).await;
    let image = gzip(SELFTEST_IMAGE);
    let digest = format!("blake3:{}", blake3::hash(&image).to_hex());
    let path = format!("/v1/images/{digest}");
    api.get(&path).await.expect_error(404, "no-such-image", "user");
    assert_eq!(api.ask("HEAD", &path, None).await.status, 404);
    api.post(&at("flash"), json!({ "image": digest })).await.expect_error(404, "no-such-image", "user");
    put(&api, &path, &image).await.expect(201);
    assert_eq!(api.ask("HEAD", &path, None).await.status, 200);
    put(&api, &path, b"").await.expect(200);
    let first = flash(&api, DEFAULT, &digest).await;
    assert_eq!((&first["state"], &first["progress"]["bytes"]), (&json!("done"), &json!(image.len())));
    let known = api.get(&path).await.expect(200);
    assert_eq!((&known["content"], &known["bytes"]), (&first["content"], &json!(image.len())));
    assert_eq!(uploads(&api), 0, "what is in the cache needs no upload");
    for image in [&digest, first["content"].as_str().unwrap()] {
        let began = Instant::now();
        let again = flash(&api, DEFAULT, image).await;
        assert_eq!(again["state"], "done");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    power(&api, DEFAULT, "on").await;
    api.open(&at("console/stream"), &[]).await.until("ready").await;
    let operations = api.get(&at("operations")).await.expect(200);
    assert_eq!(operations.as_array().unwrap().len(), 3);
    let dir = api.worker.kill();
    let api = Api::start_in(dir, "pc-seabios", &[]).await;
    assert_eq!(api.get(&path).await.expect(200)["content"], first["content"], "the next server knows it");
    assert_eq!(flash(&api, DEFAULT, &digest).await["state"], "done");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_image_is_told_and_leaves_nothing() {
    let api = Api::start("pc-seabios", &[]).await;
    let image = gzip(SELFTEST_IMAGE);
    let name = |bytes: &[u8]| format!("blake3:{}", blake3::hash(bytes).to_hex());
    let path = |bytes: &[u8]| format!("/v1/images/{}", name(bytes));
    put(&api, &path(&image), &image[..100]).await.expect_error(422, "other-digest", "user");
    put(&api, &path(b""), b"").await.expect_error(422, "bad-image", "user");
    put(&api, "/v1/images/blake3:..%2F..%2Fetc", &image).await.expect_error(422, "bad-digest", "user");
    // One whose sender dies in the middle.
    let Server::Unix(socket) = &api.worker.server else { unreachable!("tests listen on a socket") };
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let head = format!("PUT {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", path(&image), image.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&image[..image.len() / 2]).await.unwrap();
    let deadline = support::secs(30);
    while uploads(&api) != 1 {
        assert!(!deadline.is_past(), "the upload did not begin");
        tokio::task::yield_now().await;
    }
    drop(stream);
    while uploads(&api) != 0 {
        assert!(!deadline.is_past(), "the upload left something");
        tokio::task::yield_now().await;
    }
    api.get(&path(&image)).await.expect_error(404, "no-such-image", "user");
    let cut = &image[..image.len() / 2];
    put(&api, &path(cut), cut).await.expect(201);
    let failed = flash(&api, DEFAULT, &name(cut)).await;
    assert_eq!((&failed["state"], &failed["error"]["fault"]), (&json!("failed"), &json!("user")), "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("damaged") && message.contains(&name(cut)), "{message}");
    assert!(!failed.to_string().contains("/tmp"), "{failed}");
    assert_eq!(flash(&api, DEFAULT, "selftest").await["state"], "done", "the next one is none the worse");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flash_is_cancelled_by_its_operation_and_another_one_waits_for_none() {
    let api = Api::start("pc-seabios", &[]).await;
    // Half a minute of packing, and unpacked in seconds: more than the medium takes, so none of it counts.
    let image = zeros_packed(64 << 30);
    let digest = format!("sha256:{}", sha256(&image));
    put(&api, &format!("/v1/images/{digest}"), &image).await.expect(201);
    power(&api, DEFAULT, "off").await;
    let begun = api.post(&at("flash?wait=0"), json!({ "image": digest })).await.expect(202);
    let operation = at(&format!("operations/{}", begun["id"]));
    if begun["state"] == "running" {
        let second = api.post(&at("flash?wait=0"), json!({ "image": "selftest" })).await;
        // The first one may have found the image too large meanwhile.
        assert!(second.status == 409 && second.code() == "busy" || second.status == 202, "{}", second.body);
    }
    let ended = api.delete(&operation).await.expect(200);
    assert!(["cancelled", "failed"].contains(&ended["state"].as_str().unwrap()), "{ended}");
    assert_eq!(api.get(&operation).await.expect(200)["state"], ended["state"], "an end is the end");
    assert_eq!(api.get(&at("operations/99")).await.code(), "no-such-operation");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_run_side_by_side_and_no_more_than_the_host_bears() {
    let api = Api::start("pc-seabios", &["--memory-limit", "384MiB"]).await;
    let wanted = json!({ "board": "pc-seabios", "forward": [7] });
    let mut devices = Vec::new();
    for _ in 0..2 {
        let device = api.post("/v1/devices", wanted.clone()).await.expect(201);
        devices.push(format!("/v1/devices/{}", device["id"].as_str().unwrap()));
    }
    assert_ne!(devices[0], devices[1]);
    let full = api.post("/v1/devices", wanted.clone()).await;
    full.expect_error(503, "no-memory", "lab");
    for device in &devices {
        flash(&api, device, "selftest").await;
        power(&api, device, "on").await;
    }
    let mut addresses = Vec::new();
    for device in &devices {
        let mut console = api.open(&format!("{device}/console/stream"), &[]).await;
        console.until("ready").await;
        addresses.push(api.get(device).await.expect(200)["address"].clone());
        assert_eq!(api.get(&format!("{device}/status")).await.expect(200)["power"], "running");
    }
    assert_ne!(addresses[0], addresses[1]);
    assert_eq!(api.get(DEFAULT).await.expect(200)["status"]["power"], "off");
    let events = api.open(&format!("{}/events", devices[0]), &[("accept", "text/event-stream")]).await;
    api.delete(&devices[0]).await.expect(204);
    events.ends().await;
    api.get(&devices[0]).await.expect_error(404, "no-such-device", "user");
    api.delete(DEFAULT).await.expect_error(409, "stays", "user");
    api.post("/v1/devices", wanted).await.expect(201);
    assert_eq!(api.get("/v1/devices").await.expect(200).as_array().unwrap().len(), 3);
    api.post("/v1/devices", json!({ "board": "nope" })).await.expect_error(422, "no-such-board", "user");
    let dir = api.worker.kill();
    let api = Api::start_in(dir, "pc-seabios", &["--device-limit", "1"]).await;
    let full = api.post("/v1/devices", json!({ "board": "pc-seabios" })).await;
    full.expect_error(503, "no-place", "lab");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_no_sense_is_refused_and_changes_nothing() {
    let api = Api::start("beaglebone-black", &[]).await;
    let json_type = [("content-type", "application/json")];
    for (path, body, status, code) in [
        ("power", "", 400, "malformed"),
        ("power", "{", 400, "malformed"),
        ("power", "[]", 422, "bad-field"),
        ("power", r#"{"action":"explode"}"#, 422, "bad-field"),
        ("power", r#"{"action":"on","action":"on"}"#, 422, "bad-field"),
        ("power", r#"{"action":"on","more":1}"#, 422, "bad-field"),
        ("power", r#"{"action":"reset"}"#, 409, "mains-off"),
        ("link", r#"{"action":"up","interface":"../eth0"}"#, 422, "not-fitted"),
        ("run", r#"{"command":"ls"}"#, 409, "mains-off"),
        ("flash", r#"{"image":"/etc/passwd"}"#, 422, "bad-digest"),
        ("flash", r#"{"image":"blake3:../../../../etc/passwd"}"#, 422, "bad-digest"),
        ("console/keys", r#"{"text":1}"#, 422, "bad-field"),
    ] {
        let said = api.send("POST", &at(path), &json_type, body.as_bytes().to_vec()).await;
        said.expect_error(status, code, "user");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let form = [("content-type", kind)];
        let said = api.send("POST", &at("power"), &form, br#"{"action":"on"}"#.to_vec()).await;
        said.expect_error(415, "not-json", "user");
    }
    let other = [("origin", "http://elsewhere.example"), ("content-type", "application/json")];
    let said = api.worker.ask("POST", &at("power"), &other, br#"{"action":"on"}"#.to_vec()).await;
    assert_eq!(said.0, 403, "{}", said.1);
    let large = json!({ "action": "x".repeat(5 << 20) }).to_string().into_bytes();
    api.send("POST", &at("power"), &json_type, large).await.expect_error(413, "too-large", "user");
    for path in [
        "files/..%2F..%2F..%2Fetc%2Fpasswd",
        "files/hold-1/../../lock",
        "files/%2Fetc%2Fpasswd",
        "files/hold-1%00",
        "console/log?power_on=../1",
        "console/log?power_on=-1",
        "console/log?nonsense=1",
        "console/stream?last_kib=-1",
        "events?since=-1",
        "events?since=99999999999999999999",
        "operations/x",
        "operations/-1",
        "operations/1?wait=x",
    ] {
        let said = api.get(&at(path)).await;
        assert!(said.status == 404 || said.status == 422, "{path}: {} {}", said.status, said.body);
    }
    for id in ["..", "%2e%2e", "default%2F..", "d1", "%00", "a".repeat(4000).as_str()] {
        let said = api.get(&format!("/v1/devices/{id}/status")).await;
        assert_eq!(said.status, 404, "{id}: {}", said.body);
    }
    let events = api.get(&at("events")).await.expect(200);
    let of_device = events.as_array().unwrap().iter().filter(|entry| entry["type"] == "event");
    assert_eq!(of_device.collect::<Vec<_>>(), Vec::<&Value>::new(), "nothing has happened to the device");
    api.worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_leases_are_enforced_only_the_holder_drives_the_default_device() {
    let api = Api::start("pc-seabios", &["--enforce-leases"]).await;
    let order = json!({ "action": "on" }).to_string().into_bytes();
    let json_type = ("content-type", "application/json");
    for device in ["default", "%64efault"] {
        let path = format!("/v1/devices/{device}/power");
        let said = api.worker.ask("POST", &path, &[json_type], order.clone()).await;
        assert!(said.0 == 409 && said.1.contains("not-holder"), "{said:?}");
    }
    let other = api.post("/v1/devices", json!({ "board": "pc-seabios" })).await.expect(201);
    power(&api, &format!("/v1/devices/{}", other["id"].as_str().unwrap()), "off").await;
    assert_eq!(api.get(&at("status")).await.expect(200)["power"], "off", "looking on is for everybody");
    api.worker.close_and_expect_nothing_left().await;
}

// --- Words of the tests ---

fn at(path: &str) -> String {
    format!("{DEFAULT}/{path}")
}

async fn power(api: &Api, device: &str, action: &str) -> Value {
    api.post(&format!("{device}/power"), json!({ "action": action })).await.expect(200)
}

/// Flashes, and waits for the end.
async fn flash(api: &Api, device: &str, image: &str) -> Value {
    let operation = api.post(&format!("{device}/flash?wait=30"), json!({ "image": image })).await.expect(202);
    assert_ne!(operation["state"], "running", "{operation}");
    operation
}

async fn put(api: &Api, path: &str, image: &[u8]) -> support::api::Said {
    api.send("PUT", path, &[("content-type", "application/octet-stream")], image.to_vec()).await
}

/// How many files lie in the server's folder for uploads.
fn uploads(api: &Api) -> usize {
    let runs = std::fs::read_dir(api.worker.dir.path().join("runs")).unwrap();
    let folders = runs.map(|entry| entry.unwrap().path().join("scratch/images"));
    folders.filter_map(|folder| std::fs::read_dir(folder).ok()).map(Iterator::count).sum()
}

/// So many zeros as zstd packs them: into next to nothing.
fn zeros_packed(bytes: u64) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Members one after the other are one gzip file.
    packed.write_all(&vec![0; 16 << 20]).unwrap();
    let member = packed.finish().unwrap();
    let count = usize::try_from(bytes >> 24).unwrap();
    member.repeat(count)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::UnixStream>;

async fn web_socket(api: &Api) -> Socket {
    let Server::Unix(path) = &api.worker.server else { unreachable!("tests listen on a socket") };
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let url = format!("ws://localhost{}", at("console/stream"));
    tokio_tungstenite::client_async(url, stream).await.unwrap().0
}

/// Listens until this is heard.
async fn hear(socket: &mut Socket, seen: &mut String, wanted: &str) {
    let deadline = support::secs(60);
    while !seen.contains(wanted) {
        let message = deadline.bound(socket.next()).await;
        let message = message.unwrap_or_else(|_| panic!("{wanted:?} not heard: {seen}")).unwrap().unwrap();
        assert!(message.is_binary() || message.is_ping(), "{message:?}");
        seen.push_str(&String::from_utf8_lossy(&message.into_data()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_is_seen_and_its_keyboard_pressed() {
    let api = Api::start("generic-amd64", &[]).await;
    api.get(&at("screen")).await.expect_error(409, "no-picture", "user");
    let press = |keys: Value| api.post("/v1/devices/default/keyboard", keys);
    press(json!({ "press": ["f2"] })).await.expect_error(409, "not-running", "user");
    let mut live = api.open(&at("screen/live"), &[]).await;
    live.until("Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\noff\r\n").await;
    power(&api, DEFAULT, "on").await;
    live.until("Content-Type: image/jpeg\r\n").await;
    let picture = api.get(&at("screen")).await.expect(200);
    assert_eq!(&picture.as_str().unwrap()[3..8], "PNG\r\n", "after a byte that is no text");
    press(json!({ "press": ["esc", "ctrl-alt-delete"], "text": "Ab1" })).await.expect(204);
    for keys in [json!({ "press": ["nope"] }), json!({ "text": "ü" })] {
        press(keys).await.expect_error(422, "no-such-key", "user");
    }
    press(json!({ "text": "a".repeat(2000) })).await.expect_error(422, "too-many-keys", "user");
    // Views go on over a teardown, which makes a new device.
    assert_eq!(api.worker.get("/start").await.1, "OK");
    assert_eq!(api.worker.post("/teardown", "").await.1, "OK");
    live.until("\r\n\r\noff\r\n").await;
    power(&api, DEFAULT, "on").await;
    live.until("Content-Type: image/jpeg\r\n").await;
    drop(live);
    api.worker.close_and_expect_nothing_left().await;

    let without = Api::start("pc-seabios", &[]).await;
    for path in ["screen", "screen/live"] {
        without.get(&at(path)).await.expect_error(422, "not-fitted", "user");
    }
    let keys = json!({ "press": ["a"] });
    without.post(&at("keyboard"), keys).await.expect_error(422, "not-fitted", "user");
    without.worker.close_and_expect_nothing_left().await;
}
