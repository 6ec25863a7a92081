//! An allocator that counts: what a thread asks for, and what the process holds.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

/// What a thread asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How often.
    pub times: u64,
    /// Bytes in all, whatever was given back.
    pub bytes: u64,
    /// Bytes of the largest piece.
    pub largest: u64,
}

const NOTHING: Asked = Asked {
    times: 0,
    bytes: 0,
    largest: 0,
};

thread_local! {
    static ASKED: Cell<Asked> = const { Cell::new(NOTHING) };
}

/// Bytes all threads hold. Relaxed: a sum that is read when those who changed it have answered.
static HELD: AtomicIsize = AtomicIsize::new(0);

struct Counting;

fn count(bytes: usize, freed: usize) {
    HELD.fetch_add(bytes as isize - freed as isize, Relaxed);
    // A thread that is going away allocates uncounted.
    let _ = ASKED.try_with(|asked| {
        let before = asked.get();
        let bytes = bytes as u64;
        asked.set(Asked {
            times: before.times + u64::from(bytes > 0),
            bytes: before.bytes + bytes,
            largest: before.largest.max(bytes),
        });
    });
}

// SAFETY: every call is passed on to the system's allocator as it came; the counters are a plain
// thread-local without a destructor and an atomic, and allocate nothing themselves.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the same promise to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the same promise to us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the same promise to us.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller keeps the same promise to us.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What this thread asks for while `work` runs, and what comes of it.
pub fn asked_by<T>(work: impl FnOnce() -> T) -> (Asked, T) {
    let outer = ASKED.replace(NOTHING);
    let outcome = work();
    (ASKED.replace(outer), outcome)
}

/// Bytes the process holds at this moment.
pub fn held_bytes() -> isize {
    HELD.load(Relaxed)
}
