//! The devices that a server has: the one of leviathan's protocol, and those that clients of the API asked for.
//!
//! A device is admitted if the host has memory and processors for it beside those that are there already. Who
//! asked for one gives it back by [`Devices::remove`]; `close` closes all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::api::error::ApiError;
use super::keeper::{Keeper, Opened};
use super::live::LiveScreen;
use super::operation::Operations;
use crate::board::{Board, Catalog};
use crate::device::DeviceError;
use crate::io::cache::Cache;
use crate::lab::player::{AcceleratorChoice, Chosen, Host, choose};
use crate::lab::{OpenError, Places, open_stand_in};
use axum::http::StatusCode;

/// The name of the device that leviathan's protocol drives.
pub const DEFAULT: &str = "default";

/// A device that is lent.
#[derive(Debug)]
pub struct Lent {
    /// Its name in the API.
    pub id: String,
    /// What it is.
    pub board: Arc<Board>,
    /// Who plays it.
    pub chosen: Chosen,
    /// Who holds it.
    pub keeper: Keeper,
    /// What takes longer on it.
    pub operations: Operations,
    /// What its screen shows.
    pub live: LiveScreen,
}

/// What a server may use of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all devices together, in bytes.
    pub memory_bytes: u64,
    /// Processors of all devices together.
    pub cpus: u64,
    /// How many devices.
    pub devices: usize,
}

/// What devices are made of, and where their files are.
#[derive(Debug, Clone)]
pub struct Supply {
    /// The boards that there are.
    pub catalog: Catalog,
    /// This host.
    pub host: Host,
    /// The cache of images.
    pub images: Cache,
    /// Who may execute.
    pub accelerator: AcceleratorChoice,
    /// Where logs go, a folder for each device.
    pub evidence: PathBuf,
    /// Where media go, a folder for each device.
    pub scratch: PathBuf,
}

/// All devices of a server.
#[derive(Debug)]
pub struct Devices {
    /// What they are made of.
    pub supply: Supply,
    /// What they may use.
    pub limits: Limits,
    all: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    lent: BTreeMap<String, Arc<Lent>>,
    /// Boards that were admitted and are still being opened.
    opening: BTreeMap<u64, Arc<Board>>,
    /// Counts those that were asked for.
    number: u64,
}

/// A place among the devices that is taken; dropped, it is free again.
#[derive(Debug)]
pub struct Admission {
    devices: Arc<Devices>,
    number: u64,
}

/// What the devices of a server use of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Their memory when all of them run, in bytes.
    pub memory_bytes: u64,
    /// Their processors.
    pub cpus: u64,
    /// How many there are.
    pub devices: usize,
}

impl Limits {
    /// What this host has: all of its memory, and each processor four times, as devices wait most of the time.
    pub fn of_host() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        Self { memory_bytes: memory("MemTotal:").unwrap_or(u64::MAX), cpus: 4 * cpus, devices: 64 }
    }
}

/// A line of /proc/meminfo, in bytes (proc_meminfo(5)).
fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The memory that the host could still give, in bytes; unlimited where it does not say.
pub fn memory_available() -> u64 {
    memory("MemAvailable:").unwrap_or(u64::MAX)
}

impl Devices {
    /// With the device of leviathan's protocol as the first.
    pub fn new(supply: Supply, limits: Limits, default: (Arc<Board>, Chosen, Keeper)) -> Arc<Self> {
        let (board, chosen, keeper) = default;
        let all = Registry::default();
        let devices = Self { supply, limits, all: Mutex::new(all) };
        let operations = Operations::new(keeper.journal().clone());
        let live = LiveScreen::default();
        let lent = Lent { id: DEFAULT.to_owned(), board, chosen, keeper, operations, live };
        devices.registry().lent.insert(DEFAULT.to_owned(), Arc::new(lent));
        Arc::new(devices)
    }

    /// The device of this name.
    pub fn find(&self, id: &str) -> Result<Arc<Lent>, ApiError> {
        let found = self.registry().lent.get(id).cloned();
        found.ok_or_else(|| ApiError::not_found("no-such-device", "there is no such device"))
    }

    /// All devices, in the order of their names.
    pub fn list(&self) -> Vec<Arc<Lent>> {
        self.registry().lent.values().cloned().collect()
    }

    /// What they use.
    pub fn usage(&self) -> Usage {
        self.registry().usage()
    }

    /// The board of this slug.
    pub fn board(&self, slug: &str) -> Result<Arc<Board>, ApiError> {
        self.supply.catalog.board(slug).map_err(|error| {
            let told = ApiError::nonsense("no-such-board", &error);
            match error.hint() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })
    }

    /// Takes a place for a device of this board, if the host has memory and processors for one more.
    pub fn admit(self: &Arc<Self>, board: &Arc<Board>) -> Result<Admission, ApiError> {
        let mut registry = self.registry();
        let Usage { memory_bytes, cpus, devices } = registry.usage();
        let full = |code: &str, message: String| {
            let refused = ApiError::full(code, message);
            Err(refused.hint("try again when a device was given back; GET /v1 shows what there is"))
        };
        let (needs, slug) = (board.qemu.memory.0, &board.slug);
        if devices >= self.limits.devices {
            return full("no-place", format!("this server has {devices} devices, and no place for more"));
        }
        if memory_bytes.saturating_add(needs) > self.limits.memory_bytes {
            return full(
                "no-memory",
                format!(
                    "{slug} needs {} MiB, and of this server's {} MiB its devices have {}",
                    needs >> 20,
                    self.limits.memory_bytes >> 20,
                    memory_bytes >> 20
                ),
            );
        }
        let available = memory_available().saturating_sub(registry.unused_memory());
        if needs > available {
            let message =
                format!("{slug} needs {} MiB, and this host has {} MiB left", needs >> 20, available >> 20);
            return full("no-memory", message);
        }
        if cpus + u64::from(board.qemu.cpus) > self.limits.cpus {
            let message = format!(
                "{slug} needs {} processors, and of this server's {} its devices have {cpus}",
                board.qemu.cpus, self.limits.cpus
            );
            return full("no-processors", message);
        }
        registry.number += 1;
        let number = registry.number;
        registry.opening.insert(number, board.clone());
        Ok(Admission { devices: self.clone(), number })
    }

    /// Opens a device of this board, with these TCP ports of it reachable.
    pub async fn add(self: &Arc<Self>, board: Arc<Board>, forwards: Vec<u16>) -> Result<Arc<Lent>, ApiError> {
        let admission = self.admit(&board)?;
        let chosen = self.choose(&board).await?;
        let id = format!("d{}", admission.number);
        let open = opener(&board, &chosen, &self.supply, &id, forwards, None);
        let keeper = Keeper::start(Box::new(open)).map_err(|error| ApiError::lab("cannot-open", error))?;
        let operations = Operations::new(keeper.journal().clone());
        let live = LiveScreen::default();
        let lent = Arc::new(Lent { id: id.clone(), board, chosen, keeper, operations, live });
        self.registry().lent.insert(id, lent.clone());
        Ok(lent)
    }

    /// Who plays this board.
    pub async fn choose(&self, board: &Board) -> Result<Chosen, ApiError> {
        choose(board, &self.supply.host, self.supply.accelerator).await.map_err(|error| {
            let told = ApiError::lab("cannot-play", format!("nobody here can play {}", board.slug))
                .cause(crate::message::chain(&error));
            match error.hint() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })
    }

    /// Closes a device that a client had asked for, and removes its files.
    pub async fn remove(&self, id: &str) -> Result<(), ApiError> {
        let lent = self.find(id)?;
        if id == DEFAULT {
            let message = "the device of leviathan's protocol stays as long as the server";
            return Err(ApiError::conflict("stays", message));
        }
        let closed = lent.keeper.close().await;
        // Only now, so that its memory counts as long as it is used, and the server's end finds it.
        self.registry().lent.remove(id);
        for base in [&self.supply.evidence, &self.supply.scratch] {
            // What cannot be removed goes with the run directory.
            let _ = fs::remove_dir_all(base.join(&lent.id));
        }
        Ok(closed?)
    }

    /// Closes all but the default one, which is the worker's; returns the first failure.
    pub async fn close(&self) -> Result<(), DeviceError> {
        let mut first = Ok(());
        for lent in self.list().into_iter().filter(|lent| lent.id != DEFAULT) {
            first = first.and(lent.keeper.close().await);
        }
        first
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.devices.registry().opening.remove(&self.number);
    }
}

impl Registry {
    fn boards(&self) -> impl Iterator<Item = &Arc<Board>> {
        self.lent.values().map(|lent| &lent.board).chain(self.opening.values())
    }

    fn usage(&self) -> Usage {
        Usage {
            memory_bytes: self.boards().map(|board| board.qemu.memory.0).sum(),
            cpus: self.boards().map(|board| u64::from(board.qemu.cpus)).sum(),
            devices: self.boards().count(),
        }
    }

    /// What devices may still take when they are switched on: the host does not know of it yet.
    fn unused_memory(&self) -> u64 {
        use crate::device::power::PowerState;
        let off = self.lent.values().filter(|lent| lent.keeper.status().power == PowerState::Off);
        off.map(|lent| &lent.board).chain(self.opening.values()).map(|board| board.qemu.memory.0).sum()
    }
}

/// How long a client that is refused for want of room shall wait.
pub const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Opens a device for each hold, with its logs in a folder of its own; of the folders, the last two stay.
/// With a path for it, a second monitor of QEMU's is there while the power is on.
pub fn opener(
    board: &Arc<Board>,
    chosen: &Chosen,
    supply: &Supply,
    id: &str,
    forwards: Vec<u16>,
    side_door: Option<PathBuf>,
) -> impl FnMut(u64) -> Result<Opened, OpenError> + Send + 'static {
    let (board, player) = (board.clone(), chosen.player.clone());
    let (evidence, scratch) = (supply.evidence.join(id), supply.scratch.join(id));
    move |hold| {
        let folder = |base: &PathBuf, number: u64| base.join(format!("hold-{number}"));
        let (logs, files) = (folder(&evidence, hold), folder(&scratch, hold));
        // What is left of earlier holds; what cannot be removed goes with the run.
        let _ = fs::remove_dir_all(folder(&scratch, hold.saturating_sub(1)));
        let _ = fs::remove_dir_all(folder(&evidence, hold.saturating_sub(2)));
        let places = Places::create(&logs, &files).map_err(OpenError::Address)?;
        let mut device = open_stand_in(board.clone(), player.clone(), &places, forwards.clone())?;
        if let Some(path) = &side_door {
            device.open_side_door(path.clone());
        }
        let console_logs = board.serial.first().map(|line| logs.join(&line.name));
        Ok(Opened { device, evidence: logs, console_logs })
    }
}

impl ApiError {
    /// There is no room now.
    fn full(code: &str, message: String) -> Self {
        let mut error = Self::lab(code, message);
        error.status = StatusCode::SERVICE_UNAVAILABLE;
        error
    }
}
