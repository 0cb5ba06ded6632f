//! A program and all that it starts: they end together, with the program, at their owner's wish, or with standin.
//!
//! When standin dies, the kernel kills its children and not theirs; see `child`. So a guard leads the process group:
//! a shell that waits for the end of a pipe of ours, which comes with our death, and then kills the group. As nobody
//! waits for the guard before the group is killed, the group's number cannot become another's meanwhile.
//! Whoever leaves the group, as a daemon does by setsid(2), is out of reach. The owner ends it by one of the two
//! functions; dropped, it is killed all the same.

use std::io::{self, PipeWriter};
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use super::child;

/// A program that runs, and what it has started.
#[derive(Debug)]
pub struct Family {
    program: Child,
    guard: Child,
    /// Ends when we do.
    _lifeline: PipeWriter,
}

/// Signals are for the program: only the end of the pipe ends the guard.
const GUARD: &str = "trap '' HUP INT QUIT TERM; read -r end; kill -9 0";

impl Family {
    /// Starts the program. Must be called inside a tokio runtime.
    pub async fn start(mut program: Command) -> io::Result<Self> {
        let (end, lifeline) = io::pipe()?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", GUARD]).stdin(end).stdout(Stdio::null()).stderr(Stdio::null());
        shell.current_dir("/").process_group(0);
        let guard = child::fork(shell).await?;
        let group = guard.id().expect("nobody has waited for it");
        program.process_group(i32::try_from(group).expect("the kernel's process ids are positive i32"));
        child::die_with_us(&mut program);
        let program = child::fork(program).await?;
        Ok(Self { program, guard, _lifeline: lifeline })
    }

    /// Waits until the program ends by itself, and kills what it has left.
    ///
    /// Cancelled, it leaves all of it running.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.program.wait().await?;
        self.kill().await
    }

    /// Kills all of it, and waits until program and guard are gone.
    ///
    /// Cancelled, it leaves children that are dying and are reaped by tokio.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.kill_group();
        self.guard.wait().await?;
        self.program.wait().await
    }

    fn kill_group(&self) {
        if let Some(id) = self.guard.id() {
            child::kill_group(id);
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.kill_group();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A shell that runs `script`, and the end of a pipe that ends with the last of its family.
    async fn start(script: &str) -> (Family, io::PipeReader) {
        let (all, theirs) = io::pipe().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(theirs);
        (Family::start(shell).await.unwrap(), all)
    }

    fn expect_all_gone(mut all: io::PipeReader) {
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
    async fn a_program_that_does_not_exist_is_an_error() {
        let failed = Family::start(Command::new("/nonexistent/program")).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
