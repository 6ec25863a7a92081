//! Why a body is not the message its header names.

use std::fmt;

use crate::TopicNameError;
use crate::error::ErrorCode;
use crate::frame::FrameError;

/// Why a body is not the message its header names: the field that is wrong, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlError {
    /// The body is too short for its root, or a reference points outside of it.
    Archive,
    /// The parts lie in another order than the one they have, or with bytes between them.
    NotPacked,
    /// The hello's magic is not `MLST`.
    Magic {
        /// What it is.
        found: u32,
    },
    /// A number that stands for nothing in its field.
    Number {
        /// The field.
        field: &'static str,
        /// The number.
        found: u64,
    },
    /// A text over its limit.
    TextTooLong {
        /// The field.
        field: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A text that is not UTF-8.
    TextNotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A name no topic may have.
    TopicName(TopicNameError),
    /// A list with more entries than it may have.
    ListTooLong {
        /// The field.
        field: &'static str,
        /// Its entries.
        found: usize,
    },
    /// A body whose length no such message has.
    Length {
        /// The bytes there are.
        found: usize,
    },
    /// A frame in the body is none.
    Frame(FrameError),
}

impl ControlError {
    /// The code the peer is answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TopicName(_) => ErrorCode::TopicNameInvalid,
            Self::Frame(error) => error.code(),
            Self::TextTooLong { .. } | Self::ListTooLong { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::Malformed,
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive => write!(f, "body: too short, or a reference points outside of it"),
            Self::NotPacked => write!(f, "body: its parts are not in order without gaps"),
            Self::Magic { found } => write!(f, "magic: {found:#010x} is not that of Millstream"),
            Self::Number { field, found } => write!(f, "{field}: {found} stands for nothing"),
            Self::TextTooLong {
                field,
                bytes,
                bytes_max,
            } => {
                write!(f, "{field}: {bytes} bytes, over the limit of {bytes_max}")
            }
            Self::TextNotUtf8 { field } => write!(f, "{field}: not UTF-8"),
            Self::TopicName(error) => error.fmt(f),
            Self::ListTooLong { field, found } => {
                write!(f, "{field}: {found} entries are too many")
            }
            Self::Frame(error) => error.fmt(f),
            Self::Length { found } => write!(f, "body: no such message has {found} bytes"),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TopicName(error) => Some(error),
            Self::Frame(error) => Some(error),
            _ => None,
        }
    }
}

impl From<TopicNameError> for ControlError {
    fn from(error: TopicNameError) -> Self {
        Self::TopicName(error)
    }
}

impl From<FrameError> for ControlError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}
