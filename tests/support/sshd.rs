//! A real sshd on a port of its own: each connection gets one in inetd mode, so that no port is guessed and a test
//! can cut the line. It ends with its owner.
//!
//! `scripts/install-packages --test` unpacks its program; on systems without apt it is the installed one. It serves
//! whoever runs the test. An sshd of root wants a user and a folder of the system's own, which only an installation
//! makes; so root's test has it served by nobody, who gets a name and a shell from libnss-wrapper.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this")]

use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::json;
use standin::io::ssh::Identity;
use standin::sys::run_dir::RunDir;
use tempfile::TempDir;

pub struct Sshd {
    pub dir: TempDir,
    pub address: SocketAddrV4,
    lines: Arc<Mutex<Vec<TcpStream>>>,
    ended: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sshd {
    /// A server that lets in whoever has `identity`.
    pub fn start(identity: &Identity) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("authorized_keys"), identity.public_line()).unwrap();
        std::fs::copy(program(), dir.path().join("sshd")).unwrap();
        if is_root() {
            let nobody = format!("{SERVED}:x:{NOBODY}:{NOBODY}::{}:/bin/sh\n", dir.path().display());
            std::fs::write(dir.path().join("passwd"), nobody).unwrap();
            std::fs::write(dir.path().join("group"), group_of_ptys()).unwrap();
            std::fs::copy(wrapper(), dir.path().join("wrapper.so")).unwrap();
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("no IPv4") };
        let mut sshd = Self { dir, address, lines: Arc::default(), ended: Arc::default(), acceptor: None };
        sshd.make_host_key();
        let (config, lines, ended) = (sshd.configure(), sshd.lines.clone(), sshd.ended.clone());
        let acceptor = std::thread::spawn(move || {
            let mut served = Vec::new();
            for line in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let line = line.unwrap();
                let mut child = serve(&config, &line);
                lines.lock().unwrap().push(line.try_clone().unwrap());
                served.push(std::thread::spawn(move || {
                    child.wait().unwrap();
                    // One that died has not said goodbye, and ours would keep the line open.
                    let _ = line.shutdown(Shutdown::Both);
                }));
            }
            served.into_iter().for_each(|thread| thread.join().unwrap());
        });
        sshd.acceptor = Some(acceptor);
        sshd
    }

    /// Another host key from now on.
    pub fn make_host_key(&self) {
        let path = self.dir.path().join("host_key");
        let _ = std::fs::remove_file(&path);
        Identity::make(&path).unwrap();
        if is_root() {
            // What is not its own, sshd does not take.
            for own in [self.dir.path(), &path] {
                chown(own, Some(NOBODY), None).unwrap();
            }
        }
    }

    /// A run directory that is held by this process, as `standin up` holds one, for a board that is this server; and
    /// the id of the run.
    pub fn hold(&self, runs: &Path, key: &Identity) -> (RunDir, String) {
        let run = RunDir::create(runs).unwrap();
        let running = json!({
            "board": "generic-amd64", "user": user(), "password": null, "ssh_key": key.file,
            "ssh_port": 22222, "forwards": [[22222, self.address]],
        });
        std::fs::write(run.path().join("running.json"), running.to_string()).unwrap();
        let name = run.path().file_name().unwrap().to_str().unwrap();
        let id = name.strip_prefix("standin-").unwrap().to_owned();
        (run, id)
    }

    fn configure(&self) -> PathBuf {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
            at("host_key"),
            at("authorized_keys")
        );
        let path = self.dir.path().join("sshd_config");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            // One that has ended already is cut as well.
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

fn serve(config: &Path, line: &TcpStream) -> Child {
    let end = || Stdio::from(OwnedFd::from(line.try_clone().unwrap()));
    let beside = |name: &str| config.with_file_name(name);
    let mut command = Command::new(beside("sshd"));
    if is_root() {
        command.env("LD_PRELOAD", beside("wrapper.so")).env("NSS_WRAPPER_PASSWD", beside("passwd"));
        command.env("NSS_WRAPPER_GROUP", beside("group")).uid(NOBODY).gid(NOBODY);
    }
    command.arg("-i").arg("-e").arg("-f").arg(config).stdin(end()).stdout(end());
    let log = std::fs::OpenOptions::new().create(true).append(true).open(beside("sshd.log")).unwrap();
    command.stderr(log).spawn().unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        self.acceptor.take().map(JoinHandle::join);
    }
}

/// The user of this test, and so the one who can log in.
pub fn user() -> String {
    if is_root() {
        return SERVED.to_owned();
    }
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

/// What nobody is called where a name is needed that has a shell.
const SERVED: &str = "served";
/// Debian's base-passwd, and most others.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The line of /etc/group for the group that new terminals have here; sshd would have another one changed, which
/// nobody may not.
fn group_of_ptys() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let options = mounts.lines().find_map(|line| line.split_once(" /dev/pts devpts ")).unwrap().1;
    let group = options.split([',', ' ']).find_map(|option| option.strip_prefix("gid="));
    group.map(|group| format!("tty:x:{group}:\n")).unwrap_or_default()
}

fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sshd/usr/sbin/sshd");
    let places = [unpacked, "/usr/sbin/sshd".into()];
    places
        .into_iter()
        .find(|path| path.exists())
        .expect("no sshd: `scripts/install-packages --test` brings one")
}

/// A library lies where its architecture says.
fn wrapper() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut places = folders.map(|folder| folder.join("libnss_wrapper.so"));
    let missing = "no libnss_wrapper.so: `scripts/install-packages --test` brings it";
    places.find(|path| path.exists()).expect(missing)
}
