//! A program and all that it starts: they end together, with the program, at their owner's wish, or with standin.
//!
//! When standin dies, the kernel kills its children and not theirs; see `child`. So a guard stands between: a fork of
//! ours that is the program's parent, and the reaper of whatever loses its parent among its descendants, also of what
//! has left group and session as a daemon does (`PR_SET_CHILD_SUBREAPER`, prctl(2)). When the program ends, or the
//! pipe from us does, which comes with our death, too, it kills its children until it has none, and ends as the program
//! did. Out of reach is only what it may not kill, such as what sudo(8) started. The owner ends it by one of the two
//! functions; dropped, it is killed all the same.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stdin, fork, getpid, getppid, read, setpgid};
use tokio::process::{Child, Command};

use super::child;

/// A program that runs, and what it has started.
#[derive(Debug)]
pub struct Family {
    guard: Child,
    /// Ends when we do.
    lifeline: Option<PipeWriter>,
}

impl Family {
    /// Starts the program. Must be called inside a tokio runtime.
    pub async fn start(mut program: Command) -> io::Result<Self> {
        let (end, lifeline) = io::pipe()?;
        let stand_between = move || stand_between(&end);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. This closure and the guard, which
        // never leaves it, make system calls only; they neither allocate nor lock.
        unsafe { program.pre_exec(stand_between) };
        let guard = child::fork(program).await?;
        Ok(Self { guard, lifeline: Some(lifeline) })
    }

    /// Waits until the program ends by itself, and kills what it has left.
    ///
    /// Cancelled, it leaves all of it running.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.guard.wait().await
    }

    /// Kills all of it, and waits until program and guard are gone.
    ///
    /// Cancelled, it leaves them dying.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.lifeline = None;
        self.guard.wait().await
    }
}

/// Forks the process that is to become the program: returns in the new one, and is the guard in the old.
fn stand_between(end: &PipeReader) -> io::Result<()> {
    let guard = getpid();
    prctl::set_child_subreaper(true)?;
    // The guard heeds no signal: what a program sends to its group, or a person to all of them, is for the program.
    SigSet::all().thread_set_mask()?;
    // SAFETY: this process, itself fresh from a fork, has one thread; see `start` for what the new one may do.
    match unsafe { fork() }? {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The guard may have died before the wish was made.
            if getppid() != guard {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        }
        ForkResult::Parent { child } => {
            let status = stand_guard(child, end.as_fd());
            end_as(status)
        }
    }
}

/// Waits for the program or the end of the pipe, and kills what is there then; returns how the program ended.
///
/// What goes wrong here can be told to nobody; then what is left is killed at once.
fn stand_guard(program: Pid, end: BorrowedFd<'_>) -> Option<WaitStatus> {
    let mut ended = None;
    // Descriptors of standin must not live longer than it; one of them tells it that the program was started.
    let kept = dup2_stdin(end).is_ok() && close_all_but_stdin().is_ok() && chdir(c"/").is_ok();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let news = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK);
    // SAFETY: standard input is the end of the pipe now, and open until this process ends.
    let end = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
    while let (true, Ok(news)) = (kept, &news) {
        reap(program, &mut ended);
        let mut waited = [PollFd::new(end, PollFlags::POLLIN), PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        if ended.is_some() || poll(&mut waited, PollTimeout::NONE).is_err() {
            break;
        }
        let is_over = waited[0].any().unwrap_or(true);
        let _ = news.read_signal();
        if is_over {
            break;
        }
    }
    while reap(program, &mut ended) && kill_children(program) {
        let Ok(news) = &news else { continue };
        // One that was on its way to us while we looked is seen the next time.
        let mut waited = [PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, PollTimeout::from(LOOK_AGAIN_MS)).is_ok_and(|ready| ready > 0) {
            let _ = news.read_signal();
        }
    }
    ended
}

/// A killed process is gone within some milliseconds, and the kernel says so; this is for what it does not say.
const LOOK_AGAIN_MS: u8 = 50;

/// Buries the dead, and remembers how the program ended; whether there are children left.
fn reap(program: Pid, ended: &mut Option<WaitStatus>) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(status) if status.pid() == Some(program) => *ended = Some(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Kills every child, and so makes theirs ours; false if there is none that may be killed. A kernel that lists no
/// children (CONFIG_PROC_CHILDREN) kills at least the program's group.
fn kill_children(program: Pid) -> bool {
    // See proc_tid_children(5): the numbers of the children of this thread, the only one, each with a blank behind it.
    let Ok(list) = open(c"/proc/thread-self/children", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    else {
        return killpg(program, Signal::SIGKILL).is_ok();
    };
    let mut text = [0; 4096];
    let length = read(&list, &mut text).unwrap_or(0);
    let (mut number, mut any) = (0, false);
    for byte in &text[..length] {
        if byte.is_ascii_digit() {
            number = number * 10 + i32::from(byte - b'0');
        } else {
            any |= number > 1 && kill(Pid::from_raw(number), Signal::SIGKILL).is_ok();
            number = 0;
        }
    }
    any
}

fn close_all_but_stdin() -> Result<(), Errno> {
    let (first, last, flags) = (1, libc::c_uint::MAX, 0);
    // SAFETY: the descriptors belong to this process alone, and nothing in it uses them any more; see
    // close_range(2), which Linux has since 5.9.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Ends this process as another one has ended.
fn end_as(status: Option<WaitStatus>) -> ! {
    let code = match status {
        Some(WaitStatus::Exited(_, code)) => code,
        Some(WaitStatus::Signaled(_, signal_, _)) => {
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            // SAFETY: the default action is no function.
            let _ = unsafe { signal(signal_, SigHandler::SigDfl) };
            let _ = kill(getpid(), signal_);
            let _ = SigSet::empty().thread_set_mask();
            128 + signal_ as i32
        }
        _ => libc::EXIT_FAILURE,
    };
    // SAFETY: it ends the process, and nothing else.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    /// A shell that runs `script`, and the end of a pipe that ends with the last of its family.
    async fn start(script: &str) -> (Family, PipeReader) {
        let (all, theirs) = io::pipe().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(theirs);
        (Family::start(shell).await.unwrap(), all)
    }

    fn expect_all_gone(mut all: PipeReader) {
        let mut rest = Vec::new();
        all.read_to_end(&mut rest).unwrap();
    }

    #[tokio::test]
    async fn what_a_program_leaves_in_the_background_is_killed_when_it_ends() {
        let (mut family, all) = start("sleep 600 & exit 7").await; // sleep: it is what gets killed
        assert_eq!(family.wait().await.unwrap().code(), Some(7));
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn a_killed_program_takes_its_own_children_with_it() {
        let (mut family, mut all) = start("sleep 600 & echo started; wait").await; // sleep: as above
        let mut started = [0; 8];
        all.read_exact(&mut started).unwrap();
        assert!(!family.kill().await.unwrap().success());
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn a_dropped_one_is_killed() {
        let (family, all) = start("sleep 600 & wait").await; // sleep: as above
        drop(family);
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn a_program_that_signals_its_group_keeps_its_guard() {
        let (mut family, all) = start("trap '' TERM; kill 0; sleep 600 & exit 3").await; // sleep: as above
        assert_eq!(family.wait().await.unwrap().code(), Some(3));
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn what_leaves_group_and_session_as_a_daemon_does_is_killed_all_the_same() {
        // Its parent has ended and it leads a session of its own.
        let daemon = "setsid sh -c 'sleep 600 & sleep 600 & echo started' & wait";
        let (mut family, all) = start(&format!("{daemon}; exit 7")).await; // sleep: it is what gets killed
        assert_eq!(family.wait().await.unwrap().code(), Some(7));
        expect_all_gone(all);
        let (family, mut all) = start(&format!("{daemon}; sleep 600")).await; // sleep: as above
        let mut started = [0; 8];
        all.read_exact(&mut started).unwrap();
        drop(family);
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn a_program_that_is_killed_by_a_signal_is_seen_as_that() {
        let (mut family, all) = start("kill -TERM $$").await;
        assert_eq!(family.wait().await.unwrap().signal(), Some(Signal::SIGTERM as i32));
        expect_all_gone(all);
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error() {
        let failed = Family::start(Command::new("/nonexistent/program")).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
