//! The table of mapped segment files, for the handler of faults in them (S6).
//!
//! Fixed and without a lock, since a signal handler reads it: it may have interrupted anything.
//!
//! ```text
//!  FREE ──new──▶ TAKEN ──fields written──▶ LIVE ──dropped──▶ FREE
//! ```
//! The handler looks at `LIVE` places alone, and at one whose pages are being touched, so it stays
//! live meanwhile: whoever touches them keeps the mapping, and with it its registration.
//!
//! | edge | release side | acquire side | makes visible |
//! | --- | --- | --- | --- |
//! | MAP-1 | [`Registration::new`], last store | [`MappedPlace::holding`] | address, length and descriptor |
//! | FAULT-1 | fence in [`MappedPlace::note_fault`] | [`any_page_lost`], [`MappedPlace::lost_pages`] | that a page is not the file's any more |
//! | FAULT-2 | [`Alone`], dropped | [`MappedPlace::enter`] | the pages that were exchanged |
//!
//! FAULT-1 is a store that must not pass the copy of the page that follows it, behind a commit that
//! must not pass the look at the flag. Either the copy has the commit, and so has the file; or the
//! commit is in the page of ours, and whoever looks behind it sees the flag.
//!
//! These are the machine's atomics under loom too: a static can't hold loom's, and no model faults.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering, fence};

/// More mappings than a process gets by default (`vm.max_map_count` is 65,530). Costs memory only
/// where it is used.
const PLACES_MAX: usize = 65_536;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const LIVE: u32 = 2;

static PLACES: [MappedPlace; PLACES_MAX] = [const { MappedPlace::free() }; PLACES_MAX];
/// Places at this index and behind were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Where the search for a free place begins.
static HINT: AtomicUsize = AtomicUsize::new(0);
/// Some page of some mapping is not its file's any more. Never cleared.
static ANY: AtomicBool = AtomicBool::new(false);

/// One mapped file.
#[derive(Debug)]
pub(crate) struct MappedPlace {
    state: AtomicU32,
    start: AtomicUsize,
    len_bytes: AtomicUsize,
    descriptor: AtomicI32,
    writable: AtomicBool,
    busy: AtomicBool,
    faults: AtomicU32,
    unreadable: AtomicU32,
    /// Address of the handler's map of exchanged pages; 0 before the first fault.
    exchanged: AtomicUsize,
}

impl MappedPlace {
    const fn free() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            start: AtomicUsize::new(0),
            len_bytes: AtomicUsize::new(0),
            descriptor: AtomicI32::new(-1),
            writable: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            faults: AtomicU32::new(0),
            unreadable: AtomicU32::new(0),
            exchanged: AtomicUsize::new(0),
        }
    }

    /// The mapping that holds `address`. Async-signal-safe: loads alone.
    pub(crate) fn holding(address: usize) -> Option<&'static Self> {
        let used = USED.load(Ordering::Relaxed).min(PLACES_MAX);
        PLACES.get(..used)?.iter().find(|place| {
            let live = place.state.load(Ordering::Acquire) == LIVE; // MAP-1
            live && place.addresses().contains(&address)
        })
    }

    /// Addresses of the mapping.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.start.load(Ordering::Relaxed);
        start..start.saturating_add(self.len_bytes.load(Ordering::Relaxed))
    }

    /// The descriptor of the file.
    pub(crate) fn descriptor(&self) -> i32 {
        self.descriptor.load(Ordering::Relaxed)
    }

    /// Whether the mapping may be stored to.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Pages that are not the file's any more, each counted as often as it was met.
    pub(crate) fn lost_pages(&self) -> u32 {
        self.faults.load(Ordering::Acquire) // FAULT-1
    }

    /// Of these, pages that could not be read: they are zeros now.
    pub(crate) fn unreadable_pages(&self) -> u32 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Says that a page is about to become ours. Before the page is copied.
    pub(crate) fn note_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        ANY.store(true, Ordering::Relaxed);
        // SeqCst: both stores come before the copy of the page (FAULT-1).
        fence(Ordering::SeqCst);
    }

    /// Says that a page has no bytes of the file.
    pub(crate) fn note_unreadable(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until no other thread exchanges pages of this mapping. For the handler alone, which
    /// never interrupts itself: its signal is blocked while it runs.
    pub(crate) fn enter(&self) -> Alone<'_> {
        while self.busy.swap(true, Ordering::Acquire) {
            // FAULT-2. The holder makes a few system calls and goes.
            std::hint::spin_loop();
        }
        Alone { place: self }
    }
}

/// The sole right to exchange pages of one mapping.
#[derive(Debug)]
pub(crate) struct Alone<'a> {
    place: &'a MappedPlace,
}

impl Alone<'_> {
    /// Address of the map of exchanged pages, 0 while there is none.
    pub(crate) fn exchanged(&self) -> usize {
        self.place.exchanged.load(Ordering::Relaxed)
    }

    pub(crate) fn set_exchanged(&self, address: usize) {
        self.place.exchanged.store(address, Ordering::Relaxed);
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.place.busy.store(false, Ordering::Release); // FAULT-2
    }
}

/// A mapping's place in the table, until dropped: before the mapping itself is.
#[derive(Debug)]
pub(crate) struct Registration {
    place: &'static MappedPlace,
    index: usize,
}

impl Registration {
    /// Enters a mapping of `len_bytes` bytes at `start`. `None` where the table is full: a fault in that
    /// mapping ends the process, as without a handler.
    pub(crate) fn new(
        start: usize,
        len_bytes: usize,
        descriptor: i32,
        writable: bool,
    ) -> Option<Self> {
        let hint = HINT.load(Ordering::Relaxed);
        let indexes = (hint..PLACES_MAX).chain(0..hint.min(PLACES_MAX));
        for index in indexes {
            let place = PLACES.get(index)?;
            let taken = place.state.compare_exchange(
                FREE,
                TAKEN,
                Ordering::Acquire, // The last user's stores come before ours.
                Ordering::Relaxed,
            );
            if taken.is_err() {
                continue;
            }
            place.start.store(start, Ordering::Relaxed);
            place.len_bytes.store(len_bytes, Ordering::Relaxed);
            place.descriptor.store(descriptor, Ordering::Relaxed);
            place.writable.store(writable, Ordering::Relaxed);
            place.faults.store(0, Ordering::Relaxed);
            place.unreadable.store(0, Ordering::Relaxed);
            USED.fetch_max(index + 1, Ordering::Relaxed);
            HINT.store(index + 1, Ordering::Relaxed);
            place.state.store(LIVE, Ordering::Release); // MAP-1
            return Some(Self { place, index });
        }
        None
    }

    pub(crate) fn place(&self) -> &'static MappedPlace {
        self.place
    }

    /// Takes the address of the handler's map, which is then the caller's to free; 0 for none.
    pub(crate) fn take_exchanged(&self) -> usize {
        self.place.exchanged.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The owner is dropping the mapping, so nobody touches its pages: no handler is at it.
        self.place.state.store(FREE, Ordering::Release); // MAP-1
        HINT.fetch_min(self.index, Ordering::Relaxed);
    }
}

/// Whether some page of some mapping was lost since the process began. One load: the common answer is no.
#[inline]
pub(crate) fn any_page_lost() -> bool {
    ANY.load(Ordering::Acquire) // FAULT-1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_while_its_mapping_is_registered() {
        // Addresses no mapping of this process has.
        let (start, len) = (usize::MAX - (1 << 20), 8192);
        let registration = Registration::new(start, len, 7, true).unwrap();
        let place = MappedPlace::holding(start + 8191).unwrap();
        assert_eq!(
            (place.addresses(), place.descriptor()),
            (start..start + len, 7)
        );
        assert!(place.is_writable());
        assert!(
            MappedPlace::holding(start + 8192).is_none()
                && MappedPlace::holding(start - 1).is_none()
        );
        drop(registration);
        assert!(MappedPlace::holding(start).is_none());
    }

    #[test]
    fn a_place_used_again_knows_nothing_of_its_last_use() {
        let start = usize::MAX - (2 << 20);
        let registration = Registration::new(start, 4096, 7, true).unwrap();
        registration.place().note_fault();
        registration.place().note_unreadable();
        assert!(any_page_lost());
        assert_eq!(registration.place().lost_pages(), 1);
        drop(registration);
        for _ in 0..3 {
            let registration = Registration::new(start, 4096, 7, false).unwrap();
            let place = registration.place();
            assert_eq!((place.lost_pages(), place.unreadable_pages()), (0, 0));
        }
    }
}
