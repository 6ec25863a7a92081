//! Reading: opening a stream, credit, deliveries and gaps.

use rkyv::rancor::Fallible;
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Place, Serialize};

use super::ControlError;
use super::layout::{Number, Text, append, archived_message, number, offset, positive, topic_name};
use crate::bytes_at::{put, u32_at, u64_at};
use crate::checksum::crc32c;
use crate::coded::coded_enum;
use crate::frame::{FramePlace, FrameSeed};
use crate::limits::{
    DELIVERY_PRELUDE_BYTES, FRAME_ALIGN, FRAME_HEADER_BYTES, TOPIC_NAME_BYTES_MAX,
    WIRE_HEADER_BYTES,
};
use crate::wire::{MessageKind, StreamId, WireHeader};
use crate::{Offset, Start, TopicName};

/// Opens a reader's stream; answered by a [`ReaderOpened`], deliveries follow as credit allows.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct OpenReader {
    /// The topic to read.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Where to begin.
    #[rkyv(with = StartPair)]
    pub start: Start,
    /// The bytes of frames that may be sent at first.
    pub credit_bytes: u32,
}

impl OpenReader {
    fn read(archived: &ArchivedOpenReader) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            start: archived.start.read()?,
            credit_bytes: archived.credit_bytes.to_native(),
        })
    }
}

/// A start as it is archived: which, and its number or zero.
#[derive(Archive)]
pub(super) struct StartLayout {
    which: u8,
    value: u64,
}

/// Archives a start as a pair.
pub(super) struct StartPair;

impl ArchiveWith<Start> for StartPair {
    type Archived = ArchivedStartLayout;
    type Resolver = StartLayoutResolver;

    fn resolve_with(start: &Start, resolver: Self::Resolver, out: Place<Self::Archived>) {
        let (which, value) = match *start {
            Start::Earliest => (1, 0),
            Start::Latest => (2, 0),
            Start::Offset(offset) => (3, offset.0),
            Start::Time(time_us) => (4, time_us),
        };
        StartLayout { which, value }.resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Start, S> for StartPair {
    fn serialize_with(_: &Start, _: &mut S) -> Result<Self::Resolver, S::Error> {
        Ok(StartLayoutResolver {
            which: (),
            value: (),
        })
    }
}

impl ArchivedStartLayout {
    pub(super) fn read(&self) -> Result<Start, ControlError> {
        let value = self.value.to_native();
        match self.which {
            1 => Ok(Start::Earliest),
            2 => Ok(Start::Latest),
            3 => Ok(Start::Offset(Offset(value))),
            4 => Ok(Start::Time(value)),
            which => Err(ControlError::Number {
                field: "start",
                found: u64::from(which),
            }),
        }
    }
}

/// The stream is open.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ReaderOpened {
    /// The first record that will come.
    #[rkyv(with = Number)]
    pub start_offset: Offset,
    /// The offset after the last record there was to read.
    #[rkyv(with = Number)]
    pub end_offset: Offset,
    /// Tells the topic from others that had its name before.
    pub incarnation: [u8; 16],
}

impl ReaderOpened {
    #[expect(clippy::unnecessary_wraps, reason = "all messages are read alike")]
    fn read(archived: &ArchivedReaderOpened) -> Result<Self, ControlError> {
        Ok(Self {
            start_offset: offset(&archived.start_offset),
            end_offset: offset(&archived.end_offset),
            incarnation: archived.incarnation,
        })
    }
}

coded_enum! {
    /// Why records are missing.
    pub enum GapReason: u8 {
        /// They were deleted by retention.
        Trimmed = 1,
        /// They were damaged on disk.
        Damaged = 2,
        /// They were never there: the numbers were skipped.
        Void = 3,
    }
}

/// Records that will not come; the next delivery begins behind them.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct Gap {
    /// The first missing offset.
    #[rkyv(with = Number)]
    pub first_offset: Offset,
    /// The offset after the last missing one.
    #[rkyv(with = Number)]
    pub next_offset: Offset,
    /// Why.
    #[rkyv(with = Number)]
    pub reason: GapReason,
}

impl Gap {
    fn read(archived: &ArchivedGap) -> Result<Self, ControlError> {
        let (first_offset, next_offset) = (
            offset(&archived.first_offset),
            offset(&archived.next_offset),
        );
        if next_offset <= first_offset {
            return Err(ControlError::Number {
                field: "next offset",
                found: next_offset.0,
            });
        }
        Ok(Self {
            first_offset,
            next_offset,
            reason: number("reason", archived.reason)?,
        })
    }
}

archived_message!(OpenReader: OpenReader, ReaderOpened: ReaderOpened, Gap: Gap);

/// Lets more be sent on a reader's stream. A fixed layout: one u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credit {
    /// Bytes of frames that may be sent in addition.
    pub bytes: u32,
}

impl Credit {
    /// Appends the whole message.
    pub fn encode(&self, stream: StreamId, correlation: u64, out: &mut Vec<u8>) {
        append(MessageKind::Credit, stream, correlation, out, |out| {
            out.extend_from_slice(&self.bytes.to_le_bytes());
        });
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// Not four bytes, or a credit of nothing.
    pub fn decode(body: &[u8]) -> Result<Self, ControlError> {
        let bytes: [u8; 4] = body
            .try_into()
            .map_err(|_| ControlError::Length { found: body.len() })?;
        let bytes = positive("credit", &u32::from_le_bytes(bytes).into())?;
        Ok(Self { bytes })
    }
}

/// What stands before the frames of a delivery. A fixed layout of 32 bytes:
///
/// ```text
///  0 u32 seed    4 u32 nonce half    8 u32 position    12 u32 bytes of frames
/// 16 u64 first offset    24 u64 next offset
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryPrelude {
    /// Where the first frame lies, which its checksum covers.
    pub place: FramePlace,
    /// The bytes of the frames that follow; a reader's credit sinks by as much.
    pub frames_bytes: u32,
    /// The first record meant; frames may begin with earlier ones.
    pub first_offset: Offset,
    /// The offset after the last record.
    pub next_offset: Offset,
}

impl DeliveryPrelude {
    /// The wire header and the prelude; the frames follow as they lie in their segment.
    #[must_use]
    pub fn encode(
        &self,
        stream: StreamId,
        correlation: u64,
    ) -> [u8; WIRE_HEADER_BYTES + DELIVERY_PRELUDE_BYTES] {
        const LEN: usize = DELIVERY_PRELUDE_BYTES;
        let mut prelude = [0; LEN];
        put::<0, 4, LEN>(&mut prelude, self.place.seed.0.to_le_bytes());
        put::<4, 4, LEN>(&mut prelude, self.place.nonce_half.to_le_bytes());
        put::<8, 4, LEN>(&mut prelude, self.place.position.to_le_bytes());
        put::<12, 4, LEN>(&mut prelude, self.frames_bytes.to_le_bytes());
        put::<16, 8, LEN>(&mut prelude, self.first_offset.0.to_le_bytes());
        put::<24, 8, LEN>(&mut prelude, self.next_offset.0.to_le_bytes());
        let header = WireHeader {
            kind: MessageKind::Frames,
            body_bytes: LEN as u32 + self.frames_bytes,
            stream,
            correlation,
            body_crc: crc32c(&prelude),
        };
        let mut message = [0; WIRE_HEADER_BYTES + LEN];
        put::<0, WIRE_HEADER_BYTES, { WIRE_HEADER_BYTES + LEN }>(&mut message, header.encode());
        put::<WIRE_HEADER_BYTES, LEN, { WIRE_HEADER_BYTES + LEN }>(&mut message, prelude);
        message
    }
}

/// A delivery: its prelude, and whole stored frames.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Where the frames lie and what they hold.
    pub prelude: DeliveryPrelude,
    /// The frames, each yet to be checked: see [`crate::batch::RecordRun`].
    pub frames: &'a [u8],
}

impl<'a> Delivery<'a> {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// A length that is not that of the frames, or offsets that do not rise.
    pub fn decode(body: &'a [u8]) -> Result<Self, ControlError> {
        const LEN: usize = DELIVERY_PRELUDE_BYTES;
        let Some((prelude, frames)) = body.split_first_chunk::<LEN>() else {
            return Err(ControlError::Length { found: body.len() });
        };
        let prelude = DeliveryPrelude {
            place: FramePlace {
                seed: FrameSeed(u32_at::<0, LEN>(prelude)),
                nonce_half: u32_at::<4, LEN>(prelude),
                position: u32_at::<8, LEN>(prelude),
            },
            frames_bytes: u32_at::<12, LEN>(prelude),
            first_offset: Offset(u64_at::<16, LEN>(prelude)),
            next_offset: Offset(u64_at::<24, LEN>(prelude)),
        };
        let whole = frames.len() >= FRAME_HEADER_BYTES && frames.len().is_multiple_of(FRAME_ALIGN);
        if prelude.frames_bytes as usize != frames.len() || !whole {
            let found = u64::from(prelude.frames_bytes);
            return Err(ControlError::Number {
                field: "bytes of frames",
                found,
            });
        }
        if prelude.next_offset <= prelude.first_offset {
            let found = prelude.next_offset.0;
            return Err(ControlError::Number {
                field: "next offset",
                found,
            });
        }
        Ok(Self { prelude, frames })
    }
}
