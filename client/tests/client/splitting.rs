//! The stream of bytes may be cut anywhere: what is told does not change.

use std::sync::LazyLock;
use std::time::Instant;

use bytes::BytesMut;
use millstream_client::core::{Event, SettleRequest};
use millstream_client::{ErrorCode, GapReason, Offset};
use millstream_protocol::control::{Gap, Goodbye, SettleVerb};
use millstream_protocol::wire::{MessageKind, StreamId};
use proptest::prelude::*;

use crate::script::{Session, ack, bare, delivery, encoded, refusal, settle_ack, stored, work};

/// When what the server sends arrives, in every session.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A session with two publishers, who have sent something, and a reader.
fn session() -> Session {
    let mut session = Session::new();
    for _ in 0..2 {
        let stream = session.open_publisher();
        for body in ["a", "b", "c"] {
            session.core.publish(stream, &body.into()).unwrap();
            session.sent();
        }
    }
    session.open_reader(100_000, 0);
    let consumer = session.open_consumer(10);
    for offset in 0..3 {
        let settle = SettleRequest {
            offset: Offset(offset),
            lease: offset,
            verb: SettleVerb::Ack,
            arg_us: 0,
            reason: "".into(),
        };
        session.core.settle(consumer, settle).unwrap();
    }
    session.sent();
    // Leases end at times of their own.
    session.now = *START;
    session
}

/// What the server sends it.
fn script() -> Vec<u8> {
    let (one, two, reader, consumer) = (StreamId(1), StreamId(2), StreamId(3), StreamId(4));
    let gap = Gap {
        first_offset: Offset(3),
        next_offset: Offset(9),
        reason: GapReason::Damaged,
    };
    let goodbye = Goodbye {
        reason: "done".to_owned(),
    };
    [
        bare(MessageKind::Ping, StreamId::CONNECTION, 1),
        ack(one, 2, &[(1, 0), (1, 4)]),
        delivery(
            reader,
            12_288,
            0..3,
            &stored(&[b"x", b"y", b"z"], 0, 12_288),
        ),
        encoded(|out| gap.encode(reader, 2, out)),
        work(consumer, &[(7, 70), (8, 80)]),
        settle_ack(consumer, 2, &[2]),
        ack(two, 3, &[(3, 7)]),
        delivery(reader, 0, 9..10, &stored(&[&[5; 3000]], 9, 0)),
        refusal(one, 3, ErrorCode::StorageFull),
        bare(MessageKind::StreamClosed, one, 0),
        encoded(|out| goodbye.encode(StreamId::CONNECTION, 0, out)),
    ]
    .concat()
}

fn events_of(bytes: &[u8], cuts: &[usize]) -> Vec<Event> {
    let mut session = session();
    let mut input = BytesMut::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().copied();
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
        input.extend_from_slice(&rest[..cut]);
        rest = &rest[cut..];
        session.core.receive(session.now, &mut input);
        let wanted_bytes = session.core.wanted_bytes();
        assert!(session.core.ended().is_some() || wanted_bytes == 0 || wanted_bytes > input.len());
    }
    session.core.end_of_input();
    session.events()
}

#[test]
fn byte_by_byte_is_as_all_at_once() {
    let bytes = script();
    let whole = events_of(&bytes, &[]);
    assert_eq!(whole.len(), 15);
    assert_eq!(events_of(&bytes, &vec![1; bytes.len()]), whole);
}

proptest! {
    #[test]
    fn any_split_tells_the_same(cuts in prop::collection::vec(1..400_usize, 0..200)) {
        let bytes = script();
        prop_assert_eq!(events_of(&bytes, &cuts), events_of(&bytes, &[]));
    }

    #[test]
    fn any_damage_and_any_split_tell_the_same(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        cuts in prop::collection::vec(1..400_usize, 0..200),
    ) {
        let mut bytes = script();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let damaged = events_of(&bytes, &[]);
        prop_assert_eq!(&events_of(&bytes, &cuts), &damaged);
        prop_assert!(matches!(damaged.last(), Some(Event::Ended(_))));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        events_of(&bytes, &[]);
    }
}
