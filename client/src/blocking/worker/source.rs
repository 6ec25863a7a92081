//! Where workers of threads take their records from: a consumer of a server.

use std::future::poll_fn;
use std::time::Instant;

use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::blocking::Consumer;
use crate::delivery::Delivery;
use crate::error::ConsumeError;
use crate::worker::Stop;

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

impl Taken {
    fn of(next: Option<Result<Delivery, ConsumeError>>) -> Self {
        match next {
            Some(Ok(delivery)) => Self::Delivery(delivery),
            Some(Err(error)) => Self::Failed(error),
            None => Self::Over,
        }
    }
}

/// Takes the next record; blocks until there is one, until it is told to stop, or until `until`.
pub(super) fn take(consumer: &mut Consumer, stop: &Stop, until: Option<Instant>) -> Taken {
    if stop.is_stopped() {
        return Taken::Over;
    }
    if let Some(next) = consumer.try_next() {
        return Taken::of(Some(next));
    }
    let Consumer { consumer, runtime } = consumer;
    runtime.block_on(async {
        let late = async {
            match until {
                Some(until) => sleep_until(TokioInstant::from_std(until)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| stop.poll_stopped(cx)) => Taken::Over,
            next = consumer.next() => Taken::of(next),
            () = late => Taken::Nothing,
        }
    })
}

/// Whether a record's lease is known to be lost.
pub(super) fn is_lost(delivery: &Delivery) -> bool {
    delivery.lease_left().is_zero()
}
