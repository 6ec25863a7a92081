//! Sound folders, folders whose parts contradict each other, and journals and checkpoints that rot.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use millstream_protocol::frame::{ProducerStamp, PublisherFields};
use millstream_protocol::{Durability, TopicName};
use millstream_storage::{AppendError, Appender, Level, Store, StoreOptions, park_until};

use super::*;
use crate::queue::definition::Change;
use crate::queue::journal;
use crate::queue::recovery::{QueueSection, encode_checkpoint};
use crate::{Backoff, Broker, Consumer, ConsumerOptions, Delivery, QueueOptions};

const SOON: Duration = Duration::from_secs(60);
/// Bits from one that is flipped to the next, unless `MILLSTREAM_ROT_STRIDE` says otherwise; odd.
const STRIDE: usize = 2999;

fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let wanted = u32::try_from(count - taken.len()).unwrap();
        let more = consumer.receive_blocking(wanted, SOON).unwrap();
        assert!(!more.is_empty(), "{} of {count} came", taken.len());
        taken.extend(more);
    }
    taken
}

fn puller(broker: &Broker, queue: &str) -> Consumer {
    let options = ConsumerOptions::new().prefetch(0);
    broker.consumer(queue, options).unwrap()
}

fn checkpoint(broker: &Broker) {
    let queues = broker.queues_of_broker();
    let journal = journal::open(&queues.store).unwrap();
    queues.checkpoint(&journal).unwrap();
}

/// Publishes 40 records to `jobs`, settles every second, rejects every fifth; a checkpoint in the
/// middle and one near the end. Gives the bodies that are neither settled nor dead.
fn lively(path: &Path) -> BTreeSet<String> {
    let broker = Broker::open(path).unwrap();
    let at_once = Backoff {
        first_ms: 0,
        cap_ms: 0,
        multiplier_milli: 1000,
        jitter_percent: 0,
    };
    broker
        .create_queue("jobs", QueueOptions::new().backoff(at_once))
        .unwrap();
    let mut publisher = broker.publisher("jobs").unwrap();
    for number in 0..40 {
        publisher.publish_blocking(format!("job {number}")).unwrap();
    }
    let cursor = broker.cursor("jobs", "reader").unwrap();
    cursor.commit(Offset(7)).unwrap();
    let mut left = BTreeSet::new();
    let mut jobs = puller(&broker, "jobs");
    for (number, delivery) in take(&mut jobs, 40).into_iter().enumerate() {
        match number {
            number if number % 2 == 0 => delivery.ack_confirmed_blocking().unwrap(),
            number if number % 5 == 0 => delivery.reject("no good"),
            _ => {
                left.insert(String::from_utf8(delivery.body().to_vec()).unwrap());
                delivery.release();
            }
        }
        if number == 20 || number == 30 {
            checkpoint(&broker);
        }
    }
    let mut dead = puller(&broker, "jobs.dead");
    let letters = take(&mut dead, 4);
    for letter in letters.into_iter().take(2) {
        letter.ack_confirmed_blocking().unwrap();
    }
    broker.close().unwrap();
    left
}

fn store(path: &Path) -> Store {
    Store::open(path, &StoreOptions::default()).unwrap()
}

/// Appends one frame to a log behind the broker's back.
fn append(store: &Store, log: &str, producer: ProducerStamp, body: &[u8]) {
    let log = store.log(&TopicName::parse(log).unwrap()).unwrap();
    let mut appender = Appender::new(&log);
    let fields = PublisherFields {
        producer,
        ..PublisherFields::single(u32::try_from(body.len()).unwrap())
    };
    let appended = loop {
        match appender.try_append_with(&fields, |room| room.put(body)) {
            Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
            done => break done.unwrap(),
        }
    };
    appender.announce_and_lead();
    park_until(|cx| appender.poll_reached(Level::Synced, appended.end, cx)).unwrap();
}

/// The number of the queue `jobs`.
fn jobs_id(store: &Store) -> u32 {
    let recovered = Recovered::read(store, &journal::open(store).unwrap()).unwrap();
    let mut queues = recovered.queues.values();
    let jobs = queues.find(|queue| queue.definition.name.as_str() == "jobs");
    jobs.unwrap().definition.id
}

/// A journal frame of queue `id`.
fn journal_frame(id: u32, entries: &[Entry]) -> Vec<u8> {
    let mut body = vec![1, 1, 0, 0];
    body.extend(id.to_le_bytes());
    Entry::encode_all(entries, &mut body);
    body
}

fn problems(path: &Path) -> String {
    let report = verify_queues(path).unwrap();
    report
        .problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

#[test]
fn a_folder_that_agrees_is_sound_and_described() {
    let folder = tempfile::tempdir().unwrap();
    lively(folder.path());
    let report = verify_queues(folder.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.checkpoints, report.cursors), (2, 1));
    assert_eq!(report.queues.len(), 2);
    let jobs = &report.queues[0];
    assert_eq!((jobs.queue.as_str(), jobs.floor), ("jobs", Offset(1)));
    assert_eq!((jobs.moves_pending, jobs.moves_found), (0, 4));
    assert!(report.journal_frames > 20);
    // A folder without queues, and one where the broker was killed and never checkpointed.
    let bare = tempfile::tempdir().unwrap();
    store(bare.path()).close().unwrap();
    assert_eq!(verify_queues(bare.path()).unwrap(), QueuesReport::default());
}

#[test]
fn a_copy_made_twice_or_of_nothing_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    lively(folder.path());
    let there = store(folder.path());
    let id = MOVER | u64::from(jobs_id(&there));
    let copy = |sequence| ProducerStamp {
        id,
        epoch: 1,
        sequence,
    };
    append(&there, "jobs.dead", copy(2), b"again");
    append(&there, "jobs.dead", copy(99), b"never moved");
    there.close().unwrap();
    let said = problems(folder.path());
    assert!(said.contains("move 2 arrived 2 times"), "{said}");
    assert!(
        said.contains("move 99 arrived that it never made"),
        "{said}"
    );
}

#[test]
fn a_dead_letter_that_never_arrived_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    lively(folder.path());
    let there = store(folder.path());
    let moved = Entry::Moved {
        number: 5,
        offset: Offset(11),
        attempts: 1,
        first_us: 1,
        last_us: 1,
        why: crate::queue::scheduler::Reason::Rejected,
        text: "".into(),
    };
    let applied = Entry::Applied { through: 5 };
    let body = journal_frame(jobs_id(&there), &[moved, applied]);
    append(&there, JOURNAL, ProducerStamp::NONE, &body);
    there.close().unwrap();
    let said = problems(folder.path());
    assert!(
        said.contains("move 5 is called applied, and no topic has"),
        "{said}"
    );
}

#[test]
fn offsets_past_the_end_and_a_topic_made_anew_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    lively(folder.path());
    let there = store(folder.path());
    let settled = Entry::Settled {
        first: Offset(5000),
        count: 3,
    };
    let body = journal_frame(jobs_id(&there), &[settled]);
    append(&there, JOURNAL, ProducerStamp::NONE, &body);
    let dead = TopicName::parse("jobs.dead").unwrap();
    there.delete_log(&dead).unwrap();
    there.create_log(&dead, Durability::Synced).unwrap();
    there.close().unwrap();
    let said = problems(folder.path());
    assert!(
        said.contains("knows of record 5002, and its topic ends at 40"),
        "{said}"
    );
    assert!(
        said.contains("\"jobs.dead\" is not there, or was made anew"),
        "{said}"
    );
}

#[test]
fn checkpoints_that_lead_elsewhere_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    lively(folder.path());
    let there = store(folder.path());
    let checkpoints = there.checkpoints();
    let (_, newest) = checkpoints.load().unwrap().swap_remove(0);
    let state = Recovered::from_checkpoint(&newest).unwrap();
    let changes: Vec<Change> = state
        .queues
        .values()
        .map(|queue| Change::Queue(queue.definition.clone()))
        .collect();
    let sections: Vec<QueueSection> = state
        .queues
        .iter()
        .map(|(id, queue)| {
            let mut durable = queue.durable.clone();
            // One record more than anybody settled.
            durable.apply(&Entry::Settled {
                first: Offset(1),
                count: 1,
            });
            let mut bytes = Vec::new();
            durable.encode(&mut bytes);
            QueueSection {
                id: *id,
                position: queue.position(),
                durable: bytes,
                marks: queue.marks.clone(),
            }
        })
        .collect();
    let forged = encode_checkpoint(state.needed_from(), &changes, &sections);
    checkpoints.write(&forged).unwrap();
    there.close().unwrap();
    let said = problems(folder.path());
    assert!(
        said.contains("jobs: the older checkpoint and the journal come to other"),
        "{said}"
    );

    let there = store(folder.path());
    there.checkpoints().write(b"whole, and nonsense").unwrap();
    there.close().unwrap();
    assert!(
        problems(folder.path()).contains("checkpoint: not as this version"),
        "{}",
        problems(folder.path())
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Opens what rotted and takes everything that the queue gives out; gives the bodies.
fn drained(path: &Path, what: &str) -> BTreeSet<String> {
    let broker = Broker::open(path).unwrap();
    let mut consumer = puller(&broker, "jobs");
    let mut bodies = BTreeSet::new();
    let mut held = Vec::new();
    // Until nothing is ready: what is taken stays leased.
    loop {
        let info = broker.queue("jobs").unwrap();
        if info.ready == 0 {
            break;
        }
        for delivery in consumer.receive_blocking(64, SOON).unwrap() {
            let body = String::from_utf8(delivery.body().to_vec()).unwrap();
            let fresh = bodies.insert(body);
            assert!(fresh, "{what}: record {} came twice", delivery.offset());
            held.push(delivery);
        }
    }
    drop(held);
    broker.close().unwrap();
    bodies
}

/// A bit flipped in the journal or a checkpoint: the broker starts; what is not settled is delivered,
/// whatever rotted; what is settled comes again only where the journal itself is hit.
#[test]
fn rot_in_journal_and_checkpoints_loses_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let left = lively(folder.path());
    let published: BTreeSet<String> = (0..40).map(|number| format!("job {number}")).collect();
    let stride = std::env::var("MILLSTREAM_ROT_STRIDE")
        .map_or(STRIDE, |text| text.parse::<usize>().expect("a number") * 31);
    let inspection = Inspection::open(folder.path()).unwrap();
    let (journal, _) = inspection.state().log_named(JOURNAL).unwrap();
    let mut files = vec![format!("log-{:08}/00000001.seg", journal.0)];
    files.extend(
        inspection
            .checkpoints()
            .unwrap()
            .into_iter()
            .map(|(file, _)| file),
    );
    drop(inspection);
    let (mut flipped, mut again) = (0, 0);
    for (file, is_journal) in files.iter().zip([true, false, false]) {
        let bytes = fs::read(folder.path().join(file)).unwrap();
        // Of the journal, the frames matter; they lie behind three pages, before the footer's two.
        let frames = (3 * 4096 * 8)..bytes.len().saturating_sub(8192) * 8;
        let dense = (stride / 7) | 1;
        let bits: Vec<usize> = if is_journal {
            let around = (0..bytes.len() * 8).step_by((stride * 4) | 1);
            frames.step_by(dense).chain(around).collect()
        } else {
            (0..bytes.len() * 8).step_by(dense).collect()
        };
        for bit in bits {
            let copied = tempfile::tempdir().unwrap();
            copy(folder.path(), copied.path());
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(copied.path().join(file), bad).unwrap();
            let bodies = drained(copied.path(), &format!("{file}, bit {bit}"));
            assert!(
                bodies.is_superset(&left),
                "{file}, bit {bit}: a record is lost"
            );
            assert!(
                bodies.is_subset(&published),
                "{file}, bit {bit}: a record is made up"
            );
            if !is_journal {
                assert_eq!(
                    bodies, left,
                    "{file}, bit {bit}: a settled record came again"
                );
            }
            flipped += 1;
            again += bodies.len() - left.len();
        }
    }
    eprintln!(
        "journal and checkpoints: {flipped} bits flipped, {again} settled records came again"
    );
    assert!(flipped > 50, "{flipped}");
}
