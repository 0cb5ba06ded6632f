//! The page as a person meets it: the real command, a real browser, a real QEMU behind it.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use browser::{Browser, DESK, ENTER, F12, Looks, SHIFT};
use serde_json::json;
use standin::io::http::Server;
use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::Worker;

const SOON: Duration = Duration::from_secs(30);
/// UEFI firmware on a busy host, executed by TCG.
const BOOT: Duration = Duration::from_secs(180);

fn url(worker: &Worker) -> String {
    let Server::Tcp(authority) = &worker.server else { panic!("a browser needs TCP") };
    format!("http://{authority}/")
}

const PHONE: Looks = Looks { width: 390, height: 844, dark: false };

/// Where the pictures for people are put.
fn keep(name: &str, picture: &[u8]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), picture).unwrap();
}

/// Whether something is drawn on the screen of the DUT.
const DRAWN: &str = "(() => {
    const canvas = document.getElementById('picture');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let drawn = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at] + data[at + 1] + data[at + 2] > 96) drawn++;
    return drawn > 100;
})()";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_flashes_boots_types_looks_and_switches_off() {
    let worker = Worker::start_on_tcp(&["generic-amd64"], &[]).await;
    let page = Browser::open(&url(&worker), DESK).await;
    let other = Browser::open(&url(&worker), PHONE).await;
    page.wait_for_text("#link", "connected", SOON).await;
    page.wait_for_text("#state", "off", SOON).await;
    page.wait_for_text("#dark", "off", SOON).await;
    page.wait_for_text("#fact-board", "generic-amd64", SOON).await;
    page.wait_for_text("#not-mirrored li", ".", SOON).await;

    // Flash, with progress of all its steps; the image is large enough for them to be seen.
    let image = worker.dir.path().join("system.img");
    std::fs::write(&image, [SELFTEST_IMAGE, &noise(48 << 20)].concat()).unwrap();
    page.run(
        "window.said = [];
         const outcome = document.getElementById('outcome');
         new MutationObserver(() => said.push(outcome.textContent)).observe(outcome, { childList: true });",
    )
    .await;
    page.type_into("#file", image.to_str().unwrap()).await;
    page.wait_for_text("#outcome", "is written and verified", Duration::from_secs(120)).await;
    for step in ["Reading system.img: ", "Sending system.img: ", "Writing system.img"] {
        page.wait_until(&format!("said.some(text => text.startsWith({}))", json!(step)), SOON).await;
    }
    page.wait_until("said.some(text => / [1-9][0-9]? %/.test(text))", SOON).await;
    other.wait_for_text("#outcome", "system.img is written and verified", SOON).await;
    page.wait_for_text("#events", "flashed", SOON).await;

    page.click("[data-action=on]").await;
    page.wait_for_text("#state", "running", SOON).await;
    page.wait_until(DRAWN, BOOT).await;
    page.wait_for_text("#lines", "selftest# ", BOOT).await;
    page.click("#terminal").await;
    page.press(&["u"]).await;
    page.press(&["n"]).await;
    page.type_into("#keys", &format!("ame -m{ENTER}")).await;
    page.wait_until(&has_line("x86_64"), SOON).await;
    other.wait_until(&has_line("x86_64"), SOON).await;
    other.wait_until(DRAWN, SOON).await;

    page.run(
        "const data = new DataTransfer();
         data.setData('text', 'echo pasted\\n');
         const paste = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
         document.getElementById('keys').dispatchEvent(paste);
         addEventListener('copy', () => { window.copied = getSelection().toString(); });",
    )
    .await;
    page.wait_until(&has_line("pasted"), SOON).await;
    page.click("#copy").await;
    page.wait_until("copied.includes('selftest# echo pasted\\npasted\\n')", SOON).await;

    // A key on the other keyboard is pressed, which only the screen could tell of; no trouble is told.
    page.click("#picture").await;
    page.press(&[SHIFT, "a"]).await;
    page.press(&[SHIFT, F12]).await;
    page.wait_until("document.activeElement.id === 'file'", SOON).await;
    assert_eq!(page.text("#troubles").await, "");

    keep("desk-light.png", &page.screenshot().await);
    page.run("document.activeElement.blur()").await;
    page.look(Looks { width: 1000, height: 840, dark: false }).await;
    keep("worker-page.png", &page.screenshot().await);
    page.look(Looks { dark: true, ..DESK }).await;
    keep("desk-dark.png", &page.screenshot().await);
    let is_wide = other.run("return document.documentElement.scrollWidth > innerWidth").await;
    keep("phone-light.png", &other.screenshot().await);
    other.look(Looks { dark: true, height: 2200, ..PHONE }).await;
    keep("phone-dark.png", &other.screenshot().await);
    assert_eq!(is_wide, false, "a phone must not scroll sideways");

    page.click("[data-action=hold]").await;
    page.wait_for_text("#state", "halted", SOON).await;
    page.wait_for_text("#dark", "off", SOON).await;
    page.click("[data-action=press]").await;
    page.wait_for_text("#state", "running", SOON).await;
    page.click("[data-action=off]").await;
    page.wait_until("document.getElementById('state').textContent === 'off'", SOON).await;
    other.wait_until("document.getElementById('state').textContent === 'off'", SOON).await;
    page.wait_for_text("#logs", "hold-1/console/console-1.log", SOON).await;
    other.close().await;
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}

/// A line of the console that is this text and nothing else.
fn has_line(text: &str) -> String {
    format!("[...document.querySelectorAll('#lines > div')].some(row => row.textContent === {})", json!(text))
}

/// What no medium holds as zeros and no packer makes small.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes / 8).flat_map(|_| next().to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_is_shown_and_one_that_comes_back_is_seen() {
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[]).await;
    let Server::Tcp(authority) = worker.server.clone() else { unreachable!() };
    let page = Browser::open(&url(&worker), DESK).await;
    page.wait_for_text("#link", "connected", SOON).await;
    assert_eq!(page.run("return document.getElementById('screen').hidden").await, true);
    page.click("#selftest").await;
    page.wait_for_text("#outcome", "is written and verified", SOON).await;
    page.click("[data-action=on]").await;
    page.wait_for_text("#lines", "selftest# ", SOON).await;
    let dir = worker.kill();
    page.wait_for_text("#link.lost", "trying again", SOON).await;
    page.click("[data-action=off]").await;
    page.wait_for_text("#troubles", "Off: the server does not answer", SOON).await;
    let worker = Worker::start_on_tcp(&["pc-seabios", "--listen", &authority], &[]).await;
    page.wait_for_text("#link:not(.lost)", "connected", SOON).await;
    page.wait_for_text("#state", "off", SOON).await;
    // The new server's device has said nothing yet, and nothing has happened to it.
    page.wait_until("document.getElementById('lines').textContent.trim() === ''", SOON).await;
    page.wait_until("document.getElementById('events').children.length === 0", SOON).await;
    page.click("#selftest").await;
    page.wait_for_text("#outcome", "is written and verified", SOON).await;
    page.close().await;
    worker.close_and_expect_nothing_left().await;
    // The killed server's QEMU ends with it; its folders the next one in the same place would remove.
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_token_is_used_by_who_knows_it() {
    const TOKEN: &str = "0123456789abcdef/+=";
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[("STANDIN_TOKEN", TOKEN)]).await;
    let page = Browser::open(&url(&worker), DESK).await;
    for token in ["a-wrong-token-of-somebody", TOKEN] {
        let words = if token == TOKEN { "That was not it" } else { "what the server was started with" };
        page.wait_for_text("#door[open] #door-words", words, SOON).await;
        page.type_into("#token", &format!("{token}{ENTER}")).await;
    }
    page.wait_for_text("#link", "connected", SOON).await;
    page.click("#selftest").await;
    page.wait_for_text("#outcome", "is written and verified", SOON).await;
    page.click("[data-action=on]").await;
    page.wait_for_text("#lines", "selftest# ", SOON).await;
    page.type_into("#keys", &format!("echo typed{ENTER}")).await;
    page.wait_until(&has_line("typed"), SOON).await;
    page.run("location.reload()").await;
    page.wait_for_text("#lines", "selftest# ", SOON).await;
    assert_eq!(page.run("return document.getElementById('door').open").await, false, "it is asked once");
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_is_refused_in_the_servers_words_and_a_flash_is_cancelled() {
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[]).await;
    let page = Browser::open(&url(&worker), DESK).await;
    page.wait_for_text("#link", "connected", SOON).await;
    let broken = worker.dir.path().join("broken.img.gz");
    std::fs::write(&broken, b"\x1f\x8b\x08\x00nothing of gzip").unwrap();
    page.type_into("#file", broken.to_str().unwrap()).await;
    page.wait_for_text("#outcome.failed", "Flashing broken.img.gz failed: ", SOON).await;
    page.wait_for_text("#outcome.failed", "what was asked cannot be done", SOON).await;
    page.wait_for_text("#events .bad", "flash failed", SOON).await;

    let large = worker.dir.path().join("large.img");
    std::fs::File::create(&large).unwrap().set_len(4 << 30).unwrap();
    page.type_into("#file", large.to_str().unwrap()).await;
    page.wait_until("!document.getElementById('cancel').hidden", SOON).await;
    page.click("#cancel").await;
    page.wait_for_text("#outcome", "Cancelled. Nothing was written.", SOON).await;

    // A file that is dropped is one that was chosen.
    page.run(&format!(
        "const files = new DataTransfer();
         files.items.add(new File([{}], 'dropped.img.gz'));
         document.getElementById('drop').dispatchEvent(new DragEvent('drop', {{ dataTransfer: files, bubbles: true }}));",
        json!("\u{1f}\u{0}")
    ))
    .await;
    page.wait_for_text("#outcome", "dropped.img.gz", SOON).await;
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_device_is_chosen_and_one_that_goes_is_left() {
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[]).await;
    let page = Browser::open(&url(&worker), DESK).await;
    page.wait_for_text("#link", "connected", SOON).await;
    assert_eq!(page.run("return document.getElementById('devices').hidden").await, true);
    let headers = [("content-type", "application/json")];
    let (status, opened) =
        worker.ask("POST", "/v1/devices", &headers, b"{\"board\":\"generic-aarch64\"}".to_vec()).await;
    assert_eq!(status, 201, "{opened}");
    let opened: serde_json::Value = serde_json::from_str(&opened).unwrap();
    let id = opened["id"].as_str().unwrap();
    page.wait_for_text("#device", id, SOON).await;
    page.type_into("#device", id).await;
    page.wait_for_text("#fact-board", "generic-aarch64", SOON).await;
    page.wait_until("!document.getElementById('screen').hidden", SOON).await;
    page.wait_for_text("#link", "connected", SOON).await;
    assert_eq!(worker.ask("DELETE", &format!("/v1/devices/{id}"), &[], Vec::new()).await.0, 204);
    page.wait_for_text("#troubles", "there is no such device", SOON).await;
    page.wait_for_text("#fact-board", "pc-seabios", SOON).await;
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_shows_what_programs_mean() {
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[]).await;
    let page = Browser::open(&url(&worker), DESK).await;
    let failed = page.run_async(include_str!("page/terminal.js")).await;
    assert_eq!(failed, json!([]));
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_small_closed_to_others_and_there_at_once() {
    let worker = Worker::start_on_tcp(&["pc-seabios"], &[]).await;
    let html = worker.server.ask("GET".parse().unwrap(), "/", &[], "").await.unwrap().1;
    let html = String::from_utf8(html.into()).unwrap();
    let paths: Vec<&str> = html.split('"').filter(|part| part.starts_with("/page/")).collect();
    assert!(paths.len() > 5, "{paths:?}");
    let mut bytes = html.len();
    for path in paths {
        let request = hyper::Request::get(path).body(String::new()).unwrap();
        let answer = worker.server.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        bytes += answer.whole().await.unwrap().len();
        let again = worker.ask("GET", path, &[("if-none-match", &tag)], Vec::new()).await;
        assert_eq!(again, (304, String::new()), "{path}");
    }
    assert!(bytes < 80 << 10, "{bytes} bytes");
    let page = Browser::open(&url(&worker), DESK).await;
    page.wait_for_text("#link", "connected", SOON).await;
    let mut fastest = f64::MAX;
    let began = Instant::now();
    for _ in 0..5 {
        page.run("location.reload()").await;
        page.wait_for_text("#link", "connected", SOON).await;
        let loaded = "const [one] = performance.getEntriesByType('navigation'); return one.loadEventEnd";
        fastest = fastest.min(page.run(loaded).await.as_f64().unwrap());
    }
    eprintln!("loaded in {fastest} ms at best, {bytes} bytes; five times in {:?}", began.elapsed());
    assert!(fastest > 0.0, "it was loaded");
    page.close().await;
    worker.close_and_expect_nothing_left().await;
}
