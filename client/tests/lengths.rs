//! Whatever a length or a count of a server's message claims, the client allocates nothing from it
//! before it was checked.
//!
//! Every 32-bit word at every place of a message is set to each of [`CLAIMS`], with all checksums
//! made right again, and what the client asks the allocator for while it takes it is counted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "this file uses a part of it")]
#[path = "client/script.rs"]
mod script;

#[path = "../../server/tests/counting/mod.rs"]
mod counting;

use millstream_client::Durability;
use millstream_client::core::Request;
use millstream_client::{ErrorCode, Offset};
use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::{
    CursorInfo, CursorList, DescribeRetention, DescribeTopic, Gap, GapReason, LeaseInfo, LeaseList,
    ListTopics, PeekedList, PeekedRecord, QueueList, ReceiveOver, RecordState, Retention,
    TopicInfo, TopicList, Welcome,
};
use millstream_protocol::limits::{
    CONTROL_BYTES_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX, READ_CREDIT_BYTES_MAX,
    RECORDS_PER_FRAME_MAX, SETTLES_MAX, TOPICS_PER_LIST_MAX, WIRE_HEADER_BYTES, WORK_ENTRY_BYTES,
    WORK_PRELUDE_BYTES,
};
use millstream_protocol::wire::{
    MessageKind, Phase, StreamId, WireError, WireHeader, next_message,
};

use counting::{Asked, asked_by};
use script::{
    Session, ack, consumer_opened, delivery, encoded, publisher_opened, reader_opened, refusal,
    settle_ack, stored, topic, welcome, work,
};

/// What a length may claim: nothing, one, limits and one more, and the largest there are.
const CLAIMS: [u32; 20] = [
    0,
    1,
    2,
    TOPICS_PER_LIST_MAX as u32,
    TOPICS_PER_LIST_MAX as u32 + 1,
    255,
    256,
    HELLO_BYTES_MAX as u32,
    SETTLES_MAX as u32,
    SETTLES_MAX as u32 + 1,
    RECORDS_PER_FRAME_MAX as u32,
    RECORDS_PER_FRAME_MAX as u32 + 1,
    CONTROL_BYTES_MAX as u32,
    READ_CREDIT_BYTES_MAX,
    READ_CREDIT_BYTES_MAX + 1,
    FRAME_BYTES_MAX as u32,
    FRAME_BYTES_MAX as u32 + 1,
    1 << 31,
    (1 << 31) + 1,
    u32::MAX,
];

/// Most bytes the client asks for to take a small message, whatever it claims.
const ASKED_BYTES_MAX: u64 = 64 << 10;

const PUBLISHER: StreamId = StreamId(1);
const READER: StreamId = StreamId(2);
const CONSUMER: StreamId = StreamId(3);

/// A client with a stream of each kind, three publishes on their way, and three requests.
fn session() -> Session {
    let mut session = Session::new();
    let publisher = session.open_publisher();
    session.open_reader(1000, 10);
    session.open_consumer(16);
    for body in ["a", "b", "c"] {
        session.core.publish(publisher, &body.into()).unwrap();
    }
    let describe = Request::Describe(DescribeTopic { name: topic("t") });
    session.core.request(&describe).unwrap();
    let list = Request::List(ListTopics { after: None });
    session.core.request(&list).unwrap();
    let kept = DescribeRetention { topic: topic("t") };
    let kept = Request::DescribeRetention(kept);
    session.core.request(&kept).unwrap();
    session.sent();
    session
}

fn topic_info() -> TopicInfo {
    TopicInfo {
        name: topic("t"),
        incarnation: [1; 16],
        durability: Durability::Stored,
        first_offset: Offset(0),
        next_offset: Offset(1),
        synced_offset: Offset(1),
        bytes: 1,
        segments: 1,
        poisoned: Some("why".to_owned()),
    }
}

/// What a server may say to it.
fn samples() -> Vec<Vec<u8>> {
    let connection = StreamId::CONNECTION;
    let list = TopicList {
        topics: vec![topic_info(), topic_info()],
        more: true,
    };
    let gap = Gap {
        first_offset: Offset(10),
        next_offset: Offset(12),
        reason: GapReason::Trimmed,
    };
    let retention = Retention {
        bytes: 1,
        age_ms: 2,
    };
    vec![
        ack(PUBLISHER, 3, &[(1, 0), (2, 5)]),
        refusal(PUBLISHER, 1, ErrorCode::StorageFull),
        publisher_opened(PUBLISHER),
        reader_opened(READER, 1, 2),
        consumer_opened(CONSUMER, 1),
        delivery(READER, 12_288, 10..12, &stored(&[b"a", b"b"], 10, 12_288)),
        encoded(|out| gap.encode(READER, 1, out)),
        work(CONSUMER, &[(1, 1), (2, 2)]),
        settle_ack(CONSUMER, 2, &[1, 2]),
        encoded(|out| ReceiveOver { granted: 1 }.encode(CONSUMER, 1, out)),
        encoded(|out| topic_info().encode(connection, 1, out)),
        encoded(|out| list.encode(connection, 2, out)),
        encoded(|out| retention.encode(connection, 3, out)),
    ]
}

/// The message with all its checksums made right.
fn whole(mut message: Vec<u8>) -> Vec<u8> {
    let entries = WORK_PRELUDE_BYTES + 2 * WORK_ENTRY_BYTES;
    if message[0] == MessageKind::Work.code() {
        let frame = &mut message[WIRE_HEADER_BYTES + entries..];
        let crc = crc32c(&frame[32..]);
        frame[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let header = message.first_chunk().unwrap();
    let mut header = WireHeader::decode(header, Phase::Client).unwrap();
    if let Err(WireError::BodyCrc { wanted, .. }) = next_message(&message, Phase::Client) {
        header.body_crc = wanted;
        message[..WIRE_HEADER_BYTES].copy_from_slice(&header.encode());
    }
    message
}

/// Every message that differs from `sample` in one word of its body that is one of [`CLAIMS`].
fn claims(sample: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let places = WIRE_HEADER_BYTES..sample.len().saturating_sub(3);
    places.flat_map(move |place| {
        CLAIMS.into_iter().map(move |claim| {
            let mut claiming = sample.to_vec();
            claiming[place..place + 4].copy_from_slice(&claim.to_le_bytes());
            whole(claiming)
        })
    })
}

#[track_caller]
fn is_modest(asked: Asked, message: &[u8]) {
    assert!(asked.bytes <= ASKED_BYTES_MAX, "{asked:?} for {message:?}");
}

#[test]
fn no_claim_of_a_server_is_allocated_from() {
    for sample in samples() {
        for claiming in claims(&sample) {
            let mut session = session();
            let input = bytes::BytesMut::from(&claiming[..]);
            let (asked, ()) = asked_by(|| {
                let mut input = input;
                session.core.receive(session.now, &mut input);
                drop(session.events());
            });
            is_modest(asked, &claiming);
        }
    }
}

#[test]
fn no_length_of_a_header_is_waited_for_over_its_limit_or_allocated_from() {
    for code in 0..=u8::MAX {
        let Some(kind) = MessageKind::from_code(code) else {
            continue;
        };
        let limit = u32::try_from(kind.body_bytes_max()).unwrap();
        for body_bytes in [0, 1, limit, limit + 1, 1 << 31, u32::MAX] {
            for stream in [StreamId::CONNECTION, READER] {
                let header = WireHeader {
                    body_bytes,
                    ..WireHeader::bare(kind, stream, 1)
                };
                let mut session = session();
                let input = bytes::BytesMut::from(&header.encode()[..]);
                let (asked, ()) = asked_by(|| {
                    let mut input = input;
                    session.core.receive(session.now, &mut input);
                });
                is_modest(asked, &header.encode());
                if body_bytes > limit {
                    let ended = session.core.ended().is_some();
                    assert!(ended, "{kind:?} of {body_bytes} bytes is waited for");
                }
            }
        }
    }
}

/// Reads every variation of a message's body.
fn decode_all<T, E>(message: Vec<u8>, decode: impl Fn(&[u8]) -> Result<T, E>) {
    let body = &message[WIRE_HEADER_BYTES..];
    assert!(decode(body).is_ok(), "it is right to begin with");
    for place in 0..body.len() - 3 {
        for claim in CLAIMS {
            let mut claiming = body.to_vec();
            claiming[place..place + 4].copy_from_slice(&claim.to_le_bytes());
            let (asked, _) = asked_by(|| decode(&claiming).is_ok());
            is_modest(asked, &claiming);
        }
    }
}

#[test]
fn no_claim_of_an_answer_is_allocated_from() {
    let stream = StreamId::CONNECTION;
    let queues = QueueList {
        queues: Vec::new(),
        more: true,
    };
    decode_all(
        encoded(|out| queues.encode(stream, 1, out)),
        QueueList::decode,
    );
    let record = PeekedRecord {
        offset: Offset(1),
        state: RecordState::Ready,
        attempts: 1,
        due_us: 0,
    };
    let records = vec![record, record];
    let peeked = PeekedList { records };
    decode_all(
        encoded(|out| peeked.encode(stream, 1, out)),
        PeekedList::decode,
    );
    let lease = LeaseInfo {
        offset: Offset(1),
        consumer: 1,
        attempts: 1,
        left_ms: 1,
    };
    let leases = LeaseList {
        leases: vec![lease, lease],
    };
    decode_all(
        encoded(|out| leases.encode(stream, 1, out)),
        LeaseList::decode,
    );
    let cursor = CursorInfo {
        topic: topic("t"),
        name: topic("c"),
        offset: Offset(1),
        end_offset: Offset(2),
        updated_us: 3,
    };
    let cursors = CursorList {
        cursors: vec![cursor.clone(), cursor],
        more: false,
    };
    decode_all(
        encoded(|out| cursors.encode(stream, 1, out)),
        CursorList::decode,
    );
    decode_all(
        encoded(|out| welcome().encode(stream, 0, out)),
        Welcome::decode,
    );
}
