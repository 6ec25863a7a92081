//! Why a consumer gives no record, and why a settle changed nothing.

use std::fmt;

use millstream_protocol::TopicName;
use millstream_protocol::error::{Effect, ErrorCode};

use super::{ConnectError, ConnectionError, QueueError, Refusal};
use crate::connection::{StreamEnd, StreamOver};

/// Why a consumer gives nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The queue was deleted.
    QueueGone {
        /// The queue.
        queue: TopicName,
    },
    /// The server ended the stream.
    Refused {
        /// The queue.
        queue: TopicName,
        /// What the server said.
        refusal: Refusal,
    },
    /// The server closed the stream.
    StreamClosed {
        /// The queue.
        queue: TopicName,
    },
    /// The connection ended.
    Connection {
        /// The queue.
        queue: TopicName,
        /// Why it ended.
        cause: ConnectionError,
    },
    /// The connection was lost, and could not be made again.
    Reconnect {
        /// The queue.
        queue: TopicName,
        /// Why not.
        cause: ConnectError,
    },
    /// The connection was made again, and the queue could not be consumed on it.
    Reopen(QueueError),
}

impl ConsumeError {
    pub(crate) fn of(queue: &TopicName, over: StreamOver) -> Self {
        let queue = queue.clone();
        match over {
            StreamOver::Stream(StreamEnd::Refused(refusal))
                if refusal.code == ErrorCode::QueueNotFound =>
            {
                Self::QueueGone { queue }
            }
            StreamOver::Stream(StreamEnd::Refused(refusal)) => Self::Refused { queue, refusal },
            StreamOver::Stream(StreamEnd::Closed) => Self::StreamClosed { queue },
            StreamOver::Connection(cause) => Self::Connection { queue, cause },
        }
    }

    pub(crate) fn reconnect(queue: &TopicName, cause: ConnectError) -> Self {
        let queue = queue.clone();
        Self::Reconnect { queue, cause }
    }

    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::QueueGone { .. } => Some(ErrorCode::QueueNotFound),
            Self::Refused { refusal, .. } => Some(refusal.code),
            Self::StreamClosed { .. } => None,
            Self::Connection { cause, .. } => cause.code(),
            Self::Reconnect { cause, .. } => cause.code(),
            Self::Reopen(error) => error.code(),
        }
    }

    /// Always [`Effect::NotApplied`]: what was leased is delivered again.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        Effect::NotApplied
    }

    /// Whether a new consumer may fare better.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::QueueGone { .. } => false,
            Self::Refused { refusal, .. } => refusal.retriable,
            Self::StreamClosed { .. } => true,
            Self::Connection { cause, .. } => cause.is_retriable(),
            Self::Reconnect { cause, .. } => cause.is_retriable(),
            Self::Reopen(error) => error.is_retriable(),
        }
    }
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueGone { queue } => write!(f, "the queue {queue} was deleted"),
            Self::Refused { queue, refusal } => write!(f, "cannot consume {queue}: {refusal}"),
            Self::StreamClosed { queue } => write!(
                f,
                "the server closed the stream that consumes {queue}; open another consumer"
            ),
            Self::Connection { queue, cause } => write!(f, "consuming {queue} ended: {cause}"),
            Self::Reconnect { queue, cause } => {
                write!(f, "cannot go on consuming {queue}: {cause}")
            }
            Self::Reopen(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConsumeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connection { cause, .. } => Some(cause),
            Self::Reconnect { cause, .. } => Some(cause),
            Self::Reopen(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a settle had no effect, or may have had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettleError {
    /// The lease had ended, be it because the connection was lost: the record is or was somebody
    /// else's. Nothing was changed.
    LeaseLost,
    /// The queue was deleted. Nothing was changed.
    QueueGone,
    /// It was sent and the connection was lost before its answer came: the record may come again.
    Unknown,
}

impl SettleError {
    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(self) -> Option<ErrorCode> {
        match self {
            Self::LeaseLost => Some(ErrorCode::LeaseLost),
            Self::QueueGone => Some(ErrorCode::QueueNotFound),
            Self::Unknown => None,
        }
    }

    /// Whether the settle took effect.
    #[must_use]
    pub const fn effect(self) -> Effect {
        match self {
            Self::Unknown => Effect::Unknown,
            Self::LeaseLost | Self::QueueGone => Effect::NotApplied,
        }
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaseLost => {
                "the lease had ended, nothing was changed: settle in time or extend it"
            }
            Self::QueueGone => "the queue was deleted",
            Self::Unknown => {
                "the connection was lost before the answer came: whether it is settled is unknown"
            }
        })
    }
}

impl std::error::Error for SettleError {}
