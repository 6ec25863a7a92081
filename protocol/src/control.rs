//! The bodies of all messages that are not frames.
//!
//! Each is an rkyv archive with its root at the end: numbers little-endian and unaligned, texts
//! UTF-8 behind a 32-bit relative pointer and a length, choices as the number of the choice. What
//! is sent often has a fixed layout instead: [`PublishAck`], [`Credit`], [`DeliveryPrelude`], [`Work`],
//! [`Settle`] and their like.
//!
//! `encode` appends the whole message, wire header and body. `decode` takes the body, checks every
//! reference and value, and refuses any form other than the one `encode` makes.

mod connection;
mod consume;
mod cursor;
mod error;
mod layout;
mod publish;
mod queue;
mod read;
mod settings;
mod settle;
mod topic;
mod work;

pub use connection::{ErrorMessage, Goodbye, Hello, Magic, Welcome};
pub use consume::{ConsumerOpened, OpenConsumer, Receive, ReceiveOver, Window};
pub use cursor::{CursorInfo, CursorList, DeleteCursor, DescribeCursor, ListCursors, SetCursor};
pub use error::ControlError;
pub use publish::{
    AckRun, AckRuns, OpenProducer, OpenPublisher, ProducerOpened, PublishAck, PublisherOpened,
};
pub use queue::{
    ControlQueue, CreateQueue, DeleteQueue, DescribeQueue, LeaseInfo, LeaseList, ListLeases,
    ListQueues, PeekQueue, PeekedList, PeekedRecord, QueueDone, QueueInfo, QueueList, QueueTotals,
    QueueVerb, RecordState, RedriveQueue, SetQueue,
};
pub use read::{Credit, Delivery, DeliveryPrelude, Gap, GapReason, OpenReader, ReaderOpened};
pub use settings::{
    Backoff, DeadLetter, OnExpiry, QueueMode, QueueSettings, SettingsError, WhenFull,
};
pub use settle::{
    FaultEntry, Faults, Leaser, Settle, SettleAck, SettleEntries, SettleEntry, SettleFault,
    SettleVerb,
};
pub use topic::{
    CreateTopic, DeleteTopic, DescribeRetention, DescribeTopic, ListTopics, Retention,
    SetRetention, TopicInfo, TopicList,
};
pub(crate) use work::covered as work_covered;
pub use work::{Work, WorkEntries, WorkEntry, WorkRecords};

/// Bits of [`Hello::features`] and [`Welcome::features`].
pub mod features {
    /// [`OpenProducer`](super::OpenProducer) and what follows from it.
    pub const PRODUCERS: u64 = 1 << 0;
    /// [`SetRetention`](super::SetRetention) and [`DescribeRetention`](super::DescribeRetention).
    pub const RETENTION: u64 = 1 << 1;
    /// All that this version knows.
    pub const ALL: u64 = PRODUCERS | RETENTION;
}
