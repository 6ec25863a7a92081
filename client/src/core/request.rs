//! Requests about topics, queues and cursors, and which answer each wants.

use millstream_protocol::control::{
    ControlError, ControlQueue, CreateQueue, CreateTopic, CursorInfo, CursorList, DeleteCursor,
    DeleteQueue, DeleteTopic, DescribeCursor, DescribeQueue, DescribeRetention, DescribeTopic,
    LeaseList, ListCursors, ListLeases, ListQueues, ListTopics, PeekQueue, PeekedList, QueueDone,
    QueueInfo, QueueList, RedriveQueue, Retention, SetCursor, SetQueue, SetRetention, TopicInfo,
    TopicList,
};
use millstream_protocol::wire::{MessageKind, StreamId};

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident($body:ty): $asked:ident),+ $(,)?) => {
        /// Something asked once, about a topic, a queue or a cursor.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $($(#[$doc])* $name($body),)+
        }

        impl Request {
            /// Appends the whole message; tells which answer it wants.
            pub(super) fn encode(&self, correlation: u64, out: &mut Vec<u8>) -> Asked {
                match self {
                    $(Self::$name(request) => {
                        request.encode(StreamId::CONNECTION, correlation, out);
                        Asked::$asked
                    })+
                }
            }
        }
    };
}

requests! {
    /// Create a topic; answered by [`Answer::Topic`].
    Create(CreateTopic): TopicInfo,
    /// Describe a topic; answered by [`Answer::Topic`].
    Describe(DescribeTopic): TopicInfo,
    /// Delete a topic; answered by [`Answer::Deleted`].
    Delete(DeleteTopic): TopicDeleted,
    /// List topics; answered by [`Answer::Topics`].
    List(ListTopics): TopicList,
    /// Set how much of a topic is kept; answered by [`Answer::Retention`].
    SetRetention(SetRetention): Retention,
    /// Describe how much of a topic is kept; answered by [`Answer::Retention`].
    DescribeRetention(DescribeRetention): Retention,
    /// Create a queue; answered by [`Answer::Queue`].
    CreateQueue(CreateQueue): QueueInfo,
    /// Change a queue; answered by [`Answer::Queue`].
    SetQueue(SetQueue): QueueInfo,
    /// Describe a queue; answered by [`Answer::Queue`].
    DescribeQueue(DescribeQueue): QueueInfo,
    /// Delete a queue; answered by [`Answer::Done`].
    DeleteQueue(DeleteQueue): QueueDone,
    /// List queues; answered by [`Answer::Queues`].
    ListQueues(ListQueues): QueueList,
    /// Pause, resume or purge a queue; answered by [`Answer::Done`].
    ControlQueue(ControlQueue): QueueDone,
    /// Send dead letters back; answered by [`Answer::Done`].
    RedriveQueue(RedriveQueue): QueueDone,
    /// Look at what is not settled; answered by [`Answer::Peeked`].
    PeekQueue(PeekQueue): PeekedList,
    /// Look at what is leased; answered by [`Answer::Leases`].
    ListLeases(ListLeases): LeaseList,
    /// Set a cursor; answered by [`Answer::Cursor`].
    SetCursor(SetCursor): CursorInfo,
    /// Describe a cursor; answered by [`Answer::Cursor`].
    DescribeCursor(DescribeCursor): CursorInfo,
    /// List cursors; answered by [`Answer::Cursors`].
    ListCursors(ListCursors): CursorList,
    /// Delete a cursor; answered by [`Answer::Deleted`].
    DeleteCursor(DeleteCursor): CursorDeleted,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A topic, created or described.
    Topic(TopicInfo),
    /// Some topics.
    Topics(TopicList),
    /// How much of a topic is kept.
    Retention(Retention),
    /// A topic or a cursor was deleted.
    Deleted,
    /// A queue, created, changed or described.
    Queue(Box<QueueInfo>),
    /// Some queues.
    Queues(QueueList),
    /// Something was done to a queue.
    Done(QueueDone),
    /// Records that are not settled.
    Peeked(PeekedList),
    /// Records that are leased.
    Leases(LeaseList),
    /// A cursor, set or described.
    Cursor(CursorInfo),
    /// Some cursors.
    Cursors(CursorList),
}

/// Which answer a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    TopicInfo,
    TopicList,
    TopicDeleted,
    Retention,
    QueueInfo,
    QueueList,
    QueueDone,
    PeekedList,
    LeaseList,
    CursorInfo,
    CursorList,
    CursorDeleted,
}

impl Asked {
    /// The kind of the message that answers it.
    pub(super) const fn kind(self) -> MessageKind {
        match self {
            Self::TopicInfo => MessageKind::TopicInfo,
            Self::TopicList => MessageKind::TopicList,
            Self::TopicDeleted => MessageKind::TopicDeleted,
            Self::Retention => MessageKind::Retention,
            Self::QueueInfo => MessageKind::QueueInfo,
            Self::QueueList => MessageKind::QueueList,
            Self::QueueDone => MessageKind::QueueDone,
            Self::PeekedList => MessageKind::PeekedList,
            Self::LeaseList => MessageKind::LeaseList,
            Self::CursorInfo => MessageKind::CursorInfo,
            Self::CursorList => MessageKind::CursorList,
            Self::CursorDeleted => MessageKind::CursorDeleted,
        }
    }

    /// Reads the answer from the body of its message.
    pub(super) fn read(self, body: &[u8]) -> Result<Answer, ControlError> {
        Ok(match self {
            Self::TopicInfo => Answer::Topic(TopicInfo::decode(body)?),
            Self::TopicList => Answer::Topics(TopicList::decode(body)?),
            Self::TopicDeleted | Self::CursorDeleted => Answer::Deleted,
            Self::Retention => Answer::Retention(Retention::decode(body)?),
            Self::QueueInfo => Answer::Queue(Box::new(QueueInfo::decode(body)?)),
            Self::QueueList => Answer::Queues(QueueList::decode(body)?),
            Self::QueueDone => Answer::Done(QueueDone::decode(body)?),
            Self::PeekedList => Answer::Peeked(PeekedList::decode(body)?),
            Self::LeaseList => Answer::Leases(LeaseList::decode(body)?),
            Self::CursorInfo => Answer::Cursor(CursorInfo::decode(body)?),
            Self::CursorList => Answer::Cursors(CursorList::decode(body)?),
        })
    }
}
