//! What waits for a background thread: logs to sync, segments to prepare, footers, cold pages.
//!
//! Publishers and readers only push; the threads of [`crate::Store`] pull. Four lists under one
//! lock, each bounded: a log stands in the sync list at most once per set mark, a preparation is
//! asked for once per segment, a footer once per seal, a fetch once per reader.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::baton::SealedSegment;
use crate::log::Log;
use crate::manifest::SegmentNumber;

/// A log that nobody writes to is synced once more after this, to state the last sync's proof.
pub(crate) const IDLE_PROOF: Duration = Duration::from_millis(50);
/// A stored topic is synced this long after its first unsynced commit: half of the promised second.
pub(crate) const STORED_SYNC: Duration = Duration::from_millis(500);

/// How often it is looked for files that nobody takes for a next segment: one that is found twice goes.
pub(crate) const SPARES_KEPT: Duration = Duration::from_secs(1);

/// While so many segments are listed for their footers, no other is made.
const FOOTERS_LISTED_MAX: usize = 8;

/// A claim that is open this long is named.
pub(crate) const OPEN_CLAIM: Duration = Duration::from_secs(1);

/// Work for the threads that make and finish segments: publishers may wait for one that is made, and not
/// for what waits for the disk behind it.
#[derive(Debug)]
pub(crate) enum Preparation {
    /// Make the next segment of this log ready.
    Standby(Arc<Log>),
    /// Write the footer of a segment that was sealed and synced.
    Footer(Arc<Log>, SealedSegment),
    /// Remove what this log kept too long for its next segments.
    Spares(Arc<Log>),
}

impl Preparation {
    fn run(self) {
        match self {
            Self::Standby(log) => log.prepare_standby(),
            Self::Footer(log, sealed) => log.finish_segment(sealed),
            Self::Spares(log) => log.release_unneeded(),
        }
    }

    fn is_footer(&self) -> bool {
        matches!(self, Self::Footer(..))
    }
}

/// Brings pages into memory for a reader.
pub(crate) type Fetch = Box<dyn FnOnce() + Send>;

/// Why a log is to be looked at later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Later {
    /// State the proof of its last sync.
    Proof,
    /// A stored topic's bound comes near.
    Bound,
    /// Files were kept for its next segments.
    Spares,
    /// A claim was found open at this segment and position.
    OpenClaim(SegmentNumber, u32),
}

/// A log whose sync baton is in use, and whether it was asked for meanwhile.
struct Running {
    log: Arc<Log>,
    again: bool,
}

#[derive(Default)]
struct Lists {
    sync: VecDeque<Arc<Log>>,
    /// One entry for each worker or leading publisher at most.
    running: Vec<Running>,
    later: Vec<(Instant, Arc<Log>, Later)>,
    prepare: VecDeque<Preparation>,
    fetch: VecDeque<Fetch>,
    stopping: bool,
    /// The threads have ended: what would be listed now would keep its log alive for ever.
    ended: bool,
}

/// The lists and their bells.
#[derive(Default)]
pub(crate) struct Work {
    lists: Mutex<Lists>,
    sync_bell: Condvar,
    prepare_bell: Condvar,
    fetch_bell: Condvar,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, Lists> {
        match self.lists.lock() {
            Ok(lists) => lists,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Asks for `log` to be synced as soon as a worker is free.
    pub(crate) fn sync_soon(&self, log: &Arc<Log>) {
        let mut lists = self.lock();
        if !lists.ended && !lists.sync.iter().any(|listed| Arc::ptr_eq(listed, log)) {
            lists.sync.push_back(Arc::clone(log));
            self.sync_bell.notify_one();
        }
    }

    /// Takes the right to sync `log` for a publisher that would otherwise wait for a worker.
    ///
    /// False where somebody is at it already. True must be followed by [`done`](Self::done).
    pub(crate) fn lead(&self, log: &Arc<Log>) -> bool {
        let mut lists = self.lock();
        if lists.is_running(log) {
            return false;
        }
        // What the list asks for is about to be done.
        lists.sync.retain(|listed| !Arc::ptr_eq(listed, log));
        lists.start(Arc::clone(log));
        true
    }

    /// Ends what [`lead`](Self::lead) or a worker began; lists `log` again if it was asked for.
    pub(crate) fn done(&self, log: &Arc<Log>) {
        let mut lists = self.lock();
        let at = lists
            .running
            .iter()
            .position(|running| Arc::ptr_eq(&running.log, log));
        if let Some(at) = at
            && lists.running.swap_remove(at).again
            && !lists.ended
        {
            lists.sync.push_back(Arc::clone(log));
            self.sync_bell.notify_one();
        }
    }

    /// Asks for `log` to be looked at after `delay`; one entry for each log and kind of reason.
    pub(crate) fn sync_later(&self, log: &Arc<Log>, delay: Duration, why: Later) {
        let mut lists = self.lock();
        let known = lists.later.iter().any(|(_, other, reason)| {
            Arc::ptr_eq(other, log) && discriminant(reason) == discriminant(&why)
        });
        if !known && !lists.ended {
            lists
                .later
                .push((Instant::now() + delay, Arc::clone(log), why));
            self.sync_bell.notify_one();
        }
    }

    pub(crate) fn prepare(&self, work: Preparation) {
        let mut lists = self.lock();
        if lists.ended {
            // Dropped outside the lock: it may hold the last of a log.
            drop(lists);
            return drop(work);
        }
        lists.prepare.push_back(work);
        // Two threads hear it, for one of whom it is.
        self.prepare_bell.notify_all();
    }

    pub(crate) fn fetch(&self, fetch: Fetch) {
        let mut lists = self.lock();
        if lists.stopping {
            // Nobody would run it; dropped outside the lock, it answers its reader.
            drop(lists);
            return drop(fetch);
        }
        lists.fetch.push_back(fetch);
        self.fetch_bell.notify_one();
    }

    /// Lets every thread finish what is listed for preparing and fetching, then return.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.sync_bell.notify_all();
        self.prepare_bell.notify_all();
        self.fetch_bell.notify_all();
    }

    /// Forgets what is still listed, once the threads have ended; the lists keep their logs alive.
    pub(crate) fn clear(&self) {
        let listed = {
            let mut lists = self.lock();
            let stopping = lists.stopping;
            let emptied = Lists {
                stopping,
                ended: true,
                ..Lists::default()
            };
            std::mem::replace(&mut *lists, emptied)
        };
        drop(listed);
    }

    /// Takes one entry off the sync list; for models, which have no workers.
    #[cfg(all(test, loom))]
    pub(crate) fn take_listed(&self) -> bool {
        self.lock().sync.pop_front().is_some()
    }

    /// The next log to sync; `None` once the thread should end.
    fn next_sync(&self) -> Option<SyncTask> {
        let mut lists = self.lock();
        loop {
            let now = Instant::now();
            if let Some(due) = lists.later.iter().position(|(at, _, _)| *at <= now) {
                let (_, log, why) = lists.later.swap_remove(due);
                return Some(SyncTask::Due(log, why));
            }
            if let Some(log) = lists.pop_sync() {
                return Some(SyncTask::Now(log));
            }
            if lists.stopping {
                return None;
            }
            let next = lists.later.iter().map(|(at, _, _)| *at).min();
            lists = match next {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    match self.sync_bell.wait_timeout(lists, wait) {
                        Ok((lists, _)) => lists,
                        Err(poisoned) => poisoned.into_inner().0,
                    }
                }
                None => match self.sync_bell.wait(lists) {
                    Ok(lists) => lists,
                    Err(poisoned) => poisoned.into_inner(),
                },
            };
        }
    }

    fn next_of<T>(&self, bell: &Condvar, pop: impl Fn(&mut Lists) -> Option<T>) -> Option<T> {
        let mut lists = self.lock();
        loop {
            if let Some(task) = pop(&mut lists) {
                return Some(task);
            }
            if lists.stopping {
                return None;
            }
            lists = match bell.wait(lists) {
                Ok(lists) => lists,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }

    /// Runs a sync worker until [`stop`](Self::stop).
    pub(crate) fn run_sync_worker(&self) {
        while let Some(task) = self.next_sync() {
            self.run_sync(task);
        }
    }

    fn run_sync(&self, task: SyncTask) {
        match task {
            SyncTask::Now(log) => {
                log.sync_listed();
                self.done(&log);
            }
            SyncTask::Due(log, Later::Bound) => self.sync_soon(&log),
            SyncTask::Due(log, Later::Proof) => log.prove_idle(),
            SyncTask::Due(log, Later::Spares) => self.prepare(Preparation::Spares(log)),
            SyncTask::Due(log, Later::OpenClaim(segment, position)) => {
                log.name_open_claim(segment, position);
            }
        }
    }

    /// Runs the thread that makes segments until [`stop`](Self::stop). It makes none while many wait for their
    /// footers: those can't be dropped, so publishers wait with them.
    pub(crate) fn run_preparer(&self) {
        while let Some(work) = self.next_of(&self.prepare_bell, Lists::pop_to_make) {
            work.run();
        }
    }

    /// Runs the thread that finishes them until [`stop`](Self::stop).
    pub(crate) fn run_finisher(&self) {
        let pop = |lists: &mut Lists| lists.take_preparation(Preparation::is_footer);
        while let Some(work) = self.next_of(&self.prepare_bell, pop) {
            // One less is listed.
            self.prepare_bell.notify_all();
            work.run();
        }
    }

    /// Runs a fetching thread until [`stop`](Self::stop).
    pub(crate) fn run_fetcher(&self) {
        while let Some(fetch) = self.next_of(&self.fetch_bell, |lists| lists.fetch.pop_front()) {
            // A reader is told by the answer it holds; the thread must live on for the others.
            if catch_unwind(AssertUnwindSafe(fetch)).is_err() {
                tracing::error!("reading back cold pages panicked");
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
impl Work {
    /// Makes a segment as the thread that makes them would; false where that would wait.
    pub(crate) fn make_by_hand(&self) -> bool {
        let next = self.lock().pop_to_make();
        next.map(Preparation::run).is_some()
    }
}

/// One piece of what is listed, run by the caller: for tests without threads. False where nothing is.
#[cfg(all(any(test, feature = "testing"), not(loom)))]
impl Work {
    pub(crate) fn by_hand(&self, piece: crate::crash::Piece) -> bool {
        use crate::crash::Piece;
        match piece {
            Piece::Sync => {
                let next = self.lock().pop_sync();
                next.map(|log| self.run_sync(SyncTask::Now(log))).is_some()
            }
            Piece::Prepare => {
                let next = self.lock().prepare.pop_front();
                next.map(Preparation::run).is_some()
            }
            // Taken as due, from the oldest on.
            Piece::Later => {
                let mut lists = self.lock();
                if lists.later.is_empty() {
                    return false;
                }
                let (_, log, why) = lists.later.remove(0);
                drop(lists);
                self.run_sync(SyncTask::Due(log, why));
                true
            }
            Piece::Fetch => {
                let next = self.lock().fetch.pop_front();
                next.map(|fetch| fetch()).is_some()
            }
        }
    }
}

impl Lists {
    fn is_running(&self, log: &Arc<Log>) -> bool {
        self.running
            .iter()
            .any(|running| Arc::ptr_eq(&running.log, log))
    }

    fn start(&mut self, log: Arc<Log>) {
        self.running.push(Running { log, again: false });
    }

    /// The next listed segment to make, or files to remove.
    fn pop_to_make(&mut self) -> Option<Preparation> {
        let footers = self.prepare.iter().filter(|work| work.is_footer()).count();
        if footers >= FOOTERS_LISTED_MAX && !self.stopping {
            return None;
        }
        self.take_preparation(|work| !work.is_footer())
    }

    fn take_preparation(&mut self, is_it: impl Fn(&Preparation) -> bool) -> Option<Preparation> {
        let at = self.prepare.iter().position(is_it)?;
        self.prepare.remove(at)
    }

    /// The next listed log that nobody is at; those somebody is at are noted there instead.
    fn pop_sync(&mut self) -> Option<Arc<Log>> {
        while let Some(log) = self.sync.pop_front() {
            let running = self
                .running
                .iter_mut()
                .find(|running| Arc::ptr_eq(&running.log, &log));
            match running {
                Some(running) => running.again = true,
                None => {
                    self.start(Arc::clone(&log));
                    return Some(log);
                }
            }
        }
        None
    }
}

enum SyncTask {
    Now(Arc<Log>),
    Due(Arc<Log>, Later),
}
