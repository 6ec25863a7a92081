//! Arbitrary entries and lines, with numbers small enough that many follow from each other.

use millstream_protocol::Durability;
use proptest::prelude::*;

use super::entry::{Entry, Kept, Line, LogId, SegmentNumber};
use super::state::{CutState, DamageState, EndKind, LogHead, SegmentEnd, SegmentState};

fn log() -> impl Strategy<Value = LogId> {
    (0..4_u32).prop_map(LogId)
}

fn segment() -> impl Strategy<Value = SegmentNumber> {
    (0..6_u32).prop_map(SegmentNumber)
}

fn segments() -> impl Strategy<Value = Vec<SegmentNumber>> {
    prop::collection::btree_set(segment(), 0..4).prop_map(|numbers| numbers.into_iter().collect())
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![9 => (0..20_u64).prop_map(|tens| tens * 10), 1 => any::<u64>()]
}

fn position() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0..100_u32, 1 => any::<u32>()]
}

fn durability() -> impl Strategy<Value = Durability> {
    prop::sample::select(Durability::ALL)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[a-d]", 1 => "[a-z ä/]{0,12}"]
}

fn log_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        2 => (log(), any::<[u8; 16]>(), durability(), name()).prop_map(
            |(log, incarnation, durability, name)| {
                Entry::LogCreated { log, incarnation, durability, name }
            }
        ),
        1 => log().prop_map(|log| Entry::LogDeleted { log }),
        3 => log().prop_map(|log| Entry::Opened { log }),
        3 => (log(), offset()).prop_map(|(log, next_offset)| Entry::Closed { log, next_offset }),
        9 => (log(), segment(), any::<u64>(), 0..200_u64, offset()).prop_map(
            |(log, segment, nonce, len_bytes, offset_ceiling)| {
                Entry::SegmentPrepared { log, segment, nonce, len_bytes, offset_ceiling }
            }
        ),
    ]
}

fn segment_entry() -> impl Strategy<Value = Entry> {
    let sealed = (log(), segment(), offset(), offset(), position(), position()).prop_map(
        |(log, segment, base_offset, end_offset, end_position, footer_bytes)| Entry::Sealed {
            log,
            segment,
            base_offset,
            end_offset,
            end_position,
            footer_bytes,
        },
    );
    let ends = (offset(), offset(), position());
    let cut = (
        log(),
        segment(),
        ends,
        segments(),
        offset(),
        any::<(bool, u64)>(),
    )
        .prop_map(
            |(
                log,
                segment,
                ends,
                quarantined,
                next_base_offset,
                (possibly_acknowledged, cut_bytes),
            )| {
                let (base_offset, end_offset, end_position) = ends;
                Entry::Cut {
                    log,
                    segment,
                    base_offset,
                    end_offset,
                    end_position,
                    quarantined,
                    next_base_offset,
                    possibly_acknowledged,
                    cut_bytes,
                }
            },
        );
    let damaged = (log(), damage()).prop_map(|(log, gap)| Entry::Damaged {
        log,
        segment: gap.segment,
        first_offset: gap.first_offset,
        next_offset: gap.next_offset,
        first_position: gap.first_position,
        next_position: gap.next_position,
    });
    let dropped =
        (log(), segment()).prop_map(|(log, segment)| Entry::SegmentDropped { log, segment });
    prop_oneof![3 => sealed, 3 => cut, 2 => damaged, 1 => dropped]
}

/// Any entry a commit may have in it.
pub(super) fn entry() -> impl Strategy<Value = Entry> {
    let boot =
        (0..9_u32, any::<[u8; 16]>()).prop_map(|(epoch, boot_id)| Entry::Boot { epoch, boot_id });
    let folder =
        (any::<[u8; 16]>(), 0..3_u32).prop_map(|(id, format)| Entry::Folder { id, format });
    prop_oneof![1 => folder, 2 => boot, 20 => log_entry(), 20 => segment_entry()]
}

/// Commits, many of whose entries follow from those before.
pub(super) fn commits() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    prop::collection::vec(prop::collection::vec(entry(), 1..4), 0..60)
}

fn damage() -> impl Strategy<Value = DamageState> {
    (segment(), offset(), offset(), position(), position()).prop_map(
        |(segment, first_offset, next_offset, first_position, next_position)| DamageState {
            segment,
            first_offset,
            next_offset,
            first_position,
            next_position,
        },
    )
}

fn end() -> impl Strategy<Value = Option<SegmentEnd>> {
    let kind = prop_oneof![
        position().prop_map(|footer_bytes| EndKind::Sealed { footer_bytes }),
        Just(EndKind::Cut)
    ];
    let end = (offset(), offset(), position(), kind).prop_map(
        |(base_offset, end_offset, end_position, kind)| SegmentEnd {
            base_offset,
            end_offset,
            end_position,
            kind,
        },
    );
    prop::option::of(end)
}

fn kept() -> impl Strategy<Value = Kept> {
    let head = (
        any::<[u8; 16]>(),
        durability(),
        name(),
        any::<bool>(),
        any::<Option<u64>>(),
        segment(),
        offset(),
    )
        .prop_map(
            |(incarnation, durability, name, open, next_offset, next_segment, ceiling)| LogHead {
                incarnation,
                durability,
                name,
                open,
                next_offset,
                next_segment,
                offset_ceiling: ceiling,
            },
        );
    let state = (any::<(u64, u64, u64, bool)>(), end()).prop_map(
        |((nonce, len_bytes, offset_ceiling, quarantined), end)| SegmentState {
            nonce,
            len_bytes,
            offset_ceiling,
            quarantined,
            end,
        },
    );
    let cut = (segment(), segments(), any::<(u64, u64, bool, u64)>()).prop_map(
        |(
            segment,
            quarantined,
            (end_offset, next_base_offset, possibly_acknowledged, cut_bytes),
        )| {
            CutState {
                segment,
                end_offset,
                quarantined,
                next_base_offset,
                possibly_acknowledged,
                cut_bytes,
            }
        },
    );
    prop_oneof![
        log().prop_map(Kept::NextLog),
        (log(), head).prop_map(|(log, head)| Kept::Log(log, head)),
        (log(), segment(), state)
            .prop_map(|(log, number, state)| Kept::Segment(log, number, state)),
        (log(), cut).prop_map(|(log, cut)| Kept::Cut(log, cut)),
        (log(), damage()).prop_map(|(log, gap)| Kept::Damage(log, gap)),
    ]
}

/// Any line of a file.
pub(super) fn line() -> impl Strategy<Value = Line> {
    prop_oneof![entry().prop_map(Line::Event), kept().prop_map(Line::Kept)]
}
