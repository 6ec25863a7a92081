//! Owned records from a run of stored frames.

use std::ops::Range;

use bytes::Bytes;

use super::record::{Options, Record};
use super::{BatchView, decompress};
use crate::Offset;
use crate::frame::{
    FrameError, FrameHeader, FrameKind, FramePlace, PublisherFields, check_stored, reopen_stored,
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
/// each compressed batch; a record is a slice of the run and keeps it alive.
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
    open: Option<OpenFrame>,
}

/// What the next frame of a run holds.
enum Opened {
    /// One record without options, whose payload is the body: given out at once.
    Single(Record),
    Batch(OpenFrame),
}

/// A batch whose records are being given out.
#[derive(Debug)]
struct OpenFrame {
    /// The plain body of a compressed batch; any other lies in the run.
    expanded: Option<Bytes>,
    /// Where the body is, in the run or in `expanded`.
    body: Range<usize>,
    header: FrameHeader,
    has_options: bool,
    /// The next record.
    index: u16,
    /// Where its payload starts in the payload block.
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
            open: None,
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
        if let Some(open) = &mut self.open
            && !open.skip_to(&self.frames, offset)
        {
            self.open = None;
        }
    }

    /// Opens the next frame that has records to give; `None` at the end of the run.
    fn open_frame(&mut self) -> Result<Option<Opened>, FrameError> {
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
            let header = *frame.header();
            let body_at = self.at + FRAME_HEADER_BYTES;
            self.at += header.frame_bytes() as usize;
            self.place.position = position.saturating_add(header.frame_bytes());
            if header.next_offset() <= self.next {
                continue;
            }
            let skipped = header.base_offset.since(self.next).is_none();
            let first = if skipped {
                self.next
            } else {
                header.base_offset
            };
            self.next = header.next_offset();
            if matches!(header.fields.kind, FrameKind::Void | FrameKind::Seal) {
                continue;
            }
            let body = body_at..body_at + header.fields.body_bytes as usize;
            if header.fields.kind == FrameKind::Single {
                return Ok(Some(Opened::Single(Record {
                    offset: header.base_offset,
                    append_time_us: header.append_time_us,
                    body: self.frames.slice(body),
                    options: None,
                })));
            }
            let frame = OpenFrame::new(&self.frames, body, header, first)?;
            self.next = first;
            return Ok(Some(Opened::Batch(frame)));
        }
        Ok(None)
    }
}

impl Iterator for RecordRun {
    type Item = Result<Record, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(record) = open.next_record(&self.frames) {
                    self.next = record.offset + 1;
                    return Some(Ok(record));
                }
                self.open = None;
            }
            match self.open_frame() {
                Ok(Some(Opened::Single(record))) => return Some(Ok(record)),
                Ok(Some(Opened::Batch(frame))) => self.open = Some(frame),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl OpenFrame {
    /// Expands and checks the body, and goes to the record of offset `first`.
    fn new(
        frames: &Bytes,
        mut body: Range<usize>,
        header: FrameHeader,
        first: Offset,
    ) -> Result<Self, FrameError> {
        let fields = header.fields;
        let stored = frames.get(body.clone()).unwrap_or_default();
        let expanded = match fields.compressed {
            true => Some(Bytes::from(decompress(stored, BODY_BYTES_MAX)?)),
            false => None,
        };
        let plain = expanded.as_deref().unwrap_or(stored);
        let view = BatchView::check(fields.kind, fields.record_count, false, plain)?;
        let has_options = view.has_options();
        let index = first.since(header.base_offset).unwrap_or(0);
        let index = u16::try_from(index).unwrap_or(fields.record_count);
        let before = index.checked_sub(1);
        let start = before.map_or(0, |before| end_of(plain, before));
        if let Some(expanded) = &expanded {
            body = 0..expanded.len();
        }
        Ok(Self {
            expanded,
            body,
            header,
            has_options,
            index,
            start,
        })
    }

    /// Goes on to the record of `offset`, which lies ahead; says whether it is in this batch.
    fn skip_to(&mut self, frames: &Bytes, offset: Offset) -> bool {
        let index = offset.since(self.header.base_offset).unwrap_or(0);
        let Some(index) = u16::try_from(index)
            .ok()
            .filter(|index| *index < self.header.fields.record_count)
        else {
            return false;
        };
        let bytes = self.expanded.as_ref().unwrap_or(frames);
        let body = bytes.get(self.body.clone()).unwrap_or_default();
        let before = index.checked_sub(1);
        self.start = before.map_or(0, |before| end_of(body, before));
        self.index = index;
        true
    }

    fn next_record(&mut self, frames: &Bytes) -> Option<Record> {
        let record_count = self.header.fields.record_count;
        if self.index >= record_count {
            return None;
        }
        let bytes = self.expanded.as_ref().unwrap_or(frames);
        let end = end_of(bytes.get(self.body.clone())?, self.index);
        // The ends come first in a body, the payload block behind them.
        let payload_at = self.body.start + 4 * usize::from(record_count);
        let body = bytes.slice(payload_at + self.start..payload_at + end);
        let options = self.has_options.then(|| Options {
            batch: bytes.slice(self.body.clone()),
            index: self.index,
            record_count,
        });
        let offset = self.header.base_offset + u64::from(self.index);
        self.start = end;
        self.index += 1;
        Some(Record {
            offset,
            append_time_us: self.header.append_time_us,
            body,
            options,
        })
    }
}

/// The records of one frame in the form a publisher sends, owned: slices of its body.
#[derive(Debug)]
pub(crate) struct FrameRecords {
    body: Bytes,
    /// `None` for a single, whose payload is the body, and once that was given out.
    open: Option<OpenFrame>,
    single: bool,
}

impl FrameRecords {
    /// The records of a frame that was checked, whose body is `body`.
    pub(crate) fn new(body: Bytes, fields: &PublisherFields) -> Result<Self, FrameError> {
        let single = fields.kind == FrameKind::Single;
        let open = match single {
            true => None,
            false => {
                let header = FrameHeader {
                    fields: *fields,
                    body_crc: 0,
                    base_offset: Offset(0),
                    append_time_us: 0,
                };
                Some(OpenFrame::new(&body, 0..body.len(), header, Offset(0))?)
            }
        };
        Ok(Self { body, open, single })
    }

    /// The next record, as that of `offset`.
    pub(crate) fn next_at(&mut self, offset: Offset, append_time_us: u64) -> Option<Record> {
        let mut record = match &mut self.open {
            Some(open) => open.next_record(&self.body)?,
            None if self.single => {
                self.single = false;
                Record {
                    offset,
                    append_time_us,
                    body: self.body.clone(),
                    options: None,
                }
            }
            None => return None,
        };
        record.offset = offset;
        record.append_time_us = append_time_us;
        Some(record)
    }
}

/// Where the payload of a record ends in the payload block of a checked batch.
fn end_of(body: &[u8], index: u16) -> usize {
    let end = body
        .get(4 * usize::from(index)..)
        .and_then(<[u8]>::first_chunk::<4>);
    end.map_or(0, |end| u32::from_le_bytes(*end) as usize)
}
