//! The memory of one segment, and how it reaches the disk.
//!
//! [`SegmentMemory`] is one of the two seams of this crate (the other is [`Folder`](crate::Folder)):
//! the log writes and reads through [`base`](SegmentMemory::base) and knows nothing else about where
//! the bytes lie. On disk they are a shared map of a file, in tests a heap block.
//!
//! Only a base pointer is handed out, never a slice: several threads write and read the same pages
//! at once, and what keeps them apart is the log's own protocol (`storage::sync`).

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// The pages a segment lies in, shared by everyone who holds the segment.
///
/// # Safety
///
/// Whoever implements this promises that `base` returns the same page-aligned pointer for the life
/// of `self`, that it is valid for reads of `len_bytes` bytes (and for writes, unless the segment was
/// opened to read only), that both stay true when `self` moves, and that the implementation itself
/// never makes a Rust reference to those bytes.
///
/// Whoever uses the pointer keeps data races out. That includes reads that do not use it: no byte of
/// a file may be written through its memory while [`Folder::read_file`](crate::Folder::read_file) or
/// [`Folder::copy_range`](crate::Folder::copy_range) reads the same file. [`read_at`](Self::read_at) may.
pub unsafe trait SegmentMemory: Send + Sync + Debug {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;

    /// Bytes that may be touched from [`base`](Self::base) on: the length of the file when it was
    /// opened, which may be less than the caller expects. Nothing past it may be touched.
    fn len_bytes(&self) -> usize;

    /// Brings every byte stored so far to the disk and returns when it is there (`fdatasync`).
    ///
    /// # Errors
    ///
    /// What the disk said. What it then holds is unknown, and a second call that returns `Ok` proves
    /// nothing: the caller never repeats it on the same segment.
    fn sync(&self) -> io::Result<()>;

    /// Stores `bytes` at `position` by a write to the file instead of through [`base`](Self::base), where
    /// they are seen as soon as this returns. Gives whether it did; where not, some of them may be there,
    /// and the caller stores all of them through `base`, which finds out what is wrong.
    ///
    /// A store to a page that is not in memory yet has the kernel find one, fill it with zeros and map it. A
    /// write brings in all the pages it covers at once, and fills none. Costs a system call.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes these bytes meanwhile, by whatever way.
    unsafe fn write(&self, position: usize, bytes: &[u8]) -> bool;

    /// Says that `range` is stored and about to be synced: a map of a file takes its pages out of the page
    /// tables, in one step. Changes no byte and no result; who touches the range again waits for a fault.
    ///
    /// Without it the kernel write-protects page by page while it writes them, and each time interrupts
    /// every processor that runs a thread of ours. Costs a system call.
    fn unmap_before_sync(&self, _range: Range<usize>) {}

    /// Whether all of `range` is in memory, so that reading it waits for no disk. Costs a system call.
    fn is_resident(&self, range: Range<usize>) -> bool;

    /// Brings `range` into memory; waits for the disk.
    ///
    /// # Errors
    ///
    /// When a page can't be read. Nothing was touched through the map, so this is the way to find a
    /// bad page without a signal.
    fn populate(&self, range: Range<usize>) -> io::Result<()>;

    /// Reads the bytes at `position` from the file, whatever of them others store meanwhile. Costs a system call.
    ///
    /// # Errors
    ///
    /// When they can't be read, or are not all there.
    fn read_at(&self, position: usize, bytes: &mut [u8]) -> io::Result<()>;

    /// Cuts the file behind the memory to `len_bytes`, and gives the rest back to the disk.
    ///
    /// [`len_bytes`](Self::len_bytes) does not change; the caller promises that nobody touches what
    /// lies beyond the new end from now on. Takes effect on disk with the next sync.
    ///
    /// # Errors
    ///
    /// What the disk said, or `InvalidInput` when the file would grow.
    fn shrink(&self, len_bytes: usize) -> io::Result<()>;

    /// Whether a page of it is not the file's any more, and why: what is stored there reaches no disk,
    /// and what could not be read is zeros (S6). Never changes back. [`sync`](Self::sync) fails from
    /// then on. Costs a load where no page of any memory was ever lost.
    fn lost_pages(&self) -> Option<io::Error> {
        None
    }

    /// Told that the byte at `position` was stored again with the value it had: a simulated disk,
    /// which compares bytes, can't see that.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    fn stored_again(&self, _position: usize) {}
}
