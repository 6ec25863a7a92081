//! Segment files that are shorter or longer than they were, and what is left when a store is closed.

use std::path::Path;

use super::*;
use crate::layout::SEGMENT_BYTES_MAX;

const FRAME_BYTES: usize = 64 + 1000;

/// A synced log with ten records of 1000 bytes; the folder as a kill leaves it, or a clean stop.
fn ten_records(close: bool) -> (HeapFolder, String) {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for number in 0..10_u8 {
        publish_synced(&mut appender, &[number + 1; 1000]);
    }
    let name = file(&log, FIRST);
    let killed = folder.duplicate();
    drop(store);
    (if close { folder } else { killed }, name)
}

/// The offsets that are read of the ten, and the gaps between them.
fn left(folder: &HeapFolder) -> (Vec<u64>, Vec<(u64, u64)>) {
    let store = open(folder);
    let (records, gaps) = read(&store.log(&topic()).unwrap(), Offset(10));
    (records.iter().map(|(offset, _)| *offset).collect(), gaps)
}

/// Cut off at a frame's end, inside its padding or body, or inside the next one's header.
fn cuts() -> impl Iterator<Item = (usize, u64)> {
    let end = FRAMES_START as usize + 4 * FRAME_BYTES;
    [(0, 4), (1, 4), (63, 4), (64, 4), (FRAME_BYTES - 1, 4)]
        .into_iter()
        .map(move |(more, kept)| (end + more, kept))
}

#[test]
fn an_unfinished_segment_that_lost_its_end_keeps_the_frames_before_it() {
    let (folder, name) = ten_records(false);
    for (len_bytes, kept) in cuts() {
        let folder = folder.duplicate();
        folder
            .edit(&name, |bytes| bytes.truncate(len_bytes))
            .unwrap();
        let (records, gaps) = left(&folder);
        assert_eq!(records, (0..kept).collect::<Vec<_>>(), "{len_bytes} bytes");
        assert_eq!(
            gaps.first().map(|gap| gap.0),
            Some(kept),
            "{len_bytes} bytes"
        );
        // And so the next time.
        assert_eq!(left(&folder).0, records, "{len_bytes} bytes");
    }
}

#[test]
fn a_finished_segment_that_lost_its_end_keeps_the_frames_before_it() {
    let (folder, name) = ten_records(true);
    for (len_bytes, kept) in cuts() {
        let folder = folder.duplicate();
        folder
            .edit(&name, |bytes| bytes.truncate(len_bytes))
            .unwrap();
        let (records, gaps) = left(&folder);
        assert_eq!(records, (0..kept).collect::<Vec<_>>(), "{len_bytes} bytes");
        assert_eq!(gaps, [(kept, 10)], "{len_bytes} bytes");
    }
}

/// Made ready, never written: without it the log is whole.
#[test]
fn a_missing_segment_behind_the_end_takes_nothing_with_it() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for number in 0..4_u8 {
        publish_synced(&mut appender, &[number; 100_000]);
    }
    let segments = || state(&folder).logs.values().next().unwrap().segments.len();
    while segments() < 2 {
        std::thread::yield_now();
    }
    let standby = file(&log, SegmentNumber(2));
    let left = folder.duplicate();
    left.remove(&standby).unwrap();
    let store = open(&left);
    let log = store.log(&topic()).unwrap();
    assert_eq!(log.poisoned(), None);
    let (records, gaps) = read(&log, Offset(4));
    assert_eq!((records.len(), gaps), (4, vec![]));
    publish_synced(&mut Appender::new(&log), b"more");
}

/// Copies a data folder, its lock aside, as a kill leaves it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Positions in a segment can't be as high: it is told as damage, and the broker starts.
#[test]
fn a_file_that_no_segment_can_be_as_long_as_is_not_mapped() {
    for unclean in [false, true] {
        let (written, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(written.path(), &StoreOptions::default()).unwrap();
        let log = log_of(&store, Durability::Synced);
        publish_synced(&mut Appender::new(&log), b"there");
        let name = file(&log, FIRST);
        copy(written.path(), killed.path());
        drop((log, store));
        let path = if unclean {
            killed.path()
        } else {
            written.path()
        };
        let longer = std::fs::OpenOptions::new()
            .write(true)
            .open(path.join(name))
            .unwrap();
        longer.set_len(u64::from(SEGMENT_BYTES_MAX) + 4096).unwrap();
        let store = Store::open(path, &StoreOptions::default()).unwrap();
        let log = store.log(&topic()).unwrap();
        let reason = log.poisoned().map(|poisoned| poisoned.to_string());
        if unclean {
            assert!(reason.unwrap().contains("which no segment has"));
        } else {
            let (records, gaps) = read(&log, Offset(1));
            assert_eq!((records.len(), gaps, reason), (0, vec![(0, 1)], None));
        }
    }
}

/// Nobody would take it off the list again, and the list and the log would keep each other alive.
#[test]
fn what_is_announced_after_the_close_keeps_no_log_alive() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let fields = PublisherFields::single(2);
    while appender
        .try_append_with(&fields, |room| room.put(b"by"))
        .is_err()
    {
        park_until(|cx| appender.poll_room(cx));
    }
    store.close().unwrap();
    appender.announce();
    let left = Arc::downgrade(&log);
    drop((log, appender, store));
    assert!(left.upgrade().is_none(), "the log is still listed");
}
