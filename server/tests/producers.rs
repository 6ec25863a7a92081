//! Producers over sessions: repetitions, instances, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod peer;

use millstream::Broker;
use millstream_protocol::control::{ProducerOpened, features};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::ProducerStamp;
use millstream_protocol::{AckLevel, Offset};

use peer::{Said, Script, Wire};

fn open(broker: &Broker, epoch: u64) -> (Wire, ProducerOpened) {
    let mut wire = Wire::new(broker);
    wire.feed(&Script::hello().producer(1, "orders", epoch).0);
    let said = wire.until_any(|said| matches!(said, Said::ProducerOpened { .. }));
    let Said::ProducerOpened { opened, .. } = said else {
        panic!("{said:?}")
    };
    (wire, opened)
}

fn stamp(opened: &ProducerOpened, sequence: u64) -> ProducerStamp {
    ProducerStamp {
        id: opened.producer_id,
        epoch: opened.epoch,
        sequence,
    }
}

#[test]
fn a_server_offers_producers_to_who_knows_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let (wire, _) = open(&broker, 0);
    let Said::Welcome(welcome) = &wire.ear.said[0] else {
        panic!("{:?}", wire.ear.said)
    };
    assert_eq!(welcome.features & features::PRODUCERS, features::PRODUCERS);
}

#[test]
fn a_frame_sent_again_on_another_connection_is_acknowledged_as_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let (mut first, opened) = open(&broker, 0);
    assert_eq!((opened.last_sequence, opened.known), (0, false));
    let script = Script::default()
        .publish_as(1, 1, b"a", stamp(&opened, 1))
        .publish_as(1, 2, b"b", stamp(&opened, 2));
    first.feed(&script.0);
    first.until_acked(1, 2);
    drop(first);
    let (mut second, again) = open(&broker, opened.epoch);
    assert_eq!(
        (again.epoch, again.producer_id),
        (opened.epoch, opened.producer_id)
    );
    assert_eq!((again.last_sequence, again.known), (2, true));
    let script = Script::default()
        .publish_as(1, 1, b"b", stamp(&again, 2))
        .publish_as(1, 2, b"c", stamp(&again, 3))
        .publish_as(1, 3, b"a", stamp(&again, 1));
    second.feed(&script.0);
    let said = second.until_acked(1, 3);
    let bases = said.iter().filter_map(|said| match said {
        Said::Acked { base, .. } => Some(*base),
        _ => None,
    });
    assert_eq!(bases.collect::<Vec<_>>(), [Offset(1), Offset(2), Offset(0)]);
    assert_eq!(Vec::from_iter(&second.ear.duplicates), [&(1, 1), &(1, 3)]);
    assert_eq!(broker.topic("orders").unwrap().next_offset, Offset(3));
}

#[test]
fn a_newer_instance_ends_the_older_ones_stream() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let (mut older, opened) = open(&broker, 0);
    older.feed(
        &Script::default()
            .publish_as(1, 1, b"a", stamp(&opened, 1))
            .0,
    );
    older.until_acked(1, 1);
    let (mut newer, again) = open(&broker, 0);
    assert!(again.epoch > opened.epoch);
    assert_eq!(again.last_sequence, 1);
    older.feed(
        &Script::default()
            .publish_as(1, 2, b"b", stamp(&opened, 2))
            .0,
    );
    let Said::Error { effect, stream, .. } = older.until_error(ErrorCode::Fenced) else {
        panic!("an error")
    };
    assert_eq!((effect, stream), (Effect::NotApplied, 1));
    let mut late = Wire::new(&broker);
    late.feed(&Script::hello().producer(1, "orders", opened.epoch).0);
    late.until_error(ErrorCode::Fenced);
    newer.feed(&Script::default().publish_as(1, 1, b"b", stamp(&again, 2)).0);
    newer.until_acked(1, 1);
    assert!(newer.ear.duplicates.is_empty());
}

#[test]
fn what_a_producer_may_not_send_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let (mut wire, opened) = open(&broker, 0);
    wire.feed(
        &Script::default()
            .publish_as(1, 1, b"a", stamp(&opened, 1))
            .0,
    );
    wire.until_acked(1, 1);
    let foreign = ProducerStamp {
        id: opened.producer_id + 1,
        ..stamp(&opened, 2)
    };
    let early = ProducerStamp {
        epoch: opened.epoch - 1,
        ..stamp(&opened, 2)
    };
    for (producer, code) in [
        (stamp(&opened, 1), ErrorCode::SequenceReused),
        (stamp(&opened, 3), ErrorCode::OutOfSequence),
        (stamp(&opened, u64::MAX), ErrorCode::OutOfSequence),
        (foreign, ErrorCode::Unsupported),
        (early, ErrorCode::Unsupported),
        (ProducerStamp::NONE, ErrorCode::Unsupported),
    ] {
        let (mut wire, _) = open(&broker, opened.epoch);
        wire.feed(&Script::default().publish_as(1, 1, b"b", producer).0);
        wire.until_error(code);
    }
    let mut plain = Wire::new(&broker);
    let script = Script::hello().publisher(1, "orders", AckLevel::Topic);
    plain.feed(&script.publish_as(1, 1, b"b", stamp(&opened, 2)).0);
    plain.until_error(ErrorCode::Unsupported);
    assert_eq!(broker.topic("orders").unwrap().next_offset, Offset(1));
}
