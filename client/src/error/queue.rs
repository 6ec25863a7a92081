//! Why a request about a queue or a cursor failed.

use std::fmt;
use std::sync::Arc;

use millstream_protocol::TopicNameError;
use millstream_protocol::control::SettingsError;
use millstream_protocol::error::{Effect, ErrorCode};

use super::{ConnectionError, EFFECT_UNKNOWN, Refusal, TopicErrorCause};

/// What was asked of a server about a queue or a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueAction {
    /// Create a queue.
    Create,
    /// Give a queue other settings.
    Set,
    /// Describe a queue.
    Describe,
    /// Delete a queue.
    Delete,
    /// List all queues.
    List,
    /// Pause a queue.
    Pause,
    /// Resume a queue.
    Resume,
    /// Settle all records of a queue.
    Purge,
    /// Send dead letters back.
    Redrive,
    /// Look at records that are not settled.
    Peek,
    /// Look at records that are leased.
    Leases,
    /// Open a consumer.
    OpenConsumer,
    /// Set a cursor.
    SetCursor,
    /// Describe a cursor.
    DescribeCursor,
    /// List cursors.
    ListCursors,
    /// Delete a cursor.
    DeleteCursor,
}

impl QueueAction {
    const fn words(self) -> &'static str {
        match self {
            Self::Create => "create the queue",
            Self::Set => "set the queue",
            Self::Describe => "describe the queue",
            Self::Delete => "delete the queue",
            Self::List => "list the queues",
            Self::Pause => "pause the queue",
            Self::Resume => "resume the queue",
            Self::Purge => "purge the queue",
            Self::Redrive => "redrive the queue",
            Self::Peek => "peek into the queue",
            Self::Leases => "list the leases of the queue",
            Self::OpenConsumer => "consume the queue",
            Self::SetCursor => "set the cursor",
            Self::DescribeCursor => "describe the cursor",
            Self::ListCursors => "list the cursors",
            Self::DeleteCursor => "delete the cursor",
        }
    }

    /// Whether an answer that never came leaves something changed.
    const fn changes_nothing(self) -> bool {
        matches!(
            self,
            Self::Describe
                | Self::List
                | Self::Peek
                | Self::Leases
                | Self::OpenConsumer
                | Self::DescribeCursor
                | Self::ListCursors
        )
    }
}

/// Why something was not done to a queue or a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueError {
    /// What was asked for.
    pub action: QueueAction,
    /// The queue or the cursor it was asked about, a cursor behind its topic and a slash; empty for
    /// a list of all.
    pub name: Arc<str>,
    /// What stood in the way.
    pub cause: QueueErrorCause,
}

/// What stood in the way of a request about a queue or a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueErrorCause {
    /// No queue, topic or cursor may have this name.
    Name(TopicNameError),
    /// No queue may have these settings.
    Settings(SettingsError),
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

impl From<TopicErrorCause> for QueueErrorCause {
    fn from(cause: TopicErrorCause) -> Self {
        match cause {
            TopicErrorCause::Name(error) => Self::Name(error),
            TopicErrorCause::Refused(refusal) => Self::Refused(refusal),
            TopicErrorCause::StreamsInUse { streams } => Self::StreamsInUse { streams },
            TopicErrorCause::NotSent(cause) => Self::NotSent(cause),
            TopicErrorCause::Unanswered(cause) => Self::Unanswered(cause),
            TopicErrorCause::TimedOut { ms } => Self::TimedOut { ms },
            TopicErrorCause::Closed => Self::Closed,
        }
    }
}

impl QueueError {
    pub(crate) fn new(action: QueueAction, name: &str, cause: QueueErrorCause) -> Self {
        Self {
            action,
            name: name.into(),
            cause,
        }
    }

    /// The server's code, or the one that says the same; none when the connection just ended.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match &self.cause {
            QueueErrorCause::Name(_) => Some(ErrorCode::TopicNameInvalid),
            QueueErrorCause::Settings(_) => Some(ErrorCode::QueueSettings),
            QueueErrorCause::Refused(refusal) => Some(refusal.code),
            QueueErrorCause::StreamsInUse { .. } => Some(ErrorCode::Limit),
            QueueErrorCause::NotSent(cause) | QueueErrorCause::Unanswered(cause) => cause.code(),
            QueueErrorCause::TimedOut { .. } => Some(ErrorCode::TimedOut),
            QueueErrorCause::Closed => None,
        }
    }

    /// Whether what was asked for happened all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match &self.cause {
            QueueErrorCause::Refused(refusal) => refusal.effect,
            QueueErrorCause::Unanswered(_) | QueueErrorCause::TimedOut { .. }
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
            QueueErrorCause::Name(_) | QueueErrorCause::Settings(_) => false,
            QueueErrorCause::Refused(refusal) => refusal.retriable,
            QueueErrorCause::NotSent(cause) | QueueErrorCause::Unanswered(cause) => {
                cause.is_retriable()
            }
            QueueErrorCause::StreamsInUse { .. }
            | QueueErrorCause::TimedOut { .. }
            | QueueErrorCause::Closed => true,
        }
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.action.words())?;
        if !self.name.is_empty() {
            write!(f, " {:?}", &*self.name)?;
        }
        match &self.cause {
            QueueErrorCause::Name(error) => write!(f, ": {error}"),
            QueueErrorCause::Settings(error) => write!(f, ": {error}"),
            QueueErrorCause::Refused(refusal) => write!(f, ": {refusal}"),
            QueueErrorCause::StreamsInUse { streams } => write!(
                f,
                ": all {streams} streams of this connection are in use; drop a handle or connect \
                 once more"
            ),
            QueueErrorCause::NotSent(cause) | QueueErrorCause::Unanswered(cause) => {
                write!(f, ": {cause}")
            }
            QueueErrorCause::TimedOut { ms } => write!(f, ": no answer within {ms} ms"),
            QueueErrorCause::Closed => f.write_str(": the server closed the stream; try again"),
        }?;
        match self.effect() {
            Effect::Unknown => f.write_str(EFFECT_UNKNOWN),
            Effect::Applied | Effect::NotApplied => Ok(()),
        }
    }
}

impl std::error::Error for QueueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            QueueErrorCause::Name(error) => Some(error),
            QueueErrorCause::Settings(error) => Some(error),
            QueueErrorCause::NotSent(cause) | QueueErrorCause::Unanswered(cause) => Some(cause),
            _ => None,
        }
    }
}
