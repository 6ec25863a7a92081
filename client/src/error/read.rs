//! Why a reader gives no record.

use std::fmt;

use millstream_protocol::batch::BatchError;
use millstream_protocol::control::GapReason;
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::FrameError;
use millstream_protocol::{Offset, TopicName};

use super::{ConnectionError, Refusal};

/// Why a reader gives no record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Records are missing; reading goes on behind them.
    Gap {
        /// The first missing offset.
        first: Offset,
        /// The offset at which reading goes on.
        next: Offset,
        /// Why they are missing.
        reason: GapReason,
    },
    /// The server ended the stream.
    Refused {
        /// The topic.
        topic: TopicName,
        /// What the server said.
        refusal: Refusal,
    },
    /// A batch arrived as it was published, and cannot be read; reading goes on behind it.
    Unreadable {
        /// Its first offset that was wanted.
        first: Offset,
        /// The offset at which reading goes on.
        next: Offset,
        /// What is wrong with it.
        cause: BatchError,
    },
    /// The server closed the stream.
    StreamClosed {
        /// The topic.
        topic: TopicName,
    },
    /// What arrived is not what was published: a frame's own checks fail.
    Corrupt {
        /// The topic.
        topic: TopicName,
        /// The next offset that was wanted.
        at: Offset,
        /// What is wrong.
        cause: FrameError,
    },
    /// A record other than the next one arrived.
    OutOfOrder {
        /// The topic.
        topic: TopicName,
        /// The lowest offset that may come next.
        wanted: Offset,
        /// The offset that came.
        found: Offset,
    },
    /// The connection ended.
    Connection {
        /// The topic.
        topic: TopicName,
        /// Why it ended.
        cause: ConnectionError,
    },
}

impl ReadError {
    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Gap { .. } => Some(ErrorCode::OffsetOutOfRange),
            Self::Refused { refusal, .. } => Some(refusal.code),
            Self::Unreadable { cause, .. } => Some(cause.code()),
            Self::StreamClosed { .. } => None,
            Self::Corrupt { .. } => Some(ErrorCode::BadChecksum),
            Self::OutOfOrder { .. } => Some(ErrorCode::OutOfSequence),
            Self::Connection { cause, .. } => cause.code(),
        }
    }

    /// Always [`Effect::NotApplied`]: reading changes nothing.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        Effect::NotApplied
    }

    /// Whether a new reader from the next wanted offset may get on.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Gap { .. }
            | Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::OutOfOrder { .. } => false,
            Self::StreamClosed { .. } => true,
            Self::Refused { refusal, .. } => refusal.retriable,
            Self::Connection { cause, .. } => cause.is_retriable(),
        }
    }

    /// Whether this reader gives nothing more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Gap { .. } | Self::Unreadable { .. })
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap {
                first,
                next,
                reason,
            } => write!(
                f,
                "offsets {first} up to {next} are missing ({reason:?}); reading goes on at {next}"
            ),
            Self::Unreadable { first, next, cause } => write!(
                f,
                "offsets {first} up to {next} cannot be read as they were published: {cause}; \
                 reading goes on at {next}"
            ),
            Self::StreamClosed { topic } => {
                write!(
                    f,
                    "the server closed the stream that reads {topic}; open another reader"
                )
            }
            Self::Refused { topic, refusal } => write!(f, "cannot read {topic}: {refusal}"),
            Self::Corrupt { topic, at, cause } => {
                write!(
                    f,
                    "what arrived of {topic} at offset {at} is damaged: {cause}"
                )
            }
            Self::OutOfOrder {
                topic,
                wanted,
                found,
            } => write!(
                f,
                "offset {found} of {topic} arrived where {wanted} or a later one belongs"
            ),
            Self::Connection { topic, cause } => write!(f, "reading {topic} ended: {cause}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt { cause, .. } => Some(cause),
            Self::Unreadable { cause, .. } => Some(cause),
            Self::Connection { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
