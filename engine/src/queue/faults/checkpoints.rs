//! What becomes of queues whose checkpoints can't be used.

use millstream_protocol::Start;
use millstream_storage::{Chunk, LogReader};

use super::order::grow_journal;
use super::*;
use crate::broker::Broker;

/// A folder behind a kill, with six records of which the first five are settled, and a journal that
/// begins behind the making of the queue.
fn killed() -> HeapFolder {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3", "4", "5", "left"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 6);
    let left = taken.pop().unwrap();
    let cursor = setup.queues.cursor("jobs", "place").unwrap();
    cursor.commit(Offset(4)).unwrap();
    for delivery in taken {
        delivery.ack_confirmed_blocking().unwrap();
        grow_journal(&setup);
        setup.queues.checkpoint(&setup.journal()).unwrap();
    }
    assert!(setup.journal().first_offset() > Offset(0), "it was trimmed");
    let killed = setup.heap.duplicate();
    drop((left, consumer, entry));
    setup.close();
    killed
}

fn checkpoints(heap: &HeapFolder) -> Vec<(String, Vec<u8>)> {
    let names = heap.list("").unwrap().into_iter();
    let names = names.filter(|file| file.starts_with("checkpoint-"));
    let mut all: Vec<_> = names
        .map(|file| (file.clone(), heap.read_file(&file).unwrap()))
        .collect();
    all.sort();
    all
}

fn put(heap: &HeapFolder, file: &str, bytes: &[u8]) {
    heap.remove(file).unwrap();
    heap.create_file(file, bytes).unwrap();
}

fn damage(heap: &HeapFolder) -> Vec<(String, Vec<u8>)> {
    let whole = checkpoints(heap);
    assert_eq!(whole.len(), 2);
    for (file, bytes) in &whole {
        let mut bytes = bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        put(heap, file, &bytes);
    }
    whole
}

/// Both can't be read so many times.
fn out_of_reach(heap: &HeapFolder, times: u64, failure: Failure) {
    for (file, _) in checkpoints(heap) {
        for nth in 1..=times {
            heap.fail(Operation::Read, &file, nth, failure);
        }
    }
}

/// Whatever is asked about queues and cursors is refused and says why; topics work.
fn expect_offline(setup: &Setup, reason: &str) {
    let broker = Broker::of_parts(Arc::clone(&setup.store), Arc::clone(&setup.queues));
    let told = |error: &dyn std::fmt::Display| {
        let told = error.to_string();
        assert!(told.contains("offline") && told.contains(reason), "{told}");
    };
    told(&broker.queue("jobs").unwrap_err());
    told(&broker.check_queues().unwrap_err());
    told(&broker.consumer("jobs", ConsumerOptions::new()).unwrap_err());
    told(
        &broker
            .create_queue("jobs", crate::QueueOptions::new())
            .unwrap_err(),
    );
    told(
        &broker
            .create_queue("other", crate::QueueOptions::new())
            .unwrap_err(),
    );
    assert!(broker.topic("other").is_err(), "nor is a topic made for it");
    told(&broker.delete_queue("jobs").unwrap_err());
    told(&broker.cursor("jobs", "place").unwrap_err());
    told(&broker.retention("jobs").unwrap_err());
    let all = crate::Retention::KEEP_ALL;
    told(&broker.set_retention("jobs", all).unwrap_err());
    // A queue may be over it.
    told(&broker.delete_topic("jobs").unwrap_err());
    let log = setup.store.log(&name("jobs")).unwrap();
    let mut publisher = Publisher::new(Level::Synced, Appender::new(&log), &setup.queues);
    publisher.publish_blocking("6").unwrap();
    let mut reader = LogReader::new(&log, Start::Earliest);
    let chunk = park_until(|cx| reader.poll_next(1 << 20, cx)).unwrap();
    assert!(matches!(chunk, Chunk::Frames(_)), "{chunk:?}");
}

fn unsettled(heap: HeapFolder) -> Vec<String> {
    let setup = Setup::over(heap);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    let cursor = setup.queues.cursor("jobs", "place").unwrap();
    assert_eq!(cursor.offset(), Offset(4));
    let taken = take(&mut puller(&entry), 2);
    let text = |delivery: &Delivery| String::from_utf8(delivery.as_bytes().to_vec()).unwrap();
    let bodies = taken.iter().map(text).collect();
    drop((taken, entry));
    setup.close();
    bodies
}

#[test]
fn q6_with_both_checkpoints_damaged_queues_are_offline_and_forget_nothing() {
    let heap = killed();
    let whole = damage(&heap);
    let damaged = checkpoints(&heap);
    for _ in 0..2 {
        let setup = Setup::over(heap.clone());
        expect_offline(&setup, "checksum");
        setup.close();
        assert!(checkpoints(&heap) == damaged, "not a byte is changed");
    }
    // Put back from a copy of the folder, all is as it was, and what came meanwhile is there.
    for (file, bytes) in &whole {
        put(&heap, file, bytes);
    }
    assert_eq!(unsettled(heap)[0], "left", "the five are settled");
}

#[test]
fn q6_with_both_checkpoints_out_of_reach_queues_are_offline_until_they_are_not() {
    let heap = killed();
    // More often than anybody asks.
    out_of_reach(&heap, 60, Failure::Device);
    let setup = Setup::over(heap.clone());
    expect_offline(&setup, "os error 5");
    setup.close();
    heap.heal();
    assert_eq!(unsettled(heap), ["left", "6"]);
}

#[test]
fn q6_checkpoints_out_of_reach_for_a_moment_take_no_queue_offline() {
    let heap = killed();
    out_of_reach(&heap, 2, Failure::Descriptors);
    let setup = Setup::over(heap);
    assert!(setup.queues.entry(&name("jobs")).is_ok());
    setup.close();
}

#[test]
fn q6_a_journal_with_its_beginning_needs_no_checkpoint() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "left"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 2);
    taken.remove(0).ack_confirmed_blocking().unwrap();
    for _ in 0..2 {
        setup.queues.checkpoint(&setup.journal()).unwrap();
    }
    let heap = setup.heap.duplicate();
    drop((taken, consumer, entry));
    setup.close();
    damage(&heap);
    let setup = Setup::over(heap);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    assert_eq!(take(&mut puller(&entry), 1)[0].as_bytes(), b"left");
    drop(entry);
    setup.close();
}

/// What the operator accepts by moving them aside, as `repair` does.
#[test]
fn q6_with_useless_checkpoints_moved_aside_queues_are_what_the_journal_says() {
    let heap = killed();
    for (file, _) in damage(&heap) {
        heap.remove(&file).unwrap();
    }
    let setup = Setup::over(heap);
    setup.queues.check_online().unwrap();
    let entry = setup.queue(settings());
    let again = take(&mut puller(&entry), 6);
    assert_eq!(again[5].as_bytes(), b"left");
    drop((again, entry));
    setup.close();
}
