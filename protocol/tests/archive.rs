//! The bytes of a batch are those rkyv's own serializer makes of the same columns.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod raw;

use millstream_protocol::batch::{BatchBuilder, Message};
use raw::{Batch, Column};

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

#[test]
fn a_plain_batch_is_what_rkyv_makes_of_it() {
    let batch = Batch {
        ends: vec![3, 3, 6],
        payload: b"onetwo".to_vec(),
        columns: Vec::new(),
    };
    let messages = ["one", "", "two"].map(Message::from);
    assert_eq!(built(&messages), batch.body());
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
            Column::of_bytes(1, &[0, 1, 1], b"k"),
            Column::of_bytes(2, &[0, 2, 2, 1, 2, 4, 4], b"hvh2"),
            Column::of_bytes(3, &[0, 2, 2], b"id"),
            Column::of_bytes(4, &[0, 1, 1], b"g"),
            Column::of_words(5, &[0, 1, 0]),
            Column::of_words(6, &[0, 2, 0]),
            Column::of_words(7, &[0, 3, 0]),
            Column::of_bytes(8, &[], &[0, 4, 0]),
        ],
    };
    assert_eq!(built(&messages), batch.body());
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
    assert_eq!(built(&messages), batch.body());
}
