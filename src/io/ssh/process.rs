//! One command on the other side: its input, its output, and how it ended.

use std::io;
use std::pin::pin;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Ended, Session, SshError, lost};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this exit status.
    Exited(u32),
    /// By this signal, such as `KILL`.
    Killed(String),
}

/// What comes from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It wrote this to stdout.
    Output(Vec<u8>),
    /// It wrote this to stderr.
    Errors(Vec<u8>),
    /// It ended; nothing follows.
    Ended(Status),
}

/// The terminal that a command shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What the terminal is, such as `xterm`.
    pub kind: String,
    /// Its columns.
    pub columns: u32,
    /// Its lines.
    pub lines: u32,
}

/// A command that was started. Dropped, it gets its hang-up with the session.
#[derive(Debug)]
pub struct Process {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    status: Option<Status>,
    ended: Ended,
}

const STARTING: &str = "the start of a command";

impl Session {
    /// Starts a command, or a login shell for `None`; in a terminal if one is given.
    pub async fn start(&self, command: Option<&str>, window: Option<&Window>) -> Result<Process, SshError> {
        let opened = self.handle.channel_open_session().await;
        let mut channel = opened.map_err(|error| match error {
            russh::Error::ChannelOpenFailure(_) => SshError::Denied { what: "start any command" },
            _ => lost(&self.ended, STARTING),
        })?;
        let failed = |_| lost(&self.ended, STARTING);
        if let Some(Window { kind, columns, lines }) = window {
            channel.request_pty(true, kind, *columns, *lines, 0, 0, &[]).await.map_err(failed)?;
            self.granted(&mut channel, "give a terminal").await?;
        }
        match command {
            Some(command) => channel.exec(true, command).await.map_err(failed)?,
            None => channel.request_shell(true).await.map_err(failed)?,
        }
        self.granted(&mut channel, "start this command").await?;
        let (read, write) = channel.split();
        Ok(Process { read, write, status: None, ended: self.ended.clone() })
    }

    async fn granted(&self, channel: &mut Channel<Msg>, what: &'static str) -> Result<(), SshError> {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => return Err(SshError::Denied { what }),
                Some(_) => {}
                None => return Err(lost(&self.ended, STARTING)),
            }
        }
    }
}

impl Process {
    /// Waits for what comes next. Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Result<News, SshError> {
        loop {
            match self.read.wait().await {
                Some(ChannelMsg::Data { data }) => return Ok(News::Output(data.to_vec())),
                Some(ChannelMsg::ExtendedData { data, .. }) => return Ok(News::Errors(data.to_vec())),
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.status = Some(Status::Exited(exit_status));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    let name = format!("{signal_name:?}");
                    // A name that the library does not know of is `Custom("NAME")` there.
                    let name = name.trim_start_matches("Custom(\"").trim_end_matches("\")").to_owned();
                    self.status = Some(Status::Killed(name));
                }
                Some(_) => {}
                None => {
                    let status = self.status.take().ok_or_else(|| lost(&self.ended, "the command"))?;
                    return Ok(News::Ended(status));
                }
            }
        }
    }

    /// Where its input goes.
    pub fn input(&self) -> impl AsyncWrite + Send + Unpin + 'static {
        self.write.make_writer()
    }

    /// Ends its input. A connection that has ended has done so, too.
    pub async fn end_input(&self) {
        let _ = self.write.eof().await;
    }

    /// Tells it that its terminal has another size now. A connection that has ended needs not know.
    pub async fn resize(&self, columns: u32, lines: u32) {
        let _ = self.write.window_change(columns, lines, 0, 0).await;
    }

    /// Runs it to its end: gives it all of `input`, and hands all that it writes to `sink`. One that ends before it
    /// has read all of its input is not told of the rest.
    pub async fn finish(
        mut self,
        mut input: impl AsyncRead + Send + Unpin,
        mut sink: impl FnMut(&News) -> io::Result<()>,
    ) -> Result<Status, SshError> {
        let mut writer = self.input();
        let mut feeding = pin!(async move { tokio::io::copy(&mut input, &mut writer).await });
        let mut has_input = true;
        loop {
            tokio::select! {
                news = self.next() => match news? {
                    News::Ended(status) => return Ok(status),
                    other => sink(&other).map_err(SshError::Host)?,
                },
                copied = &mut feeding, if has_input => {
                    has_input = false;
                    match copied {
                        // One that reads no more says by its exit why.
                        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                            return Err(SshError::Host(error));
                        }
                        _ => self.end_input().await,
                    }
                }
            }
        }
    }
}
