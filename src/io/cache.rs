//! Images that were read once, kept raw and sparse under the digest of their content.
//!
//! `IMAGES/<digest>/base.img` is never written again; stand-ins run on layers over it. Beside it lie what is known
//! of it. `IMAGES/index/` leads from a file's quick identity to the digest, so that a known file
//! is not read at all. An insertion is a folder `new-*` that takes its name when it is whole; who reads or writes
//! a base holds a lock on it, which dies with its process. Nobody has to clean up: the next insertion sweeps.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::image::bmap::Bmap;
use super::image::pass::Passed;
use super::image::raw::content_digest;

/// How much disk the bases may take together if nobody says otherwise. Enough for some fifty images of usual size,
/// and little of a laptop's disk.
pub const LIMIT_BYTES: u64 = 20 << 30;

/// A file whose last change is younger is not trusted to look different after the next one: time stamps advance
/// with the kernel's timer, every 10 ms at the slowest (CONFIG_HZ=100).
const SETTLED: Duration = Duration::from_millis(20);

const BASE: &str = "base.img";
const FACTS: &str = "facts.json";
const USED: &str = "used";
const NEW: &str = "new-";

/// The cache in a folder. Making one costs nothing and touches nothing.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
    limit: u64,
}

/// A base that is held: it stays as long as this lives, in whatever process.
#[derive(Debug)]
pub struct Base {
    /// Its folder.
    dir: PathBuf,
    /// The digest of its content.
    pub digest: String,
    /// The length of its content.
    pub bytes: u64,
    /// How much of it is data.
    pub data_bytes: u64,
    lock: Flock<File>,
}

/// One base as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The digest of its content.
    pub digest: String,
    /// The length of its content.
    pub bytes: u64,
    /// What it takes of the disk.
    pub disk_bytes: u64,
    /// The file that it was made from first.
    pub source: PathBuf,
    /// Whether some process uses it now.
    pub in_use: bool,
    /// Seconds since it was used last.
    pub idle_seconds: u64,
}

/// What is known of a base beside its content.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    bytes: u64,
    data_bytes: u64,
    source: PathBuf,
    /// When the base was written last; a later change is not ours.
    written: (i64, i64),
    /// The boot of this host in which it was made, until it has been seen whole in a later one: the kernel may
    /// not have brought it to the disk when the power failed.
    unproved_since: Option<String>,
}

/// By what a file is known without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// The digest of the block map that was applied.
    #[serde(default)]
    bmap: Option<String>,
}

/// A line of the index.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    identity: Identity,
    digest: String,
    file_sha256: Option<String>,
}

impl Identity {
    /// The identity of an open file.
    pub fn of(path: &Path, file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            path: fs::canonicalize(path)?,
            device: about.dev(),
            inode: about.ino(),
            bytes: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
            bmap: None,
        })
    }

    /// The identity of the same file when it is read by a block map, or by none.
    pub fn with_bmap(self, bmap: Option<&Bmap>) -> Self {
        Self { bmap: bmap.map(|bmap| bmap.digest.clone()), ..self }
    }

    /// Whether any later change of the file would show.
    fn is_settled(&self) -> bool {
        let nanoseconds = u32::try_from(self.changed.1).unwrap_or(0);
        let changed = Duration::new(u64::try_from(self.changed.0).unwrap_or(0), nanoseconds);
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|now| now > changed + SETTLED)
    }
}

impl Base {
    /// The raw content, never to be written.
    pub fn path(&self) -> PathBuf {
        self.dir.join(BASE)
    }

    /// The open base.
    pub fn file(&self) -> &File {
        &self.lock
    }

    /// The SHA-256 of the content, if somebody has reckoned it.
    pub fn sha256(&self) -> Option<String> {
        fs::read_to_string(self.dir.join("sha256")).ok().filter(|text| text.len() == 64)
    }

    /// Keeps the SHA-256 of the content for the next one who asks.
    pub fn remember_sha256(&self, sha256: &str) -> io::Result<()> {
        replace(&self.dir.join("sha256"), sha256.as_bytes())
    }
}

/// An insertion that is under way; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Insertion {
    dir: tempfile::TempDir,
    lock: Flock<File>,
}

impl Insertion {
    /// The file that the content is to be written to.
    pub fn file(&self) -> &File {
        &self.lock
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(BASE)
    }
}

impl Cache {
    /// The cache in `dir`, which is made when something is put in.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), limit: LIMIT_BYTES }
    }

    /// The same, with another limit: after each insertion the bases that were not used for longest go, until the
    /// rest takes at most so many bytes of the disk. One in use stays, so 0 keeps none for later.
    pub fn with_limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// How many bytes of the disk the bases may take together.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The base of a file that is known, and the file's SHA-256 if that is known, too.
    pub fn find(&self, identity: &Identity) -> io::Result<Option<(Base, Option<String>)>> {
        let Ok(json) = fs::read(self.line(&identity.path)) else { return Ok(None) };
        let Ok(line) = serde_json::from_slice::<Line>(&json) else { return Ok(None) };
        if line.identity != *identity {
            return Ok(None);
        }
        Ok(self.hold(&line.digest)?.map(|base| (base, line.file_sha256)))
    }

    /// Waits until nobody else inserts a file of this identity; held until it is dropped.
    ///
    /// There are few locks for many files, so that none has to be removed: two files may wait for each other
    /// without need.
    pub fn claim(&self, identity: &Identity) -> io::Result<Flock<File>> {
        let locks = self.dir.join("locks");
        fs::create_dir_all(&locks)?;
        let hash = blake3::hash(format!("{}:{}", identity.device, identity.inode).as_bytes());
        let path = locks.join(format!("{:02x}", hash.as_bytes()[0] & 0x3f));
        match lock(&path, FlockArg::LockExclusiveNonblock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::info!(image = %identity.path.display(), "waiting for another process that reads it");
                lock(&path, FlockArg::LockExclusive)
            }
            claimed => claimed,
        }
    }

    /// Begins an insertion, and removes those that died.
    pub fn begin(&self) -> io::Result<Insertion> {
        let _gate = self.gate()?;
        self.sweep()?;
        let dir = tempfile::Builder::new().prefix(NEW).tempdir_in(&self.dir)?;
        let lock = lock(&dir.path().join(BASE), FlockArg::LockExclusiveNonblock)?;
        Ok(Insertion { dir, lock })
    }

    /// Ends an insertion: the base gets its name, or gives way to one of the same content, and old ones make room.
    pub fn finish(&self, insertion: Insertion, identity: &Identity, passed: &Passed) -> io::Result<Base> {
        insertion.file().set_permissions(fs::Permissions::from_mode(0o444))?;
        let facts = Facts {
            bytes: passed.bytes,
            data_bytes: passed.data_bytes,
            source: identity.path.clone(),
            written: written(insertion.file())?,
            unproved_since: boot_id(),
        };
        fs::write(insertion.dir.path().join(FACTS), serde_json::to_vec(&facts)?)?;
        fs::write(insertion.dir.path().join(USED), "")?;
        let base = match self.hold(&passed.digest)? {
            Some(base) => base,
            None => {
                let gate = self.gate()?;
                let dir = self.dir.join(&passed.digest);
                // Whatever stands there could not be held: it is damaged.
                if dir.exists() {
                    remove(&dir)?;
                }
                fs::rename(insertion.dir.path(), &dir)?;
                let lock = insertion.lock;
                lock.relock(FlockArg::LockShared)?;
                drop(gate);
                Base {
                    dir,
                    digest: passed.digest.clone(),
                    bytes: facts.bytes,
                    data_bytes: facts.data_bytes,
                    lock,
                }
            }
        };
        if let Some((_, content)) = &passed.sha256
            && !passed.cleared
        {
            base.remember_sha256(content)?;
        }
        if identity.is_settled() {
            let file_sha256 = passed.sha256.as_ref().map(|(file, _)| file.clone());
            let line = Line { identity: identity.clone(), digest: passed.digest.clone(), file_sha256 };
            fs::create_dir_all(self.dir.join("index"))?;
            replace(&self.line(&identity.path), &serde_json::to_vec(&line)?)?;
        }
        self.prune(self.limit)?;
        Ok(base)
    }

    /// Holds the base of a digest; `None` if it is not there, or not what it was.
    pub fn hold(&self, digest: &str) -> io::Result<Option<Base>> {
        let dir = self.dir.join(digest);
        let Ok(file) = File::open(dir.join(BASE)) else { return Ok(None) };
        let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| io::Error::from(errno))?;
        // It may have been removed before we held it.
        let Ok(json) = fs::read(dir.join(FACTS)) else { return Ok(None) };
        let Ok(mut facts) = serde_json::from_slice::<Facts>(&json) else { return Ok(None) };
        let about = lock.metadata()?;
        if about.nlink() == 0 || about.size() != facts.bytes || written(&lock)? != facts.written {
            tracing::warn!(digest, "a base in the cache was changed by somebody else; it is made anew");
            return Ok(None);
        }
        if facts.unproved_since.is_some() && facts.unproved_since != boot_id() {
            if content_digest(&lock)? != digest {
                tracing::warn!(
                    digest,
                    "a base in the cache did not survive this host's end; it is made anew"
                );
                return Ok(None);
            }
            facts.unproved_since = None;
            replace(&dir.join(FACTS), &serde_json::to_vec(&facts)?)?;
        }
        // Only the order of eviction depends on it.
        let _ = File::open(dir.join(USED)).and_then(|file| file.set_modified(SystemTime::now()));
        let (bytes, data_bytes) = (facts.bytes, facts.data_bytes);
        Ok(Some(Base { dir, digest: digest.to_owned(), bytes, data_bytes, lock }))
    }

    /// All bases, the one that was used last first.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for dir in self.folders(is_digest)? {
            // One that is removed meanwhile is none.
            let Ok(about) = fs::metadata(dir.join(BASE)) else { continue };
            let facts =
                fs::read(dir.join(FACTS)).ok().and_then(|json| serde_json::from_slice::<Facts>(&json).ok());
            let used = fs::metadata(dir.join(USED))
                .and_then(|about| about.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let idle = SystemTime::now().duration_since(used).unwrap_or_default();
            entries.push(Entry {
                digest: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                bytes: about.size(),
                disk_bytes: about.blocks() * 512,
                source: facts.map(|facts| facts.source).unwrap_or_default(),
                in_use: lock(&dir.join(BASE), FlockArg::LockExclusiveNonblock).is_err(),
                idle_seconds: idle.as_secs(),
            });
        }
        entries.sort_by_key(|entry| entry.idle_seconds);
        Ok(entries)
    }

    /// Removes what dead insertions left, then bases that nobody uses until the rest takes at most `limit` bytes of
    /// the disk; returns which.
    pub fn prune(&self, limit: u64) -> io::Result<Vec<Entry>> {
        let _gate = self.gate()?;
        self.sweep()?;
        let mut entries = self.list()?;
        let mut total: u64 = entries.iter().map(|entry| entry.disk_bytes).sum();
        let mut removed = Vec::new();
        while total > limit
            && let Some(entry) = entries.pop()
        {
            let dir = self.dir.join(&entry.digest);
            // Held while it goes, so that nobody begins to use it.
            if let Ok(_held) = lock(&dir.join(BASE), FlockArg::LockExclusiveNonblock) {
                remove(&dir)?;
                total -= entry.disk_bytes;
                removed.push(entry);
            }
        }
        Ok(removed)
    }

    /// Reads every base, and returns those that are not what their names say, or cannot be read. Each is removed;
    /// one that is in use stays for those who use it, and for nobody else.
    pub fn verify(&self) -> io::Result<Vec<Entry>> {
        let mut damaged = Vec::new();
        for mut entry in self.list()? {
            let dir = self.dir.join(&entry.digest);
            match File::open(dir.join(BASE)).and_then(|file| content_digest(&file)) {
                Ok(digest) if digest == entry.digest => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // removed meanwhile
                _ => {}
            }
            let _gate = self.gate()?;
            let held = lock(&dir.join(BASE), FlockArg::LockExclusiveNonblock);
            entry.in_use = matches!(&held, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if entry.in_use {
                // Without its facts nobody begins to use it.
                fs::remove_file(dir.join(FACTS)).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
            } else if dir.exists() {
                remove(&dir)?;
            }
            damaged.push(entry);
        }
        Ok(damaged)
    }

    /// Removes insertions whose owners are dead. The gate is held.
    fn sweep(&self) -> io::Result<()> {
        for path in self.folders(|name| name.starts_with(NEW))? {
            match lock(&path.join(BASE), FlockArg::LockExclusiveNonblock) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // its owner lives
                _ => match remove(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {} // its owner was faster
                    removed => removed?,
                },
            }
        }
        Ok(())
    }

    /// Held by whoever gives folders their names or takes them away.
    fn gate(&self) -> io::Result<Flock<File>> {
        fs::create_dir_all(&self.dir)?;
        lock(&self.dir.join(".gate"), FlockArg::LockExclusive)
    }

    fn line(&self, path: &Path) -> PathBuf {
        let hash = blake3::hash(path.as_os_str().as_bytes());
        self.dir.join("index").join(hash.to_hex().as_str())
    }

    fn folders(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(paths.filter(|path| path.is_dir() && wanted(&name(path))).collect())
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Out of sight first, so that what a killed process leaves half removed is not taken for a base.
fn remove(dir: &Path) -> io::Result<()> {
    let gone = dir.with_file_name(format!("{NEW}{}-gone", dir.file_name().unwrap_or_default().display()));
    fs::rename(dir, &gone)?;
    fs::remove_dir_all(gone)
}

fn written(file: &File) -> io::Result<(i64, i64)> {
    let about = file.metadata()?;
    Ok((about.mtime(), about.mtime_nsec()))
}

/// The kernel's name of this boot; `None` where it has none, as then nothing can be told from it.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// Writes a small file at once or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("every file of the cache lies in a folder of it");
    let new = tempfile::NamedTempFile::new_in(folder)?;
    fs::write(new.path(), content)?;
    new.persist(path)?;
    Ok(())
}

/// Opens a file and locks it. A base is never written, so it is opened for reading if it is there.
fn lock(path: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?
        }
        opened => opened?,
    };
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}
