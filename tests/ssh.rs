//! The SSH client against a real sshd, and against what is none.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/sshd.rs"]
mod sshd;
mod support;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sshd::{Sshd, user};
use standin::io::ssh::{
    Contact, Credentials, HostKey, Identity, News, NoServer, Server, Session, SshError, Status,
};
use support::secs;

fn identity(dir: &Path) -> Identity {
    Identity::make(&dir.join("user_key")).unwrap()
}

async fn log_in(
    sshd: &Sshd,
    credentials: &Credentials,
    known: Option<&HostKey>,
) -> Result<Session, SshError> {
    let mut contact = Contact::open(sshd.address).await.unwrap();
    let version = contact.version().await.unwrap();
    let server = Server::meet(contact, &version, known).await?;
    secs(30).bound(server.log_in(&user(), credentials)).await.unwrap()
}

fn with_key(identity: &Identity) -> Credentials {
    Credentials { identity: Some(identity.clone()), ..Credentials::default() }
}

/// What a command wrote to its two outputs, and how it ended.
async fn run(session: &Session, command: &str, input: &[u8]) -> (Vec<u8>, Vec<u8>, Status) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let process = session.start(Some(command), None).await.unwrap();
    let finished = process.finish(input, |news| {
        match news {
            News::Output(bytes) => output.extend(bytes),
            News::Errors(bytes) => errors.extend(bytes),
            News::Ended(_) => {}
        }
        Ok(())
    });
    let status = secs(60).bound(finished).await.unwrap().unwrap();
    (output, errors, status)
}

/// A server of one connection that says this and hangs up, once the other side has said what it will.
fn speaker(words: &'static [u8]) -> (SocketAddrV4, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("no IPv4") };
    let thread = std::thread::spawn(move || listener.accept().unwrap().0.write_all(words).unwrap());
    (address, thread)
}

#[tokio::test]
async fn a_command_has_its_status_and_two_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let key = identity(dir.path());
    let sshd = Sshd::start(&key);
    let session = log_in(&sshd, &with_key(&key), None).await.unwrap();
    let (output, errors, status) = run(&session, "echo out; echo err >&2; exit 7", b"").await;
    assert_eq!((output, errors, status), (b"out\n".to_vec(), b"err\n".to_vec(), Status::Exited(7)));
    let (_, errors, status) = run(&session, "no-such-command", b"").await;
    assert_eq!(status, Status::Exited(127));
    assert!(String::from_utf8_lossy(&errors).contains("not found"));
    assert_eq!(run(&session, "kill -KILL $$", b"").await.2, Status::Killed("KILL".to_owned()));
}

#[tokio::test]
async fn eight_mebibytes_go_both_ways_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = identity(dir.path());
    let sshd = Sshd::start(&key);
    let session = log_in(&sshd, &with_key(&key), None).await.unwrap();
    let sent: Vec<u8> = (0..8_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (received, _, status) = run(&session, "cat", &sent).await;
    assert_eq!(status, Status::Exited(0));
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    // One that does not read its input ends all the same.
    assert_eq!(run(&session, "true", &sent).await.2, Status::Exited(0));
}

#[tokio::test]
async fn a_key_that_is_refused_is_told_with_what_the_server_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (identity(dir.path()), Identity::make(&dir.path().join("other")).unwrap());
    let sshd = Sshd::start(&other);
    let refused = log_in(&sshd, &with_key(&ours), None).await.unwrap_err();
    let (user, path) = (user(), ours.file.display());
    assert_eq!(
        refused.to_string(),
        format!("`{user}` was refused: tried key {path}, the server takes publickey")
    );
    let refused = log_in(&sshd, &Credentials::default(), None).await.unwrap_err().to_string();
    assert!(refused.ends_with("tried nothing, as there is no key, the server takes publickey"), "{refused}");
}

#[tokio::test]
async fn a_host_key_that_changes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = identity(dir.path());
    let sshd = Sshd::start(&key);
    let learnt = log_in(&sshd, &with_key(&key), None).await.unwrap().host_key;
    assert_eq!(log_in(&sshd, &with_key(&key), Some(&learnt)).await.unwrap().host_key, learnt);
    sshd.make_host_key();
    match log_in(&sshd, &with_key(&key), Some(&learnt)).await.unwrap_err() {
        SshError::HostKeyChanged { known, found } => assert!(known == learnt && found != learnt),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_of_a_command_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = identity(dir.path());
    let sshd = Sshd::start(&key);
    let session = log_in(&sshd, &with_key(&key), None).await.unwrap();
    let mut process = session.start(Some("echo begun; cat"), None).await.unwrap();
    assert_eq!(process.next().await.unwrap(), News::Output(b"begun\n".to_vec()));
    sshd.cut();
    let lost = secs(10).bound(process.next()).await.unwrap().unwrap_err();
    assert!(lost.to_string().starts_with("the connection ended during the command"), "{lost}");
}

#[tokio::test]
async fn an_agent_lets_us_in() {
    let dir = tempfile::tempdir().unwrap();
    let key = identity(dir.path());
    let sshd = Sshd::start(&key);
    let socket = dir.path().join("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::piped()).spawn().unwrap();
    // It tells of its socket once it listens.
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(agent.stdout.take().unwrap()),
        &mut String::new(),
    )
    .unwrap();
    let added =
        Command::new("ssh-add").arg("-q").arg(&key.file).env("SSH_AUTH_SOCK", &socket).status().unwrap();
    assert!(added.success());
    let credentials = Credentials { agent: Some(socket), ..Credentials::default() };
    let session = log_in(&sshd, &credentials, None).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(run(&session.unwrap(), "echo in", b"").await.0, b"in\n");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_told_by_what_it_does() {
    // A port that nobody listens on.
    let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(closed) = unused.local_addr().unwrap() else { panic!("no IPv4") };
    drop(unused);
    let error = Contact::open(closed).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");

    for (words, expected) in [
        (b"".as_slice(), "connections end without a word, as those to a closed port do"),
        (
            b"Exceeded MaxStartups\r\n",
            "the connection ended after `Exceeded MaxStartups`, without an SSH version",
        ),
        (b"\xff\xfb\x01\0login: ", "what listens there does not speak SSH: it said"),
    ] {
        let (address, thread) = speaker(words);
        let mut contact = Contact::open(address).await.unwrap();
        let error = secs(10).bound(contact.version()).await.unwrap().unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(matches!(error, NoServer::NotSsh { .. }), words.contains(&0));
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_server_that_never_speaks_is_waited_for_no_longer_than_asked() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("no IPv4") };
    let mut contact = Contact::open(address).await.unwrap();
    let deadline = secs(60).within(Duration::from_millis(50));
    assert!(deadline.bound(contact.version()).await.is_err());
    assert_eq!(contact.said(), "");
}

#[tokio::test]
async fn a_key_exchange_that_fails_is_told_with_the_servers_version() {
    let (address, thread) = speaker(b"SSH-2.0-Speaker\r\n\x00\x00\x00\x0cgarbage");
    let mut contact = Contact::open(address).await.unwrap();
    let version = contact.version().await.unwrap();
    let Err(error) = secs(10).bound(Server::meet(contact, &version, None)).await.unwrap() else {
        panic!("it met a server that does not exchange keys")
    };
    thread.join().unwrap();
    assert!(matches!(error, SshError::KeyExchange { .. }), "{error}");
    assert_eq!(error.to_string(), "`SSH-2.0-Speaker` answered, and the key exchange with it failed");
}
