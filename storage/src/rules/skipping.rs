//! What readers fetch: those that are told to go on further ahead, and those that go through in order.

use std::time::{Duration, Instant};

use super::*;
use crate::crash::Dice;

/// More than a segment holds.
const RECORDS: u64 = 500;
const SEGMENT_RECORDS: u64 = (1 << 20) / 3064;
const BODY_BYTES: usize = 3000;

const MANY: u64 = 6000;
const MANY_BYTES: usize = 2000;

fn body(offset: u64) -> Vec<u8> {
    let mut body = vec![7; BODY_BYTES];
    body[..8].copy_from_slice(&offset.to_le_bytes());
    body
}

/// Half of the records in segments of an earlier run, half in this one's.
fn two_runs() -> (HeapFolder, Store, Arc<Log>) {
    let folder = HeapFolder::new();
    let mut end = 0;
    loop {
        let store = open(&folder);
        let log = log_of(&store, Durability::Synced);
        let mut appender = Appender::new(&log);
        for offset in end..end + RECORDS {
            assert_eq!(publish_synced(&mut appender, &body(offset)).base.0, offset);
        }
        end += RECORDS;
        if end == 2 * RECORDS {
            return (folder, store, log);
        }
        store.close().unwrap();
    }
}

/// The record at `offset`, with frames up to `bytes` behind it.
fn take(reader: &mut LogReader, offset: u64, bytes: u32) {
    let chunk = park_until(|cx| reader.poll_next(bytes, cx)).unwrap();
    let Chunk::Frames(slice) = chunk else {
        panic!("{offset}: {chunk:?}");
    };
    assert_eq!(slice.first_offset(), Offset(offset));
    assert_eq!(slice.as_bytes()[64..][..BODY_BYTES], body(offset));
}

#[test]
fn a_reader_that_skips_ahead_finds_each_record() {
    let (_folder, _store, log) = two_runs();
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut reader = LogReader::new(&log, Start::Earliest);
        loop {
            let far = 1 << dice.below(7);
            let next = reader.next_offset().0 + dice.below(far);
            if next >= 2 * RECORDS {
                break;
            }
            reader.skip_to(Offset(next));
            take(&mut reader, next, 1 + 6000 * dice.below(4) as u32);
        }
    }
}

#[test]
fn a_reader_that_skips_ahead_fetches_nothing_again() {
    let (folder, store, log) = two_runs();
    store.close().unwrap();
    drop(log);
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut reader = LogReader::new(&log, Start::Earliest);
    let fetches = || folder.count(Operation::Populate, ".seg");
    let before = fetches();
    for offset in (0..RECORDS).step_by(3) {
        reader.skip_to(Offset(offset));
        take(&mut reader, offset, 1);
    }
    // Each piece of a segment once: it has 20 records and more.
    let most = RECORDS / 20;
    assert!(fetches() - before <= most, "{}", fetches() - before);
}

#[test]
fn pages_may_have_left_memory_once_publishers_went_on_to_another_segment() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let mut publish = |offsets: std::ops::Range<u64>| {
        for offset in offsets {
            publish_synced(&mut appender, &body(offset));
        }
    };
    let asked = || folder.count(Operation::Resident, "");
    let mut reader = LogReader::new(&log, Start::Earliest);
    publish(0..5);
    take(&mut reader, 0, 1);
    assert_eq!(asked(), 0, "a publisher is still there");
    publish(5..SEGMENT_RECORDS + 10);
    take(&mut reader, 1, 1);
    assert_eq!(asked(), 1);
}

/// A store whose earlier run wrote 6,000 records, three pieces of what is fetched at once, and their file.
fn many_records() -> (HeapFolder, impl Fn() -> Store, String) {
    records_of_an_earlier_run(MANY, MANY_BYTES)
}

fn records_of_an_earlier_run(
    count: u64,
    body_bytes: usize,
) -> (HeapFolder, impl Fn() -> Store, String) {
    let folder = HeapFolder::new();
    let opened = folder.clone();
    let open = move || {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: 16 << 20,
            segment_bytes_max: 16 << 20,
        };
        Store::open_folder(Arc::new(opened.clone()), &options).unwrap()
    };
    let store = open();
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for _ in 0..count {
        append(&mut appender, &vec![5; body_bytes]).unwrap();
    }
    reach(&log, Level::Synced, Offset(count)).unwrap();
    let name = file(&log, FIRST);
    drop(appender);
    drop(log);
    store.close().unwrap();
    (folder, open, name)
}

fn take_one(reader: &mut LogReader, offset: u64) {
    let chunk = park_until(|cx| reader.poll_next(1, cx)).unwrap();
    let Chunk::Frames(slice) = chunk else {
        panic!("{chunk:?}");
    };
    assert_eq!(slice.first_offset(), Offset(offset));
}

/// The index finds no frame, so the reader goes there from the start, more than it fetches at once.
#[test]
fn a_reader_gets_far_into_a_segment_whose_index_is_damaged() {
    let (folder, open, name) = many_records();
    // The footer's first page.
    let end = MANY as usize * (64 + MANY_BYTES);
    let footer = (FRAMES_START as usize + end + 64).next_multiple_of(4096);
    folder.edit(&name, |bytes| bytes[footer + 9] ^= 1).unwrap();
    let store = open();
    let log = store.log(&topic()).unwrap();
    for from in [5000, 1] {
        let mut reader = LogReader::new(&log, Start::Offset(Offset(from)));
        for offset in [from, from + 1, MANY - 1] {
            reader.skip_to(Offset(offset));
            take_one(&mut reader, offset);
        }
    }
}

#[test]
fn what_a_reader_reads_in_order_is_fetched_ahead_and_once() {
    let (folder, open, _name) = many_records();
    let store = open();
    let log = store.log(&topic()).unwrap();
    let fetches = || folder.count(Operation::Populate, ".seg");
    let mut reader = LogReader::new(&log, Start::Earliest);
    take_one(&mut reader, 0);
    // The index, and the first piece; nobody knows yet that the reader goes on.
    let first = fetches();
    let mut all = first;
    for offset in 1..MANY {
        take_one(&mut reader, offset);
        if fetches() > first && all == first {
            // In the second piece the third is fetched though nobody asks for it.
            let give_up = Instant::now() + Duration::from_secs(20);
            while fetches() == first + 1 && Instant::now() < give_up {
                std::thread::yield_now();
            }
            all = fetches();
            assert_eq!(all, first + 2, "at {offset}");
        }
    }
    let pieces = (MANY * MANY_BYTES as u64).div_ceil(4 << 20);
    assert_eq!(fetches(), first + pieces - 1, "each piece once");
}

/// A frame begins in one piece and ends in the next.
#[test]
fn pages_are_brought_in_once_though_frames_lie_across_pieces() {
    const COUNT: u64 = 120;
    const BYTES: usize = 100_000;
    let (folder, open, _name) = records_of_an_earlier_run(COUNT, BYTES);
    let store = open();
    let log = store.log(&topic()).unwrap();
    let before = folder.populated_bytes();
    let mut reader = LogReader::new(&log, Start::Earliest);
    for offset in 0..COUNT {
        take_one(&mut reader, offset);
    }
    let brought_in = folder.populated_bytes() - before;
    let all = COUNT * BYTES as u64;
    let pieces = all.div_ceil(4 << 20);
    // Each piece's last frame is asked for as a whole, and there are headers and an index.
    assert!(brought_in >= all, "{brought_in} bytes of {all}");
    assert!(
        brought_in < all + (pieces + 1) * 2 * BYTES as u64,
        "{brought_in} bytes for {all}"
    );
}

/// A store of two records longer than a piece, the first one's body damaged.
fn damage_before_a_long_frame() -> (HeapFolder, Store) {
    let (folder, open, name) = records_of_an_earlier_run(2, 5 << 20);
    let place = FRAMES_START as usize + 1000;
    folder.edit(&name, |bytes| bytes[place] ^= 1).unwrap();
    (folder, open())
}

/// What the reader is told is lost, and whether that may pass.
fn gap_of(reader: &mut LogReader) -> (Offset, Offset, bool) {
    let chunk = park_until(|cx| reader.poll_next(1, cx)).unwrap();
    let Chunk::Gap(gap) = chunk else {
        panic!("{chunk:?}");
    };
    (gap.first_offset, gap.next_offset, reader.gap_may_pass())
}

#[test]
fn a_frame_longer_than_a_piece_is_found_behind_damage() {
    let (_folder, store) = damage_before_a_long_frame();
    let log = store.log(&topic()).unwrap();
    let mut reader = LogReader::new(&log, Start::Earliest);
    assert_eq!(gap_of(&mut reader), (Offset(0), Offset(1), false));
    take_one(&mut reader, 1);
}

/// What can't be read now is no damage, though it lies behind some.
#[test]
fn a_frame_that_cannot_be_read_now_behind_damage_may_come_back() {
    let (folder, store) = damage_before_a_long_frame();
    let log = store.log(&topic()).unwrap();
    let asked = || folder.count(Operation::Populate, ".seg");
    let before = asked();
    let mut whole = LogReader::new(&log, Start::Earliest);
    assert_eq!(gap_of(&mut whole), (Offset(0), Offset(1), false));
    let all = asked() - before;
    let mut seen = Vec::new();
    for nth in 1..=all {
        let mut reader = LogReader::new(&log, Start::Earliest);
        // All of the range, and then its first page.
        folder.fail(Operation::Populate, ".seg", nth, Failure::Device);
        folder.fail(Operation::Populate, ".seg", nth + 1, Failure::Device);
        seen.push(gap_of(&mut reader));
        folder.heal();
    }
    // The one that brings in the second frame.
    assert!(seen.contains(&(Offset(0), Offset(2), true)), "{seen:?}");
    let lost = |gap: &(Offset, Offset, bool)| gap.1 == Offset(2) && !gap.2;
    assert!(!seen.iter().any(lost), "{seen:?}");
}
