//! One record as a reader is given it: owned, or borrowed from the run it is in.

use std::fmt;
use std::ops::Range;

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
    pub(super) options: Option<Options<Bytes>>,
}

/// As [`Record`], borrowed from its run: making one counts no references.
///
/// # Example
///
/// ```
/// # use bytes::Bytes;
/// # use millstream_protocol::{Offset, batch::{Checked, RecordRun}};
/// # use millstream_protocol::frame::{FramePlace, FrameSeed};
/// # let (frames, seed) = (Bytes::new(), FrameSeed(7));
/// # let place = FramePlace { seed, nonce_half: 9, position: 0 };
/// let mut run = RecordRun::new(frames, place, Checked::No, Offset(0));
/// let mut kept = Vec::new();
/// while let Some(record) = run.next_view() {
///     let record = record?;
///     if record.as_bytes().starts_with(b"order") {
///         kept.push(record.to_record());
///     }
/// }
/// # Ok::<(), millstream_protocol::frame::FrameError>(())
/// ```
#[derive(Clone)]
pub struct RecordView<'a> {
    pub(super) offset: Offset,
    pub(super) append_time_us: u64,
    /// What `body` and the batch of `options` are parts of.
    pub(super) bytes: &'a Bytes,
    pub(super) body: Range<usize>,
    pub(super) options: Option<Options<Range<usize>>>,
}

/// Where the options of a record are: the body of its batch, and its place in it.
#[derive(Clone)]
pub(super) struct Options<B> {
    pub(super) batch: B,
    pub(super) index: u16,
    pub(super) record_count: u16,
}

impl<'a> Options<&'a [u8]> {
    fn read(self) -> Option<RecordRef<'a>> {
        let view = BatchView::reopen(self.batch, self.record_count).ok()?;
        view.record(usize::from(self.index))
    }
}

impl Options<Range<usize>> {
    /// Out of line, so that records without options do not pay for it.
    #[inline(never)]
    fn held_in(&self, bytes: &Bytes) -> Options<Bytes> {
        self.with(bytes.slice(self.batch.clone()))
    }
}

impl<B> Options<B> {
    /// The same place in the same bytes, held in another way.
    fn with<C>(&self, batch: C) -> Options<C> {
        Options {
            batch,
            index: self.index,
            record_count: self.record_count,
        }
    }
}

impl Record {
    /// The record, moved out: what stays has its offset and time, and neither body nor options. Counts no
    /// references, which a clone does.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self {
            offset: self.offset,
            append_time_us: self.append_time_us,
            body: std::mem::take(&mut self.body),
            options: self.options.take(),
        }
    }

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
        options.with(&*options.batch).read()
    }
}

impl<'a> RecordView<'a> {
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

    /// The payload.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        checked_part(self.bytes, &self.body)
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.options_ref()?.key()
    }

    /// The headers, name and value, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.options_ref()
            .into_iter()
            .flat_map(|record| record.headers())
    }

    /// All options, read in place; `None` when its batch has none. Its body is the record's own.
    #[must_use]
    pub fn options_ref(&self) -> Option<RecordRef<'a>> {
        let options = self.options.as_ref()?;
        let batch = checked_part(self.bytes, &options.batch);
        options.with(batch).read()
    }

    /// The same record, which holds on to its bytes itself: one more reference to them, two if its
    /// batch has options.
    #[must_use]
    #[inline]
    pub fn to_record(&self) -> Record {
        Record {
            offset: self.offset,
            append_time_us: self.append_time_us,
            body: self.bytes.slice(self.body.clone()),
            options: self.options.as_ref().map(|o| o.held_in(self.bytes)),
        }
    }
}

/// A part of a frame; one that is not there is our own fault, or of memory that changed.
#[inline]
fn checked_part<'a>(bytes: &'a [u8], part: &Range<usize>) -> &'a [u8] {
    bytes
        .get(part.clone())
        .expect("the ends were checked when the frame was opened")
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

impl fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordView")
            .field("offset", &self.offset.0)
            .field("append_time_us", &self.append_time_us)
            .field("body_bytes", &self.body.len())
            .field("options", &self.options_ref())
            .finish()
    }
}
