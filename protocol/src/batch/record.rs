//! One record as a reader is given it.

use std::fmt;

use bytes::Bytes;

use super::BatchView;
use super::view::RecordRef;
use crate::Offset;

/// One record: its offset, when it was appended, its body and its options.
///
/// The body is a slice of the bytes that were read, in-process of the mapped segment itself: it
/// holds on to them and outlives retention.
#[derive(Clone)]
pub struct Record {
    pub(super) offset: Offset,
    pub(super) append_time_us: u64,
    pub(super) body: Bytes,
    pub(super) options: Option<Options>,
}

/// Where the options of a record are: the body of its batch, and its place in it.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) batch: Bytes,
    pub(super) index: u16,
    pub(super) record_count: u16,
}

impl Record {
    /// Its number in the topic.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// When it was appended, in microseconds of the Unix epoch.
    #[must_use]
    pub const fn append_time_us(&self) -> u64 {
        self.append_time_us
    }

    /// The payload; costs a reference count, no copy.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The payload, borrowed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.body
    }

    /// The payload, without the rest.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// The key, if it has one; costs a reference count, no copy.
    #[must_use]
    pub fn key(&self) -> Option<Bytes> {
        let options = self.options.as_ref()?;
        Some(options.batch.slice_ref(self.options_ref()?.key()?))
    }

    /// The headers, name and value, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.options_ref()
            .into_iter()
            .flat_map(|record| record.headers())
    }

    /// The bytes its options lie in.
    pub(super) fn batch(&self) -> Option<&Bytes> {
        self.options.as_ref().map(|options| &options.batch)
    }

    /// All options, read in place; `None` when its batch has none. Its body is the record's own.
    #[must_use]
    pub fn options_ref(&self) -> Option<RecordRef<'_>> {
        let options = self.options.as_ref()?;
        let view = BatchView::reopen(&options.batch, options.record_count).ok()?;
        view.record(usize::from(options.index))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset.0)
            .field("append_time_us", &self.append_time_us)
            .field("body", &self.body)
            .field("options", &self.options_ref())
            .finish()
    }
}
