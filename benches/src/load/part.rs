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
    pub(super) fn count(
        &mut self,
        shared: &Shared,
        (now_ns, since_ns): (u64, u64),
        (messages, bytes): (u64, u64),
    ) {
        self.last_ns = now_ns;
        if now_ns < shared.counted_from_ns || now_ns >= shared.end_ns {
            return;
        }
        self.bytes += bytes;
        let since_start_ns = now_ns - shared.counted_from_ns;
        if shared.load.course != Course::Receive {
            let latency_ns = now_ns.saturating_sub(since_ns);
            self.latency.note(latency_ns, messages);
            if let Some(ends) = &mut self.ends {
                let whole_ns = shared.end_ns - shared.counted_from_ns;
                let part = since_start_ns * DRIFT_PART / whole_ns.max(1);
                match part {
                    0 => ends[0].note(latency_ns, messages),
                    last if last == DRIFT_PART - 1 => ends[1].note(latency_ns, messages),
                    _ => {}
                }
            }
        }
        let tenth = (since_start_ns / 100_000_000) as usize;
        if self.per_tenth.len() <= tenth {
            self.per_tenth.resize(tenth + 1, 0);
        }
        self.per_tenth[tenth] += messages;
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
