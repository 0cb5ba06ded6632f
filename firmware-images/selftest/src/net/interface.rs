//! A network interface of either kind, as smoltcp wants to see it.

use super::e1000::E1000;
use super::virtio::VirtioNetwork;
use crate::pci::{Function, Pci};
use crate::reason::Reason;
use crate::virtio::{self, DeviceType};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// The longest frame without its checksum: header and 1500 bytes.
pub const FRAME_BYTES: usize = 1514;

/// The interfaces we have drivers for.
pub enum NetworkInterface {
    Virtio(Box<VirtioNetwork>),
    E1000(E1000),
}

impl NetworkInterface {
    /// Whether there is a driver for this device.
    pub fn knows(function: &Function) -> bool {
        virtio::device_type(function) == Some(DeviceType::Network) || E1000::knows(function)
    }

    /// Takes the device and starts it.
    pub fn open(pci: &mut Pci, function: &Function) -> Result<NetworkInterface, Reason> {
        if E1000::knows(function) {
            E1000::open(pci, function).map(NetworkInterface::E1000)
        } else {
            let device = VirtioNetwork::open(virtio::open(pci, function)?)?;
            Ok(NetworkInterface::Virtio(Box::new(device)))
        }
    }

    /// The name of the driver.
    pub fn driver(&self) -> &'static str {
        match self {
            NetworkInterface::Virtio(_) => "virtio-net",
            NetworkInterface::E1000(device) => device.name(),
        }
    }

    /// The interface's own address.
    pub fn mac(&self) -> [u8; 6] {
        match self {
            NetworkInterface::Virtio(device) => device.mac(),
            NetworkInterface::E1000(device) => device.mac(),
        }
    }

    fn receive_frame(&mut self) -> Option<Vec<u8>> {
        match self {
            NetworkInterface::Virtio(device) => device.receive(),
            NetworkInterface::E1000(device) => device.receive(),
        }
    }

    /// A frame that cannot be sent is lost, as on any wire.
    fn send_frame(&mut self, frame: &[u8]) {
        match self {
            NetworkInterface::Virtio(device) => device.send(frame),
            NetworkInterface::E1000(device) => device.send(frame),
        }
    }
}

/// A frame that came in.
pub struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, see: F) -> R {
        see(&self.0)
    }
}

/// The right to send one frame.
pub struct Sending<'a>(&'a mut NetworkInterface);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send_frame(&frame);
        result
    }
}

impl Device for NetworkInterface {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.receive_frame()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        capabilities
    }
}
