//! Images that clients send: known by a digest before they are sent, so that none is sent twice.
//!
//! A file that was sent lies in the server's folder for uploads until it is flashed for the first time; from then
//! on its content is in the cache, and a line in `IMAGES/known/` leads from the file's digest to it, also for the
//! next server. An upload that is cut leaves nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tempfile::NamedTempFile;

use super::error::ApiError;
use super::extract::Json;
use super::{Api, Told};
use crate::io::cache::Cache;
use crate::io::file;
use crate::io::image::progress::Observer;
use crate::io::image::{Expected, Image};
use crate::io::selftest::SELFTEST_IMAGE;
use crate::sys::blocking::blocking;
use crate::worker::body::Pieces;

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFacts {
    /// What it is flashed by.
    pub digest: String,
    /// The length of what the digest is of: the file as it was sent, or its content.
    pub bytes: u64,
    /// The digest of its content, once that is in the cache; then a flash takes no time.
    pub content: Option<String>,
}

/// A digest as clients write it: `blake3:` or `sha256:` of the file as it is sent, packed or not, or `content:`,
/// the cache's own of what it unpacks to; and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDigest {
    kind: DigestKind,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DigestKind {
    Blake3,
    Sha256,
    Content,
}

/// The images of a server.
#[derive(Debug)]
pub struct Images {
    uploads: PathBuf,
    cache: Cache,
    limit: u64,
}

/// What is known of a file that was sent once.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    content: String,
}

/// Bytes are gathered up to this before they are written.
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// The image that is built in, by the name that it has everywhere.
const SELFTEST: &str = "selftest";

impl ImageDigest {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let digest = text.split_once(':').and_then(|(kind, hex)| {
            let kind = match kind {
                "blake3" => DigestKind::Blake3,
                "sha256" => DigestKind::Sha256,
                "content" => DigestKind::Content,
                _ => return None,
            };
            let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| Self { kind, hex: hex.to_ascii_lowercase() })
        });
        let message = "an image is named by `blake3:`, `sha256:` or `content:` and 64 hexadecimal digits";
        digest.ok_or_else(|| ApiError::nonsense("bad-digest", message))
    }

    /// As a file's name.
    fn file_name(&self) -> String {
        format!("{}-{}", self.kind.word(), self.hex)
    }
}

impl std::fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.hex)
    }
}

impl DigestKind {
    fn word(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Content => "content",
        }
    }
}

fn content_digest(digest: &str) -> String {
    format!("content:{digest}")
}

impl Images {
    /// Files that are sent go to `uploads`, at most `limit` bytes together; contents to the cache.
    pub fn new(uploads: PathBuf, cache: Cache, limit: u64) -> Self {
        Self { uploads, cache, limit }
    }

    /// How long a file may be, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is here of this digest. Blocks.
    fn find(&self, digest: &ImageDigest) -> Option<ImageFacts> {
        let facts = |bytes, content| ImageFacts { digest: digest.to_string(), bytes, content };
        if digest.kind == DigestKind::Content {
            let base = self.cache.hold(&digest.hex).ok()??;
            return Some(facts(base.bytes, Some(content_digest(&base.digest))));
        }
        if let Some(known) = self.known(digest)
            && let Ok(Some(base)) = self.cache.hold(&known.content)
        {
            return Some(facts(known.bytes, Some(content_digest(&base.digest))));
        }
        let about = fs::metadata(self.upload(digest)).ok()?;
        Some(facts(about.len(), None))
    }

    /// Refuses a name of no image that is here. Blocks.
    pub fn check(&self, name: &str) -> Result<(), ApiError> {
        if name == SELFTEST {
            return Ok(());
        }
        self.find(&ImageDigest::parse(name)?).map(drop).ok_or_else(not_here)
    }

    /// The image of this name: `selftest` or a digest. It fits on `medium`. Blocks while its content is made.
    pub fn open<'a>(
        &self,
        name: &str,
        (medium, capacity): (&'a str, u64),
        progress: &'a mut Observer<'a>,
    ) -> Result<Image, ApiError> {
        if name == SELFTEST {
            let image = Image::built_in(SELFTEST, SELFTEST_IMAGE, &self.cache)?;
            image.check_fits(medium, capacity)?;
            return Ok(image);
        }
        let digest = ImageDigest::parse(name)?;
        let content = match digest.kind {
            DigestKind::Content => Some(digest.hex.clone()),
            DigestKind::Blake3 | DigestKind::Sha256 => self.known(&digest).map(|known| known.content),
        };
        if let Some(content) = content
            && let Some(image) = Image::in_cache(name, &self.cache, &content)?
        {
            image.check_fits(medium, capacity)?;
            return Ok(image);
        }
        let path = self.upload(&digest);
        let Ok(about) = fs::metadata(&path) else { return Err(not_here()) };
        let expected = Expected { medium, capacity, sha256: None, bmap: None, progress };
        let opened = Image::open_expected(&path, &self.cache, expected);
        let mut image = opened.map_err(|error| self.without_paths(error.into(), &path, name))?;
        let known = Known { bytes: about.len(), content: image.digest.clone() };
        let kept = self.remember(&digest, &known).and_then(|()| fs::remove_file(&path));
        // It is sent again then, or takes its place until the server ends.
        kept.unwrap_or_else(|error| tracing::warn!(%error, "cannot remember an image that was sent"));
        image.name = name.to_owned();
        Ok(image)
    }

    fn known(&self, digest: &ImageDigest) -> Option<Known> {
        let text = fs::read(self.cache.dir().join("known").join(digest.file_name())).ok()?;
        let known: Known = serde_json::from_slice(&text).ok()?;
        // It becomes a folder's name.
        ImageDigest::parse(&content_digest(&known.content)).is_ok().then_some(known)
    }

    fn remember(&self, digest: &ImageDigest, known: &Known) -> io::Result<()> {
        let folder = self.cache.dir().join("known");
        fs::create_dir_all(&folder)?;
        let text = serde_json::to_vec(known)?;
        file::replace(&folder.join(digest.file_name()), |file| file.write_all(&text))
    }

    fn upload(&self, digest: &ImageDigest) -> PathBuf {
        self.uploads.join(digest.file_name())
    }

    /// No client has to know where things are here.
    fn without_paths(&self, mut error: ApiError, path: &FilePath, name: &str) -> ApiError {
        let facts = &mut error.facts;
        for text in [Some(&mut facts.message), facts.cause.as_mut()].into_iter().flatten() {
            *text = text.replace(&path.display().to_string(), name);
            *text = text.replace(&self.cache.dir().display().to_string(), "the cache");
        }
        error
    }

    /// A file for an upload of so many bytes, if there is room; it is gone when it is dropped. Blocks.
    fn begin(&self, bytes: u64) -> Result<NamedTempFile, ApiError> {
        let failed = |error: io::Error| ApiError::lab("lab-failed", "cannot keep the image").cause(error);
        fs::create_dir_all(&self.uploads).map_err(failed)?;
        let kept: u64 = fs::read_dir(&self.uploads)
            .map_err(failed)?
            .filter_map(|entry| entry.ok()?.metadata().ok().map(|about| about.len()))
            .sum();
        let room = nix::sys::statvfs::statvfs(&self.uploads).map_err(|errno| failed(errno.into()))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        if bytes > free || kept.saturating_add(bytes) > self.limit {
            let mut full = ApiError::lab("disk-full", "there is no room for the image on this server");
            full.status = StatusCode::INSUFFICIENT_STORAGE;
            return Err(
                full.hint("images that were sent and not flashed yet take up to as much as one may have")
            );
        }
        NamedTempFile::new_in(&self.uploads).map_err(failed)
    }
}

fn not_here() -> ApiError {
    ApiError::not_found("no-such-image", "there is no such image here")
        .hint("PUT /v1/images/{digest} sends it")
}

/// The digest of what is being sent.
enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => drop(hasher.update(bytes)),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Blake3(hasher) => hasher.finalize().to_hex().to_string(),
            Self::Sha256(hasher) => hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// Sends and contents of the cache.
pub async fn list(State(api): State<Arc<Api>>) -> Told<Vec<ImageFacts>> {
    let listed = blocking(move || {
        let entries = api.images.cache.list()?;
        let contents = entries.into_iter().map(|entry| {
            let digest = content_digest(&entry.digest);
            ImageFacts { digest: digest.clone(), bytes: entry.bytes, content: Some(digest) }
        });
        let names = fs::read_dir(&api.images.uploads).into_iter().flatten().flatten();
        let sent = names.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?.replacen('-', ":", 1);
            api.images.find(&ImageDigest::parse(&name).ok()?)
        });
        io::Result::Ok(contents.chain(sent).collect())
    });
    let listed = listed.await;
    listed.map(Json).map_err(|error| ApiError::lab("lab-failed", "cannot list the cache").cause(error))
}

pub async fn show(State(api): State<Arc<Api>>, Path(digest): Path<String>) -> Told<ImageFacts> {
    let digest = ImageDigest::parse(&digest)?;
    blocking(move || api.images.find(&digest)).await.map(Json).ok_or_else(not_here)
}

pub async fn receive(
    State(api): State<Arc<Api>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut pieces = api.pieces(body);
    let received = take(&api, &digest, &headers, &mut pieces).await;
    // An answer in the middle of a body is lost to clients that write on; so a short rest is read for them.
    let mut rest = 0;
    while let Ok(Some(piece)) = pieces.next().await {
        rest += piece.len();
        if rest > READ_IN_VAIN {
            break;
        }
    }
    received
}

/// How much of a body is read although nobody wants it.
const READ_IN_VAIN: usize = 4 << 20;

async fn take(
    api: &Arc<Api>,
    digest: &str,
    headers: &HeaderMap,
    pieces: &mut Pieces,
) -> Result<Response, ApiError> {
    let digest = ImageDigest::parse(digest)?;
    let hasher = match digest.kind {
        DigestKind::Blake3 => Hasher::Blake3(Box::default()),
        DigestKind::Sha256 => Hasher::Sha256(sha2::Sha256::default()),
        DigestKind::Content => {
            let message = "a file is sent under its own digest; that of its content is found out here";
            return Err(ApiError::nonsense("bad-digest", message));
        }
    };
    let (known, wanted) = (api.clone(), digest.clone());
    if let Some(facts) = blocking(move || known.images.find(&wanted)).await {
        return Ok(Json(facts).into_response());
    }
    let limit = api.images.limit;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let too_large = || {
        let message = format!("the image is longer than the {limit} bytes that it may have");
        ApiError::user(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    };
    if length.is_some_and(|length: u64| length > limit) {
        return Err(too_large());
    }
    let begun = api.clone();
    let part = blocking(move || begun.images.begin(length.unwrap_or(0))).await?;
    let file = part.reopen().map_err(cannot_keep)?;
    let (mut sink, mut came) = ((file, hasher, Vec::with_capacity(WRITTEN_AT_ONCE)), 0);
    while let Some(piece) = pieces.next().await? {
        came += piece.len() as u64;
        if came > limit {
            return Err(too_large());
        }
        sink.2.extend_from_slice(&piece);
        if sink.2.len() >= WRITTEN_AT_ONCE {
            sink = write(sink).await?;
        }
    }
    let (_, hasher, _) = write(sink).await?;
    let found = hasher.finish();
    if found != digest.hex {
        let message =
            format!("what was sent has {} {found}, which is not what it was sent as", digest.kind.word());
        return Err(ApiError::nonsense("other-digest", message)
            .hint("it was changed on its way, or while it was read: send it again"));
    }
    if came == 0 {
        return Err(ApiError::nonsense("bad-image", "the image is empty"));
    }
    part.persist(api.images.upload(&digest)).map_err(|error| cannot_keep(error.error))?;
    let facts = ImageFacts { digest: digest.to_string(), bytes: came, content: None };
    Ok((StatusCode::CREATED, Json(facts)).into_response())
}

fn cannot_keep(error: io::Error) -> ApiError {
    let mut failed = ApiError::lab("lab-failed", "cannot keep the image").cause(&error);
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        failed.status = StatusCode::INSUFFICIENT_STORAGE;
        failed.facts.code = "disk-full".to_owned();
    }
    failed
}

type Sink = (File, Hasher, Vec<u8>);

/// Hashes and writes what was gathered.
async fn write((mut file, mut hasher, mut gathered): Sink) -> Result<Sink, ApiError> {
    let written = blocking(move || {
        hasher.update(&gathered);
        file.write_all(&gathered)?;
        gathered.clear();
        io::Result::Ok((file, hasher, gathered))
    });
    written.await.map_err(cannot_keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_digest_is_taken_for_one() {
        let hex = "Ab".repeat(32);
        let digest = ImageDigest::parse(&format!("blake3:{hex}")).unwrap();
        assert_eq!(digest.to_string(), format!("blake3:{}", hex.to_lowercase()));
        for nonsense in ["", "blake3:", &hex, "md5:00", "blake3:../../etc", &format!("sha256:{hex}0")] {
            assert!(ImageDigest::parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
