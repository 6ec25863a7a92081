//! How many records a batch should have so that handling it takes about as long as wanted.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The next size is at most so many times the last one, and at least one such part of it.
const STEP_MAX: u32 = 2;

/// The size of the next batch.
///
/// What one record took of late says how many fit the target; each step at most doubles or halves
/// the size, so that one odd batch does little. A batch that was not full says nothing about larger
/// ones, so it never lets the size grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizing {
    bounds: RangeInclusive<u32>,
    target: Duration,
    size: u32,
}

impl Sizing {
    /// Begins with the smallest size.
    pub(crate) fn new(bounds: RangeInclusive<u32>, target: Duration) -> Self {
        let least = (*bounds.start()).max(1);
        let bounds = least..=(*bounds.end()).max(least);
        Self {
            size: least,
            bounds,
            target,
        }
    }

    /// Most records of the next batch.
    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    /// Takes account of a batch of `records` that took so long.
    pub(crate) fn handled(&mut self, records: u32, took: Duration) {
        if records == 0 {
            return;
        }
        let full = records >= self.size;
        let target_ns = self.target.as_nanos();
        // Rounded up, or else one record that takes most of the target would stay alone for ever.
        let fitting = (target_ns * u128::from(records)).div_ceil(took.as_nanos().max(1));
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        let most = match full {
            true => self.size.saturating_mul(STEP_MAX),
            false => self.size,
        };
        let least = self.size.div_ceil(STEP_MAX);
        let size = fitting.clamp(least, most);
        self.size = size.clamp(*self.bounds.start(), *self.bounds.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(100);

    fn settled(per_record: Duration, fixed: Duration, bounds: RangeInclusive<u32>) -> u32 {
        let mut sizing = Sizing::new(bounds, TARGET);
        for _ in 0..50 {
            let size = sizing.size();
            sizing.handled(size, fixed + per_record * size);
        }
        sizing.size()
    }

    #[test]
    fn the_size_settles_where_a_batch_takes_the_target() {
        let ms = Duration::from_millis;
        assert_eq!(settled(ms(1), Duration::ZERO, 1..=1000), 100);
        assert_eq!(settled(ms(10), Duration::ZERO, 1..=1000), 10);
        // With 50 ms a batch whatever its size, 50 records of 1 ms fill the rest.
        assert!((45..=55).contains(&settled(ms(1), ms(50), 1..=1000)));
    }

    #[test]
    fn the_bounds_hold() {
        let ms = Duration::from_millis;
        assert_eq!(settled(Duration::ZERO, Duration::ZERO, 1..=64), 64);
        assert_eq!(settled(ms(1000), Duration::ZERO, 8..=64), 8);
        assert_eq!(settled(ms(1), Duration::ZERO, 7..=7), 7);
        assert_eq!(settled(ms(1), Duration::ZERO, 0..=0), 1);
    }

    #[test]
    fn one_step_at_most_doubles_or_halves() {
        let mut sizing = Sizing::new(1..=1000, TARGET);
        sizing.handled(1, Duration::ZERO);
        assert_eq!(sizing.size(), 2);
        sizing.handled(2, Duration::ZERO);
        assert_eq!(sizing.size(), 4);
        sizing.handled(4, Duration::from_secs(3600));
        assert_eq!(sizing.size(), 2);
    }

    #[test]
    fn a_batch_that_was_not_full_lets_nothing_grow() {
        let mut sizing = Sizing::new(16..=1000, TARGET);
        sizing.handled(3, Duration::ZERO);
        assert_eq!(sizing.size(), 16);
        sizing.handled(16, Duration::ZERO);
        assert_eq!(sizing.size(), 32);
        // But a slow one shrinks it.
        sizing.handled(8, Duration::from_millis(100));
        assert_eq!(sizing.size(), 16);
        sizing.handled(0, Duration::from_secs(1));
        assert_eq!(sizing.size(), 16);
    }
}
