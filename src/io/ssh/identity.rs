//! Who we are towards an SSH server: a key of the user's, one made for a run, an agent, a password.
//!
//! A key that was made lies in a file of its caller's, who removes it with the folder around it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// A private key in a file.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its file, as `ssh -i` takes it.
    pub file: PathBuf,
    pub(super) key: Arc<PrivateKey>,
}

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file.
    #[error("cannot read SSH key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has a passphrase.
    #[error("SSH key {path} has a passphrase")]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// It is no private key.
    #[error("{path} holds no private key for SSH")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: russh::keys::Error,
    },
    /// No key could be made.
    #[error("cannot make an SSH key")]
    Make(#[source] russh::keys::ssh_key::Error),
    /// A key that was made could not be written down.
    #[error("cannot write SSH key {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// The key in a file: OpenSSH's own format, or PEM.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let path = path.to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        match russh::keys::decode_secret_key(&text, None) {
            Ok(key) if key.is_encrypted() => Err(IdentityError::Encrypted { path }),
            Ok(key) => Ok(Self { file: path, key: Arc::new(key) }),
            Err(russh::keys::Error::KeyIsEncrypted) => Err(IdentityError::Encrypted { path }),
            Err(source) => Err(IdentityError::NoKey { path, source }),
        }
    }

    /// A new Ed25519 key in a new file that nobody else may read.
    pub fn make(path: &Path) -> Result<Self, IdentityError> {
        let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(IdentityError::Make)?;
        key.set_comment("standin");
        let text = key.to_openssh(LineEnding::LF).map_err(IdentityError::Make)?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|source| IdentityError::Write { path: path.to_owned(), source })?;
        Ok(Self { file: path.to_owned(), key: Arc::new(key) })
    }

    /// The line that lets it in, as in `authorized_keys`.
    pub fn public_line(&self) -> String {
        self.key.public_key().to_openssh().expect("a public key can be written as text")
    }
}

/// Everything by which we may come in.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// A key, tried first.
    pub identity: Option<Identity>,
    /// The socket of an agent, whose keys are tried next.
    pub agent: Option<PathBuf>,
    /// A password, tried last.
    pub password: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_made_key_is_read_again_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::make(&dir.path().join("key")).unwrap();
        let mode = made.file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Identity::load(&made.file).unwrap();
        assert_eq!(read.public_line(), made.public_line());
        assert!(made.public_line().starts_with("ssh-ed25519 AAAA"), "{}", made.public_line());
    }

    #[test]
    fn what_is_no_key_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "nothing").unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{} holds no private key for SSH", path.display()));
    }
}
