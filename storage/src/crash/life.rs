//! One data folder through its crashes: starts, ends, and what is checked after each start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use millstream_protocol::batch::BatchView;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::GapReason;
use millstream_protocol::frame::{FrameKind, walk_stored};
use millstream_protocol::limits::FRAME_HEADER_BYTES;
use millstream_protocol::{Start, TopicName};

use super::Piece;
use super::dice::Dice;
use super::disk::End;
use super::folder::{CrashFolder, Moment, Strike};
use super::model::{Message, Model};
use super::tally::Tally;
use crate::appender::Appender;
use crate::folder::Folder;
use crate::hand;
use crate::heap::{Failure, Operation};
use crate::layout::{FRAMES_START, SLOT_POSITIONS, segment_name};
use crate::log::Log;
use crate::manifest::{
    EndKind, LogId, LogState, Manifest, ManifestError, SegmentEnd, SegmentNumber,
};
use crate::reader::{Chunk, LogReader};
use crate::slice::FrameSlice;
use crate::slot::Slot;
use crate::store::{OpenError, Store, StoreOptions};
use crate::verify::{Fault, verify_folder};

/// Starts of one life; more would only make it slower, since every start reads everything.
const STARTS: u64 = 6;
/// Crashes in a row during one start, at most.
const STRIKES_AT_START: u64 = 4;

/// Small, so that a life has many of them: a claim over 64 KiB fits, and larger ones take more.
const SEGMENT_BYTES: u32 = 192 << 10;
/// When a life begins, microseconds of the Unix epoch.
const FIRST_US: u64 = 1_800_000_000_000_000;

/// Whether the log of a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Yes,
    No,
    /// Making or deleting it came to no known end.
    Unknown,
}

/// One name, and the log that it stands for.
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) there: There,
    /// Who the log is, once it is known.
    pub(super) incarnation: Option<[u8; 16]>,
    pub(super) model: Model,
    /// Of this run.
    pub(super) log: Option<Arc<Log>>,
    pub(super) appenders: Vec<Appender>,
    /// Ends of the committed prefix and when each was seen, while not synced.
    pub(super) unsynced: VecDeque<(u64, u64)>,
}

/// A log's incarnation, and how far it was synced.
type Seen = ([u8; 16], u64);

/// One data folder.
pub(super) struct Life {
    pub(super) dice: Dice,
    pub(super) folder: CrashFolder,
    pub(super) store: Option<Store>,
    pub(super) topics: Vec<Topic>,
    pub(super) next_message: u64,
    pub(super) tally: Tally,
    /// How the last run ended; a power loss among several ends counts.
    ended: End,
    /// Something was made to fail since the last start.
    pub(super) failing: bool,
    /// Checksums of what ended, by log and segment: those bytes never change.
    ended_bytes: BTreeMap<(LogId, SegmentNumber), (SegmentEnd, u32)>,
    /// Every nonce so far, and whose it is.
    nonces: BTreeMap<u64, (LogId, SegmentNumber)>,
    /// What was acknowledged when the last crash struck.
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) now_us: u64,
}

impl Life {
    pub(super) fn new(seed: u64) -> Self {
        let topics = ["a", "b", "c"].map(|name| Topic {
            name: TopicName::parse(name).unwrap(),
            there: There::No,
            incarnation: None,
            model: Model::default(),
            log: None,
            appenders: Vec::new(),
            unsynced: VecDeque::new(),
        });
        Self {
            dice: Dice::new(seed),
            folder: CrashFolder::new(),
            store: None,
            topics: topics.into(),
            next_message: 1,
            tally: Tally::default(),
            ended: End::Kill,
            failing: false,
            ended_bytes: BTreeMap::new(),
            nonces: BTreeMap::new(),
            seen: Arc::default(),
            now_us: FIRST_US,
        }
    }

    /// Lives through all of it.
    pub(super) fn run(mut self) -> Tally {
        hand::set_time_us(self.now_us);
        for _ in 0..STARTS {
            self.start();
            self.run_program();
            self.tally.runs += 1;
            self.end();
        }
        self.start();
        for topic in &self.topics {
            self.tally.synced += topic.model.synced_records();
        }
        self.stop();
        self.tally.lives = 1;
        hand::let_go();
        self.tally
    }

    /// Opens the folder, through crashes and failures, and checks what is there.
    fn start(&mut self) {
        for strikes in 0.. {
            self.check_left_behind();
            self.failing = false;
            if strikes < STRIKES_AT_START && self.dice.once_in(3) {
                self.plan_strike(30);
            }
            if strikes < STRIKES_AT_START && self.dice.once_in(12) {
                self.plan_failure(16);
            }
            let opened = self.open();
            if !self.folder.is_struck() && (opened.is_ok() || !self.failing) {
                let store = opened.unwrap_or_else(|error| panic!("the folder is refused: {error}"));
                let healthy = store.logs().iter().all(|log| log.poisoned().is_none());
                assert!(healthy || self.failing, "a log can't be recovered");
                if healthy {
                    self.folder.plan(None);
                    self.folder.failures().heal();
                    self.take_up(store);
                    if self.dice.once_in(4) {
                        self.start_again();
                    }
                    return;
                }
                self.strike_now(End::Kill);
                drop(store);
            } else {
                // Failed without a crash: the process gives up.
                self.strike_now(End::Kill);
                drop(opened);
            }
            self.tally.at_start += 1;
            self.crashed();
        }
    }

    pub(super) fn open(&self) -> Result<Store, OpenError> {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: SEGMENT_BYTES,
            segment_bytes_max: SEGMENT_BYTES,
        };
        Store::open_by_hand(Arc::new(self.folder.clone()), &options)
    }

    /// Plans a crash at one of the next `operations`.
    pub(super) fn plan_strike(&mut self, operations: u64) {
        let moments = [Moment::Before, Moment::Within, Moment::After];
        let strike = Strike {
            skip: self.dice.below(operations),
            moment: moments[self.dice.below(3) as usize],
            end: self.some_end(),
            seed: self.dice.any(),
        };
        self.folder.plan(Some(strike));
    }

    /// Plans that one of the next `operations` fails.
    pub(super) fn plan_failure(&mut self, operations: u64) {
        let failure = if self.dice.once_in(4) {
            Failure::Full
        } else {
            Failure::Device
        };
        let nth = 1 + self.dice.below(operations);
        let folder = self.folder.failures();
        if self.dice.once_in(2) {
            let syncs = Operation::Sync;
            folder.fail(syncs, ".seg", nth.div_ceil(4), Failure::Device);
        } else {
            folder.fail_nth_change(nth, failure);
        }
        self.failing = true;
        self.tally.failures += 1;
    }

    pub(super) fn some_end(&mut self) -> End {
        if self.dice.once_in(3) {
            End::Kill
        } else {
            End::PowerLoss
        }
    }

    pub(super) fn strike_now(&mut self, end: End) {
        let seed = self.dice.any();
        self.folder.strike_now(end, seed);
    }

    /// Crashes unless the program has already, or stops cleanly.
    fn end(&mut self) {
        if !self.folder.is_struck() && self.dice.once_in(5) {
            self.stop();
            if !self.folder.is_struck() && self.dice.once_in(2) {
                return;
            }
        }
        if !self.folder.is_struck() {
            let end = self.some_end();
            self.strike_now(end);
        }
        self.let_go();
        self.crashed();
    }

    /// Goes on with what the crash left.
    pub(super) fn crashed(&mut self) {
        let (folder, end) = self.folder.take_left().unwrap();
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        for (incarnation, synced) in seen {
            let topic = self
                .topics
                .iter_mut()
                .find(|topic| topic.incarnation == Some(incarnation));
            if let Some(topic) = topic {
                topic.model.note_synced(synced);
            }
        }
        let reuses = self
            .folder
            .failures()
            .count(Operation::ReuseSegment, ".seg");
        self.tally.reused += reuses;
        self.folder = folder;
        self.tally.crashes += 1;
        if end == End::PowerLoss {
            self.tally.power_losses += 1;
            self.ended = End::PowerLoss;
        }
    }

    /// Stops in peace.
    fn stop(&mut self) {
        self.work_off();
        if self.dice.once_in(4) {
            self.plan_strike(12);
        }
        let Some(store) = self.store.take() else {
            return;
        };
        let closed = store.close();
        if !self.folder.is_struck() {
            self.tally.closes += 1;
            let names: Vec<_> = match &closed {
                Ok(()) => Vec::new(),
                Err(error) => error.topics.iter().map(|(name, _)| name).collect(),
            };
            assert!(names.is_empty() || self.failing, "{closed:?}");
            for topic in &mut self.topics {
                let clean = !names.contains(&&topic.name);
                if let Some(log) = topic.log.as_ref().filter(|_| clean) {
                    topic.model.note_synced(log.synced().0);
                    assert!(topic.model.synced_records() == topic.model.records());
                }
            }
        }
        self.let_go();
        drop(store);
    }

    /// Drops all that belongs to this run.
    pub(super) fn let_go(&mut self) {
        for topic in &mut self.topics {
            topic.appenders.clear();
            topic.log = None;
            topic.unsynced.clear();
        }
        self.store = None;
        self.folder.failures().heal();
        if !self.folder.is_struck() {
            self.folder.plan(None);
        }
    }

    /// What a crash left, before anything is done about it.
    fn check_left_behind(&mut self) {
        let state = match Manifest::inspect(&self.folder) {
            Ok((state, _)) => state,
            Err(ManifestError::Missing) => {
                let expected = self.topics.iter().any(|topic| topic.there == There::Yes);
                assert!(!expected, "the manifest is gone");
                return;
            }
            Err(error) => panic!("the manifest is refused: {error}"),
        };
        for (id, log) in &state.logs {
            let topic = self
                .topics
                .iter()
                .find(|topic| topic.name.as_str() == log.name);
            let model = &topic.expect("nobody made this log").model;
            self.check_slots(*id, log, model);
        }
        let power_lost = self.ended == End::PowerLoss;
        let report = verify_folder(&self.folder, &mut |_| {}).unwrap();
        for problem in &report.problems {
            let told = match problem.fault {
                // Recorded by a recovery that told of it.
                Fault::CutPossiblyAcknowledged { .. } => true,
                Fault::PossiblyAcknowledged => power_lost,
                _ => false,
            };
            assert!(told, "verify: {problem:?}");
        }
    }

    /// S2: past `attempted` nothing was acknowledged as synced.
    fn check_slots(&self, id: LogId, log: &LogState, model: &Model) {
        let finished = log.segments.values().filter_map(|segment| segment.end);
        let mut covered = finished.map(|end| end.end_offset).max().unwrap_or(0);
        covered = covered.max(log.next_offset.unwrap_or(0));
        for (number, segment) in &log.segments {
            if segment.end.is_some() || segment.quarantined {
                continue;
            }
            let bytes = self.folder.read_file(&segment_name(id, *number)).unwrap();
            let pages = SLOT_POSITIONS.map(|at| bytes.get(at as usize..).unwrap_or_default());
            if let Some(slot) = Slot::newest(pages, segment.nonce) {
                covered = covered.max(slot.attempted.offset);
            }
        }
        assert!(
            covered >= model.synced_end(),
            "no slot covers what was acknowledged: {covered} of {}",
            model.synced_end()
        );
    }

    /// Takes up an opened store, and checks all it holds.
    pub(super) fn take_up(&mut self, store: Store) {
        for recovery in store.recoveries() {
            assert!(recovery.damaged.is_empty(), "nothing rotted: {recovery}");
            let in_doubt = recovery.possibly_acknowledged;
            assert!(!in_doubt || self.ended == End::PowerLoss, "{recovery}");
            self.tally.cuts += u64::from(recovery.cut_bytes > 0);
        }
        let ended = std::mem::replace(&mut self.ended, End::Kill);
        let mut topics = std::mem::take(&mut self.topics);
        for topic in &mut topics {
            topic.log = store.log(&topic.name);
            match (&topic.log, topic.there) {
                (Some(log), There::Yes | There::Unknown) => {
                    let incarnation = log.identity().incarnation;
                    let known = *topic.incarnation.get_or_insert(incarnation);
                    assert_eq!(known, incarnation, "another log under the name");
                    topic.there = There::Yes;
                    let found = read_all(log, &topic.model);
                    let before = topic.model.records();
                    topic.model.reopened(ended, log.first_offset().0, &found);
                    self.tally.lost += before - topic.model.records();
                    topic.model.note_synced(log.synced().0);
                    topic.appenders = (0..2).map(|_| Appender::new(log)).collect();
                }
                (None, There::No | There::Unknown) => topic.gone(),
                (Some(_), There::No) => panic!("a deleted log is back"),
                (None, There::Yes) => panic!("a log is gone"),
            }
        }
        self.topics = topics;
        self.check_ended();
        self.store = Some(store);
        self.watch();
    }

    /// Has the next crash tell what was acknowledged when it struck.
    pub(super) fn watch(&self) {
        let logs = self.topics.iter().filter_map(|topic| topic.log.as_ref());
        let logs: Vec<_> = logs.map(Arc::downgrade).collect();
        let seen = Arc::clone(&self.seen);
        self.folder.witness(move || {
            let logs = logs.iter().filter_map(std::sync::Weak::upgrade);
            let synced = logs.map(|log| (log.identity().incarnation, log.synced().0));
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(synced);
        });
    }

    /// What ended once, sealed or cut, is the same for ever.
    fn check_ended(&mut self) {
        let (state, _) = Manifest::inspect(&self.folder).unwrap();
        let mut now = BTreeMap::new();
        for (id, log) in &state.logs {
            for (number, segment) in &log.segments {
                let whose = (*id, *number);
                let owner = *self.nonces.entry(segment.nonce).or_insert(whose);
                assert_eq!(owner, whose, "a nonce is used twice");
                let Some(end) = segment.end else { continue };
                let bytes = self.folder.read_file(&segment_name(*id, *number)).unwrap();
                let frames = crc32c(covered(&bytes, &end));
                now.insert((*id, *number), (end, frames));
            }
        }
        let new = now
            .keys()
            .filter(|segment| !self.ended_bytes.contains_key(segment));
        self.tally.ended += new.count() as u64;
        for (segment, before) in &self.ended_bytes {
            let same = now.get(segment).is_none_or(|after| after == before);
            assert!(same, "{segment:?} ended and was changed");
        }
        self.ended_bytes = now;
    }
}

impl Topic {
    /// Its log was made.
    pub(super) fn made(&mut self, log: Arc<Log>) {
        self.there = There::Yes;
        self.incarnation = Some(log.identity().incarnation);
        self.appenders = (0..2).map(|_| Appender::new(&log)).collect();
        self.log = Some(log);
    }

    /// There is no log of this name.
    pub(super) fn gone(&mut self) {
        self.there = There::No;
        self.incarnation = None;
        self.model = Model::default();
        self.log = None;
        self.appenders.clear();
        self.unsynced.clear();
    }
}

/// The frames of a segment that ended, with seal and footer.
pub(super) fn covered<'a>(bytes: &'a [u8], end: &SegmentEnd) -> &'a [u8] {
    let seal = FRAME_HEADER_BYTES;
    let counted = match end.kind {
        EndKind::Sealed { footer_bytes: 0 } => end.end_position as usize + seal,
        EndKind::Sealed { .. } => bytes.len(),
        EndKind::Cut => end.end_position as usize,
    };
    &bytes[FRAMES_START as usize..counted]
}

/// Every record that a reader is given, as the model knows it.
pub(super) fn read_all(log: &Arc<Log>, model: &Model) -> Vec<(u64, Message)> {
    let mut reader = LogReader::new(log, Start::Earliest);
    let mut cx = Context::from_waker(Waker::noop());
    let mut found = Vec::new();
    loop {
        match reader.poll_next(1 << 20, &mut cx) {
            Poll::Ready(Ok(Chunk::Frames(slice))) => read_frames(&slice, model, &mut found),
            Poll::Ready(Ok(Chunk::Gap(gap))) => {
                assert_eq!(gap.reason, GapReason::Void, "a gap at {}", gap.first_offset);
                assert!(gap.next_offset > gap.first_offset);
            }
            Poll::Ready(Err(_)) => return found,
            Poll::Pending => {
                if !log.shared().work.by_hand(Piece::Fetch) {
                    return found;
                }
            }
        }
    }
}

fn read_frames(slice: &FrameSlice, model: &Model, found: &mut Vec<(u64, Message)>) {
    let (mut bytes, mut place) = (slice.as_bytes(), slice.place());
    while !bytes.is_empty() {
        let frame = walk_stored(bytes, place.seed, place.position, place.nonce_half).unwrap();
        let header = frame.header();
        let fields = header.fields;
        if matches!(fields.kind, FrameKind::Single | FrameKind::Batch) {
            let view = BatchView::check(fields.kind, fields.record_count, false, frame.body());
            for (offset, record) in (header.base_offset.0..).zip(view.unwrap().iter()) {
                let message = model.message_at(offset);
                assert!(message.is(record.body()), "record {offset} has other bytes");
                found.push((offset, message));
            }
        }
        place.position += frame.frame_bytes();
        bytes = &bytes[frame.frame_bytes() as usize..];
    }
}
