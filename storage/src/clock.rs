//! Wall time for append times: the kernel's coarse clock, which costs a few nanoseconds.

#[cfg(not(loom))]
use rustix::time::{ClockId, clock_gettime};

/// Microseconds of the Unix epoch, a few milliseconds behind at most.
#[cfg(not(loom))]
pub(crate) fn wall_us() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}

/// A model takes the same steps each time, so its clock stands.
#[cfg(loom)]
pub(crate) fn wall_us() -> u64 {
    1
}
