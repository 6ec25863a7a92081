//! Keeps an I/O thread looking for work, for a while after the last that came, instead of sleeping.
//!
//! One task a thread yields again and again: between two of its turns the runtime asks the kernel what
//! is ready without waiting for it. That costs the thread's processor and saves the wake-up, which is
//! most of what a message takes that comes alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The longest that a thread looks for work before it sleeps.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// Looks at the sockets between two of the times that the processor is offered to others, and the clock is
/// looked at: each takes as long as a look.
const TURNS: u32 = 16;

/// When a thread may sleep.
#[derive(Debug)]
pub(crate) struct Awake {
    time: Duration,
    until: Cell<Instant>,
    /// Of the task that keeps the thread awake, while it does not.
    resting: RefCell<Option<Waker>>,
}

impl Awake {
    /// Awake for `time`, at most an hour, after each [`stir`](Self::stir).
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            time: time.min(TIME_MAX),
            until: Cell::new(Instant::now()),
            resting: RefCell::default(),
        }
    }

    /// Something came.
    pub(crate) fn stir(&self) {
        self.until.set(Instant::now() + self.time);
        if let Some(waker) = self.resting.take() {
            waker.wake();
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() < self.until.get()
    }

    /// Keeps the thread awake when it is to be, and never ends.
    pub(crate) async fn keep(&self) {
        loop {
            while self.is_due() {
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                // Whoever else waits for this processor has a turn now: it may be who sends the next message.
                std::thread::yield_now();
            }
            poll_fn(|cx| {
                if self.is_due() {
                    return Poll::Ready(());
                }
                *self.resting.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(Mutex<u32>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }

    fn wakes(count: &Count) -> u32 {
        std::mem::take(&mut *count.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[test]
    fn it_goes_round_while_it_is_due_and_rests_until_something_comes() {
        let count = Arc::new(Count::default());
        let waker = count.clone().into();
        let mut cx = Context::from_waker(&waker);
        let awake = Awake::new(Duration::MAX);
        let mut keep = pin!(awake.keep());
        assert!(keep.as_mut().poll(&mut cx).is_pending());
        assert_eq!(wakes(&count), 0, "nothing came yet");
        awake.stir();
        assert_eq!(wakes(&count), 1);
        for _ in 0..3 {
            assert!(keep.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakes(&count), 1, "it comes round again");
        }
        awake.stir();
        assert_eq!(wakes(&count), 0, "it does already");
        awake.until.set(Instant::now());
        let mut rounds = 0;
        while keep.as_mut().poll(&mut cx).is_pending() && wakes(&count) == 1 {
            rounds += 1;
        }
        assert!(rounds < TURNS, "its time is over");
        awake.stir();
        assert_eq!(wakes(&count), 1);
    }
}
