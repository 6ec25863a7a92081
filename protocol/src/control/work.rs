//! Work: records of a queue with their leases.

use bytes::Bytes;

use super::ControlError;
use super::layout::{at_most, wrong};
use crate::Offset;
use crate::batch::{BatchBuilder, FrameRecords, Record};
use crate::bytes_at::{put, u16_at, u32_at, u64_at};
use crate::checksum::crc32c;
use crate::frame::{ProducerStamp, PublishedFrame, check_noted};
use crate::limits::{
    FRAME_HEADER_BYTES, WIRE_HEADER_BYTES, WORK_ENTRY_BYTES, WORK_PRELUDE_BYTES, WORK_RECORDS_MAX,
};
use crate::wire::{MessageKind, StreamId, WireHeader};

const LEN: usize = WORK_ENTRY_BYTES;

/// One record of a [`Work`] and its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkEntry {
    /// Its number in the queue's topic.
    pub offset: Offset,
    /// The lease, to be named when it is settled.
    pub lease: u64,
    /// When it was appended, in microseconds of the Unix epoch.
    pub append_us: u64,
    /// When it was delivered first, in microseconds of the Unix epoch; 0: this is the first time.
    pub first_us: u64,
    /// What is left of the lease.
    pub left_ms: u32,
    /// Its deliveries, this one counted.
    pub attempts: u16,
}

impl WorkEntry {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        put::<0, 8, LEN>(&mut bytes, self.offset.0.to_le_bytes());
        put::<8, 8, LEN>(&mut bytes, self.lease.to_le_bytes());
        put::<16, 8, LEN>(&mut bytes, self.append_us.to_le_bytes());
        put::<24, 8, LEN>(&mut bytes, self.first_us.to_le_bytes());
        put::<32, 4, LEN>(&mut bytes, self.left_ms.to_le_bytes());
        put::<36, 2, LEN>(&mut bytes, self.attempts.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN]) -> Self {
        Self {
            offset: Offset(u64_at::<0, LEN>(bytes)),
            lease: u64_at::<8, LEN>(bytes),
            append_us: u64_at::<16, LEN>(bytes),
            first_us: u64_at::<24, LEN>(bytes),
            left_ms: u32_at::<32, LEN>(bytes),
            attempts: u16_at::<36, LEN>(bytes),
        }
    }

    fn check(bytes: &[u8; LEN]) -> Result<(), ControlError> {
        let reserved = u16_at::<38, LEN>(bytes);
        if reserved != 0 {
            return Err(wrong("reserved bytes of a record", reserved.into()));
        }
        match Self::decode(bytes).attempts {
            0 => Err(wrong("attempts", 0)),
            _ => Ok(()),
        }
    }
}

/// Records of a queue with their leases: a prelude, an entry for each, and one frame that holds
/// them in the same order, as a publisher would send it.
///
/// ```text
///  0 u32 count    4 u32 0
///  8 count x 40:  0 u64 offset    8 u64 lease    16 u64 append time    24 u64 first delivery
///                32 u32 left ms  36 u16 attempts 38 u16 0
///    then the frame
/// ```
/// The message's own checksum covers prelude and entries; the frame has its own.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    entries: &'a [u8],
    frame: PublishedFrame<'a>,
}

impl<'a> Work<'a> {
    /// Appends the whole message. `batch` holds the records of `entries` in the same order.
    ///
    /// The caller keeps to [`WORK_RECORDS_MAX`].
    pub fn encode(
        entries: &[WorkEntry],
        batch: &BatchBuilder,
        stream: StreamId,
        correlation: u64,
        out: &mut Vec<u8>,
    ) {
        debug_assert_eq!(entries.len(), batch.len(), "an entry for each record");
        let start = out.len();
        let head_bytes = WORK_PRELUDE_BYTES + LEN * entries.len();
        out.reserve(WIRE_HEADER_BYTES + head_bytes);
        out.extend_from_slice(&[0; WIRE_HEADER_BYTES]);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for entry in entries {
            out.extend_from_slice(&entry.encode());
        }
        let head = out.get(start + WIRE_HEADER_BYTES..).unwrap_or_default();
        let body_crc = crc32c(head);
        batch.encode_frame(ProducerStamp::NONE, out);
        let Some((place, body)) = out
            .get_mut(start..)
            .and_then(|message| message.split_first_chunk_mut())
        else {
            return;
        };
        let header = WireHeader {
            kind: MessageKind::Work,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            stream,
            correlation,
            body_crc,
        };
        *place = header.encode();
    }

    /// Reads a body and checks its frame: one pass over its bytes, no allocation.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be.
    pub fn decode(body: &'a [u8]) -> Result<Self, ControlError> {
        let (entries, frame) = split(body)?;
        let frame = check_noted(frame)?;
        let (records, count) = (
            u64::from(frame.fields().record_count),
            (entries.len() / LEN) as u64,
        );
        if records != count {
            return Err(wrong("count", count));
        }
        Ok(Self { entries, frame })
    }

    /// The records' leases, in the order of the frame.
    #[must_use]
    pub const fn entries(&self) -> WorkEntries<'a> {
        WorkEntries { rest: self.entries }
    }

    /// The frame that holds the records.
    #[must_use]
    pub const fn frame(&self) -> &PublishedFrame<'a> {
        &self.frame
    }
}

/// The part of a body of work that its message's checksum covers.
pub(crate) fn covered(body: &[u8]) -> &[u8] {
    let count = body
        .first_chunk::<4>()
        .map_or(0, |c| u32::from_le_bytes(*c));
    let bytes = (count as usize)
        .checked_mul(LEN)
        .and_then(|bytes| bytes.checked_add(WORK_PRELUDE_BYTES));
    bytes.and_then(|bytes| body.get(..bytes)).unwrap_or(body)
}

/// Entries and frame of a body of work.
fn split(body: &[u8]) -> Result<(&[u8], &[u8]), ControlError> {
    let length = || ControlError::Length { found: body.len() };
    let (prelude, rest) = body
        .split_first_chunk::<WORK_PRELUDE_BYTES>()
        .ok_or_else(length)?;
    let count = u32_at::<0, WORK_PRELUDE_BYTES>(prelude);
    let reserved = u32_at::<4, WORK_PRELUDE_BYTES>(prelude);
    if count == 0 {
        return Err(wrong("count", 0));
    }
    at_most("count", count.into(), WORK_RECORDS_MAX as u64)?;
    if reserved != 0 {
        return Err(wrong("reserved bytes 4..8", reserved.into()));
    }
    let (entries, frame) = rest
        .split_at_checked(LEN * count as usize)
        .ok_or_else(length)?;
    for entry in entries.as_chunks::<LEN>().0 {
        WorkEntry::check(entry)?;
    }
    Ok((entries, frame))
}

/// The leases of the records of a [`Work`], in order.
#[derive(Debug, Clone)]
pub struct WorkEntries<'a> {
    rest: &'a [u8],
}

impl Iterator for WorkEntries<'_> {
    type Item = WorkEntry;

    fn next(&mut self) -> Option<WorkEntry> {
        let (entry, rest) = self.rest.split_first_chunk::<LEN>()?;
        self.rest = rest;
        Some(WorkEntry::decode(entry))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rest.len() / LEN;
        (left, Some(left))
    }
}

impl ExactSizeIterator for WorkEntries<'_> {}

/// The records of a [`Work`], owned: slices of its body, which they keep alive.
#[derive(Debug)]
pub struct WorkRecords {
    body: Bytes,
    /// Where the next entry is.
    at: usize,
    records: FrameRecords,
}

impl WorkRecords {
    /// Checks a body and takes it over. Allocates nothing but for a compressed frame.
    ///
    /// # Errors
    ///
    /// See [`Work::decode`]; and a payload that does not expand.
    pub fn new(body: Bytes) -> Result<Self, ControlError> {
        let work = Work::decode(&body)?;
        let at = WORK_PRELUDE_BYTES;
        let frame_at = at + work.entries.len();
        let fields = *work.frame.fields();
        let frame_body = body.slice(frame_at + FRAME_HEADER_BYTES..);
        let records = FrameRecords::new(frame_body, &fields)?;
        Ok(Self { body, at, records })
    }
}

impl Iterator for WorkRecords {
    type Item = (WorkEntry, Record);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.body.get(self.at..)?.first_chunk::<LEN>()?;
        let entry = WorkEntry::decode(entry);
        self.at += LEN;
        let record = self.records.next_at(entry.offset, entry.append_us)?;
        Some((entry, record))
    }
}
