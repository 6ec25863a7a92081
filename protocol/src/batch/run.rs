//! Records from a run of stored frames, owned or borrowed.

use std::ops::Range;

use bytes::Bytes;

use super::record::{Options, Record, RecordView};
use super::{BatchView, decompress};
use crate::Offset;
use crate::frame::{
    FrameError, FrameKind, FramePlace, PublisherFields, check_stored, reopen_stored,
};
use crate::limits::{BODY_BYTES_MAX, FRAME_HEADER_BYTES};

/// Whether the frames of a run were compared with their checksums before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// They were, in this process, or this process wrote them.
    Yes,
    /// They were not: each frame is, before its first record is given out.
    No,
}

/// The records of a run of whole stored frames, from an offset on.
///
/// Void frames, seals and records before the offset are skipped. Costs no allocation but one for
/// each compressed batch. A record of the iterator is a slice of the run and keeps it alive; one of
/// [`RecordRun::next_view`] borrows it. Both give of the same records, each of them once.
///
/// A frame that is wrong in itself ends the run after its error. A batch that passed its checksum
/// and does not expand is an error of its own: the frames behind it follow.
#[derive(Debug)]
pub struct RecordRun {
    frames: Bytes,
    /// Where the next frame begins in `frames`.
    at: usize,
    place: FramePlace,
    checked: Checked,
    /// The first record not given out yet.
    next: Offset,
    open: OpenFrame,
}

/// A frame whose records are being given out; one without any before the first.
#[derive(Debug)]
struct OpenFrame {
    /// The plain body of a compressed batch; any other lies in the run.
    expanded: Option<Bytes>,
    /// Where the body is, in the run or in `expanded`.
    body: Range<usize>,
    /// Where its payload block begins: behind the ends of a batch; a single has none.
    payload_at: usize,
    base_offset: Offset,
    append_time_us: u64,
    record_count: u16,
    has_options: bool,
    /// The next record.
    index: u16,
    /// Where its payload starts.
    start: usize,
}

impl RecordRun {
    /// The records from `from` on in `frames`, the first of which lies at `place`.
    #[must_use]
    pub const fn new(frames: Bytes, place: FramePlace, checked: Checked, from: Offset) -> Self {
        Self {
            frames,
            at: 0,
            place,
            checked,
            next: from,
            open: OpenFrame::NONE,
        }
    }

    /// The offset after the last record given out or skipped.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.next
    }

    /// Skips the records before `offset`: frames by their headers, records of an open one at once.
    /// Does nothing when they were given out already.
    pub fn skip_to(&mut self, offset: Offset) {
        if offset <= self.next {
            return;
        }
        self.next = offset;
        if !self.open.skip_to(&self.frames, offset) {
            self.open = OpenFrame::NONE;
        }
    }

    /// Goes to the next record and tells its offset; `None` at the end of the run. The record is
    /// not given out: [`RecordRun::take_found`] does that, and so does every other way to the next.
    ///
    /// # Errors
    ///
    /// The next frame cannot be read; each error is told once, by whatever comes upon it.
    #[inline]
    pub fn find_next(&mut self) -> Result<Option<Offset>, FrameError> {
        match self.open.next_offset() {
            Some(found) => Ok(Some(found)),
            None => self.open_frame(),
        }
    }

    /// Gives out the record that [`RecordRun::find_next`] went to; `None` where it went to none.
    #[inline]
    pub fn take_found(&mut self) -> Option<RecordView<'_>> {
        let record = self.open.next_record(&self.frames)?;
        self.next = record.offset + 1;
        Some(record)
    }

    /// The next record, borrowed: what the iterator would give, without counting references.
    ///
    /// # Errors
    ///
    /// Those of the iterator: the run is over after a frame that is wrong in itself, and goes on
    /// behind a batch that does not expand.
    #[inline]
    pub fn next_view(&mut self) -> Option<Result<RecordView<'_>, FrameError>> {
        match self.find_next() {
            Ok(_) => self.take_found().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// Opens the next frame that has records to give and tells the first; `None` at the end.
    fn open_frame(&mut self) -> Result<Option<Offset>, FrameError> {
        self.open.expanded = None;
        while let Some(rest) = self.frames.get(self.at..).filter(|rest| !rest.is_empty()) {
            let FramePlace {
                seed,
                nonce_half,
                position,
            } = self.place;
            let checked = match self.checked {
                Checked::Yes => reopen_stored(rest, nonce_half),
                Checked::No => check_stored(rest, seed, position, nonce_half),
            };
            let frame = match checked {
                Ok(frame) => frame,
                Err(error) => {
                    self.at = self.frames.len();
                    return Err(error);
                }
            };
            let header = frame.header();
            let body_at = self.at + FRAME_HEADER_BYTES;
            self.at += header.frame_bytes() as usize;
            self.place.position = position.saturating_add(header.frame_bytes());
            if header.next_offset() <= self.next {
                continue;
            }
            let first = self.next.max(header.base_offset);
            self.next = header.next_offset();
            if matches!(header.fields.kind, FrameKind::Void | FrameKind::Seal) {
                continue;
            }
            let body = body_at..body_at + header.fields.body_bytes as usize;
            self.open = OpenFrame::of_single(body, header.base_offset, header.append_time_us);
            if header.fields.kind != FrameKind::Single {
                self.open.read_batch(&self.frames, header.fields)?;
                self.open.skip_to(&self.frames, first);
            }
            self.next = first;
            return Ok(Some(first));
        }
        Ok(None)
    }
}

impl Iterator for RecordRun {
    type Item = Result<Record, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.find_next() {
            Ok(_) => self.take_found().map(|record| Ok(record.to_record())),
            Err(error) => Some(Err(error)),
        }
    }
}

impl OpenFrame {
    const NONE: Self = Self {
        expanded: None,
        body: 0..0,
        payload_at: 0,
        base_offset: Offset(0),
        append_time_us: 0,
        record_count: 0,
        has_options: false,
        index: 0,
        start: 0,
    };

    /// A frame of one record without options, whose payload is the body.
    #[inline]
    const fn of_single(body: Range<usize>, base_offset: Offset, append_time_us: u64) -> Self {
        Self {
            expanded: None,
            payload_at: body.start,
            base_offset,
            append_time_us,
            record_count: 1,
            has_options: false,
            index: 0,
            start: body.start,
            body,
        }
    }

    /// Reads as a batch what was taken for a single: expands and checks its body, goes to its first
    /// record. It has none where that fails.
    fn read_batch(&mut self, frames: &Bytes, fields: PublisherFields) -> Result<(), FrameError> {
        self.record_count = 0;
        let stored = frames.get(self.body.clone()).unwrap_or_default();
        let expanded = match fields.compressed {
            true => Some(Bytes::from(decompress(stored, BODY_BYTES_MAX)?)),
            false => None,
        };
        let plain = expanded.as_deref().unwrap_or(stored);
        let view = BatchView::check(fields.kind, fields.record_count, false, plain)?;
        self.has_options = view.has_options();
        if let Some(expanded) = &expanded {
            self.body = 0..expanded.len();
        }
        self.expanded = expanded;
        self.record_count = fields.record_count;
        self.payload_at = self.body.start + 4 * usize::from(fields.record_count);
        self.start = self.payload_at;
        Ok(())
    }

    /// The offset of the next record.
    #[inline]
    fn next_offset(&self) -> Option<Offset> {
        let left = self.index < self.record_count;
        left.then(|| self.base_offset + u64::from(self.index))
    }

    /// Goes on to the record of `offset`, which does not lie behind; says whether it is in this
    /// frame.
    fn skip_to(&mut self, frames: &Bytes, offset: Offset) -> bool {
        let index = offset.since(self.base_offset).unwrap_or(0);
        let Some(index) = u16::try_from(index)
            .ok()
            .filter(|index| *index < self.record_count)
        else {
            return false;
        };
        if let Some(before) = index.checked_sub(1) {
            let bytes = self.expanded.as_ref().unwrap_or(frames);
            self.start = self.end_of(bytes, before);
        }
        self.index = index;
        true
    }

    /// The next record; its payload and its options are slices of `frames`, or of what was expanded.
    #[inline]
    fn next_record<'a>(&'a mut self, frames: &'a Bytes) -> Option<RecordView<'a>> {
        let offset = self.next_offset()?;
        let bytes = self.expanded.as_ref().unwrap_or(frames);
        let end = self.end_of(bytes, self.index);
        let body = self.start..end;
        let options = self.has_options.then(|| Options {
            batch: self.body.clone(),
            index: self.index,
            record_count: self.record_count,
        });
        self.start = end;
        self.index += 1;
        Some(RecordView {
            offset,
            append_time_us: self.append_time_us,
            bytes,
            body,
            options,
        })
    }

    /// Where the payload of a record ends, which was checked: its end is there, or it is a single.
    #[inline]
    fn end_of(&self, bytes: &[u8], index: u16) -> usize {
        let end_at = self.body.start + 4 * usize::from(index);
        if end_at >= self.payload_at {
            return self.body.end;
        }
        let end = bytes.get(end_at..).and_then(<[u8]>::first_chunk::<4>);
        end.map_or(self.body.end, |end| {
            self.payload_at + u32::from_le_bytes(*end) as usize
        })
    }
}

/// The records of one frame in the form a publisher sends, owned: slices of its body.
#[derive(Debug)]
pub(crate) struct FrameRecords {
    body: Bytes,
    open: OpenFrame,
}

impl FrameRecords {
    /// The records of a frame that was checked, whose body is `body`.
    pub(crate) fn new(body: Bytes, fields: &PublisherFields) -> Result<Self, FrameError> {
        let mut open = OpenFrame::of_single(0..body.len(), Offset(0), 0);
        if fields.kind != FrameKind::Single {
            open.read_batch(&body, *fields)?;
        }
        Ok(Self { body, open })
    }

    /// The next record, as that of `offset`.
    pub(crate) fn next_at(&mut self, offset: Offset, append_time_us: u64) -> Option<Record> {
        let mut record = self.open.next_record(&self.body)?;
        record.offset = offset;
        record.append_time_us = append_time_us;
        Some(record.to_record())
    }
}
