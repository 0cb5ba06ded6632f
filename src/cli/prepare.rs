//! `--set-file`, `--merge-json` and `--expand`: what is changed on the flashed medium before the board gets it.
//!
//! All of it is tried on the image before anything starts, because a place that is not there is a mistake of whoever
//! typed it, and no DUT's.

use std::fs;
use std::path::Path;

use super::CliError;
use crate::board::Medium;
use crate::io::image::Image;
use crate::io::prepare::{Edit, EditError, Place, stage};
use crate::io::staged::Staged;
use crate::sys::blocking::blocking;

/// Changes of the flashed medium.
#[derive(Debug, clap::Args)]
#[command(
    next_help_heading = "What is changed on the medium after each flash of the image, and never in the image"
)]
pub struct EditOptions {
    /// Grow the last partition to the medium's end; its file system is left to the operating system
    #[arg(long)]
    expand: bool,
    /// Write a file, such as boot:/config.txt=TEXT; `=@FILE` writes what a file says, and `==TEXT` a text that
    /// begins with `@`; may be given several times
    #[arg(long, value_name = "PLACE=CONTENT", value_parser = PlaceAndContent::parse)]
    set_file: Vec<PlaceAndContent>,
    /// Give keys of a JSON file new values, such as boot:/config.json='{"hostname":"dut"}'; `null` removes a key, and
    /// `=@FILE` takes what a file says; may be given several times
    #[arg(long, value_name = "PLACE=JSON", value_parser = PlaceAndContent::parse)]
    merge_json: Vec<PlaceAndContent>,
}

#[derive(Debug, Clone)]
struct PlaceAndContent {
    place: Place,
    content: Vec<u8>,
}

impl PlaceAndContent {
    fn parse(text: &str) -> Result<Self, String> {
        let (place, content) = text.split_once('=').ok_or("expected PLACE=CONTENT")?;
        let place = Place::of_file(place).map_err(|error| error.to_string())?;
        let content = match (content.strip_prefix('@'), content.strip_prefix('=')) {
            (Some(path), _) => fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?,
            (None, Some(text)) => text.into(),
            (None, None) => content.into(),
        };
        Ok(Self { place, content })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot change the medium of {board} after the flash of {image}")]
struct Rehearsal {
    board: String,
    image: String,
    source: EditError,
}

impl EditOptions {
    /// The changes, in the order in which they are made.
    pub fn edits(&self) -> Result<Vec<Edit>, CliError> {
        let mut edits = Vec::new();
        edits.extend(self.expand.then_some(Edit::Expand));
        for PlaceAndContent { place, content } in self.set_file.iter().cloned() {
            edits.push(Edit::Write { to: place, content });
        }
        for PlaceAndContent { place, content } in self.merge_json.iter().cloned() {
            let patch = serde_json::from_slice(&content).map_err(|error| {
                CliError::usage(format!("what is merged into `{place}` is no JSON object: {error}"))
            })?;
            edits.push(Edit::MergeJson { into: place, patch });
        }
        Ok(edits)
    }
}

/// Tries the changes on what a flash of `image` would leave on the medium, and throws it away.
pub async fn rehearse(edits: &[Edit], image: &Image, board: &str, medium: &Medium) -> Result<(), CliError> {
    if edits.is_empty() {
        return Ok(());
    }
    let (wanted, path, size) = (edits.to_vec(), image.base().path(), medium.size.0);
    let tried = blocking(move || {
        let base = open_base(&path)?;
        Ok::<_, CliError>(stage(&mut Staged::with_size(base, size), &wanted).map(|_| ()))
    });
    tried.await?.map_err(|source| {
        let hosts = source.source.is_hosts();
        let error = Rehearsal { board: board.to_owned(), image: image.name.clone(), source };
        if hosts {
            return CliError::broken(error);
        }
        CliError::usage(error).hint("`standin image partitions IMAGE` shows what there is")
    })
}

/// What the cache keeps of an image, to be read only.
pub fn open_base(path: &Path) -> Result<fs::File, CliError> {
    fs::File::open(path)
        .map_err(|source| CliError::broken(format!("cannot read {}: {source}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_follows_or_what_a_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, b"\0\xff").unwrap();
        let from_file = format!("boot:/x=@{}", path.display());
        for (text, wanted) in [
            ("boot:/x=a=b", &b"a=b"[..]),
            ("boot:/x=", b""),
            ("boot:/x==@a", b"@a"),
            ("boot:/x===a", b"=a"),
            (&from_file, b"\0\xff"),
        ] {
            assert_eq!(PlaceAndContent::parse(text).unwrap().content, wanted, "{text}");
        }
        for (text, said) in [
            ("boot:/x", "PLACE=CONTENT"),
            ("x=y", "expected a place such as"),
            ("boot:/x=@/no/such", "cannot read /no/such: No such file"),
        ] {
            let refused = PlaceAndContent::parse(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
