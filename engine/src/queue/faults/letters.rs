//! Dead letters on their way to a topic that failed, and back again.

use super::*;
use crate::queue::Redrive;

/// How the run ends in which the topic failed.
#[derive(Debug, Clone, Copy)]
enum Ends {
    Stop,
    Kill,
    PowerLoss,
}

fn moving(entry: &Entry) -> u64 {
    let looked = entry.queue.look(|core, _| core.counts().moving);
    looked.unwrap()
}

fn fails_to_sync(setup: &Setup, entry: &Entry) {
    let id = entry.queue.topic.identity().id.0;
    let file = format!("log-{id:08}/00000001.seg");
    setup.heap.fail(Operation::Sync, &file, 1, Failure::Device);
}

/// Rejects a record whose dead letter goes to a topic that failed before or fails just then; gives what
/// is left on disk.
fn rejected(before: bool, ends_by: Ends) -> HeapFolder {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3"]);
    let letters = setup.queues.entry(&name("jobs.dead")).unwrap();
    setup.publish(&letters, ["older"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 3);
    fails_to_sync(&setup, &letters);
    if before {
        let appender = Appender::new(&letters.queue.topic);
        let mut publisher = Publisher::new(Level::Synced, appender, &setup.queues);
        assert!(publisher.publish_blocking("perhaps").is_err());
    }
    taken.remove(0).reject("no");
    taken.remove(0).ack_confirmed_blocking().unwrap();
    for _ in 0..3 {
        assert!(!entry.carry_moves(&setup.queues), "there is no way there");
        assert_eq!(moving(&entry), 1);
    }
    assert!(letters.queue.topic.poisoned().is_some());
    // The queue itself goes on.
    taken.remove(0).ack_confirmed_blocking().unwrap();
    setup.publish(&entry, ["4"]);
    take(&mut consumer, 1)
        .remove(0)
        .ack_confirmed_blocking()
        .unwrap();
    let cut = match ends_by {
        Ends::PowerLoss => Some(setup.heap.after_power_loss()),
        Ends::Kill => Some(setup.heap.duplicate()),
        Ends::Stop => None,
    };
    let heap = setup.heap.clone();
    drop((taken, consumer, entry, letters));
    setup.close();
    heap.heal();
    cut.unwrap_or(heap)
}

#[test]
fn q4_a_dead_letter_for_a_topic_that_failed_arrives_once_after_a_restart() {
    for before in [false, true] {
        for ends_by in [Ends::Stop, Ends::Kill, Ends::PowerLoss] {
            let heap = rejected(before, ends_by);
            // The second start shows that the first one's end is on disk.
            for start in 0..2 {
                let what = format!("failed before: {before}, {ends_by:?}, start {start}");
                let setup = Setup::over(heap.clone());
                let entry = setup.queues.entry(&name("jobs")).unwrap();
                let (moved, mover) = (Arc::clone(&setup.queues), entry.clone());
                // The journal may have no room yet.
                ends(move || while !mover.carry_moves(&moved) {});
                assert_eq!(moving(&entry), 0, "{what}");
                let settled = entry.queue.look(|core, _| core.counts().unsettled_scanned);
                assert_eq!(settled, Ok(0), "{what}: the others were acked");
                drop(entry);
                setup.close();
            }
            let (jobs, mut dead) = left(&heap);
            assert!(jobs.is_empty(), "{before} {ends_by:?}: {jobs:?}");
            dead.retain(|body| body != "perhaps");
            assert_eq!(dead, ["older", "1"], "failed before: {before}, {ends_by:?}");
        }
    }
}

/// The disk fails the queue's own look at its topic; what redriving finds by looking again is
/// redriven, and not taken for nothing.
#[test]
fn letters_found_while_redriving_looks_for_them_are_redriven() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3"]);
    let mut consumer = puller(&entry);
    for delivery in take(&mut consumer, 3) {
        delivery.reject("no");
    }
    let letters = setup.queues.entry(&name("jobs.dead")).unwrap();
    drop(take(&mut puller(&letters), 3));
    let id = letters.queue.topic.identity().id.0;
    let heap = setup.heap.clone();
    drop((consumer, letters, entry));
    setup.close();

    let file = format!("log-{id:08}/00000001.seg");
    heap.fail(Operation::OpenSegment, &file, 1, Failure::Device);
    let setup = Setup::over(heap.clone());
    let redriven = setup.queues.redrive(&name("jobs.dead"), &Redrive::all());
    assert_eq!(redriven, Ok(3));
    assert!(heap.count(Operation::OpenSegment, &file) > 1, "it failed");
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    let mut consumer = puller(&entry);
    assert_eq!(take(&mut consumer, 3).len(), 3);
    drop((consumer, entry));
    setup.close();
}
