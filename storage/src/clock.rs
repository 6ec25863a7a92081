//! Wall time for append times and run time for durations: the kernel's coarse clocks, which cost a
//! few nanoseconds.

#[cfg(not(loom))]
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Microseconds of the Unix epoch, a few milliseconds behind at most.
#[cfg(not(loom))]
pub(crate) fn wall_us() -> u64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(us) = crate::hand::time_us() {
        return us;
    }
    micros(clock_gettime(ClockId::RealtimeCoarse))
}

/// Microseconds since the machine started; for durations, whatever is done to the wall clock.
#[cfg(not(loom))]
pub(crate) fn run_us() -> u64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(us) = crate::hand::time_us() {
        return us;
    }
    micros(clock_gettime(ClockId::MonotonicCoarse))
}

#[cfg(not(loom))]
fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}

/// A model takes the same steps each time, so its clock stands.
#[cfg(loom)]
pub(crate) fn wall_us() -> u64 {
    1
}

#[cfg(loom)]
pub(crate) fn run_us() -> u64 {
    1
}
