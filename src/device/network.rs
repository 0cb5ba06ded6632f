//! The way to the DUT over its network: logging in over SSH, as soon as that is possible, or why it is not.
//!
//! A DUT that boots is not up at first, and that alone is waited for. What is final is told at once, and what was
//! seen last is told when time is up. Sessions belong to whoever asked for them.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::console::wait::{Interruption, silenced};
use super::power::{PowerError, PowerState};
use super::{Device, DeviceError, Fault};
use crate::deadline::{Deadline, Elapsed};
use crate::event::{EventKind, EventLog};
use crate::io::ssh::{Contact, Credentials, HostKey, NoServer, Server, Session, SshError};
use crate::qemu::machine::{MachineError, TcpContact};
use crate::qemu::monitor::MonitorError;

/// Where SSH is on balenaOS and systems like it; elsewhere it is on [`SSH_PORT`].
pub const OS_SSH_PORT: u16 = 22222;

/// SSH's own port (RFC 4253, section 4).
pub const SSH_PORT: u16 = 22;

/// How often a silent connection is looked at, and how long a refused one rests: nothing tells when a port of the
/// DUT opens. Half of it, on average, is what a login comes too late: below 1 % of the fastest boot to SSH.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many looks an unanswered connection gets before the DUT is asked anew: QEMU asks again by itself only after
/// 6 s, then 18 s (libslirp, `tcp_timer`), long after a network has come up.
const UNANSWERED_LOOKS: u32 = 2;

/// How long QEMU may take to tell of its network, which takes it some milliseconds. It is no part of the time that the
/// DUT is given: that it passes meanwhile must not look like a QEMU that is silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Who logs in, and where.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// The DUT's TCP port.
    pub port: u16,
    /// The user.
    pub user: &'a str,
    /// By what the user comes in.
    pub credentials: &'a Credentials,
    /// Events from this one on end the wait, if they say that the DUT will not answer.
    pub heed_from: usize,
}

/// A login that succeeded.
#[derive(Debug)]
pub struct Reached {
    /// The session.
    pub session: Session,
    /// By how much, at most, it may have come too late: the rest before the attempt that succeeded.
    pub late: Duration,
}

/// The DUT cannot be logged in to.
#[derive(Debug, thiserror::Error)]
#[error("cannot log in over SSH to port {port}{}", .address.map(|at| format!(" (here {at})")).unwrap_or_default())]
pub struct ReachError {
    /// The DUT's TCP port.
    pub port: u16,
    /// Where this host reaches it, if it does.
    pub address: Option<SocketAddrV4>,
    /// Why not.
    #[source]
    pub reason: NotReached,
}

/// Why the DUT cannot be logged in to.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// It is not switched on, or has halted.
    #[error("{0}")]
    NotRunning(&'static str),
    /// Its cable is out.
    #[error("no carrier: the cable of `{0}` is out")]
    NoCarrier(String),
    /// This host does not reach the port.
    #[error("the port is not forwarded; name it in `forward`, or with --forward")]
    NotForwarded,
    /// It will not answer any more.
    #[error("{reason}; until then {last}")]
    Interrupted {
        /// What happened.
        reason: String,
        /// Whether that is the lab's fault.
        lab: bool,
        /// What was seen last.
        last: LastSeen,
    },
    /// The deadline passed.
    #[error("not within {given:?}: {last}")]
    NotInTime {
        /// The time that was allowed.
        given: Duration,
        /// What was seen last.
        last: LastSeen,
    },
    /// Its server answers, and that is that.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// What listens there is no SSH server.
    #[error(transparent)]
    NoServer(NoServer),
    /// The lab cannot look.
    #[error(transparent)]
    Device(#[from] Box<DeviceError>),
}

/// What was seen of the DUT's network last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastSeen {
    /// Nothing was tried yet.
    Nothing,
    /// No packet came back.
    NoAnswer,
    /// The connection ended at once.
    Closed(String),
    /// The connection was taken, and this was said; often nothing.
    Silent(String),
    /// The server told its version, and no more.
    Version(String),
    /// Keys are agreed, and the login was not answered.
    LoggingIn(String),
}

impl fmt::Display for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing was tried"),
            Self::NoAnswer => {
                f.write_str("the DUT's network does not answer: it is not up, or has no address from DHCP")
            }
            Self::Closed(how) => f.write_str(how),
            Self::Silent(said) if said.is_empty() => {
                f.write_str("the port takes connections, and says nothing")
            }
            Self::Silent(said) => {
                write!(f, "the port takes connections, and says `{said}` instead of an SSH version")
            }
            Self::Version(version) => {
                write!(f, "`{version}` answered, and did not go on with the key exchange")
            }
            Self::LoggingIn(version) => write!(f, "`{version}` exchanged keys, and did not answer the login"),
        }
    }
}

impl ReachError {
    /// Who is to blame.
    pub fn fault(&self) -> Fault {
        match &self.reason {
            NotReached::Interrupted { lab: true, .. } => Fault::Lab,
            NotReached::Ssh(SshError::Host(_)) => Fault::Lab,
            NotReached::NotForwarded => Fault::User,
            NotReached::Device(error) => error.fault(),
            NotReached::NotRunning(_)
            | NotReached::NoCarrier(_)
            | NotReached::Interrupted { lab: false, .. }
            | NotReached::NotInTime { .. }
            | NotReached::Ssh(_)
            | NotReached::NoServer(_) => Fault::Dut,
        }
    }
}

/// A server that told its version.
struct Found {
    contact: Contact,
    version: String,
    /// When the connection was opened.
    asked: Instant,
}

/// The keys of the DUT's SSH servers, each learnt at the first contact after a flash.
#[derive(Debug, Default)]
pub(super) struct HostKeys {
    /// How many flashes there were when they were learnt.
    flashes: usize,
    learnt: HashMap<u16, HostKey>,
}

impl HostKeys {
    /// The key that the server on this port must have; `None` if it is not known yet.
    fn known(&mut self, events: &EventLog, port: u16) -> Option<HostKey> {
        let is_flash = |kind: &EventKind| matches!(kind, EventKind::Flashed { .. });
        let flashes = events.since(0).iter().filter(|event| is_flash(&event.kind)).count();
        if flashes != self.flashes {
            *self = Self { flashes, learnt: HashMap::new() };
        }
        self.learnt.get(&port).cloned()
    }
}

impl Device {
    /// The port on which SSH is expected if nobody says another.
    pub fn ssh_port(&self) -> u16 {
        if self.power.forwarded().contains(&OS_SSH_PORT) { OS_SSH_PORT } else { SSH_PORT }
    }

    /// Logs in over SSH, as soon as the DUT lets us: waits while its network or its server is not up, and for
    /// nothing else. Cancelled or failed, it leaves no connection.
    pub async fn log_in_over_ssh(
        &mut self,
        visit: Visit<'_>,
        deadline: Deadline,
    ) -> Result<Reached, ReachError> {
        let mut address = None;
        let reached = self.try_to_log_in(visit, &mut address, deadline).await;
        reached.map_err(|reason| ReachError { port: visit.port, address, reason })
    }

    async fn try_to_log_in(
        &mut self,
        visit: Visit<'_>,
        address: &mut Option<SocketAddrV4>,
        deadline: Deadline,
    ) -> Result<Reached, NotReached> {
        let interface = self.interface(None).map_err(|error| Box::new(error.into()))?;
        match self.power_state() {
            PowerState::Off => return Err(NotReached::NotRunning("the DUT is off")),
            PowerState::Halted => return Err(NotReached::NotRunning("the DUT has halted")),
            PowerState::Running | PowerState::Unknown => {}
        }
        if self.power.is_unplugged(interface) {
            return Err(NotReached::NoCarrier(interface.to_owned()));
        }
        let forwards = match self.forwards(Deadline::after(ANSWER_WITHIN)).await {
            Ok(forwards) => forwards,
            Err(error) => return Err(self.silent_player(error, visit).await),
        };
        let found = forwards.iter().find(|(dut, _)| *dut == visit.port);
        let (_, here) = *found.ok_or(NotReached::NotForwarded)?;
        *address = Some(here);
        let known = self.host_keys.known(&self.events, visit.port);
        let mut last = LastSeen::Nothing;
        let log_in = self.log_in_once_up(visit, here, known.as_ref(), &mut last, deadline);
        let done = tokio::select! {
            biased;
            done = deadline.bound(log_in) => done,
            Interruption { reason, lab } = silenced(&self.events, visit.heed_from) => {
                return Err(NotReached::Interrupted { reason, lab, last });
            }
        };
        let reached = done.map_err(|Elapsed { given }| NotReached::NotInTime { given, last })??;
        self.host_keys.learnt.insert(visit.port, reached.session.host_key.clone());
        Ok(reached)
    }

    async fn log_in_once_up(
        &self,
        visit: Visit<'_>,
        here: SocketAddrV4,
        known: Option<&HostKey>,
        last: &mut LastSeen,
        deadline: Deadline,
    ) -> Result<Reached, NotReached> {
        let mut not_up_at = None;
        loop {
            let begun = Instant::now();
            match self.first_contact(visit, here, last, &mut not_up_at, deadline).await? {
                Ok(Found { contact, version, asked }) => {
                    let late = not_up_at.map_or(Duration::ZERO, |at| asked.duration_since(at));
                    *last = LastSeen::Version(version.clone());
                    let server = Server::meet(contact, &version, known).await?;
                    *last = LastSeen::LoggingIn(version);
                    let session = server.log_in(visit.user, visit.credentials).await?;
                    return Ok(Reached { session, late });
                }
                Err(error @ NoServer::NotSsh { .. }) => return Err(NotReached::NoServer(error)),
                Err(closed) => {
                    *last = LastSeen::Closed(closed.to_string());
                    // The port may have opened while it was asked.
                    not_up_at = Some(begun);
                    // sleep: nothing tells when a port of the DUT opens
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Waits until a server tells its version, asking anew for as long as the DUT does not answer at all.
    async fn first_contact(
        &self,
        visit: Visit<'_>,
        here: SocketAddrV4,
        last: &mut LastSeen,
        not_up_at: &mut Option<Instant>,
        deadline: Deadline,
    ) -> Result<Result<Found, NoServer>, NotReached> {
        loop {
            let asked = Instant::now();
            let mut contact = match Contact::open(here).await {
                Ok(contact) => contact,
                Err(error) => return Ok(Err(error)),
            };
            let mut looks = 0;
            while looks < UNANSWERED_LOOKS {
                match deadline.within(LOOK_EVERY).bound(contact.version()).await {
                    Ok(version) => return Ok(version.map(|version| Found { contact, version, asked })),
                    Err(_) => match self.power.contact(visit.port, Deadline::after(ANSWER_WITHIN)).await {
                        Ok(TcpContact::Unanswered) => {
                            *last = LastSeen::NoAnswer;
                            looks += 1;
                        }
                        Ok(TcpContact::Taken) => *last = LastSeen::Silent(contact.said()),
                        // It has just ended, which the connection tells next.
                        Ok(TcpContact::None) => {}
                        Err(error) => return Err(self.silent_player(error.into(), visit).await),
                    },
                }
            }
            *not_up_at = Some(asked);
        }
    }

    /// Why the player did not answer: an event tells how it died, if it has.
    async fn silent_player(&self, error: DeviceError, visit: Visit<'_>) -> NotReached {
        match error {
            DeviceError::Power(PowerError::Machine(MachineError::Monitor(MonitorError::Closed {
                ..
            }))) => {
                let Interruption { reason, lab } = silenced(&self.events, visit.heed_from).await;
                NotReached::Interrupted { reason, lab, last: LastSeen::Nothing }
            }
            other => NotReached::Device(Box::new(other)),
        }
    }
}

/// Waits for what ends every connection to the DUT: a reset, a halt, no power, or a lab that failed. Returns which,
/// and whose fault that is.
pub async fn cut_off(events: &EventLog, since: usize) -> (String, Fault) {
    let ends = |kind: &EventKind| {
        matches!(kind, EventKind::Reset { .. } | EventKind::Halt { .. } | EventKind::PowerOff)
            || kind.lab_fault().is_some()
    };
    // Whoever waits has a deadline of their own; this one only has to be later.
    let far = Duration::from_secs(24 * 3600);
    loop {
        if let Ok(event) = events.wait_for(since, Deadline::after(far), ends).await {
            return match event.kind.lab_fault() {
                Some(fault) => (format!("the lab failed ({fault})"), Fault::Lab),
                None => (format!("event `{}`", event.kind.name()), Fault::Dut),
            };
        }
    }
}
