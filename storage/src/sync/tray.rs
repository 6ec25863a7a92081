//! Where one thread gathers what another is to take.

use std::cell::UnsafeCell;
use std::fmt;

use super::atomic::{AtomicU32, Ordering, fence};
use super::mutated;

/// Nothing is on it.
const EMPTY: u32 = 0;
/// Something is, and whoever put the first of it there has told, or is about to.
const FULL: u32 = 1;
/// Somebody is at it.
const HELD: u32 = 2;

/// A value that many add to and one takes from, one at a time.
///
/// Nobody waits: who adds and finds another at it keeps what he has, and who takes comes again.
/// A thread that panics while it is at it keeps it forever.
pub struct Tray<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

/// What adding to a [`Tray`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put<R> {
    /// Nothing was there: who takes is to be told.
    First(R),
    /// Something is there still that was the first: whoever put that there has told, or is about to.
    Joined(R),
}

/// Somebody is at the [`Tray`] right now: come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrayBusy;

// SAFETY: the value is reached by whoever moved the state to `HELD`, one at a time (TRAY-1), so
// threads hand it over to each other and never share it: `T: Send` is enough.
unsafe impl<T: Send> Sync for Tray<T> {}

impl<T> fmt::Debug for Tray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tray").finish_non_exhaustive()
    }
}

impl<T> Tray<T> {
    /// A tray that holds `value`, which counts as nothing.
    pub fn new(value: T) -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            value: UnsafeCell::new(value),
        }
    }

    /// Adds `what` by `add`. One atomic exchange, and a fence where nothing was there.
    ///
    /// Of a [`Put::First`] and a [`Tray::take`] that found nothing, one sees what the other stored
    /// before it.
    ///
    /// # Errors
    ///
    /// Gives `what` back where another is at it.
    #[inline]
    pub fn put<V, R>(&self, what: V, add: impl FnOnce(&mut T, V) -> R) -> Result<Put<R>, V> {
        let before = self.state.load(Ordering::Relaxed);
        if before == HELD || !self.hold(before) {
            return Err(what);
        }
        // SAFETY: TRAY-1: the state was moved to `HELD` here, and what was done before is visible.
        let added = add(unsafe { &mut *self.value.get() }, what);
        let order = if mutated!(TrayRelaxed) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.state.store(FULL, order); // TRAY-1
        if before == FULL {
            return Ok(Put::Joined(added));
        }
        // SeqCst: the state is stored before whatever the caller loads to see whom to tell (TRAY-2).
        if !mutated!(TrayFence) {
            fence(Ordering::SeqCst);
        }
        Ok(Put::First(added))
    }

    /// Takes what is there by `take`; `None` where nothing is.
    ///
    /// # Errors
    ///
    /// [`TrayBusy`] where somebody is adding: for all that is told, he who takes may know of it already.
    /// And where another takes.
    pub fn take<R>(&self, take: impl FnOnce(&mut T) -> R) -> Result<Option<R>, TrayBusy> {
        // SeqCst: what the caller stored before, such as a flag, before the state is loaded (TRAY-2).
        fence(Ordering::SeqCst);
        match self.state.load(Ordering::Relaxed) {
            EMPTY => return Ok(None),
            FULL if self.hold(FULL) => {}
            _ => return Err(TrayBusy),
        }
        // SAFETY: TRAY-1: as in `put`.
        let taken = take(unsafe { &mut *self.value.get() });
        self.state.store(EMPTY, Ordering::Release); // TRAY-1
        Ok(Some(taken))
    }

    /// Whether nothing is there. Others may add meanwhile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.load(Ordering::Relaxed) == EMPTY
    }

    #[inline]
    fn hold(&self, before: u32) -> bool {
        // TRAY-1 acquires what was done by whoever was at it last.
        let held = self
            .state
            .compare_exchange(before, HELD, Ordering::Acquire, Ordering::Relaxed);
        held.is_ok()
    }
}
