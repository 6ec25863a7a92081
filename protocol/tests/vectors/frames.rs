//! Frames as published and as stored.

use millstream_protocol::Offset;
use millstream_protocol::batch::{BatchBuilder, BatchView, Message, decompress};
use millstream_protocol::frame::{
    CommitWord, FrameHeader, FrameKind, FrameSeed, ProducerStamp, PublisherFields, body_crc,
    check_publish, check_stored, publish_header,
};
use millstream_protocol::limits::BODY_BYTES_MAX;

use super::{Part, Vector, parts};

pub(crate) const SEED: FrameSeed = FrameSeed(0x1122_3344);
pub(crate) const NONCE_HALF: u32 = 0xa1b2_c3d4;
pub(crate) const POSITION: u32 = 12_288;
pub(crate) const APPEND_TIME_US: u64 = 1_790_000_000_000_000;
pub(crate) const PRODUCER: ProducerStamp = ProducerStamp {
    id: 0x0102_0304_0506_0708,
    epoch: 9,
    sequence: 10,
};

pub(crate) fn header_parts() -> Vec<Part> {
    parts(&[
        (4, "commit word: frame length"),
        (4, "commit word: nonce half"),
        (4, "header crc"),
        (4, "body crc"),
        (8, "base offset"),
        (8, "append time"),
        (1, "kind"),
        (1, "flags and layout version"),
        (2, "record count"),
        (4, "body length"),
        (8, "producer id"),
        (8, "producer epoch"),
        (8, "sequence"),
    ])
}

fn root_parts() -> Vec<Part> {
    parts(&[
        (4, "root: ends, relative pointer"),
        (4, "root: ends, count"),
        (4, "root: payload, relative pointer"),
        (4, "root: payload, count"),
        (4, "root: columns, relative pointer"),
        (4, "root: columns, count"),
    ])
}

fn column_parts() -> Vec<Part> {
    parts(&[
        (1, "column: kind"),
        (4, "column: ends, relative pointer"),
        (4, "column: ends, count"),
        (4, "column: words, relative pointer"),
        (4, "column: words, count"),
        (4, "column: bytes, relative pointer"),
        (4, "column: bytes, count"),
    ])
}

pub(crate) fn three() -> Vec<Message> {
    ["one", "", "three"].map(Message::from).to_vec()
}

pub(crate) fn with_every_option() -> Vec<Message> {
    vec![
        Message::from("plain"),
        Message::from("with all")
            .key("customer 7")
            .header("trace", "af31")
            .header("empty", "")
            .id("message 1")
            .group("group")
            .due_at_us(1_790_000_100_000_000)
            .expires_at_us(1_790_000_200_000_000)
            .published_at_us(1_789_999_999_999_999)
            .priority(200),
    ]
}

pub(crate) fn repetitive() -> Vec<Message> {
    (0..20)
        .map(|_| Message::from("the same sentence, over and over again. ".repeat(4)))
        .collect()
}

pub(crate) fn builder(messages: &[Message]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for message in messages {
        builder.push(message).unwrap();
    }
    builder
}

/// The frame as its publisher sends it.
pub(crate) fn published(messages: &[Message], producer: ProducerStamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder(messages).encode_frame(producer, &mut bytes);
    bytes
}

fn compressed(messages: &[Message]) -> Vec<u8> {
    let mut builder = builder(messages);
    assert!(builder.compress());
    let mut bytes = Vec::new();
    builder.encode_frame(ProducerStamp::NONE, &mut bytes);
    bytes
}

/// The frame as it is stored.
pub(crate) fn stored(fields: PublisherFields, body: &[u8], base_offset: u64) -> Vec<u8> {
    stored_at(fields, body, base_offset, POSITION)
}

pub(crate) fn stored_at(fields: PublisherFields, body: &[u8], base: u64, position: u32) -> Vec<u8> {
    let header = FrameHeader {
        fields,
        body_crc: body_crc(&fields, body),
        base_offset: Offset(base),
        append_time_us: APPEND_TIME_US,
    };
    let word = CommitWord {
        frame_bytes: header.frame_bytes(),
        nonce_half: NONCE_HALF,
    };
    let mut bytes = word.to_u64().to_le_bytes().to_vec();
    bytes.extend_from_slice(&header.encode(SEED, position));
    bytes.extend_from_slice(body);
    bytes.resize(header.frame_bytes() as usize, 0);
    bytes
}

fn assert_messages(fields: &PublisherFields, body: &[u8], messages: &[Message]) {
    let plain;
    let body = if fields.compressed {
        plain = decompress(body, BODY_BYTES_MAX).unwrap();
        &plain
    } else {
        body
    };
    let view = BatchView::check(fields.kind, fields.record_count, false, body).unwrap();
    assert_eq!(view.len(), messages.len());
    for (record, message) in view.iter().zip(messages) {
        let mut again = Message::from(record.body())
            .key(record.key().unwrap_or_default().to_vec())
            .id(record.id().unwrap_or_default().to_vec())
            .group(record.group().unwrap_or_default().to_vec())
            .due_at_us(record.due_at_us().unwrap_or(0))
            .expires_at_us(record.expires_at_us().unwrap_or(0))
            .published_at_us(record.published_at_us().unwrap_or(0))
            .priority(record.priority());
        for (name, value) in record.headers() {
            again = again.header(name, value.to_vec());
        }
        assert_eq!(&again, message);
    }
}

fn published_vector(
    name: &'static str,
    meaning: &'static str,
    bytes: Vec<u8>,
    messages: Vec<Message>,
    body_parts: Vec<Part>,
) -> Vector {
    let producer = *check_publish(&bytes).unwrap().fields();
    Vector {
        name,
        meaning,
        bytes,
        parts: [header_parts(), body_parts].concat(),
        message: None,
        decodes: Box::new(move |bytes| {
            let frame = check_publish(bytes).unwrap();
            assert_eq!(frame.fields().producer, producer.producer);
            assert_messages(frame.fields(), frame.body(), &messages);
        }),
        accepts: Box::new(|bytes| check_publish(bytes).is_ok()),
        encodes_alike: true,
    }
}

fn stored_vector(
    name: &'static str,
    meaning: &'static str,
    fields: PublisherFields,
    body: &'static [u8],
    body_parts: Vec<Part>,
) -> Vector {
    Vector {
        name,
        meaning,
        bytes: stored(fields, body, 41),
        parts: [header_parts(), body_parts].concat(),
        message: None,
        decodes: Box::new(move |bytes| {
            let frame = check_stored(bytes, SEED, POSITION, NONCE_HALF).unwrap();
            assert_eq!(frame.header().fields, fields);
            assert_eq!(frame.header().base_offset, Offset(41));
            assert_eq!(frame.header().append_time_us, APPEND_TIME_US);
            assert_eq!(frame.body(), body);
            assert_eq!(frame.frame_bytes() as usize, bytes.len());
        }),
        accepts: Box::new(|bytes| check_stored(bytes, SEED, POSITION, NONCE_HALF).is_ok()),
        encodes_alike: true,
    }
}

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = published_vectors();
    vectors.extend(stored_vectors());
    vectors
}

fn published_vectors() -> Vec<Vector> {
    let hello = vec![Message::from("hello")];
    let single = {
        let fields = PublisherFields {
            producer: PRODUCER,
            ..PublisherFields::single(5)
        };
        [publish_header(&fields, b"hello").as_slice(), b"hello"].concat()
    };
    let plain_parts = [
        parts(&[(4, "ends[0]"), (4, "ends[1]"), (4, "ends[2]")]),
        parts(&[(8, "payload: \"one\", \"\", \"three\"")]),
        root_parts(),
    ];
    let all_parts = [
        parts(&[
            (4, "ends[0]"),
            (4, "ends[1]"),
            (13, "payload: \"plain\", \"with all\""),
        ]),
        parts(&[(8, "keys: ends"), (10, "keys: bytes")]),
        parts(&[
            (8, "headers: counts of records 0 and 1"),
            (16, "headers: name and value ends"),
        ]),
        parts(&[(14, "headers: bytes")]),
        parts(&[
            (8, "ids: ends"),
            (9, "ids: bytes"),
            (8, "groups: ends"),
            (5, "groups: bytes"),
        ]),
        parts(&[
            (16, "due: words"),
            (16, "expires: words"),
            (16, "published: words"),
        ]),
        parts(&[(2, "priorities: bytes")]),
        column_parts(),
        column_parts(),
        column_parts(),
        column_parts(),
        column_parts(),
        column_parts(),
        column_parts(),
        column_parts(),
        root_parts(),
    ];
    let lz4 = compressed(&repetitive());
    let lz4_block = lz4.len() - 64 - 80 - 24;
    let lz4_parts = [
        parts(&[
            (80, "ends, of the expanded payload"),
            (lz4_block, "payload: one lz4 block"),
        ]),
        root_parts(),
    ];
    let mut lz4 = published_vector(
        "frame-published-lz4",
        "A publish of twenty records of 160 bytes each (\"the same sentence, over and over again. \"\n\
         four times) whose payload block is lz4. What lz4 makes of it may differ; what this expands\n\
         to may not.",
        lz4,
        repetitive(),
        lz4_parts.concat(),
    );
    lz4.encodes_alike = false;
    vec![
        published_vector(
            "frame-published-single",
            "A publish of one record without options, \"hello\": the body is the payload.",
            published(&hello, ProducerStamp::NONE),
            hello.clone(),
            parts(&[(5, "payload")]),
        ),
        published_vector(
            "frame-published-single-producer",
            "The same with a producer, its epoch and its sequence.",
            single,
            hello,
            parts(&[(5, "payload")]),
        ),
        published_vector(
            "frame-published-empty",
            "A publish of one record whose payload is empty: the body is, too.",
            published(&[Message::from("")], ProducerStamp::NONE),
            vec![Message::from("")],
            Vec::new(),
        ),
        published_vector(
            "frame-published-batch",
            "A publish of three records without options: \"one\", \"\", \"three\".",
            published(&three(), ProducerStamp::NONE),
            three(),
            plain_parts.concat(),
        ),
        published_vector(
            "frame-published-columns",
            "A publish of two records, \"plain\" without options and \"with all\" with every one:\n\
             key \"customer 7\", headers trace: \"af31\" and empty: \"\", id \"message 1\",\n\
             group \"group\", due 1790000100000000, expires 1790000200000000,\n\
             published 1789999999999999, priority 200.",
            published(&with_every_option(), ProducerStamp::NONE),
            with_every_option(),
            all_parts.concat(),
        ),
        lz4,
    ]
}

fn stored_vectors() -> Vec<Vector> {
    let fields = |kind, record_count, body_bytes| PublisherFields {
        kind,
        compressed: false,
        record_count,
        body_bytes,
        producer: ProducerStamp::NONE,
    };
    let batch = {
        let builder = builder(&three());
        let mut body = Vec::new();
        builder.write_body(&mut body);
        (builder.fields(), &*body.leak())
    };
    vec![
        stored_vector(
            "frame-stored-single",
            "Record 41, \"hello\", as it lies at position 12288 of a segment whose nonce has the low\n\
             half 0xa1b2c3d4 and whose frames have the seed 0x11223344, appended at 1790000000000000.",
            PublisherFields {
                producer: PRODUCER,
                ..PublisherFields::single(5)
            },
            b"hello",
            parts(&[(5, "payload"), (3, "padding")]),
        ),
        stored_vector(
            "frame-stored-batch",
            "Records 41 to 43 in the same place: \"one\", \"\", \"three\".",
            batch.0,
            batch.1,
            [
                parts(&[
                    (4, "ends[0]"),
                    (4, "ends[1]"),
                    (4, "ends[2]"),
                    (8, "payload"),
                ]),
                root_parts(),
                parts(&[(4, "padding")]),
            ]
            .concat(),
        ),
        stored_vector(
            "frame-stored-void",
            "A claim of 2 records and 16 bytes that was given up, in the same place.",
            fields(FrameKind::Void, 2, 16),
            &[0; 16],
            parts(&[(16, "body, without a meaning")]),
        ),
        stored_vector(
            "frame-stored-seal",
            "The end of a segment whose last record is 40, in the same place.",
            fields(FrameKind::Seal, 0, 0),
            &[],
            Vec::new(),
        ),
    ]
}
