//! The broker's journal: an ordinary synced log of what must last about queues and cursors.
//!
//! One record a frame. Its body:
//! ```text
//! 0 u8  version, 1
//! 1 u8  what follows: 1 entries of a queue, 2 entries of the registry, 3 the mark of a mover;
//!       in the log `$producers` 4, its entries
//! 2 u16 0
//! 4 u32 queue id; 0 for the registry and producers
//! 8 …   the entries
//! ```
//! Each owner (a queue, the registry) has a writer of its own and writes in its own order; the order
//! between owners means nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use millstream_protocol::frame::PublisherFields;
use millstream_protocol::{Durability, Offset, TopicName};
use millstream_storage::{
    AppendError, Appender, Chunk, CreateError, Level, LevelWait, Log, Poisoned, ReadError, Store,
    park_until,
};

use super::codec::{Fields, Malformed};
use super::patient::PatientReader;
use crate::error::TopicError;

/// Name of the journal among the logs; no topic of a user begins with `$`.
pub(crate) const JOURNAL: &str = "$journal";
const VERSION: u8 = 1;
/// First and largest segment of the journal: small, so that it can be trimmed behind checkpoints.
const SEGMENT_BYTES: (u32, u32) = (1 << 20, 4 << 20);
/// Bytes of frames read at a time when it is replayed.
const REPLAY_BYTES: u32 = 1 << 20;

/// Whose entries a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A queue's scheduler.
    Queue(u32),
    /// The registry of queues and cursors.
    Registry,
    /// The mover of a queue.
    Mover(u32),
    /// What topics remember of producers, in a log of its own.
    Producers,
}

impl Owner {
    const fn code(self) -> (u8, u32) {
        match self {
            Self::Queue(id) => (1, id),
            Self::Registry => (2, 0),
            Self::Mover(id) => (3, id),
            Self::Producers => (4, 0),
        }
    }
}

/// Opens the journal, or makes it.
pub(crate) fn create(store: &Store) -> Result<Arc<Log>, TopicError> {
    let name = TopicName::parse(JOURNAL)?;
    match store.create_log(&name, Durability::Synced) {
        Ok(log) | Err(CreateError::Exists(log)) => {
            set_sizes(&log);
            Ok(log)
        }
        Err(error) => Err(crate::broker::create_error(error)),
    }
}

/// The journal, if this folder has one.
pub(crate) fn open(store: &Store) -> Option<Arc<Log>> {
    let log = store.log(&TopicName::parse(JOURNAL).ok()?)?;
    set_sizes(&log);
    Some(log)
}

pub(super) fn set_sizes(log: &Arc<Log>) {
    let (first_bytes, largest_bytes) = SEGMENT_BYTES;
    millstream_storage::set_segment_sizes(log, first_bytes, largest_bytes);
}

/// The journal in use. When its log fails another takes its place, and everybody follows (S7).
#[derive(Debug)]
pub(crate) struct Journal {
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    log: Arc<Log>,
    /// Nothing takes its place in this run when it fails.
    given_up: bool,
}

impl Journal {
    pub(super) fn new(log: &Arc<Log>) -> Arc<Self> {
        // What could not be recovered is not all in memory, and must not be written over.
        Self::made(log, log.poisoned().is_some())
    }

    fn made(log: &Arc<Log>, given_up: bool) -> Arc<Self> {
        let log = Arc::clone(log);
        Arc::new(Self {
            current: Mutex::new(Current { log, given_up }),
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.current().log)
    }

    /// Whether its log failed and another is to take its place.
    pub(super) fn is_to_be_replaced(&self) -> bool {
        let current = self.current();
        !current.given_up && current.log.poisoned().is_some()
    }

    /// Why nothing more is written in this run, if that is so.
    fn failed(&self) -> Option<Poisoned> {
        let current = self.current();
        current.log.poisoned().filter(|_| current.given_up)
    }

    /// Takes `log` into use, whose offsets go on above the old one's.
    pub(super) fn replace(&self, log: &Arc<Log>) {
        self.current().log = Arc::clone(log);
    }

    pub(super) fn give_up(&self) {
        self.current().given_up = true;
    }
}

/// Writes the frames of one owner, in order.
#[derive(Debug)]
pub(crate) struct Writer {
    journal: Arc<Journal>,
    appender: Appender,
    owner: Owner,
    /// The frame being made, or made and not in the log yet.
    body: Vec<u8>,
    /// Whether `body` is to be written before anything else.
    due: bool,
    /// Where this owner's last frame ends.
    end: Offset,
    wait: Option<(Offset, LevelWait)>,
    /// Bytes of frames since somebody was told.
    written_bytes: usize,
}

impl Writer {
    /// To a log that nothing takes the place of.
    pub(crate) fn new(log: &Arc<Log>, owner: Owner) -> Self {
        Self::of(&Journal::made(log, true), owner)
    }

    /// To the journal, whatever log that is.
    pub(super) fn of(journal: &Arc<Journal>, owner: Owner) -> Self {
        Self {
            appender: Appender::new(&journal.log()),
            journal: Arc::clone(journal),
            owner,
            body: Vec::new(),
            due: false,
            end: Offset(0),
            wait: None,
            written_bytes: 0,
        }
    }

    /// Goes over to the log that took the old one's place. What was written before lies below all of
    /// its offsets, and so counts as synced: the checkpoint in between has it.
    fn follow(&mut self) {
        let log = self.journal.log();
        if !Arc::ptr_eq(&log, self.appender.log()) {
            self.appender = Appender::new(&log);
            self.wait = None;
        }
    }

    /// Whether the journal failed and another is to take its place.
    pub(super) fn is_to_be_replaced(&self) -> bool {
        self.journal.is_to_be_replaced()
    }

    /// Why nothing more is written in this run, if that is so.
    pub(super) fn failed(&self) -> Option<Poisoned> {
        self.journal.failed()
    }

    /// Forgets the frame that was begun: what it says is on disk elsewhere.
    pub(super) fn forget(&mut self) {
        self.due = false;
    }

    /// Begins a frame; entries are appended to what is returned.
    pub(crate) fn begin(&mut self) -> &mut Vec<u8> {
        let (kind, id) = self.owner.code();
        self.body.clear();
        self.body.extend_from_slice(&[VERSION, kind, 0, 0]);
        self.body.extend_from_slice(&id.to_le_bytes());
        self.due = true;
        &mut self.body
    }

    /// Whether a frame waits for room.
    pub(crate) const fn is_due(&self) -> bool {
        self.due
    }

    /// Puts the frame that was begun into the log. Until that was done nothing else may be: the
    /// order of frames is the order of steps (Q2).
    ///
    /// # Errors
    ///
    /// [`AppendError::Rotating`] and [`AppendError::Full`]: try again when there is room.
    pub(crate) fn try_write(&mut self) -> Result<(), AppendError> {
        if !self.due {
            return Ok(());
        }
        self.follow();
        let fields = PublisherFields::single(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        let body = &self.body;
        let appended = self
            .appender
            .try_append_with(&fields, |room| room.put(body))?;
        self.appender.announce();
        self.due = false;
        self.end = appended.end;
        self.written_bytes += self.body.len();
        Ok(())
    }

    /// Whether so much was written since this last said so.
    pub(crate) fn has_written(&mut self, bytes: usize) -> bool {
        let enough = self.written_bytes >= bytes;
        if enough {
            self.written_bytes = 0;
        }
        enough
    }

    /// Ready once [`try_write`](Self::try_write) is worth another try.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.appender.poll_room(cx)
    }

    /// Where this owner's last frame ends.
    pub(crate) const fn end(&self) -> Offset {
        self.end
    }

    /// Below this all is on disk.
    pub(super) fn synced(&mut self) -> Offset {
        self.follow();
        self.appender.log().synced()
    }

    /// Whether all below `end` is on disk; if not, `cx` is woken when it is.
    ///
    /// # Errors
    ///
    /// The journal failed: it will never be.
    pub(crate) fn poll_synced(
        &mut self,
        end: Offset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AppendError>> {
        if self.synced() >= end {
            return Poll::Ready(Ok(()));
        }
        let log = self.appender.log();
        let (_, wait) = match &mut self.wait {
            Some(wait) if wait.0 == end => wait,
            wait => wait.insert((end, LevelWait::new(log, Level::Synced, end))),
        };
        let reached = ready!(wait.poll(cx));
        self.wait = None;
        Poll::Ready(reached)
    }

    /// Writes the frame that was begun and waits until it is on disk, blocking.
    ///
    /// # Errors
    ///
    /// The journal failed or was closed, or the disk is full; with the last the frame was not written.
    pub(crate) fn write_synced(&mut self) -> Result<(), AppendError> {
        loop {
            match self.try_write() {
                Ok(()) => break,
                Err(AppendError::Rotating) => park_until(|cx| self.poll_room(cx)),
                Err(error) => {
                    self.due = false;
                    return Err(error);
                }
            }
        }
        let end = self.end;
        park_until(|cx| self.poll_synced(end, cx))
    }
}

/// One frame of the journal.
#[derive(Debug)]
pub(crate) struct JournalFrame<'a> {
    pub(crate) owner: Owner,
    /// Offset of the frame.
    pub(crate) at: Offset,
    pub(crate) entries: &'a [u8],
}

/// Reads the journal from `from` on to its end as it is now, and gives each frame to `take`.
///
/// # Errors
///
/// A frame that this version did not write. Frames that are lost to damage are told in the log and
/// passed over: what they settled will be delivered again.
pub(crate) fn replay(
    log: &Arc<Log>,
    from: Offset,
    mut take: impl FnMut(&JournalFrame<'_>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let from = from.max(log.first_offset());
    let mut reader = PatientReader::new(log, millstream_protocol::Start::Offset(from));
    while reader.next_offset() < log.high_watermark() {
        match reader.next(REPLAY_BYTES) {
            Ok(Chunk::Frames(slice)) => replay_slice(&slice, from, &mut take)?,
            Ok(Chunk::Gap(gap)) => {
                if gap.reason == millstream_protocol::control::GapReason::Damaged {
                    tracing::error!(
                        first = gap.first_offset.0,
                        next = gap.next_offset.0,
                        journal = %log.identity().name,
                        "the journal is damaged: what was settled there is delivered again, and producers told there are forgotten"
                    );
                }
            }
            Err(ReadError::Closed | ReadError::Poisoned(_)) => break,
            Err(_) => break,
        }
    }
    Ok(())
}

fn replay_slice(
    slice: &millstream_storage::FrameSlice,
    from: Offset,
    take: &mut impl FnMut(&JournalFrame<'_>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    use millstream_protocol::frame::{FrameKind, walk_stored};
    let place = slice.place();
    let (mut rest, mut position) = (slice.as_bytes(), place.position);
    while !rest.is_empty() {
        let frame =
            walk_stored(rest, place.seed, position, place.nonce_half).map_err(|_| Malformed {
                what: "journal frame",
            })?;
        let header = frame.header();
        if header.fields.kind == FrameKind::Single && header.base_offset >= from {
            take(&parse(header.base_offset, frame.body())?)?;
        }
        rest = rest.get(frame.frame_bytes() as usize..).unwrap_or_default();
        position += frame.frame_bytes();
    }
    Ok(())
}

pub(super) fn parse(at: Offset, body: &[u8]) -> Result<JournalFrame<'_>, Malformed> {
    let mut fields = Fields::new("journal frame", body);
    let [version, kind, 0, 0] = fields.array()? else {
        return Err(fields.malformed());
    };
    let id = fields.u32()?;
    let owner = match (version, kind, id) {
        (VERSION, 1, id) => Owner::Queue(id),
        (VERSION, 2, 0) => Owner::Registry,
        (VERSION, 3, id) => Owner::Mover(id),
        (VERSION, 4, 0) => Owner::Producers,
        _ => return Err(fields.malformed()),
    };
    Ok(JournalFrame {
        owner,
        at,
        entries: fields.rest(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_another_version_is_refused() {
        assert!(parse(Offset(0), &[1, 1, 0, 0, 7, 0, 0, 0]).is_ok());
        assert!(parse(Offset(0), &[2, 1, 0, 0, 7, 0, 0, 0]).is_err());
        assert!(parse(Offset(0), &[1, 9, 0, 0, 7, 0, 0, 0]).is_err());
        assert!(parse(Offset(0), &[1, 1, 0]).is_err());
    }
}
