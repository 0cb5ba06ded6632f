//! The prompt: edits a line, runs it, and looks after the network and the power button meanwhile.

use crate::board::Board;
use crate::serial::{print, receive, say};
use crate::shell::Shell;
use alloc::string::String;
use core::mem;

const PROMPT: &str = "selftest# ";

/// After the last byte or frame they are watched for this long without sleeping, so that a program
/// is answered at once.
const AWAKE_MILLISECONDS: u64 = 10;

/// What a byte did to the line.
enum Typed {
    /// Nothing that needs an answer.
    More,
    /// The line is done.
    Line(String),
    /// The line was dropped with Ctrl-C.
    Dropped,
}

/// Serves the serial line for ever.
pub fn serve(mut board: Board) -> ! {
    let mut shell = Shell::default();
    let mut line = Line::default();
    let mut last_event = board.clock.milliseconds();
    if let Some(line) =
        board.image.as_ref().ok().map(|image| image.line.clone()).filter(|line| !line.is_empty())
    {
        say(format_args!("runs {line}"));
        shell.run(&line, &mut board);
    }
    print(format_args!("{PROMPT}"));
    loop {
        if let Some(byte) = receive() {
            match line.take(byte) {
                Typed::More => {}
                Typed::Dropped => print(format_args!("{PROMPT}")),
                Typed::Line(text) => {
                    shell.run(&text, &mut board);
                    print(format_args!("{PROMPT}"));
                }
            }
            last_event = board.clock.milliseconds();
            continue;
        }
        if board.network.as_mut().is_some_and(|network| network.poll(&board.clock)) {
            last_event = board.clock.milliseconds();
            continue;
        }
        if board.power_button_pressed() {
            say(format_args!(""));
            say(format_args!("power button pressed"));
            say(format_args!("powering off"));
            board.power_off();
        }
        if board.clock.milliseconds() - last_event > AWAKE_MILLISECONDS {
            board.firmware.rest();
        }
    }
}

/// The line being typed.
#[derive(Default)]
struct Line {
    text: String,
    /// A line feed right after a carriage return belongs to it.
    after_return: bool,
}

impl Line {
    /// Echoes the byte and keeps it.
    fn take(&mut self, byte: u8) -> Typed {
        const CONTROL_C: u8 = 0x03;
        const BACKSPACE: u8 = 0x08;
        const CONTROL_U: u8 = 0x15;
        const DELETE: u8 = 0x7f;

        let after_return = mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => Typed::More,
            b'\r' | b'\n' => {
                say(format_args!(""));
                Typed::Line(mem::take(&mut self.text))
            }
            CONTROL_C => {
                say(format_args!("^C"));
                self.text.clear();
                Typed::Dropped
            }
            BACKSPACE | DELETE => {
                self.erase();
                Typed::More
            }
            CONTROL_U => {
                while self.erase() {}
                Typed::More
            }
            b'\t' | b' '..=b'~' => {
                let character = if byte == b'\t' { ' ' } else { char::from(byte) };
                self.text.push(character);
                print(format_args!("{character}"));
                Typed::More
            }
            _ => Typed::More,
        }
    }

    /// Takes the last character away, on the far screen too.
    fn erase(&mut self) -> bool {
        let erased = self.text.pop().is_some();
        if erased {
            print(format_args!("\u{8} \u{8}"));
        }
        erased
    }
}
