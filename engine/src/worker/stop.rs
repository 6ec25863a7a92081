//! Stopping a worker from elsewhere, and what it has done so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Records done.
    pub acked: u64,
    /// Records to be delivered again because their handler said so.
    pub retried: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records to be delivered again because their handler panicked.
    pub panicked: u64,
    /// Records to be delivered again because their handler had had its time.
    pub timed_out: u64,
    /// Records given back unhandled when the worker stopped.
    pub released: u64,
}

impl Report {
    /// Records that were handled, whatever came of it.
    #[must_use]
    pub const fn handled(&self) -> u64 {
        self.acked + self.retried + self.rejected + self.panicked + self.timed_out
    }
}

/// Stops a worker; may be cloned, kept and used anywhere.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    waker: Option<Waker>,
    report: Report,
}

impl Stop {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// No new records are taken; those being handled are finished, those that wait are released.
    /// Does not wait for any of that: the worker's `run` returns when it is done.
    pub fn stop(&self) {
        let waker = {
            let mut state = self.lock();
            state.stopped = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// What the worker has done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.lock().report
    }

    /// Counts something.
    pub(super) fn count(&self, count: impl FnOnce(&mut Report)) {
        count(&mut self.lock().report);
    }

    /// Ready once it was told to stop. One waits at a time.
    pub(super) fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.stopped {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
