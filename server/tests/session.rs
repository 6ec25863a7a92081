//! Sessions made of bytes alone: no socket, no thread, no clock but the one handed in.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

#[path = "session/conversing.rs"]
mod conversing;
mod peer;

use std::time::{Duration, Instant};

use millstream::{Broker, BrokerOptions};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::limits::{
    HEARTBEAT_MS, PRE_HELLO_MS, PUBLISH_WINDOW_FRAMES, READ_CREDIT_BYTES_MAX,
    SESSION_OUT_BYTES_MAX, STREAMS_PER_CONNECTION_MAX,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
use millstream_protocol::{AckLevel, Durability, Offset, Start};
use proptest::prelude::*;

use peer::{Said, Script, Wire};

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    (folder, broker)
}

/// A session that has been greeted.
fn open(broker: &Broker) -> Wire {
    let mut wire = Wire::new(broker);
    wire.feed(&Script::hello().0);
    assert!(
        matches!(wire.ear.said[..], [Said::Welcome(_)]),
        "{:?}",
        wire.ear.said
    );
    wire.ear.said.clear();
    wire
}

fn only_error(wire: &Wire, wanted: ErrorCode) {
    match &wire.ear.said[..] {
        [
            Said::Error {
                stream: 0,
                correlation: 0,
                code,
                ..
            },
        ] => assert_eq!(*code, wanted),
        said => panic!("{said:?}"),
    }
    assert!(wire.closed && wire.session.is_closed());
}

#[test]
fn a_hello_is_answered_with_who_we_are() {
    let (_folder, broker) = broker();
    let mut wire = Wire::new(&broker);
    wire.feed(&Script::hello().0);
    let Said::Welcome(welcome) = &wire.ear.said[0] else {
        panic!("{:?}", wire.ear.said)
    };
    assert_eq!(welcome.folder_id, broker.folder_id());
    assert_eq!(welcome.boot_epoch, broker.boot_epoch());
    assert!(welcome.server.starts_with("millstream "));
}

#[test]
fn what_is_no_hello_is_refused_and_ends_the_connection() {
    let (_folder, broker) = broker();
    let mut magic = Script::hello().0;
    let at = magic
        .windows(4)
        .position(|window| window == b"MLST")
        .expect("the magic");
    magic[at] ^= 1;
    let body_crc = millstream_protocol::checksum::crc32c(&magic[32..]);
    let header = WireHeader {
        kind: MessageKind::Hello,
        body_bytes: (magic.len() - 32) as u32,
        stream: StreamId(0),
        correlation: 0,
        body_crc,
    };
    magic[..32].copy_from_slice(&header.encode());
    for (bytes, code) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), ErrorCode::HelloRequired),
        (Script::default().ping(1).0, ErrorCode::HelloRequired),
        (
            Script::default().and_hello(2, 9).0,
            ErrorCode::UnsupportedVersion,
        ),
        (magic, ErrorCode::Malformed),
        (
            Script::default().bare(MessageKind::Hello, 0, 0).0,
            ErrorCode::Malformed,
        ),
    ] {
        let mut wire = Wire::new(&broker);
        wire.feed(&bytes);
        only_error(&wire, code);
    }
}

#[test]
fn nothing_follows_the_error_that_closes_a_connection() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let script =
        Script::default()
            .create(1, "t", Durability::Stored)
            .bare(MessageKind::Welcome, 0, 0);
    let received = wire.session.receive(&script.0);
    assert!(received.is_err(), "a welcome is not for a server");
    let job = wire.session.take_job().expect("the topic is to be made");
    wire.session.finish_job(job.run());
    wire.take_output();
    assert!(
        matches!(wire.ear.said[..], [Said::Error { stream: 0, .. }]),
        "{:?}",
        wire.ear.said
    );
}

#[test]
fn a_hello_over_its_limit_is_refused_by_its_header() {
    let (_folder, broker) = broker();
    let header = WireHeader {
        kind: MessageKind::Hello,
        body_bytes: 481,
        stream: StreamId(0),
        correlation: 0,
        body_crc: 0,
    };
    let mut wire = Wire::new(&broker);
    wire.feed(&header.encode());
    only_error(&wire, ErrorCode::TooLarge);
}

#[test]
fn broken_headers_end_the_connection_with_the_field_that_is_wrong() {
    let (_folder, broker) = broker();
    for (byte, flip, code, word) in [
        (0, 0x80, ErrorCode::UnknownKind, "kind"),
        (1, 0x01, ErrorCode::Malformed, "flags"),
        (3, 0x01, ErrorCode::Malformed, "reserved"),
        (13, 0x01, ErrorCode::Malformed, "reserved"),
        (17, 0x01, ErrorCode::BadChecksum, "header crc"),
        (30, 0x01, ErrorCode::BadChecksum, "header crc"),
    ] {
        let mut wire = open(&broker);
        let mut ping = Script::default().ping(7).0;
        ping[byte] ^= flip;
        wire.feed(&ping);
        only_error(&wire, code);
        let Said::Error { message, .. } = &wire.ear.said[0] else {
            unreachable!()
        };
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn topics_are_created_described_listed_and_deleted() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .create(1, "b", Durability::Stored)
            .create(2, "a", Durability::Synced)
            .create(3, "b", Durability::Synced)
            .describe(4, "b")
            .list(5, None)
            .list(6, Some("a"))
            .delete(7, "a")
            .describe(8, "a")
            .delete(9, "a")
            .0,
    );
    let said = &wire.ear.said;
    let correlations: Vec<_> = said
        .iter()
        .map(|said| match said {
            Said::Topic { correlation, .. }
            | Said::Topics { correlation, .. }
            | Said::Error {
                stream: 0,
                correlation,
                ..
            }
            | Said::Deleted(correlation) => *correlation,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        correlations,
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
        "in the order they were asked"
    );
    assert!(said[2].is_error(ErrorCode::TopicExists));
    let Said::Topic { info, .. } = &said[3] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (info.name.as_str(), info.durability),
        ("b", Durability::Stored)
    );
    let names = |said: &Said| match said {
        Said::Topics { list, .. } => list
            .topics
            .iter()
            .map(|topic| topic.name.to_string())
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(names(&said[4]), ["a", "b"]);
    assert_eq!(names(&said[5]), ["b"]);
    assert!(
        said[7].is_error(ErrorCode::TopicNotFound) && said[8].is_error(ErrorCode::TopicNotFound)
    );
    assert!(!wire.session.is_closed());
}

#[test]
fn a_list_of_many_topics_comes_in_parts() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let mut script = Script::default();
    for number in 0..70 {
        script = script.create(
            number + 1,
            &format!("topic-{number:02}"),
            Durability::Stored,
        );
    }
    wire.feed(&script.list(100, None).list(101, Some("topic-63")).0);
    let lists: Vec<_> = wire
        .ear
        .said
        .iter()
        .filter_map(|said| match said {
            Said::Topics { list, .. } => Some((list.topics.len(), list.more)),
            _ => None,
        })
        .collect();
    assert_eq!(lists, [(64, true), (6, false)]);
}

#[test]
fn published_records_are_acknowledged_and_read_back() {
    let (_folder, broker) = broker();
    for (topic, durability) in [
        ("stored", Durability::Stored),
        ("synced", Durability::Synced),
    ] {
        let mut wire = open(&broker);
        let mut script =
            Script::default()
                .create(1, topic, durability)
                .publisher(1, topic, AckLevel::Topic);
        for number in 1..=100u64 {
            script = script.publish(1, number, format!("record {number}").as_bytes());
        }
        // Everything at once: the stream is not even open when the first publish comes.
        wire.feed(&script.0);
        let said = wire.until_acked(1, 100);
        let acked: Vec<_> = said
            .iter()
            .filter_map(|said| match said {
                Said::Acked {
                    stream: 1, base, ..
                } => Some(base.0),
                _ => None,
            })
            .collect();
        assert_eq!(acked, (0..100).collect::<Vec<_>>());

        wire.feed(
            &Script::default()
                .reader(2, topic, Start::Offset(Offset(40)), 1 << 20)
                .0,
        );
        let said = wire.until(|said| {
            said.iter()
                .any(|said| matches!(said, Said::Record { offset: 99, .. }))
        });
        let records: Vec<_> = said
            .iter()
            .filter_map(|said| match said {
                Said::Record {
                    stream: 2,
                    offset,
                    body,
                } => Some((*offset, body.clone())),
                _ => None,
            })
            .collect();
        let wanted: Vec<_> = (40..100)
            .map(|at| (at, format!("record {}", at + 1).into_bytes()))
            .collect();
        assert_eq!(records, wanted);
    }
}

#[test]
fn a_reader_at_the_end_hears_of_what_comes() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .create(1, "t", Durability::Synced)
            .reader(1, "t", Start::Latest, 1000)
            .publisher(2, "t", AckLevel::Topic)
            .publish(2, 1, b"late")
            .0,
    );
    let record = wire.until_any(|said| matches!(said, Said::Record { .. }));
    assert_eq!(
        record,
        Said::Record {
            stream: 1,
            offset: 0,
            body: b"late".to_vec()
        }
    );
}

#[test]
fn credit_bounds_what_is_delivered() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let mut script = Script::default().publisher(1, "t", AckLevel::Stored);
    for number in 1..=64 {
        script = script.publish(1, number, &[7; 1000]);
    }
    wire.feed(&script.0);
    wire.until_acked(1, 64);
    let frame = 64 + 1000;
    wire.feed(
        &Script::default()
            .reader(2, "t", Start::Earliest, 10 * frame)
            .0,
    );
    wire.until(|said| {
        said.iter()
            .any(|said| matches!(said, Said::Record { offset: 9, .. }))
    });
    wire.turn();
    assert_eq!(
        wire.ear.delivered,
        10 * u64::from(frame),
        "no more than was allowed"
    );
    // A credit that does not end with a frame is overdrawn by part of one, once.
    wire.feed(&Script::default().credit(2, 1).0);
    assert_eq!(wire.ear.delivered, 11 * u64::from(frame));
    wire.feed(&Script::default().credit(2, frame - 1).0);
    assert_eq!(
        wire.ear.delivered,
        11 * u64::from(frame),
        "what was overdrawn is paid first"
    );
    wire.feed(&Script::default().credit(2, READ_CREDIT_BYTES_MAX).0);
    assert_eq!(wire.ear.delivered, 64 * u64::from(frame));
}

#[test]
fn too_much_credit_ends_the_stream_alone() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .create(1, "t", Durability::Stored)
            .reader(1, "t", Start::Earliest, READ_CREDIT_BYTES_MAX)
            .credit(1, 1)
            .reader(2, "t", Start::Earliest, READ_CREDIT_BYTES_MAX + 1)
            .ping(9)
            .0,
    );
    let refused = |stream| {
        wire.ear.said.iter().any(|said| {
            matches!(said, Said::Error { stream: s, code: ErrorCode::WindowExceeded, .. }
                if *s == stream)
        })
    };
    assert!(refused(1) && refused(2), "{:?}", wire.ear.said);
    assert!(wire.ear.said.contains(&Said::Pong(9)));
}

#[test]
fn a_refused_publish_ends_its_stream_and_not_what_came_before() {
    let (_folder, broker) = broker();
    for (bad, code) in [
        (
            Script::default().publish(1, 5, b"skipped one"),
            ErrorCode::OutOfSequence,
        ),
        (
            {
                let mut script = Script::default().publish(1, 4, b"damaged on the way");
                *script.0.last_mut().unwrap() ^= 1;
                script
            },
            ErrorCode::BadChecksum,
        ),
    ] {
        let mut wire = open(&broker);
        let mut script = Script::default().publisher(1, "t", AckLevel::Synced);
        for number in 1..=3 {
            script = script.publish(1, number, b"good");
        }
        let script = script
            .raw(&bad.0)
            .publish(1, 5, b"after")
            .publish(1, 6, b"after")
            .ping(1);
        wire.feed(&script.0);
        wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
        let said = &wire.ear.said;
        let refused = said.iter().find(|said| said.is_error(code)).unwrap();
        let Said::Error {
            stream,
            correlation,
            effect,
            ..
        } = refused
        else {
            unreachable!()
        };
        assert_eq!((*stream, *correlation, *effect), (1, 4, Effect::NotApplied));
        let acked = said
            .iter()
            .filter(|said| matches!(said, Said::Acked { .. }))
            .count();
        assert_eq!(acked, 3, "{said:?}");
        assert!(said.contains(&Said::Pong(1)), "the connection goes on");
        // The number is free again, and late messages of the old stream meant nothing.
        wire.ear.said.clear();
        wire.feed(
            &Script::default()
                .publish(1, 7, b"late")
                .credit(1, 5)
                .close(1, 3)
                .0,
        );
        assert_eq!(wire.ear.said, []);
    }
}

#[test]
fn messages_on_streams_never_opened_are_mistakes() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .publish(9, 1, b"x")
            .credit(8, 1)
            .close(7, 5)
            .0,
    );
    let streams: Vec<_> = wire
        .ear
        .said
        .iter()
        .map(|said| match said {
            Said::Error {
                stream,
                code: ErrorCode::StreamUnknown,
                ..
            } => *stream,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(streams, [9, 8, 7]);
    assert!(!wire.session.is_closed());
}

#[test]
fn a_number_in_use_ends_the_stream_that_has_it() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .create(1, "t", Durability::Stored)
            .publisher(1, "t", AckLevel::Stored)
            .reader(1, "t", Start::Earliest, 1)
            .ping(1)
            .0,
    );
    wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
    assert!(
        wire.ear
            .said
            .iter()
            .any(|said| said.is_error(ErrorCode::StreamInUse))
    );
    assert!(wire.ear.said.contains(&Said::Pong(1)));
}

#[test]
fn a_closed_publisher_is_acknowledged_to_the_end_first() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .publisher(1, "t", AckLevel::Synced)
            .publish(1, 1, b"a")
            .publish(1, 2, b"b")
            .close(1, 77)
            .publish(1, 3, b"too late")
            .0,
    );
    wire.until_any(|said| {
        *said
            == Said::StreamClosed {
                stream: 1,
                correlation: 77,
            }
    });
    let acked = wire
        .ear
        .said
        .iter()
        .filter(|said| matches!(said, Said::Acked { .. }))
        .count();
    assert_eq!(acked, 2);
    assert_eq!(broker.topic("t").unwrap().next_offset, Offset(2));
}

#[test]
fn opening_what_is_not_there_is_refused() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(&Script::default().reader(4, "none", Start::Earliest, 1).0);
    assert!(matches!(
        wire.ear.said[..],
        [
            Said::Error {
                stream: 4,
                code: ErrorCode::TopicNotFound,
                ..
            },
            Said::StreamClosed { stream: 4, .. }
        ]
    ));
}

#[test]
fn streams_are_bounded() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let mut script = Script::default().create(1, "t", Durability::Stored);
    for stream in 1..=STREAMS_PER_CONNECTION_MAX as u32 + 1 {
        script = script.reader(stream, "t", Start::Earliest, 1);
    }
    wire.feed(&script.0);
    let opened = wire
        .ear
        .said
        .iter()
        .filter(|said| matches!(said, Said::ReaderOpened { .. }))
        .count();
    assert_eq!(opened, STREAMS_PER_CONNECTION_MAX);
    let refused: Vec<_> = wire
        .ear
        .said
        .iter()
        .filter(|said| said.is_error(ErrorCode::Limit))
        .collect();
    assert_eq!(refused.len(), 1);
}

#[test]
fn a_full_window_is_refused() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(&Script::default().publisher(1, "t", AckLevel::Synced).0);
    let mut script = Script::default();
    for number in 1..=u64::from(PUBLISH_WINDOW_FRAMES) + 1 {
        script = script.publish(1, number, b"");
    }
    // Taken in one piece, without a poll that could acknowledge in between, if the log has room.
    let before = wire.session.receive(&script.0).unwrap();
    if before.consumed == script.0.len() {
        wire.turn();
        wire.until_error(ErrorCode::WindowExceeded);
        wire.until_acked(1, u64::from(PUBLISH_WINDOW_FRAMES));
    }
}

#[test]
fn output_that_nobody_takes_holds_the_input_back() {
    const BOUND: usize = 1 << 20;
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let pings = Script::default().ping(1).0.repeat(1000);
    let mut fed = 0usize;
    while !wire.session.is_held() {
        fed += wire.session.receive(&pings).unwrap().consumed;
        assert!(fed <= BOUND, "held once as much waits as may");
    }
    assert_eq!(fed, BOUND);
    wire.take_output();
    assert!(!wire.session.is_held());
    assert_eq!(wire.ear.said.len() * 32, fed);
}

#[test]
fn a_slow_consumer_costs_a_bounded_queue() {
    let folder = tempfile::tempdir().unwrap();
    // All in one segment and synced: what is not yet, or lies in one that ended, comes when another thread has
    // done its part.
    let options = BrokerOptions::new().segment_bytes_first(32 << 20);
    let broker = options.open(folder.path()).unwrap();
    let mut wire = open(&broker);
    let body = vec![1; 1 << 20];
    let mut script = Script::default().publisher(1, "t", AckLevel::Synced);
    for number in 1..=7 {
        script = script.publish(1, number, &body);
    }
    wire.feed(&script.0);
    wire.until_acked(1, 7);
    wire.feed(&Script::default().publish(1, 8, &body).0);
    wire.until_acked(1, 8);
    let open = Script::default()
        .reader(2, "t", Start::Earliest, READ_CREDIT_BYTES_MAX)
        .0;
    assert_eq!(wire.session.receive(&open).unwrap().consumed, open.len());
    let job = wire.session.take_job().unwrap();
    wire.session.finish_job(job.run());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while wire.session.poll(&mut cx) {}
    let mut waiting = 0;
    while let Some(out) = wire.session.pop_output() {
        waiting += out.as_bytes().len();
    }
    let bound = SESSION_OUT_BYTES_MAX - (1 << 20)..=SESSION_OUT_BYTES_MAX + (1 << 20);
    assert!(bound.contains(&waiting), "{waiting}");
    assert!(!wire.session.is_held(), "what it sends is still taken");
}

#[test]
fn the_clock_ends_connections_that_say_nothing() {
    let (_folder, broker) = broker();
    let now = Instant::now();
    let after = |ms| now + Duration::from_millis(ms);

    let mut wire = Wire::new(&broker);
    wire.session.tick(after(PRE_HELLO_MS + 100));
    wire.turn();
    assert!(wire.ear.said[0].is_error(ErrorCode::HelloRequired) && wire.session.is_closed());

    let mut wire = open(&broker);
    wire.session.tick(after(100));
    wire.session.tick(after(HEARTBEAT_MS + 100));
    wire.turn();
    assert_eq!(wire.ear.said, [Said::Ping]);
    wire.session.tick(after(3 * HEARTBEAT_MS + 100));
    wire.turn();
    assert!(wire.ear.said[1].is_error(ErrorCode::TimedOut) && wire.session.is_closed());
}

#[test]
fn a_drain_acknowledges_what_was_accepted_and_says_what_was_not() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    let mut script = Script::default().publisher(1, "t", AckLevel::Synced);
    for number in 1..=3 {
        script = script.publish(1, number, b"accepted");
    }
    wire.feed(&script.0);
    wire.until_acked(1, 1);
    wire.feed(&Script::default().reader(2, "t", Start::Latest, 100).0);
    wire.session.drain();
    wire.feed(
        &Script::default()
            .publish(1, 4, b"no")
            .create(8, "x", Durability::Stored)
            .0,
    );
    wire.until_any(|said| matches!(said, Said::Goodbye(_)));
    let said = &wire.ear.said;
    let about = |id: u32| {
        said.iter().find_map(|said| match said {
            Said::Error {
                stream,
                correlation,
                code: ErrorCode::ShuttingDown,
                ..
            } if *stream == id => Some(*correlation),
            _ => None,
        })
    };
    assert_eq!(about(1), Some(4), "the first publish not taken");
    assert_eq!(about(2), Some(0));
    assert_eq!(about(0), Some(8));
    let acked = said
        .iter()
        .filter(|said| matches!(said, Said::Acked { .. }))
        .count();
    assert_eq!(acked, 3);
    assert!(
        matches!(said.last(), Some(Said::Goodbye(_))),
        "the last word"
    );
    assert!(wire.session.is_closed());
}

#[test]
fn a_client_that_leaves_is_acknowledged_first() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .publisher(1, "t", AckLevel::Synced)
            .publish(1, 1, b"a")
            .goodbye()
            .raw(b"and whatever follows")
            .0,
    );
    wire.until_acked(1, 1);
    assert!(wire.session.is_closed() && !wire.session.has_output());
}

#[test]
fn input_says_whether_others_may_have_been_woken_by_it() {
    let (_folder, broker) = broker();
    let mut writer = open(&broker);
    writer.feed(
        &Script::default()
            .create(1, "t", Durability::Stored)
            .publisher(1, "t", AckLevel::Stored)
            .0,
    );
    // The first waits for a segment.
    writer.feed(&Script::default().publish(1, 1, b"x").0);
    writer.until_acked(1, 1);
    let may_wake =
        |wire: &mut Wire, script: Script| wire.session.receive(&script.0).unwrap().may_wake;
    let publish = |number| Script::default().publish(1, number, b"x");
    assert!(!may_wake(&mut writer, publish(2)), "nobody waits");

    let mut reader = open(&broker);
    reader.feed(&Script::default().reader(1, "t", Start::Latest, 1 << 20).0);
    reader.until_any(|said| matches!(said, Said::ReaderOpened { .. }));
    assert!(may_wake(&mut writer, publish(3)), "a reader waits");
    assert!(!may_wake(&mut writer, publish(4)), "it was woken before");
    assert!(
        may_wake(&mut writer, Script::default().ping(1)),
        "as all else may"
    );
}
