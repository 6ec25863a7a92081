//! When the messages of an open loop are due.

use std::time::Duration;

/// The due times of one publisher's messages.
pub(super) struct Schedule {
    interval_ns: f64,
    /// Publishers take turns, so that together they are even.
    phase_ns: f64,
}

impl Schedule {
    /// The schedule of publisher `number` of so many that send `rate` messages a second together;
    /// none where they send as fast as they can.
    pub(super) fn new(rate: u64, publishers: usize, number: usize) -> Option<Self> {
        let interval_ns = publishers as f64 * 1e9 / rate as f64;
        (rate > 0).then(|| Self {
            interval_ns,
            phase_ns: interval_ns * number as f64 / publishers as f64,
        })
    }

    /// When message `sequence` is due.
    pub(super) fn due_ns(&self, sequence: u64) -> u64 {
        (self.phase_ns + self.interval_ns * sequence as f64) as u64
    }

    /// How many are due when `sent` were sent.
    pub(super) fn due(&self, now_ns: u64, sent: u64) -> u64 {
        let passed_ns = now_ns as f64 - self.phase_ns;
        if passed_ns < 0.0 {
            return 0;
        }
        ((passed_ns / self.interval_ns) as u64 + 1).saturating_sub(sent)
    }

    /// How long it is until message `sequence` is due.
    pub(super) fn until(&self, sequence: u64, now_ns: u64) -> Duration {
        Duration::from_nanos(self.due_ns(sequence).saturating_sub(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_take_turns() {
        assert!(Schedule::new(0, 1, 0).is_none());
        let of = |number| Schedule::new(1000, 2, number).unwrap();
        let first: Vec<u64> = (0..3).map(|n| of(0).due_ns(n)).collect();
        let second: Vec<u64> = (0..3).map(|n| of(1).due_ns(n)).collect();
        assert_eq!(first, [0, 2_000_000, 4_000_000]);
        assert_eq!(second, [1_000_000, 3_000_000, 5_000_000]);
        assert_eq!((of(0).due(4_000_000, 1), of(1).due(999_999, 0)), (2, 0));
        assert_eq!(of(1).until(1, 2_999_000), Duration::from_micros(1));
    }
}
