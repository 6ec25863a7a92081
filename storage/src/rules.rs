//! The rules of the log and of syncing, each with the test that breaks when the rule does. The ones
//! about interleavings (COMMIT-1, L1, L5, L6) are models: see `models`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};

use millstream_protocol::frame::{FrameKind, PublisherFields, walk_stored};
use millstream_protocol::{Durability, Offset, Start, TopicName};

use crate::appender::{AppendError, Appended, Appender, LevelWait};
use crate::cold;
use crate::folder::Folder;
use crate::footer;
use crate::heap::{Failure, HeapFolder, Operation};
use crate::layout::{FRAMES_START, SLOT_POSITIONS, footer_position, segment_name};
use crate::log::{Level, Log};
use crate::manifest::{Manifest, SegmentNumber, State};
use crate::park::park_until;
use crate::reader::{Delivery, LogReader};
use crate::recovery::LogRecovery;
use crate::segment::TryClaim;
use crate::slot::Slot;
use crate::store::{Store, StoreOptions};

const FIRST: SegmentNumber = SegmentNumber(1);

fn open(folder: &HeapFolder) -> Store {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    };
    Store::open_folder(Arc::new(folder.clone()), &options).unwrap()
}

fn topic() -> TopicName {
    TopicName::parse("t").unwrap()
}

fn log_of(store: &Store, durability: Durability) -> Arc<Log> {
    store
        .create_log(&topic(), durability)
        .unwrap_or_else(|_| store.log(&topic()).unwrap())
}

fn append(appender: &mut Appender, body: &[u8]) -> Result<Appended, AppendError> {
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    loop {
        match appender.try_append_with(&fields, |room| room.put(body)) {
            Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
            done => {
                appender.announce();
                return done;
            }
        }
    }
}

fn reach(log: &Arc<Log>, level: Level, end: Offset) -> Result<(), AppendError> {
    let mut wait = LevelWait::new(log, level, end);
    park_until(|cx| wait.poll(cx))
}

fn publish_synced(appender: &mut Appender, body: &[u8]) -> Appended {
    let appended = append(appender, body).unwrap();
    reach(appender.log(), Level::Synced, appended.end).unwrap();
    appended
}

/// Offset and body of each record.
type Records = Vec<(u64, Vec<u8>)>;

/// Offset and body of every record, and every gap, that a reader is given up to `end`.
fn read(log: &Arc<Log>, end: Offset) -> (Records, Vec<(u64, u64)>) {
    let mut reader = LogReader::new(log, Start::Earliest);
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    while reader.next_offset() < end {
        match park_until(|cx| reader.poll_next(1 << 20, cx)).unwrap() {
            Delivery::Gap(gap) => gaps.push((gap.first_offset.0, gap.next_offset.0)),
            Delivery::Frames(slice) => {
                let (mut bytes, mut place) = (slice.as_bytes(), slice.place());
                while !bytes.is_empty() {
                    let frame =
                        walk_stored(bytes, place.seed, place.position, place.nonce_half).unwrap();
                    if frame.header().fields.kind == FrameKind::Single {
                        records.push((frame.header().base_offset.0, frame.body().to_vec()));
                    }
                    place.position += frame.frame_bytes();
                    bytes = &bytes[frame.frame_bytes() as usize..];
                }
            }
        }
    }
    (records, gaps)
}

fn state(folder: &HeapFolder) -> State {
    Manifest::inspect(folder).unwrap().0
}

fn file(log: &Log, segment: SegmentNumber) -> String {
    segment_name(log.identity().id, segment)
}

/// Opens what a kill at this moment leaves behind, and gives what recovery says of the topic.
fn after_kill(folder: &HeapFolder) -> (HeapFolder, Store, LogRecovery) {
    let left = folder.duplicate();
    let store = open(&left);
    let report = store.recoveries()[0].clone();
    (left, store, report)
}

#[test]
fn l1_a_record_behind_a_hole_is_neither_acknowledged_nor_kept() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    let first = append(&mut appender, b"before").unwrap();
    let segment = log.chain().live_behind(None).unwrap();
    let TryClaim::Claim(claim) = segment.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    let behind = append(&mut appender, b"behind").unwrap();
    assert!(appender.is_stored(first.end));
    assert!(!appender.is_stored(behind.end));
    assert_eq!(log.committed(), first.end);

    let (_, reopened, report) = after_kill(&folder);
    assert_eq!(report.end_offset, first.end);
    assert!(report.cut_bytes > 0 && !report.possibly_acknowledged);
    let (records, _) = read(&reopened.log(&topic()).unwrap(), first.end);
    assert_eq!(records, [(0, b"before".to_vec())]);

    drop(claim);
    assert!(
        appender.is_stored(behind.end),
        "a void frame closes the hole"
    );
}

#[test]
fn l2_synced_does_not_pass_a_seal_that_is_not_on_disk() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let body = vec![1; 300_000];
    let mut end = publish_synced(&mut appender, &body).end;
    // From here on the first segment can't be synced; the second could.
    folder.fail(Operation::Sync, "00000001.seg", 1, Failure::Device);
    let mut last = end;
    for _ in 0..6 {
        match append(&mut appender, &body) {
            Ok(appended) => last = appended.end,
            Err(AppendError::Poisoned(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(reach(&log, Level::Synced, last).is_err());
    assert_eq!(log.synced(), end, "nothing behind the failed sync");
    end = log.synced();
    assert_eq!(
        read(&log, end).0.len(),
        1,
        "reading below the watermark goes on"
    );
}

#[test]
fn l3_what_a_cut_dropped_never_comes_back() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    append(&mut appender, b"kept").unwrap();
    let segment = log.chain().live_behind(None).unwrap();
    let TryClaim::Claim(claim) = segment.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    // Behind the hole: more in this segment, and in the next.
    while log.chain().live_behind(Some(FIRST)).is_none() {
        append(&mut appender, &[9; 200_000]).unwrap();
    }
    append(&mut appender, &[9; 200_000]).unwrap();
    let (left, reopened, report) = after_kill(&folder);
    drop(claim);
    assert_eq!(report.end_offset, Offset(1));
    let first_file = file(&log, FIRST);
    let cut_bytes = left.read_file(&first_file).unwrap();
    let cut = state(&left).logs.values().next().unwrap().cuts[0].clone();
    assert_eq!(
        (cut.segment, cut.quarantined),
        (FIRST, vec![SegmentNumber(2)])
    );
    assert_eq!(
        left.list("quarantine").unwrap().len(),
        1,
        "a copy of what was cut"
    );

    let log = reopened.log(&topic()).unwrap();
    let mut appender = Appender::new(&log);
    let new = append(&mut appender, b"new").unwrap();
    let expected = vec![(0, b"kept".to_vec()), (new.base.0, b"new".to_vec())];
    assert_eq!(read(&log, new.end).0, expected);
    assert_eq!(
        left.read_file(&first_file).unwrap(),
        cut_bytes,
        "never written again"
    );
    reopened.close().unwrap();
    let again = open(&left);
    assert!(again.recoveries().is_empty());
    assert_eq!(read(&again.log(&topic()).unwrap(), new.end).0, expected);
}

#[test]
fn l4_offsets_jump_past_all_that_can_have_been_given_out() {
    let mut folder = HeapFolder::new();
    let mut given = BTreeSet::new();
    let mut visible = 0;
    for round in 0..4 {
        let store = open(&folder);
        assert_eq!(store.recoveries().len(), usize::from(round > 0));
        let log = log_of(&store, Durability::Synced);
        let mut appender = Appender::new(&log);
        for _ in 0..5 {
            let appended = publish_synced(&mut appender, b"x");
            assert!(given.insert(appended.base.0), "no offset means two records");
            visible += 1;
        }
        // Given out, and lost with the kill.
        let segment = log.chain().live_behind(None).unwrap();
        let TryClaim::Claim(claim) = segment.try_claim(64, 1000, 1) else {
            panic!("there is room");
        };
        let lost = claim.base_offset().0;
        assert!(given.iter().all(|offset| *offset < lost));
        given.extend(lost..lost + 1000);
        folder = folder.duplicate();
        drop(claim);
    }
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    let (records, gaps) = read(&log, Offset(*given.last().unwrap() - 1000));
    assert_eq!(records.len(), visible);
    assert_eq!(gaps.len(), 3, "each jump is told as a range");
}

#[test]
fn l4_a_clean_stop_leaves_no_jump() {
    let folder = HeapFolder::new();
    for round in 0..3 {
        let store = open(&folder);
        let log = log_of(&store, Durability::Synced);
        let appended = publish_synced(&mut Appender::new(&log), b"x");
        assert_eq!(appended.base, Offset(round));
        store.close().unwrap();
    }
}

#[test]
fn l5_a_claim_is_filled_or_becomes_a_void_without_a_producer() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    append(&mut appender, b"a").unwrap();
    let fields = PublisherFields {
        record_count: 3,
        ..PublisherFields::single(100)
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        appender.try_append_with(&fields, |_| panic!("in the middle of a claim"))
    }));
    assert!(panicked.is_err());
    let after = append(&mut appender, b"b").unwrap();
    assert_eq!(after.base, Offset(4), "the void keeps its three offsets");
    assert!(appender.is_stored(after.end));
    let segment = log.chain().live_behind(None).unwrap();
    let mut run = segment.first_run();
    let mut kinds = Vec::new();
    let mut position = run.end();
    while let crate::sync::Extend::Taken(bytes) = run.extend_if(|frame| {
        let frame = walk_stored(
            frame,
            segment.seed(),
            position,
            segment.region().nonce_half(),
        )
        .unwrap();
        let fields = frame.header().fields;
        assert!(fields.kind != FrameKind::Void || fields.producer.is_none());
        kinds.push(fields.kind);
        true
    }) {
        position += bytes;
    }
    assert_eq!(
        kinds,
        [FrameKind::Single, FrameKind::Void, FrameKind::Single]
    );
}

#[test]
fn l5_publishing_inside_a_claim_on_the_same_log_is_refused() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut outer = Appender::new(&log);
    let mut inner = Appender::new(&log);
    append(&mut outer, b"a").unwrap();
    let mut refused = None;
    outer
        .try_append_with(&PublisherFields::single(1), |room| {
            room.put(b"b");
            refused = Some(inner.try_append_with(&PublisherFields::single(1), |r| r.put(b"c")));
        })
        .unwrap();
    assert_eq!(refused, Some(Err(AppendError::InsideClaim)));
    append(&mut inner, b"d").unwrap();
}

#[test]
fn l7_each_use_has_a_nonce_of_its_own_and_stale_frames_do_not_read_as_frames() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for _ in 0..8 {
        publish_synced(&mut appender, &[5; 200_000]);
    }
    let nonces: Vec<u64> = state(&folder)
        .logs
        .values()
        .next()
        .unwrap()
        .segments
        .values()
        .map(|s| s.nonce)
        .collect();
    assert!(nonces.len() >= 2);
    assert_eq!(nonces.iter().collect::<BTreeSet<_>>().len(), nonces.len());
    // As if the second segment's file had been used before: frames of the first where it is empty.
    let left = folder.duplicate();
    let stale = left.read_file(&file(&log, FIRST)).unwrap();
    let last = *state(&left)
        .logs
        .values()
        .next()
        .unwrap()
        .segments
        .keys()
        .next_back()
        .unwrap();
    let start = FRAMES_START as usize;
    left.edit(&file(&log, last), |bytes| {
        let free = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .unwrap()
            .max(start)
            + 1;
        let from = free.next_multiple_of(8);
        let room = (bytes.len() - from).min(stale.len() - start);
        bytes[from..from + room].copy_from_slice(&stale[start..start + room]);
        // The former use's slots as well.
        for at in SLOT_POSITIONS {
            let slot = at as usize..at as usize + 64;
            let own = Slot::decode(&bytes[slot.clone()], nonces[nonces.len() - 1]);
            if own.is_none() {
                bytes[slot.clone()].copy_from_slice(&stale[slot]);
            }
        }
    })
    .unwrap();
    let reopened = open(&left);
    let report = &reopened.recoveries()[0];
    assert_eq!(
        report.end_offset,
        Offset(8),
        "what was published, and no stale frame"
    );
    assert!(report.damaged.is_empty() && !report.possibly_acknowledged);
}

#[test]
fn s1_a_failed_sync_is_never_repeated_and_refuses_publishing() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let good = publish_synced(&mut appender, b"good");
    folder.fail(Operation::Sync, "00000001.seg", 1, Failure::Device);
    let lost = append(&mut appender, b"unknown").unwrap();
    assert!(matches!(
        reach(&log, Level::Synced, lost.end),
        Err(AppendError::Poisoned(_))
    ));
    let syncs = folder.count(Operation::Sync, "00000001.seg");
    for _ in 0..3 {
        assert!(matches!(
            append(&mut appender, b"x"),
            Err(AppendError::Poisoned(_))
        ));
    }
    log.prove_idle();
    assert!(store.close().is_err(), "it can't be called clean");
    assert_eq!(folder.count(Operation::Sync, "00000001.seg"), syncs);
    assert_eq!(log.synced(), good.end);
    assert!(
        state(&folder).logs.values().next().unwrap().open,
        "S3: it keeps its open mark"
    );
}

/// A synced log with ten records of 1000 bytes; the folder as a kill leaves it, the last slot, and
/// the positions of the frames.
fn ten_records() -> (HeapFolder, String, Slot, Vec<usize>) {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    for number in 0..10_u8 {
        publish_synced(&mut appender, &[number + 1; 1000]);
    }
    let name = file(&log, FIRST);
    let left = folder.duplicate();
    let bytes = left.read_file(&name).unwrap();
    let pages = SLOT_POSITIONS.map(|at| &bytes[at as usize..]);
    let nonce = state(&left).logs.values().next().unwrap().segments[&FIRST].nonce;
    let slot = Slot::newest(pages, nonce).unwrap();
    let frame_bytes = 64 + 1000;
    let starts = (0..10)
        .map(|n| FRAMES_START as usize + n * frame_bytes)
        .collect();
    drop(store);
    (left, name, slot, starts)
}

fn flip(folder: &HeapFolder, name: &str, at: usize) {
    folder.edit(name, |bytes| bytes[at] ^= 0x10).unwrap();
}

#[test]
fn s2_damage_below_proven_is_a_gap_and_cuts_nothing() {
    let (folder, name, slot, starts) = ten_records();
    assert!(slot.proven.position as usize > starts[4]);
    flip(&folder, &name, starts[2] + 100);
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert_eq!(report.damaged, [(Offset(2), Offset(slot.proven.offset))]);
    assert_eq!((report.cut_bytes, report.end_offset), (0, Offset(10)));
    let (records, gaps) = read(&store.log(&topic()).unwrap(), Offset(10));
    let lost = 2..slot.proven.offset;
    assert_eq!(gaps, [(lost.start, lost.end)]);
    let kept: Vec<u64> = records.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(
        kept,
        (0..10)
            .filter(|offset| !lost.contains(offset))
            .collect::<Vec<_>>()
    );
}

#[test]
fn s2_damage_between_the_watermarks_is_cut_and_told_as_possibly_acknowledged() {
    let (folder, name, slot, starts) = ten_records();
    let at = starts
        .iter()
        .position(|start| *start >= slot.proven.position as usize)
        .unwrap();
    assert!((starts[at] as u64) < u64::from(slot.attempted.position));
    flip(&folder, &name, starts[at] + 100);
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert!(report.possibly_acknowledged && report.cut_bytes > 0);
    assert_eq!(report.end_offset, Offset(at as u64));
}

#[test]
fn s2_damage_past_attempted_is_a_tear_nobody_was_promised() {
    let (folder, name, slot, _) = ten_records();
    folder
        .edit(&name, |bytes| {
            let tail = slot.attempted.position as usize;
            bytes[tail..tail + 300].fill(0xAB);
        })
        .unwrap();
    let store = open(&folder);
    let report = &store.recoveries()[0];
    assert!(!report.possibly_acknowledged);
    assert_eq!((report.cut_bytes, report.end_offset), (300, Offset(10)));
}

#[test]
fn s2_an_idle_log_is_synced_once_more_so_that_the_proof_is_on_disk() {
    let folder = HeapFolder::new();
    let (synced, hear) = mpsc::channel();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    publish_synced(&mut appender, b"warm");
    let hears = folder.clone();
    let name = file(&log, FIRST);
    let nonce = state(&folder).logs.values().next().unwrap().segments[&FIRST].nonce;
    folder.on_sync(move |_| synced.send(()).unwrap_or_default());
    let last = publish_synced(&mut appender, b"last");
    // The sync of the record, then one more that nobody asked for.
    loop {
        hear.recv().unwrap();
        let bytes = hears.read_file(&name).unwrap();
        let slot = Slot::newest(SLOT_POSITIONS.map(|at| &bytes[at as usize..]), nonce).unwrap();
        if slot.proven.offset == last.end.0 {
            break;
        }
    }
}

#[test]
fn s3_the_open_mark_is_on_disk_before_the_first_write_and_cleared_by_a_clean_stop() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    assert!(!state(&folder).logs.values().next().unwrap().open);
    publish_synced(&mut Appender::new(&log), b"x");
    assert!(
        state(&folder.after_power_loss())
            .logs
            .values()
            .next()
            .unwrap()
            .open
    );
    store.close().unwrap();
    let closed = state(&folder.after_power_loss());
    let log_state = closed.logs.values().next().unwrap();
    assert!(!log_state.open);
    assert_eq!(log_state.next_offset, Some(1));
}

#[test]
fn s3_what_recovery_keeps_is_synced_before_it_is_served_and_a_second_one_changes_nothing() {
    let (folder, name, _, _) = ten_records();
    let before = folder.count(Operation::Sync, "00000001.seg");
    drop(open(&folder));
    assert!(
        folder.count(Operation::Sync, "00000001.seg") > before,
        "written again and synced"
    );
    let bytes = folder.read_file(&name).unwrap();
    let store = open(&folder);
    assert!(store.recoveries().is_empty());
    assert_eq!(read(&store.log(&topic()).unwrap(), Offset(10)).0.len(), 10);
    assert_eq!(folder.read_file(&name).unwrap(), bytes);
}

#[test]
fn s3_a_recovery_whose_sync_fails_serves_nothing_of_it() {
    let (folder, _, _, _) = ten_records();
    folder.fail(Operation::Sync, "00000001.seg", 1, Failure::Device);
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    assert!(log.poisoned().is_some());
    assert_eq!(log.high_watermark(), Offset(0));
    drop(store);
    let store = open(&folder);
    assert_eq!(
        store.recoveries()[0].end_offset,
        Offset(10),
        "the next start tries again"
    );
}

#[test]
fn s4_a_synced_topic_is_synced_whoever_waits() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let (synced, hear) = mpsc::channel();
    let watched = Arc::clone(&log);
    folder.on_sync(move |name| {
        if name.ends_with("00000001.seg") {
            synced.send(watched.committed()).unwrap_or_default();
        }
    });
    let mut appender = Appender::new(&log);
    append(&mut appender, b"nobody waits for this").unwrap();
    while hear.recv().unwrap() < Offset(1) {}
}

#[test]
fn s4_a_stored_topic_holds_publishers_where_the_disk_is_slower_than_the_bound() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    append(&mut appender, b"warm").unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let slow = log.identity().id;
    folder.on_sync(move |name| {
        // Syncs of frames wait until the test lets them go; making segments does not.
        let number = name
            .trim_end_matches(".seg")
            .rsplit('/')
            .next()
            .unwrap_or_default();
        if name.starts_with(&format!("log-{:08}", slow.0)) && number == "00000001" {
            let _ = gate.lock().unwrap().recv();
        }
    });
    let body = vec![3; 500_000];
    let fields = PublisherFields::single(500_000);
    let mut appended_bytes = 0_u64;
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match appender.try_append_with(&fields, |room| room.put(&body)) {
            Ok(_) => {
                appended_bytes += 500_064;
                appender.announce();
                assert!(
                    appended_bytes < crate::log::STORED_UNSYNCED_BYTES_MAX + 2_000_000,
                    "nobody was held"
                );
            }
            Err(AppendError::Rotating) if log.gate_flags() != 0 => break,
            Err(AppendError::Rotating) => {
                if appender.poll_room(&mut cx) == Poll::Pending {
                    park_until(|cx| appender.poll_room(cx));
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(go);
    park_until(|cx| appender.poll_room(cx));
    append(&mut appender, b"let go").unwrap();
}

#[test]
fn s5_a_sealed_segment_ends_with_a_synced_footer_that_the_manifest_names() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let mut last = Offset(0);
    for number in 0..3000_u32 {
        last = append(&mut appender, &vec![1; 100 + number as usize % 1500])
            .unwrap()
            .end;
    }
    reach(&log, Level::Synced, last).unwrap();
    store.close().unwrap();
    let durable = folder.after_power_loss();
    let manifest = state(&durable);
    let segments = &manifest.logs.values().next().unwrap().segments;
    assert!(segments.len() >= 3);
    for (number, segment) in segments {
        let end = segment.end.as_ref().unwrap();
        let bytes = durable.read_file(&file(&log, *number)).unwrap();
        let footer = &bytes[footer_position(end.end_position) as usize..];
        let (summary, index, damage) = footer::decode(footer, segment.nonce).unwrap();
        assert!(damage.is_empty());
        assert_eq!(
            (summary.base_offset, summary.end_offset),
            (end.base_offset, end.end_offset)
        );
        assert!(summary.first_time_us <= summary.last_time_us);
        assert_eq!(index.next_start(0), Some(FRAMES_START));
    }
    // And readers find every offset through it.
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    for offset in (0..last.0).step_by(97) {
        let crate::chain::Place::Earlier(number) = log.chain().find(Offset(offset)) else {
            panic!("a segment of an earlier run");
        };
        let segment = cold::open_earlier(&log, number).unwrap();
        let (_, found) = cold::locate(&segment, Offset(offset));
        assert!(
            found.0 <= offset && offset - found.0 < 64,
            "{offset} from {found}"
        );
    }
}

#[test]
fn l6_a_void_wakes_whoever_waits_behind_it() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut behind = Appender::new(&log);
    append(&mut behind, b"warm").unwrap();
    let (opened, is_open) = mpsc::channel();
    let (give_up, may_end) = mpsc::channel::<()>();
    let aborting = {
        let mut appender = Appender::new(&log);
        std::thread::spawn(move || {
            appender.try_append_with(&PublisherFields::single(100), |_| {
                opened.send(()).unwrap();
                may_end.recv().unwrap();
            })
        })
    };
    is_open.recv().unwrap();
    let appended = append(&mut behind, b"behind the hole").unwrap();
    let mut wait = LevelWait::new(&log, Level::Stored, appended.end);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(wait.poll(&mut cx).is_pending());
    let waiting = std::thread::spawn(move || park_until(|cx| wait.poll(cx)));
    give_up.send(()).unwrap();
    assert!(matches!(
        aborting.join().unwrap(),
        Err(AppendError::ShortFill { .. })
    ));
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_reader_at_the_end_of_a_recovered_topic_is_told_the_jump_and_waits() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    publish_synced(&mut Appender::new(&log), b"one");
    let (_, reopened, report) = after_kill(&folder);
    let log = reopened.log(&topic()).unwrap();
    let mut reader = LogReader::new(&log, Start::Earliest);
    let first = park_until(|cx| reader.poll_next(1 << 20, cx)).unwrap();
    assert!(matches!(first, Delivery::Frames(slice) if slice.next_offset() == Offset(1)));
    let Delivery::Gap(gap) = park_until(|cx| reader.poll_next(1 << 20, cx)).unwrap() else {
        panic!("the jump is told");
    };
    assert_eq!(
        (gap.first_offset, gap.next_offset),
        (Offset(1), report.next_offset)
    );
    let mut cx = Context::from_waker(Waker::noop());
    assert!(reader.poll_next(1 << 20, &mut cx).is_pending());
}

#[test]
fn a_reader_is_told_that_the_store_was_closed() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    publish_synced(&mut Appender::new(&log), b"one");
    let mut reader = LogReader::new(&log, Start::Earliest);
    store.close().unwrap();
    assert_eq!(store.close(), Ok(()), "closing twice answers the same");
    let end = loop {
        match park_until(|cx| reader.poll_next(1 << 20, cx)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end, crate::reader::ReadError::Closed);
}

#[test]
fn a_standby_that_could_not_be_dropped_does_not_stand_before_the_next_runs_segments() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let named = |folder: &HeapFolder| state(folder).logs.values().next().unwrap().segments.len();
    while named(&folder) < 2 {
        publish_synced(&mut appender, &[4; 100_000]);
    }
    // The line that drops the unused standby is the next thing the manifest is asked for.
    folder.fail(Operation::Reserve, "manifest", 1, Failure::Full);
    drop(store.close());
    let store = open(&folder);
    let log = store.log(&topic()).unwrap();
    let end = publish_synced(&mut Appender::new(&log), b"acknowledged").end;
    let (_, reopened, report) = after_kill(&folder);
    assert_eq!(report.end_offset, end, "{report}");
    let records = read(&reopened.log(&topic()).unwrap(), end).0;
    assert_eq!(records.last().unwrap().1, b"acknowledged");
}

#[test]
fn a_full_disk_refuses_before_acceptance_and_publishing_resumes_by_itself() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    let body = vec![8; 200_000];
    publish_synced(&mut appender, &body);
    folder.set_full(true);
    let mut accepted = 1;
    let refused = loop {
        match append(&mut appender, &body) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused:?}");
    assert_eq!(
        read(&log, log.high_watermark()).0.len() as u64,
        log.high_watermark().0
    );
    folder.set_full(false);
    let resumed = loop {
        match append(&mut appender, &body) {
            Ok(appended) => break appended,
            Err(AppendError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(
        resumed.base,
        Offset(accepted),
        "nothing refused took an offset"
    );
}
