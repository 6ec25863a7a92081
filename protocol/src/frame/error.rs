//! Why bytes are not a frame.

use std::fmt;

use super::{FrameKind, ProducerStamp};
use crate::Offset;
use crate::batch::BatchError;
use crate::error::ErrorCode;
use crate::limits::{BODY_BYTES_MAX, LAYOUT_VERSION};

/// Why bytes are not a frame: the field that is wrong, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes end before the frame does.
    Truncated {
        /// Bytes the frame needs.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// There are bytes behind the frame where none may be.
    Trailing {
        /// Bytes the frame needs.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// The commit word's length is not the body's, rounded up; 0: nothing was committed here.
    CommitLength {
        /// The length it has.
        found: u32,
        /// The length the header calls for.
        wanted: u32,
    },
    /// The commit word's nonce is not the segment's.
    CommitNonce {
        /// The half it has.
        found: u32,
        /// The segment's.
        wanted: u32,
    },
    /// The header's checksum does not match, or the frame was made for another place.
    HeaderCrc {
        /// The checksum in the header.
        found: u32,
        /// The checksum of its bytes.
        wanted: u32,
    },
    /// The body's checksum does not match.
    BodyCrc {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the bytes.
        wanted: u32,
    },
    /// A field the log fills is not zero in a publish.
    NotZero {
        /// The field.
        field: &'static str,
    },
    /// No such kind of frame.
    Kind {
        /// The number in the header.
        found: u8,
    },
    /// A kind only the log makes, in a publish.
    KindNotPublished {
        /// The kind.
        found: FrameKind,
    },
    /// A layout version this code does not know.
    LayoutVersion {
        /// The version in the header.
        found: u8,
    },
    /// A reserved flag, or lz4 on something other than a batch.
    Flags {
        /// The low four bits.
        found: u8,
        /// The kind they are on.
        kind: FrameKind,
    },
    /// A record count the kind may not have.
    RecordCount {
        /// The count in the header.
        found: u16,
        /// The kind it is on.
        kind: FrameKind,
    },
    /// A body over the limit.
    BodyTooLarge {
        /// The length in the header.
        body_bytes: u32,
    },
    /// A producer on a frame that may have none, or a term without a producer.
    Producer {
        /// The stamp in the header.
        found: ProducerStamp,
        /// The kind it is on.
        kind: FrameKind,
    },
    /// Offsets past the last number, or not those that were to follow.
    BaseOffset {
        /// The offset in the header.
        found: Offset,
    },
    /// A byte behind the body is not zero.
    Padding,
    /// The body is not a batch.
    Batch(BatchError),
}

impl FrameError {
    /// The code a peer is answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::BodyTooLarge { .. } => ErrorCode::TooLarge,
            Self::HeaderCrc { .. } | Self::BodyCrc { .. } => ErrorCode::BadChecksum,
            Self::LayoutVersion { .. } => ErrorCode::UnsupportedVersion,
            Self::Batch(error) => error.code(),
            _ => ErrorCode::Malformed,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, got } => {
                write!(f, "frame: {got} bytes where its header calls for {needed}")
            }
            Self::Trailing { needed, got } => {
                write!(
                    f,
                    "frame: {got} bytes where its header calls for only {needed}"
                )
            }
            Self::CommitLength { found: 0, .. } => write!(f, "commit word: nothing committed"),
            Self::CommitLength { found, wanted } => {
                write!(
                    f,
                    "commit word: length {found} where the body calls for {wanted}"
                )
            }
            Self::CommitNonce { found, wanted } => {
                write!(
                    f,
                    "commit word: nonce {found:#010x}, the segment's is {wanted:#010x}"
                )
            }
            Self::HeaderCrc { found, wanted } => {
                write!(
                    f,
                    "header crc: {found:#010x} but the bytes give {wanted:#010x}"
                )
            }
            Self::BodyCrc { found, wanted } => {
                write!(
                    f,
                    "body crc: {found:#010x} but the bytes give {wanted:#010x}"
                )
            }
            Self::NotZero { field } => write!(f, "{field}: not zero in a publish"),
            Self::Kind { found } => write!(f, "frame kind: {found} is none"),
            Self::KindNotPublished { found } => {
                write!(f, "frame kind: {found:?} is made by the log only")
            }
            Self::LayoutVersion { found } => {
                write!(f, "layout version: {found}, this reads {LAYOUT_VERSION}")
            }
            Self::Flags { found, kind } => {
                write!(f, "flags: {found:#x} may not stand on a {kind:?} frame")
            }
            Self::RecordCount { found, kind } => {
                write!(f, "record count: {found} may not stand on a {kind:?} frame")
            }
            Self::BodyTooLarge { body_bytes } => {
                write!(
                    f,
                    "body length: {body_bytes} is over the limit of {BODY_BYTES_MAX}"
                )
            }
            Self::Producer { found, kind } => write!(
                f,
                "producer: id {}, epoch {}, sequence {} may not stand on a {kind:?} frame",
                found.id, found.epoch, found.sequence
            ),
            Self::BaseOffset { found } => write!(f, "base offset: {found} cannot stand here"),
            Self::Padding => write!(f, "padding: not zero"),
            Self::Batch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Batch(error) => Some(error),
            _ => None,
        }
    }
}

impl From<BatchError> for FrameError {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}
