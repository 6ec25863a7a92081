//! What the threads of a worker share: records that wait, the watch over all leases, and the end.
//!
//! One thread takes records and keeps them here, some handle them, one watches their leases. One
//! mutex guards everything; no handler runs and no settle is made under it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::source::{Delivery, DeliveryToken};
use super::watch::{Due, JobId, Pace, Watch};

/// Records at work of one worker.
#[derive(Debug)]
pub(super) struct Pool<J> {
    state: Mutex<State<J>>,
    /// A job waits, or none will come.
    waiting: Condvar,
    /// What is due next may have changed, or a job is done.
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    running: usize,
    /// When the last job was done.
    idle_since: Instant,
    /// No more comes.
    closed: bool,
    watch: Watch<DeliveryToken>,
}

/// A record under watch.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) delivery: Delivery,
    pub(super) id: JobId,
}

/// Counts a running job off, also when its handler's thread panics.
#[derive(Debug)]
pub(super) struct Running<'a, J>(&'a Pool<J>);

impl<J> Drop for Running<'_, J> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.idle_since = Instant::now();
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<J> Pool<J> {
    pub(super) fn new(handler_timeout: Option<Duration>) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                running: 0,
                idle_since: Instant::now(),
                closed: false,
                watch: Watch::new(handler_timeout),
            }),
            waiting: Condvar::new(),
            changed: Condvar::new(),
        }
    }

    /// Takes a record under watch: its lease is extended from now on.
    pub(super) fn watch(&self, delivery: Delivery) -> Watched {
        let (token, left) = (delivery.token(), delivery.lease_left());
        let id = self.lock().watch.add(Instant::now(), token, left);
        self.changed.notify_all();
        Watched { delivery, id }
    }

    /// Puts a job behind those that wait.
    pub(super) fn push(&self, job: J) {
        self.lock().jobs.push_back(job);
        self.waiting.notify_one();
    }

    /// Since when no job waits or runs.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let idle = state.jobs.is_empty() && state.running == 0;
        idle.then_some(state.idle_since)
    }

    /// Waits while more than `count` jobs wait.
    pub(super) fn wait_for_room(&self, count: usize) {
        self.wait_while(|state| state.jobs.len() > count);
    }

    /// Waits until no job waits or runs.
    pub(super) fn wait_until_idle(&self) {
        self.wait_while(|state| !state.jobs.is_empty() || state.running > 0);
    }

    fn wait_while(&self, wait: impl Fn(&State<J>) -> bool) {
        let waited = self.changed.wait_while(self.lock(), |state| wait(state));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The next job, which counts as running until `Running` is dropped; none once it is closed.
    pub(super) fn next(&self) -> Option<(J, Running<'_, J>)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                drop(state);
                self.changed.notify_all();
                return Some((job, Running(self)));
            }
            let woken = self.waiting.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The handlers of these records begin.
    pub(super) fn start(&self, ids: impl Iterator<Item = JobId>) {
        let now = Instant::now();
        let mut state = self.lock();
        ids.for_each(|id| state.watch.start(now, id));
        drop(state);
        self.changed.notify_all();
    }

    /// A record is not extended any more; tells whether its handler was in time.
    pub(super) fn unwatch(&self, id: JobId) -> Pace {
        self.lock().watch.remove(id)
    }

    /// No more comes; gives what waits.
    pub(super) fn close(&self) -> Vec<J> {
        let mut state = self.lock();
        state.closed = true;
        let left = state.jobs.drain(..).collect();
        drop(state);
        self.waiting.notify_all();
        self.changed.notify_all();
        left
    }

    /// Watches the leases until it is closed and nothing runs any more.
    pub(super) fn keep_watch(&self) {
        let mut state = self.lock();
        while !state.closed || state.running > 0 {
            let now = Instant::now();
            let due = state.watch.due(now);
            if !due.is_empty() {
                drop(state);
                due.into_iter().for_each(act);
                state = self.lock();
                continue;
            }
            state = match state.watch.next_at() {
                None => {
                    let woken = self.changed.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn act(due: Due<DeliveryToken>) {
    match due {
        Due::Extend(token) => token.extend(Duration::ZERO),
        Due::Late(token) => token.retry(),
    }
}

/// Closes a pool when the thread that feeds it is done, be it by a panic: nobody waits for ever.
#[derive(Debug)]
pub(super) struct CloseOnDrop<'a, J>(pub(super) &'a Pool<J>);

impl<J> Drop for CloseOnDrop<'_, J> {
    fn drop(&mut self) {
        drop(self.0.close());
    }
}
