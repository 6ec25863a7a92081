//! What a handler's call comes to: a settle, and a count.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::failure::Failure;
use super::source::Delivery;
use super::stop::Report;
use super::watch::Pace;

/// What became of a call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed(Failure),
    /// With what the panic said.
    Panicked(String),
}

/// Calls a handler; a panic is an outcome like another.
pub(super) fn call(handler: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    // A record is handled again after a panic, so what the handler shares must stand that anyway.
    match catch_unwind(AssertUnwindSafe(handler)) {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(panic) => Outcome::Panicked(said(&*panic)),
    }
}

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

impl Outcome {
    /// Settles a record accordingly; what came too late was settled already.
    pub(super) fn settle(&self, delivery: Delivery, pace: Pace) -> fn(&mut Report) {
        let (offset, attempts) = (delivery.offset(), delivery.attempts());
        if pace == Pace::Late {
            tracing::warn!(%offset, attempts, "a handler took longer than it may; retried");
            drop(delivery);
            return |report| report.timed_out += 1;
        }
        match self {
            Self::Done => {
                delivery.ack();
                |report| report.acked += 1
            }
            Self::Failed(Failure::Retry { why }) => {
                tracing::debug!(%offset, attempts, "to be tried again: {why}");
                delivery.retry();
                |report| report.retried += 1
            }
            Self::Failed(Failure::RetryAfter { delay }) => {
                delivery.retry_after(*delay);
                |report| report.retried += 1
            }
            Self::Failed(Failure::Reject { reason }) => {
                delivery.reject(reason);
                |report| report.rejected += 1
            }
            Self::Panicked(what) => {
                tracing::warn!(%offset, attempts, "a handler panicked: {what}; retried");
                delivery.retry();
                |report| report.panicked += 1
            }
        }
    }
}
