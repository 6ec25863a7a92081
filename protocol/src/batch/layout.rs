//! The archived form of a batch: the structs whose bytes lie on disk, and their places.
//!
//! These are rkyv's archived types written out, so that no derive stands between this page and the
//! bytes. A test holds them to what rkyv's own serializer makes of the same columns.

use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedU32, ArchivedU64};
use rkyv::rancor::Failure;
use rkyv::vec::ArchivedVec;
use rkyv::{Portable, access};

use super::BatchError;
use crate::coded::coded_enum;

/// Bytes of a reference to a vector: an i32 from its own place, and a u32 count of elements.
pub(super) const VEC_BYTES: usize = 8;
/// Bytes of the root.
pub(super) const ROOT_BYTES: usize = 3 * VEC_BYTES;
/// Bytes of the entry of one optional column.
pub(super) const COLUMN_BYTES: usize = 1 + 3 * VEC_BYTES;

const _: () = assert!(size_of::<ArchivedBatch>() == ROOT_BYTES);
const _: () = assert!(size_of::<ArchivedColumn>() == COLUMN_BYTES);
const _: () = assert!(align_of::<ArchivedBatch>() == 1 && align_of::<ArchivedColumn>() == 1);

coded_enum! {
    /// An optional column. A record without the option has an empty or zero entry.
    pub enum ColumnKind: u8 {
        /// `ends` and `bytes`: at most 1,024 bytes a record.
        Key = 1,
        /// `ends`: n counts of headers so far, then two ends a header, of name and value; `bytes`.
        Headers = 2,
        /// `ends` and `bytes`: the publisher's name for the record, at most 255 bytes.
        Id = 3,
        /// `ends` and `bytes`: records of one group are delivered in order; at most 255 bytes.
        Group = 4,
        /// `words`: not to be delivered before, microseconds of the Unix epoch.
        DueAt = 5,
        /// `words`: not to be delivered after, microseconds of the Unix epoch.
        ExpiresAt = 6,
        /// `words`: when the publisher made it, microseconds of the Unix epoch.
        PublishedAt = 7,
        /// `bytes`, one a record: higher goes first.
        Priority = 8,
    }
}

impl ColumnKind {
    /// The column's place among all of them.
    pub(super) const fn index(self) -> usize {
        self.code() as usize - 1
    }
}

/// The root, the last 24 bytes of a body.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub(super) struct ArchivedBatch {
    pub(super) ends: ArchivedVec<ArchivedU32>,
    pub(super) payload: ArchivedVec<u8>,
    pub(super) columns: ArchivedVec<ArchivedColumn>,
}

/// One optional column; what its kind does not use is empty.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub(super) struct ArchivedColumn {
    pub(super) kind: u8,
    pub(super) ends: ArchivedVec<ArchivedU32>,
    pub(super) words: ArchivedVec<ArchivedU64>,
    pub(super) bytes: ArchivedVec<u8>,
}

impl ArchivedBatch {
    /// The root of `body`, when every reference in it stays inside.
    #[inline]
    pub(super) fn access(body: &[u8]) -> Result<&Self, BatchError> {
        access::<Self, Failure>(body).map_err(|Failure| BatchError::Archive)
    }

    /// Whether the parts lie in their one order without gaps, and the root last.
    pub(super) fn is_packed(&self, body: &[u8]) -> bool {
        let mut at = body.as_ptr().addr();
        let end = at + body.len();
        let mut follows = |start: usize, bytes: usize| {
            let right = start == at;
            at += bytes;
            right
        };
        let mut packed = follows(self.ends.as_ptr().addr(), 4 * self.ends.len())
            && follows(self.payload.as_ptr().addr(), self.payload.len());
        for column in self.columns.iter() {
            packed = packed
                && follows(column.ends.as_ptr().addr(), 4 * column.ends.len())
                && follows(column.words.as_ptr().addr(), 8 * column.words.len())
                && follows(column.bytes.as_ptr().addr(), column.bytes.len());
        }
        packed
            && follows(
                self.columns.as_ptr().addr(),
                COLUMN_BYTES * self.columns.len(),
            )
            && at + ROOT_BYTES == end
    }
}

/// A reference from `at` to `count` elements at `target`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "places in a body are below BODY_BYTES_MAX, 16 MiB"
)]
pub(super) fn vec_ref(at: usize, target: usize, count: usize) -> [u8; VEC_BYTES] {
    let [a, b, c, d] = (target as i32 - at as i32).to_le_bytes();
    let [e, f, g, h] = (count as u32).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}
