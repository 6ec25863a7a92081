//! A server that sends what no server may: the connection ends, and says why.

use millstream_client::core::Request;
use millstream_client::{ErrorCode, Offset, Start};
use millstream_protocol::control::{
    DescribeRetention, DescribeTopic, Gap, GapReason, OpenReader, PublisherOpened, Retention,
    SetRetention, TopicList,
};
use millstream_protocol::limits::FRAME_BYTES_MAX;
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use crate::script::{
    Session, ack, bare, delivery, encoded, publisher_opened, reader_opened, refusal, stored, topic,
};

/// A session with publisher stream 1, three publishes of which are sent, and reader stream 2.
fn session() -> (Session, StreamId, StreamId) {
    let mut session = Session::new();
    let publisher = session.open_publisher();
    let reader = session.open_reader(1000, 10);
    for body in ["a", "b", "c"] {
        session.core.publish(publisher, &body.into()).unwrap();
        session.sent();
    }
    (session, publisher, reader)
}

fn check(bytes: &[u8], part: &str) {
    let (mut session, ..) = session();
    session.feed(bytes);
    let what = session.violation();
    assert!(what.contains(part), "{what}");
    assert!(session.core.check_open().is_err());
    session.feed(bytes);
    assert!(
        session.events().is_empty(),
        "nothing is taken after the end"
    );
}

const PUBLISHER: StreamId = StreamId(1);
const READER: StreamId = StreamId(2);
const UNKNOWN: StreamId = StreamId(9);

#[test]
fn bytes_that_are_no_messages() {
    check(b"GET / HTTP/1.1\r\n\r\n", "kind");
    check(&[0; 64], "kind");
    check(
        &bare(MessageKind::CreateTopic, StreamId::CONNECTION, 1),
        "CreateTopic",
    );
    let mut damaged = bare(MessageKind::Ping, StreamId::CONNECTION, 1);
    damaged[20] ^= 1;
    check(&damaged, "crc");
    let mut ack = ack(PUBLISHER, 1, &[(1, 0)]);
    ack[36] ^= 1;
    check(&ack, "crc");
}

#[test]
fn a_length_over_the_limit_is_not_waited_for() {
    let header = WireHeader {
        kind: MessageKind::Frames,
        body_bytes: 2 * FRAME_BYTES_MAX as u32 + (1 << 20),
        stream: READER,
        correlation: 0,
        body_crc: 0,
    };
    check(&header.encode(), "length");
    let header = WireHeader {
        kind: MessageKind::TopicInfo,
        body_bytes: (64 << 10) + 1,
        stream: StreamId::CONNECTION,
        correlation: 1,
        body_crc: 0,
    };
    check(&header.encode(), "length");
}

#[test]
fn acknowledgements_it_made_up() {
    check(
        &ack(PUBLISHER, 4, &[(4, 0)]),
        "acknowledged publish 4, of which 3 were sent",
    );
    check(&ack(PUBLISHER, u64::MAX, &[(1, 0)]), "of which 3 were sent");
    check(&ack(PUBLISHER, 2, &[(1, 0)]), "1 publishes behind 0");
    check(
        &ack(PUBLISHER, 1, &[(1, 0), (1, 5)]),
        "2 publishes behind 0",
    );
    check(&ack(PUBLISHER, 2, &[(1, 5), (1, 5)]), "offset 5 after 6");
    check(&ack(PUBLISHER, 1, &[(1, u64::MAX)]), "past the last one");
    check(
        &ack(PUBLISHER, 3, &[(u32::MAX, 0), (u32::MAX, 0)]),
        "publishes behind 0",
    );
    let again = [ack(PUBLISHER, 2, &[(2, 0)]), ack(PUBLISHER, 2, &[(2, 0)])].concat();
    check(&again, "2 publishes behind 2");
    check(&ack(READER, 1, &[(1, 0)]), "out of place");
    check(&ack(UNKNOWN, 1, &[(1, 0)]), "never opened");
}

#[test]
fn refusals_that_contradict_it() {
    check(
        &refusal(PUBLISHER, 0, ErrorCode::StorageFull),
        "refused publish 0",
    );
    check(
        &refusal(PUBLISHER, 5, ErrorCode::StorageFull),
        "refused publish 5",
    );
    let taken_back = [
        ack(PUBLISHER, 2, &[(2, 0)]),
        refusal(PUBLISHER, 2, ErrorCode::StorageFull),
    ]
    .concat();
    check(&taken_back, "2 acknowledged");
    let acknowledged_after = [
        refusal(PUBLISHER, 2, ErrorCode::StorageFull),
        ack(PUBLISHER, 2, &[(2, 0)]),
    ]
    .concat();
    check(&acknowledged_after, "of which 1 were sent");
    let twice = [
        refusal(PUBLISHER, 2, ErrorCode::StorageFull),
        refusal(PUBLISHER, 2, ErrorCode::StorageFull),
    ];
    check(&twice.concat(), "twice");
    check(&refusal(UNKNOWN, 1, ErrorCode::StorageFull), "never opened");
}

#[test]
fn answers_nobody_asked_for() {
    let list = TopicList {
        topics: Vec::new(),
        more: false,
    };
    let list = encoded(|out| list.encode(StreamId::CONNECTION, 1, out));
    check(&list, "where None was asked for");
    check(
        &bare(MessageKind::TopicDeleted, StreamId::CONNECTION, 0),
        "where None was asked for",
    );
    check(
        &refusal(StreamId::CONNECTION, 1, ErrorCode::TopicNotFound),
        "request 1",
    );
    let (mut session, ..) = session();
    let request = Request::Describe(DescribeTopic { name: topic("t") });
    session.core.request(&request).unwrap();
    session.feed(&list);
    assert!(
        session
            .violation()
            .contains("TopicList, where Some(TopicInfo)")
    );
}

#[test]
fn another_answer_than_how_much_is_kept() {
    let set = SetRetention {
        topic: topic("t"),
        retention: Retention::KEEP_ALL,
    };
    let describe = DescribeRetention { topic: topic("t") };
    let deleted = bare(MessageKind::TopicDeleted, StreamId::CONNECTION, 1);
    let kept = encoded(|out| Retention::KEEP_ALL.encode(StreamId::CONNECTION, 1, out));
    let cases = [
        (
            Request::SetRetention(set),
            &deleted,
            "TopicDeleted, where Some(Retention)",
        ),
        (
            Request::DescribeRetention(describe),
            &deleted,
            "TopicDeleted, where Some(Retention)",
        ),
        (
            Request::Describe(DescribeTopic { name: topic("t") }),
            &kept,
            "Retention, where Some(TopicInfo)",
        ),
    ];
    for (request, answer, said) in cases {
        let (mut session, ..) = session();
        session.core.request(&request).unwrap();
        session.feed(answer);
        let violation = session.violation();
        assert!(violation.contains(said), "{violation}");
    }
}

#[test]
fn streams_opened_or_closed_out_of_place() {
    check(&publisher_opened(PUBLISHER), "out of place");
    check(&publisher_opened(READER), "out of place");
    check(&publisher_opened(UNKNOWN), "never opened");
    check(&reader_opened(READER, 0, 0), "out of place");
    check(&bare(MessageKind::StreamClosed, UNKNOWN, 0), "never opened");
    let opened = PublisherOpened {
        durability: millstream_client::Durability::Synced,
        next_offset: Offset(0),
    };
    check(
        &encoded(|out| opened.encode(UNKNOWN, 0, out)),
        "never opened",
    );
}

#[test]
fn deliveries_out_of_order() {
    let frame = stored(&[b"a"], 10, 12_288);
    check(
        &delivery(READER, 12_288, 11..12, &frame),
        "where 10 was to follow",
    );
    check(
        &delivery(READER, 12_288, 8..10, &frame),
        "where 10 was to follow",
    );
    let again = delivery(READER, 12_288, 10..11, &frame);
    check(&[again.clone(), again].concat(), "where 11 was to follow");
    check(&delivery(READER, 12_288, 10..10, &frame), "next offset");
    let skips = [
        delivery(READER, 12_288, 10..11, &frame),
        delivery(READER, 12_288, 12..13, &stored(&[b"b"], 12, 12_288)),
    ];
    check(&skips.concat(), "where 11 was to follow");
    check(&delivery(PUBLISHER, 12_288, 10..11, &frame), "out of place");
    check(&delivery(UNKNOWN, 12_288, 10..11, &frame), "never opened");
    let gap = Gap {
        first_offset: Offset(12),
        next_offset: Offset(13),
        reason: GapReason::Trimmed,
    };
    check(
        &encoded(|out| gap.encode(READER, 0, out)),
        "where 10 was to follow",
    );
}

#[test]
fn deliveries_before_the_stream_is_open() {
    let mut session = Session::new();
    let open = OpenReader {
        topic: topic("t"),
        start: Start::Earliest,
        credit_bytes: 1000,
    };
    let stream = session.core.open_reader(&open).unwrap();
    session.feed(&delivery(stream, 12_288, 0..1, &stored(&[b"a"], 0, 12_288)));
    assert!(session.violation().contains("had not opened"));
}

#[test]
fn deliveries_without_credit() {
    let (mut session, _, reader) = session();
    for offset in 0..8 {
        let frame = stored(&[&[1; 64]], 10 + offset, 12_288);
        session.feed(&delivery(reader, 12_288, 10 + offset..11 + offset, &frame));
    }
    assert!(session.core.ended().is_none(), "the last one overdraws");
    let frame = stored(&[&[1; 64]], 18, 12_288);
    session.feed(&delivery(reader, 12_288, 18..19, &frame));
    assert!(session.violation().contains("on a credit of -24"));
}

#[test]
fn deliveries_too_short_for_a_frame_or_not_as_long_as_said() {
    check(
        &delivery(READER, 12_288, 10..11, &[0; 56]),
        "bytes of frames",
    );
    check(
        &delivery(READER, 12_288, 10..11, &[0; 65]),
        "bytes of frames",
    );
}

#[test]
fn gaps_without_end() {
    let (mut session, _, reader) = session();
    for first in 10..10 + 65_536 {
        let gap = Gap {
            first_offset: Offset(first),
            next_offset: Offset(first + 1),
            reason: GapReason::Void,
        };
        session.feed(&encoded(|out| gap.encode(reader, 0, out)));
        session.events();
    }
    assert!(session.core.ended().is_none());
    session.core.gap_taken(reader);
    for first in 65_546..65_548 {
        let gap = Gap {
            first_offset: Offset(first),
            next_offset: Offset(first + 1),
            reason: GapReason::Void,
        };
        session.feed(&encoded(|out| gap.encode(reader, 0, out)));
    }
    assert!(session.violation().contains("65536 gaps"));
}
