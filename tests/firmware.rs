//! What a board remembers beside its media, UEFI variables and TPM: over resets and power cycles, until a flash.

mod support;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use standin::event::EventKind;
use standin::lab::player::{AcceleratorChoice, choose};
use standin::procedure;
use standin::qemu::arguments::Accelerator;
use support::{Hold, look_until, processes_with, secs};

/// A PC with a TPM, whose BIOS and self-test are there at once.
async fn pc_with_tpm() -> Hold {
    let edits = [("firmware = \"bios\"\n", "firmware = \"bios\"\ntpm = \"2.0\"\n")];
    support::edited_stand_in("pc-seabios", &edits).await
}

/// The TPM's process.
fn swtpm(hold: &Hold) -> Option<Pid> {
    let processes = processes_with(&hold.dir.path().join("scratch/tpm"));
    Some(Pid::from_raw(processes.first()?.file_name()?.to_str()?.parse().ok()?))
}

/// What tells one TPM from another: the key that TPM2_CreatePrimary (TPM 2.0 library, part 3, section 24.1) derives
/// from its endorsement seed. The board is off, so the test may start a TPM on the same state.
fn endorsement_key(state: &Path) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // It takes no standard input for its socket.
    let mut process = Command::new("sh")
        .args(["-c", r#"exec swtpm "$@" 3<&0 0</dev/null"#, "sh"])
        .args(["socket", "--tpm2", "--fd", "3", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("swtpm runs, see the package swtpm");
    let mut command = vec![0x80, 0x02, 0, 0, 0, 0, 0, 0, 0x01, 0x31]; // sessions, length to come, CreatePrimary
    command.extend(0x4000_000b_u32.to_be_bytes()); // the endorsement hierarchy
    command.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]); // an empty password
    command.extend([0, 4, 0, 0, 0, 0]); // nothing sensitive
    let mut template = vec![0, 0x23, 0, 0x0b, 0, 0x03, 0x00, 0x72, 0, 0]; // ECC, SHA-256, a storage key, no policy
    template.extend([0, 0x06, 0, 0x80, 0, 0x43]); // AES-128-CFB for what it protects
    template.extend([0, 0x10, 0, 0x03, 0, 0x10, 0, 0, 0, 0]); // no scheme, P-256, no derivation, an empty point
    command.extend(u16::try_from(template.len()).unwrap().to_be_bytes());
    command.extend(template);
    command.extend([0, 0, 0, 0, 0, 0]); // no outside information, no PCRs
    let length = u32::try_from(command.len()).unwrap();
    command[2..6].copy_from_slice(&length.to_be_bytes());
    ours.write_all(&command).unwrap();
    let mut head = [0; 10];
    ours.read_exact(&mut head).unwrap();
    let answer_bytes = u32::from_be_bytes(head[2..6].try_into().unwrap()) as usize;
    let mut answer = vec![0; answer_bytes - head.len()];
    ours.read_exact(&mut answer).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(head[6..], [0; 4], "the TPM's answer is an error");
    // Behind handle and length comes the public part, with the point of the key at its end.
    let public = usize::from(u16::from_be_bytes(answer[8..10].try_into().unwrap()));
    answer[10..10 + public].to_vec()
}

#[tokio::test]
async fn uefi_variables_stay_over_resets_and_power_cycles_until_a_flash() {
    let mut hold = support::stand_in("generic-amd64").await;
    let image = hold.selftest();
    let file = hold.dir.path().join("scratch/uefi-variables.fd");
    procedure::flash(&mut hold.device, &image).await.unwrap();
    assert!(!file.exists());
    // This makes ready what a power-on needs.
    hold.device.command_line().await.unwrap();
    let fresh = std::fs::read(&file).unwrap();
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let learnt = std::fs::read(&file).unwrap();
    assert!(learnt != fresh, "the firmware has written nothing");
    hold.device.reset(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    hold.device.power_off().await.unwrap();
    hold.device.command_line().await.unwrap();
    assert!(std::fs::read(&file).unwrap() != fresh, "a power cycle made them new");
    procedure::flash(&mut hold.device, &image).await.unwrap();
    hold.device.command_line().await.unwrap();
    assert!(std::fs::read(&file).unwrap() == fresh, "a flash left them");
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_tpm_keeps_its_secrets_over_power_cycles_and_is_a_new_one_after_a_flash() {
    let mut hold = pc_with_tpm().await;
    let image = hold.selftest();
    let state = hold.dir.path().join("scratch/tpm");
    let mut keys = Vec::new();
    for _ in 0..2 {
        procedure::flash(&mut hold.device, &image).await.unwrap();
        assert!(!state.exists());
        for _ in 0..2 {
            hold.device.power_on(secs(30)).await.unwrap();
            hold.wait_for("selftest# ").await;
            assert!(swtpm(&hold).is_some());
            hold.device.power_off().await.unwrap();
            assert_eq!(swtpm(&hold), None);
            keys.push(endorsement_key(&state));
        }
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[2], keys[3]);
    assert_ne!(keys[0], keys[2]);
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_tpm_that_dies_is_the_labs_fault_and_one_of_a_dead_qemu_goes_with_it() {
    let mut hold = pc_with_tpm().await;
    let image = hold.selftest();
    procedure::flash(&mut hold.device, &image).await.unwrap();
    let events = hold.device.events.clone();
    hold.device.power_on(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    kill(swtpm(&hold).unwrap(), Signal::SIGKILL).unwrap();
    let died = events.wait_for(0, secs(10), |kind| kind.lab_fault().is_some()).await.unwrap();
    let EventKind::InternalError { reason } = died.kind else { panic!("{died:?}") };
    assert!(reason.starts_with("the TPM died (signal: 9 (SIGKILL)): "), "{reason}");

    let seen = events.len();
    hold.device.power_cycle(secs(30)).await.unwrap();
    hold.wait_for("selftest# ").await;
    let tpm = swtpm(&hold).unwrap();
    let machine = processes_with(hold.dir.path()).into_iter().find_map(|process| {
        let id = process.file_name()?.to_str()?.parse().ok()?;
        (id != tpm.as_raw()).then_some(Pid::from_raw(id))
    });
    kill(machine.unwrap(), Signal::SIGKILL).unwrap();
    events.wait_for(seen, secs(10), |kind| kind.lab_fault().is_some()).await.unwrap();
    look_until("the end of the TPM", || swtpm(&hold).is_none().then_some(()));
    hold.close_and_expect_nothing_left().await;
}

#[tokio::test]
async fn a_board_with_a_tpm_is_not_played_without_swtpm_and_the_package_is_named() {
    let hold = pc_with_tpm().await;
    let mut host = support::host(hold.dir.path());
    // A PATH with QEMU, and without swtpm.
    let programs = hold.dir.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink("/usr/bin/qemu-system-x86_64", programs.join("qemu-system-x86_64")).unwrap();
    host.search_path = programs.into();
    let refused = choose(&hold.device.board, &host, AcceleratorChoice::Only(Accelerator::Tcg)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.to_string(), "swtpm is not in PATH, and it plays the TPM of boards that have one");
    assert_eq!(refused.hint().as_deref(), Some("install `swtpm`"));
    hold.close_and_expect_nothing_left().await;
}
