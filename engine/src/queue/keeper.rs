//! The threads behind all queues: one that never waits for the disk, one that may.
//!
//! | thread | does | waits for |
//! | --- | --- | --- |
//! | `ms-queue` | runs queues that were handed over or woken, at the times they asked for | its lists |
//! | `ms-keep` | moves dead letters, writes checkpoints, trims topics and the journal | the disk |

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millstream_storage::Handed;

use super::clock::{boot_us, thread_us};
use super::shared::QueueShared;

/// Settles that nobody handed over wait this long at most.
const NUDGE: Duration = Duration::from_millis(1);
/// Moves, trimming and checkpoints are looked after this often at most, while there is reason to: a queue that
/// settles a gigabyte a second has few segments behind it then, and their files serve again while they are in memory.
const CHORES_US_MIN: u64 = 25_000;
/// And this often at least.
const CHORES_US_MAX: u64 = 500_000;
/// In between, they have one part in so many of a processor, and half of the time. The disk, for which they wait, is
/// slow just where much is published and the files of what goes are to serve again.
const CHORES_SHARE: u64 = 20;

#[derive(Default)]
struct Lists {
    runnable: VecDeque<(Arc<QueueShared>, Handed)>,
    nudged: Vec<Arc<QueueShared>>,
    /// Times at which queues are to be run, by time.
    timers: BTreeSet<(u64, u32)>,
    /// The time each queue has in `timers`.
    timed: HashMap<u32, (u64, Weak<QueueShared>)>,
    stopping: bool,
}

#[derive(Default)]
struct Chores {
    /// Something changed that the repeated chore looks after, or was put off.
    due: bool,
    /// Something changed.
    soon: bool,
    /// Something failed: not before the longest pause.
    failed: bool,
    /// Boot time at which it is due, whatever changes before.
    at_us: Option<u64>,
    stopping: bool,
}

impl Chores {
    /// Whether it is due at boot time `now_us`, but for the pause.
    fn is_due(&mut self, now_us: u64) -> bool {
        self.due |= self.at_us.is_some_and(|at_us| at_us <= now_us);
        self.due
    }

    /// Notes that it is done now.
    fn begin(&mut self) {
        let stopping = self.stopping;
        *self = Self {
            stopping,
            ..Self::default()
        };
    }

    /// How long after the last time they are done again, where `soon_us` is what that time allows.
    fn pause_us(&self, soon_us: u64) -> u64 {
        if self.soon && !self.failed {
            soon_us
        } else {
            CHORES_US_MAX
        }
    }
}

/// Both threads, once they were started.
#[derive(Default)]
struct Threads {
    queue: Option<JoinHandle<()>>,
    keep: Option<JoinHandle<()>>,
}

/// Waits for the end of a thread, unless that is this one.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.thread().id() != thread::current().id()
        && thread.join().is_err()
    {
        tracing::error!("a queue thread panicked");
    }
}

/// The lists of both threads.
#[derive(Default)]
pub(super) struct Keeper {
    lists: Mutex<Lists>,
    bell: Condvar,
    chores: Mutex<Chores>,
    chores_bell: Condvar,
    threads: Mutex<Threads>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// Starts both threads. `repeated` is called by the second when something changed, after a pause of
    /// [`CHORES_US_MIN`] to [`CHORES_US_MAX`].
    ///
    /// # Errors
    ///
    /// When the system has no more threads to give.
    pub(super) fn start(
        self: &Arc<Self>,
        repeated: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        #[cfg(test)]
        if millstream_storage::hand::is_working() {
            return Ok(());
        }
        let keeper = Arc::clone(self);
        let runner = thread::Builder::new()
            .name("ms-queue".to_owned())
            .spawn(move || keeper.run_queues())?;
        self.threads().queue = Some(runner);
        let keeper = Arc::clone(self);
        let keep = thread::Builder::new()
            .name("ms-keep".to_owned())
            .spawn(move || keeper.run_chores(&repeated))?;
        self.threads().keep = Some(keep);
        Ok(())
    }

    /// Goes on with a queue that was handed over, in the worker.
    ///
    /// # Errors
    ///
    /// Gives the baton back when the worker has ended: nobody else would go on with it.
    pub(super) fn run_soon(&self, queue: &Arc<QueueShared>, handed: Handed) -> Result<(), Handed> {
        let mut lists = self.lists();
        if lists.stopping {
            return Err(handed);
        }
        lists.runnable.push_back((Arc::clone(queue), handed));
        drop(lists);
        self.bell.notify_one();
        Ok(())
    }

    /// Has `queue` look for settles soon.
    pub(super) fn nudge(&self, queue: &Arc<QueueShared>) {
        self.lists().nudged.push(Arc::clone(queue));
        self.bell.notify_one();
    }

    /// Has `queue` run at boot time `at_us`, instead of the time it asked for before.
    pub(super) fn wake_at(&self, queue: &Arc<QueueShared>, at_us: u64) {
        let mut lists = self.lists();
        let weak = Arc::downgrade(queue);
        if let Some((before_us, _)) = lists.timed.insert(queue.id, (at_us, weak)) {
            lists.timers.remove(&(before_us, queue.id));
        }
        let first = lists.timers.first().is_none_or(|(first, _)| at_us < *first);
        lists.timers.insert((at_us, queue.id));
        if first {
            self.bell.notify_one();
        }
    }

    /// Something changed: has the repeated chore look.
    pub(super) fn look_after(&self) {
        let mut chores = self.chores();
        if !chores.soon {
            chores.due = true;
            chores.soon = true;
            self.chores_bell.notify_one();
        }
    }

    /// Something is not done yet: has the repeated chore look again, after the longest pause.
    pub(super) fn look_again(&self) {
        let mut chores = self.chores();
        if !chores.due {
            chores.due = true;
            self.chores_bell.notify_one();
        }
    }

    /// Has the repeated chore look again at boot time `at_us`, and then ask anew; the earliest time holds.
    pub(super) fn look_at(&self, at_us: u64) {
        let mut chores = self.chores();
        if chores.at_us.is_none_or(|earliest_us| at_us < earliest_us) {
            chores.at_us = Some(at_us);
            self.chores_bell.notify_one();
        }
    }

    /// Something failed: has the repeated chore try again after the longest pause, whatever changes meanwhile.
    pub(super) fn try_again(&self) {
        let mut chores = self.chores();
        chores.failed = true;
        if !chores.due {
            chores.due = true;
            self.chores_bell.notify_one();
        }
    }

    /// Ends both threads once what they are at is done.
    pub(super) fn stop(&self) {
        let Threads { queue, keep } = std::mem::take(&mut *self.threads());
        // First the one that asks queues and waits for their answers: the other may hold their batons.
        self.chores().stopping = true;
        self.chores_bell.notify_all();
        join(keep);
        self.lists().stopping = true;
        self.bell.notify_all();
        join(queue);
        let mut lists = self.lists();
        let runnable = std::mem::take(&mut lists.runnable);
        let nudged = std::mem::take(&mut lists.nudged);
        lists.timers.clear();
        lists.timed.clear();
        drop(lists);
        // Settles that wait were refused when their queue was wound up.
        drop(nudged);
        for (queue, handed) in runnable {
            guarded(&queue, |queue| queue.resume(handed));
        }
    }

    /// Does one piece of what the first thread would; false where nothing is to do.
    #[cfg(test)]
    pub(super) fn work_by_hand(&self) -> bool {
        let mut lists = self.lists();
        if let Some(queue) = lists.due(boot_us()) {
            drop(lists);
            if let Some(queue) = queue.upgrade() {
                guarded(&queue, QueueShared::knock);
            }
            return true;
        }
        if let Some((queue, handed)) = lists.runnable.pop_front() {
            drop(lists);
            guarded(&queue, |queue| queue.resume(handed));
            return true;
        }
        let nudged = std::mem::take(&mut lists.nudged);
        drop(lists);
        for queue in &nudged {
            guarded(queue, QueueShared::nudged);
        }
        !nudged.is_empty()
    }

    /// Whether the repeated chore is due; the caller does it.
    #[cfg(test)]
    pub(super) fn take_chore(&self) -> bool {
        let mut chores = self.chores();
        let is_due = chores.is_due(boot_us());
        if is_due {
            chores.begin();
        }
        is_due
    }

    fn run_queues(&self) {
        loop {
            let mut lists = self.lists();
            if lists.stopping {
                return;
            }
            let now_us = boot_us();
            // A queue that is always busy must not keep the others' leases from ending: who is due
            // goes first, and each once until it asks again.
            if let Some(queue) = lists.due(now_us) {
                drop(lists);
                if let Some(queue) = queue.upgrade() {
                    guarded(&queue, QueueShared::knock);
                }
                continue;
            }
            if !lists.nudged.is_empty() && lists.runnable.is_empty() {
                // Those who nudge meanwhile are answered with the others.
                let (waited, _) = self
                    .bell
                    .wait_timeout(lists, NUDGE)
                    .unwrap_or_else(PoisonError::into_inner);
                lists = waited;
            }
            let nudged = std::mem::take(&mut lists.nudged);
            let runnable = lists.runnable.pop_front();
            if !nudged.is_empty() || runnable.is_some() {
                drop(lists);
                for queue in nudged {
                    guarded(&queue, QueueShared::nudged);
                }
                let Some((queue, handed)) = runnable else {
                    continue;
                };
                guarded(&queue, |queue| queue.resume(handed));
                continue;
            }
            let next = lists.timers.first().map(|(at_us, _)| *at_us);
            match next {
                Some(at_us) => {
                    let left = Duration::from_micros(at_us.saturating_sub(now_us).max(1));
                    drop(self.bell.wait_timeout(lists, left));
                }
                None => drop(self.bell.wait(lists)),
            }
        }
    }

    fn run_chores(&self, repeated: &impl Fn()) {
        let (mut repeated_us, mut pause_soon_us) = (0, 0);
        loop {
            let mut chores = self.chores();
            if chores.stopping {
                return;
            }
            let now_us = boot_us();
            let since_us = now_us.saturating_sub(repeated_us);
            let pause_us = chores.pause_us(pause_soon_us);
            let is_due = chores.is_due(now_us);
            if is_due && since_us >= pause_us {
                chores.begin();
                drop(chores);
                let begun_us = thread_us();
                if catch_unwind(AssertUnwindSafe(repeated)).is_err() {
                    tracing::error!("a queue chore panicked");
                    self.try_again();
                }
                repeated_us = boot_us();
                let spent_us = thread_us().saturating_sub(begun_us);
                pause_soon_us = pause_behind_us(spent_us, repeated_us.saturating_sub(now_us));
                continue;
            }
            let left_us = match chores.at_us {
                _ if is_due => Some(pause_us - since_us),
                at_us => at_us.map(|at_us| at_us - now_us),
            };
            if let Some(left_us) = left_us {
                let left = Duration::from_micros(left_us);
                drop(self.chores_bell.wait_timeout(chores, left));
            } else {
                drop(self.chores_bell.wait(chores));
            }
        }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chores(&self) -> MutexGuard<'_, Chores> {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shortest pause behind chores that had a processor for `spent_us` of the `took_us` they took.
fn pause_behind_us(spent_us: u64, took_us: u64) -> u64 {
    (spent_us * (CHORES_SHARE - 1))
        .max(took_us)
        .clamp(CHORES_US_MIN, CHORES_US_MAX)
}

impl Lists {
    /// Takes a queue whose time has come.
    fn due(&mut self, now_us: u64) -> Option<Weak<QueueShared>> {
        let first = *self.timers.first()?;
        if first.0 > now_us {
            return None;
        }
        self.timers.remove(&first);
        let (_, queue) = self.timed.remove(&first.1)?;
        Some(queue)
    }
}

/// Runs a queue; a panic there stops that queue, which keeps its baton for ever, and no other.
fn guarded(queue: &Arc<QueueShared>, run: impl FnOnce(&Arc<QueueShared>)) {
    if catch_unwind(AssertUnwindSafe(|| run(queue))).is_err() {
        tracing::error!(queue = %queue.name, "a queue panicked and is stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_waits_for_the_longest_pause_whatever_changes() {
        let keeper = Keeper::default();
        let soon_us = CHORES_US_MIN;
        keeper.look_again();
        assert_eq!(keeper.chores().pause_us(soon_us), CHORES_US_MAX);
        keeper.look_after();
        assert_eq!(keeper.chores().pause_us(soon_us), soon_us);
        keeper.try_again();
        keeper.look_after();
        assert_eq!(keeper.chores().pause_us(soon_us), CHORES_US_MAX);
        assert!(keeper.take_chore());
        keeper.look_after();
        assert_eq!(keeper.chores().pause_us(soon_us), soon_us);
    }

    #[test]
    fn what_chores_wait_for_is_no_time_of_a_processor() {
        assert_eq!(pause_behind_us(100, 15_000), CHORES_US_MIN);
        assert_eq!(pause_behind_us(100, 40_000), 40_000);
        assert_eq!(pause_behind_us(10_000, 15_000), 190_000);
        assert_eq!(pause_behind_us(10_000, 900_000), CHORES_US_MAX);
    }
}
