//! Producers: names under which a topic takes each frame once, across connections and restarts.
//!
//! ```text
//!  open ──▶ roll of the topic ──new epoch──▶ `$producers`, synced ──▶ producer's lock: take over
//!  publish ─▶ producer's lock: check │ append │ note                            (P1)
//!  trim, close, now and then ──▶ `$producers`: frames below what is synced      (R2)
//!  start ──▶ `$producers`, then the topic from where that ends                  (S3)
//! ```
//! A publisher without a producer takes none of this: one look at an option.
//!
//! One mutex guards the rolls and the log `$producers`; it is held while that is synced and while a
//! topic is read, and taken to open, trim and close, never to publish. Each producer has a lock of
//! its own, taken after it.

mod entry;
mod ledger;
mod replacing;
mod roll;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use millstream_protocol::frame::{ProducerStamp, PublisherFields, body_crc};
use millstream_protocol::{Durability, Offset, TopicName};
use millstream_storage::{
    AppendError, Appended as Placed, Appender, CreateError, Level, LevelWait, Log, Store,
    claimed_end, park_until, trim,
};

use entry::{Entry, Incarnation};
use ledger::{Kept, Ledger, Piece, Verdict};
use roll::{Roll, age_us, content_crc, window_from};

use crate::queue::{Clock, Fields, Malformed, Owner, Writer, boot_us, replay};

/// The log of what is remembered of producers; no topic of a user begins with `$`.
const PRODUCERS: &str = "$producers";
/// What takes its part while another log is put in its place: see [`replacing`].
const SPARE: &str = "$producers.new";
/// First and largest segment of it: small, so that it can be trimmed behind a snapshot.
const SEGMENT_BYTES: (u32, u32) = (1 << 20, 4 << 20);
/// Bytes of the log behind the last snapshot after which the next is written, unless four times its
/// own size is more.
const SNAPSHOT_BYTES: u64 = 4 << 20;
/// Bytes of entries written as one frame.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes that one producer publishes before they are told in `$producers`, so that a start reads no
/// more of them.
const UNTOLD_BYTES: u64 = 64 << 20;

/// What went wrong between a topic and a producer. Nothing was published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerError {
    /// A newer instance of the producer took over; this one must stop.
    Fenced {
        /// The epoch that was used.
        ours: u64,
        /// The newest one.
        current: u64,
    },
    /// A sequence that is neither the next one nor that of a frame the topic remembers.
    OutOfSequence {
        /// The next one.
        expected: u64,
    },
    /// The sequence is that of other records.
    SequenceReused {
        /// It.
        sequence: u64,
    },
    /// The records have ids. They are recognised by their sequences.
    Ids,
    /// The frame is not of the producer that the publisher was opened with, or that has none.
    Foreign {
        /// What the frame has.
        found: ProducerStamp,
    },
    /// The topic remembers as many producers as it may.
    TooMany,
    /// The disk has no room for what is to be remembered.
    Full {
        /// What the system said.
        message: String,
    },
    /// What is remembered could not be read or written.
    Storage {
        /// Why.
        message: String,
    },
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced { ours, current } => write!(
                f,
                "a newer instance of the producer took over: its epoch is {current}, ours {ours}"
            ),
            Self::OutOfSequence { expected } => {
                write!(f, "the producer's next sequence is {expected}")
            }
            Self::SequenceReused { sequence } => write!(
                f,
                "the producer used sequence {sequence} before, for other records"
            ),
            Self::Ids => f.write_str("a producer's messages have no ids: leave them out"),
            Self::Foreign { found } if found.is_none() => {
                f.write_str("a frame without a producer from a publisher that has one")
            }
            Self::Foreign { found } => write!(
                f,
                "a frame of producer {} and epoch {}, which the publisher was not opened with",
                found.id, found.epoch
            ),
            Self::TooMany => f.write_str("the topic remembers as many producers as it may"),
            Self::Full { message } => write!(f, "no space on the disk: {message}"),
            Self::Storage { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for ProducerError {}

/// Both clocks.
#[derive(Debug, Clone, Copy)]
struct Times {
    boot_us: u64,
    wall_us: u64,
}

/// One producer of one topic.
#[derive(Debug)]
struct Producer {
    id: u64,
    state: Mutex<ProducerState>,
}

#[derive(Debug)]
struct ProducerState {
    ledger: Ledger,
    /// The sequence after the last frame that `$producers` tells of.
    told: u64,
    /// Bytes of frames since.
    untold_bytes: u64,
    /// When it is forgotten, unless it does something before.
    until_boot_us: u64,
    /// When it last did something, as what is on disk says.
    last_wall_us: u64,
}

impl ProducerState {
    /// The time at which it last did something.
    fn last_at(&self, now: Times) -> u64 {
        now.wall_us
            .saturating_sub(age_us(self.until_boot_us, now.boot_us))
    }
}

impl Producer {
    fn new(id: u64) -> Self {
        Self {
            id,
            state: Mutex::new(ProducerState {
                ledger: Ledger::new(0),
                told: 0,
                untold_bytes: 0,
                until_boot_us: 0,
                last_wall_us: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ProducerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a producer is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resume {
    /// The epoch of an instance that goes on; 0: a new one.
    pub(crate) epoch: u64,
    /// The highest sequence it knows to be acknowledged.
    pub(crate) acknowledged: u64,
}

/// What a publisher that has a producer is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerInfo {
    /// What its frames carry.
    pub id: u64,
    /// What its frames carry: higher than that of every instance before.
    pub epoch: u64,
    /// The sequence of the last record that the topic had of it; 0: none.
    pub last_sequence: u64,
    /// Whether the topic remembered it.
    pub known: bool,
}

/// A publisher's side of its producer.
#[derive(Debug, Clone)]
pub(crate) struct Producing {
    producers: Arc<Producers>,
    producer: Arc<Producer>,
    pub(crate) info: ProducerInfo,
    /// The sequence of the next record, where the user counts himself.
    pub(crate) next: Option<u64>,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Produced {
    Added(Placed),
    /// It was there.
    Duplicate(Placed),
}

/// Why a frame was not appended.
#[derive(Debug)]
pub(crate) enum NotProduced {
    Producer(ProducerError),
    Append(AppendError),
}

impl Producing {
    /// Appends a frame of this producer, unless it is there. Check, append and note are one step
    /// under the producer's lock, which opening takes, too (P1).
    pub(crate) fn append(
        &mut self,
        appender: &mut Appender,
        fields: &PublisherFields,
        body: &[u8],
        stamped: Option<(ProducerStamp, u32)>,
    ) -> Result<Produced, NotProduced> {
        let log = Arc::clone(appender.log());
        self.append_by(&log, fields, body, stamped, |fields, body_crc| {
            appender.try_append(fields, body_crc, body)
        })
    }

    fn append_by(
        &mut self,
        log: &Arc<Log>,
        fields: &PublisherFields,
        body: &[u8],
        stamped: Option<(ProducerStamp, u32)>,
        append: impl FnOnce(&PublisherFields, u32) -> Result<Placed, AppendError>,
    ) -> Result<Produced, NotProduced> {
        let refused = |error| Err(NotProduced::Producer(error));
        let crc = content_crc(fields, body);
        let (id, epoch) = (self.info.id, self.info.epoch);
        if let Some((found, _)) = stamped
            && (found.id, found.epoch) != (id, epoch)
        {
            return refused(ProducerError::Foreign { found });
        }
        let mut state = self.producer.lock();
        let sequence = stamped.map(|(stamp, _)| stamp.sequence).or(self.next);
        let sequence = sequence.unwrap_or_else(|| state.ledger.next());
        let piece = Piece {
            sequence,
            records: fields.record_count,
            crc,
        };
        let produced = match state.ledger.check(epoch, &piece) {
            Err(error) => return refused(error),
            Ok(Verdict::Duplicate(kept)) => Produced::Duplicate(Placed {
                base: kept.base,
                end: kept.end(),
            }),
            Ok(Verdict::Next) => {
                let producer = ProducerStamp {
                    id,
                    epoch,
                    sequence,
                };
                let fields = PublisherFields {
                    producer,
                    ..*fields
                };
                let body_crc = stamped.map_or_else(|| body_crc(&fields, body), |(_, crc)| crc);
                let placed = append(&fields, body_crc).map_err(NotProduced::Append)?;
                state.ledger.note(Kept {
                    piece,
                    base: placed.base,
                });
                state.untold_bytes += u64::from(fields.body_bytes) + 64;
                Produced::Added(placed)
            }
        };
        state.until_boot_us = window_from(boot_us());
        let tell = state.untold_bytes >= UNTOLD_BYTES;
        if tell {
            state.untold_bytes = 0;
        }
        drop(state);
        if tell {
            Producers::tell_soon(&self.producers, log);
        }
        if let Some(next) = &mut self.next {
            *next = sequence.saturating_add(u64::from(fields.record_count));
        }
        Ok(produced)
    }
}

/// What one mutex guards: see the module.
#[derive(Debug, Default)]
struct State {
    rolls: HashMap<Incarnation, Roll>,
    log: Option<Arc<Log>>,
    writer: Option<Writer>,
    spare: Spare,
    /// Why what the log says is not known.
    unread: Option<String>,
    /// Ids and epochs given out in this run.
    given: u32,
    last_snapshot: Snapshot,
}

/// Whether the spare log is there: see [`replacing`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Spare {
    #[default]
    None,
    /// A stop left it: it may say what the log does not, and the other way round.
    Found,
    /// It says all that was told.
    Full,
}

/// What the next snapshot is due by.
#[derive(Debug, Default)]
struct Snapshot {
    /// Bytes of the log in this run when the last one was begun.
    begun: u64,
    /// Bytes it took.
    size: u64,
    /// Bytes of the log that were there at the start: runs too short for a snapshot of their own must
    /// not let it grow without end.
    found: u64,
}

/// The producers of all topics of a broker.
pub(crate) struct Producers {
    store: Arc<Store>,
    clock: Arc<Clock>,
    state: Mutex<State>,
    telling: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Producers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producers").finish_non_exhaustive()
    }
}

impl Producers {
    /// Brings back what the log says. Nothing is made for a folder without producers.
    pub(crate) fn open(store: &Arc<Store>, clock: &Arc<Clock>) -> Self {
        let mut state = State::default();
        let find = |name: &str| {
            TopicName::parse(name)
                .ok()
                .and_then(|name| store.log(&name))
        };
        // The spare one is older, or says the same.
        let (spare, log) = (find(SPARE), find(PRODUCERS));
        if spare.is_some() {
            state.spare = Spare::Found;
        }
        for log in spare.iter().chain(&log) {
            state.read(log);
        }
        let there = store.logs();
        let exists = |incarnation: &Incarnation| {
            there
                .iter()
                .any(|log| log.identity().incarnation == *incarnation)
        };
        state.rolls.retain(|incarnation, _| exists(incarnation));
        if let Some(log) = log {
            state.start(&log);
            state.last_snapshot.found = log.size().1;
        }
        Self {
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            state: Mutex::new(state),
            telling: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Times {
        let now = self.clock.now();
        Times {
            boot_us: now.boot_us,
            wall_us: now.wall_us,
        }
    }

    /// Opens the producer `name` of the topic behind `log`: a new instance with an epoch above all
    /// before it, or one that goes on. On return all that it is told of is `level`, and nothing of
    /// an older instance follows. Waits for the disk.
    pub(crate) fn produce(
        self: &Arc<Self>,
        log: &Arc<Log>,
        name: &TopicName,
        level: Level,
        resume: Resume,
    ) -> Result<Producing, ProducerError> {
        let (producer, epoch, known) = {
            let mut state = self.state();
            self.admit(&mut state, log, name, resume)?
        };
        let last = {
            let mut state = producer.lock();
            state.until_boot_us = window_from(boot_us());
            state.ledger.take_over(epoch, resume.acknowledged)?
        };
        if let Some(last) = last {
            // A record told of is one that its producer will not send again (S3).
            await_level(log, level, last.end())?;
        }
        Ok(Producing {
            producers: Arc::clone(self),
            info: ProducerInfo {
                id: producer.id,
                epoch,
                last_sequence: last.map_or(0, |last| last.next_sequence() - 1),
                known,
            },
            producer,
            next: None,
        })
    }

    /// Finds or makes the producer, and gives it its epoch, which is on disk when this returns.
    fn admit(
        &self,
        state: &mut State,
        log: &Arc<Log>,
        name: &TopicName,
        resume: Resume,
    ) -> Result<(Arc<Producer>, u64, bool), ProducerError> {
        if let Some(message) = state.unread.clone() {
            return Err(ProducerError::Storage { message });
        }
        let now = self.now();
        let incarnation = log.identity().incarnation;
        let roll = state.rolls.entry(incarnation).or_default();
        roll.load(log, now)?;
        let found = roll.find(name, now);
        if let Some(producer) = &found
            && resume.epoch != 0
        {
            let current = producer.lock().ledger.epoch();
            if resume.epoch <= current {
                // Whether it is the current one is for the producer's lock to say.
                return Ok((Arc::clone(producer), resume.epoch, true));
            }
        }
        if found.is_none() && !roll.has_room(now) {
            return Err(ProducerError::TooMany);
        }
        state.given += 1;
        let boot_epoch = u64::from(self.store.boot_epoch());
        // Above all that were given out: boot epochs rise, and so does the count (P1).
        let epoch = boot_epoch << 32 | u64::from(state.given);
        let known = found.is_some();
        // The top bit is for the broker's own moves.
        let id = boot_epoch << 31 | u64::from(state.given);
        let producer = found.unwrap_or_else(|| Arc::new(Producer::new(id)));
        let opened = Entry::Opened {
            id: producer.id,
            epoch,
            at_us: now.wall_us,
            name: name.clone(),
        };
        self.write(state, &[(incarnation, vec![opened])])?;
        if !known {
            let roll = state.rolls.entry(incarnation).or_default();
            roll.insert(name.clone(), Arc::clone(&producer));
        }
        if let Err(error) = self.snapshot_if_due(state) {
            tracing::warn!(%error, "the log of producers grows");
        }
        Ok((producer, epoch, known))
    }

    /// Tells all that a trim of `log` below `before` would forget (R2); it is on disk when this
    /// returns.
    pub(crate) fn before_trim(&self, log: &Arc<Log>, before: Offset) -> Result<(), ProducerError> {
        let mut state = self.state();
        self.tell(&mut state, log, before)
    }

    /// Forgets the producers of a topic that is deleted.
    pub(crate) fn forget(&self, log: &Log) {
        self.state().rolls.remove(&log.identity().incarnation);
    }

    /// Tells what is synced of the topic's producers, in a thread of its own, unless one is at it.
    fn tell_soon(this: &Arc<Self>, log: &Arc<Log>) {
        let mut telling = this.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if telling.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (weak, log) = (Arc::downgrade(this), Arc::clone(log));
        let tell = move || {
            if let Some(producers) = weak.upgrade()
                && let Err(error) = producers.before_trim(&log, Offset(0))
            {
                tracing::warn!(%error, "what is remembered of producers could not be written");
            }
        };
        match std::thread::Builder::new()
            .name("ms-producers".to_owned())
            .spawn(tell)
        {
            Ok(thread) => *telling = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a thread"),
        }
    }

    fn tell(&self, state: &mut State, log: &Arc<Log>, before: Offset) -> Result<(), ProducerError> {
        if let Some(message) = state.unread.clone() {
            return Err(ProducerError::Storage { message });
        }
        let incarnation = log.identity().incarnation;
        let now = self.now();
        let Some(roll) = state.rolls.get_mut(&incarnation) else {
            return Ok(());
        };
        if roll.is_empty() {
            return Ok(());
        }
        roll.load(log, now)?;
        // Only what is on disk may be told: it is never sent again. Before the look at the
        // producers, so that what lies below was noted or is being noted under a lock.
        let end = log.synced();
        if end < before {
            let message = "what is to be trimmed is not on disk".to_owned();
            return Err(ProducerError::Storage { message });
        }
        let entries = roll.untold(end, now);
        if entries.is_empty() {
            return Ok(());
        }
        self.write(state, &[(incarnation, entries.clone())])?;
        if let Some(roll) = state.rolls.get_mut(&incarnation) {
            roll.told(&entries);
        }
        self.snapshot_if_due(state)
    }

    /// Tells everything of every topic, so that the next start reads no topic.
    pub(crate) fn close(&self) {
        let thread = self
            .telling
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tells of producers panicked");
        }
        let logs = self.store.logs();
        let mut state = self.state();
        for log in logs {
            let roll = state.rolls.get(&log.identity().incarnation);
            if !roll.is_some_and(|roll| roll.is_loaded() && !roll.is_empty()) {
                continue;
            }
            let told = await_level(&log, Level::Synced, log.committed())
                .and_then(|()| self.tell(&mut state, &log, Offset(0)));
            if let Err(error) = told {
                // The next start reads the topic.
                tracing::debug!(%error, topic = %log.identity().name, "producers are not told at the stop");
            }
        }
    }

    /// Writes everything told so far again, once what stands before it is much more, and drops that.
    fn snapshot_if_due(&self, state: &mut State) -> Result<(), ProducerError> {
        let Some(log) = state.log.clone() else {
            return Ok(());
        };
        let Snapshot { begun, size, found } = state.last_snapshot;
        let (_, bytes) = claimed_end(&log);
        let grown = bytes.saturating_sub(begun) + found;
        if grown < SNAPSHOT_BYTES.max(4 * size) {
            return Ok(());
        }
        let from = log.committed();
        let told = self.told(state);
        self.write(state, &told)?;
        let (_, end_bytes) = claimed_end(&log);
        state.last_snapshot = Snapshot {
            begun: bytes,
            size: end_bytes.saturating_sub(bytes),
            found: 0,
        };
        if let Err(error) = trim(&log, from) {
            tracing::warn!(%error, "the log of producers grows");
        }
        Ok(())
    }

    /// All that was told so far of the producers of every topic.
    fn told(&self, state: &State) -> Vec<(Incarnation, Vec<Entry>)> {
        let now = self.now();
        let rolls = state.rolls.iter().filter(|(_, roll)| !roll.is_empty());
        rolls
            .map(|(topic, roll)| (*topic, roll.snapshot(now)))
            .collect()
    }

    /// Writes entries; they are on disk when this returns. The log is made with the first, and another
    /// is put in its place when it fails.
    fn write(
        &self,
        state: &mut State,
        told: &[(Incarnation, Vec<Entry>)],
    ) -> Result<(), ProducerError> {
        let failed = |message: String| ProducerError::Storage { message };
        if state.log.is_none() {
            match self
                .store
                .create_log(&log_name(PRODUCERS)?, Durability::Synced)
            {
                Ok(log) | Err(CreateError::Exists(log)) => state.start(&log),
                Err(error) if error.is_storage_full() => {
                    let message = error.to_string();
                    return Err(ProducerError::Full { message });
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        self.replace_failed(state)?;
        let writer = state.writer.as_mut();
        let writer = writer.ok_or_else(|| failed("there is no log of producers".to_owned()))?;
        match Self::write_to(writer, told) {
            // What became of them is not known there, and told again elsewhere.
            Err(error) if !self.replace_failed(state)? => Err(error),
            Err(error) => match state.writer.as_mut() {
                Some(writer) => Self::write_to(writer, told),
                None => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn write_to(
        writer: &mut Writer,
        told: &[(Incarnation, Vec<Entry>)],
    ) -> Result<(), ProducerError> {
        let failed = |message: String| ProducerError::Storage { message };
        let written = |error: AppendError| match error {
            AppendError::Full { message } => ProducerError::Full { message },
            error => failed(format!(
                "what is remembered of producers could not be written: {error}"
            )),
        };
        let mut body = Vec::new();
        for (topic, entries) in told {
            for entry in entries {
                entry.encode(topic, &mut body);
                if body.len() >= FRAME_BYTES {
                    writer.begin().append(&mut body);
                    writer.write_synced().map_err(written)?;
                }
            }
        }
        if !body.is_empty() {
            writer.begin().append(&mut body);
            writer.write_synced().map_err(written)?;
        }
        Ok(())
    }
}

impl State {
    fn start(&mut self, log: &Arc<Log>) {
        let (first_bytes, largest_bytes) = SEGMENT_BYTES;
        millstream_storage::set_segment_sizes(log, first_bytes, largest_bytes);
        self.writer = Some(Writer::new(log, Owner::Producers));
        self.log = Some(Arc::clone(log));
    }

    /// Takes over what a log says.
    fn read(&mut self, log: &Arc<Log>) {
        let replayed = replay(log, Offset(0), |frame| match frame.owner {
            Owner::Producers => self.apply(frame.entries),
            _ => Err(Malformed { what: PRODUCERS }),
        });
        // One that was not recovered says less than was told.
        let failed = log.poisoned().map(|poisoned| poisoned.to_string());
        let unread = replayed.map_err(|error| error.to_string()).err().or(failed);
        if let Some(error) = unread {
            tracing::error!(%error, "what is remembered of producers can't be read: none is opened");
            self.unread = Some(error);
        }
    }

    fn apply(&mut self, entries: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(PRODUCERS, entries);
        while !fields.is_empty() {
            let (topic, entry) = Entry::decode(&mut fields)?;
            self.rolls.entry(topic).or_default().apply(entry);
        }
        Ok(())
    }
}

fn log_name(name: &str) -> Result<TopicName, ProducerError> {
    TopicName::parse(name).map_err(|error| ProducerError::Storage {
        message: error.to_string(),
    })
}

/// Waits until everything below `end` is `level`.
fn await_level(log: &Arc<Log>, level: Level, end: Offset) -> Result<(), ProducerError> {
    // What is waited for may not have been announced by whoever appended it.
    Appender::new(log).announce();
    let mut wait = LevelWait::new(log, level, end);
    park_until(|cx| wait.poll(cx)).map_err(|error| ProducerError::Storage {
        message: format!("whether the producer's last record is on disk can't be told: {error}"),
    })
}

#[cfg(test)]
mod tests;
