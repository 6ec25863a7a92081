//! Where things lie in a segment file, and the identity page that says whose it is.
//!
//! All numbers are little-endian. `docs/STORAGE.md` draws the same bytes.

use std::io;

use millstream_protocol::checksum::{crc32c, crc32c_append};
use millstream_protocol::frame::{FramePlace, FrameSeed};
use millstream_protocol::limits::{self, FRAME_HEADER_BYTES};

use crate::manifest::{LogId, SegmentNumber};
use crate::memory::SegmentMemory;

/// Limits of a segment's length; positions are 32-bit.
pub(crate) const SEGMENT_BYTES_MIN: u32 = limits::SEGMENT_BYTES_MIN as u32;
pub(crate) const SEGMENT_BYTES_MAX: u32 = limits::SEGMENT_BYTES_MAX as u32;
const _: () = assert!(limits::SEGMENT_BYTES_MAX <= u32::MAX as u64);

/// Bytes of a page: identity, slots and footer pages are one each.
pub(crate) const PAGE_BYTES: u32 = 4096;
/// Positions of the two watermark slots, each alone in its page.
pub(crate) const SLOT_POSITIONS: [u32; 2] = [PAGE_BYTES, 2 * PAGE_BYTES];
/// Position of the first frame.
pub(crate) const FRAMES_START: u32 = 3 * PAGE_BYTES;
/// Entries of one footer index page: two bytes each, behind a checksum and the page's number.
pub(crate) const INDEX_ENTRIES_PER_PAGE: u32 = (PAGE_BYTES - 8) / 2;

const MAGIC: [u8; 8] = *b"MLSTSEGM";
const FORMAT: u32 = 1;
/// Bytes of the identity that its checksum covers.
const IDENTITY_BYTES: usize = 72;

#[cfg(not(target_endian = "little"))]
compile_error!(
    "segments hold native words and are little-endian: 64-bit little-endian targets only"
);

const _: () = assert!(
    SEGMENT_BYTES_MIN > FRAMES_START + 4 * PAGE_BYTES,
    "the smallest segment has room for frames"
);

/// Pages at the end of a segment of `len_bytes` bytes that are kept for its footer.
pub(crate) const fn footer_pages(len_bytes: u32) -> u32 {
    let pages = len_bytes.div_ceil(PAGE_BYTES);
    1 + pages.div_ceil(INDEX_ENTRIES_PER_PAGE)
}

/// Where the last frame of a segment of `len_bytes` bytes may end: a seal and the footer fit behind.
pub(crate) const fn limit_bytes(len_bytes: u32) -> u32 {
    (len_bytes / PAGE_BYTES - footer_pages(len_bytes)) * PAGE_BYTES - FRAME_HEADER_BYTES as u32
}

const _: () = assert!(limit_bytes(SEGMENT_BYTES_MAX) < SEGMENT_BYTES_MAX);

/// Position of the footer of a segment whose seal is at `end_position`.
pub(crate) const fn footer_position(end_position: u32) -> u32 {
    (end_position + FRAME_HEADER_BYTES as u32).next_multiple_of(PAGE_BYTES)
}

/// Where the identity page has the nonce of the use of the file before this one.
const FORMER_NONCE_AT: usize = 64;
/// In the place of that, where there was none: no nonce is zero.
pub(crate) const FIRST_USE: u64 = 0;

/// Whose segment a file is: the first page of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) folder_id: [u8; 16],
    pub(crate) incarnation: [u8; 16],
    pub(crate) log: LogId,
    pub(crate) segment: SegmentNumber,
    pub(crate) nonce: u64,
    pub(crate) len_bytes: u32,
}

/// Why the first page of a file is not the identity of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file is shorter than an identity page, or does not start with the segment magic.
    NotASegment,
    /// Made by a newer version of Millstream.
    NewerFormat {
        /// The format it was written in.
        found: u32,
    },
    /// The identity's checksum does not match its bytes.
    Checksum,
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotASegment => f.write_str("this file is not a Millstream segment"),
            Self::NewerFormat { found } => write!(
                f,
                "segment format {found} is newer than this version reads ({FORMAT}); use a newer millstream"
            ),
            Self::Checksum => f.write_str("the identity page of the segment is damaged"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// Reads a little-endian number out of bytes whose length was checked by the caller.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// As [`u32_at`], for eight bytes.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or_default()
}

impl Identity {
    /// The first bytes of a file that was made for this segment.
    pub(crate) fn encode(&self) -> [u8; IDENTITY_BYTES + 4] {
        self.encode_over(FIRST_USE)
    }

    /// The first bytes of a file that served before, under `former_nonce`.
    pub(crate) fn encode_over(&self, former_nonce: u64) -> [u8; IDENTITY_BYTES + 4] {
        let mut page = [0; IDENTITY_BYTES + 4];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(room) = page.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&MAGIC);
        put(&FORMAT.to_le_bytes());
        put(&self.log.0.to_le_bytes());
        put(&self.folder_id);
        put(&self.incarnation);
        put(&self.segment.0.to_le_bytes());
        put(&self.len_bytes.to_le_bytes());
        put(&self.nonce.to_le_bytes());
        put(&former_nonce.to_le_bytes());
        let (covered, crc) = page.split_at_mut(IDENTITY_BYTES);
        crc.copy_from_slice(&crc32c(covered).to_le_bytes());
        page
    }

    /// Whether `page` is the first of this segment as it was made, but for the length: a file that got its
    /// footer was shrunk.
    pub(crate) fn is_on(&self, page: &[u8]) -> bool {
        Self::decode(page).is_ok_and(|found| {
            Self {
                len_bytes: self.len_bytes,
                ..found
            } == *self
        })
    }

    /// The nonce that the file served under before this use, as its first `page` has it; 0 of one that did not.
    /// What a file that served holds beyond the frames of this use is of an earlier one, and not zeros.
    pub(crate) fn former_nonce(page: &[u8]) -> Result<u64, IdentityError> {
        Self::decode(page).map(|_| u64_at(page, FORMER_NONCE_AT))
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, IdentityError> {
        let page = page
            .get(..IDENTITY_BYTES + 4)
            .filter(|page| page.starts_with(&MAGIC))
            .ok_or(IdentityError::NotASegment)?;
        let format = u32_at(page, 8);
        if format > FORMAT {
            return Err(IdentityError::NewerFormat { found: format });
        }
        let (covered, crc) = page.split_at(IDENTITY_BYTES);
        if crc32c(covered) != u32_at(crc, 0) {
            return Err(IdentityError::Checksum);
        }
        Ok(Self {
            log: LogId(u32_at(page, 12)),
            folder_id: id_at(page, 16),
            incarnation: id_at(page, 32),
            segment: SegmentNumber(u32_at(page, 48)),
            len_bytes: u32_at(page, 52),
            nonce: u64_at(page, 56),
        })
    }

    /// What every frame header's checksum in this use of the file starts from.
    pub(crate) fn seed(&self) -> FrameSeed {
        let mut crc = crc32c(&self.folder_id);
        crc = crc32c_append(crc, &self.incarnation);
        crc = crc32c_append(crc, &self.segment.0.to_le_bytes());
        FrameSeed(crc32c_append(crc, &self.nonce.to_le_bytes()))
    }

    /// Where the first frame lies, as its checksum has it.
    pub(crate) fn first_frame(&self) -> FramePlace {
        FramePlace {
            seed: self.seed(),
            #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
            nonce_half: self.nonce as u32,
            position: FRAMES_START,
        }
    }
}

/// Length of the segment file `name`, which is behind `memory`; an error for one that no segment has.
pub(crate) fn segment_len(memory: &dyn SegmentMemory, name: &str) -> io::Result<u32> {
    let shortest = FRAMES_START + FRAME_HEADER_BYTES as u32;
    let len_bytes = memory.len_bytes();
    u32::try_from(len_bytes)
        .ok()
        .filter(|len_bytes| (shortest..=SEGMENT_BYTES_MAX).contains(len_bytes))
        .ok_or_else(|| {
            let sentence = format!("{name} has {len_bytes} bytes, which no segment has");
            io::Error::new(io::ErrorKind::InvalidData, sentence)
        })
}

/// Name of a segment file inside the data folder.
pub(crate) fn segment_name(log: LogId, segment: SegmentNumber) -> String {
    format!("{}/{:08}.seg", log_dir(log), segment.0)
}

/// Name of a log's own folder.
pub(crate) fn log_dir(log: LogId) -> String {
    format!("log-{:08}", log.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            folder_id: [1; 16],
            incarnation: [2; 16],
            log: LogId(3),
            segment: SegmentNumber(4),
            nonce: 5 << 40,
            len_bytes: 6 << 20,
        }
    }

    #[test]
    fn identity_round_trips_and_any_flipped_bit_is_refused() {
        let page = identity().encode();
        assert_eq!(Identity::decode(&page), Ok(identity()));
        for bit in 0..page.len() * 8 {
            let mut bad = page;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn seeds_differ_by_every_part_of_the_identity() {
        let base = identity();
        let others = [
            Identity {
                folder_id: [9; 16],
                ..base
            },
            Identity {
                incarnation: [9; 16],
                ..base
            },
            Identity {
                segment: SegmentNumber(9),
                ..base
            },
            Identity { nonce: 9, ..base },
        ];
        for other in others {
            assert_ne!(other.seed(), base.seed());
        }
    }

    #[test]
    fn footer_fits_behind_the_last_possible_seal() {
        let mut len = SEGMENT_BYTES_MIN;
        while len <= SEGMENT_BYTES_MAX {
            let start = footer_position(limit_bytes(len));
            assert!(start + footer_pages(len) * PAGE_BYTES <= len);
            len *= 2;
        }
    }
}
