//! The two times a queue runs on: boot time for leases, wall time for what is due.
//!
//! Wall time is taken as it is while it goes on as boot time does. After a jump of more than an hour
//! it holds still, until it is back within an hour of where it should be: what is due a year ahead
//! must not come at once because somebody set the clock.

use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use super::scheduler::Now;

/// A difference between expected and found wall time that is taken for a correction, not a jump.
const JUMP_US: u64 = 3_600_000_000;

/// What the clock was when it was last believed.
#[derive(Debug, Clone, Copy)]
struct Believed {
    boot_us: u64,
    wall_us: u64,
    /// The clock jumped and is not back.
    holding: bool,
}

/// Reads the machine's clocks.
#[derive(Debug)]
pub(crate) struct Clock {
    believed: Mutex<Believed>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            believed: Mutex::new(Believed {
                boot_us: read_us(ClockId::Boottime),
                wall_us: read_us(ClockId::Realtime),
                holding: false,
            }),
        }
    }

    /// Wall time now; `None` while it holds still after a jump.
    pub(super) fn believed_us(&self) -> Option<u64> {
        let now = self.now();
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        (!believed.holding).then_some(now.wall_us)
    }

    /// Both times now.
    pub(crate) fn now(&self) -> Now {
        let boot_us = read_us(ClockId::Boottime);
        let wall_us = read_us(ClockId::Realtime);
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let was_holding = believed.holding;
        *believed = believe(*believed, boot_us, wall_us);
        if believed.holding != was_holding {
            if believed.holding {
                tracing::warn!(
                    "the wall clock jumped by more than an hour: delays, expiry and retention by age hold until it is back, or the broker is restarted"
                );
            } else {
                tracing::info!("the wall clock is back: delays, expiry and retention by age go on");
            }
        }
        Now {
            boot_us,
            wall_us: believed.wall_us,
        }
    }
}

/// Boot time now: what leases are measured by.
pub(crate) fn boot_us() -> u64 {
    read_us(ClockId::Boottime)
}

/// Time of a processor that this thread has had.
pub(super) fn thread_us() -> u64 {
    read_us(ClockId::ThreadCPUTime)
}

/// What to believe after both clocks were read.
fn believe(believed: Believed, boot_us: u64, wall_us: u64) -> Believed {
    let passed_us = boot_us.saturating_sub(believed.boot_us);
    let expected_us = believed.wall_us.saturating_add(passed_us);
    if wall_us.abs_diff(expected_us) > JUMP_US {
        // `boot_us` stays: where the clock should be goes on from the last time it was right.
        return Believed {
            holding: true,
            ..believed
        };
    }
    Believed {
        boot_us,
        // A small step back is waited out.
        wall_us: wall_us.max(believed.wall_us),
        holding: false,
    }
}

fn read_us(clock: ClockId) -> u64 {
    #[cfg(test)]
    if let Some(us) = millstream_storage::hand::time_us() {
        return us;
    }
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(time.tv_nsec / 1_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    fn start() -> Believed {
        Believed {
            boot_us: 1_000,
            wall_us: 100 * HOUR_US,
            holding: false,
        }
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let next = believe(start(), 2_000, 100 * HOUR_US + 1_500);
        assert_eq!((next.wall_us, next.holding), (100 * HOUR_US + 1_500, false));
    }

    #[test]
    fn a_jump_of_years_holds_what_is_due_until_the_clock_is_back() {
        let jumped = believe(start(), 2_000, 100_000 * HOUR_US);
        assert_eq!((jumped.wall_us, jumped.holding), (100 * HOUR_US, true));
        let still = believe(jumped, 3_000, 100_000 * HOUR_US);
        assert_eq!((still.wall_us, still.holding), (100 * HOUR_US, true));
        let back = believe(still, 2 * HOUR_US, 102 * HOUR_US);
        assert_eq!((back.wall_us, back.holding), (102 * HOUR_US, false));
    }

    #[test]
    fn a_small_step_back_is_waited_out() {
        let next = believe(start(), 2_000, 100 * HOUR_US - 5_000_000);
        assert_eq!((next.wall_us, next.holding), (100 * HOUR_US, false));
    }
}
