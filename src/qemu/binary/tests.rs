//! What real QEMU programs answer, and what becomes of programs that do not.

use std::time::{Duration, Instant};

use super::*;

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// The program that the tests' host has; says what to install if it has none.
fn qemu(arch: Arch) -> PathBuf {
    let search_path = OsStr::new("/usr/local/bin:/usr/bin:/bin");
    find(arch, None, Some(search_path)).unwrap_or_else(|error| panic!("{error}; {}", error.hint().unwrap()))
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("qemu-system-x86_64");
    // Another program writes it: a descriptor of ours might be inherited by a child that another test forks at
    // this moment, and a file that is open for writing cannot be run (ETXTBSY).
    let source = folder.join("source");
    fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
    let installed = std::process::Command::new("install").arg("-m755").arg(&source).arg(&path).status();
    assert!(installed.unwrap().success());
    path
}

#[tokio::test]
async fn qemu_says_what_it_can_do() {
    let cache = tempfile::tempdir().unwrap();
    let pc = ask(&qemu(Arch::X86_64), cache.path(), deadline()).await.unwrap();
    assert!(pc.version.major >= 7, "{}", pc.version);
    assert!(pc.machine("q35").unwrap().name.starts_with("pc-q35-"));
    assert!(pc.machine("none-such").is_none());
    assert!(pc.accelerators.contains(&"tcg".to_owned()), "{:?}", pc.accelerators);
    for device in ["virtio-net-pci", "nvme", "usb-storage", "sd-card", "pvpanic"] {
        assert!(pc.devices.contains(device), "{device}");
    }
    assert!(pc.has_netdev("stream") && pc.has_netdev("dgram") && !pc.has_netdev("none-such"));

    let arm = ask(&qemu(Arch::Aarch64), cache.path(), deadline()).await.unwrap();
    assert!(arm.machine("raspi3b").is_some_and(|machine| machine.cpu_max == 4));
}

#[tokio::test]
async fn an_inventory_is_asked_for_once_and_again_when_the_program_changes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let real = qemu(Arch::X86_64);
    let wrapper = script(
        folder.path(),
        &format!("echo x >>{0}/asked; exec {1} \"$@\"", folder.path().display(), real.display()),
    );
    let times_asked = || fs::read_to_string(folder.path().join("asked")).unwrap().lines().count();

    let first = inventory(&wrapper, &cache, deadline()).await.unwrap();
    let started = Instant::now();
    let second = inventory(&wrapper, &cache, deadline()).await.unwrap();
    println!("from the cache: {:?}", started.elapsed());
    assert_eq!((first, times_asked()), (second, 1));

    script(
        folder.path(),
        &format!("echo x >>{0}/asked; # changed\nexec {1} \"$@\"", folder.path().display(), real.display()),
    );
    inventory(&wrapper, &cache, deadline()).await.unwrap();
    assert_eq!(times_asked(), 2);

    for file in fs::read_dir(&cache).unwrap() {
        fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    inventory(&wrapper, &cache, deadline()).await.unwrap();
    assert_eq!(times_asked(), 3);
}

#[tokio::test]
async fn a_program_that_is_no_qemu_is_reported_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let failing = script(folder.path(), "echo 'no such machine' >&2; exit 1");
    let error = ask(&failing, folder.path(), deadline()).await.unwrap_err().to_string();
    assert!(error.contains("-M none"), "{error}");
    assert!(error.ends_with("gave no inventory: exit status: 1: no such machine"), "{error}");

    let talking = script(folder.path(), "head -n 7 >/dev/null; echo '{\"return\": {}, \"id\": 1}'");
    let error = ask(&talking, folder.path(), deadline()).await.unwrap_err().to_string();
    assert!(error.ends_with("unexpected answer to query-machines"), "{error}");
}

#[tokio::test]
async fn a_silent_program_is_killed_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let silent = script(folder.path(), "exec sleep 600"); // sleep: it is what gets killed
    let soon = Deadline::after(Duration::from_millis(300));
    let error = ask(&silent, folder.path(), soon).await.unwrap_err();
    assert!(matches!(error, BinaryError::Silent { .. }), "{error}");
}

#[test]
fn a_missing_qemu_names_the_package_that_has_it() {
    let error = find(Arch::Aarch64, None, Some(OsStr::new("/nonexistent"))).unwrap_err();
    assert_eq!(error.to_string(), "no `qemu-system-aarch64` on this host");
    assert_eq!(
        error.hint().unwrap(),
        "install `qemu-system-arm` (Debian, Ubuntu) or `qemu-system-aarch64` (Fedora)"
    );
    let explicit = find(Arch::Aarch64, Some(Path::new("/nonexistent/qemu")), None).unwrap_err();
    assert_eq!(explicit.to_string(), "cannot run /nonexistent/qemu");
    assert!(find(Arch::Aarch64, Some(Path::new("/usr")), None).is_err());
}
