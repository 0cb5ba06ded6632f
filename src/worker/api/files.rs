//! Evidence of a device: what there is, and its bytes.
//!
//! A file is found by its name in the list of what there is; no part of a request becomes a path.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::extract::Json;
use super::{Api, BYTES, LOG, Told};
use crate::sys::blocking::blocking;
use crate::worker::answer::typed;

/// A file that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileFacts {
    /// Its name; with slashes, as it stands in the path of a download.
    pub name: String,
    /// Its length now.
    pub bytes: u64,
    /// When it was written last.
    pub modified: Option<Timestamp>,
}

/// How deep folders of evidence are looked into, and how many files are told of.
const DEEPEST: usize = 8;
const AT_MOST: usize = 10_000;

/// How much is read at once.
const PIECE_BYTES: usize = 64 << 10;

pub async fn list(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Told<Vec<FileFacts>> {
    let lent = api.devices.find(&id)?;
    let folder = api.devices.supply.evidence.join(&lent.id);
    Ok(Json(facts_of(folder).await))
}

pub async fn download(
    State(api): State<Arc<Api>>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let lent = api.devices.find(&id)?;
    download_from(api.devices.supply.evidence.join(&lent.id), &name).await
}

/// What there is in a folder, by name.
pub async fn facts_of(folder: PathBuf) -> Vec<FileFacts> {
    let facts = |(name, path): (String, PathBuf)| {
        let about = fs::metadata(path).ok()?;
        let modified = about.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        Some(FileFacts { name, bytes: about.len(), modified })
    };
    blocking(move || files_in(&folder).into_iter().filter_map(facts).collect()).await
}

/// The file of this name in a folder.
pub async fn download_from(folder: PathBuf, name: &str) -> Result<Response, ApiError> {
    let found = blocking(move || files_in(&folder)).await;
    let none = || ApiError::not_found("no-such-file", "there is no such file");
    let (name, path) = found.into_iter().find(|(found, _)| found == name).ok_or_else(none)?;
    // What a DUT or a tool wrote is text for people; a browser must not take it for a page.
    let kind = match name.rsplit('.').next() {
        Some("log" | "stderr" | "txt" | "json") => LOG,
        _ => BYTES,
    };
    body_of(&path, kind).await?.ok_or_else(none)
}

/// The regular files in a folder with their names from there on, sorted. No link is followed. What cannot be read,
/// or is removed meanwhile, is not there.
fn files_in(folder: &FilePath) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned(), 0)];
    while let Some((prefix, folder, depth)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
            let name = format!("{prefix}{name}");
            if kind.is_dir() && depth < DEEPEST {
                folders.push((format!("{name}/"), entry.path(), depth + 1));
            } else if kind.is_file() && found.len() < AT_MOST {
                found.push((name, entry.path()));
            }
        }
    }
    found.sort();
    found
}

/// A file as the body of an answer, as long as it is now; `None` if it is not there.
pub async fn body_of(path: &FilePath, kind: &'static str) -> Result<Option<Response>, ApiError> {
    let path = path.to_owned();
    let opened = blocking(move || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        io::Result::Ok((file, length))
    });
    let (file, length) = match opened.await {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(ApiError::lab("lab-failed", "cannot read a file of the device").cause(error));
        }
    };
    let mut response = typed(kind, Body::from_stream(pieces(file, length)));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Ok(Some(response))
}

/// A file that is shorter in the end than it was, as it was cut, ends the answer early, and the client sees it.
fn pieces(file: File, length: u64) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((file, length), |(file, left)| async move {
        let (piece, file) = blocking(move || {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let wanted = left.min(PIECE_BYTES as u64);
            // What cannot be read ends it early, too.
            let _ = (&file).take(wanted).read_to_end(&mut piece);
            (piece, file)
        })
        .await;
        let left = left - piece.len() as u64;
        (!piece.is_empty()).then(|| (Ok(Bytes::from(piece)), (file, left)))
    })
}

/// Makes a browser keep an answer under this name, which is of plain letters.
pub fn as_download(response: &mut Response, name: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_there_are_found_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("serial")).unwrap();
        fs::write(dir.path().join("serial/console.log"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        let names: Vec<String> = files_in(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["serial/console.log"]);
    }
}
