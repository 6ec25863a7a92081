//! Cursors: a reader's place in a topic, kept by the broker under a name.

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{Number, Text, archived_message, bounded, maybe_name, offset, topic_name};
use crate::limits::{CURSORS_PER_LIST_MAX, TOPIC_NAME_BYTES_MAX};
use crate::{Offset, TopicName};

/// Sets a cursor, and makes it when it is not there; answered by a [`CursorInfo`] once that is on
/// disk.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct SetCursor {
    /// The topic it is a place in.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Its name, which follows the rules of a topic's.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// The next record to read.
    #[rkyv(with = Number)]
    pub offset: Offset,
}

impl SetCursor {
    fn read(archived: &ArchivedSetCursor) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            name: topic_name(&archived.name)?,
            offset: offset(&archived.offset),
        })
    }
}

/// Asks about one cursor; answered by a [`CursorInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DescribeCursor {
    /// The topic it is a place in.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DescribeCursor {
    fn read(archived: &ArchivedDescribeCursor) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            name: topic_name(&archived.name)?,
        })
    }
}

/// Asks for cursors, by topic and name; answered by a [`CursorList`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ListCursors {
    /// Only those of this topic.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: Option<TopicName>,
    /// The topic of the last cursor of the list before, to go on behind it.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub after_topic: Option<TopicName>,
    /// The name of the last cursor of the list before; there when its topic is.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub after_name: Option<TopicName>,
}

impl ListCursors {
    fn read(archived: &ArchivedListCursors) -> Result<Self, ControlError> {
        let after_topic = maybe_name(&archived.after_topic)?;
        let after_name = maybe_name(&archived.after_name)?;
        if after_topic.is_some() != after_name.is_some() {
            let field = "bytes of the name to go on behind";
            let found = archived.after_name.len() as u64;
            return Err(ControlError::Number { field, found });
        }
        Ok(Self {
            topic: maybe_name(&archived.topic)?,
            after_topic,
            after_name,
        })
    }
}

/// Asks to delete a cursor; answered by a bare `CursorDeleted`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DeleteCursor {
    /// The topic it is a place in.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DeleteCursor {
    fn read(archived: &ArchivedDeleteCursor) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            name: topic_name(&archived.name)?,
        })
    }
}

/// What there is to say about a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct CursorInfo {
    /// The topic it is a place in.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// The next record to read.
    #[rkyv(with = Number)]
    pub offset: Offset,
    /// The offset after the last record readers of the topic see.
    #[rkyv(with = Number)]
    pub end_offset: Offset,
    /// When it was last set, in microseconds of the Unix epoch.
    pub updated_us: u64,
}

impl CursorInfo {
    fn read(archived: &ArchivedCursorInfo) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            name: topic_name(&archived.name)?,
            offset: offset(&archived.offset),
            end_offset: offset(&archived.end_offset),
            updated_us: archived.updated_us.to_native(),
        })
    }
}

/// Cursors by rising topic and name.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct CursorList {
    /// At most [`CURSORS_PER_LIST_MAX`] of them.
    pub cursors: Vec<CursorInfo>,
    /// Whether there are more behind the last.
    pub more: bool,
}

impl CursorList {
    fn read(archived: &ArchivedCursorList) -> Result<Self, ControlError> {
        bounded("cursors", archived.cursors.len(), CURSORS_PER_LIST_MAX)?;
        let cursors = archived.cursors.iter().map(CursorInfo::read);
        Ok(Self {
            cursors: cursors.collect::<Result<_, _>>()?,
            more: archived.more,
        })
    }
}

archived_message!(
    SetCursor: SetCursor,
    DescribeCursor: DescribeCursor,
    ListCursors: ListCursors,
    DeleteCursor: DeleteCursor,
    CursorInfo: CursorInfo,
    CursorList: CursorList,
);
