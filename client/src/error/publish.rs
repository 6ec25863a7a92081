//! Why a message is not known to be published.

use std::fmt;
use std::sync::Arc;

use millstream_protocol::TopicName;
use millstream_protocol::batch::PushError;
use millstream_protocol::error::{Effect, ErrorCode};

use super::{ConnectionError, EFFECT_UNKNOWN, ProducerEnd, Refusal, TopicError};

/// Why a message or a batch is not known to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The message breaks a limit; nothing was sent.
    Message {
        /// The topic.
        topic: TopicName,
        /// The limit.
        cause: PushError,
    },
    /// The batch has no records; nothing was sent.
    EmptyBatch {
        /// The topic.
        topic: TopicName,
    },
    /// The frame is larger than this server takes; nothing was sent.
    TooLarge {
        /// The topic.
        topic: TopicName,
        /// The frame's bytes.
        frame_bytes: u32,
        /// The most the server takes.
        frame_bytes_max: u32,
    },
    /// The server refused it.
    Refused {
        /// The topic.
        topic: TopicName,
        /// What the server said.
        refusal: Refusal,
    },
    /// The stream could not be opened again after an earlier refusal; nothing was sent.
    Reopen(TopicError),
    /// The connection ended before it was sent.
    NotSent {
        /// The topic.
        topic: TopicName,
        /// Why the connection ended.
        cause: ConnectionError,
    },
    /// It was sent, and no acknowledgement came before the connection ended.
    OutcomeUnknown {
        /// The topic.
        topic: TopicName,
        /// Why the connection ended.
        cause: ConnectionError,
    },
    /// It was sent, and the server closed the stream without saying what became of it.
    Unacknowledged {
        /// The topic.
        topic: TopicName,
    },
    /// The server closed the stream before it was sent.
    StreamClosed {
        /// The topic.
        topic: TopicName,
    },
    /// The producer ended before it was acknowledged.
    Producer {
        /// The topic.
        topic: TopicName,
        /// Why.
        end: Arc<ProducerEnd>,
        /// Whether the records are in the topic all the same.
        effect: Effect,
    },
}

impl PublishError {
    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Message { .. } | Self::TooLarge { .. } => Some(ErrorCode::TooLarge),
            Self::EmptyBatch { .. } => Some(ErrorCode::Malformed),
            Self::Refused { refusal, .. } => Some(refusal.code),
            Self::Reopen(error) => error.code(),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => cause.code(),
            Self::Unacknowledged { .. } | Self::StreamClosed { .. } => None,
            Self::Producer { end, .. } => end.code(),
        }
    }

    /// Whether the records are in the topic all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Refused { refusal, .. } => refusal.effect,
            Self::Producer { effect, .. } => *effect,
            Self::OutcomeUnknown { .. } | Self::Unacknowledged { .. } => Effect::Unknown,
            Self::Message { .. }
            | Self::EmptyBatch { .. }
            | Self::TooLarge { .. }
            | Self::Reopen(_)
            | Self::NotSent { .. }
            | Self::StreamClosed { .. } => Effect::NotApplied,
        }
    }

    /// Whether publishing the same again may succeed, on this or a new connection.
    ///
    /// Where [`effect`](Self::effect) is [`Effect::Unknown`] it may also publish it twice.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Message { .. } | Self::EmptyBatch { .. } | Self::TooLarge { .. } => false,
            // It has tried for as long as that helped.
            Self::Producer { .. } => false,
            Self::Refused { refusal, .. } => refusal.retriable,
            Self::Reopen(error) => error.is_retriable(),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => {
                cause.is_retriable()
            }
            Self::Unacknowledged { .. } | Self::StreamClosed { .. } => true,
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { topic, cause } => write!(f, "cannot publish to {topic}: {cause}"),
            Self::EmptyBatch { topic } => {
                write!(
                    f,
                    "cannot publish to {topic}: the batch has no records; push one first"
                )
            }
            Self::TooLarge {
                topic,
                frame_bytes,
                frame_bytes_max,
            } => write!(
                f,
                "cannot publish to {topic}: the frame has {frame_bytes} bytes, the server takes \
                 {frame_bytes_max}; publish less at once"
            ),
            Self::Refused { topic, refusal } => write!(f, "cannot publish to {topic}: {refusal}"),
            Self::Reopen(error) => error.fmt(f),
            Self::NotSent { topic, cause } => {
                write!(f, "not sent to {topic}: {cause}")
            }
            Self::OutcomeUnknown { topic, cause } => {
                write!(
                    f,
                    "sent to {topic}, but never acknowledged: {cause}{EFFECT_UNKNOWN}"
                )
            }
            Self::Unacknowledged { topic } => write!(
                f,
                "sent to {topic}, but the server closed the stream before it was \
                 acknowledged{EFFECT_UNKNOWN}"
            ),
            Self::Producer { topic, end, effect } => {
                write!(f, "cannot publish to {topic} as a producer: {end}")?;
                match effect {
                    Effect::Unknown => f.write_str(EFFECT_UNKNOWN),
                    Effect::NotApplied | Effect::Applied => Ok(()),
                }
            }
            Self::StreamClosed { topic } => {
                write!(
                    f,
                    "not sent to {topic}: the server closed the stream; publish it again"
                )
            }
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Message { cause, .. } => Some(cause),
            Self::Reopen(error) => Some(error),
            Self::Producer { end, .. } => Some(&**end),
            Self::NotSent { cause, .. } | Self::OutcomeUnknown { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
