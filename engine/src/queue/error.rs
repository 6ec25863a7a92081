//! What can go wrong with queues, by operation.

use std::fmt;

use millstream_protocol::TopicName;
use millstream_protocol::control::SettingsError;
use millstream_protocol::error::{Effect, ErrorCode};

use super::scheduler::SettleRefusal;
use crate::error::TopicError;

/// Why an operation on a queue or a cursor failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// There is no queue of this name.
    NotFound {
        /// The name asked for.
        name: TopicName,
    },
    /// There is a queue of this name that is made otherwise.
    Exists {
        /// The name asked for.
        name: TopicName,
        /// What is different.
        difference: &'static str,
    },
    /// Settings that contradict themselves or a limit.
    Settings(SettingsError),
    /// Dead letters of the queue can't go where the settings say.
    DeadLetterQueue {
        /// The queue.
        name: TopicName,
        /// Why not.
        problem: &'static str,
    },
    /// There is no cursor of this name on the topic.
    CursorNotFound {
        /// The topic.
        topic: TopicName,
        /// The name asked for.
        name: TopicName,
    },
    /// The topic, or its name.
    Topic(TopicError),
    /// The queue ended, or was stopped by a defect, before it could answer.
    Stopped {
        /// The queue.
        name: TopicName,
    },
    /// The queue was deleted; its own topic could not be, and is left with its records.
    TopicLeft {
        /// The queue.
        name: TopicName,
        /// What the system said.
        reason: String,
    },
    /// What queues and cursors are is not known in this run: the checkpoints can't be read. Nothing of
    /// it is forgotten or changed; reading and publishing to topics go on.
    Offline {
        /// What is wrong with the checkpoints.
        reason: String,
    },
    /// The journal takes no more: its disk failed. Reading and publishing to other topics go on.
    Journal {
        /// What the system said.
        reason: String,
    },
}

impl QueueError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::QueueNotFound,
            Self::Exists { .. } => ErrorCode::QueueExists,
            Self::Settings(_) | Self::DeadLetterQueue { .. } => ErrorCode::QueueSettings,
            Self::CursorNotFound { .. } => ErrorCode::CursorNotFound,
            Self::Topic(error) => error.code(),
            Self::Stopped { .. } | Self::Offline { .. } | Self::Journal { .. } => {
                ErrorCode::JournalFailed
            }
            Self::TopicLeft { .. } => ErrorCode::Internal,
        }
    }

    /// Whether the operation took effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::Stopped { .. } | Self::Journal { .. } | Self::TopicLeft { .. } => Effect::Unknown,
            _ => Effect::NotApplied,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.code().is_retriable()
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name } => write!(
                f,
                "there is no queue {:?}; `queue create` makes one",
                name.as_str()
            ),
            Self::Exists { name, difference } => write!(
                f,
                "queue {:?} exists already, with another {difference}",
                name.as_str()
            ),
            Self::Settings(error) => error.fmt(f),
            Self::DeadLetterQueue { name, problem } => {
                write!(f, "dead-letter queue of {:?}: {problem}", name.as_str())
            }
            Self::CursorNotFound { topic, name } => write!(
                f,
                "topic {:?} has no cursor {:?}",
                topic.as_str(),
                name.as_str()
            ),
            Self::Topic(error) => error.fmt(f),
            Self::Stopped { name } => write!(
                f,
                "queue {:?} ended before it answered; if it was not deleted or closed, the log says why, and a restart of the broker brings it back",
                name.as_str()
            ),
            Self::TopicLeft { name, reason } => write!(
                f,
                "queue {:?} is deleted, and its topic of the same name is left with all records ({reason}); delete the topic",
                name.as_str()
            ),
            Self::Offline { reason } => write!(
                f,
                "queues and cursors are offline, and nothing of them is forgotten: no checkpoint can be used ({reason}); restart the broker once the disk reads it, or run `millstream repair`, after which they are what the journal still says"
            ),
            Self::Journal { reason } => write!(
                f,
                "the journal of queues and cursors failed ({reason}); restart the broker once the disk is well"
            ),
        }
    }
}

impl std::error::Error for QueueError {}

impl From<TopicError> for QueueError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

impl From<SettingsError> for QueueError {
    fn from(error: SettingsError) -> Self {
        Self::Settings(error)
    }
}

/// Why a consumer gets nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The queue was deleted.
    QueueGone,
    /// The broker was closed.
    Closed,
    /// The journal or the topic failed: nothing can be settled any more in this run.
    Failed {
        /// What the system said.
        reason: String,
    },
}

impl ConsumeError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::QueueGone => ErrorCode::QueueNotFound,
            Self::Closed => ErrorCode::ShuttingDown,
            Self::Failed { .. } => ErrorCode::JournalFailed,
        }
    }

    /// What a settle hears from then on.
    pub(super) fn for_settle(&self) -> SettleError {
        match self {
            Self::QueueGone => SettleError::QueueGone,
            Self::Closed => SettleError::Closed,
            Self::Failed { .. } => SettleError::Unknown,
        }
    }
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueGone => f.write_str("the queue was deleted"),
            Self::Closed => f.write_str("the broker is closed"),
            Self::Failed { reason } => write!(f, "the queue stopped: {reason}"),
        }
    }
}

impl std::error::Error for ConsumeError {}

/// Why a settle had no effect, or may have had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettleError {
    /// The lease had ended: the record is or was somebody else's. Nothing was changed.
    LeaseLost,
    /// The queue was deleted. Nothing was changed.
    QueueGone,
    /// The broker was closed before it could be settled. Nothing was changed.
    Closed,
    /// The journal failed before it was on disk: after a restart the record may come again.
    Unknown,
}

impl From<SettleRefusal> for SettleError {
    fn from(refusal: SettleRefusal) -> Self {
        match refusal {
            SettleRefusal::LeaseLost => Self::LeaseLost,
        }
    }
}

impl SettleError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::LeaseLost => ErrorCode::LeaseLost,
            Self::QueueGone => ErrorCode::QueueNotFound,
            Self::Closed => ErrorCode::ShuttingDown,
            Self::Unknown => ErrorCode::JournalFailed,
        }
    }

    /// Whether the settle took effect.
    #[must_use]
    pub const fn effect(self) -> Effect {
        match self {
            Self::Unknown => Effect::Unknown,
            _ => Effect::NotApplied,
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
            Self::Closed => "the broker was closed",
            Self::Unknown => "the journal failed: whether it is settled is not known",
        })
    }
}

impl std::error::Error for SettleError {}
