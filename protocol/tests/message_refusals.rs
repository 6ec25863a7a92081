//! Messages of a connection that are wrong get a typed error that names the field.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use millstream_protocol::control::{
    ControlError, CreateTopic, Credit, Delivery, Gap, GapReason, Hello, Magic, OpenReader,
    PublishAck, TopicInfo, TopicList,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use millstream_protocol::wire::{
    MessageKind, Next, Phase, StreamId, WireError, WireHeader, next_message,
};
use millstream_protocol::{Durability, Offset, Start, TopicName, TopicNameError};

fn ping() -> [u8; 32] {
    WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 7).encode()
}

/// Changes a header and makes its checksum fit again.
fn changed_header(mut bytes: [u8; 32], change: fn(&mut [u8; 32])) -> [u8; 32] {
    change(&mut bytes);
    let crc = millstream_protocol::checksum::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_wire_header_names_the_field_that_is_wrong() {
    type Change = fn(&mut [u8; 32]);
    let cases: [(&str, Change); 8] = [
        ("Kind { found: 0 }", |b| b[0] = 0),
        ("Kind { found: 250 }", |b| b[0] = 250),
        ("KindNow { found: PublishAck, phase: Server }", |b| {
            b[0] = 35
        }),
        ("Reserved { field: \"flags\", found: 1 }", |b| b[1] = 1),
        (
            "Reserved { field: \"reserved bytes 2..4\", found: 256 }",
            |b| b[3] = 1,
        ),
        (
            "Reserved { field: \"reserved bytes 12..16\", found: 1 }",
            |b| b[12] = 1,
        ),
        ("Stream { kind: Ping, found: StreamId(1) }", |b| b[8] = 1),
        ("BodyLength { kind: Ping, found: 1 }", |b| b[4] = 1),
    ];
    for (wanted, change) in cases {
        let error = next_message(&changed_header(ping(), change), Phase::Server).unwrap_err();
        assert_eq!(format!("{error:?}"), wanted);
    }
    let mut bytes = ping();
    bytes[28] ^= 1;
    let error = next_message(&bytes, Phase::Server).unwrap_err();
    assert!(matches!(error, WireError::HeaderCrc { .. }));
    assert_eq!(error.code(), ErrorCode::BadChecksum);
}

#[test]
fn a_publish_without_a_stream_and_a_long_one_are_refused_by_their_header() {
    let header = WireHeader::publish(StreamId::CONNECTION, 1, 69).encode();
    let error = next_message(&header, Phase::Server).unwrap_err();
    assert!(matches!(
        error,
        WireError::Stream {
            kind: MessageKind::Publish,
            ..
        }
    ));
    let header = WireHeader::publish(StreamId(1), 1, FRAME_BYTES_MAX as u32 + 1).encode();
    let error = next_message(&header, Phase::Server).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
}

#[test]
fn before_the_hello_only_a_hello_of_its_size_is_taken() {
    let error = next_message(&ping(), Phase::ServerBeforeHello).unwrap_err();
    assert_eq!(error.code(), ErrorCode::HelloRequired);
    let header = WireHeader {
        kind: MessageKind::Hello,
        body_bytes: HELLO_BYTES_MAX as u32 - 32 + 1,
        stream: StreamId::CONNECTION,
        correlation: 0,
        body_crc: 0,
    };
    let error = next_message(&header.encode(), Phase::ServerBeforeHello).unwrap_err();
    assert!(matches!(
        error,
        WireError::BodyLength {
            kind: MessageKind::Hello,
            ..
        }
    ));
    let error = next_message(&header.encode(), Phase::Server).unwrap_err();
    assert!(matches!(
        error,
        WireError::KindNow {
            found: MessageKind::Hello,
            ..
        }
    ));
}

#[test]
fn another_protocol_is_refused_by_its_first_byte() {
    for greeting in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"\x16\x03\x01",
        b"\0",
        b"\x22",
    ] {
        let error = next_message(greeting, Phase::ServerBeforeHello).unwrap_err();
        assert!(
            matches!(error, WireError::Kind { .. } | WireError::KindNow { .. }),
            "{error}"
        );
    }
    assert_eq!(
        next_message(b"", Phase::ServerBeforeHello),
        Ok(Next::Need(32))
    );
}

/// The body of a message as it is encoded.
fn body_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes.split_off(32)
}

fn hello() -> Hello {
    Hello {
        magic: Magic,
        version_min: 1,
        version_max: 2,
        features: 0,
        client: "client".into(),
    }
}

#[test]
fn a_hello_names_the_field_that_is_wrong() {
    let good = body_of(|out| hello().encode(StreamId::CONNECTION, 0, out));
    let root = good.len() - 24;
    let changed = |at: usize, value: &[u8]| {
        let mut body = good.clone();
        body[at..at + value.len()].copy_from_slice(value);
        Hello::decode(&body).unwrap_err()
    };
    assert_eq!(
        changed(root, b"mlst"),
        ControlError::Magic { found: 0x7473_6c6d }
    );
    assert_eq!(
        changed(root + 4, &[3]),
        ControlError::Number {
            field: "version max",
            found: 2
        }
    );
    assert_eq!(
        changed(0, b"\xff"),
        ControlError::TextNotUtf8 { field: "client" }
    );
    assert_eq!(changed(root + 20, &[200]), ControlError::Archive);
    assert_eq!(changed(root + 20, &[5]), ControlError::NotPacked);
    assert_eq!(Hello::decode(&good[1..]), Err(ControlError::Archive));
    assert_eq!(Hello::decode(&[]), Err(ControlError::Archive));
    let longer = [b"x", good.as_slice()].concat();
    assert_eq!(Hello::decode(&longer), Err(ControlError::NotPacked));
}

#[test]
fn numbers_that_stand_for_nothing_are_named() {
    let name = || TopicName::parse("t").unwrap();
    let mut body = body_of(|out| {
        CreateTopic {
            name: name(),
            durability: Durability::Synced,
        }
        .encode(StreamId(0), 0, out);
    });
    *body.last_mut().unwrap() = 3;
    let number = |field, found| ControlError::Number { field, found };
    assert_eq!(CreateTopic::decode(&body), Err(number("durability", 3)));

    let mut body = body_of(|out| {
        let start = Start::Earliest;
        OpenReader {
            topic: name(),
            start,
            credit_bytes: 1,
        }
        .encode(StreamId(1), 0, out);
    });
    let start = body.len() - 13;
    body[start] = 0;
    assert_eq!(OpenReader::decode(&body), Err(number("start", 0)));
    (body[start], body[start + 1]) = (1, 1);
    assert_eq!(OpenReader::decode(&body), Err(ControlError::NotPacked));

    let gap = |first: u64, next: u64| {
        let (first_offset, next_offset) = (Offset(first), Offset(next));
        body_of(|out| {
            Gap {
                first_offset,
                next_offset,
                reason: GapReason::Void,
            }
            .encode(StreamId(1), 0, out);
        })
    };
    assert!(Gap::decode(&gap(1, 2)).is_ok());
    assert_eq!(Gap::decode(&gap(2, 2)), Err(number("next offset", 2)));
    assert_eq!(Credit::decode(&[0; 4]), Err(number("credit", 0)));
    assert_eq!(
        Credit::decode(&[1; 5]),
        Err(ControlError::Length { found: 5 })
    );
    assert_eq!(
        PublishAck::decode(&[0; 12]).unwrap_err(),
        number("publishes", 0)
    );
    assert_eq!(
        PublishAck::decode(&[]).unwrap_err(),
        ControlError::Length { found: 0 }
    );
    assert_eq!(
        PublishAck::decode(&[1; 13]).unwrap_err(),
        ControlError::Length { found: 13 }
    );
}

#[test]
fn a_delivery_that_is_not_as_long_as_it_says_is_refused() {
    let mut body = vec![0; 32 + 64];
    body[12] = 64;
    body[24] = 1;
    assert!(Delivery::decode(&body).is_ok());
    for change in [
        |b: &mut Vec<u8>| b[12] = 72,
        |b: &mut Vec<u8>| b.truncate(95),
        |b: &mut Vec<u8>| b.extend([0; 8]),
    ] {
        let mut wrong = body.clone();
        change(&mut wrong);
        let error = Delivery::decode(&wrong).unwrap_err();
        assert!(matches!(
            error,
            ControlError::Number {
                field: "bytes of frames",
                ..
            }
        ));
    }
    body[24] = 0;
    let error = Delivery::decode(&body).unwrap_err();
    assert!(matches!(
        error,
        ControlError::Number {
            field: "next offset",
            ..
        }
    ));
    assert_eq!(
        Delivery::decode(&[]).unwrap_err(),
        ControlError::Length { found: 0 }
    );
}

#[test]
fn no_topic_has_a_name_that_could_be_a_path_or_hide() {
    let cases = [
        (String::new(), TopicNameError::Empty),
        ("x".repeat(256), TopicNameError::TooLong { bytes: 256 }),
        (
            "a/b".into(),
            TopicNameError::Character { found: '/', at: 1 },
        ),
        ("/".into(), TopicNameError::Character { found: '/', at: 0 }),
        (
            "../x".into(),
            TopicNameError::Character { found: '/', at: 2 },
        ),
        (".".into(), TopicNameError::Dots),
        ("..".into(), TopicNameError::Dots),
        (
            "a\0".into(),
            TopicNameError::Character { found: '\0', at: 1 },
        ),
        (
            "a\nb".into(),
            TopicNameError::Character { found: '\n', at: 1 },
        ),
        (
            "\u{7f}".into(),
            TopicNameError::Character {
                found: '\u{7f}',
                at: 0,
            },
        ),
        (
            "\u{85}".into(),
            TopicNameError::Character {
                found: '\u{85}',
                at: 0,
            },
        ),
        (" a".into(), TopicNameError::WhiteSpace),
        ("a\u{a0}".into(), TopicNameError::WhiteSpace),
    ];
    let good = TopicName::parse("placeholder").unwrap();
    for (name, wanted) in cases {
        assert_eq!(TopicName::parse(&name), Err(wanted.clone()), "{name:?}");
        // The same name from the wire: as the layout has it, in place of a good one.
        let mut body = name.clone().into_bytes();
        let mut rest = body_of(|out| {
            CreateTopic {
                name: good.clone(),
                durability: Durability::Synced,
            }
            .encode(StreamId(0), 0, out);
        })
        .split_off("placeholder".len());
        let length = u32::try_from(name.len()).unwrap();
        rest[..4].copy_from_slice(&0_u32.wrapping_sub(length).to_le_bytes());
        rest[4..8].copy_from_slice(&length.to_le_bytes());
        body.extend(rest);
        assert_eq!(
            CreateTopic::decode(&body),
            Err(ControlError::TopicName(wanted)),
            "{name:?}"
        );
    }
    for name in [
        "x".repeat(255).as_str(),
        "...",
        ".a",
        "\u{e9}t\u{e9}",
        "a b",
        "a\\b",
    ] {
        assert_eq!(TopicName::parse(name).unwrap().as_str(), name);
    }
}

#[test]
fn sentences_are_cut_to_their_limit_between_characters() {
    let name = TopicName::parse("t").unwrap();
    let info = TopicInfo {
        name,
        incarnation: [0; 16],
        durability: Durability::Synced,
        first_offset: Offset(0),
        next_offset: Offset(0),
        synced_offset: Offset(0),
        bytes: 0,
        segments: 0,
        poisoned: Some("\u{e9}".repeat(300)),
    };
    let body = body_of(|out| info.encode(StreamId(0), 0, out));
    let poisoned = TopicInfo::decode(&body).unwrap().poisoned.unwrap();
    assert_eq!(poisoned, "\u{e9}".repeat(256));
    let odd = TopicInfo {
        poisoned: Some(format!("x{}", "\u{e9}".repeat(300))),
        ..info.clone()
    };
    let body = body_of(|out| odd.encode(StreamId(0), 0, out));
    assert_eq!(
        TopicInfo::decode(&body).unwrap().poisoned.unwrap().len(),
        511
    );

    let list = |topics| TopicList {
        topics,
        more: false,
    };
    let body = body_of(|out| list(vec![info.clone(); 64]).encode(StreamId(0), 0, out));
    assert_eq!(TopicList::decode(&body).unwrap().topics.len(), 64);
    let body = body_of(|out| list(vec![info; 65]).encode(StreamId(0), 0, out));
    let error = TopicList::decode(&body).unwrap_err();
    assert_eq!(
        error,
        ControlError::ListTooLong {
            field: "topics",
            found: 65
        }
    );
}
