//! Media under a person's hands: a stick or card that comes and goes, also while the DUT runs where its socket
//! allows that.
//!
//! Suites and flash procedures call it on [`Device`]; where each medium is, `storage` keeps. Nothing to clean up.

use super::power::PowerState;
use super::storage::Position;
use super::{Device, DeviceError, NotFitted};
use crate::board::{Attachment, Medium, word};
use crate::deadline::Deadline;
use crate::event::EventKind;

/// A medium cannot be moved. Always the user's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// There is no such medium.
    #[error("{board} has no medium `{name}`; it has {media}")]
    NoSuchMedium {
        /// The board's slug.
        board: String,
        /// What was asked for.
        name: String,
        /// What there is.
        media: String,
    },
    /// It is built in.
    #[error("medium `{medium}` of {board} is built in, so nobody can take it out or put it in")]
    BuiltIn {
        /// The board's slug.
        board: String,
        /// The medium's name in the board file.
        medium: String,
    },
    /// Nobody said which one.
    #[error("{board} has several media that can be moved, {media}, and none was named")]
    WhichOne {
        /// The board's slug.
        board: String,
        /// Their names.
        media: String,
    },
    /// Its socket wants the power off, or QEMU's model of it does.
    #[error("medium `{medium}` of {board} hangs on `{attachment}`, which takes no medium while the DUT runs")]
    NotWhileRunning {
        /// The board's slug.
        board: String,
        /// The medium's name in the board file.
        medium: String,
        /// What it hangs on.
        attachment: String,
    },
}

impl Device {
    /// Puts a removable medium in; `None` is the board's only one. In already is in.
    ///
    /// A DUT that runs sees it at once, on sockets that allow that. Cancelled then, it leaves the medium as it was.
    pub async fn insert_medium(&mut self, name: Option<&str>, deadline: Deadline) -> Result<(), DeviceError> {
        let medium = self.movable(name)?;
        if self.storage.position(&medium) == Some(Position::Dut) {
            return Ok(());
        }
        if self.runs_with(&medium)? {
            let disk = self.storage.to_plug(&medium)?;
            self.power.insert_stick(&medium, &disk, deadline).await?;
        }
        self.storage.place(&medium, Position::Dut);
        self.events.record(EventKind::MediumInserted { medium });
        Ok(())
    }

    /// Takes a removable medium out; `None` is the board's only one. Out already is out.
    ///
    /// A DUT that runs loses it at once, on sockets that allow that.
    pub async fn remove_medium(&mut self, name: Option<&str>, deadline: Deadline) -> Result<(), DeviceError> {
        let medium = self.movable(name)?;
        if self.storage.position(&medium) == Some(Position::Out) {
            return Ok(());
        }
        if self.runs_with(&medium)? {
            // QEMU tells when it is out, and that is recorded then.
            self.power.pull_stick(&medium, deadline).await?;
            self.storage.place(&medium, Position::Out);
        } else {
            self.take(&medium, Position::Out);
        }
        Ok(())
    }

    /// Takes the power away, and a medium to the host if it can be moved; one that cannot is written where it is.
    pub async fn medium_to_host(&mut self, medium: &str) -> Result<(), DeviceError> {
        self.power_off().await?;
        if self.board.medium(medium).is_some_and(|medium| medium.removable) {
            self.take(medium, Position::Host);
        }
        Ok(())
    }

    /// Brings a medium that is at the host back to the DUT, whose power is off.
    pub fn medium_to_dut(&mut self, medium: &str) {
        if self.storage.position(medium) == Some(Position::Host) {
            self.storage.place(medium, Position::Dut);
            self.events.record(EventKind::MediumInserted { medium: medium.to_owned() });
        }
    }

    /// From wherever it is to a place outside of the DUT.
    fn take(&mut self, medium: &str, to: Position) {
        let from = self.storage.position(medium);
        self.storage.place(medium, to);
        if from == Some(Position::Dut) {
            self.events.record(EventKind::MediumRemoved { medium: medium.to_owned() });
        }
    }

    /// Whether a system is there that would see the medium come and go; an error if it must not. One that has
    /// halted sees nothing any more, and gets its media anew when it starts.
    fn runs_with(&self, medium: &str) -> Result<bool, MoveError> {
        if self.power_state() != PowerState::Running {
            return Ok(false);
        }
        let attachment = self.board.qemu.attach[medium];
        if attachment == Attachment::UsbStorage {
            return Ok(true);
        }
        Err(MoveError::NotWhileRunning {
            board: self.board.slug.clone(),
            medium: medium.to_owned(),
            attachment: word(&attachment),
        })
    }

    /// The name of a medium that can be moved.
    fn movable(&self, name: Option<&str>) -> Result<String, DeviceError> {
        let board = self.board.slug.clone();
        let names = |media: &mut dyn Iterator<Item = &Medium>| {
            media.map(|medium| format!("`{}`", medium.name)).collect::<Vec<_>>().join(" and ")
        };
        if let Some(name) = name {
            return match self.board.medium(name) {
                Some(medium) if medium.removable => Ok(name.to_owned()),
                Some(_) => Err(MoveError::BuiltIn { board, medium: name.to_owned() }.into()),
                None => {
                    let media = names(&mut self.board.media.iter());
                    Err(MoveError::NoSuchMedium { board, name: name.to_owned(), media }.into())
                }
            };
        }
        let movable: Vec<_> = self.board.media.iter().filter(|medium| medium.removable).collect();
        match movable.as_slice() {
            [] => Err(NotFitted { part: "medium that can be moved", board }.into()),
            [one] => Ok(one.name.clone()),
            several => {
                let media = names(&mut several.iter().copied());
                Err(MoveError::WhichOne { board, media }.into())
            }
        }
    }
}
