//! UEFI firmware whose boot services stay in use: it drives the disk, and we live as one of its
//! applications.
//!
//! What it also has its hands on is taken from it: the serial line, which its terminal driver
//! would read from, and the network interface (see [`Uefi::release`]).

use crate::disk::{Disk, Medium};
use crate::firmware::Firmware;
use crate::reason::Reason;
use crate::{fault, heap, serial};
use alloc::format;
use alloc::vec::Vec;
use core::arch::asm;
use core::ffi::c_void;
use core::ptr::{self, NonNull};
use uefi_raw::protocol::block::BlockIoProtocol;
use uefi_raw::protocol::device_path::{DevicePathProtocol, DeviceSubType, DeviceType};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::runtime::ResetType;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};
use virtio_drivers::transport::pci::bus::DeviceFunction;

/// `EFI_SERIAL_IO_PROTOCOL_GUID`, UEFI 2.10, section 12.8.
const SERIAL_IO: Guid = guid!("bb25cf6f-f1d4-11d2-9a0c-0090273fc1fd");
/// `EFI_ACPI_20_TABLE_GUID`, section 4.6.
const ACPI_2: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");
/// `EFI_TIMER_ARCH_PROTOCOL_GUID`, PI 1.7, volume 2, section 12.13.
const TIMER: Guid = guid!("26baccb3-6f42-11d4-bce7-0080c73c8881");

/// How often the firmware's timer ticks while we rest, in units of 100 ns: each 2 ms.
const TICK: u64 = 20_000;

/// The first line of Rust, called by `boot/uefi_*.rs`.
pub extern "efiapi" fn start(image: Handle, table: *const SystemTable) -> ! {
    // SAFETY: the firmware hands over a valid table, and boot services are never exited.
    let uefi = unsafe { Uefi { image, table: &*table, boot: &*(*table).boot_services } };
    uefi.give_heap();
    // Without this the firmware resets the board after five minutes.
    // SAFETY: a plain call without data.
    let _ = unsafe { (uefi.boot.set_watchdog_timer)(0, 0, 0, ptr::null()) };
    uefi.take_serial_line();
    uefi.tick_faster();
    serial::begin();
    crate::run(Firmware::Uefi(uefi))
}

/// The firmware, as it was handed to us.
pub struct Uefi {
    image: Handle,
    table: &'static SystemTable,
    boot: &'static BootServices,
}

impl Uefi {
    fn give_heap(&self) {
        let (kind, pages) = (MemoryType::LOADER_DATA, heap::HEAP_BYTES / heap::PAGE_BYTES);
        let mut start = 0;
        // SAFETY: a call as the specification has it; what it returns is ours from then on.
        unsafe {
            let status = (self.boot.allocate_pages)(AllocateType::ANY_PAGES, kind, pages, &mut start);
            if status != Status::SUCCESS {
                fault::halt();
            }
            heap::begin(start as *mut u8);
        }
    }

    fn take_serial_line(&self) {
        for handle in self.handles(&SERIAL_IO) {
            // SAFETY: the handle is one of the firmware's own. A refusal means that no driver
            // sits on the line, which is just as well.
            let _ = unsafe { (self.boot.disconnect_controller)(handle, ptr::null_mut(), ptr::null_mut()) };
        }
    }

    /// The firmware ticks each 10 ms, which would be felt at the prompt.
    fn tick_faster(&self) {
        /// The protocol's beginning; the rest is not used.
        #[repr(C)]
        struct TimerProtocol {
            register_handler: usize,
            set_period: unsafe extern "efiapi" fn(this: *const TimerProtocol, period: u64) -> Status,
        }
        let mut timer: *mut c_void = ptr::null_mut();
        // SAFETY: calls as the specification has them. A firmware that refuses keeps its pace.
        unsafe {
            let found = (self.boot.locate_protocol)(&TIMER, ptr::null(), &mut timer);
            if found == Status::SUCCESS {
                let timer = timer.cast::<TimerProtocol>();
                let _ = ((*timer).set_period)(timer, TICK);
            }
        }
    }

    /// Where ACPI's tables begin.
    pub fn acpi_root(&self) -> Option<u64> {
        let (first, count) =
            (self.table.configuration_table, self.table.number_of_configuration_table_entries);
        // SAFETY: the firmware says how many there are.
        let entries = unsafe { core::slice::from_raw_parts(first, count) };
        let entry = entries.iter().find(|entry| entry.vendor_guid == ACPI_2)?;
        Some(entry.vendor_table as u64)
    }

    /// The whole disk that holds the partition we were loaded from.
    pub fn open_disk(&self) -> Result<Disk, Reason> {
        let loaded = self.protocol::<LoadedImageProtocol>(self.image, &LoadedImageProtocol::GUID)?;
        // SAFETY: the firmware's own structure.
        let partition = unsafe { (*loaded.as_ptr()).device_handle };
        let path = self.protocol::<DevicePathProtocol>(partition, &DevicePathProtocol::GUID)?;
        // SAFETY: the firmware's own structure.
        let path = unsafe { DevicePath::until_partition(path.as_ptr()) };

        let (handle, _) = self.nearest(&path, &BlockIoProtocol::GUID)?;
        let protocol = self.protocol::<BlockIoProtocol>(handle, &BlockIoProtocol::GUID)?;
        let medium = match path.medium() {
            Medium::Unknown if self.is_virtio(&path) => Medium::Virtio,
            medium => medium,
        };
        Ok(Disk::over_firmware(FirmwareDisk { protocol }, medium))
    }

    /// The first whole disk that cannot be taken out and is not that one.
    pub fn open_other_disk(&self, booted: &Disk) -> Result<Disk, Reason> {
        for handle in self.handles(&BlockIoProtocol::GUID) {
            let Ok(protocol) = self.protocol::<BlockIoProtocol>(handle, &BlockIoProtocol::GUID) else {
                continue;
            };
            let driver = FirmwareDisk { protocol };
            let media = driver.media();
            let fixed = bool::from(media.media_present)
                && !bool::from(media.removable_media)
                && !bool::from(media.logical_partition)
                && !bool::from(media.read_only);
            if fixed && !booted.is_over(&driver) {
                return Ok(Disk::over_firmware(driver, Medium::Unknown));
            }
        }
        Err(Reason::from("there is no other disk"))
    }

    /// Makes the firmware's own drivers let go of a PCI device.
    pub fn release(&self, function: DeviceFunction) {
        for handle in self.handles(&PciIo::GUID) {
            let Ok(pci) = self.protocol::<PciIo>(handle, &PciIo::GUID) else { continue };
            let (mut segment, mut bus, mut device, mut number) = (0, 0, 0, 0);
            // SAFETY: calls as the specification has them. A refusal means that there was no
            // driver to let go.
            unsafe {
                let get_location = (*pci.as_ptr()).get_location;
                let _ = get_location(pci.as_ptr(), &mut segment, &mut bus, &mut device, &mut number);
                let place = (usize::from(function.bus), usize::from(function.device));
                if (bus, device) == place && number == usize::from(function.function) {
                    let none = ptr::null_mut();
                    let _ = (self.boot.disconnect_controller)(handle, none, none);
                }
            }
        }
    }

    /// Sleeps until the next interrupt, which is the firmware's timer at the latest.
    pub fn rest(&self) {
        // SAFETY: interrupts are on while an application runs, and the firmware handles them.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("hlt", options(nostack));
            #[cfg(target_arch = "aarch64")]
            asm!("wfi", options(nostack));
        }
    }

    /// Takes the power away.
    pub fn power_off(&self) -> ! {
        self.reset(ResetType::SHUTDOWN)
    }

    /// Starts the board again.
    pub fn reboot(&self) -> ! {
        self.reset(ResetType::COLD)
    }

    fn reset(&self, kind: ResetType) -> ! {
        // SAFETY: the call does not return.
        unsafe { ((*self.table.runtime_services).reset_system)(kind, Status::SUCCESS, 0, ptr::null()) }
    }

    /// Whether the nearest PCI device on the way to the disk is a virtio device, or the disk is
    /// on no bus at all, as virtio disks in memory are.
    fn is_virtio(&self, path: &DevicePath) -> bool {
        const VIRTIO_VENDOR: u16 = 0x1af4;
        let Ok((handle, _)) = self.nearest(path, &PciIo::GUID) else { return true };
        let Ok(pci) = self.protocol::<PciIo>(handle, &PciIo::GUID) else { return false };
        let mut vendor = 0_u16;
        // SAFETY: a call as the specification has it: one 16-bit read at offset 0.
        let status =
            unsafe { ((*pci.as_ptr()).read_configuration)(pci.as_ptr(), 1, 0, 1, (&raw mut vendor).cast()) };
        status == Status::SUCCESS && vendor == VIRTIO_VENDOR
    }

    /// The handle with the protocol that is nearest to the end of the path, and what is left.
    fn nearest(
        &self,
        path: &DevicePath,
        protocol: &Guid,
    ) -> Result<(Handle, *const DevicePathProtocol), Reason> {
        let mut rest: *const DevicePathProtocol = path.bytes.as_ptr().cast();
        let mut handle = ptr::null_mut();
        // SAFETY: the path is well formed and outlives the call.
        let status = unsafe { (self.boot.locate_device_path)(protocol, &mut rest, &mut handle) };
        match status {
            Status::SUCCESS => Ok((handle, rest)),
            _ => Err(Reason::from("the firmware does not know the disk any more")),
        }
    }

    fn protocol<T>(&self, handle: Handle, guid: &Guid) -> Result<NonNull<T>, Reason> {
        let mut found = ptr::null_mut();
        // SAFETY: a call as the specification has it.
        let status = unsafe { (self.boot.handle_protocol)(handle, guid, &mut found) };
        match (status, NonNull::new(found.cast())) {
            (Status::SUCCESS, Some(protocol)) => Ok(protocol),
            _ => Err(Reason::from("the firmware lacks a protocol")),
        }
    }

    /// All handles that have the protocol.
    fn handles(&self, guid: &Guid) -> Vec<Handle> {
        const BY_PROTOCOL: i32 = 2;
        let (mut count, mut first) = (0, ptr::null_mut());
        // SAFETY: calls as the specification has them; the list is copied, then given back.
        unsafe {
            let status =
                (self.boot.locate_handle_buffer)(BY_PROTOCOL, guid, ptr::null(), &mut count, &mut first);
            if status != Status::SUCCESS {
                return Vec::new();
            }
            let handles = core::slice::from_raw_parts(first, count).to_vec();
            let _ = (self.boot.free_pool)(first.cast());
            handles
        }
    }
}

/// `EFI_PCI_IO_PROTOCOL`, UEFI 2.10, section 14.4; what is not used is only counted.
#[repr(C)]
struct PciIo {
    poll: [usize; 2],
    memory: [usize; 2],
    ports: [usize; 2],
    read_configuration: unsafe extern "efiapi" fn(
        this: *const PciIo,
        width: u32,
        offset: u32,
        count: usize,
        buffer: *mut c_void,
    ) -> Status,
    write_configuration: usize,
    copy_memory: usize,
    map: [usize; 5],
    get_location: unsafe extern "efiapi" fn(
        this: *const PciIo,
        segment: *mut usize,
        bus: *mut usize,
        device: *mut usize,
        function: *mut usize,
    ) -> Status,
}

impl PciIo {
    const GUID: Guid = guid!("4cf5b200-68b8-4ca5-9eec-b23e3f50029a");
}

/// How the firmware reaches a disk: a run of nodes, each with its kind and its length.
struct DevicePath {
    bytes: Vec<u8>,
    last_message: Option<DeviceSubType>,
}

impl DevicePath {
    /// A copy that ends before the partition.
    ///
    /// # Safety
    ///
    /// `first` must begin a well-formed path.
    unsafe fn until_partition(first: *const DevicePathProtocol) -> DevicePath {
        let mut path = DevicePath { bytes: Vec::new(), last_message: None };
        let mut at = first.cast::<u8>();
        loop {
            // SAFETY: each node but the last is followed by another.
            let node = unsafe { at.cast::<DevicePathProtocol>().read_unaligned() };
            let length = usize::from(node.length());
            if matches!(node.major_type, DeviceType::END | DeviceType::MEDIA) || length < 4 {
                path.bytes.extend([DeviceType::END.0, DeviceSubType::END_ENTIRE.0, 4, 0]);
                return path;
            }
            if node.major_type == DeviceType::MESSAGING {
                path.last_message = Some(node.sub_type);
            }
            // SAFETY: a node is as long as it says.
            unsafe {
                path.bytes.extend_from_slice(core::slice::from_raw_parts(at, length));
                at = at.add(length);
            }
        }
    }

    /// The medium, by the last node that speaks of a bus.
    fn medium(&self) -> Medium {
        match self.last_message {
            Some(DeviceSubType::MESSAGING_USB | DeviceSubType::MESSAGING_USB_CLASS) => Medium::Usb,
            Some(DeviceSubType::MESSAGING_SATA) => Medium::Sata,
            Some(DeviceSubType::MESSAGING_ATAPI) => Medium::Ide,
            Some(DeviceSubType::MESSAGING_NVME_NAMESPACE) => Medium::Nvme,
            Some(DeviceSubType::MESSAGING_SCSI) => Medium::Scsi,
            Some(DeviceSubType::MESSAGING_SD) => Medium::Sd,
            Some(DeviceSubType::MESSAGING_EMMC) => Medium::Emmc,
            _ => Medium::Unknown,
        }
    }
}

/// A disk behind the firmware's `EFI_BLOCK_IO_PROTOCOL`.
#[derive(PartialEq)]
pub struct FirmwareDisk {
    protocol: NonNull<BlockIoProtocol>,
}

impl FirmwareDisk {
    fn media(&self) -> &uefi_raw::protocol::block::BlockIoMedia {
        // SAFETY: the firmware's own structures, which live while boot services do.
        unsafe { &*(*self.protocol.as_ptr()).media }
    }

    pub fn block_count(&self) -> u64 {
        self.media().last_block + 1
    }

    pub fn block_bytes(&self) -> usize {
        self.media().block_size as usize
    }

    /// Fills the buffer, which is in whole blocks.
    pub fn read(&mut self, block: u64, buffer: &mut [u8]) -> Result<(), Reason> {
        let (this, media_id) = (self.protocol.as_ptr(), self.media().media_id);
        // SAFETY: a call as the specification has it, with a buffer of the length it is told.
        let status =
            unsafe { ((*this).read_blocks)(this, media_id, block, buffer.len(), buffer.as_mut_ptr().cast()) };
        done(status, "read block", block)
    }

    /// Writes the buffer, which is in whole blocks.
    pub fn write(&mut self, block: u64, buffer: &[u8]) -> Result<(), Reason> {
        let (this, media_id) = (self.protocol.as_ptr(), self.media().media_id);
        // SAFETY: as in `read`.
        let status =
            unsafe { ((*this).write_blocks)(this, media_id, block, buffer.len(), buffer.as_ptr().cast()) };
        done(status, "write block", block)
    }

    /// Returns when all that was written is on the medium.
    pub fn flush(&mut self) -> Result<(), Reason> {
        let this = self.protocol.as_ptr();
        // SAFETY: a call as the specification has it.
        let status = unsafe { ((*this).flush_blocks)(this) };
        match status {
            Status::SUCCESS => Ok(()),
            status => Err(Reason::from(format!("cannot flush: {status:?}"))),
        }
    }
}

fn done(status: Status, what: &str, block: u64) -> Result<(), Reason> {
    match status {
        Status::SUCCESS => Ok(()),
        status => Err(Reason::from(format!("cannot {what} {block}: {status:?}"))),
    }
}
