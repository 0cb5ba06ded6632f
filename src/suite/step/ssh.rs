//! Steps over the network: a command, and files in both directions, each in a session of its own.
//!
//! Files go through `cat`, which every system has that has a shell; not all have an SFTP server.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Scene, StepError, check_output};
use crate::deadline::{Deadline, Elapsed};
use crate::device::console::quote;
use crate::device::network::{self, cut_off};
use crate::io::ssh::{Credentials, News, Session, SshError, Status};
use crate::message::{chain, shell_line};
use crate::suite::template::Template;
use crate::suite::{Run, Visit};

/// How much a command may print, to be searched as a whole. What prints more is a file, and `get` fetches it.
const LONGEST_OUTPUT_BYTES: usize = 16 << 20;

/// Output that is longer lies in a file beside the report, whole.
const EVIDENCE_FROM_BYTES: usize = 2048;

/// Runs a command, and checks what came of it.
pub async fn run(
    scene: &mut Scene<'_>,
    run: &Run,
    visit: &Visit,
    deadline: Deadline,
) -> Result<(), StepError> {
    let command = scene.fill(&run.command)?;
    let session = log_in(scene, visit, deadline).await?;
    let mut said = Said::default();
    let what = format!("`{command}`");
    let ended =
        perform(scene, &session, &command, &what, tokio::io::empty(), deadline, |news| said.take(news));
    let ended = ended.await;
    let kept = said.keep(scene)?;
    let printed = said.in_words(&kept);
    match ended.map_err(|error| error.with(&printed))? {
        Status::Exited(status) if status == u32::from(run.status) => {
            let text = String::from_utf8_lossy(&said.output).trim_end_matches(['\r', '\n']).to_owned();
            check_output(scene, run, &command, text, &printed)
        }
        status => {
            let wanted = run.status;
            let status = in_words(&status);
            Err(StepError::Failed(format!("`{command}` ended with {status}, expected {wanted}, {printed}")))
        }
    }
}

/// Copies a file to the DUT. Cut short, it leaves the beginning of it there.
pub async fn put(
    scene: &mut Scene<'_>,
    from: &Path,
    to: &Template,
    visit: &Visit,
    deadline: Deadline,
) -> Result<(), StepError> {
    let to = scene.fill(to)?;
    let file = tokio::fs::File::open(from).await;
    let file = file.map_err(|error| StepError::Broken(format!("cannot read {}: {error}", from.display())))?;
    let session = log_in(scene, visit, deadline).await?;
    let command = format!("cat >{}", shell_line([&to]));
    let mut said = Said::default();
    let what = format!("the copy of {} to `{to}`", from.display());
    let ended = perform(scene, &session, &command, &what, file, deadline, |news| said.take(news)).await?;
    copied(&what, &ended, &said)
}

/// Copies a file from the DUT. Cut short, it leaves the beginning of it in the run directory.
pub async fn get(
    scene: &mut Scene<'_>,
    from: &Template,
    name: &str,
    visit: &Visit,
    deadline: Deadline,
) -> Result<(), StepError> {
    let from = scene.fill(from)?;
    let path = scene.options.run_dir.join(name);
    let mut file = File::create(&path)
        .map_err(|error| StepError::Broken(format!("cannot create {}: {error}", path.display())))?;
    scene.evidence.push(PathBuf::from(name));
    let session = log_in(scene, visit, deadline).await?;
    let command = format!("cat <{}", shell_line([&from]));
    let mut said = Said::default();
    let what = format!("the copy of `{from}` to {}", path.display());
    let sink = |news: &News| match news {
        News::Output(bytes) => file.write_all(bytes),
        other => said.take(other),
    };
    let ended = perform(scene, &session, &command, &what, tokio::io::empty(), deadline, sink).await?;
    copied(&what, &ended, &said)
}

async fn log_in(scene: &mut Scene<'_>, visit: &Visit, deadline: Deadline) -> Result<Session, StepError> {
    let login = scene.device.board.login.clone();
    let usual = || login.as_ref().map_or("root".to_owned(), |login| login.user.clone());
    let user = visit.user.as_ref().map(|user| scene.fill(user)).transpose()?.unwrap_or_else(usual);
    let password = login.filter(|login| login.user == user).and_then(|login| login.password);
    let credentials = Credentials { password, ..scene.options.credentials.clone() };
    let port = visit.port.unwrap_or(scene.device.ssh_port());
    let visit = network::Visit { port, user: &user, credentials: &credentials, heed_from: scene.heed_from };
    match scene.device.log_in_over_ssh(visit, deadline).await {
        Ok(reached) => {
            scene.late += reached.late;
            Ok(reached.session)
        }
        Err(error) => Err(StepError::of(error.fault(), &error)),
    }
}

/// Runs a command to its end, the deadline, or the end of the DUT. `what` is how messages call it.
async fn perform(
    scene: &Scene<'_>,
    session: &Session,
    command: &str,
    what: &str,
    input: impl tokio::io::AsyncRead + Send + Unpin,
    deadline: Deadline,
    sink: impl FnMut(&News) -> io::Result<()>,
) -> Result<Status, StepError> {
    let work = async { session.start(Some(command), None).await?.finish(input, sink).await };
    let ended = tokio::select! {
        biased;
        ended = deadline.bound(work) => ended,
        (reason, fault) = cut_off(&scene.device.events, scene.acted_at) => {
            return Err(StepError::by(fault, format!("{what} was cut off ({reason})")));
        }
    };
    match ended {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(SshError::Host(error))) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(StepError::Failed(format!("{what} printed more than {LONGEST_OUTPUT_BYTES} bytes")))
        }
        Ok(Err(error @ SshError::Host(_))) => Err(StepError::Broken(format!("{what}: {}", chain(&error)))),
        Ok(Err(error)) => Err(StepError::Failed(format!("{what}: {}", chain(&error)))),
        Err(Elapsed { given }) => Err(StepError::Failed(format!("{what} did not end within {given:?}"))),
    }
}

fn copied(what: &str, ended: &Status, said: &Said) -> Result<(), StepError> {
    match ended {
        Status::Exited(0) => Ok(()),
        other => {
            let printed = said.in_words(&[]);
            Err(StepError::Failed(format!("{what} ended with {}, {printed}", in_words(other))))
        }
    }
}

fn in_words(status: &Status) -> String {
    match status {
        // POSIX, XCU 2.8.2: the status of a command that the shell does not find.
        Status::Exited(127) => "status 127, as of a command that is not found".to_owned(),
        Status::Exited(status) => format!("status {status}"),
        Status::Killed(signal) => format!("signal {signal}"),
    }
}

/// What a command has written so far.
#[derive(Default)]
struct Said {
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Said {
    fn take(&mut self, news: &News) -> io::Result<()> {
        match news {
            News::Output(bytes) => self.output.extend(bytes),
            News::Errors(bytes) => self.errors.extend(bytes),
            News::Ended(_) => {}
        }
        let fits = self.output.len() + self.errors.len() <= LONGEST_OUTPUT_BYTES;
        if fits { Ok(()) } else { Err(io::ErrorKind::FileTooLarge.into()) }
    }

    /// Writes what is too long for a message to files in the run directory.
    fn keep(&self, scene: &mut Scene<'_>) -> Result<Vec<PathBuf>, StepError> {
        let mut kept = Vec::new();
        let number = scene.evidence.len() + 1;
        for (stream, bytes) in [("stdout", &self.output), ("stderr", &self.errors)] {
            if bytes.len() < EVIDENCE_FROM_BYTES {
                continue;
            }
            let name = PathBuf::from(format!("{}-ssh-{number}.{stream}", scene.prefix));
            let path = scene.options.run_dir.join(&name);
            std::fs::write(&path, bytes)
                .map_err(|error| StepError::Broken(format!("cannot write {}: {error}", path.display())))?;
            scene.evidence.push(name);
            kept.push(path);
        }
        Ok(kept)
    }

    fn in_words(&self, kept: &[PathBuf]) -> String {
        let mut words = match self.output.as_slice() {
            [] => "and printed nothing".to_owned(),
            bytes => format!("and printed:{}", quote(bytes)),
        };
        if !self.errors.is_empty() {
            words.push_str(&format!("\nand on stderr:{}", quote(&self.errors)));
        }
        kept.iter().for_each(|path| words.push_str(&format!("\nall of it is in {}", path.display())));
        words
    }
}
