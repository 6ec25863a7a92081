//! Page-aligned heap memory that stands in for a mapped file.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// What a page is here; the same as on most machines.
const PAGE_BYTES: usize = 4096;

/// Zeroed bytes that never move. Shared by everyone who opened the segment.
#[derive(Debug)]
pub(super) struct HeapBlock {
    base: NonNull<u8>,
    len_bytes: usize,
    layout: Layout,
}

// SAFETY: the block owns its memory, and touches it only through raw pointers whose users keep races
// out (see `SegmentMemory`); freeing it on another thread is fine with the allocator.
unsafe impl Send for HeapBlock {}
// SAFETY: a shared block gives its address and copies bytes; the rest is as for `Send`.
unsafe impl Sync for HeapBlock {}

impl HeapBlock {
    /// A block of `len_bytes` zeros.
    pub(super) fn zeroed(len_bytes: usize) -> Self {
        let layout = Layout::from_size_align(len_bytes.max(1), PAGE_BYTES)
            .expect("a segment is far smaller than the address space");
        // SAFETY: the layout has at least one byte.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory) else {
            handle_alloc_error(layout)
        };
        Self {
            base,
            len_bytes,
            layout,
        }
    }

    /// A block that begins as `bytes`.
    pub(super) fn holding(bytes: &[u8]) -> Self {
        let block = Self::zeroed(bytes.len());
        let base = block.base.as_ptr();
        // SAFETY: the block is new, so nobody else has its address, and as long as `bytes`.
        unsafe { base.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        block
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Stores `bytes` at `position`.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes these bytes meanwhile.
    pub(super) unsafe fn store(&self, position: usize, bytes: &[u8]) {
        assert!(position <= self.len_bytes && bytes.len() <= self.len_bytes - position);
        // SAFETY: inside the block by the assertion.
        let into = unsafe { self.base.add(position) };
        // SAFETY: as many bytes are there by the assertion, the caller's alone; `bytes` are elsewhere,
        // since no reference to the block's own is ever made while they may be written.
        unsafe {
            into.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    /// Reads the bytes at `position`, whatever of them others store meanwhile; false where they are not all there.
    pub(super) fn load(&self, position: usize, bytes: &mut [u8]) -> bool {
        if position > self.len_bytes || bytes.len() > self.len_bytes - position {
            return false;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the block, as was looked at above.
            let from = unsafe { self.base.add(position + at) };
            // SAFETY: initialised when the block was made. Somebody may store to it meanwhile: this stands in for a
            // read of a file, and what is read then is looked at again.
            *byte = unsafe { from.as_ptr().read_volatile() };
        }
        true
    }

    /// A copy of the first `len_bytes` bytes as they are now. Nobody writes them meanwhile: that is
    /// part of what users of [`SegmentMemory`](crate::SegmentMemory) promise.
    pub(super) fn copy(&self, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; len_bytes.min(self.len_bytes)];
        let base = self.base.as_ptr();
        // SAFETY: as many bytes as `bytes` has are in the block, all initialised when it was made;
        // `SegmentMemory` keeps writers away while a file is read.
        unsafe { base.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        // SAFETY: `base` came from this allocator with this layout, and is freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
