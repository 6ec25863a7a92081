//! What can go wrong, by operation. Each error tells its code, whether the operation took effect, and
//! whether trying again can help.

use std::fmt;

use millstream_protocol::batch::PushError;
use millstream_protocol::control::Gap;
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::FrameError;
use millstream_protocol::{Durability, TopicName, TopicNameError};
use millstream_storage::{AppendError, Poisoned, ReadError as LogReadError};

use crate::producer::ProducerError;

/// Why an operation on topics failed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// No topic may have this name.
    Name(TopicNameError),
    /// There is no topic of this name.
    NotFound {
        /// The name asked for.
        name: TopicName,
    },
    /// There is a topic of this name, with other options.
    Exists {
        /// The name asked for.
        name: TopicName,
        /// What the topic there is.
        durability: Durability,
    },
    /// The name is the broker's own.
    Reserved {
        /// The name asked for.
        name: TopicName,
    },
    /// Queues work on the topic; they are to be deleted first.
    InUse {
        /// The topic.
        name: TopicName,
        /// Its queues.
        queues: Vec<TopicName>,
    },
    /// The producer can't be opened.
    Producer(ProducerError),
    /// The broker was closed.
    Closed,
    /// No room on the disk.
    StorageFull {
        /// What the system said.
        message: String,
    },
    /// The disk or the manifest refused.
    Storage {
        /// What the system said.
        message: String,
    },
}

impl TopicError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) | Self::Reserved { .. } => ErrorCode::TopicNameInvalid,
            Self::InUse { .. } => ErrorCode::TopicInUse,
            Self::NotFound { .. } => ErrorCode::TopicNotFound,
            Self::Exists { .. } => ErrorCode::TopicExists,
            Self::Producer(error) => error.code(),
            Self::Closed => ErrorCode::ShuttingDown,
            Self::StorageFull { .. } => ErrorCode::StorageFull,
            Self::Storage { .. } => ErrorCode::Internal,
        }
    }

    /// Whether the operation took effect: it did not.
    #[must_use]
    pub fn effect(&self) -> Effect {
        Effect::NotApplied
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.code().is_retriable()
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::NotFound { name } => {
                write!(f, "there is no topic {name:?}", name = name.as_str())
            }
            Self::Exists { name, durability } => write!(
                f,
                "topic {:?} exists already, with durability {}",
                name.as_str(),
                match durability {
                    Durability::Synced => "synced",
                    Durability::Stored => "stored",
                }
            ),
            Self::Reserved { name } => write!(
                f,
                "{:?}: names that begin with $ are the broker's own; choose another",
                name.as_str()
            ),
            Self::InUse { name, queues } => {
                write!(
                    f,
                    "topic {:?} has queues, delete them first:",
                    name.as_str()
                )?;
                queues
                    .iter()
                    .try_for_each(|queue| write!(f, " {:?}", queue.as_str()))
            }
            Self::Producer(error) => error.fmt(f),
            Self::Closed => f.write_str("the broker is closed"),
            Self::StorageFull { message } => write!(f, "no space on the disk: {message}"),
            Self::Storage { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for TopicError {}

impl From<TopicNameError> for TopicError {
    fn from(error: TopicNameError) -> Self {
        Self::Name(error)
    }
}

impl From<ProducerError> for TopicError {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

impl ProducerError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Fenced { .. } => ErrorCode::Fenced,
            Self::OutOfSequence { .. } => ErrorCode::OutOfSequence,
            Self::SequenceReused { .. } => ErrorCode::SequenceReused,
            Self::Ids | Self::Foreign { .. } => ErrorCode::Unsupported,
            Self::TooMany => ErrorCode::Limit,
            Self::Full { .. } => ErrorCode::StorageFull,
            Self::Storage { .. } => ErrorCode::Internal,
        }
    }
}

/// Why a publish failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The next segment is not ready; polling forms only. Wait with `poll_ready`.
    Rotating,
    /// The disk has no room for another segment. Publishing resumes by itself once it has.
    StorageFull {
        /// What the system said.
        message: String,
    },
    /// The next segment could not be made for another reason.
    Storage {
        /// What the system said.
        message: String,
    },
    /// A message or batch that no frame can hold.
    Invalid(PushError),
    /// A batch larger than a frame may be.
    TooLarge {
        /// Bytes of its body.
        body_bytes: u32,
        /// Bytes it may have.
        body_bytes_max: u32,
    },
    /// A batch without a message.
    Empty,
    /// A queue of the topic has as many unsettled records as it may. Consumers make room.
    QueueFull {
        /// The queue.
        queue: TopicName,
    },
    /// Some of a batch's ids were published before, others not. Nothing was published.
    PartlyDuplicate {
        /// Records whose ids were.
        duplicates: usize,
        /// Records of the batch.
        records: usize,
    },
    /// The producer may not publish this.
    Producer(ProducerError),
    /// A sync failed earlier; the topic takes no more records until the broker is restarted.
    Poisoned(Poisoned),
    /// The broker was closed or the topic deleted.
    Closed,
    /// Publishing to a topic while filling a claim on it.
    InsideClaim,
    /// A message announced more bytes than it wrote; nothing was published.
    ShortFill,
    /// The records were stored, but whether they reached the disk is not known: retry only with
    /// consumers that tolerate seeing them twice.
    OutcomeUnknown {
        /// Why it can't be told.
        reason: String,
    },
}

impl PublishError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::StorageFull { .. } => ErrorCode::StorageFull,
            Self::QueueFull { .. } => ErrorCode::QueueFull,
            Self::PartlyDuplicate { .. } => ErrorCode::OutOfSequence,
            Self::Rotating | Self::Storage { .. } | Self::InsideClaim | Self::ShortFill => {
                ErrorCode::Internal
            }
            Self::Invalid(error) => error.code(),
            Self::Producer(error) => error.code(),
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Empty => ErrorCode::Malformed,
            Self::Poisoned(_) | Self::OutcomeUnknown { .. } => ErrorCode::TopicPoisoned,
            Self::Closed => ErrorCode::ShuttingDown,
        }
    }

    /// Whether the records were published.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::OutcomeUnknown { .. } => Effect::Unknown,
            _ => Effect::NotApplied,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::Rotating
                | Self::StorageFull { .. }
                | Self::Storage { .. }
                | Self::QueueFull { .. }
        )
    }

    /// What a failed wait says of records that were appended.
    pub(crate) fn after_append(error: AppendError) -> Self {
        Self::OutcomeUnknown {
            reason: error.to_string(),
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rotating => f.write_str("the next segment is being prepared; try again"),
            Self::StorageFull { message } => write!(
                f,
                "no space on the disk ({message}); publishing resumes once there is room"
            ),
            Self::Storage { message } => write!(f, "cannot make room for more records: {message}"),
            Self::Invalid(error) => error.fmt(f),
            Self::TooLarge {
                body_bytes,
                body_bytes_max,
            } => write!(
                f,
                "a batch of {body_bytes} bytes is larger than the {body_bytes_max} a frame holds; split it"
            ),
            Self::QueueFull { queue } => write!(
                f,
                "queue {:?} has as many unsettled records as it may; publishing resumes as they are settled",
                queue.as_str()
            ),
            Self::PartlyDuplicate {
                duplicates,
                records,
            } => write!(
                f,
                "{duplicates} of the batch's {records} messages have ids that were published before: publish the others without them"
            ),
            Self::Producer(error) => error.fmt(f),
            Self::Empty => f.write_str("a batch without a message"),
            Self::Poisoned(poisoned) => poisoned.fmt(f),
            Self::Closed => f.write_str("the broker is closed or the topic was deleted"),
            Self::InsideClaim => f.write_str("publishing to a topic while filling a claim on it"),
            Self::ShortFill => f.write_str("fewer bytes were written than announced"),
            Self::OutcomeUnknown { reason } => {
                write!(f, "whether the records are on disk is not known: {reason}")
            }
        }
    }
}

impl std::error::Error for PublishError {}

impl From<AppendError> for PublishError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full { message } => Self::StorageFull { message },
            AppendError::Unprepared { message } => Self::Storage { message },
            AppendError::Poisoned(poisoned) => Self::Poisoned(poisoned),
            AppendError::Closed => Self::Closed,
            AppendError::TooLarge {
                body_bytes,
                body_bytes_max,
            } => Self::TooLarge {
                body_bytes,
                body_bytes_max,
            },
            AppendError::InsideClaim => Self::InsideClaim,
            AppendError::ShortFill { .. } => Self::ShortFill,
            _ => Self::Rotating,
        }
    }
}

impl From<ProducerError> for PublishError {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

impl From<PushError> for PublishError {
    fn from(error: PushError) -> Self {
        Self::Invalid(error)
    }
}

/// Why a reader could not give a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Records are missing; reading goes on behind them with the next call.
    Gap(Gap),
    /// A frame does not check out; reading goes on behind it with the next call.
    Damaged(FrameError),
    /// The topic was deleted or the broker closed, and all that was visible was read.
    Closed,
    /// A sync failed, and all below the watermark was read.
    Poisoned(Poisoned),
}

impl ReadError {
    /// The stable code of this error, the same as on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Gap(_) => ErrorCode::OffsetOutOfRange,
            Self::Damaged(error) => error.code(),
            Self::Closed => ErrorCode::ShuttingDown,
            Self::Poisoned(_) => ErrorCode::TopicPoisoned,
        }
    }

    /// Whether the next call goes on behind what is missing.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::Gap(_) | Self::Damaged(_))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap(gap) => write!(
                f,
                "records {} to {} are missing ({:?})",
                gap.first_offset,
                gap.next_offset.0.saturating_sub(1),
                gap.reason
            ),
            Self::Damaged(error) => write!(f, "a frame is damaged: {error}"),
            Self::Closed => f.write_str("the topic is closed and read to its end"),
            Self::Poisoned(poisoned) => poisoned.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<LogReadError> for ReadError {
    fn from(error: LogReadError) -> Self {
        match error {
            LogReadError::Poisoned(poisoned) => Self::Poisoned(poisoned),
            _ => Self::Closed,
        }
    }
}
