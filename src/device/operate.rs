//! The power of the DUT by one word, as suites, clients and people say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, DeviceError};
use crate::deadline::Deadline;

/// What can be done to the power of a DUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerVerb {
    /// Gives mains.
    On,
    /// Takes mains away.
    Off,
    /// Takes mains away, waits until the board has forgotten, and gives them back.
    Cycle,
    /// Presses the power button for a moment.
    Press,
    /// Holds the power button until the system is forced off.
    Hold,
    /// Pulls the reset line.
    Reset,
}

impl Device {
    /// Does it. Cancelled, it leaves the device as the call that it stands for does.
    pub async fn operate(&mut self, verb: PowerVerb, deadline: Deadline) -> Result<(), DeviceError> {
        match verb {
            PowerVerb::On => self.power_on(deadline).await,
            PowerVerb::Off => self.power_off().await,
            PowerVerb::Cycle => self.power_cycle(deadline).await,
            PowerVerb::Press => self.press_button(deadline).await,
            PowerVerb::Hold => self.hold_button().await,
            PowerVerb::Reset => self.reset(deadline).await,
        }
    }
}
