//! Topics: creating, listing, describing, deleting.

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{Number, Text, archived_message, number, offset, text, topic_name};
use crate::limits::{SENTENCE_BYTES_MAX, TOPIC_NAME_BYTES_MAX, TOPICS_PER_LIST_MAX};
use crate::{Durability, Offset, TopicName};

/// Asks to create a topic; answered by a [`TopicInfo`]. One that is there with the same durability
/// is as good as created.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct CreateTopic {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// How safe its records are to be.
    #[rkyv(with = Number)]
    pub durability: Durability,
}

impl CreateTopic {
    fn read(archived: &ArchivedCreateTopic) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            durability: number("durability", archived.durability)?,
        })
    }
}

/// Asks to delete a topic and its records; answered by a bare `TopicDeleted`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DeleteTopic {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DeleteTopic {
    fn read(archived: &ArchivedDeleteTopic) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
        })
    }
}

/// Asks about one topic; answered by a [`TopicInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DescribeTopic {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DescribeTopic {
    fn read(archived: &ArchivedDescribeTopic) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
        })
    }
}

/// Asks for the topics by name; answered by a [`TopicList`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ListTopics {
    /// The last name of the list before, to go on behind it.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub after: Option<TopicName>,
}

impl ListTopics {
    fn read(archived: &ArchivedListTopics) -> Result<Self, ControlError> {
        let after = Some(archived.after.as_slice()).filter(|after| !after.is_empty());
        Ok(Self {
            after: after.map(topic_name).transpose()?,
        })
    }
}

/// What there is to say about a topic.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct TopicInfo {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// Tells it from others that had the name before.
    pub incarnation: [u8; 16],
    /// How safe its records are.
    #[rkyv(with = Number)]
    pub durability: Durability,
    /// The oldest record still kept.
    #[rkyv(with = Number)]
    pub first_offset: Offset,
    /// The offset after the last record readers see.
    #[rkyv(with = Number)]
    pub next_offset: Offset,
    /// The offset after the last record on disk.
    #[rkyv(with = Number)]
    pub synced_offset: Offset,
    /// Bytes of all its segments.
    pub bytes: u64,
    /// Its segments.
    pub segments: u32,
    /// Why it takes no more records, when it failed.
    #[rkyv(with = Text<SENTENCE_BYTES_MAX>)]
    pub poisoned: Option<String>,
}

impl TopicInfo {
    fn read(archived: &ArchivedTopicInfo) -> Result<Self, ControlError> {
        let poisoned = text("poisoned", &archived.poisoned, SENTENCE_BYTES_MAX)?;
        Ok(Self {
            name: topic_name(&archived.name)?,
            incarnation: archived.incarnation,
            durability: number("durability", archived.durability)?,
            first_offset: offset(&archived.first_offset),
            next_offset: offset(&archived.next_offset),
            synced_offset: offset(&archived.synced_offset),
            bytes: archived.bytes.to_native(),
            segments: archived.segments.to_native(),
            poisoned: Some(poisoned).filter(|reason| !reason.is_empty()),
        })
    }
}

/// How much of a topic is kept. Where both are given, what either lets go may go.
///
/// ```
/// use millstream_protocol::control::Retention;
/// let week = Retention { age_ms: 7 * 86_400_000, ..Retention::KEEP_ALL };
/// assert!(!week.keeps_all());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize)]
pub struct Retention {
    /// Of the newest frames at least so many bytes are kept; 0: all.
    pub bytes: u64,
    /// Records are kept at least so many milliseconds after they were appended; 0: for ever.
    pub age_ms: u64,
}

impl Retention {
    /// Nothing goes.
    pub const KEEP_ALL: Self = Self {
        bytes: 0,
        age_ms: 0,
    };

    /// Whether nothing goes.
    #[must_use]
    pub const fn keeps_all(&self) -> bool {
        self.bytes == 0 && self.age_ms == 0
    }

    fn read(archived: &ArchivedRetention) -> Result<Self, ControlError> {
        Ok(Self {
            bytes: archived.bytes.to_native(),
            age_ms: archived.age_ms.to_native(),
        })
    }
}

/// Sets how much of a topic is kept; answered by a [`Retention`] once that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct SetRetention {
    /// The topic.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// What holds from now on, of records that are there as well.
    pub retention: Retention,
}

impl SetRetention {
    fn read(archived: &ArchivedSetRetention) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
            retention: Retention::read(&archived.retention)?,
        })
    }
}

/// Asks how much of a topic is kept; answered by a [`Retention`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DescribeRetention {
    /// The topic.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
}

impl DescribeRetention {
    fn read(archived: &ArchivedDescribeRetention) -> Result<Self, ControlError> {
        Ok(Self {
            topic: topic_name(&archived.topic)?,
        })
    }
}

/// Topics by rising name.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct TopicList {
    /// At most [`TOPICS_PER_LIST_MAX`] of them.
    pub topics: Vec<TopicInfo>,
    /// Whether there are more behind the last.
    pub more: bool,
}

impl TopicList {
    fn read(archived: &ArchivedTopicList) -> Result<Self, ControlError> {
        let found = archived.topics.len();
        if found > TOPICS_PER_LIST_MAX {
            return Err(ControlError::ListTooLong {
                field: "topics",
                found,
            });
        }
        let topics = archived
            .topics
            .iter()
            .map(TopicInfo::read)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            topics,
            more: archived.more,
        })
    }
}

archived_message!(
    CreateTopic: CreateTopic,
    DeleteTopic: DeleteTopic,
    DescribeTopic: DescribeTopic,
    ListTopics: ListTopics,
    TopicInfo: TopicInfo,
    TopicList: TopicList,
    SetRetention: SetRetention,
    DescribeRetention: DescribeRetention,
    Retention: Retention,
);
