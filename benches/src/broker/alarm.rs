//! Bounds for waiting that cost next to nothing where what is waited for comes first.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep};

/// Waits from this length on are left to the runtime's timer.
const LONG: Duration = Duration::from_millis(20);

/// A timer of the kernel among what the runtime waits for, as the runtime's own counts milliseconds; and one
/// of the runtime's, which stays set from one wait to the next, as setting it anew wakes the runtime.
pub(super) struct Alarm {
    short: AsyncFd<OwnedFd>,
    long: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Belongs to the runtime it is made in.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd is open as long as it is registered"
        )]
        let short = AsyncFd::new(timer)?;
        Ok(Self {
            short,
            long: Box::pin(sleep(Duration::ZERO)),
        })
    }

    /// What `future` comes to within `wait`, or where that is long, within half of it at least. Costs two
    /// system calls where it is short.
    pub(super) async fn within<F: Future>(
        &mut self,
        wait: Duration,
        future: F,
    ) -> io::Result<Option<F::Output>> {
        let mut future = pin!(future);
        if wait >= LONG {
            let now = Instant::now();
            let left = self.long.deadline().saturating_duration_since(now);
            if left < wait / 2 || left > wait {
                self.long.as_mut().reset(now + wait);
            }
            let done = std::future::poll_fn(|cx| {
                if let Poll::Ready(value) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(value));
                }
                self.long.as_mut().poll(cx).map(|()| None)
            });
            return Ok(done.await);
        }
        self.set(wait)?;
        let done = std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(value)));
            }
            self.short.poll_read_ready(cx).map_ok(|mut ready| {
                ready.clear_ready();
                None
            })
        });
        done.await
    }

    /// Rings once after `wait`; what it rang before is forgotten by that.
    fn set(&self, wait: Duration) -> io::Result<()> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: none,
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(wait.subsec_nanos()).max(1),
            },
        };
        timerfd_settime(self.short.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn it_rings_each_time_and_gives_way_to_what_is_there() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            let short = Duration::from_micros(50);
            for _ in 0..3 {
                assert_eq!(alarm.within(short, pending::<()>()).await.unwrap(), None);
                assert_eq!(alarm.within(short, ready(7)).await.unwrap(), Some(7));
            }
            let long = 2 * LONG;
            for _ in 0..3 {
                assert_eq!(alarm.within(long, ready(8)).await.unwrap(), Some(8));
                let began = Instant::now();
                assert_eq!(alarm.within(long, pending::<()>()).await.unwrap(), None);
                assert!(began.elapsed() >= long / 2, "half of it at least");
            }
        });
    }
}
