//! What `virtio-drivers` needs to know of this board: its memory, and its PCI devices.

use crate::heap::Pages;
use crate::pci::{self, Function, Pci};
use crate::reason::Reason;
use alloc::format;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, PAGE_SIZE, PhysAddr};

pub use virtio_drivers::transport::DeviceType;

/// Memory and devices have the same addresses for us as for the devices.
pub struct Hal;

// SAFETY: `Pages` are zeroed, aligned to pages, and not freed while a driver has them.
unsafe impl virtio_drivers::Hal for Hal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut memory = ManuallyDrop::new(Pages::with_bytes(pages * PAGE_SIZE));
        (memory.address(), NonNull::from(&mut memory[0]))
    }

    // Drivers live as long as the guest, so their queues are never given back.
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, bytes: usize) -> NonNull<u8> {
        pci::map(address, bytes as u64);
        NonNull::new(address as *mut u8).expect("no device is at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// What kind of virtio device it is, if it is one.
pub fn device_type(function: &Function) -> Option<DeviceType> {
    virtio_device_type(&function.info)
}

/// Enables the device and finds its registers.
pub fn open(pci: &mut Pci, function: &Function) -> Result<PciTransport, Reason> {
    pci.enable(function);
    PciTransport::new::<Hal, _>(&mut pci.root, function.place)
        .map_err(|error| Reason::from(format!("virtio device {}: {error}", function.place)))
}
