//! What each entry leads to, and when it is refused.

use super::*;
use crate::manifest::samples;
use proptest::prelude::*;

const A: LogId = LogId(3);

fn folder() -> Entry {
    Entry::Folder {
        id: [1; 16],
        format: 1,
    }
}

fn created(log: LogId, name: &str) -> Entry {
    let (incarnation, durability) = ([2; 16], Durability::Synced);
    Entry::LogCreated {
        log,
        incarnation,
        durability,
        name: name.to_owned(),
    }
}

fn prepared(segment: u32, offset_ceiling: u64) -> Entry {
    let segment = SegmentNumber(segment);
    Entry::SegmentPrepared {
        log: A,
        segment,
        nonce: 7,
        len_bytes: 1000,
        offset_ceiling,
    }
}

fn sealed(segment: u32, base_offset: u64, end_offset: u64) -> Entry {
    let segment = SegmentNumber(segment);
    let (end_position, footer_bytes) = (800, 200);
    Entry::Sealed {
        log: A,
        segment,
        base_offset,
        end_offset,
        end_position,
        footer_bytes,
    }
}

fn cut(segment: u32, ends: (u64, u64), quarantined: &[u32], next_base_offset: u64) -> Entry {
    Entry::Cut {
        log: A,
        segment: SegmentNumber(segment),
        base_offset: ends.0,
        end_offset: ends.1,
        end_position: 500,
        quarantined: quarantined.iter().copied().map(SegmentNumber).collect(),
        next_base_offset,
        possibly_acknowledged: false,
        cut_bytes: 33,
    }
}

fn gap(segment: u32, offsets: (u64, u64), positions: (u32, u32)) -> Entry {
    Entry::Damaged {
        log: A,
        segment: SegmentNumber(segment),
        first_offset: offsets.0,
        next_offset: offsets.1,
        first_position: positions.0,
        next_position: positions.1,
    }
}

fn dropped(segment: u32) -> Entry {
    Entry::SegmentDropped {
        log: A,
        segment: SegmentNumber(segment),
    }
}

/// The state after `entries`, all of which follow.
fn after(entries: &[Entry]) -> State {
    let mut state = State::default();
    state.apply_all(&[folder(), created(A, "orders")]).unwrap();
    state.apply_all(entries).unwrap();
    state
}

fn refusal(state: &State, entry: Entry) -> InvalidEntry {
    let mut tried = state.clone();
    let reason = tried.apply_all(&[entry]).unwrap_err();
    assert_eq!(&tried, state, "a refused entry changes nothing");
    reason
}

fn log(state: &State) -> &LogState {
    state.logs.get(&A).unwrap()
}

#[test]
fn the_folders_entry_comes_first_and_once() {
    let mut state = State::default();
    assert_eq!(
        state.apply_all(&[created(A, "a")]).unwrap_err(),
        InvalidEntry::Folder
    );
    let zero = Entry::Folder {
        id: [1; 16],
        format: 0,
    };
    assert_eq!(state.apply_all(&[zero]).unwrap_err(), InvalidEntry::Folder);
    state.apply_all(&[folder()]).unwrap();
    assert_eq!(refusal(&state, folder()), InvalidEntry::Folder);
}

#[test]
fn boot_epochs_rise() {
    let boot = |epoch| Entry::Boot {
        epoch,
        boot_id: [9; 16],
    };
    let state = after(&[boot(1), boot(5)]);
    for epoch in [0, 4, 5] {
        let reason = refusal(&state, boot(epoch));
        assert_eq!(reason, InvalidEntry::EpochNotRising { epoch, highest: 5 });
    }
}

#[test]
fn a_log_number_is_used_once() {
    let state = after(&[Entry::LogDeleted { log: A }]);
    assert_eq!(state.next_log, LogId(4));
    let used = |log| InvalidEntry::LogNumberUsed {
        log,
        next: LogId(4),
    };
    assert_eq!(refusal(&state, created(A, "orders")), used(A));
    assert_eq!(refusal(&state, created(LogId(0), "orders")), used(LogId(0)));
    let last = LogId(u32::MAX);
    assert_eq!(refusal(&state, created(last, "orders")), used(last));
    let state = after(&[Entry::LogDeleted { log: A }, created(LogId(4), "orders")]);
    assert_eq!(state.log_named("orders").unwrap().0, LogId(4));
}

#[test]
fn names_are_topic_names_and_unique() {
    let state = after(&[]);
    let taken = InvalidEntry::NameTaken {
        name: "orders".to_owned(),
    };
    assert_eq!(refusal(&state, created(LogId(9), "orders")), taken);
    for name in ["", "a/b", "..", " a", "a\n", &"x".repeat(256)] {
        let reason = refusal(&state, created(LogId(9), name));
        assert!(matches!(reason, InvalidEntry::Name { .. }), "{name:?}");
    }
    assert!(state.log_named("other").is_none());
}

#[test]
fn the_open_mark_goes_back_and_forth() {
    let opened = Entry::Opened { log: A };
    let closed = |next_offset| Entry::Closed {
        log: A,
        next_offset,
    };
    let state = after(&[prepared(0, 250)]);
    assert_eq!(
        refusal(&state, closed(0)),
        InvalidEntry::OpenMark { log: A }
    );
    let state = after(&[opened.clone(), prepared(0, 250), sealed(0, 0, 60)]);
    assert_eq!(
        refusal(&state, opened.clone()),
        InvalidEntry::OpenMark { log: A }
    );
    for offset in [59, 251] {
        let reason = refusal(&state, closed(offset));
        assert_eq!(reason, InvalidEntry::Offsets { log: A, offset });
    }
    let state = after(&[
        opened.clone(),
        prepared(0, 250),
        sealed(0, 0, 60),
        closed(60),
    ]);
    assert!(!log(&state).open);
    assert_eq!(log(&state).next_offset, Some(60));
    let state = after(&[opened.clone(), closed(0), opened]);
    let marks = (log(&state).open, log(&state).next_offset);
    assert_eq!(marks, (true, Some(0)), "what is still to come is no lower");
}

#[test]
fn a_segment_number_is_used_once() {
    let state = after(&[prepared(2, 10), dropped(2)]);
    for segment in [0, 2, u32::MAX] {
        let reason = refusal(&state, prepared(segment, 20));
        let (segment, next) = (SegmentNumber(segment), SegmentNumber(3));
        assert_eq!(
            reason,
            InvalidEntry::SegmentNumberUsed {
                log: A,
                segment,
                next
            }
        );
    }
    assert_eq!(
        log(&after(&[prepared(2, 10), prepared(7, 20)])).next_segment,
        SegmentNumber(8)
    );
}

#[test]
fn the_ceiling_outlives_its_segment() {
    let state = after(&[prepared(0, 500), dropped(0), prepared(1, 300), dropped(1)]);
    assert_eq!(log(&state).offset_ceiling, 500);
}

#[test]
fn a_segment_ends_once() {
    let state = after(&[prepared(0, 250), sealed(0, 0, 60)]);
    let finished = InvalidEntry::SegmentFinished {
        log: A,
        segment: SegmentNumber(0),
    };
    assert_eq!(refusal(&state, sealed(0, 0, 60)), finished);
    assert_eq!(refusal(&state, cut(0, (0, 60), &[], 250)), finished);
    let none = InvalidEntry::NoSuchSegment {
        log: A,
        segment: SegmentNumber(1),
    };
    assert_eq!(refusal(&state, sealed(1, 60, 70)), none);
}

#[test]
fn ends_do_not_overlap_and_stay_below_the_ceiling() {
    let state = after(&[
        prepared(0, 100),
        prepared(1, 200),
        prepared(2, 300),
        sealed(1, 50, 70),
    ]);
    let wrong = |offset| InvalidEntry::Offsets { log: A, offset };
    assert_eq!(refusal(&state, sealed(0, 0, 51)), wrong(51));
    assert_eq!(refusal(&state, sealed(2, 69, 80)), wrong(69));
    assert_eq!(refusal(&state, sealed(2, 70, 301)), wrong(301));
    assert_eq!(refusal(&state, sealed(0, 20, 10)), wrong(10));
    state
        .clone()
        .apply_all(&[sealed(0, 0, 50), sealed(2, 70, 300)])
        .unwrap();
}

#[test]
fn an_end_fits_its_file() {
    let mut state = after(&[prepared(0, 100)]);
    let sealed = |end_position, footer_bytes| Entry::Sealed {
        log: A,
        segment: SegmentNumber(0),
        base_offset: 0,
        end_offset: 1,
        end_position,
        footer_bytes,
    };
    let reason = InvalidEntry::Positions {
        log: A,
        segment: SegmentNumber(0),
    };
    assert_eq!(refusal(&state, sealed(801, 200)), reason);
    assert_eq!(refusal(&state, sealed(u32::MAX, u32::MAX)), reason);
    state.apply_all(&[sealed(800, 200)]).unwrap();
}

#[test]
fn a_cut_ends_its_segment_and_takes_out_what_follows() {
    let prepared = [prepared(0, 100), prepared(1, 200), prepared(2, 300)];
    let state = after(&[&prepared[..], &[cut(0, (0, 60), &[1, 2], 900)]].concat());
    let log = log(&state);
    assert_eq!(
        log.segments[&SegmentNumber(0)].end.unwrap().kind,
        EndKind::Cut
    );
    assert!(log.segments[&SegmentNumber(1)].quarantined);
    assert!(log.segments[&SegmentNumber(2)].quarantined);
    assert_eq!(log.offset_ceiling, 900);
    assert_eq!(
        (log.cuts[0].end_offset, log.cuts[0].next_base_offset),
        (60, 900)
    );
    let finished = InvalidEntry::SegmentFinished {
        log: A,
        segment: SegmentNumber(1),
    };
    assert_eq!(refusal(&state, sealed(1, 60, 70)), finished);
}

#[test]
fn a_cut_takes_out_only_what_is_behind_it_and_unfinished() {
    let state = after(&[
        prepared(0, 100),
        prepared(1, 200),
        prepared(2, 300),
        sealed(2, 90, 95),
    ]);
    let finished = |segment| InvalidEntry::SegmentFinished {
        log: A,
        segment: SegmentNumber(segment),
    };
    assert_eq!(refusal(&state, cut(1, (60, 70), &[0], 300)), finished(0));
    assert_eq!(refusal(&state, cut(1, (60, 70), &[1], 300)), finished(1));
    assert_eq!(refusal(&state, cut(0, (0, 60), &[2], 300)), finished(2));
    assert_eq!(refusal(&state, cut(0, (0, 60), &[1, 1], 300)), finished(1));
    let none = InvalidEntry::NoSuchSegment {
        log: A,
        segment: SegmentNumber(3),
    };
    assert_eq!(refusal(&state, cut(0, (0, 60), &[3], 300)), none);
    let back = InvalidEntry::Offsets { log: A, offset: 59 };
    assert_eq!(refusal(&state, cut(0, (0, 60), &[1], 59)), back);
}

#[test]
fn a_cut_is_forgotten_with_its_segments_unless_it_may_have_been_acknowledged() {
    let mut suspect = cut(0, (0, 60), &[1], 900);
    if let Entry::Cut {
        possibly_acknowledged,
        ..
    } = &mut suspect
    {
        *possibly_acknowledged = true;
    }
    for (entry, left) in [(cut(0, (0, 60), &[1], 900), 0), (suspect, 1)] {
        let mut state = after(&[prepared(0, 100), prepared(1, 200), entry, dropped(0)]);
        assert_eq!(log(&state).cuts.len(), 1, "a quarantined segment is left");
        state.apply_all(&[dropped(1)]).unwrap();
        assert_eq!(log(&state).cuts.len(), left);
    }
}

#[test]
fn a_gap_is_kept_once_and_goes_with_its_segment() {
    let found = gap(0, (10, 20), (100, 200));
    let state = after(&[prepared(0, 100), found.clone(), found.clone()]);
    assert_eq!(log(&state).damage.len(), 1);
    let offsets = InvalidEntry::Offsets { log: A, offset: 10 };
    assert_eq!(refusal(&state, gap(0, (10, 10), (100, 200))), offsets);
    let positions = InvalidEntry::Positions {
        log: A,
        segment: SegmentNumber(0),
    };
    assert_eq!(refusal(&state, gap(0, (10, 20), (200, 200))), positions);
    assert_eq!(refusal(&state, gap(0, (10, 20), (200, 1001))), positions);
    assert!(
        log(&after(&[prepared(0, 100), found, dropped(0)]))
            .damage
            .is_empty()
    );
}

#[test]
fn entries_about_a_log_that_is_not_there_are_refused() {
    let state = after(&[Entry::LogDeleted { log: A }]);
    let none = InvalidEntry::NoSuchLog { log: A };
    for entry in [
        Entry::LogDeleted { log: A },
        Entry::Opened { log: A },
        Entry::Closed {
            log: A,
            next_offset: 0,
        },
        prepared(0, 1),
        sealed(0, 0, 1),
        cut(0, (0, 1), &[], 1),
        gap(0, (0, 1), (0, 1)),
        dropped(0),
    ] {
        assert_eq!(refusal(&state, entry), none);
    }
}

proptest! {
    /// Groups are applied whole or not at all, can be taken back, and a checkpoint says the same.
    #[test]
    fn groups_are_all_or_none(commits in samples::commits()) {
        let mut state = after(&[]);
        for commit in commits {
            let before = state.clone();
            match state.apply_all(&commit) {
                Err(_) => prop_assert_eq!(&state, &before),
                Ok(undo) => {
                    let applied = state.clone();
                    state.take_back(undo);
                    prop_assert_eq!(&state, &before);
                    state = applied;
                }
            }
            let mut restored = State::default();
            for line in state.checkpoint() {
                restored.restore(line).unwrap();
            }
            prop_assert_eq!(&restored, &state);
        }
    }

    /// Whatever a file says that passed its checksums, it is refused or taken, never a panic.
    #[test]
    fn lines_in_any_order_do_no_harm(lines in prop::collection::vec(samples::line(), 0..40)) {
        let mut state = after(&[]);
        for line in lines {
            let before = state.clone();
            if state.restore(line).is_err() {
                prop_assert_eq!(&state, &before);
            }
        }
    }
}
