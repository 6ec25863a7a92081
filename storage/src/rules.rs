//! The rules of the log and of syncing, each with the test that breaks when the rule does. The ones
//! about interleavings (COMMIT-1, L1, L5, L6) are models: see `models`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};

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
use crate::reader::{Chunk, LogReader, ReadError};
use crate::recovery::LogRecovery;
use crate::segment::TryClaim;
use crate::slot::Slot;
use crate::store::{Store, StoreOptions};

mod files;
mod former;
mod reuse;
mod sharing;
mod skipping;
mod syncing;
mod trimming;

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
            Chunk::Gap(gap) => gaps.push((gap.first_offset.0, gap.next_offset.0)),
            Chunk::Frames(slice) => {
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
fn l1_a_hole_is_seen_from_the_same_place_of_the_next_segment() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let mut appender = Appender::new(&log);
    log.ask_first();
    park_until(|cx| appender.poll_room(cx));
    let first = log.chain().live_behind(None).unwrap();
    let TryClaim::Claim(hole) = first.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    // The first frame of the next segment lies where the hole lies in this one.
    let end = loop {
        let end = append(&mut appender, &[7; 1000]).unwrap().end;
        assert!(!appender.is_stored(end), "{end} is behind the hole");
        if log.chain().live_behind(Some(first.number())).is_some() {
            break end;
        }
    };
    drop(hole);
    assert!(appender.is_stored(end), "a void frame closes the hole");
}

#[test]
fn l1_an_appender_learns_what_many_others_committed_and_of_the_hole_among_it() {
    let folder = HeapFolder::new();
    let store = open(&folder);
    let log = log_of(&store, Durability::Stored);
    let (mut mine, mut others) = (Appender::new(&log), Appender::new(&log));
    // More of it than an appender walks over by itself, and segments of it.
    let many = |others: &mut Appender| {
        for _ in 0..5_000 {
            append(others, &[7; 100]).unwrap();
        }
    };
    append(&mut mine, b"first").unwrap();
    many(&mut others);
    let end = append(&mut mine, b"behind many").unwrap().end;
    assert!(mine.is_stored(end));
    assert!(log.committed() >= end);

    many(&mut others);
    let segment = log.chain().held().pop().unwrap();
    let TryClaim::Claim(claim) = segment.try_claim(128, 1, 1) else {
        panic!("there is room");
    };
    let hole = claim.base_offset();
    many(&mut others);
    let end = append(&mut mine, b"behind the hole").unwrap().end;
    assert!(!mine.is_stored(end));
    assert_eq!(log.committed(), hole);
    drop(claim);
    assert!(mine.is_stored(end), "a void frame closes the hole");
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
    let (ring, rings) = mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(ring)));
    let mut cx = Context::from_waker(&waker);
    assert!(wait.poll(&mut cx).is_pending());
    give_up.send(()).unwrap();
    assert!(matches!(
        aborting.join().unwrap(),
        Err(AppendError::ShortFill { .. })
    ));
    assert!(rings.try_recv().is_ok(), "before the append returns");
    assert!(wait.poll(&mut cx).is_ready());
}

/// Tells each time it is woken.
struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.send(()).unwrap();
    }
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
    assert!(matches!(first, Chunk::Frames(slice) if slice.next_offset() == Offset(1)));
    let Chunk::Gap(gap) = park_until(|cx| reader.poll_next(1 << 20, cx)).unwrap() else {
        panic!("the jump is told");
    };
    assert_eq!(
        (gap.first_offset, gap.next_offset),
        (Offset(1), report.next_offset)
    );
    let mut cx = Context::from_waker(Waker::noop());
    assert!(reader.poll_next(1 << 20, &mut cx).is_pending());
}

/// Else each publish would wake a thread that is awake, and both would meet at a lock.
#[test]
fn a_reader_that_looks_again_by_itself_is_not_waited_for_and_is_told_the_end() {
    for (level, durability) in [
        (Level::Stored, Durability::Stored),
        (Level::Synced, Durability::Synced),
    ] {
        let store = open(&HeapFolder::new());
        let log = log_of(&store, durability);
        let mut reader = LogReader::new(&log, Start::Earliest);
        let mut appender = Appender::new(&log);
        assert!(reader.try_next(1 << 20).is_none(), "nothing was published");
        publish_synced(&mut appender, b"one");
        let first = reader.try_next(1 << 20);
        assert!(matches!(first, Some(Ok(Chunk::Frames(_)))), "{first:?}");
        assert!(reader.try_next(1 << 20).is_none(), "it is read to its end");
        assert!(!log.waiters(level).any(), "nobody waits");
        publish_synced(&mut appender, b"two");
        store.close().unwrap();
        let last = reader.try_next(1 << 20);
        assert!(matches!(last, Some(Ok(Chunk::Frames(_)))), "{last:?}");
        assert_eq!(
            reader.try_next(1 << 20).unwrap().unwrap_err(),
            ReadError::Closed
        );
    }
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
fn a_log_goes_with_its_store_also_when_its_publisher_leaves_later() {
    let store = open(&HeapFolder::new());
    let log = log_of(&store, Durability::Synced);
    let mut appender = Appender::new(&log);
    publish_synced(&mut appender, b"announced");
    let fields = PublisherFields::single(4);
    appender
        .try_append_with(&fields, |room| room.put(b"last"))
        .unwrap();
    let weak = Arc::downgrade(&log);
    store.close().unwrap();
    drop((store, log));
    // Tells of what it appended last; nobody is there to listen.
    drop(appender);
    assert!(weak.upgrade().is_none(), "the log is kept by its own list");
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
fn a_segment_is_made_smaller_where_the_disk_has_no_room_for_more() {
    let folder = HeapFolder::new();
    let options = StoreOptions {
        segment_bytes_first: 16 << 20,
        segment_bytes_max: 16 << 20,
        ..StoreOptions::default()
    };
    // 16 MiB and 4 MiB find no room, 1 MiB does.
    folder.fail(Operation::CreateSegment, ".seg", 1, Failure::Full);
    folder.fail(Operation::CreateSegment, ".seg", 2, Failure::Full);
    let store = Store::open_folder(Arc::new(folder.clone()), &options).unwrap();
    let log = log_of(&store, Durability::Synced);
    publish_synced(&mut Appender::new(&log), b"taken");
    let state = state(&folder);
    let segments = &state.logs.values().next().unwrap().segments;
    assert_eq!(segments.values().next().unwrap().len_bytes, 1 << 20);
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
