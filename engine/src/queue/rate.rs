//! How much happens a second, smoothed over the last ten.

/// Time after which what happened weighs a third.
const SPAN_US: f64 = 10_000_000.0;

/// An exponentially weighted rate.
#[derive(Debug, Clone, Copy, Default)]
struct Smoothed {
    per_us: f64,
    at_us: u64,
}

impl Smoothed {
    fn add(&mut self, count: u64, now_us: u64) {
        self.per_us = self.at(now_us) + count as f64 / SPAN_US;
        self.at_us = now_us;
    }

    fn at(&self, now_us: u64) -> f64 {
        let passed_us = now_us.saturating_sub(self.at_us) as f64;
        self.per_us * (-passed_us / SPAN_US).exp()
    }

    fn milli_per_s(&self, now_us: u64) -> u64 {
        (self.at(now_us) * 1e9) as u64
    }
}

/// Deliveries and settles of a queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    delivered: Smoothed,
    settled: Smoothed,
}

impl Rate {
    pub(super) fn delivered(&mut self, count: u64, now_us: u64) {
        self.delivered.add(count, now_us);
    }

    pub(super) fn settled(&mut self, count: u64, now_us: u64) {
        self.settled.add(count, now_us);
    }

    /// Thousandths a second: delivered, settled.
    pub(super) fn milli_per_s(&self, now_us: u64) -> (u64, u64) {
        (
            self.delivered.milli_per_s(now_us),
            self.settled.milli_per_s(now_us),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_told_and_fades() {
        let mut rate = Rate::default();
        for second in 0..100 {
            rate.delivered(50, second * 1_000_000);
        }
        let (delivered, settled) = rate.milli_per_s(100_000_000);
        assert!((45_000..=55_000).contains(&delivered), "{delivered}");
        assert_eq!(settled, 0);
        assert!(rate.milli_per_s(200_000_000).0 < 10);
    }
}
