//! A body that was checked, read in place.

use rkyv::primitive::{ArchivedU32, ArchivedU64};

use super::BatchError;
use super::layout::{ArchivedBatch, ArchivedColumn, ColumnKind};
use crate::frame::{FrameKind, ProducerStamp, PublisherFields};
use crate::limits::{
    BODY_BYTES_MAX, GROUP_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, ID_BYTES_MAX, KEY_BYTES_MAX,
    NOTED_HEADERS_BYTES_MAX, NOTED_HEADERS_MAX,
};

/// What the headers of one record may come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderLimits {
    /// Headers.
    pub(super) count: usize,
    /// Bytes of names and values together.
    pub(super) bytes: usize,
}

impl HeaderLimits {
    /// Of a record as its publisher makes it.
    pub(crate) const PUBLISHER: Self = Self {
        count: HEADERS_MAX,
        bytes: HEADERS_BYTES_MAX,
    };
    /// Of a record with the broker's notes.
    pub(crate) const NOTED: Self = Self {
        count: NOTED_HEADERS_MAX,
        bytes: NOTED_HEADERS_BYTES_MAX,
    };
}

/// The records of one body, read in place; every one of them can be had without an error.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    /// `None` for a single.
    columns: Option<&'a ArchivedBatch>,
    payload: &'a [u8],
    record_count: u16,
    compressed: bool,
}

impl<'a> BatchView<'a> {
    /// Checks the body of a frame: every reference, the ends, every column. One pass over the
    /// columns, none over the payload; allocates nothing.
    ///
    /// Of a compressed batch all is checked but the payload block, which must be expanded with
    /// [`super::decompress`] first: the view has its options, and no bodies.
    ///
    /// # Errors
    ///
    /// The first column that breaks its rule.
    pub fn check(
        kind: FrameKind,
        record_count: u16,
        compressed: bool,
        body: &'a [u8],
    ) -> Result<Self, BatchError> {
        let fields = PublisherFields {
            kind,
            compressed,
            record_count,
            body_bytes: 0,
            producer: ProducerStamp::NONE,
        };
        Self::check_within(&fields, body, HeaderLimits::NOTED)
    }

    /// Like [`BatchView::check`], with headers that keep to `limits`.
    pub(crate) fn check_within(
        fields: &PublisherFields,
        body: &'a [u8],
        limits: HeaderLimits,
    ) -> Result<Self, BatchError> {
        let PublisherFields {
            kind,
            compressed,
            record_count,
            ..
        } = *fields;
        match kind {
            FrameKind::Single if compressed => Err(BatchError::CompressedSingle),
            FrameKind::Single if record_count != 1 => Err(BatchError::RecordCount {
                found: 1,
                wanted: record_count,
            }),
            FrameKind::Single => Ok(Self {
                columns: None,
                payload: body,
                record_count,
                compressed,
            }),
            FrameKind::Batch => {
                let columns = ArchivedBatch::access(body)?;
                check_columns(columns, fields, body, limits)?;
                let payload = columns.payload.as_slice();
                Ok(Self {
                    columns: Some(columns),
                    payload,
                    record_count,
                    compressed,
                })
            }
            FrameKind::Void | FrameKind::Seal => Err(BatchError::Kind { found: kind }),
        }
    }

    /// Reads a plain body that [`BatchView::check`] accepted before. Only references are looked at.
    pub(super) fn reopen(body: &'a [u8], record_count: u16) -> Result<Self, BatchError> {
        let columns = ArchivedBatch::access(body)?;
        let payload = columns.payload.as_slice();
        Ok(Self {
            columns: Some(columns),
            payload,
            record_count,
            compressed: false,
        })
    }

    /// The records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.record_count as usize
    }

    /// Whether there are none; a frame has at least one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of all bodies together, expanded.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self.columns {
            None => self.payload.len(),
            Some(columns) => columns
                .ends
                .last()
                .map_or(0, |end| end.to_native() as usize),
        }
    }

    /// Whether any record has options.
    #[must_use]
    pub fn has_options(&self) -> bool {
        self.columns
            .is_some_and(|columns| !columns.columns.is_empty())
    }

    /// The `index`-th record, in O(1).
    #[must_use]
    pub fn record(&self, index: usize) -> Option<RecordRef<'a>> {
        if index >= self.len() {
            return None;
        }
        let body = match self.columns {
            None => self.payload,
            Some(_) if self.compressed => &[],
            Some(columns) => value(columns.ends.as_slice(), self.payload, index),
        };
        Some(RecordRef {
            columns: self.columns,
            body,
            index,
        })
    }

    /// All records, in order.
    #[must_use]
    pub const fn iter(&self) -> BatchIter<'a> {
        BatchIter {
            view: *self,
            next: 0,
        }
    }

    /// The payload block as it lies in the body.
    pub(super) const fn payload_block(&self) -> &'a [u8] {
        self.payload
    }
}

impl<'a> IntoIterator for &BatchView<'a> {
    type Item = RecordRef<'a>;
    type IntoIter = BatchIter<'a>;

    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for BatchView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The records of a batch, in order.
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    view: BatchView<'a>,
    next: usize,
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        let record = self.view.record(self.next)?;
        self.next += 1;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.view.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for BatchIter<'_> {}

/// One record of a batch, read in place.
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    columns: Option<&'a ArchivedBatch>,
    body: &'a [u8],
    index: usize,
}

impl<'a> RecordRef<'a> {
    /// The payload; empty as long as its batch is compressed.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Bytes of the payload, expanded; also as long as its batch is compressed.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let Some(columns) = self.columns else {
            return self.body.len();
        };
        let (start, end) = span(columns.ends.as_slice(), self.index);
        end - start
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.bytes_of(ColumnKind::Key)
    }

    /// The publisher's own name for it, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&'a [u8]> {
        self.bytes_of(ColumnKind::Id)
    }

    /// The group within which order is kept, if it is in one.
    #[must_use]
    pub fn group(&self) -> Option<&'a [u8]> {
        self.bytes_of(ColumnKind::Group)
    }

    /// The headers, name and value, in the publisher's order.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        let headers = self.column(ColumnKind::Headers).map(|column| {
            let (counts, pairs) = column.ends.split_at(self.record_count());
            let (first, last) = span(counts, self.index);
            (pairs, column.bytes.as_slice(), first, last)
        });
        let (pairs, bytes, next, end) = headers.unwrap_or_default();
        Headers {
            pairs,
            bytes,
            next,
            end,
        }
    }

    /// The time before which it is not due, in microseconds of the Unix epoch.
    #[must_use]
    pub fn due_at_us(&self) -> Option<u64> {
        self.word_of(ColumnKind::DueAt)
    }

    /// The time after which it is worthless, in microseconds of the Unix epoch.
    #[must_use]
    pub fn expires_at_us(&self) -> Option<u64> {
        self.word_of(ColumnKind::ExpiresAt)
    }

    /// When its publisher made it, in microseconds of the Unix epoch.
    #[must_use]
    pub fn published_at_us(&self) -> Option<u64> {
        self.word_of(ColumnKind::PublishedAt)
    }

    /// The priority; 0 when it does not say.
    #[must_use]
    pub fn priority(&self) -> u8 {
        let column = self.column(ColumnKind::Priority);
        column
            .and_then(|column| column.bytes.get(self.index).copied())
            .unwrap_or(0)
    }

    fn record_count(&self) -> usize {
        self.columns.map_or(1, |columns| columns.ends.len())
    }

    fn column(&self, kind: ColumnKind) -> Option<&'a ArchivedColumn> {
        self.columns?
            .columns
            .iter()
            .find(|column| column.kind == kind.code())
    }

    fn bytes_of(&self, kind: ColumnKind) -> Option<&'a [u8]> {
        let column = self.column(kind)?;
        let bytes = value(column.ends.as_slice(), column.bytes.as_slice(), self.index);
        (!bytes.is_empty()).then_some(bytes)
    }

    fn word_of(&self, kind: ColumnKind) -> Option<u64> {
        let word = self.column(kind)?.words.get(self.index)?.to_native();
        (word != 0).then_some(word)
    }
}

impl std::fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordRef")
            .field("body_bytes", &self.body.len())
            .field("key", &self.key())
            .field("headers", &self.headers())
            .finish_non_exhaustive()
    }
}

/// The headers of one record: name and value, in the publisher's order.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    pairs: &'a [ArchivedU32],
    bytes: &'a [u8],
    next: usize,
    end: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let name = value(self.pairs, self.bytes, 2 * self.next);
        let content = value(self.pairs, self.bytes, 2 * self.next + 1);
        self.next += 1;
        // Names were checked when the body was; a view of unchecked bytes does not exist.
        Some((str::from_utf8(name).unwrap_or_default(), content))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Where the `index`-th value starts and ends.
fn span(ends: &[ArchivedU32], index: usize) -> (usize, usize) {
    let end_of = |index: usize| ends.get(index).map_or(0, |end| end.to_native() as usize);
    let start = index.checked_sub(1).map_or(0, end_of);
    (start, end_of(index))
}

/// The `index`-th value of a column.
fn value<'a>(ends: &[ArchivedU32], bytes: &'a [u8], index: usize) -> &'a [u8] {
    let (start, end) = span(ends, index);
    bytes.get(start..end).unwrap_or_default()
}

/// The record whose end lies before its predecessor's or past `last`; `None` when all is well.
fn misplaced_end(ends: &[ArchivedU32], last: usize) -> Option<usize> {
    // Without a branch inside, so that it runs at the speed of memory.
    let (mut rising, mut previous) = (true, 0);
    for end in ends {
        let end = end.to_native();
        rising &= previous <= end;
        previous = end;
    }
    if rising && previous as usize == last {
        return None;
    }
    let mut previous = 0;
    let fall = ends.iter().position(|end| {
        let falls = end.to_native() < previous || end.to_native() as usize > last;
        previous = end.to_native();
        falls
    });
    Some(fall.unwrap_or(ends.len().saturating_sub(1)))
}

fn check_columns(
    batch: &ArchivedBatch,
    fields: &PublisherFields,
    body: &[u8],
    limits: HeaderLimits,
) -> Result<(), BatchError> {
    let (record_count, compressed) = (fields.record_count, fields.compressed);
    if !batch.is_packed(body) {
        return Err(BatchError::NotPacked);
    }
    let records = batch.ends.len();
    if records != usize::from(record_count) || records == 0 {
        return Err(BatchError::RecordCount {
            found: records,
            wanted: record_count,
        });
    }
    let bytes = batch.payload.len();
    let last = batch.ends.last().map_or(0, |end| end.to_native() as usize);
    let payload_end = if compressed { last } else { bytes };
    if let Some(record) = misplaced_end(batch.ends.as_slice(), payload_end) {
        return Err(BatchError::Ends { record });
    }
    if compressed {
        let expanded = body.len() - bytes + last;
        if expanded > BODY_BYTES_MAX {
            let bytes_max = BODY_BYTES_MAX;
            return Err(BatchError::ExpandedTooLarge {
                bytes: expanded,
                bytes_max,
            });
        }
        if bytes >= last {
            return Err(BatchError::NotSmaller {
                bytes,
                expanded_bytes: last,
            });
        }
    }
    let mut previous = 0;
    for column in batch.columns.iter() {
        let found = column.kind;
        let kind = ColumnKind::from_code(found).ok_or(BatchError::ColumnUnknown { found })?;
        if found <= previous {
            return Err(BatchError::ColumnOrder { column: kind });
        }
        previous = found;
        check_column(column, kind, records, limits)?;
    }
    Ok(())
}

/// The parts a column's kind uses fit each other and the records; those it does not use are empty.
fn check_column(
    column: &ArchivedColumn,
    kind: ColumnKind,
    records: usize,
    limits: HeaderLimits,
) -> Result<(), BatchError> {
    let (ends, words, bytes) = (
        column.ends.as_slice(),
        column.words.as_slice(),
        column.bytes.as_slice(),
    );
    let (shaped, filled) = match kind {
        ColumnKind::Key | ColumnKind::Id | ColumnKind::Group => (
            ends.len() == records && words.is_empty() && misplaced_end(ends, bytes.len()).is_none(),
            !bytes.is_empty(),
        ),
        ColumnKind::Headers => (
            words.is_empty() && headers_fit(ends, bytes, records),
            !bytes.is_empty(),
        ),
        ColumnKind::DueAt | ColumnKind::ExpiresAt | ColumnKind::PublishedAt => (
            ends.is_empty() && words.len() == records && bytes.is_empty(),
            words.iter().any(|word: &ArchivedU64| word.to_native() != 0),
        ),
        ColumnKind::Priority => (
            ends.is_empty() && words.is_empty() && bytes.len() == records,
            bytes.iter().any(|byte| *byte != 0),
        ),
    };
    if !shaped {
        return Err(BatchError::ColumnShape { column: kind });
    }
    if !filled {
        return Err(BatchError::ColumnEmpty { column: kind });
    }
    match kind {
        ColumnKind::Key => check_lengths(ends, kind, KEY_BYTES_MAX),
        ColumnKind::Id => check_lengths(ends, kind, ID_BYTES_MAX),
        ColumnKind::Group => check_lengths(ends, kind, GROUP_BYTES_MAX),
        ColumnKind::Headers => check_headers(ends, bytes, records, limits),
        _ => Ok(()),
    }
}

fn check_lengths(
    ends: &[ArchivedU32],
    column: ColumnKind,
    bytes_max: usize,
) -> Result<(), BatchError> {
    let mut start = 0;
    for (record, end) in ends.iter().enumerate() {
        let end = end.to_native() as usize;
        let found = end - start;
        if found > bytes_max {
            return Err(BatchError::ValueTooLarge {
                column,
                record,
                found,
            });
        }
        start = end;
    }
    Ok(())
}

/// The counts rise, two ends follow for each header counted, and the last is that of the bytes.
fn headers_fit(ends: &[ArchivedU32], bytes: &[u8], records: usize) -> bool {
    let Some((counts, pairs)) = ends.split_at_checked(records) else {
        return false;
    };
    let headers = pairs.len() / 2;
    pairs.len().is_multiple_of(2)
        && misplaced_end(counts, headers).is_none()
        && misplaced_end(pairs, bytes.len()).is_none()
}

/// Every record keeps to the limits of headers, and every name is one.
fn check_headers(
    ends: &[ArchivedU32],
    bytes: &[u8],
    records: usize,
    limits: HeaderLimits,
) -> Result<(), BatchError> {
    let column = ColumnKind::Headers;
    let (counts, pairs) = ends.split_at_checked(records).unwrap_or_default();
    for record in 0..records {
        let (first, last) = span(counts, record);
        if last - first > limits.count {
            return Err(BatchError::ValueTooLarge {
                column,
                record,
                found: last - first,
            });
        }
        let mut found = 0;
        for header in first..last {
            let name = value(pairs, bytes, 2 * header);
            if name.is_empty() || str::from_utf8(name).is_err() {
                return Err(BatchError::HeaderName { record });
            }
            found += name.len() + value(pairs, bytes, 2 * header + 1).len();
        }
        if found > limits.bytes {
            return Err(BatchError::ValueTooLarge {
                column,
                record,
                found,
            });
        }
    }
    Ok(())
}
