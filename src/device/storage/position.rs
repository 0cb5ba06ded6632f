//! Where each medium is: at the host, at the DUT, or in nobody's slot. Called by [`super::Storage`]'s device.
//!
//! A card in an SD mux and a stick in a hand have one place at a time; what is built in never moves. Plain state:
//! who plugs it into a running machine is `device::media`. Nothing to clean up.

use super::{Content, Storage, StorageError};
use crate::qemu::arguments::Disk;

/// Where a medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The host has it, to write an image to it.
    Host,
    /// In the DUT.
    Dut,
    /// In nobody's slot.
    Out,
}

impl Storage {
    /// Where a medium of the board is.
    pub fn position(&self, medium: &str) -> Option<Position> {
        self.media.get(medium).map(|played| played.position)
    }

    /// Moves a medium; whoever calls this has taken it out of a machine that runs, or plugs it in.
    pub(in crate::device) fn place(&mut self, medium: &str, position: Position) {
        self.played(medium).position = position;
    }

    /// The files of the media that are in the DUT, whatever they hold; a machine of an installer gets these, as
    /// its medium may hold half of what an earlier one left.
    pub fn in_dut(&self) -> Vec<(String, Disk)> {
        let there = self.media.iter().filter(|(_, played)| played.position == Position::Dut);
        there.map(|(name, played)| (name.clone(), played.disk())).collect()
    }

    /// The file of one medium, for a machine that runs; an error if it must not be used.
    pub(in crate::device) fn to_plug(&self, medium: &str) -> Result<Disk, StorageError> {
        let played = &self.media[medium];
        match played.content {
            Content::Unknown => Err(StorageError::Unknown { medium: medium.to_owned() }),
            _ => Ok(played.disk()),
        }
    }

    /// The installer on `carrier` begins to write `medium`: from now on nobody knows what they hold.
    pub fn begin_installation(&mut self, carrier: &str, medium: &str) {
        for name in [carrier, medium] {
            self.played(name).content = Content::Unknown;
        }
    }

    /// The installer `digest` on `carrier` has written `medium`.
    pub fn end_installation(&mut self, carrier: &str, medium: &str, digest: &str) {
        self.played(carrier).content = Content::Flashed(digest.to_owned());
        self.played(medium).content = Content::Installed(digest.to_owned());
    }
}
