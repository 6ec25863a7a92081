//! The fields of a line: written and read one behind the other, little-endian, without gaps.

use millstream_protocol::Durability;

use super::entry::{LogId, SegmentNumber};
use super::state::{EndKind, SegmentEnd};

/// Writes fields one behind the other.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn array(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.array(&[value])
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.array(&value.to_le_bytes())
    }

    pub(super) fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    pub(super) fn name(&mut self, name: &str) -> &mut Self {
        let len_bytes = u16::try_from(name.len()).expect("a topic name was checked to be short");
        self.array(&len_bytes.to_le_bytes()).array(name.as_bytes())
    }

    pub(super) fn segments(&mut self, segments: &[SegmentNumber]) -> &mut Self {
        self.u32(u32::try_from(segments.len()).expect("a log has at most 2^32 segments"));
        for segment in segments {
            self.u32(segment.0);
        }
        self
    }

    /// 0 no end, 1 sealed, 2 cut; then base, end, position, footer, all 0 where there is none.
    pub(super) fn end(&mut self, end: Option<SegmentEnd>) -> &mut Self {
        let Some(end) = end else {
            return self.u8(0).array(&[0; 24]);
        };
        let (tag, footer_bytes) = match end.kind {
            EndKind::Sealed { footer_bytes } => (1, footer_bytes),
            EndKind::Cut => (2, 0),
        };
        self.u8(tag).u64(end.base_offset).u64(end.end_offset);
        self.u32(end.end_position).u32(footer_bytes)
    }
}

/// Reads fields one behind the other; `None` where they end too early or say what none can.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn bytes(&mut self, len_bytes: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len_bytes)?;
        self.0 = rest;
        Some(first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn optional_u64(&mut self) -> Option<Option<u64>> {
        match (self.flag()?, self.u64()?) {
            (true, value) => Some(Some(value)),
            (false, 0) => Some(None),
            (false, _) => None,
        }
    }

    pub(super) fn log(&mut self) -> Option<LogId> {
        self.u32().map(LogId)
    }

    pub(super) fn segment(&mut self) -> Option<SegmentNumber> {
        self.u32().map(SegmentNumber)
    }

    pub(super) fn durability(&mut self) -> Option<Durability> {
        Durability::from_code(self.u8()?)
    }

    pub(super) fn name(&mut self) -> Option<String> {
        let len_bytes = u16::from_le_bytes(self.array()?);
        String::from_utf8(self.bytes(usize::from(len_bytes))?.to_vec()).ok()
    }

    pub(super) fn segments(&mut self) -> Option<Vec<SegmentNumber>> {
        let count = self.u32()? as usize;
        // The members are there before room for them is made.
        let bytes = self.bytes(count.checked_mul(4)?)?;
        let members = bytes.chunks_exact(4).map(|member| Reader(member).segment());
        members.collect()
    }

    pub(super) fn end(&mut self) -> Option<Option<SegmentEnd>> {
        let tag = self.u8()?;
        let (base_offset, end_offset) = (self.u64()?, self.u64()?);
        let (end_position, footer_bytes) = (self.u32()?, self.u32()?);
        let kind = match (tag, footer_bytes) {
            (0, 0) if (base_offset, end_offset, end_position) == (0, 0, 0) => return Some(None),
            (1, _) => EndKind::Sealed { footer_bytes },
            (2, 0) => EndKind::Cut,
            _ => return None,
        };
        Some(Some(SegmentEnd {
            base_offset,
            end_offset,
            end_position,
            kind,
        }))
    }
}
