//! The 64-byte header before every batch, and the checks that let its bytes be believed.
//!
//! ```text
//!  0 u64 commit word   low half: frame length (header, body, padding); high half: low half of the
//!                      segment's nonce. Stored last; 0 as a publisher sends it
//!  8 u32 header crc    crc32c of seed, position and bytes 12..64; 0 as a publisher sends it
//! 12 u32 body crc      crc32c of bytes 32..64 + body length: the publisher's fields, then the body
//! 16 u64 base offset   of the first record; 0 as a publisher sends it
//! 24 u64 append time   microseconds of the Unix epoch; 0 as a publisher sends it
//! 32 u8  kind          1 single, 2 batch, 3 void, 4 seal
//! 33 u8  flags         bit 0: payload is lz4; bits 1-3: zero; high nibble: layout version, 1
//! 34 u16 record count  1 for a single, 0 for a seal
//! 36 u32 body length   exact
//! 40 u64 producer id   0: none      48 u64 producer epoch      56 u64 sequence
//! 64     body, then 0 to 7 zero bytes up to the next multiple of 8
//! ```
//! Bytes 32 onwards are the publisher's and never change on their way to disk and reader; so is the
//! checksum over them. The rest is the log's, checked by the header crc, which also covers where
//! the frame lies: a frame copied elsewhere, left from an earlier use of a file or forged inside a
//! payload does not pass.

mod error;
mod publish;
mod stored;

pub use error::FrameError;
pub use publish::{PublishedFrame, check_noted, check_publish, publish_header};
pub(crate) use stored::reopen_stored;
pub use stored::{StoredFrame, check_stored, walk_stored};

use crate::Offset;
use crate::bytes_at::{u8_at, u16_at, u32_at, u64_at};
use crate::checksum::{crc32c, crc32c_append};
use crate::coded::coded_enum;
use crate::limits::{BODY_BYTES_MAX, FRAME_ALIGN, FRAME_HEADER_BYTES, LAYOUT_VERSION};

/// Header bytes the commit word leaves: what is written before the frame is committed.
const REST_BYTES: usize = FRAME_HEADER_BYTES - COMMIT_WORD_BYTES;
const COMMIT_WORD_BYTES: usize = 8;
/// Where the publisher's part of a frame begins.
const PUBLISHER_AT: usize = 32;
const PUBLISHER_BYTES: usize = FRAME_HEADER_BYTES - PUBLISHER_AT;
const FLAG_LZ4: u8 = 0x01;
const FLAGS_MASK: u8 = 0x0f;
const VERSION_SHIFT: u32 = 4;

const _: () = assert!(
    PUBLISHER_AT + PUBLISHER_BYTES == FRAME_HEADER_BYTES,
    "the body follows"
);
const _: () = assert!(
    BODY_BYTES_MAX < u32::MAX as usize - 2 * FRAME_HEADER_BYTES,
    "no overflow"
);

coded_enum! {
    /// What a frame's body is.
    pub enum FrameKind: u8 {
        /// The payload of one record without options.
        Single = 1,
        /// A columnar batch: see [`crate::batch`].
        Batch = 2,
        /// Nothing: the claim was given up. Its offsets are used, its body means nothing.
        Void = 3,
        /// The end of a segment.
        Seal = 4,
    }
}

/// Who published a frame and as which of his; all zero when he does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ProducerStamp {
    /// The producer, or 0.
    pub id: u64,
    /// Its term.
    pub epoch: u64,
    /// The number of the frame's first record among the producer's; the others follow.
    pub sequence: u64,
}

impl ProducerStamp {
    /// Nobody.
    pub const NONE: Self = Self {
        id: 0,
        epoch: 0,
        sequence: 0,
    };

    /// Whether no producer is named.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.id == 0 && self.epoch == 0 && self.sequence == 0
    }
}

/// The part of a header its publisher makes; nobody changes it after him.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublisherFields {
    /// What the body is.
    pub kind: FrameKind,
    /// Whether the batch's payload block is lz4.
    pub compressed: bool,
    /// The records, 1 to 65,535; 0 for a seal.
    pub record_count: u16,
    /// The exact length of the body.
    pub body_bytes: u32,
    /// Who published it.
    pub producer: ProducerStamp,
}

impl PublisherFields {
    /// The fields of one record without options whose payload is `body_bytes` long.
    #[must_use]
    pub const fn single(body_bytes: u32) -> Self {
        Self {
            kind: FrameKind::Single,
            compressed: false,
            record_count: 1,
            body_bytes,
            producer: ProducerStamp::NONE,
        }
    }

    /// Bytes 32 to 64 of the header.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; PUBLISHER_BYTES] {
        to_le_bytes(self.words())
    }

    /// The same as little-endian words, so that what is put together in registers is stored whole:
    /// a checksum that reads words right behind smaller stores would wait for each.
    #[inline]
    const fn words(&self) -> [u64; PUBLISHER_BYTES / 8] {
        let flags = LAYOUT_VERSION << VERSION_SHIFT | if self.compressed { FLAG_LZ4 } else { 0 };
        [
            self.kind.code() as u64
                | (flags as u64) << 8
                | (self.record_count as u64) << 16
                | (self.body_bytes as u64) << 32,
            self.producer.id,
            self.producer.epoch,
            self.producer.sequence,
        ]
    }

    /// Reads and checks bytes 32 to 64: kind, version, flags, length, count, producer, in this order.
    #[inline(always)] // else its result is copied twice for each frame that is walked
    fn decode(header: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let kind_code = u8_at::<32, FRAME_HEADER_BYTES>(header);
        let kind = FrameKind::from_code(kind_code).ok_or(FrameError::Kind { found: kind_code })?;
        let flags = u8_at::<33, FRAME_HEADER_BYTES>(header);
        let version = flags >> VERSION_SHIFT;
        if version != LAYOUT_VERSION {
            return Err(FrameError::LayoutVersion { found: version });
        }
        let compressed = flags & FLAG_LZ4 != 0;
        if flags & FLAGS_MASK & !FLAG_LZ4 != 0 || (compressed && kind != FrameKind::Batch) {
            return Err(FrameError::Flags {
                found: flags & FLAGS_MASK,
                kind,
            });
        }
        let body_bytes = u32_at::<36, FRAME_HEADER_BYTES>(header);
        if body_bytes as usize > BODY_BYTES_MAX {
            return Err(FrameError::BodyTooLarge { body_bytes });
        }
        let record_count = u16_at::<34, FRAME_HEADER_BYTES>(header);
        let counts = match kind {
            FrameKind::Single => record_count == 1,
            FrameKind::Batch | FrameKind::Void => record_count >= 1,
            FrameKind::Seal => record_count == 0,
        };
        if !counts {
            return Err(FrameError::RecordCount {
                found: record_count,
                kind,
            });
        }
        let producer = ProducerStamp {
            id: u64_at::<40, FRAME_HEADER_BYTES>(header),
            epoch: u64_at::<48, FRAME_HEADER_BYTES>(header),
            sequence: u64_at::<56, FRAME_HEADER_BYTES>(header),
        };
        let anonymous = matches!(kind, FrameKind::Void | FrameKind::Seal);
        if !producer.is_none() && (anonymous || producer.id == 0) {
            return Err(FrameError::Producer {
                found: producer,
                kind,
            });
        }
        Ok(Self {
            kind,
            compressed,
            record_count,
            body_bytes,
            producer,
        })
    }
}

/// What a frame's checksum is bound to besides its place: folder, topic, segment and nonce.
///
/// Made by the log; readers are told it with each delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameSeed(pub u32);

/// Where a frame lies, which its header's checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FramePlace {
    /// Of the segment's use.
    pub seed: FrameSeed,
    /// The low half of the segment's nonce.
    pub nonce_half: u32,
    /// The frame's first byte in its segment.
    pub position: u32,
}

/// Everything a header says but the commit word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    /// The publisher's part.
    pub fields: PublisherFields,
    /// The checksum of the publisher's part and the body.
    pub body_crc: u32,
    /// The offset of the first record; of a seal, the offset after the last.
    pub base_offset: Offset,
    /// When it was appended, in microseconds of the Unix epoch.
    pub append_time_us: u64,
}

impl FrameHeader {
    /// Bytes 8 to 64 for a frame at `position`; the commit word is stored apart, last.
    #[inline]
    #[must_use]
    pub fn encode(&self, seed: FrameSeed, position: u32) -> [u8; REST_BYTES] {
        let [a, b, c, d] = self.fields.words();
        let body_crc = u64::from(self.body_crc) << 32;
        let (base, time) = (self.base_offset.0, self.append_time_us);
        let covered = [u64::from(position) | body_crc, base, time, a, b, c, d];
        let crc = u64::from(Covered::new(seed, covered).crc());
        to_le_bytes([crc | body_crc, base, time, a, b, c, d])
    }

    /// Reads the header of a frame at `position`. The commit word is not looked at.
    ///
    /// # Errors
    ///
    /// The header crc first, then each field that breaks its rule.
    pub fn decode(
        header: &[u8; FRAME_HEADER_BYTES],
        seed: FrameSeed,
        position: u32,
    ) -> Result<Self, FrameError> {
        let found = u32_at::<8, FRAME_HEADER_BYTES>(header);
        let wanted = header_crc(header, seed, position);
        if found != wanted {
            return Err(FrameError::HeaderCrc { found, wanted });
        }
        Self::read(header)
    }

    /// As [`decode`](Self::decode), for a header whose checksum was compared before.
    #[inline(always)] // as above
    fn read(header: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let decoded = Self {
            fields: PublisherFields::decode(header)?,
            body_crc: u32_at::<12, FRAME_HEADER_BYTES>(header),
            base_offset: Offset(u64_at::<16, FRAME_HEADER_BYTES>(header)),
            append_time_us: u64_at::<24, FRAME_HEADER_BYTES>(header),
        };
        if decoded
            .base_offset
            .checked_add(u64::from(decoded.fields.record_count))
            .is_none()
        {
            return Err(FrameError::BaseOffset {
                found: decoded.base_offset,
            });
        }
        Ok(decoded)
    }

    /// The offset after the frame's last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(
            self.base_offset
                .0
                .saturating_add(u64::from(self.fields.record_count)),
        )
    }

    /// Bytes the frame takes: header, body, padding.
    #[must_use]
    pub const fn frame_bytes(&self) -> u32 {
        frame_bytes(self.fields.body_bytes)
    }
}

/// The word whose store publishes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitWord {
    /// Bytes the frame takes: header, body, padding.
    pub frame_bytes: u32,
    /// The low half of the segment's nonce.
    pub nonce_half: u32,
}

impl CommitWord {
    /// The word as it is stored, little-endian.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.nonce_half as u64) << 32 | self.frame_bytes as u64
    }

    /// The word as it was stored.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each half is taken as such"
    )]
    pub const fn from_u64(word: u64) -> Self {
        Self {
            frame_bytes: word as u32,
            nonce_half: (word >> 32) as u32,
        }
    }
}

/// Bytes of a frame whose body has `body_bytes`: header, body, padding to a multiple of 8.
///
/// ```
/// use millstream_protocol::frame::frame_bytes;
/// assert_eq!((frame_bytes(0), frame_bytes(1), frame_bytes(8)), (64, 72, 72));
/// ```
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "both constants are below 100"
)]
pub const fn frame_bytes(body_bytes: u32) -> u32 {
    (FRAME_HEADER_BYTES as u32 + body_bytes).next_multiple_of(FRAME_ALIGN as u32)
}

/// The checksum of the publisher's fields and the body.
///
/// Over a frame in memory it is the CRC-32C of one run, bytes 32 to 64 + body length.
#[must_use]
pub fn body_crc(fields: &PublisherFields, body: &[u8]) -> u32 {
    #[repr(align(8))]
    struct Aligned([u8; PUBLISHER_BYTES]);
    crc32c_append(crc32c(&Aligned(fields.encode()).0), body)
}

/// The checksum of everything the log adds, and of where it lies.
fn header_crc(header: &[u8; FRAME_HEADER_BYTES], seed: FrameSeed, position: u32) -> u32 {
    let covered = Covered::new(
        seed,
        [
            u64::from(position) | (u64::from(u32_at::<12, FRAME_HEADER_BYTES>(header)) << 32),
            u64_at::<16, FRAME_HEADER_BYTES>(header),
            u64_at::<24, FRAME_HEADER_BYTES>(header),
            u64_at::<32, FRAME_HEADER_BYTES>(header),
            u64_at::<40, FRAME_HEADER_BYTES>(header),
            u64_at::<48, FRAME_HEADER_BYTES>(header),
            u64_at::<56, FRAME_HEADER_BYTES>(header),
        ],
    );
    covered.crc()
}

/// What a header's checksum covers, in bytes 4 to 64: the seed and the position take the place of
/// the commit word's second half and of the checksum.
///
/// Aligned, and [`NEUTRAL`] in front, because the checksum goes byte by byte up to the first whole
/// word.
#[repr(align(8))]
struct Covered([u8; FRAME_HEADER_BYTES]);

/// Four bytes that leave a CRC-32C in its initial state: with them in front the 60 bytes covered are
/// eight whole words, and have the same checksum.
const NEUTRAL: u64 = 0x9be0_9bab;

impl Covered {
    #[inline]
    fn new(seed: FrameSeed, words: [u64; REST_BYTES / 8]) -> Self {
        let [b, c, d, e, f, g, h] = words;
        let first = u64::from(seed.0) << 32 | NEUTRAL;
        Self(to_le_bytes([first, b, c, d, e, f, g, h]))
    }

    #[inline]
    fn crc(&self) -> u32 {
        crc32c(&self.0)
    }
}

/// The words' bytes, one behind the other.
#[inline]
fn to_le_bytes<const WORDS: usize, const BYTES: usize>(words: [u64; WORDS]) -> [u8; BYTES] {
    const { assert!(WORDS * 8 == BYTES, "all bytes are given") };
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}
