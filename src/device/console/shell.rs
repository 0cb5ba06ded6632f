//! A shell on the console: logging in, and running one command with its output and status.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::Console;
use super::pattern::Pattern;
use super::wait::ConsoleError;
use crate::board::Login;
use crate::deadline::Deadline;

/// After how much silence [`Console::log_in`] presses Enter for the first time; then twice as long each time. Too
/// soon would stop a boot loader that counts down, and those print something every second.
const POKE_AFTER: Duration = Duration::from_secs(3);
/// The longest silence between two pokes.
const POKE_AT_MOST: Duration = Duration::from_secs(24);
/// How long what looks like a prompt has to prove that a shell is behind it. A slow board echoes a line in far
/// less; what only looked like a prompt never does.
const PROVED_WITHIN: Duration = Duration::from_secs(10);

/// What getty and login ask and say.
const LOGIN_PROMPTS: &str =
    r"(?<refused>[Ll]ogin incorrect)|(?<login>login: ?\z)|(?<password>[Pp]assword: ?\z)";
/// The end of a shell's prompt; colours, and busybox asking where the cursor is, may follow it.
const SHELL_PROMPT: &str = r"(?<shell>[#$] (?:\x1b\[[0-9;?]*[A-Za-z])*\z)";
/// The key that interrupts a command.
const CTRL_C: &[u8] = b"\x03";
/// How long a shell may take to be back after it. What is typed sooner may still be read by the command.
const INTERRUPTED_WITHIN: Duration = Duration::from_secs(1);

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Its output, with LF at the ends of lines and none at the end, as `$(...)` would have it.
    pub text: String,
    /// Its exit status.
    pub status: i32,
}

impl Console {
    /// Types one command, and takes what it says up to its end.
    ///
    /// The typed line is `echo TOKEN $?; COMMAND; echo TOKEN $?` with a random token. The output stands between
    /// the two lines on which the token is followed by digits; the echo of the typed line is never taken for
    /// one, however a terminal wraps it, because it says `$?`. What the kernel prints meanwhile is part of it.
    ///
    /// A command that has not ended by the deadline gets a Ctrl-C, so that the next one finds a shell again.
    /// Cancelled, it leaves the command running.
    pub async fn run(&mut self, command: &str, deadline: Deadline) -> Result<CommandOutput, ConsoleError> {
        let output = self.run_to_its_end(command, deadline).await;
        if matches!(output, Err(ConsoleError::NotSeen { .. })) {
            // That the command did not end is the news; without a prompt the next command tells the rest.
            let soon = Deadline::after(INTERRUPTED_WITHIN);
            if self.send_keys(CTRL_C, soon).await.is_ok() {
                let prompt = Pattern::regex(SHELL_PROMPT).expect("the expression is fixed");
                let _ = self.wait_for(&prompt, soon).await;
            }
        }
        output
    }

    async fn run_to_its_end(
        &mut self,
        command: &str,
        deadline: Deadline,
    ) -> Result<CommandOutput, ConsoleError> {
        if command.trim().is_empty() || command.contains(['\n', '\r']) {
            return Err(ConsoleError::NotOneLine { command: command.escape_debug().to_string() });
        }
        let token = token();
        let marker = marker(&token);
        // A command that ends in `&` needs no `;`, and must have none.
        let separator = if command.trim_end().ends_with('&') { "" } else { ";" };
        let line = format!("echo {token} $?; {command}{separator} echo {token} $?");
        self.send_line(&line, deadline).await?;
        let told = |error| told_of(error, &format!("the end of `{command}`"));
        self.wait_for(&marker, deadline).await.map_err(told)?;
        let output_start = self.cursor;
        let (end, start) = self.search(&marker, deadline).await.map_err(told)?;
        self.cursor = start + end.end as u64;
        let record = self.line.record();
        let lost_bytes = record.transcript.lost_since(output_start);
        if lost_bytes > 0 {
            return Err(ConsoleError::OutputLost { command: command.to_owned(), lost_bytes });
        }
        let output = record.transcript.between(output_start, start + end.start as u64);
        let text = String::from_utf8_lossy(output).replace("\r\n", "\n");
        let status = end.matched.group("status").and_then(|status| status.parse().ok());
        Ok(CommandOutput {
            text: text.trim_end_matches('\n').to_owned(),
            status: status.expect("the marker's group is digits"),
        })
    }

    /// Reaches a shell: answers a login prompt if there is one, then proves with a command that a shell answers.
    ///
    /// A prompt on the last line counts also when an earlier wait has found it. After a silence it presses
    /// Enter, so that a prompt that was lost is shown again; each press is the end of a bounded wait. A DUT that
    /// has said nothing at all since its power-on is left alone: it has no prompt to lose yet.
    pub async fn log_in(&mut self, login: &Login, deadline: Deadline) -> Result<(), ConsoleError> {
        let prompts =
            Pattern::regex(&format!("{LOGIN_PROMPTS}|{SHELL_PROMPT}")).expect("the expression is fixed");
        self.step_back_to_prompt();
        let mut poke_after = POKE_AFTER;
        loop {
            let found = match self.wait_for(&prompts, deadline.within(poke_after)).await {
                Err(ConsoleError::NotSeen { .. }) if !deadline.is_past() => {
                    if self.line.record().may_hide_a_prompt(poke_after) {
                        self.send_keys(b"\r", deadline).await?;
                        poke_after = (poke_after * 2).min(POKE_AT_MOST);
                    }
                    continue;
                }
                other => other.map_err(|error| told_of(error, "a login or shell prompt"))?,
            };
            if found.group("refused").is_some() {
                return Err(ConsoleError::Refused { user: login.user.clone(), last: self.last_seen() });
            } else if found.group("login").is_some() {
                self.send_line(&login.user, deadline).await?;
            } else if found.group("password").is_some() {
                let password = login.password.as_deref();
                let missing = || ConsoleError::NoPassword { user: login.user.clone() };
                self.send_line(password.ok_or_else(missing)?, deadline).await?;
            } else if self.proves_a_shell(deadline.within(PROVED_WITHIN)).await? {
                return Ok(());
            }
        }
    }

    /// Whether what answers on the console is a shell.
    async fn proves_a_shell(&mut self, deadline: Deadline) -> Result<bool, ConsoleError> {
        let token = token();
        self.send_line(&format!("echo {token} $?"), deadline).await?;
        match self.wait_for(&marker(&token), deadline).await {
            Ok(_) => Ok(true),
            Err(ConsoleError::NotSeen { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Moves the cursor back to the start of the last line, unless something was typed since: a prompt that an
    /// earlier wait has found is still there to be answered.
    fn step_back_to_prompt(&mut self) {
        let record = self.line.record();
        let end = record.transcript.end();
        if end > self.typed_at {
            let line = record.transcript.since(self.typed_at);
            let line_start = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
            self.cursor = self.cursor.min(end - (line.len() - line_start) as u64);
        }
    }
}

/// A word that no output holds by chance. The standard library's hasher keys are random, and all that is wanted.
fn token() -> String {
    format!("standin-{:08x}", RandomState::new().build_hasher().finish() as u32)
}

/// The end of a line that `echo TOKEN $?` prints; output without a line end may stand before it.
fn marker(token: &str) -> Pattern {
    Pattern::regex(&format!(r"{token} (?<status>[0-9]+)\r*\n")).expect("a token holds no special characters")
}

/// Says what was waited for in the caller's words.
fn told_of(error: ConsoleError, what: &str) -> ConsoleError {
    match error {
        ConsoleError::NotSeen { given, last, .. } => {
            ConsoleError::NotSeen { wanted: what.to_owned(), given, last }
        }
        ConsoleError::Interrupted { reason, lab, last, .. } => {
            ConsoleError::Interrupted { wanted: what.to_owned(), reason, lab, last }
        }
        other => other,
    }
}
