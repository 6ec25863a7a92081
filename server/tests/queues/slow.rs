//! Work that a consumer does not take at once, and records of every size.

use std::time::{Duration, Instant};

use millstream_protocol::control::{SettleEntry, SettleVerb};
use millstream_protocol::limits::SESSION_OUT_BYTES_MAX;
use millstream_protocol::{AckLevel, Offset};

use super::peer::{Said, Script};
use super::{broker, consume, eager, filled, open, take_work, worked};

#[test]
fn a_consumer_that_reads_nothing_costs_a_bounded_amount_of_memory() {
    let (_folder, broker) = broker();
    filled(&broker, 0, eager());
    let mut wire = open(&broker);
    let mut script = Script::default().publisher(1, "jobs", AckLevel::Topic);
    let body = vec![7; 256 << 10];
    for number in 1..=30 {
        script = script.publish(1, number, &body);
    }
    wire.feed(&script.0);
    wire.until_acked(1, 30);
    let mut slow = open(&broker);
    let (_, leaser) = consume(&mut slow, 0);
    slow.session
        .receive(&Script::default().window(1, 64).0)
        .unwrap();
    slow.turn_deaf();
    while !slow.session.has_output() {
        std::thread::park();
        slow.turn_deaf();
    }
    // It says more, but hears nothing: what it says is held back when the answers pile up.
    let ghost = SettleEntry {
        offset: Offset(0),
        lease: 1,
        verb: SettleVerb::Ack,
        arg_us: 0,
        text: "",
    };
    let mut settles = 0;
    while settles < 8_000 && !slow.session.is_held() {
        let script = Script::default().settle(1, leaser, settles + 1, &[ghost; 1000]);
        slow.session.receive(&script.0).unwrap();
        slow.turn_deaf();
        settles += 1000;
    }
    let mut queued = 0;
    while let Some(out) = slow.session.pop_output() {
        queued += out.as_bytes().len();
        slow.ear.hear(out.as_bytes());
    }
    assert!(
        queued > 0 && queued < SESSION_OUT_BYTES_MAX + (2 << 20),
        "{queued}"
    );
    assert_eq!(take_work(&mut slow, 30).len(), 30, "the rest follows");
    let last = |said: &Said| matches!(said, Said::Settled { number, .. } if *number == settles);
    slow.until_any(last);
}

/// A record that found no room in one message of work goes with a later one, whenever the client takes that.
#[test]
fn what_is_left_of_a_lease_is_told_as_it_is_sent() {
    const RECORDS: u64 = 10;
    let (_folder, broker) = broker();
    filled(&broker, 0, eager());
    let mut wire = open(&broker);
    let mut script = Script::default().publisher(1, "jobs", AckLevel::Topic);
    // One fits a message, and two do not.
    let body = vec![7; 700 << 10];
    for number in 1..=RECORDS {
        script = script.publish(1, number, &body);
    }
    wire.feed(&script.0);
    wire.until_acked(1, RECORDS);
    let mut slow = open(&broker);
    let (opened, _) = consume(&mut slow, 0);
    slow.session
        .receive(&Script::default().window(1, 64).0)
        .unwrap();
    while !slow.session.has_output() {
        slow.turn_deaf();
    }
    while slow.turn_deaf() {}
    let passed_ms = 30;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(passed_ms) {
        std::thread::yield_now();
    }
    let mut early = 0;
    while let Some(out) = slow.session.pop_output() {
        slow.ear.hear(out.as_bytes());
        early = worked(&slow.ear.said).len();
    }
    assert!(early > 0 && early < RECORDS as usize, "{early}");
    let work = take_work(&mut slow, RECORDS as usize);
    for work in work.iter().skip(early) {
        let left_ms = u64::from(work.left_ms);
        assert!(
            left_ms <= u64::from(opened.lease_ms) - passed_ms,
            "{work:?}"
        );
    }
}

/// A message of work of every size: alone over the bound of several, and right below and above it.
#[test]
fn records_of_every_size_are_delivered() {
    let (_folder, broker) = broker();
    filled(&broker, 0, eager());
    let mut wire = open(&broker);
    let sizes = [
        0,
        1,
        1 << 20,
        (1 << 20) - 1,
        (1 << 20) + 1,
        5 << 20,
        700 << 10,
        700 << 10,
        3,
    ];
    wire.feed(&Script::default().publisher(1, "jobs", AckLevel::Topic).0);
    for (number, bytes) in (1..).zip(sizes) {
        let body = vec![number as u8; bytes];
        wire.feed(&Script::default().publish(1, number, &body).0);
        wire.until_acked(1, number);
    }
    let mut consumer = open(&broker);
    consume(&mut consumer, 64);
    let work = take_work(&mut consumer, sizes.len());
    let found: Vec<_> = work.iter().map(|work| work.body.len()).collect();
    assert_eq!(found, sizes);
}
