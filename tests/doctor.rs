//! `standin doctor` as a shell sees it.

use std::process::{Command, Output};

fn doctor(search_path: &str, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .arg("doctor")
        .args(arguments)
        .env_clear()
        .env("PATH", search_path)
        .env("HOME", home.path())
        .output()
        .unwrap()
}

#[test]
fn a_host_that_plays_some_board_is_a_success_and_one_object() {
    let seen = doctor("/usr/local/bin:/usr/bin:/bin", &["--json"]);
    let text = String::from_utf8(seen.stdout).unwrap();
    assert_eq!(seen.status.code(), Some(0), "{text}");
    assert_eq!(text.lines().count(), 1);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let plays = |slug: &str| {
        let boards = report["boards"].as_array().unwrap();
        boards.iter().any(|board| board["slug"] == slug && board["playable"] == true)
    };
    assert!(plays("generic-amd64") && plays("raspberrypi3-64"), "{text}");
}

#[test]
fn a_host_without_qemu_is_a_broken_lab_and_says_what_to_install() {
    let seen = doctor("/nonexistent", &[]);
    let text = String::from_utf8(seen.stdout).unwrap();
    assert_eq!(seen.status.code(), Some(3), "{text}");
    assert!(text.contains("no `qemu-system-x86_64` on this host"), "{text}");
    assert!(text.contains("qemu-system-x86\n"), "{text}");
}
