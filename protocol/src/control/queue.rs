//! Queues: creating, changing, describing, deleting, and looking into them.

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{
    Number, Text, archived_message, bounded, maybe_name, number, offset, text, topic_name,
};
use super::read::StartPair;
use super::settings::{QueueMode, QueueSettings};
use crate::coded::coded_enum;
use crate::limits::{
    ATTEMPT_COUNTS, KEY_BYTES_MAX, QUEUE_RECORDS_PER_LIST_MAX, QUEUES_PER_LIST_MAX,
    REASON_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::{Offset, Start, TopicName};

/// Asks to create a queue; answered by a [`QueueInfo`]. One that is there over the same topic, in
/// the same mode and with the same settings is as good as created.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct CreateQueue {
    /// Its name, which follows the rules of a topic's.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// The topic whose records it delivers; `None`: one of the queue's name, made with it.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: Option<TopicName>,
    /// How it orders what it delivers.
    #[rkyv(with = Number)]
    pub mode: QueueMode,
    /// The first record it delivers.
    #[rkyv(with = StartPair)]
    pub start: Start,
    /// How it delivers.
    pub settings: QueueSettings,
}

impl CreateQueue {
    fn read(archived: &ArchivedCreateQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            topic: maybe_name(&archived.topic)?,
            mode: number("mode", archived.mode)?,
            start: archived.start.read()?,
            settings: QueueSettings::read(&archived.settings)?,
        })
    }
}

/// Gives a queue other settings; answered by a [`QueueInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct SetQueue {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// All its settings from now on.
    pub settings: QueueSettings,
}

impl SetQueue {
    fn read(archived: &ArchivedSetQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            settings: QueueSettings::read(&archived.settings)?,
        })
    }
}

/// Asks to delete a queue, and its topic when that was made with it; answered by a [`QueueDone`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DeleteQueue {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DeleteQueue {
    fn read(archived: &ArchivedDeleteQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
        })
    }
}

/// Asks about one queue; answered by a [`QueueInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct DescribeQueue {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
}

impl DescribeQueue {
    fn read(archived: &ArchivedDescribeQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
        })
    }
}

/// Asks for the queues by name; answered by a [`QueueList`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ListQueues {
    /// The last name of the list before, to go on behind it.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub after: Option<TopicName>,
}

impl ListQueues {
    fn read(archived: &ArchivedListQueues) -> Result<Self, ControlError> {
        Ok(Self {
            after: maybe_name(&archived.after)?,
        })
    }
}

coded_enum! {
    /// What a queue is told to do.
    pub enum QueueVerb: u8 {
        /// To deliver nothing until it is told to resume; what is leased may be settled.
        Pause = 1,
        /// To deliver again.
        Resume = 2,
        /// To settle every record there is, also those that are leased.
        Purge = 3,
    }
}

/// Tells a queue to do something; answered by a [`QueueDone`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ControlQueue {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// What.
    #[rkyv(with = Number)]
    pub verb: QueueVerb,
}

impl ControlQueue {
    fn read(archived: &ArchivedControlQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            verb: number("verb", archived.verb)?,
        })
    }
}

/// Sends dead letters back to where they came from; answered by a [`QueueDone`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct RedriveQueue {
    /// The queue that holds the dead letters.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// At most so many; 0: all there are.
    pub records_max: u64,
    /// At most so many each second; 0: as fast as it goes.
    pub per_second: u32,
    /// Only those that died for this reason, as `ms-reason` says.
    #[rkyv(with = Text<REASON_BYTES_MAX>)]
    pub reason: Option<String>,
    /// Only those of this queue.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub source: Option<TopicName>,
    /// Only those with this key.
    #[rkyv(with = Text<KEY_BYTES_MAX>)]
    pub key: Option<String>,
}

impl RedriveQueue {
    fn read(archived: &ArchivedRedriveQueue) -> Result<Self, ControlError> {
        let reason = text("reason", &archived.reason, REASON_BYTES_MAX)?;
        let key = text("key", &archived.key, KEY_BYTES_MAX)?;
        Ok(Self {
            name: topic_name(&archived.name)?,
            records_max: archived.records_max.to_native(),
            per_second: archived.per_second.to_native(),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            source: maybe_name(&archived.source)?,
            key: Some(key).filter(|key| !key.is_empty()),
        })
    }
}

/// Asks which records of a queue are not settled; answered by a [`PeekedList`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct PeekQueue {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// The first record to tell about.
    #[rkyv(with = Number)]
    pub from: Offset,
    /// At most so many; the answer has at most [`QUEUE_RECORDS_PER_LIST_MAX`].
    pub max: u32,
}

impl PeekQueue {
    fn read(archived: &ArchivedPeekQueue) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            from: offset(&archived.from),
            max: archived.max.to_native(),
        })
    }
}

/// Asks which records of a queue are leased; answered by a [`LeaseList`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ListLeases {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// At most so many; the answer has at most [`QUEUE_RECORDS_PER_LIST_MAX`].
    pub max: u32,
}

impl ListLeases {
    fn read(archived: &ArchivedListLeases) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            max: archived.max.to_native(),
        })
    }
}

/// What a queue did since the broker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize)]
pub struct QueueTotals {
    /// Deliveries, first and later ones.
    pub delivered: u64,
    /// Records acknowledged.
    pub acked: u64,
    /// Deliveries that were asked for again.
    pub retried: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records that became dead letters.
    pub dead_lettered: u64,
    /// Records whose time passed.
    pub expired: u64,
    /// Records settled without being kept: over a limit, or dead where none are kept.
    pub dropped: u64,
    /// Deliveries given back uncounted.
    pub released: u64,
    /// Leases that ran out or whose consumer was lost.
    pub lease_expired: u64,
    /// Settles that came too late.
    pub lease_lost: u64,
    /// Records that could not be read.
    pub damaged: u64,
    /// Dead letters sent back.
    pub redriven: u64,
}

impl QueueTotals {
    const fn read(archived: &ArchivedQueueTotals) -> Self {
        Self {
            delivered: archived.delivered.to_native(),
            acked: archived.acked.to_native(),
            retried: archived.retried.to_native(),
            rejected: archived.rejected.to_native(),
            dead_lettered: archived.dead_lettered.to_native(),
            expired: archived.expired.to_native(),
            dropped: archived.dropped.to_native(),
            released: archived.released.to_native(),
            lease_expired: archived.lease_expired.to_native(),
            lease_lost: archived.lease_lost.to_native(),
            damaged: archived.damaged.to_native(),
            redriven: archived.redriven.to_native(),
        }
    }
}

/// What there is to say about a queue.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct QueueInfo {
    /// Its name.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub name: TopicName,
    /// The topic whose records it delivers.
    #[rkyv(with = Text<TOPIC_NAME_BYTES_MAX>)]
    pub topic: TopicName,
    /// Tells it from others that had the name before; never used twice.
    pub queue_id: u32,
    /// How it orders what it delivers.
    #[rkyv(with = Number)]
    pub mode: QueueMode,
    /// Whether the topic was made with it and goes with it.
    pub own_topic: bool,
    /// Whether it delivers nothing for now.
    pub paused: bool,
    /// How it delivers.
    pub settings: QueueSettings,
    /// Records that may be delivered now, also those not looked at yet.
    pub ready: u64,
    /// Records that are with a consumer.
    pub leased: u64,
    /// Records that are not due yet.
    pub delayed: u64,
    /// Dead letters and redriven records on their way.
    pub moving: u64,
    /// Records in the queue its dead letters go to.
    pub dead: u64,
    /// How long ago the oldest ready record was appended; 0: there is none.
    pub oldest_ready_us: u64,
    /// Its consumers.
    pub consumers: u32,
    /// All records before it are settled.
    #[rkyv(with = Number)]
    pub floor: Offset,
    /// The offset after the last record there is.
    #[rkyv(with = Number)]
    pub next: Offset,
    /// Deliveries each second of late, in thousandths.
    pub delivered_milli: u64,
    /// Records acknowledged each second of late, in thousandths.
    pub acked_milli: u64,
    /// What it did since the broker started.
    pub totals: QueueTotals,
    /// Records acknowledged at their first delivery, their second and so on; the last counts all
    /// later ones, too.
    pub attempts: [u64; ATTEMPT_COUNTS],
}

impl QueueInfo {
    fn read(archived: &ArchivedQueueInfo) -> Result<Self, ControlError> {
        Ok(Self {
            name: topic_name(&archived.name)?,
            topic: topic_name(&archived.topic)?,
            queue_id: archived.queue_id.to_native(),
            mode: number("mode", archived.mode)?,
            own_topic: archived.own_topic,
            paused: archived.paused,
            settings: QueueSettings::read(&archived.settings)?,
            ready: archived.ready.to_native(),
            leased: archived.leased.to_native(),
            delayed: archived.delayed.to_native(),
            moving: archived.moving.to_native(),
            dead: archived.dead.to_native(),
            oldest_ready_us: archived.oldest_ready_us.to_native(),
            consumers: archived.consumers.to_native(),
            floor: offset(&archived.floor),
            next: offset(&archived.next),
            delivered_milli: archived.delivered_milli.to_native(),
            acked_milli: archived.acked_milli.to_native(),
            totals: QueueTotals::read(&archived.totals),
            attempts: archived.attempts.map(|count| count.to_native()),
        })
    }
}

/// Queues by rising name.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct QueueList {
    /// At most [`QUEUES_PER_LIST_MAX`] of them.
    pub queues: Vec<QueueInfo>,
    /// Whether there are more behind the last.
    pub more: bool,
}

impl QueueList {
    fn read(archived: &ArchivedQueueList) -> Result<Self, ControlError> {
        bounded("queues", archived.queues.len(), QUEUES_PER_LIST_MAX)?;
        let queues = archived.queues.iter().map(QueueInfo::read);
        Ok(Self {
            queues: queues.collect::<Result<_, _>>()?,
            more: archived.more,
        })
    }
}

/// What was asked of a queue is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct QueueDone {
    /// The records it was done to.
    pub records: u64,
}

impl QueueDone {
    #[expect(clippy::unnecessary_wraps, reason = "all messages are read alike")]
    const fn read(archived: &ArchivedQueueDone) -> Result<Self, ControlError> {
        Ok(Self {
            records: archived.records.to_native(),
        })
    }
}

coded_enum! {
    /// How far a record has come that is not settled.
    pub enum RecordState: u8 {
        /// It may be delivered.
        Ready = 1,
        /// It is with a consumer.
        Leased = 2,
        /// It is not due yet.
        Delayed = 3,
        /// It is on its way to another queue.
        Moving = 4,
    }
}

/// A record that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct PeekedRecord {
    /// Its offset.
    #[rkyv(with = Number)]
    pub offset: Offset,
    /// How far it has come.
    #[rkyv(with = Number)]
    pub state: RecordState,
    /// Deliveries that were counted.
    pub attempts: u16,
    /// When it is due, in microseconds of the Unix epoch; 0: at once.
    pub due_us: u64,
}

impl PeekedRecord {
    fn read(archived: &ArchivedPeekedRecord) -> Result<Self, ControlError> {
        Ok(Self {
            offset: offset(&archived.offset),
            state: number("state", archived.state)?,
            attempts: archived.attempts.to_native(),
            due_us: archived.due_us.to_native(),
        })
    }
}

/// Records that are not settled, by rising offset.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct PeekedList {
    /// At most [`QUEUE_RECORDS_PER_LIST_MAX`] of them.
    pub records: Vec<PeekedRecord>,
}

impl PeekedList {
    fn read(archived: &ArchivedPeekedList) -> Result<Self, ControlError> {
        let found = archived.records.len();
        bounded("records", found, QUEUE_RECORDS_PER_LIST_MAX)?;
        let records = archived.records.iter().map(PeekedRecord::read);
        Ok(Self {
            records: records.collect::<Result<_, _>>()?,
        })
    }
}

/// A record that is with a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct LeaseInfo {
    /// Its offset.
    #[rkyv(with = Number)]
    pub offset: Offset,
    /// The consumer.
    pub consumer: u64,
    /// Its deliveries, this one counted.
    pub attempts: u16,
    /// What is left of the lease.
    pub left_ms: u32,
}

impl LeaseInfo {
    const fn read(archived: &ArchivedLeaseInfo) -> Self {
        Self {
            offset: Offset(archived.offset.to_native()),
            consumer: archived.consumer.to_native(),
            attempts: archived.attempts.to_native(),
            left_ms: archived.left_ms.to_native(),
        }
    }
}

/// Records that are with a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct LeaseList {
    /// At most [`QUEUE_RECORDS_PER_LIST_MAX`] of them.
    pub leases: Vec<LeaseInfo>,
}

impl LeaseList {
    fn read(archived: &ArchivedLeaseList) -> Result<Self, ControlError> {
        let found = archived.leases.len();
        bounded("leases", found, QUEUE_RECORDS_PER_LIST_MAX)?;
        Ok(Self {
            leases: archived.leases.iter().map(LeaseInfo::read).collect(),
        })
    }
}

archived_message!(
    CreateQueue: CreateQueue,
    SetQueue: SetQueue,
    DeleteQueue: DeleteQueue,
    DescribeQueue: DescribeQueue,
    ListQueues: ListQueues,
    ControlQueue: ControlQueue,
    RedriveQueue: RedriveQueue,
    PeekQueue: PeekQueue,
    ListLeases: ListLeases,
    QueueInfo: QueueInfo,
    QueueList: QueueList,
    QueueDone: QueueDone,
    PeekedList: PeekedList,
    LeaseList: LeaseList,
);
