//! What a manifest says: the entries others write, and the lines a checkpoint is made of.
//!
//! ```text
//! line  [ kind u8 | 0 0 0 | length of the fields u32 | fields ]
//! ```
//! Fields follow each other without gaps, little-endian, in the order of the struct. A flag is one
//! byte, 0 or 1; a name is its length (u16) and its bytes; a list is its count (u32) and its members.
//! One meaning has one encoding: whatever differs is refused.

use std::fmt;

use millstream_protocol::Durability;

use super::error::InvalidEntry;
use super::fields::{Reader, Writer};
use super::state::{CutState, DamageState, LogHead, SegmentState};

/// Bytes before the fields of a line.
const LINE_HEADER_BYTES: usize = 8;

/// Names a log in its folder, for ever: no number is given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LogId(pub u32);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}", self.0)
    }
}

/// Names a segment in its log, for ever; they rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SegmentNumber(pub u32);

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.0)
    }
}

/// One thing that happened to the folder. See [`State`](super::State) for what each leads to and
/// when it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Whose folder this is. The first entry of every manifest, and only that.
    Folder {
        /// Drawn at random when the folder was made.
        id: [u8; 16],
        /// Format of all that lies in the folder.
        format: u32,
    },
    /// A broker starts to use the folder.
    Boot {
        /// Number of this start: higher than all before.
        epoch: u32,
        /// The kernel's name for its own run, to be read by people.
        boot_id: [u8; 16],
    },
    /// A log exists from now on.
    LogCreated {
        /// Its number: none before had it or a higher one.
        log: LogId,
        /// Drawn at random: a log deleted and made again is another one.
        incarnation: [u8; 16],
        /// When its records count as safe.
        durability: Durability,
        /// Name of its topic, which no other log has now.
        name: String,
    },
    /// A log and all its segments are gone.
    LogDeleted {
        /// The log.
        log: LogId,
    },
    /// A segment's file is on disk, ready to be written.
    SegmentPrepared {
        /// Its log.
        log: LogId,
        /// Its number: none before in this log had it or a higher one.
        segment: SegmentNumber,
        /// The nonce of this use of the file.
        nonce: u64,
        /// Length of the file.
        len_bytes: u64,
        /// No offset given out in this segment reaches this one.
        offset_ceiling: u64,
    },
    /// A log is about to be written: from now on a stop is unclean.
    Opened {
        /// The log, which is not open.
        log: LogId,
    },
    /// All of an open log is on disk and nobody writes it any more.
    Closed {
        /// The log, which is open.
        log: LogId,
        /// Offset of the next record it will take.
        next_offset: u64,
    },
    /// A segment was written to its end; footer and all are on disk.
    Sealed {
        /// Its log.
        log: LogId,
        /// The segment, which had no end.
        segment: SegmentNumber,
        /// Its first offset.
        base_offset: u64,
        /// The offset behind its last record.
        end_offset: u64,
        /// The position behind its last frame.
        end_position: u32,
        /// Length of its footer.
        footer_bytes: u32,
    },
    /// Recovery found where a log ends; what follows is no part of it any more.
    Cut {
        /// The log.
        log: LogId,
        /// The segment that ends at the cut, which had no end.
        segment: SegmentNumber,
        /// Its first offset.
        base_offset: u64,
        /// The offset behind its last record.
        end_offset: u64,
        /// The position behind its last frame.
        end_position: u32,
        /// Segments behind it, none with an end, which nobody reads any more.
        quarantined: Vec<SegmentNumber>,
        /// First offset that may be given out from now on; those before it, from `end_offset` on,
        /// stay void.
        next_base_offset: u64,
        /// Whether what was cut off may have been acknowledged.
        possibly_acknowledged: bool,
        /// Bytes that were cut off, in all segments.
        cut_bytes: u64,
    },
    /// Records below what was proven to be on disk can't be read.
    Damaged {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// First offset of the gap.
        first_offset: u64,
        /// The offset behind the gap.
        next_offset: u64,
        /// Where the gap begins in the segment.
        first_position: u32,
        /// Where it ends.
        next_position: u32,
    },
    /// A segment is no part of its log any more; its file may go.
    SegmentDropped {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
}

/// One line of the file: an entry, or a piece of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Something that happened.
    Event(Entry),
    /// Something that is so, as of a checkpoint.
    Kept(Kept),
}

/// A piece of the state. Together with `Folder` and `Boot` these make a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// The lowest number a new log may have.
    NextLog(LogId),
    /// A log, without what follows.
    Log(LogId, LogHead),
    /// A segment of a log.
    Segment(LogId, SegmentNumber, SegmentState),
    /// A cut of a log.
    Cut(LogId, CutState),
    /// A gap of a log.
    Damage(LogId, DamageState),
}

/// Kinds as they stand in the file. They never change; a new one is a new format.
mod kind {
    pub(super) const FOLDER: u8 = 1;
    pub(super) const BOOT: u8 = 2;
    pub(super) const LOG_CREATED: u8 = 3;
    pub(super) const LOG_DELETED: u8 = 4;
    pub(super) const SEGMENT_PREPARED: u8 = 5;
    pub(super) const OPENED: u8 = 6;
    pub(super) const CLOSED: u8 = 7;
    pub(super) const SEALED: u8 = 8;
    pub(super) const CUT: u8 = 9;
    pub(super) const DAMAGED: u8 = 10;
    pub(super) const SEGMENT_DROPPED: u8 = 11;
    pub(super) const KEPT_NEXT_LOG: u8 = 128;
    pub(super) const KEPT_LOG: u8 = 129;
    pub(super) const KEPT_SEGMENT: u8 = 130;
    pub(super) const KEPT_CUT: u8 = 131;
    pub(super) const KEPT_DAMAGE: u8 = 132;
}

impl Entry {
    const fn kind(&self) -> u8 {
        match self {
            Self::Folder { .. } => kind::FOLDER,
            Self::Boot { .. } => kind::BOOT,
            Self::LogCreated { .. } => kind::LOG_CREATED,
            Self::LogDeleted { .. } => kind::LOG_DELETED,
            Self::SegmentPrepared { .. } => kind::SEGMENT_PREPARED,
            Self::Opened { .. } => kind::OPENED,
            Self::Closed { .. } => kind::CLOSED,
            Self::Sealed { .. } => kind::SEALED,
            Self::Cut { .. } => kind::CUT,
            Self::Damaged { .. } => kind::DAMAGED,
            Self::SegmentDropped { .. } => kind::SEGMENT_DROPPED,
        }
    }

    /// Appends the line to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_line(out, self.kind(), |fields| self.encode_fields(fields));
    }

    fn encode_fields(&self, out: &mut Writer<'_>) {
        match self {
            Self::Folder { id, format } => out.array(id).u32(*format),
            Self::Boot { epoch, boot_id } => out.u32(*epoch).array(boot_id),
            Self::LogCreated {
                log,
                incarnation,
                durability,
                name,
            } => out
                .u32(log.0)
                .array(incarnation)
                .u8(durability.code())
                .name(name),
            Self::LogDeleted { log } | Self::Opened { log } => out.u32(log.0),
            Self::Closed { log, next_offset } => out.u32(log.0).u64(*next_offset),
            Self::SegmentPrepared { log, segment, .. }
            | Self::Sealed { log, segment, .. }
            | Self::Cut { log, segment, .. }
            | Self::Damaged { log, segment, .. }
            | Self::SegmentDropped { log, segment } => {
                self.encode_segment_fields(out.u32(log.0).u32(segment.0));
                out
            }
        };
    }

    /// What follows the numbers of log and segment.
    fn encode_segment_fields(&self, out: &mut Writer<'_>) {
        match self {
            Self::SegmentPrepared {
                nonce,
                len_bytes,
                offset_ceiling,
                ..
            } => {
                out.u64(*nonce).u64(*len_bytes).u64(*offset_ceiling);
            }
            Self::Sealed {
                base_offset,
                end_offset,
                end_position,
                footer_bytes,
                ..
            } => {
                out.u64(*base_offset).u64(*end_offset);
                out.u32(*end_position).u32(*footer_bytes);
            }
            Self::Cut {
                base_offset,
                end_offset,
                end_position,
                quarantined,
                next_base_offset,
                possibly_acknowledged,
                cut_bytes,
                ..
            } => {
                out.u64(*base_offset).u64(*end_offset).u32(*end_position);
                out.segments(quarantined).u64(*next_base_offset);
                out.flag(*possibly_acknowledged).u64(*cut_bytes);
            }
            Self::Damaged {
                first_offset,
                next_offset,
                first_position,
                next_position,
                ..
            } => {
                out.u64(*first_offset).u64(*next_offset);
                out.u32(*first_position).u32(*next_position);
            }
            _ => {}
        }
    }

    fn decode(kind: u8, fields: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            kind::FOLDER => Self::Folder {
                id: fields.array()?,
                format: fields.u32()?,
            },
            kind::BOOT => Self::Boot {
                epoch: fields.u32()?,
                boot_id: fields.array()?,
            },
            kind::LOG_CREATED => Self::LogCreated {
                log: fields.log()?,
                incarnation: fields.array()?,
                durability: fields.durability()?,
                name: fields.name()?,
            },
            kind::LOG_DELETED => Self::LogDeleted { log: fields.log()? },
            kind::SEGMENT_PREPARED => Self::SegmentPrepared {
                log: fields.log()?,
                segment: fields.segment()?,
                nonce: fields.u64()?,
                len_bytes: fields.u64()?,
                offset_ceiling: fields.u64()?,
            },
            kind::OPENED => Self::Opened { log: fields.log()? },
            kind::CLOSED => Self::Closed {
                log: fields.log()?,
                next_offset: fields.u64()?,
            },
            kind::SEALED => Self::Sealed {
                log: fields.log()?,
                segment: fields.segment()?,
                base_offset: fields.u64()?,
                end_offset: fields.u64()?,
                end_position: fields.u32()?,
                footer_bytes: fields.u32()?,
            },
            kind::CUT => Self::Cut {
                log: fields.log()?,
                segment: fields.segment()?,
                base_offset: fields.u64()?,
                end_offset: fields.u64()?,
                end_position: fields.u32()?,
                quarantined: fields.segments()?,
                next_base_offset: fields.u64()?,
                possibly_acknowledged: fields.flag()?,
                cut_bytes: fields.u64()?,
            },
            kind::DAMAGED => Self::Damaged {
                log: fields.log()?,
                segment: fields.segment()?,
                first_offset: fields.u64()?,
                next_offset: fields.u64()?,
                first_position: fields.u32()?,
                next_position: fields.u32()?,
            },
            kind::SEGMENT_DROPPED => Self::SegmentDropped {
                log: fields.log()?,
                segment: fields.segment()?,
            },
            _ => return None,
        })
    }
}

impl Kept {
    /// Appends the line to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::NextLog(_) => kind::KEPT_NEXT_LOG,
            Self::Log(..) => kind::KEPT_LOG,
            Self::Segment(..) => kind::KEPT_SEGMENT,
            Self::Cut(..) => kind::KEPT_CUT,
            Self::Damage(..) => kind::KEPT_DAMAGE,
        };
        encode_line(out, kind, |fields| self.encode_fields(fields));
    }

    fn encode_fields(&self, out: &mut Writer<'_>) {
        match self {
            Self::NextLog(log) => out.u32(log.0),
            Self::Log(log, head) => {
                out.u32(log.0)
                    .array(&head.incarnation)
                    .u8(head.durability.code())
                    .name(&head.name);
                out.flag(head.open).flag(head.next_offset.is_some());
                out.u64(head.next_offset.unwrap_or(0))
                    .u32(head.next_segment.0);
                out.u64(head.offset_ceiling)
            }
            Self::Segment(log, segment, state) => {
                out.u32(log.0)
                    .u32(segment.0)
                    .u64(state.nonce)
                    .u64(state.len_bytes);
                out.u64(state.offset_ceiling)
                    .flag(state.quarantined)
                    .end(state.end)
            }
            Self::Cut(log, cut) => {
                out.u32(log.0)
                    .u32(cut.segment.0)
                    .u64(cut.end_offset)
                    .segments(&cut.quarantined);
                out.u64(cut.next_base_offset)
                    .flag(cut.possibly_acknowledged)
                    .u64(cut.cut_bytes)
            }
            Self::Damage(log, gap) => {
                out.u32(log.0)
                    .u32(gap.segment.0)
                    .u64(gap.first_offset)
                    .u64(gap.next_offset);
                out.u32(gap.first_position).u32(gap.next_position)
            }
        };
    }

    fn decode(kind: u8, fields: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            kind::KEPT_NEXT_LOG => Self::NextLog(fields.log()?),
            kind::KEPT_LOG => Self::Log(
                fields.log()?,
                LogHead {
                    incarnation: fields.array()?,
                    durability: fields.durability()?,
                    name: fields.name()?,
                    open: fields.flag()?,
                    next_offset: fields.optional_u64()?,
                    next_segment: fields.segment()?,
                    offset_ceiling: fields.u64()?,
                },
            ),
            kind::KEPT_SEGMENT => Self::Segment(
                fields.log()?,
                fields.segment()?,
                SegmentState {
                    nonce: fields.u64()?,
                    len_bytes: fields.u64()?,
                    offset_ceiling: fields.u64()?,
                    quarantined: fields.flag()?,
                    end: fields.end()?,
                },
            ),
            kind::KEPT_CUT => Self::Cut(
                fields.log()?,
                CutState {
                    segment: fields.segment()?,
                    end_offset: fields.u64()?,
                    quarantined: fields.segments()?,
                    next_base_offset: fields.u64()?,
                    possibly_acknowledged: fields.flag()?,
                    cut_bytes: fields.u64()?,
                },
            ),
            kind::KEPT_DAMAGE => Self::Damage(
                fields.log()?,
                DamageState {
                    segment: fields.segment()?,
                    first_offset: fields.u64()?,
                    next_offset: fields.u64()?,
                    first_position: fields.u32()?,
                    next_position: fields.u32()?,
                },
            ),
            _ => return None,
        })
    }
}

impl Line {
    /// Takes the first line off `bytes`, which passed its checksum.
    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Self, InvalidEntry> {
        let mut input = Reader(bytes);
        let kind = input.u8().ok_or(InvalidEntry::Short)?;
        let [0, 0, 0] = input.array().ok_or(InvalidEntry::Short)? else {
            return Err(InvalidEntry::Malformed { kind });
        };
        let len_bytes = input.u32().ok_or(InvalidEntry::Short)?;
        let fields = input.bytes(len_bytes as usize).ok_or(InvalidEntry::Short)?;
        let rest = input.0;
        let mut fields = Reader(fields);
        let line = match kind {
            kind::FOLDER..=kind::SEGMENT_DROPPED => {
                Entry::decode(kind, &mut fields).map(Self::Event)
            }
            kind::KEPT_NEXT_LOG..=kind::KEPT_DAMAGE => {
                Kept::decode(kind, &mut fields).map(Self::Kept)
            }
            _ => return Err(InvalidEntry::UnknownKind { kind }),
        };
        let line = line
            .filter(|_| fields.0.is_empty())
            .ok_or(InvalidEntry::Malformed { kind })?;
        *bytes = rest;
        Ok(line)
    }
}

fn encode_line(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    fields(&mut Writer(out));
    let len_bytes = out.len() - start - LINE_HEADER_BYTES;
    let len_bytes =
        u32::try_from(len_bytes).expect("fields are bounded by what memory holds lists of");
    if let Some(place) = out.get_mut(start + 4..start + LINE_HEADER_BYTES) {
        place.copy_from_slice(&len_bytes.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::samples;
    use proptest::prelude::*;

    fn encoded(line: &Line) -> Vec<u8> {
        let mut bytes = Vec::new();
        match line {
            Line::Event(entry) => entry.encode(&mut bytes),
            Line::Kept(kept) => kept.encode(&mut bytes),
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_line_reads_as_it_was_written(line in samples::line(), rest in any::<Vec<u8>>()) {
            let mut bytes = encoded(&line);
            bytes.extend_from_slice(&rest);
            let mut input = bytes.as_slice();
            prop_assert_eq!(Line::decode(&mut input).unwrap(), line);
            prop_assert_eq!(input, rest);
        }

        #[test]
        fn one_meaning_has_one_encoding(
            line in samples::line(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&line);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let mut input = bytes.as_slice();
            if let Ok(other) = Line::decode(&mut input) {
                prop_assert!(input.is_empty());
                prop_assert_eq!(encoded(&other), bytes);
            }
        }

        #[test]
        fn a_line_cut_short_is_refused(line in samples::line(), at in any::<prop::sample::Index>()) {
            let bytes = encoded(&line);
            let mut input = &bytes[..at.index(bytes.len())];
            Line::decode(&mut input).unwrap_err();
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in any::<Vec<u8>>()) {
            let mut input = bytes.as_slice();
            while !input.is_empty() && Line::decode(&mut input).is_ok() {}
        }
    }

    #[test]
    fn a_list_longer_than_its_line_is_refused_before_room_is_made() {
        let cut = CutState {
            quarantined: vec![SegmentNumber(7)],
            ..CutState::default()
        };
        let mut bytes = encoded(&Line::Kept(Kept::Cut(LogId(1), cut)));
        bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let refused = Line::decode(&mut bytes.as_slice());
        assert_eq!(
            refused,
            Err(InvalidEntry::Malformed {
                kind: kind::KEPT_CUT
            })
        );
    }

    #[test]
    fn an_unknown_kind_is_named() {
        for kind in [0, 12, 127, 133, 255] {
            let refused = Line::decode(&mut [kind, 0, 0, 0, 0, 0, 0, 0].as_slice());
            assert_eq!(refused, Err(InvalidEntry::UnknownKind { kind }));
        }
    }
}
