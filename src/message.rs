//! How errors and command lines are told to people and in reports. Pure; nothing to clean up.

use std::error::Error;

/// An error and its causes in one line, joined by `: `.
pub fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

/// A command as a person can paste it into a shell.
pub fn shell_line(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,@%+".contains(character);
    let quoted = words.into_iter().map(|word| match word.as_ref() {
        word if !word.is_empty() && word.chars().all(plain) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read image a.img")]
    struct Read(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_cause() {
        let error = Read(io::Error::other("the disk is gone"));
        assert_eq!(chain(&error), "cannot read image a.img: the disk is gone");
    }

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        let line = shell_line(["standin", "run", "--set", "name=it's me", "./my suite.toml", ""]);
        assert_eq!(line, r"standin run --set 'name=it'\''s me' './my suite.toml' ''");
    }
}
