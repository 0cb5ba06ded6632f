//! The terminal in raw mode, so that every key reaches the board, and as it was again afterwards.
//!
//! The guard restores it when dropped, also while a panic unwinds. After `kill -9` the shell's own line editor
//! or `reset` does.

use std::io::{self, IsTerminal, Stdin};

use nix::sys::termios::{self, OutputFlags, SetArg, Termios};

/// A terminal that passes keys on as they are typed.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: Stdin,
    before: Termios,
}

impl RawTerminal {
    /// Puts standard input's terminal into raw mode; `None` if it is none.
    pub fn enter() -> io::Result<Option<Self>> {
        let terminal = io::stdin();
        if !terminal.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // Our own lines end with LF alone.
        raw.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
        termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone with its window; there is nobody left to tell.
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}
