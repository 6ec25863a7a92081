//! When leases of records at work are to be extended, and when a handler has had its time.
//!
//! ```text
//!  waiting ──start──▶ running ──remove──▶ (settled)
//!   extended           extended until its time is over
//! ```
//! A lease is extended when a third of it has passed, so that two extensions may go missing. It
//! reads no clock: it is told the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A lease is extended once this part of it has passed.
const PARTS: u32 = 3;
/// Leases are never extended more often than this.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// A record at work, by a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobId(u64);

/// How a record's handler used its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    InTime,
    /// It took longer than it may.
    Late,
}

#[derive(Debug)]
struct Job<T> {
    token: T,
    /// When to extend its lease; never again once its handler has had its time.
    extend_at: Option<Instant>,
    /// When its handler has had its time.
    deadline: Option<Instant>,
    pace: Pace,
}

/// Records that wait for their handler or are with it.
#[derive(Debug)]
pub(super) struct Watch<T> {
    jobs: BTreeMap<JobId, Job<T>>,
    next: u64,
    /// How long leases last: the longest that was seen, as a record may have waited before.
    lease: Duration,
    handler_timeout: Option<Duration>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due<T> {
    /// Extend this lease.
    Extend(T),
    /// Its handler has had its time: the record goes back.
    Late(T),
}

impl<T: Clone> Watch<T> {
    pub(super) const fn new(handler_timeout: Option<Duration>) -> Self {
        Self {
            jobs: BTreeMap::new(),
            next: 0,
            lease: Duration::ZERO,
            handler_timeout,
        }
    }

    /// A record came, with so much left of its lease.
    pub(super) fn add(&mut self, now: Instant, token: T, left: Duration) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.lease = self.lease.max(left);
        let job = Job {
            token,
            extend_at: Some(now + (left / PARTS).max(PAUSE_MIN)),
            deadline: None,
            pace: Pace::InTime,
        };
        self.jobs.insert(id, job);
        id
    }

    /// Its handler begins.
    pub(super) fn start(&mut self, now: Instant, id: JobId) {
        let deadline = self.handler_timeout.map(|timeout| now + timeout);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.deadline = deadline;
        }
    }

    /// Its handler is done, or nobody will handle it.
    pub(super) fn remove(&mut self, id: JobId) -> Pace {
        self.jobs.remove(&id).map_or(Pace::InTime, |job| job.pace)
    }

    /// What is due now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Due<T>> {
        let pause = (self.lease / PARTS).max(PAUSE_MIN);
        let mut due = Vec::new();
        for job in self.jobs.values_mut() {
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                job.deadline = None;
                job.extend_at = None;
                job.pace = Pace::Late;
                due.push(Due::Late(job.token.clone()));
            }
            if job.extend_at.is_some_and(|at| at <= now) {
                job.extend_at = Some(now + pause);
                due.push(Due::Extend(job.token.clone()));
            }
        }
        due
    }

    /// When something is due next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let times = self.jobs.values();
        times
            .flat_map(|job| [job.extend_at, job.deadline])
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_lease_is_extended_at_a_third_of_its_time_also_while_it_waits() {
        let start = Instant::now();
        let mut watch = Watch::new(None);
        let id = watch.add(start, 'a', LEASE);
        assert_eq!(watch.next_at(), Some(start + seconds(10)));
        assert!(watch.due(start + seconds(9)).is_empty());
        assert_eq!(watch.due(start + seconds(10)), [Due::Extend('a')]);
        watch.start(start + seconds(12), id);
        assert_eq!(watch.due(start + seconds(20)), [Due::Extend('a')]);
        assert_eq!(watch.next_at(), Some(start + seconds(30)));
        assert_eq!(watch.remove(id), Pace::InTime);
        assert_eq!(watch.next_at(), None);
        assert!(watch.due(start + seconds(90)).is_empty());
    }

    #[test]
    fn what_waited_before_it_came_is_extended_sooner_and_then_as_usual() {
        let start = Instant::now();
        let mut watch = Watch::new(None);
        watch.add(start, 'a', LEASE);
        watch.add(start, 'b', seconds(3));
        assert_eq!(watch.due(start + seconds(1)), [Due::Extend('b')]);
        let both = [Due::Extend('a'), Due::Extend('b')];
        assert_eq!(watch.due(start + seconds(11)), both);
    }

    #[test]
    fn a_handler_that_had_its_time_is_told_once_and_not_extended() {
        let start = Instant::now();
        let mut watch = Watch::new(Some(seconds(15)));
        let slow = watch.add(start, 's', LEASE);
        let waits = watch.add(start, 'w', LEASE);
        watch.start(start, slow);
        assert_eq!(watch.due(start + seconds(10)).len(), 2);
        assert_eq!(watch.due(start + seconds(15)), [Due::Late('s')]);
        assert_eq!(watch.due(start + seconds(20)), [Due::Extend('w')]);
        assert_eq!(watch.remove(slow), Pace::Late);
        assert_eq!(watch.remove(waits), Pace::InTime);
    }

    #[test]
    fn a_lease_that_is_over_already_is_not_extended_without_a_pause() {
        let start = Instant::now();
        let mut watch = Watch::new(None);
        watch.add(start, 'a', Duration::ZERO);
        assert!(watch.due(start).is_empty());
        assert!(watch.next_at() > Some(start));
    }
}
