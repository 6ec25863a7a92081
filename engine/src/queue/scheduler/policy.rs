//! What a queue promises: modes, leases, back-off, and what becomes of records that are used up.

/// Attempts are counted up to this and stay there; a larger limit on deliveries acts as this one.
pub(crate) const ATTEMPTS_MAX: u16 = (1 << 13) - 1;

/// Both times, as the driver read them before the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Now {
    /// Microseconds since the machine started: leases run on it.
    pub(crate) boot_us: u64,
    /// Microseconds of the Unix epoch: what is due or expires goes by it.
    pub(crate) wall_us: u64,
}

/// In what order a queue gives out its records; fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Redeliveries first, then by offset.
    Plain,
    /// As plain; of a group one record at a time, in order, across retries.
    Grouped,
    /// Higher priority first, then as plain.
    Prioritised,
}

/// What becomes of a record whose time ran out before it was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnExpiry {
    /// It is settled, and counted.
    Drop,
    /// It is moved, as far as the queue keeps dead letters.
    DeadLetter,
}

/// Whether dead letters are moved to a queue of their own or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetters {
    /// Moved.
    Kept,
    /// Settled, and counted as dropped.
    Dropped,
}

/// How long a retried record waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// After the first attempt.
    pub(crate) first_us: u64,
    /// Never longer than this.
    pub(crate) cap_us: u64,
    /// Thousandths that each further attempt multiplies the wait by; 1000 or less keeps it fixed.
    pub(crate) multiplier_milli: u32,
    /// Up to so much of the wait is taken off, so that what failed together does not return together.
    pub(crate) jitter_percent: u8,
}

impl Backoff {
    /// The wait after `attempts` deliveries of the record at `offset`; the same for the same.
    pub(crate) fn delay_us(&self, attempts: u16, offset: u64) -> u64 {
        let mut delay_us = self.first_us.min(self.cap_us);
        if self.multiplier_milli > 1000 && delay_us > 0 {
            for _ in 1..attempts {
                if delay_us >= self.cap_us {
                    break;
                }
                let grown = u128::from(delay_us) * u128::from(self.multiplier_milli) / 1000;
                let grown_us = u64::try_from(grown).unwrap_or(u64::MAX);
                if grown_us == delay_us {
                    break;
                }
                delay_us = grown_us.min(self.cap_us);
            }
        }
        let percent = u128::from(self.jitter_percent.min(100));
        let share = u128::from(mix(offset ^ (u64::from(attempts) << 48)) >> 32);
        let off = (u128::from(delay_us) * percent * share / 100) >> 32;
        delay_us - u64::try_from(off).unwrap_or(delay_us)
    }
}

/// The finisher of splitmix64: neighbours come out far apart.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a queue promises, as far as the scheduler needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// How long a delivery is leased unless its consumer says otherwise.
    pub(crate) lease_us: u64,
    /// Counted deliveries after which a record is a dead letter; 0: no limit.
    pub(crate) deliveries_max: u16,
    pub(crate) backoff: Backoff,
    pub(crate) expired: OnExpiry,
    /// Records older than this expire; 0: never.
    pub(crate) age_max_us: u64,
    pub(crate) dead_letters: DeadLetters,
}

impl Policy {
    /// Whether a record delivered so often is not to be delivered again.
    pub(super) fn is_used_up(&self, attempts: u16) -> bool {
        self.deliveries_max != 0 && attempts >= self.deliveries_max.min(ATTEMPTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_backoff_stays_and_an_exponential_one_grows_to_its_cap() {
        let fixed = Backoff {
            first_us: 100,
            cap_us: 1_000,
            multiplier_milli: 1000,
            jitter_percent: 0,
        };
        assert_eq!([1, 2, 9].map(|n| fixed.delay_us(n, 7)), [100, 100, 100]);
        let doubled = Backoff {
            multiplier_milli: 2000,
            ..fixed
        };
        let delays = [1, 2, 3, 4, 5, 8191].map(|n| doubled.delay_us(n, 7));
        assert_eq!(delays, [100, 200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn jitter_takes_off_up_to_its_share_and_is_the_same_each_time() {
        let backoff = Backoff {
            first_us: 1_000_000,
            cap_us: 1_000_000,
            multiplier_milli: 1000,
            jitter_percent: 20,
        };
        let delays: Vec<u64> = (0..1000).map(|at| backoff.delay_us(1, at)).collect();
        assert!(delays.iter().all(|us| (800_000..=1_000_000).contains(us)));
        assert!(delays.iter().any(|us| *us < 820_000) && delays.iter().any(|us| *us > 980_000));
        assert_eq!(delays[5], backoff.delay_us(1, 5));
    }
}
