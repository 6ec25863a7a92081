//! What a pipelined publish leaves behind: a ticket that resolves when the promise holds.

use std::pin::Pin;
use std::task::{Context, Poll};

use millstream_protocol::Offset;
use millstream_storage::{Level, LevelWait};

use crate::block_on::block_on;
use crate::error::PublishError;
use crate::publisher::Appended;

/// Where published records are, and how safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of the first record.
    pub first: Offset,
    /// Offset of the last.
    pub last: Offset,
    /// What has been waited for.
    pub level: Level,
    /// They were published before, under the same ids or sequences, and got these offsets then.
    pub duplicate: bool,
}

impl Receipt {
    pub(crate) fn new(appended: Appended, level: Level) -> Self {
        Self {
            first: appended.base,
            last: Offset(appended.end.0.saturating_sub(1)),
            level,
            duplicate: appended.duplicate,
        }
    }
}

/// Resolves once the records are as durable as asked. Dropping it changes nothing but that nobody
/// hears of it.
#[derive(Debug)]
#[must_use = "a ticket tells whether the records are durable"]
pub struct Ticket {
    receipt: Receipt,
    wait: LevelWait,
}

impl Ticket {
    pub(crate) fn new(receipt: Receipt, wait: LevelWait) -> Self {
        Self { receipt, wait }
    }

    /// Offset of the first record, which is certain already.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.receipt.first
    }

    /// Waits in this thread.
    ///
    /// # Errors
    ///
    /// [`PublishError::OutcomeUnknown`] if the promise can't be kept.
    pub fn wait_blocking(self) -> Result<Receipt, PublishError> {
        block_on(self)
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let receipt = self.receipt;
        self.wait.poll(cx).map(|reached| {
            reached
                .map(|()| receipt)
                .map_err(PublishError::after_append)
        })
    }
}
