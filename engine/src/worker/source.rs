//! Where workers take their records from: a consumer of this broker.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use super::stop::Stop;
pub(super) use crate::queue::{ConsumeError, Consumer, Delivery, DeliveryToken};

/// What taking a record brought.
pub(super) enum Taken {
    /// A record.
    Delivery(Delivery),
    /// Nothing in time.
    Nothing,
    /// It was told to stop, or nothing more will come.
    Over,
    /// The consumer failed.
    Failed(ConsumeError),
}

/// Takes the next record; blocks until there is one, until it is told to stop, or until `until`.
pub(super) fn take(consumer: &mut Consumer, stop: &Stop, until: Option<Instant>) -> Taken {
    park_until_or(until, |cx| {
        if stop.poll_stopped(cx).is_ready() {
            return Poll::Ready(Taken::Over);
        }
        consumer.poll_next(cx).map(|next| match next {
            Some(Ok(delivery)) => Taken::Delivery(delivery),
            Some(Err(error)) => Taken::Failed(error),
            None => Taken::Over,
        })
    })
    .unwrap_or(Taken::Nothing)
}

/// Whether a record's lease is known to be lost: in-process, settling it tells.
pub(super) const fn is_lost(_: &Delivery) -> bool {
    false
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls in this thread until there is something, or until `until`.
fn park_until_or<T>(
    until: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(ready) = poll(&mut cx) {
            return Some(ready);
        }
        match until {
            None => thread::park(),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                thread::park_timeout(left);
            }
        }
    }
}
