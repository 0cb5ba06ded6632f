//! What the kernel tells of a block device, and does to it: size, block, write protection, caches, partitions.
//!
//! The numbers are those of `linux/fs.h`. The caller owns the descriptor; nothing to clean up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::c_int;

nix::ioctl_read_bad!(
    /// BLKGETSIZE64: its number is made with `size_t`, but it writes 64 bits.
    size_bytes,
    nix::request_code_read!(0x12, 114, size_of::<usize>()),
    u64
);
nix::ioctl_read_bad!(
    /// BLKSSZGET: the size of a logical block.
    logical_block_bytes,
    nix::request_code_none!(0x12, 104),
    c_int
);
nix::ioctl_read_bad!(
    /// BLKROGET: whether it is write-protected.
    read_only,
    nix::request_code_none!(0x12, 94),
    c_int
);
nix::ioctl_none_bad!(
    /// BLKFLSBUF: writes back the page cache of the device, and drops it.
    flush_buffers,
    nix::request_code_none!(0x12, 97)
);
nix::ioctl_none_bad!(
    /// BLKRRPART: reads the partition table again.
    reread_partitions,
    nix::request_code_none!(0x12, 95)
);

/// Bytes of the medium; 0 if there is none in the drive.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: BLKGETSIZE64 writes one `u64` through the pointer, which is valid for that; see `block/ioctl.c`.
    unsafe { size_bytes(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Bytes of a logical block, the unit in which the device is read and written.
pub fn block(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: BLKSSZGET writes one `int` through the pointer, which is valid for that; see `block/ioctl.c`.
    unsafe { logical_block_bytes(device.as_raw_fd(), &mut bytes) }?;
    u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether it is write-protected, by the kernel or by a switch at the card.
pub fn is_read_only(device: &File) -> io::Result<bool> {
    let mut flag = 0;
    // SAFETY: BLKROGET writes one `int` through the pointer, which is valid for that; see `block/ioctl.c`.
    unsafe { read_only(device.as_raw_fd(), &mut flag) }?;
    Ok(flag != 0)
}

/// Drops what the kernel keeps of the device's content, so that it is read from the device. Needs CAP_SYS_ADMIN.
pub fn drop_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    unsafe { flush_buffers(device.as_raw_fd()) }?;
    Ok(())
}

/// Makes the kernel read the partition table again; false if it cannot: the device has no partitions (EINVAL), one
/// of them is in use (EBUSY), or this process may not (EACCES, EPERM).
pub fn reread(device: &File) -> io::Result<bool> {
    // SAFETY: BLKRRPART takes no argument.
    match unsafe { reread_partitions(device.as_raw_fd()) } {
        Ok(_) => Ok(true),
        Err(Errno::EINVAL | Errno::EBUSY | Errno::EACCES | Errno::EPERM | Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
