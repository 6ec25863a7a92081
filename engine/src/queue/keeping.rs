//! Topics that do not keep everything, on a simulated disk and clock.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use millstream_protocol::batch::Message;
use millstream_protocol::control::{Gap, GapReason, Retention, TopicInfo};
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::crash::{CrashFolder, End};
use millstream_storage::{Failure, Operation, Store, StoreOptions};

use super::definition::TopicRetention;
use super::nth::hands::Hands;
use super::recovery::Mark;
use super::topic::ID_WINDOW_US;
use super::{ConsumerOptions, QueueOptions, Queues};
use crate::broker::{Broker, TopicOptions};
use crate::error::{ReadError, TopicError};

const SEGMENT_BYTES: u32 = 64 << 10;
const BODY_BYTES: usize = 8000;

struct Setup {
    folder: CrashFolder,
    queues: Arc<Queues>,
    broker: Broker,
    /// Behind the broker, which waits when it is dropped.
    hands: Hands,
}

fn open(folder: &CrashFolder, hands: &Hands) -> (Arc<Queues>, Broker) {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
    };
    let store = Store::open_by_hand(Arc::new(folder.clone()), &options).unwrap();
    let store = Arc::new(store);
    hands.set_store(&store);
    let queues = Queues::open(&store).unwrap();
    hands.set_queues(&queues);
    let broker = Broker::of_parts(store, Arc::clone(&queues));
    (queues, broker)
}

impl Setup {
    /// With the topic `events`.
    fn new() -> Self {
        let (folder, hands) = (CrashFolder::new(), Hands::new());
        let (queues, broker) = open(&folder, &hands);
        broker.create_topic("events", TopicOptions::new()).unwrap();
        Self {
            folder,
            hands,
            queues,
            broker,
        }
    }

    /// The power is lost and comes back.
    fn lose_power(self) -> Self {
        self.strike(End::PowerLoss)
    }

    fn strike(self, end: End) -> Self {
        let Self {
            folder,
            hands,
            queues,
            broker,
        } = self;
        folder.strike_now(end, 7);
        queues.close();
        drop((queues, broker));
        let (folder, _) = folder.take_left().unwrap();
        Self::over(folder, hands)
    }

    fn over(folder: CrashFolder, hands: Hands) -> Self {
        let (queues, broker) = open(&folder, &hands);
        Self {
            folder,
            queues,
            broker,
            hands,
        }
    }

    /// Stopped in good order, and started again with the clocks at `at_us`, where given.
    fn restart(self, at_us: Option<u64>) -> Self {
        self.settle_down();
        let Self {
            folder,
            hands,
            queues,
            broker,
        } = self;
        broker.close().unwrap();
        drop((queues, broker));
        if let Some(at_us) = at_us {
            hands.set_us(at_us);
        }
        Self::over(folder, hands)
    }

    /// Minutes pass in which nobody does anything.
    fn rest(&self, minutes: u64) {
        for _ in 0..minutes {
            self.hands.pass_ms(60_000);
            self.settle_down();
        }
    }

    fn publish(&self, records: u64) {
        let mut publisher = self.broker.publisher("events").unwrap();
        for _ in 0..records {
            let number = publisher.publish_blocking(vec![7; BODY_BYTES]);
            number.unwrap();
        }
    }

    /// Does all there is to do now.
    fn settle_down(&self) {
        self.hands.work_off();
        while self.queues.keeper.take_chore() {
            self.queues.look_after();
            self.hands.work_off();
        }
    }

    fn keep(&self, bytes: u64, age_ms: u64) {
        let retention = Retention { bytes, age_ms };
        self.broker.set_retention("events", retention).unwrap();
        self.settle_down();
    }

    fn info(&self) -> TopicInfo {
        self.broker.topic("events").unwrap()
    }
}

#[test]
fn the_newest_bytes_stay_and_what_is_before_them_goes() {
    let setup = Setup::new();
    setup.publish(100);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0), "a topic keeps all");
    setup.keep(200_000, 0);
    let info = setup.info();
    assert!(
        (200_000..200_000 + u64::from(SEGMENT_BYTES)).contains(&info.bytes),
        "{info:?}"
    );
    // And so it goes on.
    setup.publish(100);
    setup.settle_down();
    let info = setup.info();
    assert!(info.first_offset > Offset(100), "{info:?}");
    assert!(
        (200_000..200_000 + u64::from(SEGMENT_BYTES)).contains(&info.bytes),
        "{info:?}"
    );
    let start = Start::Offset(Offset(5));
    let mut reader = setup.broker.reader("events", start).unwrap();
    let gap = reader.next_blocking().unwrap().unwrap_err();
    let trimmed = Gap {
        first_offset: Offset(5),
        next_offset: info.first_offset,
        reason: GapReason::Trimmed,
    };
    assert!(
        matches!(&gap, ReadError::Gap(gap) if *gap == trimmed),
        "{gap}"
    );
    for offset in info.first_offset.0..info.next_offset.0 {
        let record = reader.next_blocking().unwrap().unwrap();
        assert_eq!(record.offset(), Offset(offset));
    }
    // Told to keep all again, it does.
    setup.keep(0, 0);
    setup.publish(100);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, info.first_offset);
}

#[test]
fn what_is_old_goes_in_its_time_and_nothing_before() {
    let setup = Setup::new();
    setup.keep(0, 60_000);
    setup.publish(20);
    setup.hands.pass_ms(50_000);
    setup.publish(20);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0), "none is so old");
    setup.hands.pass_ms(9_000);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0));
    // Nobody publishes: the time alone has it looked at.
    setup.hands.pass_ms(7_000);
    setup.settle_down();
    let first = setup.info().first_offset.0;
    assert!((10..=20).contains(&first), "whole segments: {first}");
    setup.hands.pass_ms(60_000);
    setup.settle_down();
    let info = setup.info();
    assert_eq!(info.segments, 1, "the last one stays: {info:?}");
}

#[test]
fn what_is_said_holds_at_once_however_long_was_said_before() {
    let setup = Setup::new();
    setup.keep(0, 86_400_000);
    setup.publish(60);
    setup.settle_down();
    setup.hands.pass_ms(5_000);
    setup.keep(0, 1_000);
    assert_eq!(setup.info().segments, 1);
}

#[test]
fn what_a_queue_has_not_settled_stays() {
    let setup = Setup::new();
    let over = QueueOptions::new().topic("events");
    setup.broker.create_queue("mail", over).unwrap();
    setup.keep(1, 1);
    setup.publish(60);
    setup.hands.pass_ms(10_000);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0));
    let options = ConsumerOptions::new().prefetch(0);
    let mut consumer = setup.broker.consumer("mail", options).unwrap();
    let wait = std::time::Duration::ZERO;
    for delivery in consumer.receive_blocking(40, wait).unwrap() {
        delivery.ack();
    }
    setup.hands.pass_ms(10_000);
    setup.settle_down();
    let first = setup.info().first_offset.0;
    assert!((30..=40).contains(&first), "{first}");
    setup.broker.delete_queue("mail").unwrap();
    setup.publish(1);
    setup.hands.pass_ms(10_000);
    setup.settle_down();
    let info = setup.info();
    assert!(info.first_offset > Offset(40), "{info:?}");
}

/// Publishes and settles so many through a queue with a topic of its own; how much of that is kept then.
fn pass_through(setup: &Setup, records: u64) -> TopicInfo {
    setup.publish(records);
    setup.settle_down();
    let options = ConsumerOptions::new().prefetch(0);
    let mut consumer = setup.broker.consumer("events", options).unwrap();
    let wait = std::time::Duration::ZERO;
    let most = u32::try_from(records).unwrap();
    let work = consumer.receive_blocking(most, wait).unwrap();
    assert_eq!(work.len() as u64, records);
    for delivery in work {
        delivery.ack();
    }
    setup.hands.pass_ms(1000);
    setup.settle_down();
    setup.info()
}

#[test]
fn a_topic_of_a_queues_own_keeps_what_it_is_told_and_else_what_is_not_settled() {
    let setup = Setup::new();
    setup
        .broker
        .create_queue("events", QueueOptions::new())
        .unwrap();
    let info = pass_through(&setup, 200);
    assert!(info.bytes < 3 * u64::from(SEGMENT_BYTES), "{info:?}");
    setup.keep(500_000, 0);
    let info = pass_through(&setup, 200);
    assert!(info.bytes >= 500_000, "{info:?}");
    assert!(info.first_offset > Offset(200), "{info:?}");
    // By age as well.
    setup.keep(0, 60_000);
    let young = pass_through(&setup, 200);
    assert_eq!(young.first_offset, info.first_offset, "{young:?}");
    setup.rest(3);
    let old = setup.info();
    assert!(old.first_offset > Offset(500), "{old:?}");
    setup.keep(0, 0);
    let info = pass_through(&setup, 200);
    assert!(info.bytes < 3 * u64::from(SEGMENT_BYTES), "{info:?}");
}

#[test]
fn what_came_with_an_id_stays_while_the_id_is_remembered() {
    let setup = Setup::new();
    setup.keep(1, 0);
    setup.publish(20);
    let mut publisher = setup.broker.publisher("events").unwrap();
    let known = Message::new("once").id("id");
    let first = publisher.publish_blocking(known.clone()).unwrap().first;
    assert_eq!(first, Offset(20));
    setup.publish(40);
    setup.settle_down();
    let info = setup.info();
    assert!(
        (Offset(10)..=Offset(20)).contains(&info.first_offset),
        "{info:?}"
    );
    // Also by who has yet to find out which ids there are.
    let setup = setup.lose_power();
    setup.publish(40);
    setup.settle_down();
    assert!(setup.info().first_offset <= Offset(20));
    let mut publisher = setup.broker.publisher("events").unwrap();
    let again = publisher.publish_blocking(known).unwrap();
    assert_eq!((again.first, again.duplicate), (first, true));
    setup.hands.pass_ms(ID_WINDOW_US / 1_000 + 1);
    setup.publish(20);
    setup.settle_down();
    assert!(setup.info().first_offset > Offset(20));
}

#[test]
fn r1_a_queue_made_while_it_is_looked_at_misses_nothing() {
    let setup = Setup::new();
    setup.publish(60);
    setup.settle_down();
    let asked = setup.queues.entries();
    let newest = Retention {
        bytes: 1,
        ..Retention::KEEP_ALL
    };
    setup.broker.set_retention("events", newest).unwrap();
    let over = QueueOptions::new().topic("events").start(Start::Earliest);
    setup.broker.create_queue("mail", over).unwrap();
    // The first time finds out which ids there are.
    for _ in 0..2 {
        setup.queues.trim_topics(&asked);
        assert_eq!(setup.info().first_offset, Offset(0));
    }
}

#[test]
fn r1_nothing_goes_where_copies_of_moved_records_are_looked_for() {
    let setup = Setup::new();
    setup.publish(60);
    setup.settle_down();
    setup
        .broker
        .create_queue("mail", QueueOptions::new())
        .unwrap();
    let newest = Retention {
        bytes: 1,
        ..Retention::KEEP_ALL
    };
    setup.broker.set_retention("events", newest).unwrap();
    let asked = setup.queues.entries();
    let mail = asked
        .iter()
        .find(|entry| entry.definition.name.as_str() == "mail")
        .unwrap();
    let copies = Mark {
        number: 1,
        offset: Offset(10),
    };
    let events = TopicName::parse("events").unwrap();
    mail.mover().marks().lock().unwrap().insert(events, copies);
    for _ in 0..2 {
        setup.queues.trim_topics(&asked);
    }
    let first = setup.info().first_offset.0;
    assert!((1..=10).contains(&first), "{first}");
}

#[test]
fn what_was_held_goes_by_itself_once_nothing_holds_it() {
    for (bytes, age_ms) in [(1, 0), (0, 1_000)] {
        let setup = Setup::new();
        let over = QueueOptions::new().topic("events");
        setup.broker.create_queue("mail", over).unwrap();
        setup.publish(30);
        let mut publisher = setup.broker.publisher("events").unwrap();
        let known = Message::new("once").id("id");
        publisher.publish_blocking(known).unwrap();
        setup.publish(60);
        setup.keep(bytes, age_ms);
        setup.rest(1);
        assert_eq!(setup.info().first_offset, Offset(0), "held by the queue");
        setup.broker.delete_queue("mail").unwrap();
        setup.rest(2);
        let first = setup.info().first_offset.0;
        assert!((20..=30).contains(&first), "held by the id: {first}");
        setup.rest(20);
        assert_eq!(setup.info().segments, 1, "{:?}", setup.info());
    }
}

#[test]
fn what_an_earlier_run_left_goes_in_its_time() {
    let setup = Setup::new();
    setup.keep(0, 60_000);
    setup.publish(3);
    let setup = setup.restart(None);
    setup.settle_down();
    setup.publish(1);
    setup.settle_down();
    assert_eq!(setup.info().segments, 2);
    setup.rest(3);
    assert_eq!(setup.info().first_offset, Offset(3));
}

#[test]
fn a_run_whose_clock_was_wrong_takes_no_young_records_along() {
    const DAY_US: u64 = 86_400_000_000;
    let setup = Setup::new();
    setup.keep(0, 7 * 86_400_000);
    setup.publish(30);
    let right_us = millstream_storage::hand::time_us().unwrap();
    let setup = setup.restart(Some(right_us - 30 * DAY_US));
    setup.publish(60);
    setup.settle_down();
    let setup = setup.restart(Some(right_us + 60_000_000));
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0), "a minute old");
    let setup = setup.restart(Some(right_us + 8 * DAY_US));
    setup.settle_down();
    assert_eq!(setup.info().segments, 1, "{:?}", setup.info());
}

#[test]
fn nothing_is_old_while_the_clock_is_not_believed() {
    const HOUR_US: u64 = 3_600_000_000;
    let setup = Setup::new();
    setup.keep(0, 3_600_000);
    let right_us = millstream_storage::hand::time_us().unwrap();
    // Ten hours ahead at the start, and put right.
    let setup = setup.restart(Some(right_us + 10 * HOUR_US));
    setup.settle_down();
    setup.hands.set_us(right_us + 1_000_000);
    setup.publish(60);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0), "{:?}", setup.info());
}

#[test]
fn a_delete_that_fails_forgets_no_id() {
    let setup = Setup::new();
    let mut publisher = setup.broker.publisher("events").unwrap();
    let known = Message::new("once").id("id");
    let first = publisher.publish_blocking(known.clone()).unwrap().first;
    setup.settle_down();
    setup.folder.failures().set_full(true);
    setup.broker.delete_topic("events").unwrap_err();
    setup.folder.failures().set_full(false);
    let mut publisher = setup.broker.publisher("events").unwrap();
    let again = publisher.publish_blocking(known).unwrap();
    assert_eq!((again.first, again.duplicate), (first, true));
}

#[test]
fn what_is_said_again_after_a_failure_is_what_holds() {
    let mut failures = 0;
    for nth in 1..4 {
        let setup = Setup::new();
        setup.publish(30);
        setup.keep(1 << 40, 0);
        let said = setup.broker.retention("events").unwrap();
        let failing = setup.folder.failures();
        failing.fail(Operation::Sync, "", nth, Failure::Device);
        let few = Retention {
            bytes: 1,
            ..Retention::KEEP_ALL
        };
        let failed = setup.broker.set_retention("events", few).is_err();
        setup.folder.failures().heal();
        if failed {
            failures += 1;
            if setup.broker.set_retention("events", said).is_err() {
                // The journal is to be replaced first.
                setup.settle_down();
                setup.broker.set_retention("events", said).unwrap();
            }
            let setup = setup.strike(End::Kill);
            assert_eq!(setup.broker.retention("events").unwrap(), said);
        }
    }
    assert!(failures > 0);
}

#[test]
fn what_was_said_of_one_that_had_the_name_before_says_nothing() {
    let setup = Setup::new();
    let name = TopicName::parse("events").unwrap();
    // As while the one before is being deleted and this one is made.
    let before = TopicRetention {
        topic: name.clone(),
        incarnation: [7; 16],
        retention: Retention {
            bytes: 1,
            age_ms: 1,
        },
    };
    setup.queues.state().retentions.insert(name, before);
    let all = Retention::KEEP_ALL;
    assert_eq!(setup.broker.retention("events").unwrap(), all);
    setup.publish(60);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0));
}

#[test]
fn it_is_kept_across_restarts_and_is_of_one_topic_and_no_later_one() {
    let setup = Setup::new();
    let week = Retention {
        bytes: 1 << 30,
        age_ms: 604_800_000,
    };
    setup.broker.set_retention("events", week).unwrap();
    let setup = setup.lose_power();
    assert_eq!(setup.broker.retention("events").unwrap(), week);
    // By a checkpoint as well, without the journal before it.
    let journal = setup.queues.state().journal.clone().unwrap().log();
    setup.queues.checkpoint(&journal).unwrap();
    setup.queues.checkpoint(&journal).unwrap();
    let setup = setup.lose_power();
    assert_eq!(setup.broker.retention("events").unwrap(), week);
    setup.broker.delete_topic("events").unwrap();
    let gone = setup.broker.retention("events").unwrap_err();
    assert!(matches!(gone, TopicError::NotFound { .. }), "{gone}");
    assert!(setup.queues.state().retentions.is_empty());
    setup
        .broker
        .create_topic("events", TopicOptions::new())
        .unwrap();
    let all = Retention::KEEP_ALL;
    assert_eq!(setup.broker.retention("events").unwrap(), all);
    let setup = setup.lose_power();
    assert!(setup.queues.state().retentions.is_empty());
    assert_eq!(setup.broker.retention("events").unwrap(), all);
    setup.publish(60);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0));
}
