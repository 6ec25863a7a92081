//! Frames and batches that are wrong get a typed error that names the field.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod raw;

use millstream_protocol::Offset;
use millstream_protocol::batch::{
    BatchBuilder, BatchError, BatchView, ColumnKind, Message, PushError, decompress,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::frame::{
    FrameError, FrameKind, FrameSeed, ProducerStamp, PublisherFields, StoredFrame, check_publish,
    check_stored,
};
use millstream_protocol::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX, RECORDS_PER_FRAME_MAX};
use raw::{
    Batch, Column, NONCE_HALF, POSITION, SEED, batch_fields, change_publish, change_stored,
    publish, stored,
};

fn hello_publish() -> Vec<u8> {
    publish(&PublisherFields::single(5), b"hello")
}

#[test]
fn a_publish_names_the_field_that_is_wrong() {
    type Change = fn(&mut [u8]);
    let cases: [(&str, Change); 12] = [
        ("NotZero { field: \"commit word\" }", |b| b[0] = 1),
        ("NotZero { field: \"header crc\" }", |b| b[8] = 1),
        ("NotZero { field: \"base offset\" }", |b| b[23] = 1),
        ("NotZero { field: \"append time\" }", |b| b[24] = 1),
        ("Kind { found: 0 }", |b| b[32] = 0),
        ("Kind { found: 5 }", |b| b[32] = 5),
        ("KindNotPublished { found: Void }", |b| b[32] = 3),
        ("LayoutVersion { found: 2 }", |b| b[33] = 0x20),
        ("Flags { found: 8, kind: Single }", |b| b[33] = 0x18),
        ("Flags { found: 1, kind: Single }", |b| b[33] = 0x11),
        ("RecordCount { found: 2, kind: Single }", |b| b[34] = 2),
        ("BodyTooLarge { body_bytes: 4278190085 }", |b| b[39] = 0xff),
    ];
    for (wanted, change) in cases {
        let mut bytes = hello_publish();
        change_publish(&mut bytes, change);
        assert_eq!(format!("{:?}", check_publish(&bytes).unwrap_err()), wanted);
    }
}

#[test]
fn a_publish_of_another_length_than_it_says_is_refused() {
    let bytes = hello_publish();
    for got in 0..bytes.len() {
        let error = check_publish(&bytes[..got]).unwrap_err();
        let needed = if got < 64 { 64 } else { 69 };
        assert_eq!(
            error,
            FrameError::Truncated {
                needed,
                got: got as u64
            }
        );
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        check_publish(&longer).unwrap_err(),
        FrameError::Trailing {
            needed: 69,
            got: 70
        }
    );
}

#[test]
fn a_publish_with_a_wrong_checksum_is_refused() {
    let mut bytes = hello_publish();
    bytes[64] ^= 1;
    let error = check_publish(&bytes).unwrap_err();
    assert!(matches!(error, FrameError::BodyCrc { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::BadChecksum);
}

#[test]
fn a_term_without_a_producer_is_refused() {
    let producer = ProducerStamp {
        id: 0,
        epoch: 1,
        sequence: 0,
    };
    let fields = PublisherFields {
        producer,
        ..PublisherFields::single(0)
    };
    let error = check_publish(&publish(&fields, b"")).unwrap_err();
    assert_eq!(
        error,
        FrameError::Producer {
            found: producer,
            kind: FrameKind::Single
        }
    );
}

#[test]
fn a_stored_frame_names_the_field_that_is_wrong() {
    let good = stored(PublisherFields::single(5), b"hello", 7, POSITION);
    fn check(bytes: &[u8]) -> Result<StoredFrame<'_>, FrameError> {
        check_stored(bytes, SEED, POSITION, NONCE_HALF)
    }
    check(&good).unwrap();

    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        check(&bytes).unwrap_err()
    };
    assert_eq!(
        changed(0, 64),
        FrameError::CommitLength {
            found: 64,
            wanted: 72
        }
    );
    assert!(matches!(changed(4, 0), FrameError::CommitNonce { .. }));
    assert!(matches!(changed(8, 0), FrameError::HeaderCrc { .. }));
    assert!(matches!(changed(12, 0), FrameError::HeaderCrc { .. }));
    assert!(matches!(changed(16, 8), FrameError::HeaderCrc { .. }));
    assert!(matches!(changed(64, b'j'), FrameError::BodyCrc { .. }));
    assert_eq!(changed(69, 1), FrameError::Padding);
    assert_eq!(
        check(&[0; 64]).unwrap_err(),
        FrameError::CommitLength {
            found: 0,
            wanted: 0
        }
    );
    assert_eq!(
        check(&good[..63]).unwrap_err(),
        FrameError::Truncated {
            needed: 64,
            got: 63
        }
    );
    assert_eq!(
        check(&good[..71]).unwrap_err(),
        FrameError::Truncated {
            needed: 72,
            got: 71
        }
    );

    let rewritten = |change: fn(&mut [u8])| {
        let mut bytes = good.clone();
        change_stored(&mut bytes, change);
        check(&bytes).unwrap_err()
    };
    assert_eq!(rewritten(|b| b[32] = 9), FrameError::Kind { found: 9 });
    assert_eq!(
        rewritten(|b| b[33] = 0),
        FrameError::LayoutVersion { found: 0 }
    );
    assert_eq!(
        rewritten(|b| b[16..24].fill(0xff)),
        FrameError::BaseOffset {
            found: Offset(u64::MAX)
        }
    );
    assert!(matches!(
        rewritten(|b| b[32] = 4),
        FrameError::RecordCount { found: 1, .. }
    ));
    assert!(matches!(
        rewritten(|b| (b[32], b[40]) = (3, 1)),
        FrameError::Producer {
            kind: FrameKind::Void,
            ..
        }
    ));
}

#[test]
fn a_frame_passes_only_in_the_place_it_was_made_for() {
    let frame = stored(PublisherFields::single(5), b"hello", 7, POSITION);
    for (seed, position) in [
        (FrameSeed(SEED.0 ^ 1), POSITION),
        (SEED, POSITION + 8),
        (SEED, 0),
    ] {
        let error = check_stored(&frame, seed, position, NONCE_HALF).unwrap_err();
        assert!(matches!(error, FrameError::HeaderCrc { .. }), "{error}");
    }
    let error = check_stored(&frame, SEED, POSITION, NONCE_HALF ^ 1).unwrap_err();
    assert!(matches!(error, FrameError::CommitNonce { .. }), "{error}");
}

fn refused(body: &[u8]) -> BatchError {
    let error = check_publish(&publish(&batch_fields(2, body), body)).unwrap_err();
    match error {
        FrameError::Batch(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn columns_that_disagree_are_named() {
    let key = ColumnKind::Key;
    let headers = ColumnKind::Headers;
    let of_bytes = Column::of_bytes;
    let shape = |column| BatchError::ColumnShape { column };
    let too_large = |column, found| BatchError::ValueTooLarge {
        column,
        record: 0,
        found,
    };
    let cases = vec![
        (
            of_bytes(0, &[1, 1], b"k"),
            BatchError::ColumnUnknown { found: 0 },
        ),
        (
            of_bytes(9, &[1, 1], b"k"),
            BatchError::ColumnUnknown { found: 9 },
        ),
        (of_bytes(1, &[1], b"k"), shape(key)),
        (of_bytes(1, &[1, 1, 1], b"k"), shape(key)),
        (of_bytes(1, &[1, 0], b"k"), shape(key)),
        (of_bytes(1, &[1, 2], b"k"), shape(key)),
        (
            of_bytes(1, &[0, 0], b""),
            BatchError::ColumnEmpty { column: key },
        ),
        (
            of_bytes(1, &[1025, 1025], &[b'k'; 1025]),
            too_large(key, 1025),
        ),
        (
            of_bytes(3, &[256, 256], &[b'i'; 256]),
            too_large(ColumnKind::Id, 256),
        ),
        (
            of_bytes(4, &[256, 256], &[b'g'; 256]),
            too_large(ColumnKind::Group, 256),
        ),
        (of_bytes(2, &[1, 1, 1, 1], b"n"), BatchError::NotPacked),
        (of_bytes(2, &[1], b"n"), shape(headers)),
        (of_bytes(2, &[1, 1, 1], b"n"), shape(headers)),
        (of_bytes(2, &[1, 2, 1, 1], b"n"), shape(headers)),
        (of_bytes(2, &[1, 1, 1, 2], b"n"), shape(headers)),
        (of_bytes(2, &[1, 0, 1, 1], b"n"), shape(headers)),
        (
            of_bytes(2, &[0, 0], b""),
            BatchError::ColumnEmpty { column: headers },
        ),
        (
            of_bytes(2, &[1, 1, 0, 1], b"v"),
            BatchError::HeaderName { record: 0 },
        ),
        (
            of_bytes(2, &[0, 1, 1, 1], b"\xff"),
            BatchError::HeaderName { record: 1 },
        ),
        (
            of_bytes(2, &[1, 1, 1, 4097], &[b'n'; 4097]),
            too_large(headers, 4097),
        ),
        (of_bytes(1, &[2, 1], b"k"), shape(key)),
        (Column::of_words(5, &[1]), shape(ColumnKind::DueAt)),
        (
            Column::of_words(6, &[0, 0]),
            BatchError::ColumnEmpty {
                column: ColumnKind::ExpiresAt,
            },
        ),
        (of_bytes(7, &[], &[1, 1]), shape(ColumnKind::PublishedAt)),
        (of_bytes(8, &[], &[1]), shape(ColumnKind::Priority)),
        (
            of_bytes(8, &[], &[0, 0]),
            BatchError::ColumnEmpty {
                column: ColumnKind::Priority,
            },
        ),
        (of_bytes(8, &[1, 1], &[1, 1]), shape(ColumnKind::Priority)),
    ];
    for (column, wanted) in cases {
        let mut body = Batch::of_two(vec![column]);
        if wanted == BatchError::NotPacked {
            body.insert(11, 0);
        }
        assert_eq!(refused(&body), wanted);
    }
    let mut thirty_three: Vec<u32> = vec![33, 33];
    thirty_three.extend((0..33).flat_map(|header| [header + 1, header + 1]));
    let body = Batch::of_two(vec![of_bytes(2, &thirty_three, &[b'n'; 33])]);
    assert_eq!(refused(&body), too_large(headers, 33));
}

#[test]
fn columns_out_of_order_or_twice_are_refused() {
    let key = || Column::of_bytes(1, &[1, 1], b"k");
    let due = || Column::of_words(5, &[1, 1]);
    let order = |column| BatchError::ColumnOrder { column };
    assert_eq!(
        refused(&Batch::of_two(vec![due(), key()])),
        order(ColumnKind::Key)
    );
    assert_eq!(
        refused(&Batch::of_two(vec![due(), due()])),
        order(ColumnKind::DueAt)
    );
}

#[test]
fn ends_that_do_not_fit_the_payload_are_refused() {
    let body = |ends: &[u32]| {
        Batch {
            ends: ends.to_vec(),
            payload: b"abcde".to_vec(),
            columns: vec![],
        }
        .body()
    };
    assert_eq!(refused(&body(&[3, 2])), BatchError::Ends { record: 1 });
    assert_eq!(refused(&body(&[6, 6])), BatchError::Ends { record: 0 });
    assert_eq!(refused(&body(&[6, 5])), BatchError::Ends { record: 0 });
    assert_eq!(refused(&body(&[2, 4])), BatchError::Ends { record: 1 });
    assert_eq!(refused(&body(&[2, 6])), BatchError::Ends { record: 1 });
    assert_eq!(
        refused(&body(&[5])),
        BatchError::RecordCount {
            found: 1,
            wanted: 2
        }
    );
    assert_eq!(
        refused(&body(&[1, 2, 5])),
        BatchError::RecordCount {
            found: 3,
            wanted: 2
        }
    );
    assert_eq!(
        refused(&body(&[])),
        BatchError::RecordCount {
            found: 0,
            wanted: 2
        }
    );
}

#[test]
fn references_that_leave_the_body_or_its_order_are_refused() {
    let good = Batch::of_two(vec![Column::of_bytes(1, &[1, 1], b"k")]);
    assert_eq!(refused(&[]), BatchError::Archive);
    assert_eq!(refused(&good[..23]), BatchError::Archive);
    assert_eq!(refused(&good[1..]), BatchError::Archive);
    assert_eq!(
        refused(&[b"junk", good.as_slice()].concat()),
        BatchError::NotPacked
    );
    let root = good.len() - 24;
    for at in [root, root + 4, root + 8, root + 12, root + 16, root + 20] {
        for value in [0_u32, 1, u32::MAX, u32::MAX / 2, 1 << 20] {
            let mut body = good.clone();
            body[at..at + 4].copy_from_slice(&value.to_le_bytes());
            if body == good {
                continue;
            }
            assert!(
                matches!(
                    refused(&body),
                    BatchError::Archive | BatchError::NotPacked | BatchError::RecordCount { .. }
                ),
                "{at} {value}"
            );
        }
    }
}

fn compressed() -> (PublisherFields, Vec<u8>) {
    let mut builder = BatchBuilder::new();
    for _ in 0..8 {
        builder
            .push(&Message::from("again and again ".repeat(50)).key("k"))
            .unwrap();
    }
    assert!(builder.compress());
    let mut body = Vec::new();
    builder.write_body(&mut body);
    (builder.fields(), body)
}

#[test]
fn a_compressed_payload_is_bounded_before_it_is_expanded() {
    let (fields, body) = compressed();
    let plain = decompress(&body, BODY_BYTES_MAX).unwrap();
    assert_eq!(
        decompress(&body, plain.len() - 1),
        Err(BatchError::ExpandedTooLarge {
            bytes: plain.len(),
            bytes_max: plain.len() - 1
        })
    );
    // The last end is what the payload expands to.
    let mut bomb = body.clone();
    bomb[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = check_publish(&publish(&fields, &bomb)).unwrap_err();
    assert!(
        matches!(
            error,
            FrameError::Batch(BatchError::ExpandedTooLarge { .. })
        ),
        "{error}"
    );
    assert_eq!(error.code(), ErrorCode::TooLarge);
    let mut shorter = body.clone();
    shorter[28..32].copy_from_slice(&6399_u32.to_le_bytes());
    assert_eq!(
        decompress(&shorter, BODY_BYTES_MAX),
        Err(BatchError::Compression)
    );
    let mut junk = body;
    junk[32..40].fill(0xff);
    assert_eq!(
        decompress(&junk, BODY_BYTES_MAX),
        Err(BatchError::Compression)
    );
}

#[test]
fn a_compressed_payload_that_is_not_smaller_is_refused() {
    let body = Batch {
        ends: vec![2, 5],
        payload: vec![0; 5],
        columns: vec![],
    }
    .body();
    let fields = PublisherFields {
        compressed: true,
        ..batch_fields(2, &body)
    };
    assert_eq!(
        check_publish(&publish(&fields, &body)).unwrap_err(),
        FrameError::Batch(BatchError::NotSmaller {
            bytes: 5,
            expanded_bytes: 5
        })
    );
}

#[test]
fn void_frames_and_seals_hold_no_records() {
    for kind in [FrameKind::Void, FrameKind::Seal] {
        let error = BatchView::check(kind, 1, false, b"").unwrap_err();
        assert_eq!(error, BatchError::Kind { found: kind });
    }
}

#[test]
fn a_message_over_a_limit_is_refused_and_leaves_the_batch_as_it_was() {
    let too_large = |field, found, max| PushError::FieldTooLarge { field, found, max };
    let mut many = Message::from("");
    for _ in 0..33 {
        many = many.header("n", "v");
    }
    let cases = [
        (
            Message::from("").key(vec![0; 1025]),
            too_large("key", 1025, 1024),
        ),
        (
            Message::from("").id(vec![0; 256]),
            too_large("id", 256, 255),
        ),
        (
            Message::from("").group(vec![0; 256]),
            too_large("group", 256, 255),
        ),
        (
            Message::from("").header("n", vec![0; 4096]),
            too_large("headers", 4097, 4096),
        ),
        (many, too_large("header count", 33, 32)),
        (
            Message::from("").header("", "v"),
            PushError::HeaderNameEmpty,
        ),
        (
            Message::new(vec![0; BODY_BYTES_MAX + 1]),
            PushError::TooLarge {
                bytes: BODY_BYTES_MAX + 1,
                bytes_max: BODY_BYTES_MAX,
            },
        ),
        (
            Message::new(vec![0; BODY_BYTES_MAX]).priority(1),
            PushError::TooLarge {
                bytes: BODY_BYTES_MAX + 4 + 1 + 25 + 24,
                bytes_max: BODY_BYTES_MAX,
            },
        ),
        (Message::new(vec![0; BODY_BYTES_MAX]), PushError::Full),
    ];
    let mut builder = BatchBuilder::new();
    builder.push_body(b"first").unwrap();
    let mut before = Vec::new();
    builder.encode_frame(ProducerStamp::NONE, &mut before);
    for (message, wanted) in cases {
        assert_eq!(builder.push(&message), Err(wanted));
        let mut after = Vec::new();
        builder.encode_frame(ProducerStamp::NONE, &mut after);
        assert_eq!(before, after);
    }
}

#[test]
fn a_frame_takes_its_limits_of_records_and_bytes_and_no_more() {
    let mut builder = BatchBuilder::new();
    for _ in 0..RECORDS_PER_FRAME_MAX {
        builder.push_body(b"").unwrap();
    }
    assert_eq!(builder.push_body(b""), Err(PushError::Full));
    let mut frame = Vec::new();
    builder.encode_frame(ProducerStamp::NONE, &mut frame);
    assert_eq!(
        check_publish(&frame).unwrap().fields().record_count,
        u16::MAX
    );

    builder.clear();
    builder
        .push(&Message::new(vec![1; BODY_BYTES_MAX]))
        .unwrap();
    assert_eq!(builder.push_body(b""), Err(PushError::Full));
    frame.clear();
    builder.encode_frame(ProducerStamp::NONE, &mut frame);
    assert_eq!(frame.len(), FRAME_BYTES_MAX);
    check_publish(&frame).unwrap();
}
