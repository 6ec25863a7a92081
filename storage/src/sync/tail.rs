//! The tail of a segment: how many records and bytes were claimed, in one word.
//!
//! ```text
//! 63            32 31             0
//! |   records    |     bytes     |
//! ```
//! A claim adds to both halves in one atomic operation, so positions and offsets are handed out in
//! the same order. The tail is *tripped* once its bytes pass the limit; whoever moved it there is
//! the crossing claimant, and only its old value tells where the segment ends (L5).

use millstream_protocol::limits::{CLAIM_ADD_BYTES_MAX, FRAME_BYTES_MAX, THREADS_MAX};

use super::atomic::{AtomicU64, Ordering};
use super::mutated;
use crate::layout::SEGMENT_BYTES_MAX;

/// Each thread adds at most once after the tail tripped, since it looks before it adds.
const _: () = assert!(
    SEGMENT_BYTES_MAX as u64 + (THREADS_MAX as u64) * (CLAIM_ADD_BYTES_MAX as u64) < 1 << 32,
    "failed adds cannot carry from the bytes into the record count"
);
const _: () = assert!(SEGMENT_BYTES_MAX as u64 + (FRAME_BYTES_MAX as u64) < 1 << 32);

/// The bytes of a tail that was tripped by compare-exchange: past any limit.
const TRIPPED_BYTES: u64 = SEGMENT_BYTES_MAX as u64 + 1;

/// What a claim found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TailClaim {
    /// The bytes from `position` are the caller's, and records from `record` of this segment.
    Claimed { position: u32, record: u32 },
    /// The caller is the one that ended the segment: `position` and `record` are its end.
    Crossed { position: u32, record: u32 },
    /// Somebody else ended the segment.
    Tripped,
}

/// The claim word of one segment, alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Tail {
    word: AtomicU64,
    limit_bytes: u32,
}

const fn pack(record: u32, bytes: u64) -> u64 {
    ((record as u64) << 32) | bytes
}

#[allow(clippy::cast_possible_truncation, reason = "both halves are masked")]
const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl Tail {
    /// A tail that starts at `position` and lets claims end at `limit_bytes` at most.
    pub(super) fn new(position: u32, limit_bytes: u32) -> Self {
        Self {
            word: AtomicU64::new(pack(0, u64::from(position))),
            limit_bytes,
        }
    }

    /// Claims `bytes` bytes and `records` records.
    ///
    /// One atomic add for claims up to [`CLAIM_ADD_BYTES_MAX`]; larger ones compare and exchange,
    /// so that a failed one adds nothing.
    pub(super) fn claim(&self, bytes: u32, records: u32) -> TailClaim {
        // Relaxed throughout: the tail orders nothing but itself; a frame is handed over by its
        // commit word, a segment by the chain's lock.
        let seen = self.word.load(Ordering::Relaxed);
        if unpack(seen).1 > self.limit_bytes && !mutated!(AddToTripped) {
            return TailClaim::Tripped;
        }
        if bytes > CLAIM_ADD_BYTES_MAX {
            return self.claim_by_exchange(seen, bytes, records);
        }
        let old = self
            .word
            .fetch_add(pack(records, u64::from(bytes)), Ordering::Relaxed);
        let (record, position) = unpack(old);
        if position > self.limit_bytes {
            if mutated!(AddToTripped) {
                return TailClaim::Crossed {
                    position: self.limit_bytes,
                    record,
                };
            }
            TailClaim::Tripped
        } else if bytes > self.limit_bytes - position {
            TailClaim::Crossed { position, record }
        } else {
            TailClaim::Claimed { position, record }
        }
    }

    /// Claims `bytes` bytes from `position` and a record where nothing was claimed behind it and they fit; gives
    /// that record's number. Never ends the segment.
    pub(super) fn claim_at(&self, position: u32, bytes: u32) -> Option<u32> {
        let seen = self.word.load(Ordering::Relaxed);
        let (record, claimed) = unpack(seen);
        let fits = claimed == position
            && u64::from(position) + u64::from(bytes) <= u64::from(self.limit_bytes);
        let next = seen + pack(1, u64::from(bytes));
        let exchanged = || {
            self.word
                .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        (fits && exchanged()).then_some(record)
    }

    /// Ends the segment where it stands, if nobody did.
    pub(super) fn trip(&self) -> TailClaim {
        let seen = self.word.load(Ordering::Relaxed);
        // No frame is this long, so this exchange can only cross or find the tail tripped.
        self.claim_by_exchange(seen, u32::MAX, 0)
    }

    /// The records and the position claimed so far, or `None` once tripped.
    pub(super) fn claimed(&self) -> Option<(u32, u32)> {
        let (record, position) = unpack(self.word.load(Ordering::Relaxed));
        (position <= self.limit_bytes).then_some((record, position))
    }

    fn claim_by_exchange(&self, mut seen: u64, bytes: u32, records: u32) -> TailClaim {
        loop {
            let (record, position) = unpack(seen);
            if position > self.limit_bytes {
                return TailClaim::Tripped;
            }
            let fits = bytes <= self.limit_bytes - position;
            let next = if fits {
                seen + pack(records, u64::from(bytes))
            } else {
                pack(record, TRIPPED_BYTES)
            };
            match self
                .word
                .compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) if fits => return TailClaim::Claimed { position, record },
                Ok(_) => return TailClaim::Crossed { position, record },
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_claimant_crosses_and_its_old_value_is_the_end() {
        let tail = Tail::new(100, 300);
        assert_eq!(
            tail.claim(96, 3),
            TailClaim::Claimed {
                position: 100,
                record: 0
            }
        );
        assert_eq!(
            tail.claim(200, 1),
            TailClaim::Crossed {
                position: 196,
                record: 3
            }
        );
        assert_eq!(tail.claim(8, 1), TailClaim::Tripped);
        assert_eq!(tail.trip(), TailClaim::Tripped);
        assert_eq!(tail.claimed(), None);
    }

    #[test]
    fn a_large_claim_that_fails_adds_nothing_to_the_count() {
        let limit = 300_000;
        let tail = Tail::new(0, limit);
        let large = CLAIM_ADD_BYTES_MAX + 8;
        let mut claimed = 0;
        while let TailClaim::Claimed { record, .. } = tail.claim(large, 7) {
            assert_eq!(record, claimed);
            claimed += 7;
        }
        assert_eq!(tail.claim(large, 7), TailClaim::Tripped);
        assert_eq!(unpack(tail.word.load(Ordering::Relaxed)).0, claimed);
    }

    #[test]
    fn a_claim_at_a_place_is_had_there_or_not_at_all() {
        let tail = Tail::new(100, 300);
        assert_eq!(tail.claim_at(92, 64), None);
        assert_eq!(tail.claim_at(100, 64), Some(0));
        assert_eq!(tail.claim_at(100, 64), None);
        assert_eq!(tail.claim_at(164, 144), None, "it does not fit");
        assert_eq!(tail.claim_at(164, 136), Some(1));
        assert_eq!(tail.claimed(), Some((2, 300)));
        tail.trip();
        assert_eq!(tail.claim_at(300, 0), None);
    }

    #[test]
    fn a_claim_may_end_exactly_at_the_limit() {
        let tail = Tail::new(0, 128);
        assert_eq!(
            tail.claim(128, 1),
            TailClaim::Claimed {
                position: 0,
                record: 0
            }
        );
        assert_eq!(
            tail.claim(64, 1),
            TailClaim::Crossed {
                position: 128,
                record: 1
            }
        );
    }

    #[test]
    fn failed_adds_of_every_thread_leave_the_count_alone() {
        let tail = Tail::new(0, SEGMENT_BYTES_MAX);
        tail.word
            .store(pack(5, u64::from(SEGMENT_BYTES_MAX)), Ordering::Relaxed);
        for _ in 0..THREADS_MAX {
            // What a thread does that looked just before the tail tripped.
            tail.word
                .fetch_add(pack(0, u64::from(CLAIM_ADD_BYTES_MAX)), Ordering::Relaxed);
        }
        assert_eq!(unpack(tail.word.load(Ordering::Relaxed)).0, 5);
    }
}
