//! A claimed frame on its way to being committed.
//!
//! A claim is filled completely or becomes a void frame that keeps its offsets (L5): dropping it
//! unfinished, as a panic does, writes the void.

use millstream_protocol::Offset;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::frame::{self, FrameHeader, FrameKind, ProducerStamp, PublisherFields};
use millstream_protocol::limits::FRAME_HEADER_BYTES;

use crate::segment::Segment;
use crate::sync::{SealSpace, Space, mutated};

/// Header bytes that stand behind the commit word in a [`Space`].
const HEADER_BEHIND_WORD: usize = FRAME_HEADER_BYTES - 8;
/// Where the publisher's fields start in a [`Space`]; the body follows them.
const PUBLISHER_BEHIND_WORD: usize = 32 - 8;

/// Bytes of a body from which on a write to the file costs less than stores through its map (decision
/// 0015).
const WRITTEN_BYTES_MIN: usize = 12 << 10;

/// The sole right to fill one frame.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    segment: &'a Segment,
    /// `None` once committed.
    space: Option<Space<'a>>,
    records: u16,
    append_time_us: u64,
}

impl<'a> Claim<'a> {
    pub(crate) fn new(
        segment: &'a Segment,
        space: Space<'a>,
        records: u16,
        append_time_us: u64,
    ) -> Self {
        Self {
            segment,
            space: Some(space),
            records,
            append_time_us,
        }
    }

    fn space(&self) -> &Space<'a> {
        self.space
            .as_ref()
            .expect("a claim is used before it is committed")
    }

    pub(crate) fn position(&self) -> u32 {
        self.space().position()
    }

    /// Offset of the frame's first record.
    pub(crate) fn base_offset(&self) -> Offset {
        Offset(self.segment.base_offset().0 + u64::from(self.space().record()))
    }

    /// The body and its padding.
    #[inline]
    pub(crate) fn body_mut(&mut self) -> &mut [u8] {
        let space = self
            .space
            .as_mut()
            .expect("a claim is used before it is committed");
        space
            .bytes_mut()
            .get_mut(HEADER_BEHIND_WORD..)
            .unwrap_or_default()
    }

    /// Copies the body in.
    #[inline]
    pub(crate) fn copy_body(&mut self, body: &[u8]) {
        let is_large = body.len() >= WRITTEN_BYTES_MIN;
        if is_large && self.segment.note_large_body() && self.write_body(body) {
            return;
        }
        if let Some(room) = self.body_mut().get_mut(..body.len()) {
            room.copy_from_slice(body);
        }
    }

    fn write_body(&mut self, body: &[u8]) -> bool {
        let space = self.space.as_mut();
        space.is_some_and(|space| space.write(FRAME_HEADER_BYTES as u32, body))
    }

    /// Writes the header and publishes the frame. The body must have been written; `body_crc`
    /// covers it and `fields`.
    #[inline]
    pub(crate) fn commit(&mut self, fields: &PublisherFields, body_crc: u32) {
        debug_assert_eq!(fields.record_count, self.records);
        self.finish(fields, body_crc);
    }

    /// As [`commit`](Self::commit), with the body's checksum made here: one pass over the publisher's
    /// fields and the body where they lie.
    #[inline]
    pub(crate) fn commit_unsummed(&mut self, fields: &PublisherFields) {
        let space = self
            .space
            .as_mut()
            .expect("a claim is used before it is committed");
        let frame = space.bytes_mut();
        let end = HEADER_BEHIND_WORD + fields.body_bytes as usize;
        if let Some(room) = frame.get_mut(PUBLISHER_BEHIND_WORD..HEADER_BEHIND_WORD) {
            room.copy_from_slice(&fields.encode());
        }
        let body_crc = crc32c(frame.get(PUBLISHER_BEHIND_WORD..end).unwrap_or_default());
        self.finish(fields, body_crc);
    }

    #[inline]
    fn finish(&mut self, fields: &PublisherFields, body_crc: u32) {
        let Some(space) = &mut self.space else {
            return;
        };
        let header = FrameHeader {
            fields: *fields,
            body_crc,
            base_offset: Offset(self.segment.base_offset().0 + u64::from(space.record())),
            append_time_us: self.append_time_us,
        };
        let bytes = header.encode(self.segment.seed(), space.position());
        let frame = space.bytes_mut();
        let padding = HEADER_BEHIND_WORD + fields.body_bytes as usize;
        if let Some(pad @ [_, ..]) = frame.get_mut(padding..) {
            pad.fill(0);
        }
        if let Some(room) = frame.first_chunk_mut::<HEADER_BEHIND_WORD>() {
            *room = bytes;
        }
        if let Some(space) = self.space.take() {
            space.commit();
        }
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.space.is_some() && !mutated!(NoVoid) {
            self.make_void();
        }
    }
}

impl Claim<'_> {
    /// Fills a claim that its owner gave up.
    #[cold]
    fn make_void(&mut self) {
        let body = self.body_mut();
        body.fill(0);
        let fields = PublisherFields {
            kind: FrameKind::Void,
            compressed: false,
            record_count: self.records,
            body_bytes: u32::try_from(self.body_mut().len()).expect("a frame fits in 32 bits"),
            producer: ProducerStamp::NONE,
        };
        let body_crc = frame::body_crc(&fields, self.body_mut());
        self.finish(&fields, body_crc);
    }
}

/// Writes the seal of `segment` and returns the offset at which the next segment starts.
pub(crate) fn commit_seal(segment: &Segment, seal: SealSpace<'_>, append_time_us: u64) -> Offset {
    let end = Offset(segment.base_offset().0 + u64::from(seal.records()));
    let fields = PublisherFields {
        kind: FrameKind::Seal,
        compressed: false,
        record_count: 0,
        body_bytes: 0,
        producer: ProducerStamp::NONE,
    };
    let header = FrameHeader {
        fields,
        body_crc: frame::body_crc(&fields, &[]),
        base_offset: end,
        append_time_us,
    };
    let bytes = header.encode(segment.seed(), seal.position());
    seal.commit(&bytes);
    end
}
