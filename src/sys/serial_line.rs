//! A serial line between standin and the machines that come and go at its other end.
//!
//! The line is a socketpair. We keep both ends: ours is the console's, the other one is lent to each new QEMU
//! as an inherited descriptor. So the line outlives power cycles like a cable, and a board that is off is
//! silence, not end of file. The line ends when it is dropped.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The far end of a serial line.
#[derive(Debug)]
pub struct SerialLine {
    far: UnixStream,
}

impl SerialLine {
    /// A new line, and its near end for the console.
    pub fn open() -> io::Result<(Self, UnixStream)> {
        let (near, far) = UnixStream::pair()?;
        far.set_nonblocking(true)?;
        Ok((Self { far }, near))
    }

    /// The far end for a machine that is about to start. What was typed while the board was off is dropped
    /// here, as a real UART without power drops it.
    pub fn lend(&mut self) -> io::Result<OwnedFd> {
        let mut typed = [0; 4096];
        loop {
            match self.far.read(&mut typed) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.far.try_clone()?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_typed_while_the_board_was_off_is_lost_and_the_line_lives_on() {
        let (mut line, mut near) = SerialLine::open().unwrap();
        near.write_all(b"lost").unwrap();
        let first = line.lend().unwrap();
        drop(first);
        let mut second = UnixStream::from(line.lend().unwrap());
        near.write_all(b"seen").unwrap();
        let mut read = [0; 4];
        second.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"seen");
    }
}
