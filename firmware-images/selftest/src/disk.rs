//! The disk we were booted from, as a run of blocks.
//!
//! Under a BIOS, and without firmware, the guest drives a virtio disk or a card itself; under UEFI the firmware's own driver does
//! the work, so every bus that the firmware can boot from is one that we can read and write.

use crate::heap::Pages;
use crate::pci::Pci;
use crate::reason::Reason;
#[cfg(target_arch = "aarch64")]
use crate::sd_host::{self, SdHost};
use crate::uefi::FirmwareDisk;
use crate::virtio::{self, DeviceType, Hal};
use alloc::boxed::Box;
use alloc::format;
use core::fmt;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::DeviceFunction;

/// The kinds of medium that a board boots from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Virtio,
    Usb,
    Sata,
    Ide,
    Nvme,
    Scsi,
    Sd,
    Emmc,
    /// The firmware describes it in a way we do not know.
    Unknown,
}

impl fmt::Display for Medium {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Medium::Virtio => "virtio",
            Medium::Usb => "usb",
            Medium::Sata => "sata",
            Medium::Ide => "ide",
            Medium::Nvme => "nvme",
            Medium::Scsi => "scsi",
            Medium::Sd => "sd",
            Medium::Emmc => "emmc",
            Medium::Unknown => "unknown",
        })
    }
}

/// The largest transfer. A medium is much faster at few large ones than at many small ones.
pub const TRANSFER_BYTES: usize = 1 << 20;

/// A whole disk.
pub struct Disk {
    pub medium: Medium,
    pub block_count: u64,
    pub block_bytes: usize,
    /// Where it is on PCI, if we drive it ourselves.
    pub place: Option<DeviceFunction>,
    driver: Driver,
    /// What is read and written goes through here, as firmware wants its buffers aligned.
    buffer: Pages,
}

enum Driver {
    #[cfg(target_arch = "aarch64")]
    Card(SdHost),
    Virtio(Box<VirtIOBlk<Hal, PciTransport>>),
    Firmware(FirmwareDisk),
}

impl Disk {
    /// The first virtio disk that `fits` has nothing against, and that is not at `taken`. The guest drives it
    /// itself.
    pub fn find_virtio(
        mut pci: Pci,
        taken: Option<DeviceFunction>,
        fits: impl Fn(&mut Disk) -> Result<(), Reason>,
    ) -> Result<Disk, Reason> {
        let mut refusal = Reason::from("no virtio disk");
        for device in pci.functions() {
            let is_disk = virtio::device_type(&device) == Some(DeviceType::Block);
            if !is_disk || Some(device.place) == taken {
                continue;
            }
            let opened = virtio::open(&mut pci, &device)
                .and_then(|transport| Disk::over_virtio(transport, device.place));
            match opened.and_then(|mut disk| fits(&mut disk).map(|()| disk)) {
                Ok(disk) => return Ok(disk),
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    fn over_virtio(transport: PciTransport, place: DeviceFunction) -> Result<Disk, Reason> {
        let driver = VirtIOBlk::<Hal, _>::new(transport)
            .map_err(|error| Reason::from(format!("virtio disk: {error}")))?;
        Ok(Disk {
            medium: Medium::Virtio,
            block_count: driver.capacity(),
            block_bytes: SECTOR_SIZE,
            place: Some(place),
            driver: Driver::Virtio(Box::new(driver)),
            buffer: Pages::with_bytes(TRANSFER_BYTES),
        })
    }

    /// The card in a Raspberry Pi.
    #[cfg(target_arch = "aarch64")]
    pub fn on_card(driver: SdHost) -> Disk {
        Disk {
            medium: Medium::Sd,
            block_count: driver.block_count,
            block_bytes: sd_host::BLOCK_BYTES,
            place: None,
            driver: Driver::Card(driver),
            buffer: Pages::with_bytes(TRANSFER_BYTES),
        }
    }

    /// A disk that the firmware drives.
    pub fn over_firmware(driver: FirmwareDisk, medium: Medium) -> Disk {
        Disk {
            medium,
            block_count: driver.block_count(),
            block_bytes: driver.block_bytes(),
            place: None,
            driver: Driver::Firmware(driver),
            buffer: Pages::with_bytes(TRANSFER_BYTES),
        }
    }

    /// Whether it is that disk of the firmware's.
    pub fn is_over(&self, other: &FirmwareDisk) -> bool {
        matches!(&self.driver, Driver::Firmware(driver) if driver == other)
    }

    /// The size of the whole disk.
    pub fn bytes(&self) -> u64 {
        self.block_count * self.block_bytes as u64
    }

    /// Reads `count` blocks and shows them to `see` in order: the first block's number, and as
    /// many blocks as one transfer brought.
    pub fn read(
        &mut self,
        first: u64,
        count: u64,
        mut see: impl FnMut(u64, &[u8]) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        self.check_range(first, count)?;
        let mut next = first;
        while next < first + count {
            let (block, bytes) = self.transfer(next, first + count);
            let buffer = &mut self.buffer[..bytes];
            let done = match &mut self.driver {
                Driver::Virtio(driver) => driver
                    .read_blocks(block as usize, buffer)
                    .map_err(|error| Reason::from(format!("cannot read block {block}: {error}"))),
                #[cfg(target_arch = "aarch64")]
                Driver::Card(driver) => driver.read(block, buffer),
                Driver::Firmware(driver) => driver.read(block, buffer),
            };
            done?;
            see(block, buffer)?;
            next += (bytes / self.block_bytes) as u64;
        }
        Ok(())
    }

    /// Writes `count` blocks that `fill` makes, in the way of [`Disk::read`].
    pub fn write(
        &mut self,
        first: u64,
        count: u64,
        mut fill: impl FnMut(u64, &mut [u8]),
    ) -> Result<(), Reason> {
        self.check_range(first, count)?;
        let mut next = first;
        while next < first + count {
            let (block, bytes) = self.transfer(next, first + count);
            let buffer = &mut self.buffer[..bytes];
            fill(block, buffer);
            let done = match &mut self.driver {
                Driver::Virtio(driver) => driver
                    .write_blocks(block as usize, buffer)
                    .map_err(|error| Reason::from(format!("cannot write block {block}: {error}"))),
                #[cfg(target_arch = "aarch64")]
                Driver::Card(driver) => driver.write(block, buffer),
                Driver::Firmware(driver) => driver.write(block, buffer),
            };
            done?;
            next += (bytes / self.block_bytes) as u64;
        }
        Ok(())
    }

    /// Returns when all that was written would survive a power cut.
    pub fn flush(&mut self) -> Result<(), Reason> {
        match &mut self.driver {
            #[cfg(target_arch = "aarch64")]
            Driver::Card(_) => Ok(()), // each write is on the card when it returns
            Driver::Virtio(driver) => {
                driver.flush().map_err(|error| Reason::from(format!("cannot flush: {error}")))
            }
            Driver::Firmware(driver) => driver.flush(),
        }
    }

    fn transfer(&self, next: u64, end: u64) -> (u64, usize) {
        let blocks = (end - next).min((TRANSFER_BYTES / self.block_bytes) as u64);
        (next, blocks as usize * self.block_bytes)
    }

    fn check_range(&self, first: u64, count: u64) -> Result<(), Reason> {
        match first.checked_add(count) {
            Some(end) if end <= self.block_count => Ok(()),
            _ => Err(Reason::from(format!(
                "beyond the end of the disk, which has {} blocks",
                self.block_count
            ))),
        }
    }
}
