//! What one thread of a run brings back.

use super::shared::{Course, Shared};
use super::{Latency, Ledger};

/// Runs at least so long tell how their beginning and their end differ.
const DRIFT_SECONDS_MIN: f64 = 10.0;
/// Which part of such a run its beginning and its end are.
const DRIFT_PART: u64 = 5;

/// Counts and latencies of one thread, or of all.
pub(super) struct Part {
    pub(super) latency: Latency,
    /// Latencies of the first and the last fifth of a long run.
    pub(super) ends: Option<[Latency; 2]>,
    pub(super) per_tenth: Vec<u64>,
    pub(super) bytes: u64,
    /// A receiver's.
    pub(super) ledger: Option<Ledger>,
    /// When its last message was through.
    pub(super) last_ns: u64,
}

impl Part {
    pub(super) fn new(shared: &Shared) -> Self {
        let long = shared.load.parameters.seconds >= DRIFT_SECONDS_MIN
            && shared.load.course != Course::Receive;
        Self {
            latency: Latency::new(),
            ends: long.then(|| [Latency::new(), Latency::new()]),
            per_tenth: Vec::new(),
            bytes: 0,
            ledger: None,
            last_ns: 0,
        }
    }

    /// Counts `messages` of `bytes` that were through at `now_ns` and due at `since_ns`.
    ///
    /// Throughput is of what was through while the run counted. In an open loop latency is of what was
    /// *due* then, whenever it was through: else what is late at the end would not count at all.
    pub(super) fn count(
        &mut self,
        shared: &Shared,
        (now_ns, since_ns): (u64, u64),
        (messages, bytes): (u64, u64),
    ) {
        self.last_ns = now_ns;
        let open_loop = shared.load.parameters.rate > 0;
        let placed_ns = if open_loop { since_ns } else { now_ns };
        if shared.load.course != Course::Receive && shared.counts_at(placed_ns) {
            let latency_ns = now_ns.saturating_sub(since_ns);
            self.note_latency(shared, placed_ns, (latency_ns, messages));
        }
        if !shared.counts_at(now_ns) {
            return;
        }
        self.bytes += bytes;
        let since_start_ns = now_ns - shared.counted_from_ns;
        let tenth = (since_start_ns / 100_000_000) as usize;
        if self.per_tenth.len() <= tenth {
            self.per_tenth.resize(tenth + 1, 0);
        }
        self.per_tenth[tenth] += messages;
    }

    /// Notes a message that was due at `due_ns` and still not sent at `now_ns`: it took that long at
    /// least.
    pub(super) fn count_unsent(&mut self, shared: &Shared, (now_ns, due_ns): (u64, u64)) {
        if shared.counts_at(due_ns) {
            self.note_latency(shared, due_ns, (now_ns.saturating_sub(due_ns), 1));
        }
    }

    fn note_latency(&mut self, shared: &Shared, placed_ns: u64, (ns, messages): (u64, u64)) {
        self.latency.note(ns, messages);
        if let Some(ends) = &mut self.ends {
            let whole_ns = shared.end_ns - shared.counted_from_ns;
            let since_start_ns = placed_ns - shared.counted_from_ns;
            match since_start_ns * DRIFT_PART / whole_ns.max(1) {
                0 => ends[0].note(ns, messages),
                last if last == DRIFT_PART - 1 => ends[1].note(ns, messages),
                _ => {}
            }
        }
    }

    /// By how much fewer messages were through in the last part of a long run than in its first.
    pub(super) fn throughput_drift(&self, seconds: f64) -> f64 {
        let tenths = (seconds * 10.0) as usize;
        let part = tenths / DRIFT_PART as usize;
        let sum = |from: usize| -> u64 { self.per_tenth.iter().skip(from).take(part).sum() };
        sum(tenths - part) as f64 / sum(0).max(1) as f64
    }

    /// Adds another thread's; the ledgers are left alone.
    pub(super) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        if let (Some(mine), Some(theirs)) = (&mut self.ends, &other.ends) {
            mine[0].merge(&theirs[0]);
            mine[1].merge(&theirs[1]);
        }
        self.bytes += other.bytes;
        self.last_ns = self.last_ns.max(other.last_ns);
        if self.per_tenth.len() < other.per_tenth.len() {
            self.per_tenth.resize(other.per_tenth.len(), 0);
        }
        for (all, one) in self.per_tenth.iter_mut().zip(&other.per_tenth) {
            *all += one;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::Kind;
    use crate::load::{Load, Parameters};

    /// One that counts from the first to the third second.
    fn shared(rate: u64) -> Shared {
        let load = Load {
            course: Course::Publish,
            kind: Kind::Stream,
            topics: 1,
            silence: Duration::from_secs(1),
            crowd: None,
            yardsticks: false,
            parameters: Parameters {
                rate,
                warmup_s: 1.0,
                seconds: 2.0,
                ..Parameters::default()
            },
        };
        Shared::new(&load, &[0], 0)
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn in_an_open_loop_what_is_late_at_the_end_counts_as_late() {
        let shared = shared(1000);
        let mut part = Part::new(&shared);
        part.count(&shared, (5 * SECOND, 2 * SECOND), (1, 100));
        part.count(&shared, (5 * SECOND, 4 * SECOND), (1, 100));
        part.count(&shared, (2 * SECOND, SECOND / 2), (1, 100));
        part.count_unsent(&shared, (6 * SECOND, 2 * SECOND));
        let found = part.latency.percentiles();
        assert_eq!(found.count, 2, "what was due while it counted");
        assert!(found.max_ns >= 4 * SECOND, "{found:?}");
        assert_eq!(part.per_tenth.iter().sum::<u64>(), 1, "was through then");
    }

    #[test]
    fn in_a_closed_loop_what_was_through_in_time_counts() {
        let shared = shared(0);
        let mut part = Part::new(&shared);
        part.count(&shared, (2 * SECOND, SECOND / 2), (1, 100));
        part.count(&shared, (5 * SECOND, 2 * SECOND), (1, 100));
        let found = part.latency.percentiles();
        assert_eq!((found.count, part.per_tenth.iter().sum()), (1, 1));
    }
}
