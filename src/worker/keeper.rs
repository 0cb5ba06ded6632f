//! Who holds a device for the worker's doors: one task that owns it and does what they ask, one thing after another.
//!
//! Reading needs no turn: [`Status`] is always there, also while a flash runs, and so are the [`Handles`] to
//! events, console and evidence. [`Keeper::renew`] cuts what is under way and takes a fresh device; `close` joins
//! the task and leaves no process.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::lock;
use crate::device::console::Tap;
use crate::device::keyboard::Keyboard;
use crate::device::power::PowerState;
use crate::device::screen::Screen;
use crate::device::{Device, DeviceError};
use crate::event::EventLog;
use crate::lab::OpenError;
use crate::message::chain;
use crate::worker::journal::{Journal, News};

/// Work on a device.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens a device for the hold of this number, with its evidence in a folder of its own.
pub type Open = Box<dyn FnMut(u64) -> Result<Opened, OpenError> + Send>;

/// A device that was opened for a hold.
#[derive(Debug)]
pub struct Opened {
    /// The device: off, with blank media.
    pub device: Device,
    /// Where its logs are.
    pub evidence: PathBuf,
    /// Where those of its first serial line are.
    pub console_logs: Option<PathBuf>,
}

/// What can be used of a device while somebody works with it.
#[derive(Debug, Clone)]
pub struct Handles {
    /// Counts the devices that this keeper has had.
    pub hold: u64,
    /// What happened to it.
    pub events: EventLog,
    /// The address on which this host reaches it, if it has a network.
    pub address: Option<Ipv4Addr>,
    /// Its first serial line, to look on and to type.
    pub console: Option<Tap>,
    /// Its screen, if it has one.
    pub screen: Option<Screen>,
    /// Its keyboard, if it has one.
    pub keyboard: Option<Keyboard>,
    /// Where its logs are.
    pub evidence: PathBuf,
}

/// What a device does, as far as was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Counts the devices that this keeper has had.
    pub hold: u64,
    /// Power, and what the system does.
    pub power: PowerState,
    /// What the keeper is doing with it.
    pub activity: Option<&'static str>,
}

/// Work was not done to its end.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Somebody took the device away, by a teardown or by ending the worker.
    #[error("the device was taken away meanwhile")]
    Cut,
}

/// The handle of the task that owns a device; as many as wanted.
#[derive(Debug, Clone)]
pub struct Keeper {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    status: watch::Sender<Status>,
    handles: Mutex<Handles>,
    /// The folders of the console's logs: this hold's last, and before it the one of the hold that ended last.
    console_logs: Mutex<Vec<PathBuf>>,
    /// How often the device was taken away.
    cuts: watch::Sender<u64>,
    /// Held while an order is put into the queue with its count of cuts, so that both have the same sequence.
    turn: Mutex<()>,
    /// The task; `close` joins it.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Tells whoever waits what came of the work.
type Deliver = Box<dyn FnOnce() + Send>;

type DeviceWork = Box<dyn for<'a> FnOnce(&'a mut Device) -> Work<'a, Deliver> + Send>;

enum Order {
    Work {
        /// `None` for a question, of which nobody is told.
        activity: Option<&'static str>,
        /// How often the device had been taken away when this was asked.
        cuts: u64,
        work: DeviceWork,
    },
    Renew(oneshot::Sender<Result<Vec<String>, OpenError>>),
    Close(oneshot::Sender<Result<(), DeviceError>>),
}

/// How many orders may wait. More than a client's retries; who comes later waits to ask.
const WAITING: usize = 64;

impl Keeper {
    /// Opens the first device and starts the task. Must be called in a tokio runtime.
    pub fn start(mut open: Open) -> Result<Self, OpenError> {
        let opened = open(1)?;
        let handles = handles(1, &opened);
        let status = Status { hold: 1, power: PowerState::Off, activity: None };
        let shared = Arc::new(Shared {
            journal: Journal::default(),
            status: watch::Sender::new(status),
            handles: Mutex::new(handles),
            console_logs: Mutex::new(opened.console_logs.into_iter().collect()),
            cuts: watch::Sender::new(0),
            turn: Mutex::new(()),
            task: Mutex::new(None),
        });
        let (orders, queue) = mpsc::channel(WAITING);
        let task = Task { open, device: Some(opened.device), hold: 1, seen: 0, shared: shared.clone() };
        *lock(&shared.task) = Some(tokio::spawn(task.keep(queue)));
        Ok(Self { orders, shared })
    }

    /// Does `work` when everything that was asked before is done, also if the caller stops waiting for it.
    pub async fn perform<T: Send + 'static>(
        &self,
        activity: &'static str,
        work: impl for<'a> FnOnce(&'a mut Device) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, KeeperError> {
        self.order(Some(activity), work).await
    }

    /// Asks the device something that changes nothing and takes no time; nobody is told.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut Device) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, KeeperError> {
        self.order(None, work).await
    }

    async fn order<T: Send + 'static>(
        &self,
        activity: Option<&'static str>,
        work: impl for<'a> FnOnce(&'a mut Device) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, KeeperError> {
        let (answer, answered) = oneshot::channel();
        let work: DeviceWork = Box::new(move |device| {
            let work = work(device);
            Box::pin(async move {
                let done = work.await;
                let deliver: Deliver = Box::new(move || {
                    // Nobody may wait any more; the work counts.
                    let _ = answer.send(done);
                });
                deliver
            })
        });
        let place = self.orders.reserve().await.map_err(|_| KeeperError::Cut)?;
        {
            let _turn = lock(&self.shared.turn);
            place.send(Order::Work { activity, cuts: *self.shared.cuts.borrow(), work });
        }
        answered.await.map_err(|_| KeeperError::Cut)
    }

    /// Cuts what is under way and what waits, closes the device and opens a fresh one. Returns what went wrong in
    /// closing; without a fresh device, nothing can be performed until the next renewal that succeeds.
    pub async fn renew(&self) -> Result<Vec<String>, OpenError> {
        let (answer, answered) = oneshot::channel();
        self.cut(Order::Renew(answer)).await;
        answered.await.unwrap_or_else(|_| Ok(vec!["the worker is ending".to_owned()]))
    }

    /// Cuts what is under way, closes the device and ends the task.
    pub async fn close(&self) -> Result<(), DeviceError> {
        let (answer, answered) = oneshot::channel();
        self.cut(Order::Close(answer)).await;
        let closed = answered.await.unwrap_or(Ok(()));
        let task = lock(&self.shared.task).take();
        if let Some(Err(panicked)) = async { Some(task?.await) }.await {
            std::panic::resume_unwind(panicked.into_panic());
        }
        closed
    }

    /// Cuts everything that was asked before, and puts `order` behind it.
    async fn cut(&self, order: Order) {
        // At once, so that a full queue empties; and again with the order, for what came meanwhile.
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        // Without a task, the order is dropped and its answer with it.
        if let Ok(place) = self.orders.reserve().await {
            let _turn = lock(&self.shared.turn);
            self.shared.cuts.send_modify(|cuts| *cuts += 1);
            place.send(order);
        }
    }

    /// Waits until the device is closed for good.
    pub async fn closed(&self) {
        self.orders.closed().await;
    }

    /// What happened to all the devices of this keeper.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// What the device does now.
    pub fn status(&self) -> Status {
        *self.shared.status.borrow()
    }

    /// Tells each change of the status.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// The folders of the console's logs: this hold's last, and before it the one of the hold that ended last.
    pub fn console_logs(&self) -> Vec<PathBuf> {
        lock(&self.shared.console_logs).clone()
    }

    /// What can be used of the device while somebody works with it.
    pub fn handles(&self) -> Handles {
        lock(&self.shared.handles).clone()
    }
}

struct Task {
    open: Open,
    /// `None` after a renewal that failed.
    device: Option<Device>,
    hold: u64,
    /// How many of the device's events are in the status.
    seen: usize,
    shared: Arc<Shared>,
}

impl Task {
    async fn keep(mut self, mut queue: mpsc::Receiver<Order>) {
        loop {
            let order = match &self.device {
                Some(device) => {
                    let events = device.events.clone();
                    follow(&events, &mut self.seen, &self.shared, queue.recv()).await
                }
                None => queue.recv().await,
            };
            // Whoever asked may have stopped waiting for the answer.
            match order {
                Some(Order::Work { activity, cuts, work }) => self.work(activity, cuts, work).await,
                Some(Order::Renew(answer)) => {
                    let _ = answer.send(self.renew().await);
                }
                Some(Order::Close(answer)) => {
                    let _ = answer.send(self.close().await);
                    return;
                }
                None => {
                    if let Err(error) = self.close().await {
                        tracing::error!(error = chain(&error), "a device was not closed well");
                    }
                    return;
                }
            }
        }
    }

    async fn work(&mut self, activity: Option<&'static str>, cuts: u64, work: DeviceWork) {
        let Some(device) = &mut self.device else { return };
        let mut cut = self.shared.cuts.subscribe();
        if *cut.borrow_and_update() != cuts {
            return;
        }
        self.shared.change(|status| status.activity = activity);
        let events = device.events.clone();
        let working = async {
            tokio::select! {
                biased;
                _ = cut.changed() => {
                    tracing::warn!(activity, "cut short: the device is taken away");
                    None
                }
                deliver = work(device) => Some(deliver),
            }
        };
        let deliver = follow(&events, &mut self.seen, &self.shared, working).await;
        self.shared.change(|status| status.activity = None);
        // Last, so that whoever hears of it finds it in the status.
        if let Some(deliver) = deliver {
            deliver();
        }
    }

    async fn renew(&mut self) -> Result<Vec<String>, OpenError> {
        let closed = self.close().await;
        (self.hold, self.seen) = (self.hold + 1, 0);
        let opened = (self.open)(self.hold)?;
        *lock(&self.shared.handles) = handles(self.hold, &opened);
        let mut logs = lock(&self.shared.console_logs);
        logs.extend(opened.console_logs);
        let excess = logs.len().saturating_sub(2);
        logs.drain(..excess);
        drop(logs);
        let fresh = Status { hold: self.hold, power: PowerState::Off, activity: None };
        self.shared.change(|status| *status = fresh);
        self.device = Some(opened.device);
        Ok(closed.err().map(|error| chain(&error)).into_iter().collect())
    }

    async fn close(&mut self) -> Result<(), DeviceError> {
        match self.device.take() {
            Some(device) => {
                let events = device.events.clone();
                follow(&events, &mut self.seen, &self.shared, device.close()).await
            }
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Changes the status, and tells if it is another one.
    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut told = None;
        self.status.send_if_modified(|status| {
            let before = *status;
            change(status);
            let changed = *status != before;
            told = changed.then_some(*status);
            changed
        });
        if let Some(Status { hold, power, activity }) = told {
            let activity = activity.map(str::to_owned);
            self.journal.record(hold, News::Status { power, activity });
        }
    }
}

fn handles(hold: u64, opened: &Opened) -> Handles {
    let Opened { device, evidence, .. } = opened;
    Handles {
        hold,
        events: device.events.clone(),
        address: device.address().ok(),
        console: device.tap(),
        screen: device.screen().ok(),
        keyboard: device.keyboard().ok(),
        evidence: evidence.clone(),
    }
}

/// Does `work`, and meanwhile keeps the status and the journal up to what the events say from number `seen` on.
async fn follow<T>(events: &EventLog, seen: &mut usize, shared: &Shared, work: impl Future<Output = T>) -> T {
    let mut count = events.watch();
    tokio::pin!(work);
    let mut done = None;
    loop {
        count.borrow_and_update();
        for event in events.since(*seen) {
            *seen = event.id + 1;
            let power = PowerState::after(&event.kind);
            shared.journal.record_at(shared.status.borrow().hold, event.at, News::Event(event.kind));
            if let Some(power) = power {
                shared.change(|status| status.power = power);
            }
        }
        if let Some(done) = done {
            return done;
        }
        tokio::select! {
            biased;
            ended = &mut work => done = Some(ended),
            // The log lives as long as the caller's clone of it.
            _ = count.changed() => {}
        }
    }
}
