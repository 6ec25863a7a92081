//! Carries moved records over: dead letters to their queue, redriven ones back (Q4).
//!
//! The journal says that a record is moved; it is on disk before the copy is made. The copy carries
//! the queue and the move's number as its producer and sequence, so that a restart finds which
//! copies were made already. The record stays unsettled in its own topic until the copy is synced
//! and the journal knows.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_protocol::batch::{BatchBuilder, Message, Record};
use millstream_protocol::frame::{ProducerStamp, walk_stored};
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::{AppendError, Appender, Chunk, Level, Log, LogReader, park_until};

use super::fetcher::Fetcher;
use super::journal::{Owner, Writer};
use super::notes;
use super::recovery::{Mark, Marks, encode_mark};
use super::registry::Queues;
use super::scheduler::{Input, PendingMove, Reason};
use super::shared::{Message as QueueMessage, QueueShared};

/// Moves carried out together, with one sync.
const MOVES_TOGETHER: usize = 256;
/// Producers of moved records: this bit and the queue's id.
const MOVER: u64 = 1 << 63;
/// Bytes of frames looked at together when copies are searched for.
const SEARCH_BYTES: u32 = 1 << 20;

/// The mover of one queue. Used by one thread.
#[derive(Debug)]
pub(super) struct Mover {
    writer: Writer,
    fetcher: Fetcher,
    marks: Marks,
    /// What was appended by topic: the highest number, and by whom.
    targets: HashMap<TopicName, Target>,
    builder: BatchBuilder,
}

#[derive(Debug)]
struct Target {
    appender: Appender,
    highest: u64,
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
    pub(super) fn new(journal: &Arc<Log>, queue: u32, topic: &Arc<Log>, marks: Marks) -> Self {
        Self {
            writer: Writer::new(journal, Owner::Mover(queue)),
            fetcher: Fetcher::new(topic),
            marks,
            targets: HashMap::new(),
            builder: BatchBuilder::new(),
        }
    }

    pub(super) const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Carries out the moves that wait, some at a time; true if all were.
    pub(super) fn run(&mut self, queues: &Queues, queue: &Arc<QueueShared>) -> bool {
        loop {
            let (moves, journal_end) = queue.look(|core, _| {
                let moves: Vec<PendingMove> = core
                    .scheduler
                    .pending_moves(0)
                    .take(MOVES_TOGETHER)
                    .cloned()
                    .collect();
                (moves, core.writer.end())
            });
            let Some(through) = moves.last().map(|last| last.number) else {
                return true;
            };
            let done = self
                .await_journal(journal_end)
                .and_then(|()| self.carry_over(queues, queue, &moves));
            if let Err(Stopped(reason)) = done {
                tracing::warn!(queue = %queue.name, %reason, "moving dead letters waits");
                return false;
            }
            queue.send(QueueMessage::Ask(Box::new(move |core, now| {
                core.step(now, Input::Applied { through });
            })));
        }
    }

    /// Waits until the journal says on disk that the records are moved.
    fn await_journal(&mut self, end: Offset) -> Result<(), Stopped> {
        Ok(park_until(|cx| self.writer.poll_synced(end, cx))?)
    }

    fn carry_over(
        &mut self,
        queues: &Queues,
        queue: &Arc<QueueShared>,
        moves: &[PendingMove],
    ) -> Result<(), Stopped> {
        let mut letters = Vec::new();
        for moved in moves {
            let fetched = park_until(|cx| self.fetcher.poll_fetch(moved.offset, cx)).ok();
            letters.push((moved.number, address(queues, queue, moved, fetched)?));
        }
        self.mark_targets(queues, queue, &letters)?;
        for (number, (topic, message)) in &letters {
            self.append(queue.id, topic, *number, message)?;
        }
        for target in self.targets.values_mut() {
            target.appender.announce();
            // Also what an earlier attempt appended before it was stopped.
            let end = target.appender.log().committed();
            park_until(|cx| target.appender.poll_reached(Level::Synced, end, cx))?;
        }
        Ok(())
    }

    /// Says in the journal where the copies about to be made can be, and finds what was made before.
    fn mark_targets(
        &mut self,
        queues: &Queues,
        queue: &Arc<QueueShared>,
        letters: &[(u64, (TopicName, Message))],
    ) -> Result<(), Stopped> {
        let mut fresh = Marks::new();
        for (number, (topic, _)) in letters {
            if fresh.contains_key(topic) {
                continue;
            }
            if !self.targets.contains_key(topic) {
                let log = queues
                    .log(topic)
                    .ok_or_else(|| Stopped(format!("there is no topic {:?}", topic.as_str())))?;
                let highest = highest_copy(&log, queue.id, self.marks.get(topic));
                let appender = Appender::new(&log);
                let target = Target { appender, highest };
                self.targets.insert(topic.clone(), target);
            }
            if let Some(target) = self.targets.get(topic) {
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
        self.marks.extend(fresh);
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

/// Where a moved record goes, and as what.
fn address(
    queues: &Queues,
    queue: &Arc<QueueShared>,
    moved: &PendingMove,
    fetched: Option<Record>,
) -> Result<(TopicName, Message), Stopped> {
    let own = &queue.topic.identity().name;
    let Some(record) = fetched else {
        let message = notes::unreadable(moved, queue.name.as_str(), own.as_str());
        return Ok((dead_letter_topic(queues, queue)?, message));
    };
    if moved.why != Reason::Redriven {
        let message = notes::dead_letter(&record, moved, queue.name.as_str(), own.as_str());
        return Ok((dead_letter_topic(queues, queue)?, message));
    }
    let source = notes::header_text(&record, notes::QUEUE);
    let home = source.as_deref().and_then(|name| queues.topic_of(name));
    match (source, home) {
        (Some(name), Some(topic)) => Ok((topic, notes::redriven(&record, &name))),
        // The queue it died in is gone: it stays a dead letter.
        _ => Ok((own.clone(), notes::kept(&record))),
    }
}

fn dead_letter_topic(queues: &Queues, queue: &Arc<QueueShared>) -> Result<TopicName, Stopped> {
    queues
        .dead_letter_topic(&queue.name)
        .map_err(|error| Stopped(error.to_string()))
}

/// The highest number of a copy by this queue's mover in `log`.
fn highest_copy(log: &Arc<Log>, queue: u32, mark: Option<&Mark>) -> u64 {
    let from = mark.map_or(Offset(0), |mark| mark.offset);
    let mut highest = mark.map_or(0, |mark| mark.number.saturating_sub(1));
    let mut reader = LogReader::new(log, Start::Offset(from.max(log.first_offset())));
    while reader.next_offset() < log.high_watermark() {
        let Ok(chunk) = park_until(|cx| reader.poll_next(SEARCH_BYTES, cx)) else {
            break;
        };
        let Chunk::Frames(slice) = chunk else {
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
    highest
}
