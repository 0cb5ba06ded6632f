//! The shell's dialect: a sliver of that of a POSIX shell, so that the same steps work on both.
//!
//! Commands are separated by `;` and words by blanks. Single quotes keep everything, double
//! quotes keep all but `$?`, a backslash keeps the next character. `$?` is the last status.

use crate::board::Board;
use crate::commands;
use crate::serial::say;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::iter::Peekable;
use core::mem;
use core::str::Chars;

/// What the shell remembers between lines.
#[derive(Default)]
pub struct Shell {
    status: u8,
}

impl Shell {
    /// Runs all commands of a line.
    pub fn run(&mut self, line: &str, board: &mut Board) {
        let mut rest = line.chars().peekable();
        while rest.peek().is_some() {
            match next_command(&mut rest, self.status) {
                Ok(words) => {
                    if let Some((name, arguments)) = words.split_first() {
                        self.status = commands::run(name, arguments, board);
                    }
                }
                Err(UnclosedQuote) => {
                    say(format_args!("selftest: unclosed quote"));
                    self.status = 1;
                    return;
                }
            }
        }
    }
}

struct UnclosedQuote;

/// Takes the words up to the next `;`. They are expanded just before they are run, as `$?` changes
/// within a line.
fn next_command(rest: &mut Peekable<Chars>, status: u8) -> Result<Vec<String>, UnclosedQuote> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut begun = false; // an empty pair of quotes is a word, too
    while let Some(character) = rest.next() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                begun = true;
            }
            (None | Some('"'), '$') if rest.peek() == Some(&'?') => {
                rest.next();
                word.push_str(&status.to_string());
                begun = true;
            }
            (None | Some('"'), '\\') => {
                word.extend(rest.next());
                begun = true;
            }
            (None, ';') => break,
            (None, ' ') => {
                if mem::take(&mut begun) {
                    words.push(mem::take(&mut word));
                }
            }
            _ => {
                word.push(character);
                begun = true;
            }
        }
    }
    if quote.is_some() {
        return Err(UnclosedQuote);
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}
