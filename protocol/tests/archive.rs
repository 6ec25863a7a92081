//! The bytes of a batch are those rkyv's own serializer makes of the same columns.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use millstream_protocol::batch::{BatchBuilder, Message};
use rkyv::rancor::Error;
use rkyv::{Archive, Serialize};

#[derive(Archive, Serialize)]
struct Batch {
    ends: Vec<u32>,
    payload: Vec<u8>,
    columns: Vec<Column>,
}

#[derive(Archive, Serialize)]
struct Column {
    kind: u8,
    ends: Vec<u32>,
    words: Vec<u64>,
    bytes: Vec<u8>,
}

fn built(messages: &[Message]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for message in messages {
        builder.push(message).unwrap();
    }
    let mut body = Vec::new();
    builder.write_body(&mut body);
    assert_eq!(
        body.len(),
        builder.body_bytes() as usize,
        "the size was known before"
    );
    body
}

fn archived(batch: &Batch) -> Vec<u8> {
    rkyv::to_bytes::<Error>(batch).unwrap().to_vec()
}

fn bytes_column(kind: u8, ends: &[u32], bytes: &[u8]) -> Column {
    Column {
        kind,
        ends: ends.to_vec(),
        words: Vec::new(),
        bytes: bytes.to_vec(),
    }
}

fn words_column(kind: u8, words: &[u64]) -> Column {
    Column {
        kind,
        ends: Vec::new(),
        words: words.to_vec(),
        bytes: Vec::new(),
    }
}

#[test]
fn a_plain_batch_is_what_rkyv_makes_of_it() {
    let batch = Batch {
        ends: vec![3, 3, 6],
        payload: b"onetwo".to_vec(),
        columns: Vec::new(),
    };
    let messages = ["one", "", "two"].map(Message::from);
    assert_eq!(built(&messages), archived(&batch));
}

#[test]
fn a_batch_with_every_column_is_what_rkyv_makes_of_it() {
    let messages = [
        Message::from("plain"),
        Message::from("all")
            .key("k")
            .header("h", "v")
            .header("h2", "")
            .id("id")
            .group("g")
            .due_at_us(1)
            .expires_at_us(2)
            .published_at_us(3)
            .priority(4),
        Message::from(""),
    ];
    let batch = Batch {
        ends: vec![5, 8, 8],
        payload: b"plainall".to_vec(),
        columns: vec![
            bytes_column(1, &[0, 1, 1], b"k"),
            bytes_column(2, &[0, 2, 2, 1, 2, 4, 4], b"hvh2"),
            bytes_column(3, &[0, 2, 2], b"id"),
            bytes_column(4, &[0, 1, 1], b"g"),
            words_column(5, &[0, 1, 0]),
            words_column(6, &[0, 2, 0]),
            words_column(7, &[0, 3, 0]),
            bytes_column(8, &[], &[0, 4, 0]),
        ],
    };
    assert_eq!(built(&messages), archived(&batch));
}

#[test]
fn large_bodies_lie_between_small_ones_in_the_order_pushed() {
    let large = vec![7_u8; 5000];
    let messages = [
        Message::new(large.clone()),
        Message::from("a"),
        Message::new(large.clone()),
        Message::new(large.clone()),
        Message::from("b"),
    ];
    let payload = [&large, b"a".as_slice(), &large, &large, b"b"].concat();
    let batch = Batch {
        ends: vec![5000, 5001, 10_001, 15_001, 15_002],
        payload,
        columns: vec![],
    };
    assert_eq!(built(&messages), archived(&batch));
}
