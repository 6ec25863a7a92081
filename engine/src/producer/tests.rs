//! Producers over a folder in memory: restarts, power cuts, trims, and what runs between two steps.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use millstream_storage::{Failure, HeapFolder, Operation, StoreOptions};
use proptest::prelude::*;

use super::*;
use crate::error::PublishError;
use crate::publisher::Publisher;
use crate::queue::Queues;

struct Setup {
    heap: HeapFolder,
    store: Arc<Store>,
    queues: Arc<Queues>,
    log: Arc<Log>,
}

fn name(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
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
        let log = match store.create_log(&name("orders"), Durability::Synced) {
            Ok(log) | Err(CreateError::Exists(log)) => log,
            Err(error) => panic!("{error}"),
        };
        Self {
            heap,
            store,
            queues,
            log,
        }
    }

    /// What a kill leaves, opened again.
    fn killed(&self) -> Self {
        Self::over(self.heap.duplicate())
    }

    /// What a power cut leaves, opened again.
    fn cut(&self) -> Self {
        Self::over(self.heap.after_power_loss())
    }

    fn stopped(self) -> Self {
        self.queues.close();
        self.store.close().unwrap();
        Self::over(self.heap.duplicate())
    }

    fn resume(&self, epoch: u64, acknowledged: u64) -> Result<Publisher, ProducerError> {
        let resume = Resume {
            epoch,
            acknowledged,
        };
        let producers = self.queues.producers();
        let producing = producers.produce(&self.log, &name("till"), Level::Synced, resume)?;
        let appender = Appender::new(&self.log);
        let publisher = Publisher::new(Level::Synced, appender, &self.queues);
        Ok(publisher.with_producer(producing))
    }

    fn instance(&self) -> Publisher {
        self.resume(0, 0).unwrap()
    }

    /// Has the next sync of a segment of `log` fail.
    fn fail_sync(&self, log: &Log) {
        let suffix = format!("{:08}/00000001.seg", log.identity().id.0);
        self.heap.fail(Operation::Sync, &suffix, 1, Failure::Device);
    }

    fn trim_all(&self) -> Offset {
        let end = self.log.synced();
        self.queues.producers().before_trim(&self.log, end).unwrap();
        trim(&self.log, end).unwrap().first_offset
    }
}

fn info(publisher: &Publisher) -> ProducerInfo {
    publisher.producer().unwrap()
}

/// Publishes under a sequence: the offset, and whether it was there.
fn put(
    publisher: &mut Publisher,
    sequence: u64,
    body: &[u8],
) -> Result<(Offset, bool), ProducerError> {
    publisher.set_sequence(sequence);
    match publisher.publish_blocking(body.to_vec()) {
        Ok(receipt) => Ok((receipt.first, receipt.duplicate)),
        Err(PublishError::Producer(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_retry_after_a_kill_is_a_duplicate_at_the_first_offset() {
    let setup = Setup::new();
    let mut first = setup.instance();
    let (offset, _) = put(&mut first, 1, b"a").unwrap();
    let epoch = info(&first).epoch;
    for again in [setup.killed(), setup.cut()] {
        let mut publisher = again.resume(epoch, 0).unwrap();
        let told = info(&publisher);
        assert_eq!(
            (told.epoch, told.last_sequence, told.known),
            (epoch, 1, true)
        );
        assert_eq!(put(&mut publisher, 1, b"a"), Ok((offset, true)));
        let reused = ProducerError::SequenceReused { sequence: 1 };
        assert_eq!(put(&mut publisher, 1, b"b"), Err(reused), "P2");
        assert!(!put(&mut publisher, 2, b"b").unwrap().1);
    }
}

#[test]
fn an_epoch_is_never_repeated_by_a_restart() {
    let mut setup = Setup::new();
    let mut before = 0;
    for restart in 0..6 {
        for _ in 0..3 {
            let epoch = info(&setup.instance()).epoch;
            assert!(epoch > before, "{epoch} after {before}");
            before = epoch;
        }
        setup = match restart % 3 {
            0 => setup.killed(),
            1 => setup.cut(),
            _ => setup.stopped(),
        };
    }
}

#[test]
fn an_older_instance_is_fenced_also_by_one_that_published_nothing_before_a_power_cut() {
    let setup = Setup::new();
    let mut older = setup.instance();
    put(&mut older, 1, b"a").unwrap();
    let (ours, current) = (info(&older).epoch, info(&setup.instance()).epoch);
    let fenced = ProducerError::Fenced { ours, current };
    assert_eq!(put(&mut older, 2, b"b"), Err(fenced.clone()));
    assert_eq!(
        put(&mut older, 1, b"a"),
        Err(fenced.clone()),
        "nor a duplicate"
    );
    assert_eq!(setup.resume(ours, 1).unwrap_err(), fenced);
    let setup = setup.cut();
    assert_eq!(setup.resume(ours, 1).unwrap_err(), fenced, "it was on disk");
    assert_eq!(info(&setup.resume(current, 0).unwrap()).epoch, current);
}

/// P1: between the check and the commit of the older instance's record no newer instance gets in; it
/// would be told that the sequence is free, and its own record then be called a duplicate.
#[test]
fn a_newer_instances_message_is_never_called_a_duplicate_of_the_olders() {
    let setup = Setup::new();
    let older = setup.instance();
    let mut producing = older.producing_for_tests().unwrap();
    producing.next = Some(1);
    let producer = Arc::clone(&producing.producer);
    let mut newer = None;
    let fields = PublisherFields::single(4);
    let mut appender = Appender::new(&setup.log);
    let produced = producing.append_by(&setup.log, &fields, b"tick", None, |fields, body_crc| {
        if producer.state.try_lock().is_ok() {
            newer = Some(setup.instance());
        }
        loop {
            match appender.try_append(fields, body_crc, b"tick") {
                Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
                done => return done,
            }
        }
    });
    assert!(matches!(produced, Ok(Produced::Added(_))));
    drop(appender);
    let mut newer = newer.unwrap_or_else(|| setup.instance());
    let next = info(&newer).last_sequence + 1;
    let (_, duplicate) = put(&mut newer, next, b"tick").unwrap();
    assert!(
        !duplicate,
        "the newer instance's first message, called the older's, is lost"
    );
    assert_eq!(setup.log.synced(), Offset(2), "both ticks are there");
}

#[test]
fn a_duplicate_is_not_answered_before_the_first_is_on_disk() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    // Brings the first segment in; nothing of it was synced for a record yet.
    publisher.set_sequence(1);
    while let Err(PublishError::Rotating) = publisher.try_publish(b"a") {
        park_until(|cx| publisher.poll_ready(cx)).unwrap();
    }
    setup.fail_sync(&setup.log);
    publisher.set_sequence(1);
    let again = publisher.publish_blocking("a");
    assert!(
        matches!(again, Err(PublishError::OutcomeUnknown { .. })),
        "{again:?}"
    );
    publisher.set_sequence(1);
    let again = publisher.publish_blocking("a");
    assert!(
        matches!(again, Err(PublishError::OutcomeUnknown { .. })),
        "{again:?}"
    );
    // Nor is the next sequence told that rests on it (S3).
    let opened = setup.resume(info(&publisher).epoch, 0);
    assert!(
        matches!(opened, Err(ProducerError::Storage { .. })),
        "{opened:?}"
    );
    let setup = setup.cut();
    let mut publisher = setup.resume(info(&publisher).epoch, 0).unwrap();
    // A failed sync may have reached the disk or not.
    let was_kept = info(&publisher).last_sequence == 1;
    let (_, duplicate) = put(&mut publisher, 1, b"a").unwrap();
    assert_eq!(duplicate, was_kept);
    let (first, end) = (setup.log.first_offset(), setup.log.synced());
    assert_eq!(
        millstream_storage::records_between(&setup.log, first, end),
        1
    );
}

#[test]
fn what_is_told_at_opening_is_on_disk() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    put(&mut publisher, 1, b"a").unwrap();
    publisher.set_sequence(2);
    let appended = publisher.try_publish(b"b").unwrap();
    let newer = setup.instance();
    assert_eq!(info(&newer).last_sequence, 2);
    assert!(setup.log.synced() >= appended.end);
}

#[test]
fn a_trim_and_restarts_forget_no_producer() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    let epoch = info(&publisher).epoch;
    let body = |sequence: u64| vec![u8::try_from(sequence).unwrap(); 300_000];
    let mut offsets = Vec::new();
    for sequence in 1..=12 {
        offsets.push(put(&mut publisher, sequence, &body(sequence)).unwrap().0);
    }
    // A segment can go once its footer is written, which is done in the background.
    let first = loop {
        let first = setup.trim_all();
        if first > offsets[4] {
            break first;
        }
        std::thread::yield_now();
    };
    // Only the last record is still in the topic.
    for setup in [setup.killed(), setup.cut(), setup.stopped()] {
        assert!(setup.log.first_offset() >= first);
        let mut publisher = setup.resume(epoch, 0).unwrap();
        assert_eq!(info(&publisher).last_sequence, 12);
        for (sequence, offset) in (1..).zip(&offsets) {
            let again = put(&mut publisher, sequence, &body(sequence));
            assert_eq!(again, Ok((*offset, true)));
        }
        let reused = ProducerError::SequenceReused { sequence: 3 };
        assert_eq!(put(&mut publisher, 3, &body(4)), Err(reused));
    }
}

#[test]
fn a_trim_waits_for_what_is_remembered() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    put(&mut publisher, 1, b"a").unwrap();
    let remembered = setup.queues.producers().state().log.clone().unwrap();
    setup.fail_sync(&remembered);
    // No other takes its place.
    setup.heap.fail(Operation::MakeDir, "", 1, Failure::Device);
    let told = setup.queues.producers().before_trim(&setup.log, Offset(1));
    assert!(
        matches!(told, Err(ProducerError::Storage { .. })),
        "{told:?}"
    );
    // The next attempt finds the disk well again.
    setup.trim_all();
}

/// What is told is never sent again, so it must survive whatever the telling survives.
#[test]
fn only_what_is_on_disk_is_told() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    put(&mut publisher, 1, b"a").unwrap();
    publisher.set_sequence(2);
    let appended = publisher.try_publish(b"b").unwrap();
    let producers = setup.queues.producers();
    producers.before_trim(&setup.log, Offset(0)).unwrap();
    let producing = publisher.producing_for_tests().unwrap();
    let told = producing.producer.lock().told;
    // The second may have been synced by somebody else meanwhile, which is told then.
    assert!(
        told == 2 || told == 3 && setup.log.synced() >= appended.end,
        "{told}"
    );
    if told == 2 {
        let early = producers.before_trim(&setup.log, appended.end);
        let there = setup.log.synced() >= appended.end;
        assert!(
            there || matches!(early, Err(ProducerError::Storage { .. })),
            "{early:?}"
        );
    }
}

#[test]
fn short_runs_do_not_let_the_log_of_producers_grow() {
    let mut setup = Setup::new();
    let mut sequence = 0;
    let mut largest = 0;
    for _ in 0..40 {
        let mut publisher = setup.instance();
        for _ in 0..2_000 {
            sequence += 1;
            publisher.set_sequence(sequence);
            while let Err(PublishError::Rotating) = publisher.try_publish(b"") {
                park_until(|cx| publisher.poll_ready(cx)).unwrap();
            }
        }
        publisher.flush_wakes();
        drop(publisher);
        setup = setup.stopped();
        let log = setup.queues.producers().state().log.clone().unwrap();
        largest = largest.max(log.size().1);
    }
    assert_eq!(info(&setup.instance()).last_sequence, sequence);
    assert!(largest < 2 * SNAPSHOT_BYTES, "{largest}");
}

#[test]
fn a_log_of_producers_is_written_anew_when_it_grew() {
    let setup = Setup::new();
    let mut publisher = setup.instance();
    let epoch = info(&publisher).epoch;
    let mut sequence = 0;
    let producers = Arc::clone(setup.queues.producers());
    let log = producers.state().log.clone().unwrap();
    while log.first_offset() == Offset(0) {
        for _ in 0..2_000 {
            sequence += 1;
            publisher.set_sequence(sequence);
            loop {
                match publisher.try_publish(b"") {
                    Ok(_) => break,
                    Err(PublishError::Rotating) => {
                        park_until(|cx| publisher.poll_ready(cx)).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        sequence += 1;
        put(&mut publisher, sequence, b"last").unwrap();
        producers.before_trim(&setup.log, Offset(0)).unwrap();
        assert!(sequence < 1_000_000, "it is never trimmed");
    }
    let setup = setup.cut();
    let mut publisher = setup.resume(epoch, 0).unwrap();
    assert_eq!(info(&publisher).last_sequence, sequence);
    assert!(put(&mut publisher, sequence, b"last").unwrap().1);
    assert!(put(&mut publisher, sequence - 1, b"").unwrap().1);
}

#[test]
fn a_producer_is_remembered_for_the_window_and_while_somebody_holds_it() {
    let mut roll = Roll::default();
    let at = |boot_us| Times {
        boot_us,
        wall_us: 0,
    };
    let producer = Arc::new(Producer::new(1));
    producer.lock().until_boot_us = window_from(1_000);
    roll.insert(name("till"), Arc::clone(&producer));
    let over = window_from(1_000) + 1;
    assert!(roll.find(&name("till"), at(over)).is_some(), "it is held");
    drop(producer);
    assert!(roll.find(&name("till"), at(over - 1)).is_some());
    assert!(roll.find(&name("till"), at(over)).is_none());
}

#[test]
fn a_topic_full_of_producers_refuses_another_and_forgets_none() {
    use millstream_protocol::limits::PRODUCERS_PER_TOPIC_MAX;
    let mut roll = Roll::default();
    let at = |boot_us| Times {
        boot_us,
        wall_us: 0,
    };
    for number in 0..PRODUCERS_PER_TOPIC_MAX {
        assert!(roll.has_room(at(0)));
        let producer = Producer::new(number as u64 + 1);
        producer.lock().until_boot_us = window_from(0);
        roll.insert(name(&number.to_string()), Arc::new(producer));
    }
    assert!(!roll.has_room(at(window_from(0))));
    assert!(roll.has_room(at(window_from(0) + 1)), "their time is over");
}

#[derive(Debug, Clone)]
enum Op {
    Publish { back: u64, body: u8 },
    NewInstance,
    Resume,
    Kill,
    Cut,
    Stop,
    Trim,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0..4_u64, 0..3_u8).prop_map(|(back, body)| Op::Publish { back, body }),
        1 => Just(Op::NewInstance),
        1 => Just(Op::Resume),
        1 => Just(Op::Kill),
        1 => Just(Op::Cut),
        1 => Just(Op::Stop),
        1 => Just(Op::Trim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The plain model: each sequence has the body it was first accepted with, and its offset.
    #[test]
    fn each_sequence_is_taken_once_across_restarts(ops in proptest::collection::vec(op(), 1..40)) {
        let mut setup = Setup::new();
        let mut publisher = setup.instance();
        let mut accepted: BTreeMap<u64, (u8, Offset)> = BTreeMap::new();
        for op in ops {
            let next = accepted.len() as u64 + 1;
            let epoch = info(&publisher).epoch;
            match op {
                Op::Publish { back, body } => {
                    let sequence = (next + 1).saturating_sub(back);
                    // Large enough that trims have something to drop.
                    let found = put(&mut publisher, sequence, &vec![body; 200_000]);
                    match accepted.get(&sequence) {
                        Some((first, offset)) if *first == body => {
                            prop_assert_eq!(found, Ok((*offset, true)));
                        }
                        Some(_) => {
                            prop_assert_eq!(found, Err(ProducerError::SequenceReused { sequence }));
                        }
                        None if sequence == next => {
                            let (offset, duplicate) = found.unwrap();
                            prop_assert!(!duplicate);
                            accepted.insert(sequence, (body, offset));
                        }
                        None => {
                            let refused = ProducerError::OutOfSequence { expected: next };
                            prop_assert_eq!(found, Err(refused));
                        }
                    }
                    continue;
                }
                Op::NewInstance => {
                    let newer = setup.instance();
                    prop_assert!(info(&newer).epoch > epoch);
                    let current = info(&newer).epoch;
                    let fenced = ProducerError::Fenced { ours: epoch, current };
                    prop_assert_eq!(put(&mut publisher, next, b"x"), Err(fenced));
                    publisher = newer;
                    continue;
                }
                Op::Trim => {
                    setup.trim_all();
                    continue;
                }
                Op::Resume => {}
                Op::Kill => setup = setup.killed(),
                Op::Cut => setup = setup.cut(),
                Op::Stop => setup = setup.stopped(),
            }
            publisher = setup.resume(epoch, next - 1).unwrap();
            prop_assert_eq!(info(&publisher).epoch, epoch);
            prop_assert_eq!(info(&publisher).last_sequence, next - 1);
        }
    }
}

/// Opens a second instance while the first one's `$producers` can't be synced any more, and from the
/// `nth` change of the folder on nothing else can be done either; gives both epochs, the second's if
/// it was opened.
fn opened_over_a_failing_log(setup: &Setup, nth: Option<u64>) -> (u64, Option<u64>) {
    let mut first = setup.instance();
    for sequence in 1..=3 {
        put(&mut first, sequence, b"body").unwrap();
    }
    // Nothing but `$producers` tells of them from here on.
    setup.trim_all();
    let failing = setup.store.log(&name(PRODUCERS)).unwrap();
    setup.fail_sync(&failing);
    for later in nth.into_iter().flat_map(|nth| nth..nth + 60) {
        setup.heap.fail_nth_change(later, Failure::Device);
    }
    let second = setup.resume(0, 0).ok().map(|second| info(&second));
    assert!(failing.poisoned().is_some(), "the sync did fail");
    if let Some(second) = second {
        assert_eq!((second.known, second.last_sequence), (true, 3));
    }
    setup.heap.heal();
    (info(&first).epoch, second.map(|second| second.epoch))
}

/// What `setup` remembers of the three records and both instances.
fn expect_remembered(setup: &Setup, (first, second): (u64, Option<u64>), what: &str) {
    if second.is_some() {
        let fenced = setup.resume(first, 0);
        assert!(
            matches!(fenced, Err(ProducerError::Fenced { .. })),
            "{what}"
        );
    }
    let mut third = setup.instance();
    let told = info(&third);
    assert!(
        (told.known, told.last_sequence) == (true, 3),
        "{what}: {told:?}"
    );
    assert!(told.epoch > first.max(second.unwrap_or(0)), "{what}");
    assert!(
        put(&mut third, 3, b"body").unwrap().1,
        "{what}: a duplicate"
    );
    let other = put(&mut third, 3, b"other");
    assert_eq!(other, Err(ProducerError::SequenceReused { sequence: 3 }));
    assert!(setup.store.log(&name(SPARE)).is_none(), "{what}");
}

#[test]
fn s7_a_log_of_producers_that_fails_is_replaced_and_forgets_nobody() {
    let setup = Setup::new();
    let epochs = opened_over_a_failing_log(&setup, None);
    assert!(epochs.1.is_some(), "it does not stop who opens a producer");
    let log = setup.store.log(&name(PRODUCERS)).unwrap();
    assert!(log.poisoned().is_none());
    let (killed, cut) = (setup.killed(), setup.cut());
    expect_remembered(&killed, epochs, "killed");
    expect_remembered(&cut, epochs, "cut");
    expect_remembered(&setup.stopped(), epochs, "stopped");
}

#[test]
fn s7_power_lost_anywhere_while_the_log_of_producers_is_replaced_forgets_nobody() {
    let mut opened = 0;
    for nth in 2..80 {
        let setup = Setup::new();
        let epochs = opened_over_a_failing_log(&setup, Some(nth));
        opened += u32::from(epochs.1.is_some());
        let what = format!("nothing from change {nth} on");
        // Cut before anything else is done, and again behind the start that followed.
        expect_remembered(&setup.cut().cut(), epochs, &what);
        // And without a restart, once the disk is well again.
        if setup.log.poisoned().is_none() && setup.resume(0, 0).is_ok() {
            expect_remembered(&setup, epochs, &what);
            expect_remembered(&setup.cut(), epochs, &what);
        }
    }
    assert!((1..78).contains(&opened), "{opened}: some were, some not");
}
