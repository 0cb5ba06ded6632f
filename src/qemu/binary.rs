//! The host's QEMU programs: where they are, and what each can do, as it says itself.
//!
//! Called before a machine is started, and by `standin doctor`. QEMU is asked once, with a machine of nothing
//! (`-M none`, some 40 ms), and the answer is kept in the cache folder for as long as the program file stays the
//! same. The cache may be removed at any time. Modules of QEMU that are installed later, and add devices, do not
//! change the program file; [`ask`] always asks anew.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::arguments::SANDBOX;
use super::package::Package;
use crate::board::Arch;
use crate::deadline::{Deadline, Elapsed};
use crate::io::file;
use crate::sys::child;

/// What one QEMU program can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Its version.
    pub version: Version,
    /// What its packager calls it; may be empty.
    pub package: String,
    /// The machine types, in no order.
    pub machines: Vec<MachineType>,
    /// The devices that `-device` takes, and those that are part of machines.
    pub devices: BTreeSet<String>,
    /// The accelerators that it was built with, such as `tcg` and `kvm`; not what the host can.
    pub accelerators: Vec<String>,
    /// The kinds of `-netdev`, such as `user`, `stream` and `dgram`.
    pub netdevs: Vec<String>,
    /// Whether it can confine itself with `-sandbox` on this host.
    pub sandbox: bool,
}

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub micro: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineType {
    /// Its full name, such as `pc-q35-7.2`.
    pub name: String,
    /// The short name that stands for it, such as `q35`.
    pub alias: Option<String>,
    /// The most processors that it takes.
    pub cpu_max: u32,
}

impl Inventory {
    /// The machine type of that name or alias.
    pub fn machine(&self, name: &str) -> Option<&MachineType> {
        self.machines.iter().find(|machine| machine.name == name || machine.alias.as_deref() == Some(name))
    }

    /// Whether there is a `-netdev` of that kind.
    pub fn has_netdev(&self, kind: &str) -> bool {
        self.netdevs.iter().any(|netdev| netdev == kind)
    }
}

/// Why a QEMU program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It is not installed.
    #[error("no `{program}` on this host")]
    Missing {
        /// Its name.
        program: String,
        /// The architecture that it plays.
        arch: Arch,
    },
    /// The user named a file that cannot be run.
    #[error("cannot run {path}")]
    Run {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("`{command}` does not answer")]
    Silent {
        /// What was run.
        command: String,
        /// The time that it had.
        #[source]
        source: Elapsed,
    },
    /// It ended without having answered.
    #[error("`{command}` gave no inventory: {status}{said}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words, after `: `; or empty.
        said: String,
    },
    /// Its answer is not what QMP promises.
    #[error("`{command}` gave no inventory: unexpected answer to {question}")]
    Answer {
        /// What was run.
        command: String,
        /// The QMP command.
        question: &'static str,
    },
}

impl BinaryError {
    /// What would help.
    pub fn hint(&self) -> Option<String> {
        self.package().map(Package::hint)
    }

    /// The package that would help.
    pub fn package(&self) -> Option<Package> {
        match self {
            Self::Missing { arch, .. } => Some(Package::Qemu(*arch)),
            _ => None,
        }
    }
}

/// Finds the program that plays `arch`: `explicit` if the user named one, else the first in `search_path`
/// (the value of `PATH`).
pub fn find(
    arch: Arch,
    explicit: Option<&Path>,
    search_path: Option<&OsStr>,
) -> Result<PathBuf, BinaryError> {
    let can_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if let Some(path) = explicit {
        let not_run = |source: nix::Error| BinaryError::Run { path: path.to_owned(), source: source.into() };
        access(path, AccessFlags::X_OK).map_err(not_run)?;
        return if can_run(path) { Ok(path.to_owned()) } else { Err(not_run(nix::Error::EACCES)) };
    }
    let program = format!("qemu-system-{}", arch.qemu_name());
    let mut candidates =
        std::env::split_paths(search_path.unwrap_or_default()).map(|folder| folder.join(&program));
    candidates.find(|path| can_run(path)).ok_or(BinaryError::Missing { program, arch })
}

/// The inventory of the program at `path`, from the cache in `cache_folder` if it is still true.
pub async fn inventory(
    path: &Path,
    cache_folder: &Path,
    deadline: Deadline,
) -> Result<Inventory, BinaryError> {
    let identity = identify(path).map_err(|source| BinaryError::Run { path: path.to_owned(), source })?;
    match recall(&identity, cache_folder) {
        Some(inventory) => Ok(inventory),
        None => ask(path, cache_folder, deadline).await,
    }
}

/// The inventory of the program at `path`, asked of it now; the cache in `cache_folder` is renewed.
///
/// Cancelled, it leaves nothing: the child is killed as it is dropped.
pub async fn ask(path: &Path, cache_folder: &Path, deadline: Deadline) -> Result<Inventory, BinaryError> {
    // First, so that a program replaced meanwhile is asked again next time.
    let identity = identify(path).map_err(|source| BinaryError::Run { path: path.to_owned(), source })?;
    // A host may forbid what the sandbox needs (seccomp in a container), so the option alone proves nothing.
    let inventory = match converse(path, &["-sandbox", SANDBOX], deadline).await {
        Err(BinaryError::Failed { .. }) => {
            Inventory { sandbox: false, ..converse(path, &[], deadline).await? }
        }
        answered => answered?,
    };
    // Without a cache each start asks again, which costs time and nothing else.
    if let Err(error) = remember(&identity, &inventory, cache_folder) {
        tracing::warn!(folder = %cache_folder.display(), %error, "cannot keep QEMU's inventory");
    }
    Ok(inventory)
}

const ARGUMENTS: [&str; 9] =
    ["-M", "none", "-nodefaults", "-no-user-config", "-S", "-display", "none", "-qmp", "stdio"];

/// What is asked, in order.
fn questions() -> [(&'static str, Value); 7] {
    [
        ("qmp_capabilities", json!({})),
        ("query-version", json!({})),
        ("query-machines", json!({})),
        ("qom-list-types", json!({ "implements": "device", "abstract": false })),
        ("qom-list-types", json!({ "implements": "accel", "abstract": false })),
        ("query-command-line-options", json!({})),
        ("query-qmp-schema", json!({})),
    ]
}

async fn converse(path: &Path, more: &[&str], deadline: Deadline) -> Result<Inventory, BinaryError> {
    let arguments: Vec<&str> = ARGUMENTS.iter().chain(more).copied().collect();
    let command = format!("{} {}", path.display(), arguments.join(" "));
    let cannot_run = |source| BinaryError::Run { path: path.to_owned(), source };
    let mut qemu = Command::new(path);
    qemu.args(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child::spawn(qemu, Vec::new()).await.map_err(cannot_run)?;
    let mut stdin = child.stdin.take().expect("standard input was asked for");
    let stdout = child.stdout.take().expect("standard output was asked for");
    let mut stderr = child.stderr.take().expect("standard error was asked for");
    let mut words = Vec::new();
    let talk = async {
        let replies = hear_replies(&mut stdin, stdout).await?;
        Ok::<_, io::Error>((replies, child.wait().await?))
    };
    let ended = deadline
        .bound(async {
            let (heard, overheard) = tokio::join!(talk, stderr.read_to_end(&mut words));
            overheard.and(heard)
        })
        .await;
    let (replies, status) = match ended {
        Ok(ended) => ended.map_err(cannot_run)?,
        Err(source) => {
            child::kill_and_wait(&mut child).await.map_err(cannot_run)?;
            return Err(BinaryError::Silent { command, source });
        }
    };
    if !status.success() || replies.iter().all(Value::is_null) {
        let said = String::from_utf8_lossy(&words).trim().to_owned();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        return Err(BinaryError::Failed { command, status, said });
    }
    read_inventory(&replies).map_err(|question| BinaryError::Answer { command, question })
}

/// Asks all questions at once; the replies by the number of their question, `null` for those that failed.
///
/// QEMU is told to quit only when the last reply was read: it throws away what nobody has read by then.
async fn hear_replies(stdin: &mut ChildStdin, stdout: ChildStdout) -> io::Result<Vec<Value>> {
    let questions = questions();
    let ask = |(id, (question, arguments)): (usize, &(&str, Value))| {
        json!({ "execute": question, "arguments": arguments, "id": id }).to_string() + "\n"
    };
    let asked: String = questions.iter().enumerate().map(ask).collect();
    // A QEMU that has ended does not take it; its exit and its words tell more.
    let _ = stdin.write_all(asked.as_bytes()).await;
    let mut replies = vec![Value::Null; questions.len()];
    let mut lines = BufReader::new(stdout).split(b'\n');
    while let Some(line) = lines.next_segment().await? {
        let Ok(mut message) = serde_json::from_slice::<Value>(&line) else { continue };
        let id = message["id"].as_u64().and_then(|id| usize::try_from(id).ok());
        let Some((id, reply)) = id.and_then(|id| Some((id, replies.get_mut(id)?))) else { continue };
        *reply = message["return"].take();
        if id + 1 == questions.len() {
            let _ = stdin.write_all(b"{\"execute\": \"quit\"}\n").await; // as above
        }
    }
    Ok(replies)
}

/// Picks the inventory out of the replies; what cannot be read is named by its question.
fn read_inventory(replies: &[Value]) -> Result<Inventory, &'static str> {
    let names = |list: &Value, key: &str| -> Vec<String> {
        let entries = list.as_array().into_iter().flatten();
        entries.filter_map(|entry| entry[key].as_str().map(str::to_owned)).collect()
    };
    let asked = questions();
    let machines = serde_json::from_value(replies[2].clone()).map_err(|_| asked[2].0)?;
    let version = serde_json::from_value(replies[1]["qemu"].clone()).map_err(|_| asked[1].0)?;
    let devices: BTreeSet<String> = names(&replies[3], "name").into_iter().collect();
    let accelerators: Vec<String> = names(&replies[4], "name")
        .iter()
        .filter_map(|name| Some(name.strip_suffix("-accel")?.to_owned()))
        .collect();
    let options = names(&replies[5], "option");
    // The schema's names are made up anew in each version; the list that has `hubport` is that of the drivers.
    let has_hubport = |entry: &&Value| {
        entry["values"].as_array().is_some_and(|values| values.contains(&Value::from("hubport")))
    };
    let drivers = replies[6].as_array().into_iter().flatten().find(has_hubport).ok_or(asked[6].0)?;
    let netdevs = serde_json::from_value(drivers["values"].clone()).map_err(|_| asked[6].0)?;
    for (place, list) in [(3, devices.is_empty()), (4, accelerators.is_empty()), (5, options.is_empty())] {
        if list {
            return Err(asked[place].0);
        }
    }
    Ok(Inventory {
        version,
        package: replies[1]["package"].as_str().unwrap_or_default().to_owned(),
        machines,
        devices,
        accelerators,
        netdevs,
        sandbox: options.iter().any(|option| option == "sandbox"),
    })
}

/// What tells one program file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    path: PathBuf,
    size_bytes: u64,
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
}

fn identify(path: &Path) -> io::Result<Identity> {
    let facts = fs::metadata(path)?;
    Ok(Identity {
        path: path.to_owned(),
        size_bytes: facts.size(),
        inode: facts.ino(),
        modified_s: facts.mtime(),
        modified_ns: facts.mtime_nsec(),
    })
}

/// What lies in the cache. A file of another format is not read, and is written over.
#[derive(Serialize, Deserialize)]
struct Kept<I> {
    format: u32,
    identity: Identity,
    inventory: I,
}

const CACHE_FORMAT: u32 = 1;

fn cache_file(identity: &Identity, folder: &Path) -> PathBuf {
    let digest = Sha256::digest(identity.path.as_os_str().as_encoded_bytes());
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("qemu-{name}.json"))
}

/// A cache that is absent, of another program or damaged is no error: QEMU is there to be asked.
fn recall(identity: &Identity, folder: &Path) -> Option<Inventory> {
    let text = fs::read(cache_file(identity, folder)).ok()?;
    let kept: Kept<Inventory> = serde_json::from_slice(&text).ok()?;
    (kept.format == CACHE_FORMAT && kept.identity == *identity).then_some(kept.inventory)
}

fn remember(identity: &Identity, inventory: &Inventory, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let kept = Kept { format: CACHE_FORMAT, identity: identity.clone(), inventory };
    let text = serde_json::to_vec(&kept)?;
    file::replace(&cache_file(identity, folder), |file| file.write_all(&text))
}

#[cfg(test)]
mod tests;
