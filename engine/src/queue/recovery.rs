//! What the journal and its last checkpoint say, put together when the broker opens.
//!
//! A checkpoint is one file (`storage` writes it whole, checksummed, two are kept):
//! ```text
//! u32 version, 1
//! u64 position of the registry: its entries below are included
//! u64 length | changes that make the registry what it was
//! then for each queue
//! u32 id | u64 position | u64 length | durable state | u32 marks | marks
//! ```
//! Restart costs what is unsettled and what the journal holds behind the checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use millstream_protocol::{Offset, TopicName};
use millstream_storage::{Checkpoints, Log, Store};

use super::codec::{Fields, Malformed, put_bytes, put_text};
use super::definition::{Change, CursorState, Definition, TopicRetention};
use super::journal::{self, JournalFrame, Owner};
use super::patient::{PAUSE, TRIES};
use super::scheduler::{Durable, Entry};

const VERSION: u32 = 1;

/// Where copies of moved records with this number and above can be in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) offset: Offset,
}

/// Marks by topic name.
pub(super) type Marks = BTreeMap<TopicName, Mark>;

pub(super) fn encode_mark(topic: &TopicName, mark: &Mark, out: &mut Vec<u8>) {
    put_text(out, topic.as_str());
    out.extend_from_slice(&mark.number.to_le_bytes());
    out.extend_from_slice(&mark.offset.0.to_le_bytes());
}

fn decode_mark(fields: &mut Fields<'_>) -> Result<(TopicName, Mark), Malformed> {
    let topic = TopicName::parse(fields.text()?).map_err(|_| fields.malformed())?;
    let number = fields.u64()?;
    let offset = Offset(fields.u64()?);
    Ok((topic, Mark { number, offset }))
}

/// A queue as it is to be brought back.
#[derive(Debug)]
pub(super) struct RecoveredQueue {
    pub(super) definition: Definition,
    pub(super) durable: Durable,
    pub(super) marks: Marks,
    /// Its frames below are included.
    position: Offset,
}

impl RecoveredQueue {
    /// Its frames below are included.
    #[cfg(test)]
    pub(super) const fn position(&self) -> Offset {
        self.position
    }

    /// A queue that is made now.
    pub(super) fn new(definition: Definition, durable: Durable) -> Self {
        Self {
            definition,
            durable,
            marks: Marks::new(),
            position: Offset(0),
        }
    }
}

/// All that the journal keeps.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) queues: BTreeMap<u32, RecoveredQueue>,
    pub(super) cursors: BTreeMap<(TopicName, TopicName), CursorState>,
    pub(super) retentions: BTreeMap<TopicName, TopicRetention>,
    pub(super) next_id: u32,
    /// What of the journal the checkpoint that was read needs; `None` where there was none.
    pub(super) keep_from: Option<Offset>,
    /// Where a check began to replay the journal.
    pub(super) started_from: Offset,
    position: Offset,
}

impl Recovered {
    /// Reads the newest checkpoint that is sound, and the journal behind it; without one, a journal
    /// that still has its beginning says all by itself.
    ///
    /// # Errors
    ///
    /// What the checkpoints say is not known, and without it queues and what was settled would be
    /// forgotten.
    pub(super) fn read(store: &Store, log: &Arc<Log>) -> io::Result<Self> {
        let found = match newest(&store.checkpoints()) {
            Err(error) if log.first_offset() == Offset(0) => {
                tracing::error!(%error, "no checkpoint can be used: the journal has all from its beginning");
                None
            }
            found => found?,
        };
        let found_one = found.is_some();
        let mut recovered = found.unwrap_or_default();
        let from = recovered.needed_from();
        recovered.keep_from = found_one.then_some(from);
        let replayed = journal::replay(log, from, |frame| recovered.apply(frame));
        if let Err(error) = replayed {
            tracing::error!(%error, "the journal can't be read to its end: what was settled behind it is delivered again");
        }
        Ok(recovered)
    }

    /// Where in the journal what is not included yet begins.
    pub(super) fn needed_from(&self) -> Offset {
        let positions = self.queues.values().map(|queue| queue.position);
        positions.fold(self.position, Offset::min)
    }

    pub(super) fn from_checkpoint(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("checkpoint", bytes);
        if fields.u32()? != VERSION {
            return Err(fields.malformed());
        }
        let mut recovered = Self {
            position: Offset(fields.u64()?),
            ..Self::default()
        };
        let mut changes = Fields::new("checkpoint of the registry", fields.bytes()?);
        while !changes.is_empty() {
            recovered.change(Change::decode(&mut changes)?, recovered.position);
        }
        while !fields.is_empty() {
            let id = fields.u32()?;
            let position = Offset(fields.u64()?);
            let durable = Durable::decode(fields.bytes()?).map_err(|_| fields.malformed())?;
            let marks = fields.u32()?;
            let queue = recovered.queues.get_mut(&id);
            let queue = queue.ok_or(fields.malformed())?;
            for _ in 0..marks {
                let (topic, mark) = decode_mark(&mut fields)?;
                queue.marks.insert(topic, mark);
            }
            queue.durable = durable;
            queue.position = position;
        }
        Ok(recovered)
    }

    pub(super) fn apply(&mut self, frame: &JournalFrame<'_>) -> Result<(), Malformed> {
        let mut fields = Fields::new("journal entries", frame.entries);
        match frame.owner {
            Owner::Registry if frame.at >= self.position => {
                while !fields.is_empty() {
                    self.change(Change::decode(&mut fields)?, frame.at);
                }
            }
            Owner::Queue(id) => {
                if let Some(queue) = self.queues.get_mut(&id)
                    && frame.at >= queue.position
                {
                    let folded =
                        Entry::decode_all(frame.entries, |entry| queue.durable.apply(&entry));
                    folded.map_err(|_| fields.malformed())?;
                }
            }
            Owner::Mover(id) => {
                if let Some(queue) = self.queues.get_mut(&id)
                    && frame.at >= queue.position
                {
                    while !fields.is_empty() {
                        let (topic, mark) = decode_mark(&mut fields)?;
                        queue.marks.insert(topic, mark);
                    }
                }
            }
            Owner::Registry => {}
            // They have a log of their own.
            Owner::Producers => return Err(fields.malformed()),
        }
        Ok(())
    }

    fn change(&mut self, change: Change, at: Offset) {
        match change {
            Change::Queue(definition) => {
                self.next_id = self.next_id.max(definition.id + 1);
                let start = definition.start;
                match self.queues.get_mut(&definition.id) {
                    Some(queue) => queue.definition = definition,
                    None => {
                        let queue = RecoveredQueue {
                            durable: Durable::new(start),
                            marks: Marks::new(),
                            position: at,
                            definition,
                        };
                        self.queues.insert(queue.definition.id, queue);
                    }
                }
            }
            Change::QueueDeleted(id) => {
                self.queues.remove(&id);
            }
            Change::Cursor(cursor) => {
                let key = (cursor.topic.clone(), cursor.name.clone());
                self.cursors.insert(key, cursor);
            }
            Change::CursorDeleted(incarnation, name) => self
                .cursors
                .retain(|_, cursor| cursor.incarnation != incarnation || cursor.name != name),
            Change::NextId(id) => self.next_id = self.next_id.max(id),
            Change::Retention(kept) => {
                self.retentions.insert(kept.topic.clone(), kept);
            }
        }
    }
}

/// The newest checkpoint that is sound, if there are any. A disk that can't read now is asked again.
fn newest(checkpoints: &Checkpoints) -> io::Result<Option<Recovered>> {
    let mut tried = 0;
    let loaded = loop {
        match checkpoints.load() {
            Err(error) if tried < TRIES && error.kind() != io::ErrorKind::InvalidData => {
                tried += 1;
                std::thread::sleep(PAUSE);
            }
            loaded => break loaded?,
        }
    };
    let mut useless = None;
    for (number, bytes) in loaded {
        match Recovered::from_checkpoint(&bytes) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => {
                tracing::error!(number, %error, "a checkpoint is passed over for the one before");
                useless.get_or_insert(error);
            }
        }
    }
    match useless {
        Some(error) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            error.to_string(),
        )),
        None => Ok(None),
    }
}

/// One queue's part of a checkpoint.
#[derive(Debug)]
pub(super) struct QueueSection {
    pub(super) id: u32,
    pub(super) position: Offset,
    pub(super) durable: Vec<u8>,
    pub(super) marks: Marks,
}

/// The bytes of a checkpoint.
pub(super) fn encode_checkpoint(
    position: Offset,
    changes: &[Change],
    queues: &[QueueSection],
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&position.0.to_le_bytes());
    let mut registry = Vec::new();
    for change in changes {
        change.encode(&mut registry);
    }
    put_bytes(&mut out, &registry);
    for queue in queues {
        out.extend_from_slice(&queue.id.to_le_bytes());
        out.extend_from_slice(&queue.position.0.to_le_bytes());
        put_bytes(&mut out, &queue.durable);
        let marks = u32::try_from(queue.marks.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&marks.to_le_bytes());
        for (topic, mark) in &queue.marks {
            encode_mark(topic, mark, &mut out);
        }
    }
    out
}
