//! When a future that never has to wait lets what carries its connection have a turn.
//!
//! In a task of tokio that is tokio's to say. A [`blocking::Driver`](crate::blocking::Driver) polls futures
//! outside of tasks, where tokio never says so, and counts for itself.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use tokio::task::coop::consume_budget;

/// What a future may do in one turn: as much as tokio lets a task do.
const BUDGET: u32 = 128;

thread_local! {
    /// What the future that this thread polls may still do in its turn; none where tokio counts.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Counts one thing done; where that was the last of the turn, others go on first.
pub(crate) async fn spend() {
    if LEFT.get().is_none() {
        return consume_budget().await;
    }
    poll_fn(|cx| match LEFT.get() {
        Some(0) => {
            // A turn of its own is the next poll's, also where a runtime inside of the future polls.
            LEFT.set(Some(BUDGET));
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        left => {
            LEFT.set(left.map(|left| left - 1));
            Poll::Ready(())
        }
    })
    .await;
}

/// A turn for a future that is polled outside of tasks, until it is dropped.
pub(crate) struct Turn {
    /// Of a future in which this one is polled.
    outer: Option<u32>,
}

impl Turn {
    pub(crate) fn begin() -> Self {
        Self {
            outer: LEFT.replace(Some(BUDGET)),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LEFT.set(self.outer);
    }
}
