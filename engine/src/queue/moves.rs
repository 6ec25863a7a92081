//! Carries moved records over: dead letters to their queue, redriven ones back (Q4).
//!
//! The journal says that a record is moved; it is on disk before the copy is made. The copy carries
//! the queue and the move's number as its producer and sequence, so that a restart finds which
//! copies were made already. The record stays unsettled in its own topic until the copy is synced
//! and the journal knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_protocol::batch::{BatchBuilder, Message, Record};
use millstream_protocol::frame::{ProducerStamp, walk_stored};
use millstream_protocol::limits::BODY_BYTES_MAX;
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::{AppendError, Appender, Chunk, Level, Log, LogReader, park_until};

use super::error::QueueError;
use super::fetcher::{Fetcher, Unreadable};
use super::journal::{Journal, Owner, Writer};
use super::notes;
use super::recovery::{Mark, Marks, encode_mark};
use super::registry::Queues;
use super::scheduler::{Input, PendingMove, Reason};
use super::shared::QueueShared;

/// Moves carried out together, with one sync.
const MOVES_TOGETHER: usize = 256;
/// Producers of moved records: this bit and the queue's id.
pub(super) const MOVER: u64 = 1 << 63;
/// Bodies from here on may leave no room for notes in a frame.
const LARGE_BYTES: usize = BODY_BYTES_MAX - (64 << 10);
/// Bytes of frames looked at together when copies are searched for.
const SEARCH_BYTES: u32 = 1 << 20;

/// Marks that a checkpoint may copy while moves are under way.
pub(super) type SharedMarks = Arc<Mutex<Marks>>;

/// The mover of one queue. Used by one thread.
#[derive(Debug)]
pub(super) struct Mover {
    writer: Writer,
    fetcher: Fetcher,
    marks: SharedMarks,
    /// Some moves may not be applied on disk.
    pending: bool,
    /// What was appended by topic: the highest number, and by whom.
    targets: BTreeMap<TopicName, Target>,
    builder: BatchBuilder,
}

#[derive(Debug)]
struct Target {
    appender: Appender,
    highest: u64,
}

impl Target {
    fn log(&self) -> &Arc<Log> {
        self.appender.log()
    }

    /// Waits until all that was appended is on disk, also by an attempt that was stopped.
    fn sync(&mut self) -> Result<(), Stopped> {
        self.appender.announce();
        let end = self.log().committed();
        Ok(park_until(|cx| {
            self.appender.poll_reached(Level::Synced, end, cx)
        })?)
    }
}

/// Why moves stopped; they are tried again.
#[derive(Debug)]
struct Stopped(String);

impl From<AppendError> for Stopped {
    fn from(error: AppendError) -> Self {
        Self(error.to_string())
    }
}

impl Mover {
    pub(super) fn new(journal: &Arc<Journal>, queue: u32, topic: &Arc<Log>, marks: Marks) -> Self {
        Self {
            writer: Writer::of(journal, Owner::Mover(queue)),
            fetcher: Fetcher::new(topic),
            marks: Arc::new(Mutex::new(marks)),
            // A restart does not know.
            pending: true,
            targets: BTreeMap::new(),
            builder: BatchBuilder::new(),
        }
    }

    pub(super) fn marks(&self) -> SharedMarks {
        Arc::clone(&self.marks)
    }

    fn lock_marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where copies of moves may be that the journal does not call applied, on disk: a restart
    /// would look for them from there on.
    pub(super) fn unapplied(&self) -> Vec<(TopicName, Offset)> {
        if !self.pending {
            return Vec::new();
        }
        let marks = self.lock_marks();
        let places = marks
            .iter()
            .map(|(topic, mark)| (topic.clone(), mark.offset));
        places.collect()
    }

    /// Carries out the moves that wait, some at a time; true if all were, and the journal says so on
    /// disk.
    pub(super) fn run(&mut self, queues: &Arc<Queues>, queue: &Arc<QueueShared>) -> bool {
        match self.run_all(queues, queue) {
            Ok(()) => true,
            Err(Stopped(reason)) => {
                tracing::warn!(queue = %queue.name, %reason, "moving records to another queue waits");
                false
            }
        }
    }

    fn run_all(&mut self, queues: &Arc<Queues>, queue: &Arc<QueueShared>) -> Result<(), Stopped> {
        loop {
            let there = Arc::clone(queue);
            let looked = queue.look(move |core, now| {
                // What is not in the journal yet must not be anywhere else.
                let journal_end = core.flush(&there, now)?;
                let moves = core.scheduler.pending_moves(0).take(MOVES_TOGETHER);
                Some((moves.cloned().collect::<Vec<PendingMove>>(), journal_end))
            });
            let (moves, journal_end) = found(looked)?;
            let Some(through) = moves.last().map(|last| last.number) else {
                if self.pending {
                    // Until then copies must be found again, so nothing trims them.
                    self.await_journal(journal_end)?;
                    self.pending = false;
                }
                return Ok(());
            };
            self.pending = true;
            self.await_journal(journal_end)?;
            self.carry_over(queues, queue, &moves)?;
            let there = Arc::clone(queue);
            // Steps wait while a frame does (Q2), but this thread must not: it is the one that puts
            // another journal in the place of one that failed.
            let applied = queue.look(move |core, now| {
                core.flush(&there, now)?;
                let goes_on = !core.is_closed();
                goes_on.then(|| core.step(now, Input::Applied { through }))
            });
            found(applied)?;
        }
    }

    /// Waits until the journal says on disk that the records are moved.
    fn await_journal(&mut self, end: Offset) -> Result<(), Stopped> {
        Ok(park_until(|cx| self.writer.poll_synced(end, cx))?)
    }

    fn carry_over(
        &mut self,
        queues: &Arc<Queues>,
        queue: &Arc<QueueShared>,
        moves: &[PendingMove],
    ) -> Result<(), Stopped> {
        let mut letters = Vec::new();
        for moved in moves {
            let fetched = match park_until(|cx| self.fetcher.poll_find(moved.offset, cx)) {
                Ok(()) => self.fetcher.take_found().map(|record| record.to_record()),
                Err(Unreadable::Lost) => None,
                Err(Unreadable::NotNow) => {
                    let offset = moved.offset;
                    return Err(Stopped(format!("record {offset} can't be read now")));
                }
            };
            let mut letter = address(queues, queue, moved, fetched.as_ref())?;
            if !self.fits(&letter.1)
                && let Some(record) = &fetched
            {
                letter = without_notes(queues, queue, moved, record)?;
            }
            letters.push((moved.number, letter));
        }
        self.mark_targets(queues, queue, &letters)?;
        for (number, (topic, message)) in &letters {
            self.append(queue.id, topic, *number, message)?;
        }
        for target in self.targets.values_mut() {
            target.sync()?;
        }
        Ok(())
    }

    /// Whether the message fits into a frame: one of the largest may not, with notes on it.
    fn fits(&mut self, message: &Message) -> bool {
        if message.body().len() < LARGE_BYTES {
            return true;
        }
        self.builder.clear();
        self.builder.push_noted(message).is_ok()
    }

    /// Says in the journal where the copies about to be made can be, and finds what was made before.
    fn mark_targets(
        &mut self,
        queues: &Arc<Queues>,
        queue: &Arc<QueueShared>,
        letters: &[(u64, (TopicName, Message))],
    ) -> Result<(), Stopped> {
        let mut fresh = Marks::new();
        for (number, (topic, _)) in letters {
            if fresh.contains_key(topic) {
                continue;
            }
            let log = queues
                .log(topic)
                .ok_or_else(|| Stopped(format!("there is no topic {:?}", topic.as_str())))?;
            let incarnation = log.identity().incarnation;
            let known = self.targets.get(topic);
            if known.is_none_or(|known| known.log().identity().incarnation != incarnation) {
                let mark = match known {
                    // It was deleted and made again: nothing of this queue is in it.
                    Some(_) => None,
                    None => self.lock_marks().get(topic).cloned(),
                };
                let highest = highest_copy(&log, queue.id, mark.as_ref())?;
                let appender = Appender::new(&log);
                let target = Target { appender, highest };
                self.targets.insert(topic.clone(), target);
            }
            if let Some(target) = self.targets.get_mut(topic) {
                if target.highest >= *number {
                    // Made in an attempt that was stopped: the mark will say so, so it is synced first.
                    target.sync()?;
                }
                let offset = target.appender.log().committed();
                let number = (*number).max(target.highest + 1);
                fresh.insert(topic.clone(), Mark { number, offset });
            }
        }
        let out = self.writer.begin();
        for (topic, mark) in &fresh {
            encode_mark(topic, mark, out);
        }
        self.writer.write_synced()?;
        self.lock_marks().extend(fresh);
        Ok(())
    }

    /// Appends one copy, unless it was made before.
    fn append(
        &mut self,
        queue: u32,
        topic: &TopicName,
        number: u64,
        message: &Message,
    ) -> Result<(), Stopped> {
        let Some(target) = self.targets.get_mut(topic) else {
            return Ok(());
        };
        if number <= target.highest {
            return Ok(());
        }
        self.builder.clear();
        self.builder
            .push_noted(message)
            .map_err(|error| Stopped(error.to_string()))?;
        let mut fields = self.builder.fields();
        fields.producer = ProducerStamp {
            id: MOVER | u64::from(queue),
            epoch: 1,
            sequence: number,
        };
        let builder = &self.builder;
        loop {
            let appended = target
                .appender
                .try_append_with(&fields, |room| builder.write_body(room));
            match appended {
                Ok(_) => {
                    target.highest = number;
                    return Ok(());
                }
                Err(AppendError::Rotating) => park_until(|cx| target.appender.poll_room(cx)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the queue said, if it goes on and its journal has room.
fn found<T>(looked: Result<Option<T>, QueueError>) -> Result<T, Stopped> {
    let found = looked.map_err(|error| Stopped(error.to_string()))?;
    found.ok_or_else(|| Stopped("the queue's journal has no room, or it ended".to_owned()))
}

/// Where a moved record goes, and as what.
fn address(
    queues: &Arc<Queues>,
    queue: &Arc<QueueShared>,
    moved: &PendingMove,
    fetched: Option<&Record>,
) -> Result<(TopicName, Message), Stopped> {
    let own = &queue.topic.identity().name;
    let Some(record) = fetched else {
        let message = notes::unreadable(moved, queue.name.as_str(), own.as_str());
        return Ok((dead_letter_topic(queues, queue)?, message));
    };
    if moved.why != Reason::Redriven {
        let message = notes::dead_letter(record, moved, queue.name.as_str(), own.as_str());
        return Ok((dead_letter_topic(queues, queue)?, message));
    }
    let source = notes::header_text(record, notes::QUEUE);
    let home = source.as_deref().and_then(|name| queues.topic_of(name));
    match (source, home) {
        (Some(name), Some(topic)) => Ok((topic, notes::redriven(record, &name))),
        // The queue it died in is gone: it stays a dead letter.
        _ => Ok((own.clone(), notes::kept(record))),
    }
}

/// The same for a record so large that no notes fit on it. What is redriven stays a dead letter:
/// without a note every queue of the topic would get it.
fn without_notes(
    queues: &Arc<Queues>,
    queue: &Arc<QueueShared>,
    moved: &PendingMove,
    record: &Record,
) -> Result<(TopicName, Message), Stopped> {
    let topic = match moved.why {
        Reason::Redriven => queue.topic.identity().name.clone(),
        _ => dead_letter_topic(queues, queue)?,
    };
    Ok((topic, notes::kept(record)))
}

fn dead_letter_topic(queues: &Arc<Queues>, queue: &Arc<QueueShared>) -> Result<TopicName, Stopped> {
    queues
        .dead_letter_topic(&queue.name)
        .map_err(|error| Stopped(error.to_string()))
}

/// The highest number of a copy by this queue's mover in `log`.
fn highest_copy(log: &Arc<Log>, queue: u32, mark: Option<&Mark>) -> Result<u64, Stopped> {
    // A mark is on disk before the first copy is made: without one there is none.
    let Some(mark) = mark else {
        return Ok(0);
    };
    let mut highest = mark.number.saturating_sub(1);
    let from = mark.offset.max(log.first_offset());
    let mut reader = LogReader::new(log, Start::Offset(from));
    while reader.next_offset() < log.high_watermark() {
        let Ok(chunk) = park_until(|cx| reader.poll_next(SEARCH_BYTES, cx)) else {
            break;
        };
        let Chunk::Frames(slice) = chunk else {
            if reader.gap_may_pass() {
                // A copy may be there, and would be made a second time.
                return Err(Stopped("the disk can't read what was moved now".to_owned()));
            }
            continue;
        };
        let place = slice.place();
        let (mut rest, mut position) = (slice.as_bytes(), place.position);
        while let Ok(frame) = walk_stored(rest, place.seed, position, place.nonce_half) {
            let producer = frame.header().fields.producer;
            if producer.id == MOVER | u64::from(queue) {
                highest = highest.max(producer.sequence);
            }
            rest = rest.get(frame.frame_bytes() as usize..).unwrap_or_default();
            position += frame.frame_bytes();
            if rest.is_empty() {
                break;
            }
        }
    }
    Ok(highest)
}
