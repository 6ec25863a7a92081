//! loom models of the log: claim and commit across a rotation, aborted claims, sleeping and waking,
//! syncing. Over the production code; each edge and rule has a mutant that must fail.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p millstream-storage --release --lib models`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod exchange;
mod former;
mod tray;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use loom::model::Builder;
use loom::thread;
use millstream_protocol::frame::{FrameKind, PublisherFields, check_stored};
use millstream_protocol::{Durability, Offset, Start, TopicName};

use crate::appender::{AppendError, Appended, Appender};
use crate::chain::Chain;
use crate::folder::{Blocks, Folder};
use crate::heap::HeapFolder;
use crate::layout::{Identity, PAGE_BYTES};
use crate::log::{Level, Log, LogIdentity};
use crate::manifest::{LogId, Manifest, SegmentNumber};
use crate::reader::{Chunk, LogReader};
use crate::segment::{Origin, Standby};
use crate::shared::{SegmentSizes, Shared};
use crate::sync::Extend;
use crate::sync::mutant::{self, Mutant};
use crate::walker::{Step, Walker};

/// A segment with room for two frames of this body, and no third.
const BODY_BYTES: usize = 1920;
const SEGMENT_BYTES: u32 = 6 * PAGE_BYTES;
const FOLDER: [u8; 16] = [1; 16];

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A log on the heap with its active segment and a standby.
fn small_log(durability: Durability) -> Arc<Log> {
    let folder: Arc<dyn Folder> = Arc::new(HeapFolder::new());
    let manifest = Manifest::create(Arc::clone(&folder), FOLDER).unwrap();
    let sizes = SegmentSizes {
        first_bytes: SEGMENT_BYTES,
        largest_bytes: SEGMENT_BYTES,
    };
    let shared = Arc::new(Shared::new(Arc::clone(&folder), FOLDER, sizes, manifest));
    let identity = LogIdentity {
        id: LogId(1),
        incarnation: [2; 16],
        name: TopicName::parse("t").unwrap(),
        durability,
    };
    let log = Log::new(identity, shared, Chain::new(BTreeMap::new(), Offset(0), 1));
    for number in 1..=2 {
        let memory = folder
            .create_segment(
                &format!("{number}.seg"),
                SEGMENT_BYTES as usize,
                Blocks::Reserved,
            )
            .unwrap();
        let identity = Identity {
            folder_id: FOLDER,
            incarnation: [2; 16],
            log: LogId(1),
            segment: SegmentNumber(number),
            nonce: 0x1234_5678_0000_0000 + u64::from(number),
            len_bytes: SEGMENT_BYTES,
        };
        let origin = Origin::Made {
            blocks: Blocks::Reserved,
        };
        let standby = Standby::new(memory, identity, origin);
        log.chain().install(standby).unwrap();
    }
    log
}

fn append(appender: &mut Appender, who: u8, records: u16) -> Appended {
    let fields = PublisherFields {
        record_count: records,
        ..PublisherFields::single(BODY_BYTES as u32)
    };
    loop {
        match appender.try_append_with(&fields, |room| room.put(&[who; BODY_BYTES])) {
            Ok(appended) => return appended,
            Err(AppendError::Rotating) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Follows the log from its first segment as far as it is committed; checks every frame.
struct Follower {
    log: Arc<Log>,
    walker: Walker,
    seen: Vec<(FrameKind, u8)>,
}

impl Follower {
    fn new(log: &Arc<Log>) -> Self {
        let first = log.chain().live_behind(None).unwrap();
        Self {
            log: Arc::clone(log),
            walker: Walker::new(first),
            seen: Vec::new(),
        }
    }

    fn follow(&mut self) -> Offset {
        loop {
            match self.walker.step() {
                Step::Frame { position, .. } => self.check(position),
                Step::Sealed => {
                    let number = self.walker.segment().number();
                    let Some(next) = self.log.chain().live_behind(Some(number)) else {
                        return self.walker.offset();
                    };
                    assert_eq!(
                        next.base_offset(),
                        self.walker.offset(),
                        "L5: no offset is lost"
                    );
                    self.walker = Walker::new(next);
                }
                Step::End => return self.walker.offset(),
            }
        }
    }

    fn check(&mut self, position: u32) {
        let segment = self.walker.segment();
        let nonce_half = segment.region().nonce_half();
        let mut seen = None;
        let found = segment.run_at(position).extend_if(|frame| {
            let stored = check_stored(frame, segment.seed(), position, nonce_half).unwrap();
            let kind = stored.header().fields.kind;
            assert!(stored.body().iter().all(|byte| *byte == stored.body()[0]));
            seen = Some((kind, stored.body()[0]));
            true
        });
        assert!(matches!(found, Extend::Taken(_)));
        self.seen.extend(seen);
    }
}

/// A waker that only notes that it was woken: who sleeps unwoken is found without a deadlock.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
    }
}

/// Polls once; where that is pending, `quiet` ends everyone who could wake, and by then the waker
/// must have been woken and the next poll be ready.
fn sleeps_well<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>, quiet: impl FnOnce()) -> T {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    let first = poll(&mut cx);
    quiet();
    match first {
        Poll::Ready(output) => output,
        Poll::Pending => {
            assert!(*bell.rung.lock().unwrap(), "nobody woke the sleeper");
            match poll(&mut cx) {
                Poll::Ready(output) => output,
                Poll::Pending => panic!("woken for nothing"),
            }
        }
    }
}

/// COMMIT-1, L5: every record is seen once, whole and in its producer's order, whoever crosses.
fn rotation(preemptions: usize) {
    explore(preemptions, || {
        let log = small_log(Durability::Stored);
        let producers: Vec<_> = [1_u8, 2]
            .into_iter()
            .map(|who| {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    let mut appender = Appender::new(&log);
                    let first = append(&mut appender, who, 1);
                    let second = append(&mut appender, who, 1);
                    assert!(first.end <= second.base, "a producer's own order");
                    [first.base.0, second.base.0]
                })
            })
            .collect();
        let mut follower = Follower::new(&log);
        follower.follow();
        let mut offsets: Vec<u64> = producers
            .into_iter()
            .flat_map(|producer| producer.join().unwrap())
            .collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 1, 2, 3], "no offset means two records");
        assert_eq!(follower.follow(), Offset(4));
        assert_eq!(follower.seen.iter().filter(|(_, who)| *who == 1).count(), 2);
    });
}

#[test]
fn two_producers_and_a_reader_across_a_rotation() {
    rotation(2);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_commit_store_relaxed() {
    mutant::with(Mutant::CommitRelease, || rotation(2));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_commit_load_relaxed() {
    mutant::with(Mutant::CommitAcquire, || rotation(2));
}

#[test]
#[should_panic]
fn mutant_a_tripped_tail_is_added_to() {
    mutant::with(Mutant::AddToTripped, || rotation(2));
}

/// L1: what an appender takes for stored has nothing uncommitted before it, whoever walked there.
fn stored_by_many(preemptions: usize) {
    explore(preemptions, || {
        let log = small_log(Durability::Stored);
        let producers: Vec<_> = [1_u8, 2]
            .into_iter()
            .map(|who| {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    let mut appender = Appender::new(&log);
                    append(&mut appender, who, 1);
                    let end = append(&mut appender, who, 1).end;
                    if appender.is_stored(end) {
                        assert!(Follower::new(&log).follow() >= end, "all before it");
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(log.committed(), Offset(4));
    });
}

#[test]
fn who_is_far_behind_asks_how_far_all_have_come() {
    stored_by_many(1);
}

/// L5: an aborted claim becomes a void frame, and what lies behind it is reached.
fn aborted_claim() {
    explore(3, || {
        let log = small_log(Durability::Stored);
        let aborting = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let fields = PublisherFields::single(BODY_BYTES as u32);
                let aborted =
                    Appender::new(&log).try_append_with(&fields, |room| room.put(b"half"));
                assert!(matches!(aborted, Err(AppendError::ShortFill { .. })));
            })
        };
        let mut appender = Appender::new(&log);
        let appended = append(&mut appender, 7, 1);
        aborting.join().unwrap();
        let mut follower = Follower::new(&log);
        assert_eq!(follower.follow(), Offset(2), "the void keeps its offset");
        assert!(log.has_reached(Level::Stored, appended.end));
        let mut kinds: Vec<_> = follower.seen.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_by_key(|kind| *kind as u8);
        assert_eq!(kinds, [FrameKind::Single, FrameKind::Void]);
    });
}

#[test]
fn an_aborted_claim_becomes_a_void_frame() {
    aborted_claim();
}

#[test]
#[should_panic]
fn mutant_an_aborted_claim_stays_open() {
    mutant::with(Mutant::NoVoid, aborted_claim);
}

/// L1: a publisher that is told `stored` has an unbroken prefix up to its record.
fn prefix_acks() {
    explore(3, || {
        let log = small_log(Durability::Stored);
        let other = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                append(&mut Appender::new(&log), 1, 1);
            })
        };
        let mut appender = Appender::new(&log);
        let appended = append(&mut appender, 2, 1);
        if log.has_reached(Level::Stored, appended.end) {
            assert!(
                Follower::new(&log).follow() >= appended.end,
                "acknowledged behind a hole"
            );
        }
        other.join().unwrap();
        assert!(log.has_reached(Level::Stored, appended.end));
    });
}

#[test]
fn l1_stored_means_the_prefix() {
    prefix_acks();
}

#[test]
#[should_panic(expected = "acknowledged behind a hole")]
fn mutant_acknowledged_by_its_own_commit() {
    mutant::with(Mutant::AckOwnCommit, prefix_acks);
}

/// WAKE-1: a reader that goes to sleep while a commit arrives is woken or does not sleep.
fn sleeping_reader() {
    explore(3, || {
        let log = small_log(Durability::Stored);
        let publisher = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut appender = Appender::new(&log);
                append(&mut appender, 3, 1);
                appender.announce();
            })
        };
        let mut reader = LogReader::new(&log, Start::Earliest);
        let chunk = sleeps_well(
            |cx| reader.poll_next(1 << 20, cx),
            || publisher.join().unwrap(),
        );
        assert!(matches!(chunk, Ok(Chunk::Frames(slice)) if slice.next_offset() == Offset(1)));
    });
}

#[test]
fn a_reader_going_to_sleep_hears_of_the_commit() {
    sleeping_reader();
}

#[test]
#[should_panic(expected = "nobody woke the sleeper")]
fn mutant_publisher_does_not_fence() {
    mutant::with(Mutant::PublishFence, sleeping_reader);
}

#[test]
#[should_panic(expected = "nobody woke the sleeper")]
fn mutant_waiter_does_not_look_again() {
    mutant::with(Mutant::NoSecondLook, sleeping_reader);
}

/// L6: one publisher waits behind the hole of another and is woken by whoever closes it.
#[test]
fn a_waiter_behind_anothers_hole_is_woken() {
    explore(2, || {
        let log = small_log(Durability::Stored);
        let other = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut appender = Appender::new(&log);
                append(&mut appender, 1, 1);
                appender.announce();
            })
        };
        let mut appender = Appender::new(&log);
        let appended = append(&mut appender, 2, 1);
        appender.announce();
        let reached = sleeps_well(
            |cx| appender.poll_reached(Level::Stored, appended.end, cx),
            || other.join().unwrap(),
        );
        assert_eq!(reached, Ok(()));
    });
}

/// DIRTY-1, FRONT-1: after every listed sync has run, all that was committed is synced; whoever
/// waited was released; what is synced is visible.
fn synced_waiters() {
    explore(3, || {
        let log = small_log(Durability::Synced);
        let mut appender = Appender::new(&log);
        append(&mut appender, 1, 1);
        appender.announce();
        let publisher = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut appender = Appender::new(&log);
                append(&mut appender, 2, 1);
                appender.announce();
            })
        };
        let worker = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                assert!(
                    log.shared().work.take_listed(),
                    "the first commit listed the log"
                );
                log.sync_listed();
            })
        };
        if log.synced() == Offset(2) {
            let first = log.chain().live_behind(None).unwrap();
            let mut walker = Walker::new(first);
            walker.advance(Offset(2), u32::MAX);
            assert_eq!(walker.offset(), Offset(2), "synced, and not to be seen");
        }
        publisher.join().unwrap();
        worker.join().unwrap();
        while log.shared().work.take_listed() {
            log.sync_listed();
        }
        assert_eq!(
            log.synced(),
            Offset(2),
            "a commit was neither synced nor listed"
        );
    });
}

#[test]
fn a_sync_covers_or_leaves_the_log_listed() {
    synced_waiters();
}

#[test]
#[should_panic(expected = "neither synced nor listed")]
fn mutant_mark_cleared_after_the_walk() {
    mutant::with(Mutant::ClearLate, synced_waiters);
}

#[test]
#[should_panic(expected = "not to be seen")]
fn mutant_frontier_raised_relaxed() {
    mutant::with(Mutant::FrontRelease, synced_waiters);
}

/// WAKE-1 on the synced frontier: a publisher asleep is released by the sync that covers it.
#[test]
fn waiters_are_released_by_a_sync() {
    explore(3, || {
        let log = small_log(Durability::Synced);
        let mut appender = Appender::new(&log);
        let appended = append(&mut appender, 1, 1);
        appender.announce();
        let worker = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.sync_listed())
        };
        let reached = sleeps_well(
            |cx| appender.poll_reached(Level::Synced, appended.end, cx),
            || worker.join().unwrap(),
        );
        assert_eq!(reached, Ok(()));
    });
}
