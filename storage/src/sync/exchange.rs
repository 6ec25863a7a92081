//! How threads hand work to whoever runs a queue: a ring of inputs, a baton around its state, and
//! mailboxes for what comes of it.
//!
//! Who has an input pushes it into the ring, then knocks. Who finds the baton free becomes its holder
//! and works for everybody; who does not may go, because a holder marks the baton before he drains the
//! ring and leaves only if nobody knocked since. So of a push and a departure one always sees the
//! other, and no input is left behind.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, Waker};

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use super::{Mutex, lock, mutated};

/// Nobody holds the baton.
const FREE: u32 = 0;
/// Somebody does, and has looked since the last knock.
const HELD: u32 = 1;
/// Somebody knocked since the holder looked, or is about to become the holder.
const PENDING: u32 = 2;

/// Ids given out. Orders nothing, so it is no part of any model.
static BATONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// State that one thread at a time works on, for all that have something to be done with it.
///
/// A holder that panics keeps the baton: the state may be half changed, and nobody touches it again.
pub struct Baton<T> {
    state: AtomicU32,
    /// What a [`Handed`] is known by: an address may be another baton's by the time it is resumed.
    id: u64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a `Held`, of which there is one at a time (BATON-1), so
// threads hand it over to each other and never share it: `T: Send` is enough.
unsafe impl<T: Send> Sync for Baton<T> {}

impl<T> fmt::Debug for Baton<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Baton").finish_non_exhaustive()
    }
}

/// The right to work on the state. Forgotten or dropped, it is never given to anybody again.
#[must_use = "a holder leaves or hands over"]
pub struct Held<'a, T> {
    baton: &'a Baton<T>,
    /// Exclusive access is given out as `&mut T`: sharing a `Held` shares the value.
    value: PhantomData<&'a mut T>,
}

impl<T> fmt::Debug for Held<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// The right to work on the state, on its way from one thread to another.
#[derive(Debug)]
#[must_use = "whoever is handed the baton resumes it"]
pub struct Handed {
    /// Id of the baton it belongs to.
    baton: u64,
}

impl<T> Baton<T> {
    /// A baton around `value`, free.
    pub fn new(value: T) -> Self {
        Self {
            state: AtomicU32::new(FREE),
            id: BATONS.fetch_add(1, Ordering::Relaxed),
            value: UnsafeCell::new(value),
        }
    }

    /// Says that there is something to do. `Some` for the caller that is to do it; for all others
    /// the holder will.
    pub fn knock(&self) -> Option<Held<'_, T>> {
        let order = if mutated!(KnockRelaxed) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        // BATON-1 acquires the state that the last holder left; BATON-2 releases the caller's input.
        let before = self.state.swap(PENDING, order);
        (before == FREE).then_some(Held {
            baton: self,
            value: PhantomData,
        })
    }

    /// Goes on where [`Held::hand_over`] stopped.
    ///
    /// # Panics
    ///
    /// If `handed` is another baton's.
    pub fn resume(&self, handed: Handed) -> Held<'_, T> {
        assert_eq!(
            handed.baton, self.id,
            "the baton that was handed over is another's"
        );
        Held {
            baton: self,
            value: PhantomData,
        }
    }
}

impl<T> Held<'_, T> {
    /// Marks the baton before the inputs are drained: whoever knocks from here on is noticed.
    pub fn begin_round(&mut self) {
        if mutated!(MarkLate) {
            return;
        }
        self.mark();
    }

    fn mark(&mut self) {
        // BATON-2: a swap, so that the inputs of everybody who knocked before are visible.
        self.baton.state.swap(HELD, Ordering::AcqRel);
    }

    /// Frees the baton, unless somebody knocked since the last round began.
    ///
    /// # Errors
    ///
    /// Gives itself back then: there is another round to do.
    pub fn leave(mut self) -> Result<(), Self> {
        if mutated!(MarkLate) {
            self.mark();
        }
        if mutated!(LeaveByStore) {
            self.baton.state.store(FREE, Ordering::Release); // BATON-1, wrongly
            return Ok(());
        }
        let freed = self.baton.state.compare_exchange(
            HELD,
            FREE,
            Ordering::Release, // BATON-1
            Ordering::Relaxed,
        );
        match freed {
            Ok(_) => Ok(()),
            Err(_) => Err(self),
        }
    }

    /// Gives the baton to whoever [resumes](Baton::resume) it; until then nobody has it.
    pub fn hand_over(self) -> Handed {
        Handed {
            baton: self.baton.id,
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: BATON-1: a `Held` is made by the one knock that found the baton free, or from the
        // one `Handed` of the `Held` before, so this is the only one, and the last one's changes are
        // visible.
        unsafe { &*self.baton.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; `&mut self` makes this the only reference.
        unsafe { &mut *self.baton.value.get() }
    }
}

/// A bounded queue that any thread may push to and pop from, without a lock.
pub struct Ring<T> {
    #[cfg(not(loom))]
    slots: crossbeam_queue::ArrayQueue<T>,
    /// The crate's ring is taken as right; what is modelled is how it is used.
    #[cfg(loom)]
    slots: (usize, Mutex<std::collections::VecDeque<T>>),
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
impl<T> Ring<T> {
    /// A ring of room for `capacity`, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: crossbeam_queue::ArrayQueue::new(capacity.max(1)),
        }
    }

    /// Puts `value` behind the others.
    ///
    /// # Errors
    ///
    /// Gives `value` back when the ring is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        self.slots.push(value)
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        self.slots.pop()
    }

    /// How many are in it; others may push and pop meanwhile.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is in it; others may push meanwhile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(loom)]
impl<T> Ring<T> {
    /// A ring of room for `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: (capacity, Mutex::new(std::collections::VecDeque::new())),
        }
    }

    /// Puts `value` behind the others.
    ///
    /// # Errors
    ///
    /// Gives `value` back when the ring is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut slots = lock(&self.slots.1);
        if slots.len() == self.slots.0 {
            return Err(value);
        }
        slots.push_back(value);
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        lock(&self.slots.1).pop_front()
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        lock(&self.slots.1).len()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A queue without a bound of its own: whoever pushes keeps one. Allocates for some dozens at a time.
pub struct Lane<T> {
    #[cfg(not(loom))]
    items: crossbeam_queue::SegQueue<T>,
    #[cfg(loom)]
    items: Mutex<std::collections::VecDeque<T>>,
}

impl<T> fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
impl<T> Lane<T> {
    /// An empty lane; costs nothing until something is pushed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: crossbeam_queue::SegQueue::new(),
        }
    }

    /// Puts `value` behind the others.
    pub fn push(&self, value: T) {
        self.items.push(value);
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// How many are in it; others may push and pop meanwhile.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is in it; others may push meanwhile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(loom)]
impl<T> Lane<T> {
    /// An empty lane.
    pub fn new() -> Self {
        Self {
            items: Mutex::new(std::collections::VecDeque::new()),
        }
    }

    /// Puts `value` behind the others.
    pub fn push(&self, value: T) {
        lock(&self.items).push_back(value);
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        lock(&self.items).pop_front()
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        lock(&self.items).len()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A lane with one reader, who can sleep until something comes.
pub struct Mailbox<T> {
    lane: Lane<T>,
    /// A waker is stored.
    sleeping: AtomicBool,
    waker: Mutex<Option<Waker>>,
    closed: AtomicBool,
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lane: Lane::new(),
            sleeping: AtomicBool::new(false),
            waker: Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    /// Puts `value` in and wakes the reader.
    pub fn push(&self, value: T) {
        self.lane.push(value);
        self.wake();
    }

    /// Takes the oldest, if there is one now.
    pub fn pop(&self) -> Option<T> {
        self.lane.pop()
    }

    /// Whether nothing is there now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lane.is_empty()
    }

    /// Has the reader look again, if it sleeps.
    pub fn wake(&self) {
        // SeqCst: what the reader is to see is stored before, the mark is loaded after (WAKE-2).
        if !mutated!(MailboxFence) {
            fence(Ordering::SeqCst);
        }
        if self.sleeping.load(Ordering::Relaxed) {
            let waker = {
                let mut waker = lock(&self.waker);
                self.sleeping.store(false, Ordering::Relaxed);
                waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Lets the reader know, once it has taken all, that nothing more comes.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release); // CLOSE-1
        self.wake();
    }

    /// Ready with the oldest, or with `None` once the mailbox is closed and empty.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(value) = self.lane.pop() {
            return Poll::Ready(Some(value));
        }
        {
            let mut waker = lock(&self.waker);
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            self.sleeping.store(true, Ordering::Relaxed);
        }
        // SeqCst: the mark above is stored before the ring is looked at again (WAKE-2).
        fence(Ordering::SeqCst);
        let closed = self.closed.load(Ordering::Acquire); // CLOSE-1
        match self.lane.pop() {
            Some(value) => Poll::Ready(Some(value)),
            None if closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// "There is something for you": set by whoever left it, cleared by whoever comes to look.
///
/// Who leaves something, then finds the flag set already, may go: whoever clears it looks afterwards.
#[derive(Debug)]
pub struct Flag {
    set: AtomicBool,
}

impl Default for Flag {
    fn default() -> Self {
        Self::new()
    }
}

impl Flag {
    /// Not set.
    #[must_use]
    pub fn new() -> Self {
        Self {
            set: AtomicBool::new(false),
        }
    }

    /// Sets it; true if this call did.
    pub fn set(&self) -> bool {
        // SeqCst: what is left is stored before, the flag loaded after (FLAG-1).
        if !mutated!(FlagFence) {
            fence(Ordering::SeqCst);
        }
        // A load first: a set flag stays in every core's cache.
        !self.set.load(Ordering::Relaxed) && !self.set.swap(true, Ordering::AcqRel)
    }

    /// Clears it; look for what was left after this.
    pub fn clear(&self) {
        self.set.swap(false, Ordering::AcqRel);
        // SeqCst: the flag is cleared before what was left is loaded (FLAG-1).
        fence(Ordering::SeqCst);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }
}

/// A number that many add to. Says nothing about other memory.
#[derive(Debug)]
pub struct Counter {
    count: AtomicU64,
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

impl Counter {
    /// Zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
        }
    }

    /// Adds `number` and gives the sum.
    pub fn add(&self, number: u64) -> u64 {
        self.count.fetch_add(number, Ordering::Relaxed) + number
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_knocks_while_it_is_held_sends_the_holder_round_again() {
        let baton = Baton::new(0);
        let mut held = baton.knock().unwrap();
        held.begin_round();
        *held += 1;
        assert!(baton.knock().is_none());
        let mut held = held.leave().unwrap_err();
        held.begin_round();
        assert!(held.leave().is_ok());
        assert_eq!(*baton.knock().unwrap(), 1);
    }

    #[test]
    fn a_baton_handed_over_is_nobodys_until_it_is_resumed() {
        let baton = Baton::new(7);
        let handed = baton.knock().unwrap().hand_over();
        assert!(baton.knock().is_none());
        let mut held = baton.resume(handed);
        held.begin_round();
        assert!(held.leave().is_ok());
        assert!(baton.knock().is_some());
    }

    #[test]
    #[should_panic(expected = "another's")]
    fn what_one_baton_handed_over_another_at_its_place_refuses() {
        let mut place = Baton::new(1);
        let handed = place.knock().unwrap().hand_over();
        place = Baton::new(2);
        drop(place.resume(handed));
    }
}
