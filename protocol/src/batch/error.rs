//! Why a body is not a batch, and why a message does not go into one.

use std::fmt;

use super::ColumnKind;
use crate::error::ErrorCode;
use crate::frame::FrameKind;
use crate::limits::{BODY_BYTES_MAX, RECORDS_PER_FRAME_MAX};

/// Why the body of a frame is not a batch: the column that is wrong, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// The kind of frame has no records.
    Kind {
        /// The kind.
        found: FrameKind,
    },
    /// A single that says it is compressed.
    CompressedSingle,
    /// The root or a reference in it points outside the body.
    Archive,
    /// Columns out of their order, with gaps, or with bytes between them.
    NotPacked,
    /// The ends are not as many as the header's records.
    RecordCount {
        /// Ends in the body.
        found: usize,
        /// Records in the header.
        wanted: u16,
    },
    /// The ends fall, or the last is not the end of the payload.
    Ends {
        /// The record whose end is wrong.
        record: usize,
    },
    /// A compressed payload that is not smaller than its expanded form.
    NotSmaller {
        /// Bytes of the block.
        bytes: usize,
        /// Bytes it expands to.
        expanded_bytes: usize,
    },
    /// A compressed payload that would expand past the limit.
    ExpandedTooLarge {
        /// Bytes of the expanded body.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A payload block that is not lz4, or expands to another size.
    Compression,
    /// A column number that is none.
    ColumnUnknown {
        /// The number.
        found: u8,
    },
    /// Columns that do not rise, or one there twice.
    ColumnOrder {
        /// The column out of place.
        column: ColumnKind,
    },
    /// A column whose parts disagree with the record count, with its kind or with one another.
    ColumnShape {
        /// The column.
        column: ColumnKind,
    },
    /// A column in which no record has a value.
    ColumnEmpty {
        /// The column.
        column: ColumnKind,
    },
    /// A value over its limit.
    ValueTooLarge {
        /// The column.
        column: ColumnKind,
        /// The record.
        record: usize,
        /// What was counted: bytes, or headers.
        found: usize,
    },
    /// A header's name that is empty or not UTF-8.
    HeaderName {
        /// The record.
        record: usize,
    },
}

impl BatchError {
    /// The code a peer is answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::ExpandedTooLarge { .. } | Self::ValueTooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::Malformed,
        }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { found } => write!(f, "body: a {found:?} frame has no records"),
            Self::CompressedSingle => write!(f, "flags: a single payload is never compressed"),
            Self::Archive => write!(f, "body: a reference points outside of it"),
            Self::NotPacked => write!(f, "body: its parts are not in order without gaps"),
            Self::RecordCount { found, wanted } => {
                write!(f, "ends: {found} of them for {wanted} records")
            }
            Self::Ends { record } => {
                write!(f, "ends: that of record {record} does not fit the payload")
            }
            Self::NotSmaller {
                bytes,
                expanded_bytes,
            } => {
                write!(
                    f,
                    "payload: {bytes} bytes compressed, {expanded_bytes} expanded"
                )
            }
            Self::ExpandedTooLarge { bytes, bytes_max } => {
                write!(
                    f,
                    "payload: expands to a body of {bytes} bytes, over {bytes_max}"
                )
            }
            Self::Compression => write!(f, "payload: not the lz4 block its ends describe"),
            Self::ColumnUnknown { found } => write!(f, "column kind: {found} is none"),
            Self::ColumnOrder { column } => write!(f, "column {column:?}: out of order"),
            Self::ColumnShape { column } => {
                write!(f, "column {column:?}: its parts disagree with one another")
            }
            Self::ColumnEmpty { column } => write!(f, "column {column:?}: no record has a value"),
            Self::ValueTooLarge {
                column,
                record,
                found,
            } => {
                write!(
                    f,
                    "column {column:?}: record {record} has {found}, over the limit"
                )
            }
            Self::HeaderName { record } => {
                write!(
                    f,
                    "column Headers: record {record} has a name that is empty or not UTF-8"
                )
            }
        }
    }
}

impl std::error::Error for BatchError {}

/// Why a message was not put into a batch; the batch is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// It would fit an empty batch: send this one first.
    Full,
    /// It fits no batch.
    TooLarge {
        /// Bytes of a body that holds it alone.
        bytes: usize,
        /// The most a body of this batch may have.
        bytes_max: usize,
    },
    /// A part of it is over its limit.
    FieldTooLarge {
        /// `key`, `id`, `group`, `headers` (their bytes) or `header count`.
        field: &'static str,
        /// What was counted.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A header has no name.
    HeaderNameEmpty,
}

impl PushError {
    /// The code a publish with such a message would be answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::HeaderNameEmpty => ErrorCode::Malformed,
            Self::Full | Self::TooLarge { .. } | Self::FieldTooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(
                f,
                "the batch is full: at most {RECORDS_PER_FRAME_MAX} records and {BODY_BYTES_MAX} bytes"
            ),
            Self::TooLarge { bytes, bytes_max } => {
                write!(
                    f,
                    "the message needs a body of {bytes} bytes, over the limit of {bytes_max}"
                )
            }
            Self::FieldTooLarge { field, found, max } => {
                write!(f, "{field}: {found} is over the limit of {max}")
            }
            Self::HeaderNameEmpty => write!(f, "a header's name is empty"),
        }
    }
}

impl std::error::Error for PushError {}
