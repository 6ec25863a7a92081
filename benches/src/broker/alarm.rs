//! Waits of microseconds in a runtime whose own timer counts milliseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Waits from this length on are left to the runtime's timer.
const LONG: Duration = Duration::from_millis(20);

/// A timer of the kernel among what the runtime waits for.
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// Belongs to the runtime it is made in.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd is open as long as it is registered"
        )]
        let registered = AsyncFd::new(timer)?;
        Ok(Self(registered))
    }

    /// What `future` comes to within `wait`. Costs two system calls where it is short.
    pub(super) async fn within<F: Future>(
        &self,
        wait: Duration,
        future: F,
    ) -> io::Result<Option<F::Output>> {
        if wait >= LONG {
            return Ok(tokio::time::timeout(wait, future).await.ok());
        }
        self.set(wait)?;
        let mut future = pin!(future);
        let done = std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(value)));
            }
            self.0.poll_read_ready(cx).map_ok(|mut ready| {
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
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
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
            let alarm = Alarm::new().unwrap();
            let short = Duration::from_micros(50);
            for _ in 0..3 {
                assert_eq!(alarm.within(short, pending::<()>()).await.unwrap(), None);
                assert_eq!(alarm.within(short, ready(7)).await.unwrap(), Some(7));
            }
            let long = Duration::from_secs(1);
            assert_eq!(alarm.within(long, ready(8)).await.unwrap(), Some(8));
        });
    }
}
