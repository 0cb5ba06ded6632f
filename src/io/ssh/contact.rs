//! The first words of an SSH server: whether there is one behind a TCP port, before anything is agreed with it.
//!
//! A [`Contact`] owns its connection, which closes with it. What was read stays in it when a wait is cancelled.

use std::io::{self, Cursor};
use std::net::SocketAddrV4;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection that may turn out to lead to an SSH server.
#[derive(Debug)]
pub struct Contact {
    read_half: OwnedReadHalf,
    write_half: OwnedWriteHalf,
    /// What came in so far.
    read: Vec<u8>,
}

/// There is no SSH server, at least not yet.
#[derive(Debug, thiserror::Error)]
pub enum NoServer {
    /// The host refused the connection, or it ended before a version was told.
    #[error("{}", closed(.said, .source.as_ref()))]
    Closed {
        /// What came before the end; often nothing.
        said: String,
        /// How it ended, if not in good order.
        source: Option<io::Error>,
    },
    /// What answers speaks something else.
    #[error("what listens there does not speak SSH: it said `{said}`")]
    NotSsh {
        /// The beginning of what it said.
        said: String,
    },
}

fn closed(said: &str, source: Option<&io::Error>) -> String {
    let said = if said.is_empty() { String::new() } else { format!(" after `{said}`") };
    match source {
        Some(error) if error.kind() != io::ErrorKind::ConnectionReset => {
            format!("the connection ended{said}: {error}")
        }
        _ if said.is_empty() => "connections end without a word, as those to a closed port do".to_owned(),
        _ => format!("the connection ended{said}, without an SSH version"),
    }
}

/// How much may come before the version line; OpenSSH's client reads 1024 lines, and nobody says that much.
const PREAMBLE_BYTES: usize = 8192;

/// How much of what was said is quoted.
const QUOTED_CHARACTERS: usize = 80;

impl Contact {
    /// Opens the connection. One of QEMU's forwards takes it at once, whatever the DUT does.
    pub async fn open(to: SocketAddrV4) -> Result<Self, NoServer> {
        let stream = TcpStream::connect(to).await.and_then(|stream| {
            // A packet of SSH is a whole thought; nothing is won by waiting for more of it.
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let stream = stream.map_err(|error| NoServer::Closed { said: String::new(), source: Some(error) })?;
        let (read_half, write_half) = stream.into_split();
        Ok(Self { read_half, write_half, read: Vec::new() })
    }

    /// Waits for the server's version, such as `SSH-2.0-OpenSSH_9.2p1`. Lines before it are skipped (RFC 4253,
    /// section 4.2). Cancelled, it keeps what came.
    pub async fn version(&mut self) -> Result<String, NoServer> {
        loop {
            if let Some(version) = take_version(&mut self.read) {
                return Ok(version);
            }
            if self.read.len() > PREAMBLE_BYTES || self.read.contains(&0) {
                return Err(NoServer::NotSsh { said: self.said() });
            }
            match self.read_half.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) => return Err(NoServer::Closed { said: self.said(), source: None }),
                Err(error) => return Err(NoServer::Closed { said: self.said(), source: Some(error) }),
            }
        }
    }

    /// The beginning of what came so far, on one line.
    pub fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.read);
        let text: String = text.trim_end().chars().take(QUOTED_CHARACTERS).collect();
        text.escape_debug().to_string()
    }

    /// The connection with all that has come from the version on.
    pub(super) fn into_stream(self) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
        tokio::io::join(Cursor::new(self.read).chain(self.read_half), self.write_half)
    }
}

/// The version line, if it is complete; what stands before it goes.
fn take_version(read: &mut Vec<u8>) -> Option<String> {
    let mut start = 0;
    for line in read.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"SSH-") && line.ends_with(b"\n") {
            let version = String::from_utf8_lossy(line).trim_end().to_owned();
            read.drain(..start);
            return Some(version);
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_behind_other_lines_and_not_before_it_is_whole() {
        let mut read = b"welcome\r\nSSH-2.0-Some".to_vec();
        assert_eq!(take_version(&mut read), None);
        read.extend(b"thing_1\r\n\0\0");
        assert_eq!(take_version(&mut read).as_deref(), Some("SSH-2.0-Something_1"));
        assert_eq!(read, b"SSH-2.0-Something_1\r\n\0\0");
    }
}
