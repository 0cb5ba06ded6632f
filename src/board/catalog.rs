//! The boards that there are: those that are built in, and those in a folder of the user's.
//!
//! A file of the user's adds a board, or takes the place of the built-in one of the same slug. A broken one is
//! kept as what it is, and only who asks for it hears of it. Plain data; nothing to clean up.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Board, BoardFileError, check};
use crate::document::nearest;

/// Path and text of every file in `machines/`; `tests/boards.rs` sees that none is forgotten.
pub const BUILT_IN: [(&str, &str); 10] = [
    ("machines/beaglebone-black.toml", include_str!("../../machines/beaglebone-black.toml")),
    ("machines/generic-aarch64.toml", include_str!("../../machines/generic-aarch64.toml")),
    ("machines/generic-amd64.toml", include_str!("../../machines/generic-amd64.toml")),
    ("machines/genericx86-64-ext.toml", include_str!("../../machines/genericx86-64-ext.toml")),
    ("machines/intel-nuc.toml", include_str!("../../machines/intel-nuc.toml")),
    ("machines/jetson-xavier.toml", include_str!("../../machines/jetson-xavier.toml")),
    ("machines/pc-seabios.toml", include_str!("../../machines/pc-seabios.toml")),
    ("machines/raspberrypi3-64.toml", include_str!("../../machines/raspberrypi3-64.toml")),
    ("machines/raspberrypi4-64.toml", include_str!("../../machines/raspberrypi4-64.toml")),
    ("machines/raspberrypicm4-ioboard.toml", include_str!("../../machines/raspberrypicm4-ioboard.toml")),
];

/// The boards that there are, by slug.
#[derive(Debug, Clone)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

/// One board file, whole or broken.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name of its file without `.toml`; the board's slug, if the file is whole.
    pub slug: String,
    /// Where it came from.
    pub origin: Origin,
    /// The board, or what is wrong with its file.
    pub board: Result<Arc<Board>, BoardFileError>,
}

/// Where a board file came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is part of the program.
    BuiltIn,
    /// It lies in the user's folder.
    User(PathBuf),
}

/// Why a board cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The user's folder, or a file in it, cannot be read.
    #[error("cannot read boards from {path}")]
    Read {
        /// The folder or the file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such board.
    #[error("there is no board `{slug}`")]
    Unknown {
        /// What was asked for.
        slug: String,
        /// The slug that was probably meant.
        near: Option<String>,
    },
    /// There is one, but its file is broken.
    #[error(transparent)]
    Broken(#[from] BoardFileError),
}

impl CatalogError {
    /// How to mend it, if that is known; a broken file's own text has its hints already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::Unknown { near: None, .. } => Some("`standin boards` lists all of them".to_owned()),
            Self::Read { .. } | Self::Broken(_) => None,
        }
    }
}

impl Catalog {
    /// The built-in boards, and over them those of the `*.toml` files in `folder`.
    ///
    /// Fails only if `folder` cannot be listed; a file in it that cannot be read or is broken becomes an entry.
    pub fn load(folder: Option<&Path>) -> Result<Self, CatalogError> {
        let built_in =
            BUILT_IN.into_iter().map(|(path, text)| entry(Path::new(path), Origin::BuiltIn, Ok(text)));
        let mut entries: BTreeMap<_, _> = built_in.map(|entry| (entry.slug.clone(), entry)).collect();
        for path in folder.map(board_files).transpose()?.unwrap_or_default() {
            let text = std::fs::read_to_string(&path);
            let text = text
                .as_deref()
                .map_err(|error| BoardFileError::unreadable(&path.display().to_string(), error));
            let entry = entry(&path, Origin::User(path.clone()), text);
            entries.insert(entry.slug.clone(), entry);
        }
        Ok(Self { entries })
    }

    /// The board called `slug`.
    pub fn board(&self, slug: &str) -> Result<Arc<Board>, CatalogError> {
        match self.entries.get(slug) {
            Some(entry) => Ok(entry.board.clone()?),
            None => {
                let near = nearest(slug, self.entries.keys().map(String::as_str)).map(str::to_owned);
                Err(CatalogError::Unknown { slug: slug.to_owned(), near })
            }
        }
    }

    /// All of them, by slug, the broken ones as well.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}

fn entry(path: &Path, origin: Origin, text: Result<&str, BoardFileError>) -> Entry {
    let slug = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let board = text.and_then(|text| check::board(path, text)).map(Arc::new);
    Entry { slug, origin, board }
}

fn board_files(folder: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let read = |source| CatalogError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for file in std::fs::read_dir(folder).map_err(read)? {
        let path = file.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
