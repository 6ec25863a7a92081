//! How the blocks of the next segment are made (decisions 0012, 0014 and 0017): by what its predecessor
//! went through.

use millstream_protocol::Durability;

use crate::folder::Blocks;

/// A segment that fills faster than this may have one behind it whose blocks are only reserved: every
/// byte of a written one goes to the disk twice, and its zeros must be there first.
const WRITTEN_AHEAD_BYTES_PER_S: u64 = 256 << 20;
/// A sync is to write at most one part in so many more than was published, for the pages that the kernel
/// keeps as one with the last; but for [`PIECE_BYTES_MIN`].
const PIECES_A_SYNC: u64 = 4;
/// How the first segment of a run fills is not known: one part in so many of what a log's first is to have.
const PIECES_OF_FIRST: u32 = 256;
/// Least bytes of zeros at once.
pub(crate) const PIECE_BYTES_MIN: u32 = 16 << 10;
/// Most of them; four times as much gained an eighth to a quarter (decision 0017).
pub(crate) const PIECE_BYTES_MAX: u32 = 256 << 10;
/// Most of them where acknowledgements wait for syncs, should what was fast be followed by single messages: one
/// of those takes a seventh longer (decision 0014).
const PIECE_BYTES_MAX_SYNCED: u32 = 64 << 10;

/// What a log's durability and sizes say of its segments' blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How the first segment of a run is made.
    pub(crate) first: Blocks,
    piece_bytes_max: u32,
}

impl Plan {
    /// For a log whose first segment is to have `first_bytes`.
    pub(crate) fn new(durability: Durability, first_bytes: u32) -> Self {
        let (first_piece_bytes, piece_bytes_max) = match durability {
            Durability::Stored => (first_bytes / PIECES_OF_FIRST, PIECE_BYTES_MAX),
            Durability::Synced => (PIECE_BYTES_MIN, PIECE_BYTES_MAX_SYNCED),
        };
        Self {
            first: written(first_piece_bytes, piece_bytes_max),
            piece_bytes_max,
        }
    }
}

/// What the segment under way has gone through when the next one is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// Bytes of frames claimed, in so many microseconds.
    pub(crate) claimed_bytes: u32,
    pub(crate) us: u64,
    /// Its syncs so far.
    pub(crate) syncs: u64,
    /// Some of its bodies are large enough to be written to a file without pages.
    pub(crate) has_large_bodies: bool,
    /// Publishers waited for it to be made.
    pub(crate) is_late: bool,
}

impl Past {
    /// How the segment behind it is made, of a log whose files serve again or not. Zeros are left out where they would
    /// be there too late, or written over as they are made. Where its file is to serve again they are not too
    /// late: they are what has the kernel keep its pages in large pieces (decision 0019).
    pub(crate) fn blocks(&self, plan: &Plan, serves_again: bool) -> Blocks {
        if !serves_again && self.fills_fast() && (self.has_large_bodies || self.is_late) {
            return Blocks::Reserved;
        }
        // And the sync to come.
        let bytes_a_sync = u64::from(self.claimed_bytes) / (self.syncs + 1);
        let piece_bytes = u32::try_from(bytes_a_sync / PIECES_A_SYNC);
        written(piece_bytes.unwrap_or(u32::MAX), plan.piece_bytes_max)
    }

    /// Whether it fills faster than zeros are written ahead.
    fn fills_fast(&self) -> bool {
        u64::from(self.claimed_bytes)
            > WRITTEN_AHEAD_BYTES_PER_S.saturating_mul(self.us) / 1_000_000
    }
}

/// Written with zeros, at once at most `bytes` where that is within bounds.
fn written(bytes: u32, bytes_max: u32) -> Blocks {
    let bytes = bytes.clamp(PIECE_BYTES_MIN, bytes_max);
    Blocks::Written {
        piece_bytes: 1 << bytes.ilog2(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn stored() -> Plan {
        Plan::new(Durability::Stored, 4 << 20)
    }

    const QUARTER: Past = Past {
        claimed_bytes: 16 << 20,
        us: 65_000,
        syncs: 0,
        has_large_bodies: false,
        is_late: false,
    };

    #[test]
    fn zeros_are_left_out_behind_what_fills_fast_and_has_no_use_for_them() {
        let fast = Past {
            us: 60_000,
            ..QUARTER
        };
        let within_a_tick = Past { us: 0, ..fast };
        for fast in [fast, within_a_tick] {
            assert_ne!(fast.blocks(&stored(), false), Blocks::Reserved);
            let large = Past {
                has_large_bodies: true,
                ..fast
            };
            let late = Past {
                is_late: true,
                ..fast
            };
            for past in [large, late] {
                assert_eq!(past.blocks(&stored(), false), Blocks::Reserved);
                assert_ne!(
                    past.blocks(&stored(), true),
                    Blocks::Reserved,
                    "it serves again"
                );
            }
        }
        for us in [65_000, u64::MAX] {
            let slow = Past {
                us,
                has_large_bodies: true,
                is_late: true,
                ..QUARTER
            };
            assert_ne!(slow.blocks(&stored(), false), Blocks::Reserved);
        }
    }

    #[test]
    fn pieces_follow_what_a_sync_covers() {
        let piece_behind = |claimed_bytes, syncs| {
            let past = Past {
                claimed_bytes,
                syncs,
                ..QUARTER
            };
            match past.blocks(&stored(), false) {
                Blocks::Written { piece_bytes } => piece_bytes,
                Blocks::Reserved => 0,
            }
        };
        assert_eq!(piece_behind(16 << 20, 0), PIECE_BYTES_MAX);
        assert_eq!(piece_behind(16 << 20, 15), PIECE_BYTES_MAX);
        assert_eq!(piece_behind(16 << 20, 31), 128 << 10);
        assert_eq!(piece_behind(16 << 20, 32), 64 << 10, "a power of two");
        assert_eq!(piece_behind(16 << 20, 400), PIECE_BYTES_MIN);
        assert_eq!(piece_behind(0, 0), PIECE_BYTES_MIN);
        assert_eq!(piece_behind(u32::MAX, 0), PIECE_BYTES_MAX);
    }

    #[test]
    fn a_first_segment_follows_what_it_was_said_to_need() {
        let piece = |piece_bytes| Blocks::Written { piece_bytes };
        let first = |durability, bytes| Plan::new(durability, bytes).first;
        assert_eq!(first(Durability::Stored, 4 << 20), piece(PIECE_BYTES_MIN));
        assert_eq!(first(Durability::Stored, 32 << 20), piece(128 << 10));
        assert_eq!(first(Durability::Stored, 1 << 30), piece(PIECE_BYTES_MAX));
        assert_eq!(first(Durability::Synced, 1 << 30), piece(PIECE_BYTES_MIN));
    }

    #[test]
    fn pieces_stay_small_where_acknowledgements_wait_for_syncs() {
        let synced = Plan::new(Durability::Synced, 4 << 20);
        let piece_bytes = 64 << 10;
        assert_eq!(
            QUARTER.blocks(&synced, false),
            Blocks::Written { piece_bytes }
        );
    }
}
