//! A virtio network interface, by `virtio-drivers`.

use crate::reason::Reason;
use crate::virtio::Hal;
use alloc::format;
use alloc::vec::Vec;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::pci::PciTransport;

const QUEUE_ENTRIES: usize = 32;
/// A frame and virtio's own header.
const BUFFER_BYTES: usize = 2048;

/// The interface.
pub struct VirtioNetwork(VirtIONet<Hal, PciTransport, QUEUE_ENTRIES>);

impl VirtioNetwork {
    /// Resets and starts it.
    pub fn open(transport: PciTransport) -> Result<VirtioNetwork, Reason> {
        VirtIONet::new(transport, BUFFER_BYTES)
            .map(VirtioNetwork)
            .map_err(|error| Reason::from(format!("virtio network: {error}")))
    }

    pub fn mac(&self) -> [u8; 6] {
        self.0.mac_address()
    }

    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let buffer = self.0.receive().ok()?;
        let frame = buffer.packet().to_vec();
        // Fails only if the buffer were not the queue's own.
        let _ = self.0.recycle_rx_buffer(buffer);
        Some(frame)
    }

    pub fn send(&mut self, frame: &[u8]) {
        let mut buffer = self.0.new_tx_buffer(frame.len());
        buffer.packet_mut().copy_from_slice(frame);
        let _ = self.0.send(buffer); // lost, as on any wire
    }
}
