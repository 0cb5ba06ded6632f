//! The terminal in raw mode, so that every key reaches the board, and as it was again afterwards.
//!
//! The guard restores it when dropped, also while a panic unwinds; [`restore`] does for a process that leaves
//! without dropping. After `kill -9` the shell's own line editor or `reset` does.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{self, OutputFlags, SetArg, Termios};

nix::ioctl_read_bad!(
    /// The size of a terminal's window; see ioctl_tty(2).
    window_size,
    nix::libc::TIOCGWINSZ,
    nix::libc::winsize
);

/// How many columns the terminal of standard error has; `None` if it is none or does not say.
pub fn columns() -> Option<usize> {
    let (columns, _) = size_of(nix::libc::STDERR_FILENO)?;
    Some(usize::from(columns)).filter(|columns| *columns > 0)
}

/// Columns and lines of standard input's terminal; `None` if it is none.
pub fn size() -> Option<(u16, u16)> {
    size_of(nix::libc::STDIN_FILENO)
}

fn size_of(terminal: i32) -> Option<(u16, u16)> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` through the pointer, which is valid for that; see ioctl_tty(2).
    unsafe { window_size(terminal, &mut size) }.ok()?;
    Some((size.ws_col, size.ws_row))
}

/// A terminal that passes keys on as they are typed.
#[derive(Debug)]
pub struct RawTerminal {
    _only_by_enter: (),
}

/// How standard input's terminal was; `None` while it is as it was.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl RawTerminal {
    /// Puts standard input's terminal into raw mode; `None` if it is none. A line that ends with LF alone still
    /// begins at the left, as our own lines do.
    pub fn enter() -> io::Result<Option<Self>> {
        Self::enter_with(OutputFlags::OPOST | OutputFlags::ONLCR)
    }

    /// The same, and output passes as it is: for a system that draws on the whole terminal.
    pub fn enter_for_another() -> io::Result<Option<Self>> {
        Self::enter_with(OutputFlags::empty())
    }

    fn enter_with(output: OutputFlags) -> io::Result<Option<Self>> {
        let terminal = io::stdin();
        if !terminal.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        raw.output_flags |= output;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self { _only_by_enter: () }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was before [`RawTerminal::enter`]; does nothing if it is.
pub fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The terminal may be gone with its window; there is nobody left to tell.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}
