//! Which optional columns a batch has.

use super::layout::{COLUMN_BYTES, ColumnKind, VEC_BYTES};
use crate::frame::{FrameKind, PublisherFields};

/// Which optional columns a batch has, found without a look at its records.
///
/// ```
/// use millstream_protocol::batch::{BatchBuilder, ColumnKind, Columns, Message};
/// let mut batch = BatchBuilder::new();
/// batch.push(&Message::new("one").key("k"))?;
/// let mut body = Vec::new();
/// batch.write_body(&mut body);
/// let columns = Columns::of(&batch.fields(), &body);
/// assert!(columns.has(ColumnKind::Key) && !columns.has(ColumnKind::Group));
/// assert!(!columns.has_any(&[ColumnKind::Group, ColumnKind::Priority]));
/// # Ok::<(), millstream_protocol::batch::PushError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Columns {
    /// One bit a kind, by its code.
    bits: u16,
}

impl Columns {
    /// No column: every record is its body and nothing else.
    pub const NONE: Self = Self { bits: 0 };
    /// Every column.
    pub const ALL: Self = Self {
        bits: ((1 << ColumnKind::ALL.len()) - 1) << 1,
    };

    /// Those of a body that was checked before; costs a look at each column, none at the records.
    ///
    /// Of a body that never was, it says that it has all columns, or some.
    #[must_use]
    pub fn of(fields: &PublisherFields, body: &[u8]) -> Self {
        match fields.kind {
            FrameKind::Batch => Self::find(body).unwrap_or(Self::ALL),
            FrameKind::Single | FrameKind::Void | FrameKind::Seal => Self::NONE,
        }
    }

    /// The kinds of the entries that the last part of the root refers to.
    fn find(body: &[u8]) -> Option<Self> {
        let (parts, reference) = body.split_last_chunk::<VEC_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *reference;
        let count = u32::from_le_bytes([e, f, g, h]) as usize;
        if count > ColumnKind::ALL.len() {
            return None;
        }
        let distance = i32::from_le_bytes([a, b, c, d]);
        let entries = parts.len().checked_add_signed(distance as isize)?;
        let entries = parts.get(entries..)?.get(..COLUMN_BYTES * count)?;
        let mut columns = Self::NONE;
        for [code, ..] in entries.as_chunks::<COLUMN_BYTES>().0 {
            columns.bits |= ColumnKind::from_code(*code)?.bit();
        }
        Some(columns)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Whether there is one of this kind.
    #[must_use]
    pub const fn has(self, kind: ColumnKind) -> bool {
        self.bits & kind.bit() != 0
    }

    /// Whether there is one of any of these kinds.
    #[must_use]
    pub fn has_any(self, kinds: &[ColumnKind]) -> bool {
        kinds.iter().any(|kind| self.has(*kind))
    }
}

impl ColumnKind {
    const fn bit(self) -> u16 {
        1 << self.code()
    }
}
