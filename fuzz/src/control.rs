//! Bodies of control messages.
//!
//! The first byte is the kind of the message, the rest its body. Claims: what decodes encodes to
//! the same bytes, and its message passes the splitter with the same body.

use millstream_protocol::control::{
    ControlError, CreateTopic, Credit, DeleteTopic, Delivery, DescribeTopic, ErrorMessage, Gap,
    Goodbye, Hello, ListTopics, OpenPublisher, OpenReader, PublishAck, PublisherOpened,
    ReaderOpened, TopicInfo, TopicList, Welcome,
};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, next_message};

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
    let (connection, stream) = (StreamId::CONNECTION, StreamId(1));
    match kind {
        MessageKind::Hello => Hello::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::Welcome => Welcome::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::Error => ErrorMessage::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::Goodbye => Goodbye::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::CreateTopic => CreateTopic::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::DeleteTopic => DeleteTopic::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::DescribeTopic => DescribeTopic::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::ListTopics => ListTopics::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::TopicInfo => TopicInfo::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::TopicList => TopicList::decode(body)?.encode(connection, 0, &mut out),
        MessageKind::OpenPublisher => OpenPublisher::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::PublisherOpened => PublisherOpened::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::OpenReader => OpenReader::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::ReaderOpened => ReaderOpened::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::Credit => Credit::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::Gap => Gap::decode(body)?.encode(stream, 0, &mut out),
        MessageKind::PublishAck => {
            let runs: Vec<_> = PublishAck::decode(body)?.runs().collect();
            PublishAck::encode(&runs, stream, 0, &mut out);
        }
        MessageKind::Frames => {
            let delivery = Delivery::decode(body)?;
            out.extend_from_slice(&delivery.prelude.encode(stream, 0));
            out.extend_from_slice(delivery.frames);
        }
        MessageKind::Ping
        | MessageKind::Pong
        | MessageKind::CloseStream
        | MessageKind::StreamClosed
        | MessageKind::TopicDeleted
        | MessageKind::Publish => return Ok(None),
    }
    Ok(Some(out))
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
