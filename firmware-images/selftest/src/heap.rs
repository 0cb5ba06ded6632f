//! The heap: one range of memory, given by the firmware's own start code before anything else.

use core::alloc::Layout;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use linked_list_allocator::LockedHeap;

/// Enough for the largest transfer, the network's buffers and much to spare.
pub const HEAP_BYTES: usize = 8 << 20;

/// The size of a page, and the alignment that satisfies every device we know.
pub const PAGE_BYTES: usize = 4096;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives `HEAP_BYTES` from `start` to the heap.
///
/// # Safety
///
/// The range must be free memory that nobody else uses, and this must be called once.
pub unsafe fn begin(start: *mut u8) {
    // SAFETY: the caller answers for the range.
    unsafe { HEAP.lock().init(start, HEAP_BYTES) };
}

/// Zeroed memory in whole pages, as devices want it. Addresses are the same for them and for us.
pub struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    /// At least `bytes` of memory.
    pub fn with_bytes(bytes: usize) -> Pages {
        let bytes = bytes.next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("sizes here are small");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { alloc::alloc::handle_alloc_error(layout) };
        Pages { start, layout }
    }

    /// The address, for us and for devices.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: it is ours, and initialised with zeros.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: it is ours alone, and initialised with zeros.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout.
        unsafe { alloc::alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}
