//! Who waits for an offset, and how to wake him without looking when nobody does.
//!
//! A waiter registers, fences, looks again, then sleeps; a publisher commits, fences, looks for
//! sleepers. Of two such sequences at least one sees the other (L6).

use std::task::Waker;

use super::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use super::{Mutex, lock, mutated};

/// Waiters woken for one look at their list.
const WOKEN_TOGETHER: usize = 8;

/// Names one waiter among those of a log; a handle keeps its key and reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitKey(u64);

#[derive(Debug)]
struct Waiter {
    key: WaitKey,
    target: u64,
    waker: Waker,
}

/// Waiters for one frontier of a log. Bounded by the number of handles, each waits at most once.
#[derive(Debug)]
pub(crate) struct Waiters {
    sleepers: AtomicUsize,
    next_key: AtomicU64,
    list: Mutex<Vec<Waiter>>,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            sleepers: AtomicUsize::new(0),
            next_key: AtomicU64::new(0),
            list: Mutex::new(Vec::new()),
        }
    }

    /// A key of its own for a handle that may wait.
    pub(crate) fn key(&self) -> WaitKey {
        WaitKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks for `waker` to be woken once the frontier reaches `target`.
    ///
    /// The caller must look at the frontier again after this returns and before it sleeps, which
    /// `look` does: it is called behind the fence, and true withdraws the registration.
    pub(crate) fn register(
        &self,
        key: WaitKey,
        target: u64,
        waker: &Waker,
        look: impl FnOnce() -> bool,
    ) -> bool {
        {
            let mut list = lock(&self.list);
            match list.iter_mut().find(|waiter| waiter.key == key) {
                Some(waiter) => {
                    waiter.target = target;
                    waiter.waker.clone_from(waker);
                }
                None => list.push(Waiter {
                    key,
                    target,
                    waker: waker.clone(),
                }),
            }
            self.sleepers.store(list.len(), Ordering::Relaxed);
        }
        // SeqCst: the count above is stored before the frontier is looked at again (WAKE-1).
        fence(Ordering::SeqCst);
        let reached = !mutated!(NoSecondLook) && look();
        if reached {
            self.withdraw(key);
        }
        reached
    }

    /// Forgets the waiter with `key`.
    pub(crate) fn withdraw(&self, key: WaitKey) {
        // A model that fails unwinds through here and must not touch loom again.
        #[cfg(loom)]
        if std::thread::panicking() {
            return;
        }
        let mut list = lock(&self.list);
        list.retain(|waiter| waiter.key != key);
        self.sleepers.store(list.len(), Ordering::Relaxed);
    }

    /// True if somebody may be asleep. Call behind [`super::publish_fence`].
    pub(crate) fn any(&self) -> bool {
        self.sleepers.load(Ordering::Relaxed) != 0
    }

    /// Wakes everyone whose target is at most `reached`, each once.
    ///
    /// The caller has raised the frontier and fenced. Wakers run outside the lock.
    pub(crate) fn wake(&self, reached: u64) {
        while self.wake_some(reached) {}
    }

    /// Wakes a few of them; whether there may be more. Allocates nothing: a wake is part of a publish.
    fn wake_some(&self, reached: u64) -> bool {
        let mut woken = [const { None }; WOKEN_TOGETHER];
        let mut more = false;
        {
            let mut list = lock(&self.list);
            let mut places = woken.iter_mut();
            let mut at = 0;
            while let Some(waiter) = list.get(at) {
                if waiter.target > reached {
                    at += 1;
                } else if let Some(place) = places.next() {
                    *place = Some(list.swap_remove(at).waker);
                } else {
                    more = true;
                    break;
                }
            }
            self.sleepers.store(list.len(), Ordering::Relaxed);
        }
        for waker in woken.into_iter().flatten() {
            waker.wake();
        }
        more
    }

    /// Wakes everyone, whatever they wait for: the log can no longer keep its promise.
    pub(crate) fn wake_all(&self) {
        self.wake(u64::MAX);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::{Arc, Mutex as StdMutex, PoisonError};
    use std::task::Wake;

    use super::*;

    /// Notes the targets of those who were woken.
    struct Woken(u64, Arc<StdMutex<Vec<u64>>>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.1
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.0);
        }
    }

    #[test]
    fn however_many_wait_each_below_the_mark_is_woken_once_and_no_other() {
        let waiters = Waiters::new();
        let woken = Arc::new(StdMutex::new(Vec::new()));
        let count = 5 * WOKEN_TOGETHER as u64;
        for target in 0..count {
            let waker = Waker::from(Arc::new(Woken(target, Arc::clone(&woken))));
            assert!(!waiters.register(waiters.key(), target, &waker, || false));
        }
        let half = count / 2;
        waiters.wake(half);
        let mut found = std::mem::take(&mut *woken.lock().unwrap_or_else(PoisonError::into_inner));
        found.sort_unstable();
        assert!(found.into_iter().eq(0..=half));
        assert!(waiters.any());
        waiters.wake_all();
        let rest = woken.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        assert_eq!(rest, count - half - 1);
        assert!(!waiters.any());
    }
}
