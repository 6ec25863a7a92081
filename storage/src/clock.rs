//! Wall time for append times: the kernel's coarse clock, which costs a few nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds of the Unix epoch, a few milliseconds behind at most.
pub(crate) fn wall_us() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}
