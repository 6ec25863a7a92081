//! Why a request about a topic failed.

use std::fmt;
use std::sync::Arc;

use millstream_protocol::TopicNameError;
use millstream_protocol::error::{Effect, ErrorCode};

use super::{ConnectionError, EFFECT_UNKNOWN, Refusal};

/// What was asked of a server about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Create a topic.
    Create,
    /// Describe a topic.
    Describe,
    /// Delete a topic.
    Delete,
    /// List all topics.
    List,
    /// Set how much of a topic is kept.
    SetRetention,
    /// Describe how much of a topic is kept.
    DescribeRetention,
    /// Open a topic for publishing.
    OpenPublisher,
    /// Open a topic for reading.
    OpenReader,
}

impl Action {
    const fn words(self) -> &'static str {
        match self {
            Self::Create => "create the topic",
            Self::Describe => "describe the topic",
            Self::Delete => "delete the topic",
            Self::List => "list the topics",
            Self::SetRetention => "set the retention of the topic",
            Self::DescribeRetention => "describe the retention of the topic",
            Self::OpenPublisher => "publish to the topic",
            Self::OpenReader => "read the topic",
        }
    }

    /// Whether an answer that never came leaves something changed.
    const fn changes_nothing(self) -> bool {
        matches!(
            self,
            Self::Describe | Self::List | Self::DescribeRetention | Self::OpenReader
        )
    }
}

/// Why a topic was not created, described, deleted, listed or opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicError {
    /// What was asked for.
    pub action: Action,
    /// The topic it was asked about; empty for a list of all.
    pub topic: Arc<str>,
    /// What stood in the way.
    pub cause: TopicErrorCause,
}

/// What stood in the way of a request about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicErrorCause {
    /// No topic may have this name.
    Name(TopicNameError),
    /// The server refused.
    Refused(Refusal),
    /// As many streams are open on this connection as may be.
    StreamsInUse {
        /// How many that is.
        streams: usize,
    },
    /// The connection ended before the request was sent.
    NotSent(ConnectionError),
    /// The connection ended before the answer came.
    Unanswered(ConnectionError),
    /// No answer came in time.
    TimedOut {
        /// How long it was waited for.
        ms: u64,
    },
    /// The server closed the stream instead of opening it.
    Closed,
}

impl TopicErrorCause {
    /// The server did not say in its welcome that it has `what`.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::Refused(Refusal {
            code: ErrorCode::Unsupported,
            effect: Effect::NotApplied,
            retriable: false,
            message: format!("this server knows no {what}; a newer one does").into(),
        })
    }
}

impl TopicError {
    pub(crate) fn new(action: Action, topic: &str, cause: TopicErrorCause) -> Self {
        Self {
            action,
            topic: topic.into(),
            cause,
        }
    }

    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match &self.cause {
            TopicErrorCause::Name(_) => Some(ErrorCode::TopicNameInvalid),
            TopicErrorCause::Refused(refusal) => Some(refusal.code),
            TopicErrorCause::StreamsInUse { .. } => Some(ErrorCode::Limit),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => cause.code(),
            TopicErrorCause::TimedOut { .. } => Some(ErrorCode::TimedOut),
            TopicErrorCause::Closed => None,
        }
    }

    /// Whether what was asked for happened all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match &self.cause {
            TopicErrorCause::Refused(refusal) => refusal.effect,
            TopicErrorCause::Unanswered(_) | TopicErrorCause::TimedOut { .. }
                if !self.action.changes_nothing() =>
            {
                Effect::Unknown
            }
            _ => Effect::NotApplied,
        }
    }

    /// Whether the same request may succeed later, on this or a new connection.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match &self.cause {
            TopicErrorCause::Name(_) => false,
            TopicErrorCause::Refused(refusal) => refusal.retriable,
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => {
                cause.is_retriable()
            }
            TopicErrorCause::StreamsInUse { .. }
            | TopicErrorCause::TimedOut { .. }
            | TopicErrorCause::Closed => true,
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.action.words())?;
        if !self.topic.is_empty() {
            write!(f, " {:?}", &*self.topic)?;
        }
        match &self.cause {
            TopicErrorCause::Name(error) => write!(f, ": {error}"),
            TopicErrorCause::Refused(refusal) => write!(f, ": {refusal}"),
            TopicErrorCause::StreamsInUse { streams } => write!(
                f,
                ": all {streams} streams of this connection are in use; drop a handle or connect \
                 once more"
            ),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => {
                write!(f, ": {cause}")
            }
            TopicErrorCause::TimedOut { ms } => write!(f, ": no answer within {ms} ms"),
            TopicErrorCause::Closed => f.write_str(": the server closed the stream; try again"),
        }?;
        match self.effect() {
            Effect::Unknown => f.write_str(EFFECT_UNKNOWN),
            Effect::Applied | Effect::NotApplied => Ok(()),
        }
    }
}

impl std::error::Error for TopicError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            TopicErrorCause::Name(error) => Some(error),
            TopicErrorCause::NotSent(cause) | TopicErrorCause::Unanswered(cause) => Some(cause),
            _ => None,
        }
    }
}
