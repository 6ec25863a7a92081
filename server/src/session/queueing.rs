//! Requests about queues and cursors, and opening consumers: carried out beside the session.

use std::time::Duration;

use millstream::{Broker, ConsumerOptions, QueueError, QueueOptions, Redrive, TopicName};
use millstream_protocol::control::{
    ConsumerOpened, ControlError, ControlQueue, CreateQueue, CursorInfo, CursorList, DeleteCursor,
    DeleteQueue, DescribeCursor, DescribeQueue, ErrorMessage, LeaseList, Leaser, ListCursors,
    ListLeases, ListQueues, OpenConsumer, PeekQueue, PeekedList, QueueDone, QueueInfo, QueueList,
    QueueVerb, RedriveQueue, SetCursor, SetQueue,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::{
    CURSORS_PER_LIST_MAX, LEASE_MS_MAX, QUEUE_RECORDS_PER_LIST_MAX, QUEUES_PER_LIST_MAX,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use super::consuming::{ConsumerStream, bytes_max};
use crate::refusal::refused;

/// What a client asks for.
#[derive(Debug)]
pub(crate) enum QueueRequest {
    Create(CreateQueue),
    Set(SetQueue),
    Delete(DeleteQueue),
    Describe(DescribeQueue),
    List(ListQueues),
    Control(ControlQueue),
    Redrive(RedriveQueue),
    Peek(PeekQueue),
    Leases(ListLeases),
    SetCursor(SetCursor),
    DescribeCursor(DescribeCursor),
    ListCursors(ListCursors),
    DeleteCursor(DeleteCursor),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum QueueAnswer {
    Queue(Box<QueueInfo>),
    Queues(QueueList),
    Done(QueueDone),
    Peeked(PeekedList),
    Leases(LeaseList),
    Cursor(CursorInfo),
    Cursors(CursorList),
    CursorDeleted,
}

impl QueueRequest {
    /// Reads the body of a request; `None` for other kinds.
    pub(crate) fn decode(kind: MessageKind, body: &[u8]) -> Option<Result<Self, ControlError>> {
        Some(match kind {
            MessageKind::CreateQueue => CreateQueue::decode(body).map(Self::Create),
            MessageKind::SetQueue => SetQueue::decode(body).map(Self::Set),
            MessageKind::DeleteQueue => DeleteQueue::decode(body).map(Self::Delete),
            MessageKind::DescribeQueue => DescribeQueue::decode(body).map(Self::Describe),
            MessageKind::ListQueues => ListQueues::decode(body).map(Self::List),
            MessageKind::ControlQueue => ControlQueue::decode(body).map(Self::Control),
            MessageKind::RedriveQueue => RedriveQueue::decode(body).map(Self::Redrive),
            MessageKind::PeekQueue => PeekQueue::decode(body).map(Self::Peek),
            MessageKind::ListLeases => ListLeases::decode(body).map(Self::Leases),
            MessageKind::SetCursor => SetCursor::decode(body).map(Self::SetCursor),
            MessageKind::DescribeCursor => DescribeCursor::decode(body).map(Self::DescribeCursor),
            MessageKind::ListCursors => ListCursors::decode(body).map(Self::ListCursors),
            MessageKind::DeleteCursor => DeleteCursor::decode(body).map(Self::DeleteCursor),
            _ => return None,
        })
    }

    /// Whether it may take long after all that is on disk: a redrive keeps to a rate.
    pub(crate) const fn may_take_long(&self) -> bool {
        matches!(self, Self::Redrive(_))
    }

    /// Carries it out. May block for as long as the disk takes.
    pub(crate) fn run(self, broker: &Broker) -> Result<QueueAnswer, QueueError> {
        let done = |records| QueueAnswer::Done(QueueDone { records });
        let queue = |info| QueueAnswer::Queue(Box::new(info));
        match self {
            Self::Create(create) => create_queue(broker, create).map(queue),
            Self::Set(set) => broker.set_queue(&set.name, &set.settings).map(queue),
            Self::Delete(delete) => broker.delete_queue(&delete.name).map(done),
            Self::Describe(describe) => broker.queue(&describe.name).map(queue),
            Self::List(list) => {
                broker.check_queues()?;
                Ok(list_queues(broker, list.after.as_ref()))
            }
            Self::Control(control) => control_queue(broker, &control).map(done),
            Self::Redrive(redrive) => redrive_queue(broker, redrive).map(done),
            Self::Peek(peek) => {
                let records = broker.peek_queue(&peek.name, peek.from, listed(peek.max))?;
                Ok(QueueAnswer::Peeked(PeekedList { records }))
            }
            Self::Leases(list) => {
                let leases = broker.leases(&list.name, listed(list.max))?;
                Ok(QueueAnswer::Leases(LeaseList { leases }))
            }
            Self::SetCursor(set) => {
                broker.cursor(&set.topic, &set.name)?.commit(set.offset)?;
                let info = broker.cursor_info(&set.topic, &set.name)?;
                Ok(QueueAnswer::Cursor(info))
            }
            Self::DescribeCursor(describe) => {
                let info = broker.cursor_info(&describe.topic, &describe.name)?;
                Ok(QueueAnswer::Cursor(info))
            }
            Self::ListCursors(list) => {
                broker.check_queues()?;
                Ok(list_cursors(broker, list))
            }
            Self::DeleteCursor(delete) => {
                broker.delete_cursor(&delete.topic, &delete.name)?;
                Ok(QueueAnswer::CursorDeleted)
            }
        }
    }
}

impl QueueAnswer {
    /// Appends the answer.
    pub(crate) fn encode(&self, correlation: u64, out: &mut Vec<u8>) {
        let stream = StreamId::CONNECTION;
        match self {
            Self::Queue(info) => info.encode(stream, correlation, out),
            Self::Queues(list) => list.encode(stream, correlation, out),
            Self::Done(done) => done.encode(stream, correlation, out),
            Self::Peeked(list) => list.encode(stream, correlation, out),
            Self::Leases(list) => list.encode(stream, correlation, out),
            Self::Cursor(info) => info.encode(stream, correlation, out),
            Self::Cursors(list) => list.encode(stream, correlation, out),
            Self::CursorDeleted => {
                let bare = WireHeader::bare(MessageKind::CursorDeleted, stream, correlation);
                out.extend_from_slice(&bare.encode());
            }
        }
    }
}

/// As many as a client asked for, and an answer has room for.
fn listed(max: u32) -> u32 {
    max.min(QUEUE_RECORDS_PER_LIST_MAX as u32)
}

fn create_queue(broker: &Broker, create: CreateQueue) -> Result<QueueInfo, QueueError> {
    let mut options = QueueOptions::new()
        .mode(create.mode)
        .start(create.start)
        .settings(create.settings);
    if let Some(topic) = create.topic {
        options = options.topic(topic.as_str());
    }
    broker.create_queue(&create.name, options)
}

fn list_queues(broker: &Broker, after: Option<&TopicName>) -> QueueAnswer {
    let mut queues = broker.queues();
    if let Some(after) = after {
        queues.retain(|queue| queue.name > *after);
    }
    let more = queues.len() > QUEUES_PER_LIST_MAX;
    queues.truncate(QUEUES_PER_LIST_MAX);
    QueueAnswer::Queues(QueueList { queues, more })
}

fn control_queue(broker: &Broker, control: &ControlQueue) -> Result<u64, QueueError> {
    match control.verb {
        QueueVerb::Pause => broker.pause_queue(&control.name).map(|()| 0),
        QueueVerb::Resume => broker.resume_queue(&control.name).map(|()| 0),
        QueueVerb::Purge => broker.purge_queue(&control.name),
    }
}

fn redrive_queue(broker: &Broker, redrive: RedriveQueue) -> Result<u64, QueueError> {
    let mut wanted = Redrive::all().per_second(redrive.per_second);
    if redrive.records_max > 0 {
        wanted = wanted.records_max(redrive.records_max);
    }
    if let Some(reason) = redrive.reason {
        wanted = wanted.reason(reason);
    }
    if let Some(source) = redrive.source {
        wanted = wanted.source(source);
    }
    if let Some(key) = redrive.key {
        wanted = wanted.key(key);
    }
    broker.redrive_queue(&redrive.name, &wanted)
}

fn list_cursors(broker: &Broker, list: ListCursors) -> QueueAnswer {
    let mut cursors = broker.cursors(list.topic.as_ref());
    if let (Some(topic), Some(name)) = (list.after_topic, list.after_name) {
        cursors.retain(|cursor| (&cursor.topic, &cursor.name) > (&topic, &name));
    }
    let more = cursors.len() > CURSORS_PER_LIST_MAX;
    cursors.truncate(CURSORS_PER_LIST_MAX);
    QueueAnswer::Cursors(CursorList { cursors, more })
}

/// Whether a consumer may be opened like this.
pub(crate) fn check_open(open: &OpenConsumer) -> Result<(), ErrorMessage> {
    if let Err(error) = open.window().check() {
        return Err(refused(ErrorCode::WindowExceeded, error.to_string()));
    }
    if open.lease_ms > LEASE_MS_MAX {
        let sentence = format!("lease ms: {} is over {LEASE_MS_MAX}", open.lease_ms);
        return Err(refused(ErrorCode::QueueSettings, sentence));
    }
    Ok(())
}

/// Opens a consumer and says what there is to know of it.
pub(crate) fn open_consumer(
    broker: &Broker,
    open: OpenConsumer,
) -> Result<(Box<ConsumerStream>, ConsumerOpened), QueueError> {
    let queue = broker.queue(&open.queue)?;
    let lease_ms = match open.lease_ms {
        0 => queue.settings.lease_ms,
        lease_ms => lease_ms,
    };
    let options = ConsumerOptions::new()
        .prefetch(open.window_messages)
        .prefetch_bytes(bytes_max(open.window_bytes))
        .lease(Duration::from_millis(open.lease_ms.into()))
        .name(open.name);
    let consumer = broker.consumer(&open.queue, options)?;
    let opened = ConsumerOpened {
        queue_id: consumer.queue_id(),
        boot_epoch: broker.boot_epoch(),
        consumer: consumer.id(),
        lease_ms,
        topic: consumer.topic().clone(),
    };
    let leaser = Leaser {
        queue_id: opened.queue_id,
        boot_epoch: opened.boot_epoch,
    };
    Ok((Box::new(ConsumerStream::new(consumer, leaser)), opened))
}

/// A queue's error as it is told to the client.
pub(crate) fn queue_refusal(error: &QueueError) -> ErrorMessage {
    ErrorMessage {
        effect: error.effect(),
        retriable: error.is_retriable(),
        ..refused(error.code(), error.to_string())
    }
}
