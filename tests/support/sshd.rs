//! A real sshd on a port of its own: each connection gets one in inetd mode, so that no port is guessed and a test
//! can cut the line. It ends with its owner.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this")]

use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
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
        // Where sshd of root locks itself in; its package makes it at boot.
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("no IPv4") };
        let mut sshd = Self { dir, address, lines: Arc::default(), ended: Arc::default(), acceptor: None };
        sshd.make_host_key();
        let (config, lines, ended) = (sshd.configure(), sshd.lines.clone(), sshd.ended.clone());
        let acceptor = std::thread::spawn(move || {
            let mut children: Vec<Child> = Vec::new();
            for line in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let line = line.unwrap();
                children.push(serve(&config, &line));
                lines.lock().unwrap().push(line);
            }
            for mut child in children {
                child.wait().unwrap();
            }
        });
        sshd.acceptor = Some(acceptor);
        sshd
    }

    /// Another host key from now on.
    pub fn make_host_key(&self) {
        let path = self.dir.path().join("host_key");
        let _ = std::fs::remove_file(&path);
        Identity::make(&path).unwrap();
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

    fn configure(&self) -> std::path::PathBuf {
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
    let mut command = Command::new("/usr/sbin/sshd");
    command.arg("-i").arg("-e").arg("-f").arg(config).stdin(end()).stdout(end());
    let log = config.with_file_name("sshd.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.stderr(log).spawn().expect("no /usr/sbin/sshd: it is in package openssh-server")
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

/// Who runs this test, and so who can log in to a server of theirs.
pub fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}
