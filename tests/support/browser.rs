//! A real browser under test: Debian's chromium, headless, driven by its own chromedriver over WebDriver (W3C).

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use standin::deadline::Deadline;
use standin::io::http::Server;
use tempfile::TempDir;

use crate::support::secs;

/// The keys of WebDriver that tests press (17.4.2).
pub const ENTER: &str = "\u{e007}";
pub const SHIFT: &str = "\u{e008}";
pub const F12: &str = "\u{e03c}";

/// How a browser is looked at.
#[derive(Clone, Copy)]
pub struct Looks {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

pub const DESK: Looks = Looks { width: 1280, height: 1000, dark: false };

pub struct Browser {
    driver: Child,
    server: Server,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own, and opens this page in it.
    pub async fn open(url: &str, looks: Looks) -> Self {
        for program in ["/usr/bin/chromium", "/usr/bin/chromedriver"] {
            let hint = "apt-get install chromium chromium-driver, or scripts/install-packages --test";
            assert!(Path::new(program).exists(), "{program} is not installed; {hint}");
        }
        let profile = tempfile::tempdir().unwrap();
        // In a group of its own, which all of the browser's processes share.
        let mut driver = Command::new("/usr/bin/chromedriver")
            .arg("--port=0")
            // What the browser leaves there goes with the profile.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let said = BufReader::new(driver.stdout.take().unwrap());
        let port = said.lines().map_while(Result::ok).find_map(|line| {
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver says on which port it is");
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--lang=en",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        arguments.push(format!("--window-size={},{}", looks.width, looks.height));
        let options = json!({ "binary": "/usr/bin/chromium", "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let server = Server::Tcp(format!("127.0.0.1:{port}"));
        let mut browser = Self { driver, server, session: String::new(), _profile: profile };
        let begun = browser.command("POST", "", json!({ "capabilities": { "alwaysMatch": wanted } })).await;
        browser.session = format!("/{}", begun["sessionId"].as_str().unwrap());
        browser.look(looks).await;
        browser.command("POST", "/url", json!({ "url": url })).await;
        browser
    }

    /// Light or dark, and how wide; narrower than a window can be.
    pub async fn look(&self, Looks { width, height, dark }: Looks) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    async fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.command("POST", "/goog/cdp/execute", json!({ "cmd": method, "params": parameters })).await
    }

    /// What the body of a function in the page returns.
    pub async fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// What the body of an async function in the page returns.
    pub async fn run_async(&self, script: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             (async () => {{ {script} }})().then(value => done({{ value }}), error => done({{ error: String(error.stack) }}));"
        );
        let done = self.command("POST", "/execute/async", json!({ "script": script, "args": [] })).await;
        assert!(done.get("error").is_none(), "{done}");
        done["value"].clone()
    }

    /// Waits until an expression in the page is true. The page itself looks whenever it is drawn.
    pub async fn wait_until(&self, expression: &str, within: Duration) {
        let deadline = Deadline::after(within);
        let script = format!(
            "const end = performance.now() + 1000;
             for (;;) {{
               if ({expression}) return true;
               if (performance.now() > end) return false;
               await new Promise(requestAnimationFrame);
             }}"
        );
        while self.run_async(&script).await != json!(true) {
            if deadline.is_past() {
                let text = self.run("return document.body.innerText").await;
                panic!("it is not so that {expression}; the page says:\n{}", text.as_str().unwrap());
            }
        }
    }

    /// Waits until an element holds this text.
    pub async fn wait_for_text(&self, selector: &str, text: &str, within: Duration) {
        let (selector, text) = (json!(selector), json!(text));
        let expression = format!(
            "[...document.querySelectorAll({selector})].some(one => one.textContent.includes({text}))"
        );
        self.wait_until(&expression, within).await;
    }

    pub async fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({}).textContent", json!(selector))).await;
        text.as_str().unwrap().to_owned()
    }

    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command("POST", &format!("/element/{element}/click"), json!({})).await;
    }

    /// Types into an element; into a choice of files, the path of one.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.command("POST", &format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    /// Presses keys wherever the focus is; modifiers stay down to the end.
    pub async fn press(&self, keys: &[&str]) {
        let down = keys.iter().map(|key| json!({ "type": "keyDown", "value": key }));
        let up = keys.iter().rev().map(|key| json!({ "type": "keyUp", "value": key }));
        let actions: Vec<Value> = down.chain(up).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.command("POST", "/actions", json!({ "actions": [keyboard] })).await;
    }

    /// What the page looks like, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let taken = self.command("GET", "/screenshot", Value::Null).await;
        unpack_base64(taken.as_str().unwrap())
    }

    async fn element(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.command("POST", "/element", wanted).await;
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    async fn command(&self, method: &str, path: &str, body: Value) -> Value {
        let path = format!("/session{}{path}", self.session);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("content-type", "application/json")];
        let asked = self.server.ask(method.parse().unwrap(), &path, &headers, body);
        let (status, answer) = secs(60).bound(asked).await.expect("chromedriver answers").unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(status.is_success(), "{method} {path}: {}", answer["value"]["message"]);
        answer["value"].take()
    }

    /// Ends browser and driver, and proves that none of their processes is left.
    pub async fn close(mut self) {
        self.command("DELETE", "", json!({})).await;
        let left = self.end();
        assert!(left.is_ok(), "{left:?}");
    }

    /// All of them are one group; it is gone when there is nobody left to signal.
    fn end(&mut self) -> Result<(), String> {
        let group = Pid::from_raw(self.driver.id().try_into().unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.driver.wait();
        let deadline = secs(30);
        while killpg(group, None).is_ok() {
            if deadline.is_past() {
                return Err(format!("processes of group {group} are left"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a test that failed; otherwise they are gone.
        let _ = self.end();
    }
}

fn unpack_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(value).collect();
    let unpack = |four: &[u8]| {
        let bits =
            four.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(unpack).collect()
}
