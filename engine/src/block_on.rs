//! The blocking form of a future: polled in the caller's own thread, which parks in between.

use std::pin::pin;

use millstream_storage::park_until;

/// Polls `future` in this thread until it is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    park_until(|cx| future.as_mut().poll(cx))
}
