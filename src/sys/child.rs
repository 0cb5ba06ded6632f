//! Starts every child process of standin, so that none can outlive it.
//!
//! A child gets its own process group (a Ctrl-C in the terminal is for standin alone), is killed when its owner
//! drops it, and asks the kernel to kill it when standin dies, `kill -9` included. That last wish
//! (`PR_SET_PDEATHSIG`) follows the *thread* that forked, see prctl(2); so one thread forks for the whole
//! process and lives as long as it does. The caller owns the [`Child`] and waits for it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::wait;
use nix::unistd::{Pid, getpid, getppid};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Starts `command`. The descriptors of `inherited` are in the child the numbers 3, 4, 5 and so on, in their
/// order; ours are closed. Must be called inside a tokio runtime.
pub async fn spawn(mut command: Command, inherited: Vec<OwnedFd>) -> io::Result<Child> {
    let mappings = inherited
        .into_iter()
        .zip(FIRST_INHERITED_FD..)
        .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
        .collect();
    command
        .fd_mappings(mappings)
        .map_err(|collision| io::Error::new(io::ErrorKind::InvalidInput, collision))?;
    command.process_group(0);
    command.kill_on_drop(true);
    die_with_us(&mut command);
    fork(command).await
}

/// Starts `command` on the thread that forks. No more: the caller says which group it is in, and what becomes of it
/// when its owner drops it or standin dies.
pub(super) async fn fork(mut command: Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let (answer, answered) = oneshot::channel();
    let order = Box::new(move || {
        let _inside = runtime.enter();
        // A caller that has gone needs no answer: the child is dropped here.
        let _ = answer.send(command.spawn());
    });
    forking_thread().send(order).expect("the forking thread lives as long as the process");
    answered.await.expect("the forking thread answers every order")
}

/// The number that the first inherited descriptor has in the child.
pub const FIRST_INHERITED_FD: i32 = 3;

/// Kills the child's whole process group, and waits until the child itself is gone.
///
/// Cancelled, it leaves a child that is dying and is reaped by tokio.
pub async fn kill_and_wait(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(id) = child.id() {
        kill_group(id);
    }
    child.wait().await
}

/// Kills the process group of a child that nobody has waited for.
fn kill_group(id: u32) {
    let group = Pid::from_raw(i32::try_from(id).expect("the kernel's process ids are positive i32"));
    // The group is gone already if all of it has just ended; the wait that follows tells.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Waits until no child of this process is left, or until `given` has passed; for the very end of the process.
///
/// Work that was cancelled drops its children, which kills them, but nobody waits for those; whoever looks after
/// our exit must not find one that is still dying. Must be called when no runtime is left that would reap them.
pub fn wait_for_all(given: Duration) {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(_) | Err(Errno::EINTR) = wait() {}
        // The main thread may have stopped waiting.
        let _ = done.send(());
    });
    if ended.recv_timeout(given).is_err() {
        tracing::warn!("a child is still there; the kernel kills it when we end");
    }
}

fn die_with_us(command: &mut Command) {
    let parent = getpid();
    let ask_kernel = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the wish was made; then nobody would fulfil it.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl and getppid are, and the
    // closure neither allocates nor locks.
    unsafe { command.pre_exec(ask_kernel) };
}

type Order = Box<dyn FnOnce() + Send>;

fn forking_thread() -> &'static mpsc::Sender<Order> {
    static THREAD: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    THREAD.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("standin-fork".to_owned())
            .spawn(move || taken.into_iter().for_each(|order| order()))
            .expect("a process that cannot start one thread can do nothing");
        orders
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn inherited_descriptors_are_numbered_from_three() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo hello >&3"]).stdin(Stdio::null());
        let mut child = spawn(shell, vec![theirs.into()]).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\n");
    }

    #[tokio::test]
    async fn a_killed_child_takes_its_own_children_with_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo started >&3; wait"]); // sleep: it is what gets killed
        let mut child = spawn(shell, vec![theirs.into()]).await.unwrap();
        let mut started = [0; 8];
        ours.read_exact(&mut started).unwrap();
        kill_and_wait(&mut child).await.unwrap();
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).unwrap(); // ends only when nobody holds the other end
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error() {
        let failed = spawn(Command::new("/nonexistent/program"), Vec::new()).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
