//! A mapped segment whose syncs the simulated disk sees.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::disk::FileNumber;
use super::folder::CrashFolder;
use crate::memory::SegmentMemory;

/// A segment of a [`CrashFolder`].
#[derive(Debug)]
pub(super) struct CrashSegment {
    pub(super) live: Arc<dyn SegmentMemory>,
    pub(super) folder: CrashFolder,
    pub(super) file: FileNumber,
}

// SAFETY: base and length are those of `live`, which lives as long and makes the same promises; no
// reference to the bytes is made here.
unsafe impl SegmentMemory for CrashSegment {
    fn base(&self) -> NonNull<u8> {
        self.live.base()
    }

    fn len_bytes(&self) -> usize {
        self.live.len_bytes()
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.sync_file(self.file, || self.live.sync())
    }

    unsafe fn write(&self, position: usize, bytes: &[u8]) -> bool {
        // SAFETY: as the caller promises.
        unsafe { self.live.write(position, bytes) }
    }

    fn is_resident(&self, range: Range<usize>) -> bool {
        self.live.is_resident(range)
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.live.populate(range)
    }

    fn read_at(&self, position: usize, bytes: &mut [u8]) -> io::Result<()> {
        self.live.read_at(position, bytes)
    }

    fn shrink(&self, len_bytes: usize) -> io::Result<()> {
        self.folder.change(
            || self.live.shrink(len_bytes),
            |disk, done, _| {
                if done.is_ok() {
                    disk.shrunk(self.file, len_bytes);
                }
            },
        )
    }

    fn stored_again(&self, position: usize) {
        self.folder
            .with_disk(|disk| disk.stored_again(self.file, position));
    }
}

/// Copies the bytes of `memory` from `position` on. One thread runs a simulation, and it is here.
pub(super) fn copy_out(memory: &dyn SegmentMemory, position: usize, out: &mut [u8]) {
    assert!(position + out.len() <= memory.len_bytes());
    // SAFETY: the assertion keeps the result inside the memory, whose base is valid that far.
    let from = unsafe { memory.base().add(position) };
    let into = NonNull::from(&mut *out).cast();
    // SAFETY: as many bytes are there, initialised when the memory was made; nobody writes them
    // meanwhile, since a simulation has one thread and it holds no slice of a claim while it is here.
    unsafe { from.copy_to_nonoverlapping(into, out.len()) };
}
