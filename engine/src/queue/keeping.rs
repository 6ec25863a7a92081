//! Topics that do not keep everything, on a simulated disk and clock.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use millstream_protocol::batch::Message;
use millstream_protocol::control::{Gap, GapReason, Retention, TopicInfo};
use millstream_protocol::{Offset, Start, TopicName};
use millstream_storage::crash::{CrashFolder, End};
use millstream_storage::{Store, StoreOptions};

use super::definition::TopicRetention;
use super::nth::hands::Hands;
use super::topic::ID_WINDOW_US;
use super::{ConsumerOptions, QueueOptions, Queues};
use crate::broker::{Broker, TopicOptions};
use crate::error::{ReadError, TopicError};

const SEGMENT_BYTES: u32 = 64 << 10;
const BODY_BYTES: usize = 8000;

struct Setup {
    folder: CrashFolder,
    hands: Hands,
    queues: Arc<Queues>,
    broker: Broker,
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
        let Self {
            folder,
            hands,
            queues,
            broker,
        } = self;
        folder.strike_now(End::PowerLoss, 7);
        queues.close();
        drop((queues, broker));
        let (folder, _) = folder.take_left().unwrap();
        let (queues, broker) = open(&folder, &hands);
        Self {
            folder,
            hands,
            queues,
            broker,
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
    setup
        .broker
        .create_topic("events", TopicOptions::new())
        .unwrap();
    let all = Retention::KEEP_ALL;
    assert_eq!(setup.broker.retention("events").unwrap(), all);
    let setup = setup.lose_power();
    assert_eq!(setup.broker.retention("events").unwrap(), all);
    setup.publish(60);
    setup.settle_down();
    assert_eq!(setup.info().first_offset, Offset(0));
}
