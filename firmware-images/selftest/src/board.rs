//! The board this guest woke up on, and what it found there.

use crate::acpi::Acpi;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::image::{self, Image};
use crate::net::Network;
use crate::reason::Reason;

/// All that a command may use.
pub struct Board {
    pub firmware: Firmware,
    pub acpi: Option<Acpi>,
    pub clock: Clock,
    pub disk: Result<Disk, Reason>,
    /// What the medium said of itself at boot, read once.
    pub image: Result<Image, Reason>,
    /// Taken from the firmware by the first command that needs it.
    pub network: Option<Network>,
}

impl Board {
    /// Looks around. What is missing is told by the banner and by the commands that need it.
    pub fn find(firmware: Firmware) -> Board {
        let acpi = Acpi::find(&firmware);
        let clock = Clock::begin(acpi.as_ref());
        let mut disk = firmware.open_disk(acpi.as_ref());
        let image = match &mut disk {
            Ok(disk) => image::read(disk),
            Err(_) => Err(Reason::from("no disk")),
        };
        Board { firmware, acpi, clock, disk, image, network: None }
    }

    /// The disk, or why there is none.
    pub fn disk(&mut self) -> Result<&mut Disk, Reason> {
        self.disk.as_mut().map_err(|reason| reason.clone())
    }

    /// The network, taken over from the firmware if this is the first use, and the clock that it
    /// goes by.
    pub fn network(&mut self) -> Result<(&mut Network, &Clock), Reason> {
        let network = match self.network.take() {
            Some(network) => network,
            None => Network::take_over(&self.firmware, self.acpi.as_ref(), &self.clock)?,
        };
        Ok((self.network.insert(network), &self.clock))
    }

    /// Whether the power button was pressed since the last question.
    pub fn power_button_pressed(&mut self) -> bool {
        self.acpi.as_ref().is_some_and(Acpi::power_button_pressed)
    }

    /// Takes the power away.
    pub fn power_off(&self) -> ! {
        self.firmware.power_off(self.acpi.as_ref())
    }
}
