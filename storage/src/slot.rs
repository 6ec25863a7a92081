//! Watermark slots: what the disk is known to hold of a segment, and what it may hold.
//!
//! A slot is written before each sync, the two taking turns, so each sync persists its
//! predecessor's proof (S2). *proven* was covered by a sync that returned success; *attempted* is
//! what the sync under way covers. 60 bytes at the start of a page: within one disk sector.

use millstream_protocol::checksum::crc32c;
use millstream_protocol::limits::FRAME_ALIGN;

use crate::layout::{FRAMES_START, u32_at, u64_at};

const MAGIC: [u8; 4] = *b"MSLT";
pub(crate) const SLOT_BYTES: usize = 60;
const PROVEN_SEALED: u32 = 1;
const ATTEMPTED_SEALED: u32 = 2;

/// A place in a segment that all frames before it share: position, offset, and whether it is the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watermark {
    pub(crate) position: u32,
    pub(crate) offset: u64,
    /// The seal was reached: nothing follows in this segment.
    pub(crate) sealed: bool,
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Rises by one with each slot written in this use of the file.
    pub(crate) sequence: u64,
    pub(crate) proven: Watermark,
    pub(crate) attempted: Watermark,
}

impl Slot {
    pub(crate) fn encode(&self, nonce: u64) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(room) = bytes.get_mut(at..at + field.len()) {
                room.copy_from_slice(field);
            }
            at += field.len();
        };
        let mut flags = 0;
        if self.proven.sealed {
            flags |= PROVEN_SEALED;
        }
        if self.attempted.sealed {
            flags |= ATTEMPTED_SEALED;
        }
        put(&MAGIC);
        put(&flags.to_le_bytes());
        put(&nonce.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.proven.offset.to_le_bytes());
        put(&self.attempted.offset.to_le_bytes());
        put(&self.proven.position.to_le_bytes());
        put(&self.attempted.position.to_le_bytes());
        put(&[0; 8]);
        let (covered, crc) = bytes.split_at_mut(SLOT_BYTES - 4);
        crc.copy_from_slice(&crc32c(covered).to_le_bytes());
        bytes
    }

    /// The slot in `page`, if it is whole and of this use of the file (`nonce`, L7).
    pub(crate) fn decode(page: &[u8], nonce: u64) -> Option<Self> {
        let bytes = page.get(..SLOT_BYTES)?;
        let (covered, crc) = bytes.split_at(SLOT_BYTES - 4);
        if !covered.starts_with(&MAGIC)
            || crc32c(covered) != u32_at(crc, 0)
            || u64_at(covered, 8) != nonce
        {
            return None;
        }
        let flags = u32_at(covered, 4);
        let slot = Self {
            sequence: u64_at(covered, 16),
            proven: Watermark {
                offset: u64_at(covered, 24),
                position: u32_at(covered, 40),
                sealed: flags & PROVEN_SEALED != 0,
            },
            attempted: Watermark {
                offset: u64_at(covered, 32),
                position: u32_at(covered, 44),
                sealed: flags & ATTEMPTED_SEALED != 0,
            },
        };
        // A checksum is no proof: frames are looked for at these places.
        let can_be = |mark: Watermark| {
            mark.position >= FRAMES_START && mark.position.is_multiple_of(FRAME_ALIGN as u32)
        };
        (can_be(slot.proven) && can_be(slot.attempted)).then_some(slot)
    }

    /// Whether `page` held a slot that is no longer whole. One of an earlier use of the file is whole; one
    /// whose first word is zero was being written when the process was killed, and counts for none. A
    /// slot lies within one sector, so a power cut leaves all of it or none.
    fn is_spoiled(page: &[u8]) -> bool {
        page.get(..SLOT_BYTES).is_some_and(|bytes| {
            u64_at(bytes, 0) != 0 && Self::decode(page, u64_at(bytes, 8)).is_none()
        })
    }

    /// The newer of the two slots, and the position up to which a sync may have been begun.
    ///
    /// That is `u32::MAX` where rot took what would tell: a slot that is no longer whole, since it may
    /// have been the newer one, or both, where the page before them is not `as_made` either. That page
    /// was synced before the manifest named the segment, so it is whole where nothing rotted.
    pub(crate) fn extent(pages: [&[u8]; 2], nonce: u64, as_made: bool) -> (Option<Self>, u32) {
        let newest = Self::newest(pages, nonce);
        let attempted = match newest {
            _ if pages.into_iter().any(Self::is_spoiled) => u32::MAX,
            Some(slot) => slot.attempted.position,
            None if as_made => FRAMES_START,
            None => u32::MAX,
        };
        (newest, attempted)
    }

    /// The newer of the two slots; `None` where neither is whole: nothing was ever synced.
    pub(crate) fn newest(pages: [&[u8]; 2], nonce: u64) -> Option<Self> {
        pages
            .into_iter()
            .filter_map(|page| Self::decode(page, nonce))
            .max_by_key(|slot| slot.sequence)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slot(sequence: u64) -> Slot {
        Slot {
            sequence,
            proven: Watermark {
                position: 12_288,
                offset: 7,
                sealed: false,
            },
            attempted: Watermark {
                position: 12_392,
                offset: 9,
                sealed: true,
            },
        }
    }

    #[test]
    fn slot_round_trips_and_any_flipped_bit_voids_it() {
        let bytes = slot(3).encode(77);
        assert_eq!(Slot::decode(&bytes, 77), Some(slot(3)));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&bad, 77), None, "bit {bit}");
            assert!(Slot::is_spoiled(&bad), "bit {bit}");
        }
    }

    #[test]
    fn a_slot_that_names_a_place_where_no_frame_can_be_is_none() {
        for position in [0, FRAMES_START - 8, FRAMES_START + 4, u32::MAX] {
            let mark = Watermark {
                position,
                ..slot(3).proven
            };
            let proven = Slot {
                proven: mark,
                ..slot(3)
            };
            let attempted = Slot {
                attempted: mark,
                ..slot(3)
            };
            for forged in [proven, attempted] {
                assert_eq!(Slot::decode(&forged.encode(77), 77), None, "{position}");
            }
        }
    }

    #[test]
    fn l7_a_former_uses_proof_is_void() {
        let old = slot(900).encode(1);
        let new = slot(1).encode(2);
        assert_eq!(Slot::newest([&old, &new], 2), Some(slot(1)));
        assert_eq!(Slot::newest([&old, &old], 2), None);
        assert!(!Slot::is_spoiled(&old) && !Slot::is_spoiled(&[0; SLOT_BYTES]));
    }

    #[test]
    fn the_newer_slot_counts_and_a_torn_one_does_not() {
        let older = slot(4).encode(5);
        let mut newer = slot(5).encode(5);
        assert_eq!(Slot::newest([&older, &newer], 5), Some(slot(5)));
        newer[30] ^= 1;
        assert_eq!(Slot::newest([&older, &newer], 5), Some(slot(4)));
    }

    #[test]
    fn a_slot_that_was_being_written_counts_for_none_and_one_that_rotted_for_more_than_is_known() {
        let (older, newer) = (slot(4).encode(9), slot(5).encode(9));
        let attempted = slot(4).attempted.position;
        assert_eq!(
            Slot::extent([&older, &newer], 9, true),
            (Some(slot(5)), slot(5).attempted.position)
        );
        let mut killed = newer;
        killed[..8].fill(0);
        assert_eq!(
            Slot::extent([&older, &killed], 9, true),
            (Some(slot(4)), attempted)
        );
        for byte in 0..SLOT_BYTES {
            let mut rotten = newer;
            rotten[byte] ^= 4;
            let found = Slot::extent([&older, &rotten], 9, true);
            assert_eq!(found, (Some(slot(4)), u32::MAX), "{byte}");
        }
        let blank = [0; SLOT_BYTES];
        assert_eq!(
            Slot::extent([&blank, &blank], 9, true),
            (None, FRAMES_START)
        );
        assert_eq!(Slot::extent([&blank, &blank], 9, false), (None, u32::MAX));
    }
}
