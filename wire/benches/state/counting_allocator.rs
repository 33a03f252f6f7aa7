//! Counts the bytes that are allocated now, as requested: the allocator's own overhead is left out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a counter.
pub(crate) struct CountingAllocator;

/// Bytes that are allocated and not freed.
pub(crate) fn held_bytes() -> usize {
    HELD_BYTES.load(Ordering::Relaxed)
}

// SAFETY: every call goes to `System` unchanged, so its guarantees hold; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees what `System` requires.
        let place = unsafe { System.alloc(layout) };
        if !place.is_null() {
            HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller guarantees what `System` requires.
        unsafe { System.dealloc(place, layout) };
    }
}
