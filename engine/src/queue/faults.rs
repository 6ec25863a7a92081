//! Queues on a folder in memory that fails when it is told to.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod checkpoints;
mod letters;
mod order;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::control::{Backoff, QueueMode, QueueSettings};
use millstream_protocol::frame::PublisherFields;
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::{
    AppendError, Appender, Failure, Folder, HeapFolder, Level, Log, Operation, Store, StoreOptions,
    park_until,
};

use super::consumer::{Consumer, ConsumerOptions, PREFETCH_MAX};
use super::delivery::Delivery;
use super::error::{ConsumeError, QueueError};
use super::far::FarStore;
use super::registry::{Entry, NewQueue, Queues};
use super::scheduler::FarEntry;
use super::shared::Message as Input;
use crate::error::PublishError;
use crate::publisher::Publisher;

const SOON: Duration = Duration::from_secs(20);

struct Setup {
    heap: HeapFolder,
    store: Arc<Store>,
    queues: Arc<Queues>,
}

fn name(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// Runs `test` in a thread of its own: what never ends is a failure, not a hang.
fn ends<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, hear) = mpsc::channel();
    thread::spawn(move || done.send(test()));
    hear.recv_timeout(Duration::from_secs(120))
        .expect("it ends, and does not panic")
}

impl Setup {
    fn new() -> Self {
        Self::over(HeapFolder::new())
    }

    fn over(heap: HeapFolder) -> Self {
        let options = StoreOptions {
            sync_workers: 1,
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 1 << 20,
        };
        let store = Arc::new(Store::open_folder(Arc::new(heap.clone()), &options).unwrap());
        let queues = Queues::open(&store).unwrap();
        Self {
            heap,
            store,
            queues,
        }
    }

    fn queue(&self, settings: QueueSettings) -> Entry {
        let wanted = NewQueue {
            name: name("jobs"),
            topic: None,
            mode: QueueMode::Plain,
            start: Start::Earliest,
            settings,
        };
        self.queues.create(&wanted).unwrap()
    }

    fn publish(&self, entry: &Entry, bodies: impl IntoIterator<Item = &'static str>) {
        let appender = Appender::new(&entry.queue.topic);
        let mut publisher = Publisher::new(Level::Synced, appender, &self.queues);
        for body in bodies {
            publisher.publish_blocking(body).unwrap();
        }
    }

    fn journal(&self) -> Arc<Log> {
        self.queues.state().journal.as_ref().unwrap().log()
    }

    /// Leaves the journal no room, and the disk none for more of it.
    fn fill_journal(&self) {
        self.heap.set_full(true);
        let mut appender = Appender::new(&self.journal());
        // Entries of a queue that is not there.
        let mut body = vec![0_u8; 200 << 10];
        body[..8].copy_from_slice(&[1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
        loop {
            match appender.try_append_with(&fields, |room| room.put(&body)) {
                Ok(_) => {
                    appender.announce();
                }
                Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
                Err(AppendError::Full { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn close(self) {
        ends(move || {
            self.queues.close();
            // Poisoned logs are told of.
            let _ = self.store.close();
        });
    }
}

fn settings() -> QueueSettings {
    QueueSettings {
        backoff: Backoff {
            first_ms: 0,
            cap_ms: 0,
            multiplier_milli: 1000,
            jitter_percent: 0,
        },
        ..QueueSettings::default()
    }
}

fn puller(entry: &Entry) -> Consumer {
    Consumer::open(&entry.queue, &ConsumerOptions::new().prefetch(0))
}

fn take(consumer: &mut Consumer, count: u32) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count as usize {
        let wanted = count - u32::try_from(taken.len()).unwrap();
        let more = consumer.receive_blocking(wanted, SOON).unwrap();
        assert!(!more.is_empty(), "{} of {count} came", taken.len());
        taken.extend(more);
    }
    taken
}

#[test]
fn a_lease_ends_in_time_though_the_journal_had_no_room_meanwhile() {
    let setup = Setup::new();
    let entry = setup.queue(QueueSettings {
        lease_ms: 3_000,
        ..settings()
    });
    setup.publish(&entry, ["lost", "done"]);
    let mut slow = puller(&entry);
    let mut taken = take(&mut slow, 2);
    setup.fill_journal();
    let (lost, done) = (taken.remove(0), taken.remove(0));
    let mut settled = Box::pin(done.ack_confirmed());
    let polled = settled
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    setup.heap.set_full(false);
    ends(move || crate::block_on::block_on(settled)).unwrap();
    let mut other = puller(&entry);
    let again = take(&mut other, 1);
    assert_eq!(
        (again[0].as_bytes(), again[0].attempts()),
        (&b"lost"[..], 2)
    );
    drop((lost, again, slow, other));
    setup.close();
}

#[test]
fn closing_and_looking_do_not_wait_for_room_in_the_journal() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 2);
    setup.fill_journal();
    taken.remove(0).ack();
    // Waits for room, and is told that none comes.
    let queue = Arc::clone(&entry.queue);
    let asked = thread::spawn(move || queue.ask(|_, _| ()));
    let queue = Arc::clone(&entry.queue);
    let leases = ends(move || queue.look(|core, _| core.scheduler.leases(9).len()));
    assert_eq!(leases, Ok(1));
    let heap = setup.heap.clone();
    setup.close();
    let asked = ends(move || asked.join().unwrap());
    assert!(matches!(asked, Err(QueueError::Stopped { .. })) || asked == Ok(()));
    drop((taken, consumer, entry));
    heap.set_full(false);
    let setup = Setup::over(heap);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    let mut consumer = puller(&entry);
    assert_eq!(take(&mut consumer, 3).len(), 3, "the ack never lasted");
    setup.close();
}

#[test]
fn nothing_is_moved_before_the_journal_says_so() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 1);
    setup.fill_journal();
    taken.remove(0).reject("no");
    let letters = setup.queues.entry(&name("jobs.dead")).unwrap();
    assert!(!entry.carry_moves(&setup.queues));
    assert_eq!(letters.queue.topic.committed(), Offset(0));
    setup.heap.set_full(false);
    let mut reader = puller(&letters);
    assert_eq!(take(&mut reader, 1)[0].as_bytes(), b"1");
    drop((consumer, reader));
    setup.close();
}

#[test]
fn more_settles_than_a_frame_of_the_journal_holds_are_settled() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    let mut batch = BatchBuilder::new();
    let count = PREFETCH_MAX;
    for _ in 0..count / 64 {
        batch.push(&Message::new("x")).unwrap();
    }
    let appender = Appender::new(&entry.queue.topic);
    let mut publisher = Publisher::new(Level::Synced, appender, &setup.queues);
    for _ in 0..64 {
        publisher.publish_batch_blocking(&batch).unwrap();
    }
    let mut consumer = puller(&entry);
    let taken = take(&mut consumer, count);
    setup.fill_journal();
    let reason = "n".repeat(256);
    for delivery in taken {
        delivery.reject(&reason);
    }
    setup.heap.set_full(false);
    setup.publish(&entry, ["last"]);
    let mut last = take(&mut consumer, 1);
    last.remove(0).ack_confirmed_blocking().unwrap();
    let rejected = entry.queue.look(|core, _| core.counts().totals.rejected);
    assert_eq!(rejected, Ok(u64::from(count)));
    drop(consumer);
    setup.close();
}

#[test]
fn a_panic_in_a_round_ends_its_queue_and_nobody_waits_for_it() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 1);
    let panics: Input = Input::Ask(Box::new(|_, _| panic!("planted")));
    entry.queue.send(panics);
    let queue = Arc::clone(&entry.queue);
    let asked = ends(move || queue.ask::<()>(|_, _| panic!("planted, too")));
    assert!(
        matches!(asked, Err(QueueError::Stopped { .. })),
        "{asked:?}"
    );
    let (next, mut consumer) = ends(move || (consumer.next_blocking(), consumer));
    assert!(
        matches!(next, Some(Err(ConsumeError::Failed { .. }))),
        "{next:?}"
    );
    let held = taken.remove(0);
    assert!(ends(move || held.ack_confirmed_blocking()).is_err());
    let mut late = puller(&entry);
    assert!(ends(move || late.receive_blocking(1, SOON)).is_err());
    assert!(consumer.receive_blocking(1, SOON).is_err());
    // The other queues go on.
    let letters = setup.queues.entry(&name("jobs.dead")).unwrap();
    setup.publish(&letters, ["letter"]);
    drop(take(&mut puller(&letters), 1));
    setup.close();
}

#[test]
fn who_waits_at_a_topic_that_failed_is_told() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 1);
    let suffix = format!("log-{:08}/00000001.seg", entry.queue.topic.identity().id.0);
    setup
        .heap
        .fail(Operation::Sync, &suffix, 1, Failure::Device);
    let appender = Appender::new(&entry.queue.topic);
    let mut publisher = Publisher::new(Level::Synced, appender, &setup.queues);
    assert!(publisher.publish_blocking("2").is_err());
    // What was visible before is settled as ever.
    taken.remove(0).ack_confirmed_blocking().unwrap();
    let next = ends(move || consumer.next_blocking());
    assert!(
        matches!(next, Some(Err(ConsumeError::Failed { .. }))),
        "{next:?}"
    );
    setup.close();
}

#[test]
fn a_confirmation_nobody_waits_for_leaves_nothing_behind() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 2);
    {
        let waits = pin!(taken.remove(0).ack_confirmed());
        // Whether it is on disk at once or not: it is dropped here.
        let _ = waits.poll(&mut Context::from_waker(Waker::noop()));
    }
    let last = taken.remove(0);
    last.ack_confirmed_blocking().unwrap();
    assert_eq!(consumer.confirmations(), 0);
    let settled = entry.queue.look(|core, _| core.scheduler.floor());
    assert_eq!(settled, Ok(Offset(2)), "the ack itself stands");
    drop(consumer);
    setup.close();
}

#[test]
fn offsets_that_an_unclean_stop_left_out_fill_no_queue() {
    let setup = Setup::new();
    let limited = QueueSettings {
        messages_max: 8,
        ..settings()
    };
    let entry = setup.queue(limited);
    setup.publish(&entry, ["1", "2", "3"]);
    let killed = setup.heap.duplicate();
    drop(entry);
    setup.close();
    let setup = Setup::over(killed);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    setup.publish(&entry, ["4", "5", "6", "7", "8"]);
    assert!(
        entry.queue.topic.high_watermark() > Offset(1000),
        "they were"
    );
    let appender = Appender::new(&entry.queue.topic);
    let mut publisher = Publisher::new(Level::Synced, appender, &setup.queues);
    let refused = publisher.publish_blocking("9");
    assert!(
        matches!(refused, Err(PublishError::QueueFull { .. })),
        "{refused:?}, {:?}, {:?}",
        entry.gate,
        entry
            .queue
            .look(|core, _| (core.counts(), core.scheduler.next_scan())),
    );
    let mut consumer = puller(&entry);
    assert_eq!(take(&mut consumer, 8).len(), 8);
    drop(consumer);
    setup.close();
}

fn far(due_us: u64, offset: u64) -> FarEntry {
    let bytes = [0; FarEntry::BYTES];
    FarEntry {
        due_us,
        offset: Offset(offset),
        ..FarEntry::from_bytes(&bytes)
    }
}

fn numbers(entries: &[FarEntry]) -> Vec<(u64, u64)> {
    let number = |entry: &FarEntry| (entry.due_us, entry.offset.0);
    entries.iter().map(number).collect()
}

#[test]
fn the_far_store_gives_back_by_due_time_across_runs_and_merges() {
    let setup = Setup::new();
    let mut store = FarStore::new(&setup.store);
    // Each put overlaps the others; there are more than may be open at once.
    let mut expected = Vec::new();
    for put in 0..40_u64 {
        let entries: Vec<FarEntry> = (0..100)
            .map(|at| far(1 + (at * 37 + put) % 500, at * 40 + put))
            .collect();
        expected.extend(numbers(&entries));
        store.put(entries).unwrap();
    }
    expected.sort_unstable();
    let mut seen = Vec::new();
    store
        .for_each(|entry| seen.push((entry.due_us, entry.offset.0)))
        .unwrap();
    seen.sort_unstable();
    assert!(seen == expected, "all are seen, once");
    let mut given = Vec::new();
    loop {
        let (taken, horizon_us) = store.take_near(333).unwrap();
        given.extend(numbers(&taken));
        let next = expected.get(given.len()).map_or(u64::MAX, |next| next.0);
        assert_eq!(horizon_us, next, "nothing due before is left");
        let mut left = 0;
        store.for_each(|_| left += 1).unwrap();
        assert_eq!(left, expected.len() - given.len());
        if taken.is_empty() {
            break;
        }
    }
    assert!(given.is_sorted_by_key(|(due_us, _)| *due_us));
    given.sort_unstable();
    assert!(given == expected, "all come back, once");
    setup.close();
}

#[test]
fn the_far_store_takes_more_while_it_gives() {
    let setup = Setup::new();
    let mut store = FarStore::new(&setup.store);
    store
        .put((0..3000).map(|at| far(10 + at, at)).collect())
        .unwrap();
    assert_eq!(numbers(&store.take_near(2).unwrap().0), [(10, 0), (11, 1)]);
    store.put(vec![far(11, 9000), far(5, 9001)]).unwrap();
    let (taken, horizon_us) = store.take_near(3).unwrap();
    assert_eq!(numbers(&taken), [(5, 9001), (11, 9000), (12, 2)]);
    assert_eq!(horizon_us, 13);
    assert_eq!(store.take_near(usize::MAX).unwrap().1, u64::MAX);
    setup.close();
}

#[test]
fn a_far_store_on_a_full_disk_keeps_what_it_is_given() {
    let setup = Setup::new();
    let mut store = FarStore::new(&setup.store);
    setup.heap.set_full(true);
    store.put(vec![far(2, 1), far(1, 1)]).unwrap();
    setup.heap.set_full(false);
    let (taken, _) = store.take_near(9).unwrap();
    assert_eq!(numbers(&taken), [(1, 1), (2, 1)]);
    setup.close();
}

#[test]
fn what_the_disk_cannot_read_now_is_neither_settled_nor_lost() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3"]);
    let suffix = format!("log-{:08}/00000001.seg", entry.queue.topic.identity().id.0);
    let heap = setup.heap.clone();
    drop(entry);
    setup.close();

    // The queue looks at its topic, and then a consumer: the disk fails both of them at first.
    for nth in 1..=2 {
        heap.fail(Operation::OpenSegment, &suffix, nth, Failure::Device);
    }
    let setup = Setup::over(heap.clone());
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    let mut consumer = puller(&entry);
    let taken = take(&mut consumer, 3);
    let bodies: Vec<&[u8]> = taken.iter().map(Delivery::as_bytes).collect();
    assert_eq!(bodies, [b"1", b"2", b"3"]);
    assert_eq!(heap.count(Operation::OpenSegment, &suffix), 3);
    let settled = entry.queue.look(|core, _| core.scheduler.floor());
    assert_eq!(settled, Ok(Offset(0)));
    drop((taken, consumer));
    setup.close();
}

/// What is missing for good stays what it was: passed over, and told.
#[test]
fn a_segment_that_is_gone_is_passed_over() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2"]);
    let file = format!("log-{:08}/00000001.seg", entry.queue.topic.identity().id.0);
    let heap = setup.heap.clone();
    drop(entry);
    setup.close();
    heap.remove(&file).unwrap();
    let setup = Setup::over(heap);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    setup.publish(&entry, ["3"]);
    let mut consumer = puller(&entry);
    assert_eq!(take(&mut consumer, 1)[0].as_bytes(), b"3");
    setup.close();
}

#[test]
fn delayed_records_find_their_way_through_a_full_disk() {
    let setup = Setup::new();
    let mut store = FarStore::new(&setup.store);
    // Full from the first put on, for some puts, and while runs are merged.
    let mut wanted = Vec::new();
    for put in 0..100_u64 {
        setup.heap.set_full(put % 40 < 25);
        let entries: Vec<FarEntry> = (0..50).map(|at| far(at * 100 + put, 0)).collect();
        wanted.extend(entries.iter().map(|entry| entry.due_us));
        store.put(entries).unwrap();
    }
    let mut kept = Vec::new();
    store.for_each(|entry| kept.push(entry.due_us)).unwrap();
    kept.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(kept, wanted);
    let mut taken = Vec::new();
    loop {
        let (entries, _) = store.take_near(64).unwrap();
        if entries.is_empty() {
            break;
        }
        taken.extend(entries.iter().map(|entry| entry.due_us));
    }
    assert_eq!(taken, wanted, "in the order they are due");
    setup.close();
}

#[test]
fn a_journal_that_can_not_be_read_for_a_moment_forgets_no_queue() {
    let setup = Setup::new();
    drop(setup.queue(settings()));
    let heap = setup.heap.clone();
    let journal = format!("log-{:08}/00000001.seg", setup.journal().identity().id.0);
    setup.close();
    heap.fail(Operation::OpenSegment, &journal, 1, Failure::Device);
    let setup = Setup::over(heap.clone());
    assert!(setup.queues.entry(&name("jobs")).is_ok());
    assert!(!heap.failures_met().is_empty());
    setup.close();
}

#[test]
fn deleting_a_queue_says_so_when_its_topic_stays() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1"]);
    drop(entry);
    setup
        .heap
        .fail(Operation::Reserve, "manifest", 1, Failure::Full);
    let deleted = setup.queues.delete(&name("jobs"));
    assert!(
        matches!(deleted, Err(QueueError::TopicLeft { .. })),
        "{deleted:?}"
    );
    assert!(setup.queues.entry(&name("jobs")).is_err());
    setup.close();
}

#[test]
fn a_queue_that_may_have_been_deleted_is_not_called_there() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    let journal = format!("log-{:08}/", setup.journal().identity().id.0);
    setup.heap.fail(
        Operation::Sync,
        &format!("{journal}00000001.seg"),
        1,
        Failure::Device,
    );
    assert!(setup.queues.delete(&name("jobs")).is_err());
    let wanted = NewQueue {
        name: name("jobs"),
        topic: None,
        mode: QueueMode::Plain,
        start: Start::Earliest,
        settings: settings(),
    };
    let again = setup.queues.create(&wanted);
    // Once the journal was replaced it is there again, for good.
    assert!(
        matches!(again, Err(QueueError::Journal { .. })) || setup.journal().poisoned().is_none(),
        "{again:?}"
    );
    drop(entry);
    setup.close();
}

/// The files of the journal as it is now.
fn journal_segment(setup: &Setup) -> String {
    let id = setup.journal().identity().id.0;
    format!("log-{id:08}/00000001.seg")
}

/// What `jobs` and its dead letters hold, opened on `heap`: bodies that are not settled, of both.
fn left(heap: &HeapFolder) -> (Vec<String>, Vec<String>) {
    let setup = Setup::over(heap.clone());
    let unsettled = |queue: &str| {
        let Ok(entry) = setup.queues.entry(&name(queue)) else {
            return Vec::new();
        };
        while !entry.carry_moves(&setup.queues) {
            thread::yield_now();
        }
        let mut consumer = puller(&entry);
        let queue = Arc::clone(&entry.queue);
        let ready = loop {
            let there = Arc::clone(&queue);
            let looked = queue.look(move |core, _| (core.unscanned(&there), core.counts().ready));
            match looked.unwrap() {
                (0, ready) => break ready,
                _ => thread::yield_now(),
            }
        };
        let taken = take(&mut consumer, u32::try_from(ready).unwrap());
        let text = |delivery: &Delivery| String::from_utf8(delivery.as_bytes().to_vec()).unwrap();
        taken.iter().map(text).collect()
    };
    let found = (unsettled("jobs"), unsettled("jobs.dead"));
    setup.close();
    found
}

#[test]
fn s7_a_journal_that_fails_is_replaced_and_queues_go_on() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3", "4", "5"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 5);
    taken.remove(0).ack_confirmed_blocking().unwrap();
    let before = setup.journal();
    let file = journal_segment(&setup);
    setup.heap.fail(Operation::Sync, &file, 1, Failure::Device);

    // This one meets the failed sync, and lasts all the same.
    ends({
        let second = taken.remove(0);
        move || second.ack_confirmed_blocking().unwrap()
    });
    assert!(before.poisoned().is_some(), "the sync did fail");
    // A dead letter, an attempt that counts, and one more ack behind the new journal.
    taken.remove(0).reject("no");
    taken.remove(0).retry();
    ends({
        let fifth = taken.remove(0);
        move || fifth.ack_confirmed_blocking().unwrap()
    });
    let journal = setup.journal();
    assert!(!Arc::ptr_eq(&journal, &before) && journal.poisoned().is_none());
    assert!(
        journal.first_offset() >= before.committed(),
        "offsets go on"
    );
    // And the registry.
    setup.queues.pause(&name("jobs"), true).unwrap();
    setup.queues.pause(&name("jobs"), false).unwrap();

    let cut = setup.heap.after_power_loss();
    let wanted = (vec!["4".to_owned()], vec!["3".to_owned()]);
    drop(consumer);
    let heap = setup.heap.clone();
    setup.close();
    assert_eq!(left(&heap), wanted, "after a stop");
    let (jobs, dead) = left(&cut);
    assert!(
        jobs == ["4"] || jobs == ["3", "4"],
        "{jobs:?}: what was confirmed stays settled"
    );
    assert!(dead.len() <= 1);
}

#[test]
fn s7_a_journal_that_can_not_be_replaced_stops_queues_with_the_reason() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 2);
    let file = journal_segment(&setup);
    setup.heap.fail(Operation::Sync, &file, 1, Failure::Device);
    let checkpoint = "checkpoint.new";
    setup
        .heap
        .fail(Operation::CreateFile, checkpoint, 1, Failure::Device);
    let settled = ends({
        let first = taken.remove(0);
        move || first.ack_confirmed_blocking()
    });
    assert!(settled.is_err(), "it is nowhere");
    let next = ends(move || consumer.next_blocking());
    let Some(Err(ConsumeError::Failed { reason })) = next else {
        panic!("{next:?}");
    };
    assert!(reason.contains("sync"), "{reason}");
    drop(taken);
    let heap = setup.heap.clone();
    setup.close();
    heap.heal();
    let (jobs, _) = left(&heap);
    assert!(jobs.contains(&"2".to_owned()), "{jobs:?}");
}

/// Whatever change of the folder is the last one before the power goes, from the failed sync on: what
/// was confirmed before stays settled, and what was confirmed after it too.
#[test]
fn s7_power_lost_anywhere_while_the_journal_is_replaced_forgets_nothing() {
    let mut replaced = false;
    for nth in 1..60 {
        let setup = Setup::new();
        let entry = setup.queue(settings());
        setup.publish(&entry, ["1", "2", "3"]);
        let mut consumer = puller(&entry);
        let mut taken = take(&mut consumer, 3);
        taken.remove(0).ack_confirmed_blocking().unwrap();
        let file = journal_segment(&setup);
        setup.heap.fail(Operation::Sync, &file, 1, Failure::Device);
        // A disk that takes no change from some point on.
        for later in nth..nth + 40 {
            setup.heap.fail_nth_change(later, Failure::Device);
        }
        let confirmed = ends({
            let second = taken.remove(0);
            move || second.ack_confirmed_blocking().is_ok()
        });
        replaced |= confirmed;
        let (jobs, _) = left(&setup.heap.after_power_loss());
        assert!(!jobs.contains(&"1".to_owned()), "{nth}: {jobs:?}");
        assert!(jobs.contains(&"3".to_owned()), "{nth}: {jobs:?}");
        let again = jobs.contains(&"2".to_owned());
        assert!(!(confirmed && again), "{nth}: {jobs:?}");
        drop((taken, consumer));
        setup.close();
    }
    assert!(replaced, "at last nothing is in the way");
}
