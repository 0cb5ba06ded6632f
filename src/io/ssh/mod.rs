//! An SSH client for throw-away devices: each step of a login is a call of its own, so that whoever calls knows
//! how far it came, and why no further.
//!
//! [`Contact`] finds the server, [`Server::meet`] agrees keys with it, [`Server::log_in`] comes in, and
//! [`Session::start`] runs a command. `device` calls it for a DUT in hand, `cli` for one that another process
//! holds. A session's connection closes with it, and commands that it started get their hang-up.

mod contact;
mod identity;
mod process;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{self, AuthResult, DisconnectReason, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Preferred, kex};

pub use self::contact::{Contact, NoServer};
pub use self::identity::{Credentials, Identity, IdentityError};
pub use self::process::{News, Process, Status, Window};

/// The key of a host, as its SHA-256 fingerprint: `SHA256:...`, the way `ssh-keygen -l` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey(pub String);

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An SSH server is there, and did not do what was wanted of it.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// No common keys.
    #[error("`{version}` answered, and the key exchange with it failed")]
    KeyExchange {
        /// What the server calls itself.
        version: String,
        /// Why.
        #[source]
        source: russh::Error,
    },
    /// It is another host than before.
    #[error("the host key has changed without a flash: it was {known}, now it is {found}")]
    HostKeyChanged {
        /// The key of before.
        known: HostKey,
        /// The key of now.
        found: HostKey,
    },
    /// Nothing that we have lets us in.
    #[error("`{user}` was refused: tried {}, the server takes {methods}", list_of(.tried))]
    Refused {
        /// Who wanted to come in.
        user: String,
        /// What was tried, in this order.
        tried: Vec<String>,
        /// What the server says it takes.
        methods: String,
    },
    /// The connection ended in the middle.
    #[error("the connection ended during {during}{}", .reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Lost {
        /// What was going on.
        during: &'static str,
        /// Why, if the server or the line said so.
        reason: Option<String>,
    },
    /// A server that lets us in, and nothing more.
    #[error("the server does not {what}")]
    Denied {
        /// What it does not do.
        what: &'static str,
    },
    /// A file on this host failed in the middle.
    #[error("cannot copy on this host")]
    Host(#[source] std::io::Error),
}

fn list_of(tried: &[String]) -> String {
    if tried.is_empty() { "nothing, as there is no key".to_owned() } else { tried.join(", ") }
}

/// A server with which keys are agreed.
pub struct Server {
    handle: Handle<Watch>,
    host_key: HostKey,
    ended: Ended,
}

/// A session that is logged in.
pub struct Session {
    handle: Handle<Watch>,
    ended: Ended,
    /// The key of the host.
    pub host_key: HostKey,
}

/// Why the connection ended, once it has.
type Ended = Arc<Mutex<Option<String>>>;

impl Server {
    /// Agrees keys with the server that a contact has found, and makes sure that it is the `known` one. `version`
    /// is what the contact told.
    pub async fn meet(contact: Contact, version: &str, known: Option<&HostKey>) -> Result<Self, SshError> {
        let mut config = client::Config::default();
        // The key exchange that costs a DUT least under emulation comes first; there is nothing to protect.
        let mut order = vec![kex::CURVE25519];
        order.extend(Preferred::DEFAULT.kex.iter().filter(|name| **name != kex::CURVE25519));
        config.preferred = Preferred { kex: order.into(), ..Preferred::DEFAULT };
        let (seen, ended) = (Arc::new(Mutex::new(None)), Ended::default());
        let watch = Watch { known: known.cloned(), seen: seen.clone(), ended: ended.clone() };
        let met = client::connect_stream(Arc::new(config), contact.into_stream(), watch).await;
        let host_key = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (met, known, host_key) {
            (Ok(handle), _, Some(host_key)) => Ok(Self { handle, host_key, ended }),
            (Err(russh::Error::UnknownKey), Some(known), Some(found)) => {
                Err(SshError::HostKeyChanged { known: known.clone(), found })
            }
            (Err(source), ..) => Err(SshError::KeyExchange { version: version.to_owned(), source }),
            (Ok(_), _, None) => {
                let source = russh::Error::Kex;
                Err(SshError::KeyExchange { version: version.to_owned(), source })
            }
        }
    }

    /// Logs in by the first of the credentials that is taken.
    pub async fn log_in(mut self, user: &str, credentials: &Credentials) -> Result<Session, SshError> {
        let mut attempt = Attempt { user, tried: Vec::new(), methods: String::new() };
        // It tells what the server takes, and is enough for a system that asks for nothing.
        let open = self.handle.authenticate_none(user).await;
        let mut inside = attempt.note(&self, open, None)?;
        if let (false, Some(identity)) = (inside, &credentials.identity) {
            let hash = self.rsa_hash(identity.key.algorithm().is_rsa()).await;
            let key = PrivateKeyWithHashAlg::new(identity.key.clone(), hash);
            let answer = self.handle.authenticate_publickey(user, key).await;
            inside = attempt.note(&self, answer, Some(format!("key {}", identity.file.display())))?;
        }
        if let (false, Some(agent)) = (inside, &credentials.agent) {
            inside = self.log_in_by_agent(agent, &mut attempt).await?;
        }
        if let (false, Some(password)) = (inside, &credentials.password)
            && attempt.methods.contains("password")
        {
            let answer = self.handle.authenticate_password(user, password).await;
            inside = attempt.note(&self, answer, Some("the password".to_owned()))?;
        }
        if inside {
            return Ok(Session { handle: self.handle, ended: self.ended, host_key: self.host_key });
        }
        let Attempt { tried, methods, .. } = attempt;
        Err(SshError::Refused { user: user.to_owned(), tried, methods })
    }

    /// An agent that does not answer has no keys for us: it is the user's, and not what is asked about.
    async fn log_in_by_agent(&mut self, socket: &Path, attempt: &mut Attempt<'_>) -> Result<bool, SshError> {
        let Ok(mut agent) = AgentClient::connect_uds(socket).await else { return Ok(false) };
        for identity in agent.request_identities().await.unwrap_or_default() {
            let AgentIdentity::PublicKey { key, comment } = identity else { continue };
            let hash = self.rsa_hash(key.algorithm().is_rsa()).await;
            let signed = self.handle.authenticate_publickey_with(attempt.user, key, hash, &mut agent).await;
            let answer = signed.map_err(|_| russh::Error::SendError);
            if attempt.note(self, answer, Some(format!("the agent's key {comment}")))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn rsa_hash(&self, is_rsa: bool) -> Option<HashAlg> {
        if !is_rsa {
            return None;
        }
        // A server that does not say so takes SHA-256 (RFC 8332) all the same.
        self.handle.best_supported_rsa_hash().await.ok().flatten().unwrap_or(Some(HashAlg::Sha256))
    }
}

struct Attempt<'a> {
    user: &'a str,
    tried: Vec<String>,
    methods: String,
}

impl Attempt<'_> {
    /// Takes note of an answer; true if it lets us in.
    fn note(
        &mut self,
        server: &Server,
        answer: Result<AuthResult, russh::Error>,
        what: Option<String>,
    ) -> Result<bool, SshError> {
        self.tried.extend(what);
        match answer {
            Ok(AuthResult::Success) => Ok(true),
            Ok(AuthResult::Failure { remaining_methods, .. }) if !remaining_methods.is_empty() => {
                let names: Vec<&str> = remaining_methods.iter().map(Into::into).collect();
                self.methods = names.join(" or ");
                Ok(false)
            }
            // A connection that ends looks like a refusal that names no methods; OpenSSH ends it after the last try.
            _ if !self.methods.is_empty() && self.tried.len() > 1 => Ok(false),
            _ => Err(lost(&server.ended, "the login")),
        }
    }
}

fn lost(ended: &Ended, during: &'static str) -> SshError {
    let reason = ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
    SshError::Lost { during, reason }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("host_key", &self.host_key).finish_non_exhaustive()
    }
}

/// What the connection's own task tells us.
struct Watch {
    known: Option<HostKey>,
    seen: Arc<Mutex<Option<HostKey>>>,
    ended: Ended,
}

impl client::Handler for Watch {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let fingerprint = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(HashAlg::Sha256),
            PublicKeyOrCertificate::Certificate(certificate) => {
                certificate.public_key().fingerprint(HashAlg::Sha256)
            }
        };
        let found = HostKey(fingerprint.to_string());
        let is_the_same = self.known.as_ref().is_none_or(|known| *known == found);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(is_the_same)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let (why, ended) = match reason {
            DisconnectReason::ReceivedDisconnect(told) => {
                (format!("the server said `{}`", told.message.escape_debug()), Ok(()))
            }
            DisconnectReason::Error(error) => (error.to_string(), Err(error)),
        };
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        ended
    }
}
