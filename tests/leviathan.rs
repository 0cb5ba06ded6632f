//! Leviathan's own worker class, from a checkout of its repository, against `standin serve`.
//!
//! `STANDIN_LEVIATHAN` names the checkout, in which `npm install` was run in `core`; without it, nothing is proved
//! here, which is said. `docs/worker.md` tells how to get one.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Command;

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

#[tokio::test(flavor = "multi_thread")]
async fn leviathans_own_class_drives_a_stand_in() {
    let Some(checkout) = std::env::var_os("STANDIN_LEVIATHAN") else {
        println!("NOT RUN: STANDIN_LEVIATHAN names no checkout of leviathan (docs/worker.md)");
        return;
    };
    let checkout = std::fs::canonicalize(checkout).unwrap();
    let worker = Worker::start_on_tcp(&["generic-amd64"], &[]).await;
    let place = tempfile::tempdir().unwrap();
    let raw = place.path().join("os.img");
    std::fs::write(&raw, image(128)).unwrap();
    let port = worker.server.to_string().rsplit(':').next().unwrap().to_owned();
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/leviathan.js");
    let mut node = Command::new("node");
    node.arg(driver).arg(checkout).arg(port).arg(&raw).current_dir(place.path());
    let output = tokio::task::spawn_blocking(move || node.output().unwrap()).await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}\n{}", worker.stderr());
    println!("{said}");
    let steps: BTreeMap<String, Value> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|step| (step["step"].as_str().unwrap().to_owned(), step))
        .collect();
    let value = |step: &str| {
        let told = steps.get(step).unwrap_or_else(|| panic!("{step} is missing: {said}"));
        assert!(told.get("error").is_none(), "{told}");
        told.get("value").cloned().unwrap_or_default()
    };
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
