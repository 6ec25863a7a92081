//! Why a producer publishes no more.

use std::fmt;
use std::sync::Arc;

use millstream_protocol::error::ErrorCode;

use super::{ConnectError, Refusal, TopicError};

/// Why a producer publishes no more. What it published is told by each ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerEnd {
    /// The server refused a frame: [`Fenced`](ErrorCode::Fenced) when a newer instance took over.
    Refused(Refusal),
    /// The server refused to open the producer again.
    Reopen(TopicError),
    /// The server was away, or refused for now, for longer than the producer's patience.
    Away {
        /// What stood in the way last.
        message: Arc<str>,
        /// Its code.
        code: Option<ErrorCode>,
    },
    /// No connection is to be had: the client was closed, or what answers is no server.
    Connect(ConnectError),
    /// The server does not know the producer any more: sending again would publish twice.
    Forgotten,
    /// The topic lost records that were acknowledged: its last sequence is below theirs. Opened
    /// anew, the producer goes on behind what is there.
    Lost {
        /// The last one acknowledged.
        acknowledged: u64,
        /// The last one there is.
        last: u64,
    },
    /// A frame is larger than the server takes.
    TooLarge {
        /// The frame's bytes.
        frame_bytes: u32,
        /// The most the server takes.
        frame_bytes_max: u32,
    },
    /// The runtime it ran on has ended.
    Closed,
}

impl ProducerEnd {
    /// The server's code, or the one that says the same.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Reopen(error) => error.code(),
            Self::Away { code, .. } => *code,
            Self::Connect(error) => error.code(),
            Self::TooLarge { .. } => Some(ErrorCode::TooLarge),
            Self::Forgotten | Self::Lost { .. } | Self::Closed => None,
        }
    }
}

impl fmt::Display for ProducerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Reopen(error) => error.fmt(f),
            Self::Away { message, .. } => write!(f, "the server was away for too long: {message}"),
            Self::Connect(error) => error.fmt(f),
            Self::Forgotten => f.write_str("the server does not know the producer any more"),
            Self::Lost { acknowledged, last } => write!(
                f,
                "sequences up to {acknowledged} were acknowledged, and the topic has those up to {last}: \
                 it lost some"
            ),
            Self::TooLarge {
                frame_bytes,
                frame_bytes_max,
            } => write!(
                f,
                "a frame has {frame_bytes} bytes, the server takes {frame_bytes_max}"
            ),
            Self::Closed => f.write_str("the runtime it ran on has ended"),
        }
    }
}

impl std::error::Error for ProducerEnd {}
