//! Small cells: a number that only rises, a set of flags, a mark, and the publisher's fence.

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use super::mutated;

/// An offset that only rises: `synced`, the last known `committed`, the trim point.
#[derive(Debug)]
pub(crate) struct Frontier {
    value: AtomicU64,
}

impl Frontier {
    pub(crate) fn new(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
        }
    }

    /// The frontier now. Whatever led to it is visible to the caller.
    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire) // FRONT-1
    }

    /// Raises the frontier to `value`; a lower value changes nothing.
    pub(crate) fn raise(&self, value: u64) {
        let order = if mutated!(FrontRelease) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.value.fetch_max(value, order); // FRONT-1
    }

    /// Raises the frontier to `value` unless it is there already, which costs a load alone.
    pub(crate) fn raise_lazily(&self, value: u64) -> u64 {
        let seen = self.value.load(Ordering::Relaxed);
        if seen < value {
            self.raise(value);
            value
        } else {
            seen
        }
    }
}

/// Reasons why a log refuses claims. Open while no flag is set.
#[derive(Debug)]
pub(crate) struct Gate {
    flags: AtomicU32,
}

impl Gate {
    /// A sync failed: nothing more may be promised.
    pub(crate) const POISONED: u32 = 1;
    /// The log is closing or its topic was deleted.
    pub(crate) const CLOSED: u32 = 2;
    /// The disk is slower than the bound a stored topic keeps (S4).
    pub(crate) const HELD: u32 = 4;
    /// Pages of a segment that is written to are not the file's any more (S6); poisoned as well.
    pub(crate) const LOST: u32 = 8;

    pub(crate) fn open() -> Self {
        Self {
            flags: AtomicU32::new(0),
        }
    }

    /// The flags set now; 0 lets claims pass.
    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Acquire) // GATE-1
    }

    /// Sets `flag`.
    pub(crate) fn shut(&self, flag: u32) {
        self.flags.fetch_or(flag, Ordering::Release); // GATE-1
    }

    /// Clears `flag` and tells whether it was set.
    pub(crate) fn reopen(&self, flag: u32) -> bool {
        self.flags.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }
}

/// "There may be something new here": set by whoever commits, cleared by whoever syncs.
#[derive(Debug)]
pub(crate) struct Mark {
    set: AtomicBool,
}

impl Mark {
    pub(crate) fn clean() -> Self {
        Self {
            set: AtomicBool::new(false),
        }
    }

    /// Sets the mark; true if this call set it. Call [`publish_fence`] between the commit and this.
    pub(crate) fn set(&self) -> bool {
        // A load first: a set mark stays in every core's cache while publishers go on.
        !self.set.load(Ordering::Relaxed) && !self.set.swap(true, Ordering::AcqRel)
    }

    /// Clears the mark. Commits that are not visible after this will find it cleared.
    pub(crate) fn clear(&self) {
        self.set.store(false, Ordering::Relaxed);
        // SeqCst: the store above must not pass the loads of commit words that follow (DIRTY-1).
        fence(Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Clears the mark; true if it was set. Orders nothing.
    pub(crate) fn take(&self) -> bool {
        self.set.swap(false, Ordering::Relaxed)
    }
}

/// Orders a publisher's commits before its look for sleepers and at the mark; once per publish call.
pub(crate) fn publish_fence() {
    if mutated!(PublishFence) {
        return;
    }
    // SeqCst: commit words are stored before, sleepers and marks loaded after (WAKE-1, DIRTY-1).
    fence(Ordering::SeqCst);
}
