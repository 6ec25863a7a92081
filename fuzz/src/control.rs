//! Bodies of control messages.
//!
//! The first byte is the kind of the message, the rest its body. Claims: what decodes encodes to
//! the same bytes, and its message passes the splitter with the same body.

use bytes::Bytes;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::{
    ConsumerOpened, ControlError, ControlQueue, CreateQueue, CreateTopic, Credit, CursorInfo,
    CursorList, DeleteCursor, DeleteQueue, DeleteTopic, Delivery, DescribeCursor, DescribeQueue,
    DescribeRetention, DescribeTopic, ErrorMessage, Gap, Goodbye, Hello, LeaseList, ListCursors,
    ListLeases, ListQueues, ListTopics, OpenConsumer, OpenProducer, OpenPublisher, OpenReader,
    PeekQueue, PeekedList, ProducerOpened, PublishAck, PublisherOpened, QueueDone, QueueInfo,
    QueueList, ReaderOpened, Receive, ReceiveOver, RedriveQueue, Retention, SetCursor, SetQueue,
    SetRetention, Settle, SettleAck, TopicInfo, TopicList, Welcome, Window, Work, WorkRecords,
};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};

use crate::Outcome;

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let Some((code, body)) = data.split_first() else {
        return Outcome::Refused;
    };
    let Some(kind) = MessageKind::from_code(*code) else {
        return Outcome::Refused;
    };
    match again(kind, body) {
        Ok(Some(message)) => {
            check_message(kind, body, &message);
            Outcome::Accepted
        }
        Ok(None) | Err(_) => Outcome::Refused,
    }
}

/// The message made again from what its body decodes to; `None` for kinds without a control body.
fn again(kind: MessageKind, body: &[u8]) -> Result<Option<Vec<u8>>, ControlError> {
    let mut out = Vec::new();
    let made = again_queue(kind, body, &mut out)? || again_other(kind, body, &mut out)?;
    Ok(made.then_some(out))
}

/// Messages of queues, consumers and cursors.
fn again_queue(kind: MessageKind, body: &[u8], out: &mut Vec<u8>) -> Result<bool, ControlError> {
    let (connection, stream) = (StreamId::CONNECTION, StreamId(1));
    match kind {
        MessageKind::CreateQueue => CreateQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::SetQueue => SetQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::DeleteQueue => DeleteQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::DescribeQueue => DescribeQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::ListQueues => ListQueues::decode(body)?.encode(connection, 0, out),
        MessageKind::ControlQueue => ControlQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::RedriveQueue => RedriveQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::PeekQueue => PeekQueue::decode(body)?.encode(connection, 0, out),
        MessageKind::ListLeases => ListLeases::decode(body)?.encode(connection, 0, out),
        MessageKind::QueueInfo => QueueInfo::decode(body)?.encode(connection, 0, out),
        MessageKind::QueueList => QueueList::decode(body)?.encode(connection, 0, out),
        MessageKind::QueueDone => QueueDone::decode(body)?.encode(connection, 0, out),
        MessageKind::PeekedList => PeekedList::decode(body)?.encode(connection, 0, out),
        MessageKind::LeaseList => LeaseList::decode(body)?.encode(connection, 0, out),
        MessageKind::SetCursor => SetCursor::decode(body)?.encode(connection, 0, out),
        MessageKind::DescribeCursor => DescribeCursor::decode(body)?.encode(connection, 0, out),
        MessageKind::ListCursors => ListCursors::decode(body)?.encode(connection, 0, out),
        MessageKind::DeleteCursor => DeleteCursor::decode(body)?.encode(connection, 0, out),
        MessageKind::CursorInfo => CursorInfo::decode(body)?.encode(connection, 0, out),
        MessageKind::CursorList => CursorList::decode(body)?.encode(connection, 0, out),
        MessageKind::OpenConsumer => OpenConsumer::decode(body)?.encode(stream, 0, out),
        MessageKind::ConsumerOpened => ConsumerOpened::decode(body)?.encode(stream, 0, out),
        MessageKind::Window => Window::decode(body)?.encode(stream, 0, out),
        MessageKind::Receive => Receive::decode(body)?.encode(stream, 0, out),
        MessageKind::ReceiveOver => ReceiveOver::decode(body)?.encode(stream, 0, out),
        MessageKind::Settle => {
            let settle = Settle::decode(body)?;
            assert_eq!(settle.entries().count(), settle.count() as usize);
            Settle::encode(settle.leaser, settle.entries(), stream, 1, out);
        }
        MessageKind::SettleAck => {
            let ack = SettleAck::decode(body)?;
            let faults: Vec<_> = ack.faults().collect();
            SettleAck::encode(ack.through, &faults, stream, out);
        }
        MessageKind::Work => {
            let work = Work::decode(body)?;
            let entries: Vec<_> = work.entries().collect();
            assert_eq!(
                entries.len(),
                usize::from(work.frame().fields().record_count)
            );
            let head = 8 + 40 * entries.len();
            // A frame may have other forms than the builder's: it is taken as it is.
            let header = WireHeader {
                kind,
                body_bytes: u32::try_from(body.len()).expect("a body is below 4 GiB"),
                stream,
                correlation: 0,
                body_crc: crc32c(body.get(..head).expect("it was decoded")),
            };
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(body);
            if let Ok(records) = WorkRecords::new(Bytes::copy_from_slice(body)) {
                assert!(records.map(|(entry, _)| entry).eq(entries), "a record each");
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// All other messages.
fn again_other(kind: MessageKind, body: &[u8], out: &mut Vec<u8>) -> Result<bool, ControlError> {
    let (connection, stream) = (StreamId::CONNECTION, StreamId(1));
    match kind {
        MessageKind::Hello => Hello::decode(body)?.encode(connection, 0, out),
        MessageKind::Welcome => Welcome::decode(body)?.encode(connection, 0, out),
        MessageKind::Error => ErrorMessage::decode(body)?.encode(connection, 0, out),
        MessageKind::Goodbye => Goodbye::decode(body)?.encode(connection, 0, out),
        MessageKind::CreateTopic => CreateTopic::decode(body)?.encode(connection, 0, out),
        MessageKind::DeleteTopic => DeleteTopic::decode(body)?.encode(connection, 0, out),
        MessageKind::DescribeTopic => DescribeTopic::decode(body)?.encode(connection, 0, out),
        MessageKind::ListTopics => ListTopics::decode(body)?.encode(connection, 0, out),
        MessageKind::SetRetention => SetRetention::decode(body)?.encode(connection, 0, out),
        MessageKind::DescribeRetention => {
            DescribeRetention::decode(body)?.encode(connection, 0, out);
        }
        MessageKind::Retention => Retention::decode(body)?.encode(connection, 0, out),
        MessageKind::TopicInfo => TopicInfo::decode(body)?.encode(connection, 0, out),
        MessageKind::TopicList => TopicList::decode(body)?.encode(connection, 0, out),
        MessageKind::OpenPublisher => OpenPublisher::decode(body)?.encode(stream, 0, out),
        MessageKind::PublisherOpened => PublisherOpened::decode(body)?.encode(stream, 0, out),
        MessageKind::OpenProducer => OpenProducer::decode(body)?.encode(stream, 0, out),
        MessageKind::ProducerOpened => ProducerOpened::decode(body)?.encode(stream, 0, out),
        MessageKind::OpenReader => OpenReader::decode(body)?.encode(stream, 0, out),
        MessageKind::ReaderOpened => ReaderOpened::decode(body)?.encode(stream, 0, out),
        MessageKind::Credit => Credit::decode(body)?.encode(stream, 0, out),
        MessageKind::Gap => Gap::decode(body)?.encode(stream, 0, out),
        MessageKind::PublishAck => {
            let runs: Vec<_> = PublishAck::decode(body)?.runs().collect();
            PublishAck::encode(&runs, stream, 0, out);
        }
        MessageKind::Frames => {
            let delivery = Delivery::decode(body)?;
            out.extend_from_slice(&delivery.prelude.encode(stream, 0));
            out.extend_from_slice(delivery.frames);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn check_message(kind: MessageKind, body: &[u8], message: &[u8]) {
    assert_eq!(message.get(32..), Some(body), "a message has one form");
    let phases = [
        Phase::Server,
        Phase::Client,
        Phase::ServerBeforeHello,
        Phase::ClientBeforeWelcome,
    ];
    let phase = phases
        .into_iter()
        .find(|phase| kind.may_come(*phase))
        .expect("it goes somewhere");
    if body.len() > kind.body_bytes_max() {
        return;
    }
    match next_message(message, phase).expect("what is encoded passes") {
        Next::Message {
            header,
            body: split,
            consumed,
        } => {
            assert_eq!((header.kind, split, consumed), (kind, body, message.len()));
        }
        Next::Need(bytes) => panic!("{bytes} bytes needed of a whole message"),
    }
}
