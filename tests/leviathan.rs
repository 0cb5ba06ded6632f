//! Leviathan's own worker class, from a checkout of its repository, against `standin serve`.
//!
//! `STANDIN_LEVIATHAN` names the checkout, in which `npm install` was run in `core`; without it, nothing is proved
//! here, which is said. `docs/worker.md` tells how to get one.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use standin::io::selftest::SELFTEST_IMAGE;
use support::worker::Worker;

/// A raw image of so many MiB that starts the self-test; half of what follows is noise, as in an operating system.
fn image(mib: usize) -> Vec<u8> {
    let mut image = SELFTEST_IMAGE.to_vec();
    let mut state = 0x9e37_79b9_u32;
    while image.len() < mib << 20 {
        for _ in 0..(1 << 18) {
            // xorshift, by its published shifts.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            image.extend_from_slice(&state.to_le_bytes());
        }
        image.resize(image.len() + (1 << 20), b'a');
    }
    image.truncate(mib << 20);
    image
}

/// What came of each of the class's calls.
struct Steps {
    said: String,
    by_name: BTreeMap<String, Value>,
}

impl Steps {
    /// Drives `worker` through a whole conversation; with a name and an agent, also over SSH.
    async fn of(worker: &Worker, image: &Path, name: Option<&str>, agent: Option<&Path>) -> Self {
        let checkout = std::env::var_os("STANDIN_LEVIATHAN").unwrap();
        let port = worker.server.to_string().rsplit(':').next().unwrap().to_owned();
        let mut node = Command::new("node");
        node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/leviathan.js"));
        node.arg(std::fs::canonicalize(checkout).unwrap()).arg(port).arg(image).args(name);
        node.current_dir(image.parent().unwrap()).envs(agent.map(|path| ("SSH_AUTH_SOCK", path)));
        let output = tokio::task::spawn_blocking(move || node.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complained}\n{}", worker.stderr());
        println!("{said}");
        let steps = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let by_name = steps.map(|step| (step["step"].as_str().unwrap().to_owned(), step)).collect();
        Self { said, by_name }
    }

    /// What a call returned; it must not have failed.
    fn value(&self, step: &str) -> Value {
        let told = self.by_name.get(step).unwrap_or_else(|| panic!("{step} is missing: {}", self.said));
        assert!(told.get("error").is_none(), "{told}");
        told.get("value").cloned().unwrap_or_default()
    }
}

fn is_given(variables: &[&str]) -> bool {
    let missing: Vec<_> = variables.iter().filter(|name| std::env::var_os(name).is_none()).collect();
    if !missing.is_empty() {
        println!("NOT RUN: {missing:?} not set (docs/worker.md)");
    }
    missing.is_empty()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An SSH agent that ends with the test, as leviathan's core has one.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leviathans_own_class_reaches_the_reference_os_over_ssh() {
    if !is_given(&["STANDIN_LEVIATHAN", "STANDIN_REFERENCE_OS"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at("key")]);
    let key = std::fs::read_to_string(at("key.pub")).unwrap();
    let config = json!({ "uuid": format!("c0ffee5{:025}", 0), "os": { "sshKeys": [key.trim()] } });
    std::fs::write(at("config.json"), config.to_string()).unwrap();
    let built = std::env::var("STANDIN_REFERENCE_OS").unwrap();
    run("cp", &["--sparse=always", &built, &at("os.img")]);
    // The boot partition begins at 1 MiB.
    run("mcopy", &["-o", "-i", &format!("{}@@1M", at("os.img")), &at("config.json"), "::config.json"]);
    let socket = place.path().join("agent");
    let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let _agent = Agent(agent.unwrap());
    let deadline = support::secs(30);
    while !socket.exists() {
        assert!(!deadline.is_past(), "the agent did not begin");
    }
    let added = Command::new("ssh-add").arg("-q").arg(at("key")).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());

    let worker = Worker::start_on_tcp(&["generic-amd64"], &[]).await;
    let image = place.path().join("os.img");
    let steps = Steps::of(&worker, &image, Some("c0ffee5.local"), Some(&socket)).await;
    assert_eq!(steps.value("ssh"), "c0ffee5");
    assert_eq!(steps.value("serial exec"), "x86_64");
    assert_eq!(steps.value("teardown"), Value::Null);
    worker.close_and_expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leviathans_own_class_drives_a_stand_in() {
    if !is_given(&["STANDIN_LEVIATHAN"]) {
        return;
    }
    let worker = Worker::start_on_tcp(&["generic-amd64"], &[]).await;
    let place = tempfile::tempdir().unwrap();
    let raw = place.path().join("os.img");
    std::fs::write(&raw, image(128)).unwrap();
    let steps = Steps::of(&worker, &raw, None, None).await;
    let value = |step| steps.value(step);
    assert_eq!(value("reserve"), "OK");
    assert_eq!(value("contract")["workerType"], "qemu");
    for done in ["network", "off before", "flash", "flash again", "off", "off again", "teardown", "on"] {
        assert_eq!(value(done), Value::Null, "{done}");
    }
    assert_eq!(value("capture"), "OK");
    assert_eq!(value("captured")[0], "000001.jpg");
    assert_eq!(value("serial exec"), "x86_64");
    assert_eq!(value("serial number"), json!(0), "the class reads JSON out of any answer");
    assert!(value("ip").as_str().unwrap().starts_with("127."));
    assert_eq!(value("diagnostics")["power"], "running");
    assert!(value("serial").as_str().unwrap().contains("uname -m"));
    assert_eq!(value("serial after"), value("serial"), "also after the teardown");
    assert_eq!(value("state"), "IDLE");
    worker.close_and_expect_nothing_left().await;
}
