//! What a lab does with a medium between two power-ons: it takes the card out, changes or reads files, and puts it
//! back.
//!
//! Suites and flash procedures are the callers. A medium is at the host only while the power is off; whoever asks
//! at other times is refused.

use super::storage::{Content, StorageError};
use super::{Device, DeviceError, Fault, NotFitted, PowerState};
use crate::event::EventKind;
use crate::io::prepare::{Change, Edit, EditError, Place, PrepareError, files, stage};
use crate::io::staged::Staged;
use crate::sys::blocking::blocking;

/// A medium cannot be changed or read; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// The DUT has it.
    #[error("medium `{medium}` is in the board, whose power is on; it must be off")]
    PowerIsOn {
        /// The medium's name in the board file.
        medium: String,
    },
    /// What stands on it does not admit a change.
    #[error("cannot prepare medium `{medium}`")]
    Edit {
        /// The medium's name in the board file.
        medium: String,
        /// Which change, and why.
        #[source]
        source: Box<EditError>,
    },
    /// A file cannot be read.
    #[error("cannot read `{place}` on medium `{medium}`")]
    Read {
        /// The file.
        place: String,
        /// The medium's name in the board file.
        medium: String,
        /// Why not.
        #[source]
        source: Box<PrepareError>,
    },
}

impl MediumError {
    /// Whose fault it is. What stands on a medium was written by the DUT, or is the image that is tested.
    pub fn fault(&self) -> Fault {
        let source = match self {
            Self::PowerIsOn { .. } => return Fault::User,
            Self::Edit { source, .. } => &source.source,
            Self::Read { source, .. } => source,
        };
        match source {
            PrepareError::Ambiguous { .. } => Fault::User,
            error if error.is_hosts() => Fault::Lab,
            _ => Fault::Dut,
        }
    }
}

/// How far a list of edits came.
enum Undone {
    /// Nothing was written.
    Refused(EditError),
    /// Some of it may have been written.
    CutShort(std::io::Error),
}

impl Device {
    /// Makes all these changes of a medium, or none of them; `None` is the medium that is flashed. Each is recorded
    /// as an event.
    ///
    /// Cancelled, or failed while it writes, it leaves the medium unknown; it must be flashed again then.
    pub async fn prepare(
        &mut self,
        medium: Option<&str>,
        edits: &[Edit],
    ) -> Result<Vec<Change>, DeviceError> {
        if edits.is_empty() {
            return Ok(Vec::new());
        }
        let medium = self.medium_at_host(medium)?;
        let disk = self.storage.open_for_writing(&medium)?;
        let before = self.storage.set_content(&medium, Content::Unknown);
        let edits = edits.to_vec();
        let done = blocking(move || {
            let mut staged = Staged::new(disk).map_err(Undone::CutShort)?;
            let changes = stage(&mut staged, &edits).map_err(Undone::Refused)?;
            staged.commit().map_err(Undone::CutShort)?;
            Ok(changes)
        });
        let changes = match done.await {
            Ok(changes) => changes,
            Err(Undone::CutShort(source)) => return Err(StorageError::Write { medium, source }.into()),
            Err(Undone::Refused(error)) => {
                self.storage.set_content(&medium, before);
                return Err(MediumError::Edit { medium, source: Box::new(error) }.into());
            }
        };
        self.storage.set_content(&medium, before);
        for Change { change, place, bytes, sha256 } in changes.iter().cloned() {
            let (medium, change) = (medium.clone(), change.to_owned());
            self.events.record(EventKind::Prepared { medium, change, place, bytes, sha256 });
        }
        Ok(changes)
    }

    /// The content of a file on a medium; `None` is the medium that is flashed.
    pub async fn read_file(&mut self, medium: Option<&str>, place: &Place) -> Result<Vec<u8>, DeviceError> {
        let medium = self.medium_at_host(medium)?;
        let disk = self.storage.open(&medium)?;
        let wanted = place.clone();
        let read = blocking(move || files::read(&mut Staged::new(disk)?, &wanted)).await;
        let place = || place.to_string();
        Ok(read.map_err(|source| MediumError::Read { place: place(), medium, source: Box::new(source) })?)
    }

    fn medium_at_host(&self, medium: Option<&str>) -> Result<String, DeviceError> {
        let medium = medium.unwrap_or(&self.board.flash.medium).to_owned();
        match self.storage.content(&medium) {
            None => Err(NotFitted { part: "such medium", board: self.board.slug.clone() }.into()),
            Some(Content::Unknown) => Err(StorageError::Unknown { medium }.into()),
            Some(_) if self.power_state() != PowerState::Off => Err(MediumError::PowerIsOn { medium }.into()),
            Some(_) => Ok(medium),
        }
    }
}
