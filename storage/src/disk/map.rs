//! A segment file in memory: a shared map, and the descriptor its syncs go through.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{AtFlags, StatxFlags};

use super::fault::forget_exchanged;
use super::unmap::{Mapping, Unmapper};
use crate::folder::{Access, FileError};
use crate::memory::SegmentMemory;
use crate::sync::{Registration, any_page_lost};

/// Pages asked about in one `mincore`; a megabyte of 4 KiB pages.
const PAGES_PER_CALL: usize = 256;
/// Bytes read at once where a file is read through: they stay in the nearest caches while they are looked at.
const READ_BYTES: usize = 64 << 10;

/// One mapped segment file.
pub(super) struct DiskSegment {
    /// Where the handler of faults finds it; `None` where its table is full.
    registration: Option<Registration>,
    /// Until it is dropped.
    mapping: Option<Mapping>,
    path: String,
    unmapper: Unmapper,
}

// SAFETY: `base` is where `map` lies: page-aligned, as long as the file was, and neither moved nor
// unmapped before `self` is dropped. `MmapRaw` makes no references to its bytes, nor do we.
unsafe impl SegmentMemory for DiskSegment {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.mapped().as_mut_ptr()).expect("the kernel maps nothing at address zero")
    }

    fn len_bytes(&self) -> usize {
        self.mapped().len()
    }

    fn sync(&self) -> io::Result<()> {
        self.file()
            .sync_data()
            .map_err(|error| self.error("sync", error))?;
        // What was stored to a page that is not the file's any more was not synced (S6).
        match self.lost_pages() {
            None => Ok(()),
            Some(lost) => Err(lost),
        }
    }

    fn lost_pages(&self) -> Option<io::Error> {
        if !any_page_lost() {
            return None;
        }
        let place = self.registration.as_ref()?.place();
        let (lost, unreadable) = (place.lost_pages(), place.unreadable_pages());
        let cause = format!(
            "{lost} of its pages could not be written or read, {unreadable} of them are lost: the disk is full or failing, or the file was changed"
        );
        (lost > 0).then(|| self.error("keep", io::Error::other(cause)))
    }

    unsafe fn write(&self, position: usize, bytes: &[u8]) -> bool {
        // Of a file that was cut off a write would make a longer one, with zeros in the gap, and what
        // stands in for a lost page is not the file's (S6). A store tells of both.
        let end = position + bytes.len();
        // Asked for nothing but its length: who asks for its times as well (`fstat`) has each write after
        // that give the file a new one, and a sync then waits for the file system's journal.
        let is_whole = || {
            rustix::fs::statx(self.file(), "", AtFlags::EMPTY_PATH, StatxFlags::SIZE)
                .is_ok_and(|stat| stat.stx_size >= end as u64)
        };
        let can_be = end <= self.mapped().len() && !any_page_lost() && is_whole();
        // A page may have been lost, and exchanged, meanwhile.
        can_be && self.file().write_all_at(bytes, position as u64).is_ok() && !any_page_lost()
    }

    fn unmap_before_sync(&self, range: Range<usize>) {
        if range.start >= range.end || range.end > self.mapped().len() {
            return;
        }
        let len_bytes = range.end - range.start;
        // SAFETY: every page of the map is shared, with the file or (`super::fault`) with nobody, and of
        // shared pages the advice takes the entries in the page tables alone: whoever touches them next
        // finds the same bytes.
        let answer = unsafe {
            self.mapped()
                .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, len_bytes)
        };
        if let Err(error) = answer {
            tracing::debug!(path = %self.path, %error, "pages stay mapped while they are synced");
        }
    }

    fn is_resident(&self, range: Range<usize>) -> bool {
        if range.end > self.mapped().len() {
            return false;
        }
        let page_bytes = page_bytes();
        let last_page = range.end.div_ceil(page_bytes);
        let mut page = range.start / page_bytes;
        while page < last_page {
            let pages = (last_page - page).min(PAGES_PER_CALL);
            if !self.pages_are_resident(page * page_bytes, pages, page_bytes) {
                return false;
            }
            page += pages;
        }
        true
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        if range.start > range.end || range.end > self.mapped().len() {
            return Err(self.error("read", ErrorKind::InvalidInput.into()));
        }
        let len_bytes = range.end - range.start;
        match self
            .mapped()
            .advise_range(Advice::PopulateRead, range.start, len_bytes)
        {
            // A kernel before 5.14 doesn't know the advice; reading the file fills the same pages.
            Err(error) if error.kind() == ErrorKind::InvalidInput => self.read_through(range),
            // Of a page that can't be had it says only that; reading tells why.
            Err(error) => self.read_through(range).and(Err(error)),
            Ok(()) => Ok(()),
        }
        .map_err(|error| self.error("read", error))
    }

    fn read_at(&self, position: usize, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.file().read_exact_at(bytes, position as u64);
        read.map_err(|error| self.error("read", error))
    }

    fn shrink(&self, len_bytes: usize) -> io::Result<()> {
        if len_bytes > self.mapped().len() {
            return Err(self.error("shrink", ErrorKind::InvalidInput.into()));
        }
        let cut = || {
            if self.file().metadata()?.len() < len_bytes as u64 {
                return Err(io::Error::other("somebody cut it off before"));
            }
            self.file().set_len(len_bytes as u64)
        };
        cut().map_err(|error| self.error("shrink", error))
    }
}

impl DiskSegment {
    /// Maps the first `len_bytes` bytes of `file`, which has them.
    pub(super) fn map(
        file: File,
        len_bytes: usize,
        access: Access,
        path: String,
        unmapper: &Unmapper,
    ) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(len_bytes);
        let map = match access {
            Access::Read => options.map_raw_read_only(&file)?,
            Access::ReadWrite => options.map_raw(&file)?,
        };
        let start = map.as_mut_ptr() as usize;
        let writable = access == Access::ReadWrite;
        let registration = Registration::new(start, map.len(), file.as_raw_fd(), writable);
        if registration.is_none() {
            tracing::warn!(%path, "too many files are mapped: a fault in this one ends the process");
        }
        Ok(Self {
            registration,
            mapping: Some(Mapping { map, file }),
            path,
            unmapper: unmapper.clone(),
        })
    }

    fn mapping(&self) -> &Mapping {
        self.mapping
            .as_ref()
            .expect("it is mapped until it is dropped")
    }

    fn mapped(&self) -> &MmapRaw {
        &self.mapping().map
    }

    fn file(&self) -> &File {
        &self.mapping().file
    }

    fn error(&self, operation: &'static str, source: io::Error) -> io::Error {
        FileError::wrap(operation, &*self.path, source)
    }

    /// Whether `pages` pages from the byte `start` on are in the page cache; they are mapped.
    fn pages_are_resident(&self, start: usize, pages: usize, page_bytes: usize) -> bool {
        let mut states = [0_u8; PAGES_PER_CALL];
        let Some(states) = states.get_mut(..pages) else {
            return false;
        };
        // The last page may be shorter than the map's end suggests; the kernel rounds up itself.
        let len_bytes = (pages * page_bytes).min(self.mapped().len() - start);
        let address = self.mapped().as_mut_ptr().wrapping_add(start);
        // SAFETY: `address` is page-aligned and `len_bytes` from it on are mapped by `self.mapped()`;
        // `states` has a byte for each page the range touches.
        let answer = unsafe { libc::mincore(address.cast(), len_bytes, states.as_mut_ptr()) };
        answer == 0 && states.iter().all(|state| state & 1 == 1)
    }

    /// Reads `range` of the file, which leaves its pages in the page cache.
    fn read_through(&self, range: Range<usize>) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES.min(range.end - range.start)];
        let mut position = range.start;
        while position < range.end {
            buffer.truncate(range.end - position);
            self.file().read_exact_at(&mut buffer, position as u64)?;
            position += buffer.len();
        }
        Ok(())
    }
}

impl Drop for DiskSegment {
    fn drop(&mut self) {
        if let Some(registration) = self.registration.take() {
            forget_exchanged(registration.take_exchanged(), self.mapped().len());
        }
        if let Some(mapping) = self.mapping.take() {
            self.unmapper.unmap(mapping);
        }
    }
}

impl fmt::Debug for DiskSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSegment")
            .field("path", &self.path)
            .field("len_bytes", &self.mapped().len())
            .finish()
    }
}

/// Bytes of a page of this machine.
pub(super) fn page_bytes() -> usize {
    // SAFETY: `sysconf` reads a constant of the system and touches no memory of ours.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer)
        .ok()
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(4096)
}
