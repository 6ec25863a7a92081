//! Named durable cursors: a reader's position that the broker keeps.

use std::sync::Arc;

use millstream_protocol::control::CursorInfo;
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::{Log, LogReader};

use super::definition::{Change, CursorState};
use super::error::QueueError;
use super::registry::{Queues, check_public, is_reserved};
use crate::error::TopicError;
use crate::reader::Reader;

/// A position in a topic kept under a name, so that a reader goes on where it was, also after a
/// restart. Clones are the same cursor.
#[derive(Debug, Clone)]
pub struct Cursor {
    queues: Arc<Queues>,
    log: Arc<Log>,
    name: TopicName,
}

impl Cursor {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.log.identity().name
    }

    /// Its name among the topic's cursors.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// The next record to read; where the topic begins while nothing was committed.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.queues
            .find_cursor(&self.log, &self.name)
            .map_or(self.log.first_offset(), |cursor| cursor.offset)
    }

    /// Visible records behind it.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.log.high_watermark().since(self.offset()).unwrap_or(0)
    }

    /// Keeps `next` as the next record to read; it is on disk when this returns. Also goes back:
    /// what it says is what holds.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn commit(&self, next: Offset) -> Result<(), QueueError> {
        self.queues.set_cursor(&self.log, &self.name, next)
    }

    /// Moves the cursor to where `start` is now.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn seek(&self, start: Start) -> Result<Offset, QueueError> {
        let mut reader = LogReader::new(&self.log, start);
        let offset = millstream_storage::park_until(|cx| reader.poll_start(cx));
        self.commit(offset)?;
        Ok(offset)
    }

    /// A reader from here on. Reading does not move the cursor; committing does.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(LogReader::new(&self.log, Start::Offset(self.offset())))
    }
}

impl Queues {
    /// The cursor `name` of `topic`, which need not have been committed yet.
    pub(crate) fn cursor(self: &Arc<Self>, topic: &str, name: &str) -> Result<Cursor, QueueError> {
        let topic = TopicName::parse(topic).map_err(TopicError::Name)?;
        let name = TopicName::parse(name).map_err(TopicError::Name)?;
        check_public(&name)?;
        self.check_online()?;
        let log = self.log(&topic).filter(|_| !is_reserved(&topic));
        let log = log.ok_or(TopicError::NotFound { name: topic })?;
        Ok(Cursor {
            queues: Arc::clone(self),
            log,
            name,
        })
    }

    fn find_cursor(&self, log: &Arc<Log>, name: &TopicName) -> Option<CursorState> {
        let key = (log.identity().name.clone(), name.clone());
        let state = self.state();
        let cursor = state.cursors.get(&key)?;
        // One of a topic that had the name before says nothing about this one.
        (cursor.incarnation == log.identity().incarnation).then(|| cursor.clone())
    }

    fn set_cursor(
        self: &Arc<Self>,
        log: &Arc<Log>,
        name: &TopicName,
        offset: Offset,
    ) -> Result<(), QueueError> {
        let cursor = CursorState {
            topic: log.identity().name.clone(),
            incarnation: log.identity().incarnation,
            name: name.clone(),
            offset,
            updated_us: self.clock.now().wall_us,
        };
        let mut state = self.state();
        self.commit(&mut state, &[Change::Cursor(cursor.clone())])?;
        let key = (cursor.topic.clone(), name.clone());
        state.cursors.insert(key, cursor);
        Ok(())
    }

    /// What there is to say about one cursor.
    pub(crate) fn cursor_info(&self, cursor: &Cursor) -> Result<CursorInfo, QueueError> {
        let found = self.find_cursor(&cursor.log, &cursor.name);
        let found = found.ok_or_else(|| QueueError::CursorNotFound {
            topic: cursor.topic().clone(),
            name: cursor.name.clone(),
        })?;
        Ok(info(found, &cursor.log))
    }

    /// The cursors of one topic, or all, by topic and name.
    pub(crate) fn cursors(&self, topic: Option<&TopicName>) -> Vec<CursorInfo> {
        let cursors: Vec<CursorState> = self.state().cursors.values().cloned().collect();
        cursors
            .into_iter()
            .filter(|cursor| topic.is_none_or(|topic| cursor.topic == *topic))
            .filter_map(|cursor| {
                let log = self.log(&cursor.topic)?;
                (log.identity().incarnation == cursor.incarnation).then(|| info(cursor, &log))
            })
            .collect()
    }

    /// Forgets a cursor.
    pub(crate) fn delete_cursor(self: &Arc<Self>, cursor: &Cursor) -> Result<(), QueueError> {
        self.cursor_info(cursor)?;
        let incarnation = cursor.log.identity().incarnation;
        let name = cursor.name.clone();
        let mut state = self.state();
        self.commit(&mut state, &[Change::CursorDeleted(incarnation, name)])?;
        let key = (cursor.topic().clone(), cursor.name.clone());
        state.cursors.remove(&key);
        Ok(())
    }
}

fn info(cursor: CursorState, log: &Arc<Log>) -> CursorInfo {
    CursorInfo {
        topic: cursor.topic,
        name: cursor.name,
        offset: cursor.offset,
        end_offset: log.high_watermark(),
        updated_us: cursor.updated_us,
    }
}
