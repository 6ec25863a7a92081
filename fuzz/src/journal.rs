//! Recovery of queues whose journal or checkpoints are not what they were.
//!
//! The first byte chooses a folder that a kill left, the rest is a list of edits (see `damage`) to
//! its journal's segments and its checkpoints. Claims:
//! - the broker opens, and a queue is gone only where the frame that made it may be;
//! - what was settled stays settled, as an ack, a dead letter or a counted attempt, unless the
//!   damage may have taken the frame that says so; and that is told;
//! - whatever was damaged, no record that is not settled is lost, none comes twice, and none that
//!   was never published;
//! - what is settled afterwards is settled also after another kill.

mod base;

use std::collections::BTreeMap;

use millstream::{Broker, Chunk, Start};
use millstream_storage::park_until;

use crate::Outcome;
use crate::damage::{Damage, inflict};
use crate::due::{due, is_readable};
use crate::folder::{PAGE, records_of};
use crate::input::Input;
use base::{Base, DEAD, JOURNAL, QUEUE, Told, arrived, bases, body, consumer, open, take};

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let mut input = Input::new(data);
    let bases = bases();
    let base = &bases[usize::from(input.byte()) % bases.len()];
    let folder = base.snapshot.folder.duplicate();
    let journal = base.snapshot.log(JOURNAL);
    let is_ours = |name: &str| {
        let mut files = base.snapshot.of_log(journal);
        name.starts_with("checkpoint-") || files.any(|file| file.name == name)
    };
    let damage = inflict(&folder, &base.snapshot, is_ours, &mut input);
    let broker = open(&folder);
    let sure = !damage.forged && is_readable(base.snapshot.of_log(journal), &damage);
    check_topic(base, &broker);
    if broker.queue(QUEUE).is_err() {
        assert!(!sure || may_be_gone(base, &damage), "the queue is gone");
        return Outcome::Refused;
    }
    if !sure {
        // No more than that it goes on: what can be taken was published.
        broker.close().ok();
        return Outcome::Refused;
    }
    let delivered = drain(&broker);
    check_settled(base, &damage, &broker, &delivered);
    let killed = folder.duplicate();
    broker.close().expect("it closes");
    let again = open(&killed);
    let info = arrived(&again);
    let left = (info.ready, info.leased, info.delayed);
    assert_eq!(left, (0, 0, 0), "what was acknowledged comes back");
    again.close().expect("it closes");
    Outcome::Accepted
}

/// The topic was not touched: all that was published is there.
fn check_topic(base: &Base, broker: &Broker) {
    let mut reader = broker
        .reader(QUEUE, Start::Earliest)
        .expect("the topic is there");
    for record in 0..base.records {
        let next = reader
            .next_blocking()
            .expect("another one")
            .expect("it is readable");
        assert_eq!(next.as_bytes(), body(record), "record {record}");
    }
}

/// Whether the damage may have taken the frames that made the queue.
fn may_be_gone(base: &Base, damage: &Damage) -> bool {
    let log = base.snapshot.log(JOURNAL);
    let due = due(base.snapshot.of_log(log), damage);
    !base.made.clone().all(|frame| due.contains(&frame))
}

/// Takes and acknowledges all there is: each record's attempts.
fn drain(broker: &Broker) -> BTreeMap<Vec<u8>, u16> {
    let mut delivered = BTreeMap::new();
    let mut consumer = consumer(broker).expect("the queue is there");
    while arrived(broker).ready > 0 {
        let delivery = take(&mut consumer).expect("there is one");
        let twice = delivered.insert(delivery.as_bytes().to_vec(), delivery.attempts());
        assert_eq!(twice, None, "delivered twice");
        delivery.ack_confirmed_blocking().expect("it is acked");
    }
    delivered
}

/// Bodies of the dead letters.
fn dead_letters(broker: &Broker) -> Vec<Vec<u8>> {
    let Ok(info) = broker.topic(DEAD) else {
        return Vec::new();
    };
    let mut reader = broker.reader(DEAD, Start::Earliest).expect("it is there");
    let mut bodies = Vec::new();
    while reader.next_offset() < info.next_offset {
        let Ok(Chunk::Frames(slice)) = park_until(|cx| reader.poll_frames(1 << 20, cx)) else {
            continue;
        };
        let records = records_of(&slice).expect("what is served is whole");
        bodies.extend(records.into_iter().map(|(_, body)| body));
    }
    bodies
}

fn check_settled(
    base: &Base,
    damage: &Damage,
    broker: &Broker,
    delivered: &BTreeMap<Vec<u8>, u16>,
) {
    let log = base.snapshot.log(JOURNAL);
    let due = due(base.snapshot.of_log(log), damage);
    let dead = dead_letters(broker);
    let mut came_back = false;
    for record in 0..base.records {
        let body = body(record);
        let attempts = delivered.get(&body).copied();
        let mut of_it = base
            .settled
            .iter()
            .filter(|settled| settled.record == record);
        let last = of_it.next_back();
        let kept = last.is_none_or(|last| last.frames.clone().all(|frame| due.contains(&frame)));
        match last.map(|last| last.told) {
            None => assert!(attempts.is_some(), "record {record} is lost"),
            Some(Told::Acked) => {
                came_back |= attempts.is_some();
                assert!(!kept || attempts.is_none(), "record {record} comes back");
            }
            Some(Told::Rejected) => {
                let copies = dead.iter().filter(|dead| **dead == body).count();
                came_back |= attempts.is_some();
                assert!(
                    !kept || attempts.is_none(),
                    "dead letter {record} comes back"
                );
                assert!(
                    attempts.is_some() || copies > 0,
                    "dead letter {record} is lost"
                );
                assert!(!kept || copies == 1, "{copies} dead letters of {record}");
            }
            Some(Told::Retried) => {
                let attempts = attempts.unwrap_or_else(|| panic!("record {record} is lost"));
                assert!(
                    !kept || attempts >= 2,
                    "an attempt at {record} is forgotten"
                );
            }
        }
    }
    let known = delivered.keys().chain(&dead);
    let mut published = (0..base.records).map(body);
    let published: Vec<Vec<u8>> = published.by_ref().collect();
    assert!(
        known.into_iter().all(|body| published.contains(body)),
        "invented"
    );
    // A segment with an end is looked at when it is read, and told where logs are kept.
    let touched = |ended: bool| {
        let mut files = base.snapshot.of_log(log);
        files.any(|file| file.end.is_some() == ended && damage.touched(&file.name))
    };
    // Slots that vanished without a trace look as before the first sync.
    let vanished = base
        .snapshot
        .of_log(log)
        .any(|file| file.end.is_none() && damage.is_blank_in(file, PAGE..3 * PAGE));
    if came_back && touched(false) && !touched(true) && !vanished {
        check_told(broker);
    }
}

/// Recovery says that the journal lost something.
fn check_told(broker: &Broker) {
    let mut reports = broker.recovery().iter();
    let report = reports.find(|report| report.topic.as_str() == JOURNAL);
    let report = report.expect("the journal was open");
    let told = !report.damaged.is_empty() || report.possibly_acknowledged;
    assert!(told, "settled records come back without a word: {report}");
}
