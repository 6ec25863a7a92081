//! What the manifest is told when a new log takes the place of one that failed (S7).

use millstream_protocol::Offset;

use crate::layout::SEGMENT_BYTES_MIN;
use crate::log::Log;
use crate::manifest::{Entry, LogId, SegmentNumber};

/// The number a log's first segment has.
pub(crate) const FIRST_SEGMENT: u32 = 1;

/// What the manifest is told when the log numbered `id` takes the place of `old`: it was closed at
/// `start`, behind a segment that was never made.
pub(crate) fn replacing(old: &Log, id: LogId, incarnation: [u8; 16], start: Offset) -> [Entry; 6] {
    let segment = SegmentNumber(FIRST_SEGMENT);
    [
        Entry::LogDeleted {
            log: old.identity().id,
        },
        Entry::LogCreated {
            log: id,
            incarnation,
            durability: old.identity().durability,
            name: old.identity().name.as_str().to_owned(),
        },
        Entry::Opened { log: id },
        Entry::SegmentPrepared {
            log: id,
            segment,
            nonce: 1,
            len_bytes: u64::from(SEGMENT_BYTES_MIN),
            offset_ceiling: start.0,
        },
        Entry::SegmentDropped { log: id, segment },
        Entry::Closed {
            log: id,
            next_offset: start.0,
        },
    ]
}
