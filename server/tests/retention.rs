//! How much of a topic is kept, over sessions: set, asked for, refused.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod peer;

use millstream::Broker;
use millstream_protocol::Durability;
use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::{Retention, features};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::limits::{WIRE_HEADER_BYTES, WIRE_VERSION};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use peer::{Said, Script, Wire};

const WEEK: Retention = Retention {
    bytes: 64 << 20,
    age_ms: 7 * 86_400_000,
};

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    (folder, broker)
}

/// What a session says to `script`, the welcome left out.
fn answers(broker: &Broker, script: &Script) -> Vec<Said> {
    let mut wire = Wire::new(broker);
    wire.feed(&Script::hello().raw(&script.0).0);
    assert!(!wire.session.is_closed(), "{:?}", wire.ear.said);
    wire.ear.said.split_off(1)
}

const fn told(correlation: u64, retention: Retention) -> Said {
    Said::Retention {
        correlation,
        retention,
    }
}

#[track_caller]
fn assert_refused(said: &Said, wanted: (u64, ErrorCode)) {
    let Said::Error {
        stream: 0,
        correlation,
        code,
        effect: Effect::NotApplied,
        ..
    } = said
    else {
        panic!("{said:?}")
    };
    assert_eq!((*correlation, *code), wanted);
}

#[test]
fn what_is_set_is_answered_told_and_kept() {
    let (folder, broker) = broker();
    let set = Script::default()
        .create(1, "t", Durability::Synced)
        .create(2, "other", Durability::Stored)
        .describe_retention(3, "t")
        .set_retention(4, "t", WEEK)
        .describe_retention(5, "t")
        .describe_retention(6, "other");
    let said = answers(&broker, &set);
    let wanted = [
        told(3, Retention::KEEP_ALL),
        told(4, WEEK),
        told(5, WEEK),
        told(6, Retention::KEEP_ALL),
    ];
    assert_eq!(said[2..], wanted);
    broker.close().unwrap();

    let broker = Broker::open(folder.path()).unwrap();
    let all = Script::default()
        .describe_retention(1, "t")
        .set_retention(2, "t", Retention::KEEP_ALL)
        .describe_retention(3, "t");
    let wanted = [
        told(1, WEEK),
        told(2, Retention::KEEP_ALL),
        told(3, Retention::KEEP_ALL),
    ];
    assert_eq!(answers(&broker, &all), wanted);
    broker.close().unwrap();

    let broker = Broker::open(folder.path()).unwrap();
    let said = answers(&broker, &Script::default().describe_retention(1, "t"));
    assert_eq!(said, [told(1, Retention::KEEP_ALL)]);
}

#[test]
fn another_topic_of_the_name_keeps_everything() {
    let (_folder, broker) = broker();
    let script = Script::default()
        .create(1, "t", Durability::Synced)
        .set_retention(2, "t", WEEK)
        .delete(3, "t")
        .describe_retention(4, "t")
        .create(5, "t", Durability::Synced)
        .describe_retention(6, "t");
    let said = answers(&broker, &script);
    assert_refused(&said[3], (4, ErrorCode::TopicNotFound));
    assert_eq!(said[5], told(6, Retention::KEEP_ALL));
}

#[test]
fn no_topic_and_a_reserved_one_have_no_retention() {
    let (_folder, broker) = broker();
    // With a queue there is a journal; its name is the server's own.
    let script = Script::default()
        .queue(1, "jobs", Default::default())
        .set_retention(2, "nosuch", WEEK)
        .describe_retention(3, "nosuch")
        .set_retention(4, "$journal", WEEK)
        .describe_retention(5, "$journal")
        .set_retention(6, "$producers", WEEK)
        .describe_retention(7, "$producers");
    let said = answers(&broker, &script);
    assert_eq!(said.len(), 7, "{said:?}");
    assert_refused(&said[1], (2, ErrorCode::TopicNotFound));
    assert_refused(&said[2], (3, ErrorCode::TopicNotFound));
    for (said, correlation) in said[3..].iter().zip(4..) {
        assert_refused(said, (correlation, ErrorCode::TopicNameInvalid));
    }
}

/// The one message of `script` with another body.
fn with_body(script: &Script, body: &[u8]) -> Script {
    let header = WireHeader {
        kind: MessageKind::from_code(script.0[0]).unwrap(),
        body_bytes: body.len() as u32,
        stream: StreamId::CONNECTION,
        correlation: 9,
        body_crc: crc32c(body),
    };
    Script::default().raw(&header.encode()).raw(body)
}

#[test]
fn a_malformed_body_is_refused() {
    let (_folder, broker) = broker();
    answers(
        &broker,
        &Script::default().create(1, "t", Durability::Synced),
    );
    for request in [
        Script::default().set_retention(9, "t", WEEK),
        Script::default().describe_retention(9, "t"),
    ] {
        let body = &request.0[WIRE_HEADER_BYTES..];
        // A length without its bytes; a gap before the name; nothing; a byte less; a byte more.
        let mut long_name = body.to_vec();
        long_name[5] = 200;
        let gap = [b"t", body].concat();
        let more = [body, b"t"].concat();
        for wrong in [&long_name, &gap, &[][..], &body[1..], &more] {
            let said = answers(&broker, &with_body(&request, wrong));
            assert_eq!(said.len(), 1, "{said:?}");
            assert_refused(&said[0], (9, ErrorCode::Malformed));
        }
        let mut path = body.to_vec();
        path[0] = b'/';
        let said = answers(&broker, &with_body(&request, &path));
        assert_refused(&said[0], (9, ErrorCode::TopicNameInvalid));
        // As it was, it is taken.
        let said = answers(&broker, &with_body(&request, body));
        assert!(matches!(said[..], [Said::Retention { .. }]), "{said:?}");
    }
}

#[test]
fn a_malformed_set_leaves_what_was_set() {
    let (_folder, broker) = broker();
    let set = Script::default().set_retention(9, "t", Retention::KEEP_ALL);
    let wrong = [&set.0[WIRE_HEADER_BYTES..], &[0]].concat();
    let script = Script::default()
        .create(1, "t", Durability::Synced)
        .set_retention(2, "t", WEEK)
        .raw(&with_body(&set, &wrong).0)
        .describe_retention(3, "t");
    let said = answers(&broker, &script);
    let refused = said.iter().find(|said| matches!(said, Said::Error { .. }));
    assert_refused(refused.unwrap(), (9, ErrorCode::Malformed));
    assert_eq!(said.last(), Some(&told(3, WEEK)));
}

#[test]
fn a_server_offers_what_the_hello_knows_and_no_more() {
    let (_folder, broker) = broker();
    for (known, offered) in [
        (0, 0),
        (features::PRODUCERS, features::PRODUCERS),
        (features::RETENTION, features::RETENTION),
        (features::ALL, features::ALL),
        (u64::MAX, features::ALL),
    ] {
        let mut wire = Wire::new(&broker);
        let hello = Script::default().hello_with(WIRE_VERSION..=WIRE_VERSION, known);
        let script = hello
            .create(1, "t", Durability::Synced)
            .set_retention(2, "t", WEEK)
            .describe_retention(3, "t");
        wire.feed(&script.0);
        let Said::Welcome(welcome) = &wire.ear.said[0] else {
            panic!("{:?}", wire.ear.said)
        };
        assert_eq!(welcome.features, offered, "to a hello with {known:#b}");
        // As producers, it is there for who asks all the same.
        assert_eq!(wire.ear.said[2..], [told(2, WEEK), told(3, WEEK)]);
    }
}
