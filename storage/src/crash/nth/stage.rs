//! Where a scenario is played: one folder, its store, and what each topic must hold.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millstream_protocol::batch::BatchView;
use millstream_protocol::control::GapReason;
use millstream_protocol::frame::{FrameKind, walk_stored};
use millstream_protocol::{Durability, Start, TopicName};

use super::super::Piece;
use super::super::disk::End;
use super::super::folder::CrashFolder;
use super::super::model::{Message, Model};
use crate::appender::Appender;
use crate::heap::{Failure, Operation};
use crate::log::Log;
use crate::manifest::ManifestError;
use crate::reader::{Chunk, LogReader};
use crate::slice::FrameSlice;
use crate::store::{Store, StoreOptions};
use crate::verify::{Fault, VerifyError, verify_folder};

/// Bytes of all segments that hold no larger frame.
const SEGMENT_BYTES: u32 = 64 << 10;

/// Whether the log of a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Yes,
    No,
    /// Making or deleting it failed, perhaps after it was done.
    Unknown,
}

/// One topic.
pub(super) struct Topic {
    pub(super) there: There,
    pub(super) durability: Durability,
    pub(super) model: Model,
    pub(super) log: Option<Arc<Log>>,
    pub(super) appender: Option<Appender>,
    /// Where it stood synced when its poison was first seen.
    frozen: Option<u64>,
    /// A power loss came since it was read last.
    power_lost: bool,
}

/// Records a reader was given, and the ranges it was told are damaged.
struct Found {
    records: Vec<(u64, Message)>,
    damaged: Vec<Range<u64>>,
}

pub(super) struct Stage {
    pub(super) folder: CrashFolder,
    pub(super) store: Option<Store>,
    pub(super) topics: BTreeMap<&'static str, Topic>,
    pub(super) next_message: u64,
    seed: u64,
    fault: Option<(Operation, u64, Failure)>,
    /// Failures met before the one that is planned.
    met_before: usize,
    /// Bits of a file were flipped.
    pub(super) rotten: bool,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            folder: CrashFolder::new(),
            store: None,
            topics: BTreeMap::new(),
            next_message: 1,
            seed: 0,
            fault: None,
            met_before: 0,
            rotten: false,
        }
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.folder.failures().count(operation, "")
    }

    /// The failure that the run met, once it has.
    pub(super) fn met(&self) -> Option<(Operation, String)> {
        let met = self.folder.failures().failures_met();
        met.into_iter().nth(self.met_before)
    }

    /// From now on the calls count, and the one planned fails. `seed` says what is lost in the end.
    pub(super) fn begin(&mut self, fault: Option<(Operation, u64, Failure)>, seed: u64) {
        self.fault = fault;
        self.seed = seed;
        self.met_before = self.folder.failures().failures_met().len();
        if let Some((operation, nth, failure)) = fault {
            self.folder.failures().fail(operation, "", nth, failure);
        }
    }

    /// Looks at an error: it is of the failure that was planned, and says what failed and where.
    pub(super) fn failed(&self, error: &dyn Display) {
        let told = error.to_string();
        let Some((operation, name)) = self.met() else {
            panic!("nothing failed, and yet: {told}");
        };
        let code = match self.fault {
            Some((_, _, Failure::Device)) => libc::EIO,
            Some((_, _, Failure::Full)) => libc::ENOSPC,
            Some((_, _, Failure::Descriptors)) | None => libc::EMFILE,
        };
        let why = format!("os error {code}");
        let names_it = name.is_empty() || told.contains(&name);
        assert!(
            told.contains(&why) && names_it,
            "{operation:?} of {name:?} failed, and what is told is: {told}"
        );
    }

    /// Does all that the threads would do.
    pub(super) fn work_off(&mut self) {
        if let Some(store) = &self.store {
            while store.work_by_hand(Piece::Sync) || store.work_by_hand(Piece::Prepare) {}
        }
        self.look();
    }

    /// And what they would do later.
    pub(super) fn settle_down(&mut self) {
        self.work_off();
        let later = |stage: &Self| {
            let store = stage.store.as_ref();
            store.is_some_and(|store| store.work_by_hand(Piece::Later))
        };
        while later(self) {
            self.work_off();
        }
    }

    /// Notes what is acknowledged. Of a log that is poisoned nothing more may be.
    pub(super) fn look(&mut self) {
        for topic in self.topics.values_mut() {
            let Some(log) = &topic.log else { continue };
            let synced = log.synced().0;
            topic.model.note_synced(synced);
            if log.poisoned().is_some() {
                let frozen = *topic.frozen.get_or_insert(synced);
                assert_eq!(synced, frozen, "acknowledged behind a failed sync");
            }
        }
        let repeated = self.folder.failures().repeated_syncs();
        assert_eq!(repeated, 0, "a file was synced again whose sync had failed");
    }

    /// Opens the folder; an error ends the process.
    pub(super) fn open(&mut self) {
        match Store::open_by_hand(Arc::new(self.folder.clone()), &options()) {
            Ok(store) => self.take_up(store),
            Err(error) => self.failed(&error),
        }
    }

    /// Opens a folder that was closed cleanly, and reads nothing yet.
    pub(super) fn open_unread(&mut self) {
        let folder = Arc::new(self.folder.clone());
        let store = Store::open_by_hand(folder, &options()).unwrap();
        for (name, topic) in &mut self.topics {
            topic.log = store.log(&TopicName::parse(name).unwrap());
            topic.appender = topic.log.as_ref().map(Appender::new);
        }
        self.store = Some(store);
    }

    /// Takes up an opened store, and checks all it holds.
    fn take_up(&mut self, store: Store) {
        let power_lost = self.power_lost();
        for recovery in store.recoveries() {
            assert!(self.rotten || recovery.damaged.is_empty(), "{recovery}");
            let in_doubt = recovery.possibly_acknowledged;
            assert!(!in_doubt || power_lost, "{recovery}");
        }
        for (name, topic) in &mut self.topics {
            topic.log = store.log(&TopicName::parse(name).unwrap());
            topic.frozen = None;
            match (&topic.log, topic.there) {
                (Some(_), There::No) => panic!("a deleted log is back"),
                (None, There::Yes) => panic!("a log is gone"),
                (Some(_), _) => topic.there = There::Yes,
                (None, _) => *topic = Topic::absent(topic.durability),
            }
        }
        self.store = Some(store);
        let names: Vec<_> = self.topics.keys().copied().collect();
        for name in names {
            self.take_up_topic(name);
        }
    }

    fn power_lost(&self) -> bool {
        self.topics.values().any(|topic| topic.power_lost)
    }

    fn take_up_topic(&mut self, name: &str) {
        let Some(log) = self.topics[name].log.clone() else {
            return;
        };
        if let Some(poisoned) = log.poisoned() {
            // It can't be recovered, so nothing of it is known in this run; the next will.
            self.failed(&poisoned);
            self.topics.get_mut(name).unwrap().log = None;
            return;
        }
        // The device fails once at most: what is there is given to one of two.
        let mut found = self.read_through(name, &log);
        while !found.damaged.is_empty() {
            let again = self.read_through(name, &log);
            let as_before = again.records.len() == found.records.len();
            if again.records.len() >= found.records.len() {
                found = again;
            }
            if as_before {
                assert!(self.rotten, "{:?}", found.damaged);
                break;
            }
        }
        let topic = self.topics.get_mut(name).unwrap();
        for range in &found.damaged {
            topic.model.rotted(range.clone());
        }
        let power_lost = std::mem::take(&mut topic.power_lost);
        let end = if power_lost {
            End::PowerLoss
        } else {
            End::Kill
        };
        topic
            .model
            .reopened(end, log.first_offset().0, &found.records);
        topic.model.note_synced(log.synced().0);
        topic.appender = Some(Appender::new(&log));
    }

    /// Every record that a reader is given, and what it is told of the others.
    fn read_through(&self, name: &str, log: &Arc<Log>) -> Found {
        let mut reader = LogReader::new(log, Start::Earliest);
        let mut cx = Context::from_waker(Waker::noop());
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        loop {
            match reader.poll_next(1 << 20, &mut cx) {
                Poll::Ready(Ok(Chunk::Frames(slice))) => {
                    read_frames(&slice, &self.topics[name].model, &mut records);
                }
                Poll::Ready(Ok(Chunk::Gap(gap))) => {
                    assert!(gap.next_offset > gap.first_offset);
                    if gap.reason == GapReason::Damaged {
                        self.check_damage();
                        damaged.push(gap.first_offset.0..gap.next_offset.0);
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.failed(&error);
                    break;
                }
                Poll::Pending if self.fetch() => {}
                Poll::Pending => break,
            }
        }
        Found { records, damaged }
    }

    fn fetch(&self) -> bool {
        let store = self.store.as_ref().unwrap();
        store.work_by_hand(Piece::Fetch)
    }

    /// A gap is told only of what rotted, or of what the device would not give.
    fn check_damage(&self) {
        if self.rotten {
            return;
        }
        let met = self.met().map(|(operation, _)| operation);
        let device = matches!(self.fault, Some((_, _, Failure::Device)));
        let read = matches!(met, Some(Operation::OpenSegment | Operation::Populate));
        assert!(device && read, "a gap is told, and {met:?} failed");
    }

    /// Reads all of a topic in the run: what is not given is told as damaged.
    pub(super) fn read(&mut self, name: &str) {
        let Some(log) = self.topics[name].log.clone() else {
            return;
        };
        let found = self.read_through(name, &log);
        let model = &self.topics[name].model;
        let end = log.high_watermark().0;
        if self.rotten {
            return;
        }
        model.check_read_but(&found.records, end, &found.damaged);
    }

    /// The fault is gone. What was not given up works again, without a restart. Tells whether the
    /// failure was met.
    pub(super) fn recover_in_place(&mut self) -> bool {
        let met = self.met().is_some();
        self.folder.failures().heal();
        self.settle_down();
        if self.store.is_some() {
            let names: Vec<_> = self.topics.keys().copied().collect();
            for name in names {
                let topic = &self.topics[name];
                let Some(log) = topic.log.clone().filter(|_| topic.there == There::Yes) else {
                    continue;
                };
                if log.gate_flags() != 0 {
                    continue;
                }
                let published = self.publish_synced(name, 300);
                let given_up = log.poisoned().is_some() || self.manifest_is_poisoned();
                assert!(published || given_up, "{name} takes nothing");
                self.read(name);
            }
        }
        self.look();
        met
    }

    fn manifest_is_poisoned(&self) -> bool {
        let mut logs = self.topics.values().filter_map(|topic| topic.log.as_ref());
        logs.any(|log| log.shared().manifest().poison().is_some())
    }

    /// Ends the run, opens what is left, and finds it whole.
    pub(super) fn finish(mut self, end: End) {
        self.crash(end);
        self.check_verified();
        self.open();
        assert!(self.store.is_some(), "the folder opens");
        let names: Vec<_> = self.topics.keys().copied().collect();
        for name in &names {
            if self.topics[name].there == There::Yes {
                assert!(self.topics[name].log.is_some(), "{name} is recovered");
                assert!(self.publish_synced(name, 100), "{name} takes records");
            }
        }
        self.close();
        self.open();
        let store = self.store.as_ref().unwrap();
        assert!(store.recoveries().is_empty(), "it was closed cleanly");
        self.close();
    }

    /// The process is killed, or the power goes.
    pub(super) fn crash(&mut self, end: End) {
        self.folder.failures().heal();
        self.strike(end);
        self.let_go();
        self.folder = self.folder.take_left().unwrap().0;
        self.fault = None;
        self.met_before = 0;
        for topic in self.topics.values_mut() {
            topic.power_lost |= end == End::PowerLoss;
        }
    }

    /// As [`crash`](Self::crash), for which it is still to be called.
    pub(super) fn strike(&self, end: End) {
        self.folder.strike_now(end, self.seed);
    }

    /// Closes the store; what could not be closed is told.
    pub(super) fn close(&mut self) {
        self.settle_down();
        let Some(store) = self.store.take() else {
            return;
        };
        let closed = store.close();
        let unclean: Vec<TopicName> = match closed {
            Ok(()) => Vec::new(),
            Err(error) => {
                self.failed(&error);
                error.topics.into_iter().map(|(name, _)| name).collect()
            }
        };
        for (name, topic) in &mut self.topics {
            let clean = unclean.iter().all(|topic| topic.as_str() != *name);
            if let Some(log) = topic.log.as_ref().filter(|_| clean) {
                topic.model.note_synced(log.synced().0);
                assert_eq!(topic.model.synced_records(), topic.model.records());
            }
        }
        drop(store);
        self.let_go();
    }

    fn let_go(&mut self) {
        for topic in self.topics.values_mut() {
            topic.appender = None;
            topic.log = None;
        }
        self.store = None;
        let repeated = self.folder.failures().repeated_syncs();
        assert_eq!(repeated, 0, "a file was synced again whose sync had failed");
    }

    fn check_verified(&self) {
        let report = match verify_folder(&self.folder, &mut |_| {}) {
            Err(VerifyError::Manifest(ManifestError::Missing)) => {
                let expected = self.topics.values().any(|topic| topic.there == There::Yes);
                assert!(!expected, "the manifest is gone");
                return;
            }
            report => report.unwrap(),
        };
        for problem in &report.problems {
            let told = match problem.fault {
                Fault::CutPossiblyAcknowledged { .. } => true,
                Fault::PossiblyAcknowledged => self.power_lost(),
                _ => self.rotten,
            };
            assert!(told, "verify: {problem:?}");
        }
    }
}

impl Topic {
    pub(super) fn absent(durability: Durability) -> Self {
        Self {
            there: There::No,
            durability,
            model: Model::default(),
            log: None,
            appender: None,
            frozen: None,
            power_lost: false,
        }
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        sync_workers: 1,
        segment_bytes_first: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
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
