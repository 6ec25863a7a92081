//! Messages of a connection.

use std::fmt::Debug;

use millstream_protocol::batch::{Checked, RecordRun};
use millstream_protocol::control::{
    AckRun, ControlError, CreateTopic, Credit, DeleteTopic, Delivery, DeliveryPrelude,
    DescribeTopic, ErrorMessage, Gap, GapReason, Goodbye, Hello, ListTopics, Magic, OpenProducer,
    OpenPublisher, OpenReader, ProducerOpened, PublishAck, PublisherOpened, ReaderOpened,
    TopicInfo, TopicList, Welcome,
};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::{FramePlace, PublisherFields, check_publish};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};
use millstream_protocol::{AckLevel, Durability, Offset, Start, TopicName};

use super::frames::{
    NONCE_HALF, POSITION, SEED, header_parts, published, stored, stored_at, three,
};
use super::{Part, Vector, parts};

pub(super) const STREAM: StreamId = StreamId(3);
const TEXT: &str = "text, relative pointer";
const COUNT: &str = "text, length";

fn wire_parts() -> Vec<Part> {
    parts(&[
        (1, "kind"),
        (1, "flags"),
        (2, "reserved"),
        (4, "body length"),
        (4, "stream"),
        (4, "reserved"),
        (8, "correlation"),
        (4, "body crc"),
        (4, "header crc"),
    ])
}

/// The side that gets such a message once connections are open.
fn phase(kind: MessageKind) -> Phase {
    [
        Phase::Server,
        Phase::Client,
        Phase::ServerBeforeHello,
        Phase::ClientBeforeWelcome,
    ]
    .into_iter()
    .find(|phase| kind.may_come(*phase))
    .unwrap()
}

fn split(bytes: &[u8], kind: MessageKind) -> (WireHeader, &[u8]) {
    match next_message(bytes, phase(kind)).unwrap() {
        Next::Message {
            header,
            body,
            consumed,
        } => {
            assert_eq!(consumed, bytes.len());
            assert_eq!(header.kind, kind);
            (header, body)
        }
        Next::Need(bytes) => panic!("{bytes} bytes needed"),
    }
}

/// An example whose body `check` accepts when it means the right thing.
pub(super) fn vector(
    name: &'static str,
    meaning: &'static str,
    kind: MessageKind,
    message: (Vec<u8>, Vec<Part>),
    check: impl Fn(&WireHeader, &[u8]) -> bool + 'static,
) -> Vector {
    let (bytes, body_parts) = message;
    let accepts = move |bytes: &[u8]| match next_message(bytes, phase(kind)) {
        Ok(Next::Message {
            header,
            body,
            consumed,
        }) => consumed == bytes.len() && header.kind == kind && check(&header, body),
        _ => false,
    };
    assert!(accepts(&bytes), "{name} is accepted as it is encoded");
    let (stream, correlation) = {
        let (header, _) = split(&bytes, kind);
        (header.stream, header.correlation)
    };
    let accepts = std::rc::Rc::new(accepts);
    let also = accepts.clone();
    Vector {
        name,
        meaning,
        bytes,
        parts: [wire_parts(), body_parts].concat(),
        message: Some(kind),
        decodes: Box::new(move |bytes| {
            let (header, _) = split(bytes, kind);
            assert_eq!((header.stream, header.correlation), (stream, correlation));
            assert!(also(bytes), "{name} means what it always did");
        }),
        accepts: Box::new(move |bytes| accepts(bytes)),
        encodes_alike: true,
    }
}

/// An example of an archived message.
macro_rules! archived {
    ($name:literal, $meaning:literal, $kind:ident, $at:expr, $value:expr, $parts:expr) => {{
        let value = $value;
        let (stream, correlation): (StreamId, u64) = $at;
        let mut bytes = Vec::new();
        value.encode(stream, correlation, &mut bytes);
        let check = decoded_is(value, |body| Decoded::decoded(body));
        vector(
            $name,
            $meaning,
            MessageKind::$kind,
            (bytes, parts($parts)),
            check,
        )
    }};
}

pub(super) fn decoded_is<T: PartialEq + Debug + 'static>(
    value: T,
    decode: impl Fn(&[u8]) -> Result<T, ControlError> + 'static,
) -> impl Fn(&WireHeader, &[u8]) -> bool {
    move |_, body| decode(body).is_ok_and(|decoded| decoded == value)
}

/// The `decode` every archived message has, so that its type can be inferred.
pub(super) trait Decoded: Sized {
    fn decoded(body: &[u8]) -> Result<Self, ControlError>;
}

/// Gives messages the trait.
macro_rules! decoded {
    ($($name:ident),+) => {$(
        impl Decoded for $name {
            fn decoded(body: &[u8]) -> Result<Self, ControlError> {
                Self::decode(body)
            }
        }
    )+};
}

decoded!(
    Hello,
    Welcome,
    Goodbye,
    ErrorMessage,
    CreateTopic,
    DeleteTopic,
    DescribeTopic,
    ListTopics,
    TopicInfo,
    TopicList,
    OpenPublisher,
    PublisherOpened,
    OpenProducer,
    ProducerOpened,
    OpenReader,
    ReaderOpened,
    Credit,
    Gap
);

pub(super) const CONNECTION: StreamId = StreamId::CONNECTION;

pub(super) fn name(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn info(topic: &str, poisoned: Option<&str>) -> TopicInfo {
    TopicInfo {
        name: name(topic),
        incarnation: *b"0123456789abcdef",
        durability: Durability::Synced,
        first_offset: Offset(5),
        next_offset: Offset(1_000_000),
        synced_offset: Offset(1_000_002),
        bytes: 1 << 30,
        segments: 17,
        poisoned: poisoned.map(str::to_owned),
    }
}

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = connection();
    vectors.extend(bare());
    vectors.extend(topics());
    vectors.extend(topic_answers());
    vectors.extend(publishing());
    vectors.extend(producing());
    vectors.extend(reading());
    vectors.extend(deliveries());
    vectors
}

fn connection() -> Vec<Vector> {
    vec![
        archived!(
            "message-hello",
            "The hello of a client that calls itself \"golden 1\" and speaks version 1.",
            Hello,
            (CONNECTION, 1),
            Hello {
                magic: Magic,
                version_min: 1,
                version_max: 1,
                features: 0,
                client: "golden 1".into(),
            },
            &[
                (8, "client: text"),
                (4, "root: magic"),
                (2, "root: version min"),
                (2, "root: version max"),
                (8, "root: features"),
                (4, "root: client, relative pointer"),
                (4, "root: client, length"),
            ]
        ),
        archived!(
            "message-welcome",
            "The welcome of a server that calls itself \"server\", its folder opened 7 times.",
            Welcome,
            (CONNECTION, 1),
            Welcome {
                version: 1,
                features: 0,
                server: "server".into(),
                folder_id: *b"fedcba9876543210",
                boot_epoch: 7,
                frame_bytes_max: 16 << 20,
                publish_window_bytes: 8 << 20,
                publish_window_frames: 4096,
                heartbeat_ms: 10_000,
            },
            &[
                (6, "server: text"),
                (2, "root: version"),
                (8, "root: features"),
                (4, "root: server, relative pointer"),
                (4, "root: server, length"),
                (16, "root: folder id"),
                (4, "root: boot epoch"),
                (4, "root: frame bytes max"),
                (4, "root: publish window bytes"),
                (4, "root: publish window frames"),
                (4, "root: heartbeat ms"),
            ]
        ),
        archived!(
            "message-goodbye",
            "A server that is stopped says so.",
            Goodbye,
            (CONNECTION, 0),
            Goodbye {
                reason: "stopping".into()
            },
            &[(8, "reason: text"), (4, TEXT), (4, COUNT)]
        ),
        archived!(
            "message-error",
            "The publishes of stream 3 from number 12 on are refused: the disk is full.",
            Error,
            (STREAM, 12),
            ErrorMessage {
                code: ErrorCode::StorageFull,
                effect: Effect::NotApplied,
                retriable: true,
                message: "the disk is full".into(),
            },
            &[
                (16, "message: text"),
                (2, "root: code"),
                (1, "root: effect"),
                (1, "root: retriable"),
                (4, "root: message, relative pointer"),
                (4, "root: message, length"),
            ]
        ),
    ]
}

pub(super) use {archived, decoded};

/// Messages without a body.
fn bare() -> Vec<Vector> {
    let bare = |name, meaning, kind, stream, correlation| {
        let bytes = WireHeader::bare(kind, stream, correlation)
            .encode()
            .to_vec();
        vector(name, meaning, kind, (bytes, Vec::new()), |_, body| {
            body.is_empty()
        })
    };
    vec![
        bare("message-ping", "A ping.", MessageKind::Ping, CONNECTION, 77),
        bare(
            "message-pong",
            "Its answer.",
            MessageKind::Pong,
            CONNECTION,
            77,
        ),
        bare(
            "message-close-stream",
            "Ends stream 3.",
            MessageKind::CloseStream,
            STREAM,
            0,
        ),
        bare(
            "message-stream-closed",
            "It has ended.",
            MessageKind::StreamClosed,
            STREAM,
            0,
        ),
        bare(
            "message-topic-deleted",
            "Answers request 5.",
            MessageKind::TopicDeleted,
            CONNECTION,
            5,
        ),
        bare(
            "message-cursor-deleted",
            "Answers request 6.",
            MessageKind::CursorDeleted,
            CONNECTION,
            6,
        ),
    ]
}

fn topics() -> Vec<Vector> {
    let root_name = (4, "root: name, relative pointer");
    let root_length = (4, "root: name, length");
    vec![
        archived!(
            "message-create-topic",
            "Creates \"orders\", acknowledged when stored.",
            CreateTopic,
            (CONNECTION, 2),
            CreateTopic {
                name: name("orders"),
                durability: Durability::Stored
            },
            &[
                (6, "name: text"),
                root_name,
                root_length,
                (1, "root: durability")
            ]
        ),
        archived!(
            "message-delete-topic",
            "Deletes \"orders\".",
            DeleteTopic,
            (CONNECTION, 5),
            DeleteTopic {
                name: name("orders")
            },
            &[(6, "name: text"), root_name, root_length]
        ),
        archived!(
            "message-describe-topic",
            "Asks about \"commandes\u{e9}\".",
            DescribeTopic,
            (CONNECTION, 3),
            DescribeTopic {
                name: name("commandes\u{e9}")
            },
            &[(11, "name: text"), root_name, root_length]
        ),
        archived!(
            "message-list-topics",
            "Asks for the first topics.",
            ListTopics,
            (CONNECTION, 4),
            ListTopics { after: None },
            &[(0, "after: text"), (4, TEXT), (4, COUNT)]
        ),
        archived!(
            "message-list-topics-after",
            "Asks for the topics behind \"orders\".",
            ListTopics,
            (CONNECTION, 4),
            ListTopics {
                after: Some(name("orders"))
            },
            &[(6, "after: text"), (4, TEXT), (4, COUNT)]
        ),
    ]
}

fn topic_answers() -> Vec<Vector> {
    let topic = [
        (4, "name, relative pointer"),
        (4, "name, length"),
        (16, "incarnation"),
        (1, "durability"),
        (8, "first offset"),
        (8, "next offset"),
        (8, "synced offset"),
        (8, "bytes"),
        (4, "segments"),
        (4, "poisoned, relative pointer"),
        (4, "poisoned, length"),
    ];
    let one = [
        &[(6, "name: text"), (0, "poisoned: text")],
        topic.as_slice(),
    ]
    .concat();
    let two = [
        &[(1, "topic 0: name: text"), (0, "topic 0: poisoned: text")],
        &[(2, "topic 1: name: text"), (11, "topic 1: poisoned: text")],
        topic.as_slice(),
        &topic,
        &[
            (4, "root: topics, relative pointer"),
            (4, "root: topics, count"),
            (1, "root: more"),
        ],
    ]
    .concat();
    let two: Vec<(usize, &str)> = two;
    vec![
        archived!(
            "message-topic-info",
            "\"orders\" holds records 5 to 999999; two more are on disk and not yet visible.",
            TopicInfo,
            (CONNECTION, 3),
            info("orders", None),
            &one
        ),
        archived!(
            "message-topic-list",
            "Two topics, \"a\" and \"bb\", the second poisoned with \"sync failed\", and more to come.",
            TopicList,
            (CONNECTION, 4),
            TopicList {
                topics: vec![info("a", None), info("bb", Some("sync failed"))],
                more: true
            },
            &two
        ),
    ]
}

fn producing() -> Vec<Vector> {
    vec![
        archived!(
            "message-open-producer",
            "Opens stream 3 to publish to \"orders\" as the producer \"till-7\", which had epoch\n\
             0x0000000300000001 and knows its records up to 41 to be acknowledged.",
            OpenProducer,
            (STREAM, 0),
            OpenProducer {
                topic: name("orders"),
                producer: name("till-7"),
                ack: AckLevel::Synced,
                create: true,
                epoch: 3 << 32 | 1,
                acknowledged: 41,
            },
            &[
                (6, "topic: text"),
                (6, "producer: text"),
                (4, "root: topic, relative pointer"),
                (4, "root: topic, length"),
                (4, "root: producer, relative pointer"),
                (4, "root: producer, length"),
                (1, "root: ack"),
                (1, "root: create"),
                (8, "root: epoch"),
                (8, "root: acknowledged"),
            ]
        ),
        archived!(
            "message-producer-opened",
            "It is open: its records up to 42 are there, and the next one visible will be 100.",
            ProducerOpened,
            (STREAM, 0),
            ProducerOpened {
                durability: Durability::Synced,
                next_offset: Offset(100),
                producer_id: 3 << 31,
                epoch: 3 << 32 | 1,
                last_sequence: 42,
                known: true,
            },
            &[
                (1, "root: durability"),
                (8, "root: next offset"),
                (8, "root: producer id"),
                (8, "root: epoch"),
                (8, "root: last sequence"),
                (1, "root: known"),
            ]
        ),
    ]
}

fn publishing() -> Vec<Vector> {
    let frame = published(&three(), Default::default());
    let frame_bytes = u32::try_from(frame.len()).unwrap();
    let publish = [
        WireHeader::publish(STREAM, 1, frame_bytes)
            .encode()
            .as_slice(),
        &frame,
    ]
    .concat();
    let publish_parts = [
        header_parts(),
        parts(&[(frame.len() - 64, "body of the frame")]),
    ]
    .concat();
    let runs = [
        AckRun {
            publishes: 3,
            duplicates: false,
            base_offset: Offset(100),
        },
        AckRun {
            publishes: 1,
            duplicates: false,
            base_offset: Offset(250),
        },
    ];
    let mut ack = Vec::new();
    PublishAck::encode(&runs, STREAM, 4, &mut ack);
    let repeated = [AckRun {
        publishes: 2,
        duplicates: true,
        base_offset: Offset(40),
    }];
    let mut repeated_ack = Vec::new();
    PublishAck::encode(&repeated, STREAM, 6, &mut repeated_ack);
    let ack_parts = parts(&[
        (4, "run 0: publishes"),
        (8, "run 0: base offset"),
        (4, "run 1: publishes"),
        (8, "run 1: base offset"),
    ]);
    vec![
        archived!(
            "message-open-publisher",
            "Opens stream 3 to publish to \"orders\", created if need be, acknowledged when synced.",
            OpenPublisher,
            (STREAM, 0),
            OpenPublisher {
                topic: name("orders"),
                ack: AckLevel::Synced,
                create: true
            },
            &[
                (6, "topic: text"),
                (4, "root: topic, relative pointer"),
                (4, "root: topic, length"),
                (1, "root: ack"),
                (1, "root: create"),
            ]
        ),
        archived!(
            "message-publisher-opened",
            "It is open; the next record visible will be 100.",
            PublisherOpened,
            (STREAM, 0),
            PublisherOpened {
                durability: Durability::Synced,
                next_offset: Offset(100)
            },
            &[(1, "root: durability"), (8, "root: next offset")]
        ),
        vector(
            "message-publish",
            "The first publish of stream 3: \"one\", \"\", \"three\".",
            MessageKind::Publish,
            (publish, publish_parts),
            move |_, body| check_publish(body).is_ok() && body == frame,
        ),
        vector(
            "message-publish-ack",
            "Publishes up to number 4 are acknowledged: the first 3 begin at record 100, the last is\n\
             at 250.",
            MessageKind::PublishAck,
            (ack, ack_parts),
            move |_, body| PublishAck::decode(body).is_ok_and(|ack| ack.runs().eq(runs)),
        ),
        vector(
            "message-publish-ack-duplicates",
            "Publishes 5 and 6 were there before, by their ids: the first as record 40.",
            MessageKind::PublishAck,
            (
                repeated_ack,
                parts(&[
                    (4, "run 0: publishes, and the bit for duplicates"),
                    (8, "run 0: base offset"),
                ]),
            ),
            move |_, body| PublishAck::decode(body).is_ok_and(|ack| ack.runs().eq(repeated)),
        ),
    ]
}

fn reading() -> Vec<Vector> {
    let open_parts = [
        (6, "topic: text"),
        (4, "root: topic, relative pointer"),
        (4, "root: topic, length"),
        (1, "root: start, which"),
        (8, "root: start, value"),
        (4, "root: credit bytes"),
    ];
    let open = |start| OpenReader {
        topic: name("orders"),
        start,
        credit_bytes: 1 << 20,
    };
    let at = (StreamId(9), 0);
    vec![
        archived!(
            "message-open-reader-earliest",
            "Reads \"orders\" from its oldest record, with a credit of 1 MiB.",
            OpenReader,
            at,
            open(Start::Earliest),
            &open_parts
        ),
        archived!(
            "message-open-reader-latest",
            "The same from the first record published from now on.",
            OpenReader,
            at,
            open(Start::Latest),
            &open_parts
        ),
        archived!(
            "message-open-reader-offset",
            "The same from record 41.",
            OpenReader,
            at,
            open(Start::Offset(Offset(41))),
            &open_parts
        ),
        archived!(
            "message-open-reader-time",
            "The same from the first record appended at 1790000000000000 or later.",
            OpenReader,
            at,
            open(Start::Time(1_790_000_000_000_000)),
            &open_parts
        ),
        archived!(
            "message-reader-opened",
            "It is open: record 41 comes first, records up to 99 are there.",
            ReaderOpened,
            at,
            ReaderOpened {
                start_offset: Offset(41),
                end_offset: Offset(100),
                incarnation: *b"0123456789abcdef",
            },
            &[
                (8, "root: start offset"),
                (8, "root: end offset"),
                (16, "root: incarnation")
            ]
        ),
        archived!(
            "message-credit",
            "Another 64 KiB may be sent.",
            Credit,
            at,
            Credit { bytes: 65_536 },
            &[(4, "bytes")]
        ),
        archived!(
            "message-gap",
            "Records 44 to 49 are damaged.",
            Gap,
            at,
            Gap {
                first_offset: Offset(44),
                next_offset: Offset(50),
                reason: GapReason::Damaged,
            },
            &[
                (8, "root: first offset"),
                (8, "root: next offset"),
                (1, "root: reason")
            ]
        ),
    ]
}

fn deliveries() -> Vec<Vector> {
    let first = stored(PublisherFields::single(5), b"hello", 41);
    let second = stored_at(
        PublisherFields::single(8),
        b"to world",
        42,
        POSITION + first.len() as u32,
    );
    let frames = [first, second].concat();
    let prelude = DeliveryPrelude {
        place: FramePlace {
            seed: SEED,
            nonce_half: NONCE_HALF,
            position: POSITION,
        },
        frames_bytes: u32::try_from(frames.len()).unwrap(),
        first_offset: Offset(41),
        next_offset: Offset(43),
    };
    let bytes = [prelude.encode(StreamId(9), 0).as_slice(), &frames].concat();
    let delivery_parts = [
        parts(&[
            (4, "prelude: seed"),
            (4, "prelude: nonce half"),
            (4, "prelude: position"),
            (4, "prelude: bytes of frames"),
            (8, "prelude: first offset"),
            (8, "prelude: next offset"),
        ]),
        header_parts(),
        parts(&[(5, "payload"), (3, "padding")]),
        header_parts(),
        parts(&[(8, "payload")]),
    ];
    vec![vector(
        "message-frames",
        "A delivery of two frames, as they lie from position 12288 on: record 41, \"hello\", and\n\
         record 42, \"to world\".",
        MessageKind::Frames,
        (bytes, delivery_parts.concat()),
        move |_, body| {
            let Ok(delivery) = Delivery::decode(body) else {
                return false;
            };
            let frames = bytes::Bytes::copy_from_slice(delivery.frames);
            let records: Result<Vec<_>, _> =
                RecordRun::new(frames, prelude.place, Checked::No, Offset(0)).collect();
            delivery.prelude == prelude
                && records.is_ok_and(|records| {
                    let bodies: Vec<_> = records.iter().map(|record| record.body()).collect();
                    bodies == [&b"hello"[..], b"to world"]
                })
        },
    )]
}
