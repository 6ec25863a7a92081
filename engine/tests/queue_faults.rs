//! Work queues where something is in the way: futures dropped, consumers lost, queues deleted in the
//! middle, processes killed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use millstream::{
    Backoff, BatchBuilder, Broker, Consumer, ConsumerOptions, Delivery, Message, Offset,
    PublishError, QueueOptions, Redrive, SettleError, WhenFull, headers,
};

/// Longer than any of these tests should take, and shorter than the lease of a queue.
const SOON: Duration = Duration::from_secs(20);

fn open(path: &Path) -> Broker {
    Broker::open(path).unwrap()
}

/// Runs `test` in a thread of its own: what never ends is a failure, not a hang.
fn ends<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, hear) = mpsc::channel();
    thread::spawn(move || done.send(test()));
    hear.recv_timeout(Duration::from_secs(60))
        .expect("it ends, and does not panic")
}

fn publish(broker: &Broker, topic: &str, bodies: impl IntoIterator<Item = impl Into<Message>>) {
    let mut publisher = broker.publisher(topic).unwrap();
    for body in bodies {
        publisher.publish_blocking(body).unwrap();
    }
}

fn at_once() -> Backoff {
    Backoff {
        first_ms: 0,
        cap_ms: 0,
        multiplier_milli: 1000,
        jitter_percent: 0,
    }
}

fn puller(broker: &Broker, queue: &str) -> Consumer {
    let options = ConsumerOptions::new().prefetch(0);
    broker.consumer(queue, options).unwrap()
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

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let text = |delivery: &Delivery| String::from_utf8(delivery.body().to_vec()).unwrap();
    deliveries.iter().map(text).collect()
}

fn batch(messages: impl IntoIterator<Item = Message>) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    for message in messages {
        batch.push(&message).unwrap();
    }
    batch
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_batch_that_waits_for_room_in_a_queue_sleeps_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().messages_max(4, WhenFull::Wait);
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["1", "2", "3"]);
    let mut consumer = puller(&broker, "jobs");
    let taken = take(&mut consumer, 3);
    let mut publisher = broker.publisher("jobs").unwrap();
    let polled = ends(move || {
        let two = batch(["4", "5"].map(Message::new));
        let pending = poll_once(publisher.publish_batch(&two)).is_pending();
        (pending, publisher)
    });
    assert!(polled.0);
    let mut publisher = polled.1;
    let published = thread::spawn(move || {
        let two = batch(["4", "5"].map(Message::new));
        publisher.publish_batch_blocking(&two).unwrap();
    });
    for delivery in taken {
        delivery.ack_confirmed_blocking().unwrap();
    }
    published.join().unwrap();
    assert_eq!(bodies(&take(&mut consumer, 2)), ["4", "5"]);
}

#[test]
fn a_batch_that_no_empty_queue_would_take_is_refused_and_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().messages_max(2, WhenFull::Wait);
    broker.create_queue("jobs", options).unwrap();
    let mut publisher = broker.publisher("jobs").unwrap();
    let refused = ends(move || {
        let three = batch(["1", "2", "3"].map(Message::new));
        publisher.publish_batch_blocking(&three)
    });
    assert!(
        matches!(refused, Err(PublishError::QueueFull { .. })),
        "{refused:?}"
    );
}

#[test]
fn ids_published_one_by_one_are_duplicates_together_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let mut publisher = broker.publisher("t").unwrap();
    for id in ["a", "b", "c"] {
        publisher.publish_blocking(Message::new(id).id(id)).unwrap();
    }
    let receipt = ends(move || {
        let again = batch(["c", "a"].map(|id| Message::new(id).id(id)));
        publisher.publish_batch_blocking(&again).unwrap()
    });
    assert!(receipt.duplicate);
    assert_eq!(broker.topic("t").unwrap().next_offset, Offset(3));
}

#[test]
fn an_id_twice_in_one_batch_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let mut publisher = broker.publisher("t").unwrap();
    let twice = batch(["a", "b", "a"].map(|id| Message::new(id).id(id)));
    let refused = publisher.publish_batch_blocking(&twice).unwrap_err();
    assert!(
        matches!(refused, PublishError::PartlyDuplicate { .. }),
        "{refused}"
    );
    assert_eq!(broker.topic("t").unwrap().next_offset, Offset(0));
}

#[test]
fn dead_letters_go_on_into_a_queue_that_was_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", ["1", "2", "3"]);
    let mut consumer = puller(&broker, "jobs");
    let mut taken = take(&mut consumer, 3);
    taken.remove(0).reject("one");
    let mut letters = puller(&broker, "jobs.dead");
    assert_eq!(bodies(&take(&mut letters, 1)), ["1"]);
    drop(letters);
    broker.delete_queue("jobs.dead").unwrap();
    broker
        .create_queue("jobs.dead", QueueOptions::new())
        .unwrap();
    taken.remove(0).reject("two");
    let mut letters = puller(&broker, "jobs.dead");
    assert_eq!(bodies(&take(&mut letters, 1)), ["2"]);
    drop(letters);
    // Nobody makes it again: the first letter does.
    broker.delete_queue("jobs.dead").unwrap();
    taken.remove(0).reject("three");
    // When a queue is gone, what was to leave it has left.
    broker.delete_queue("jobs").unwrap();
    let mut letters = puller(&broker, "jobs.dead");
    assert_eq!(bodies(&take(&mut letters, 1)), ["3"]);
}

#[test]
fn a_queue_that_is_asked_for_again_gets_its_dead_letter_queue_back() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    broker.delete_queue("jobs.dead").unwrap();
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    assert!(broker.queue("jobs.dead").is_ok());
}

#[test]
fn what_is_redriven_arrives_though_its_queue_of_dead_letters_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", ["1", "2"]);
    let mut consumer = puller(&broker, "jobs");
    for delivery in take(&mut consumer, 2) {
        delivery.reject("no");
    }
    let mut letters = puller(&broker, "jobs.dead");
    drop(take(&mut letters, 2));
    drop(letters);
    assert_eq!(
        broker.redrive_queue("jobs.dead", &Redrive::all()).unwrap(),
        2
    );
    broker.delete_queue("jobs.dead").unwrap();
    assert_eq!(bodies(&take(&mut consumer, 2)), ["1", "2"]);
}

#[test]
fn all_letters_are_redriven_right_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", (0..20).map(|number| number.to_string()));
    let mut consumer = puller(&broker, "jobs");
    for delivery in take(&mut consumer, 20) {
        delivery.reject("no");
    }
    let mut letters = puller(&broker, "jobs.dead");
    drop(take(&mut letters, 20));
    drop((consumer, letters));
    broker.close().unwrap();
    drop(broker);
    let broker = open(folder.path());
    assert_eq!(
        broker.redrive_queue("jobs.dead", &Redrive::all()).unwrap(),
        20
    );
    let mut consumer = puller(&broker, "jobs");
    assert_eq!(take(&mut consumer, 20).len(), 20);
}

#[test]
fn a_letter_of_the_largest_size_is_moved_and_holds_up_none_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let large = vec![7_u8; millstream_protocol::limits::BODY_BYTES_MAX];
    publish(&broker, "jobs", [large.clone(), b"small".to_vec()]);
    let mut consumer = puller(&broker, "jobs");
    for delivery in take(&mut consumer, 2) {
        delivery.reject("no");
    }
    let mut letters = puller(&broker, "jobs.dead");
    let letters = take(&mut letters, 2);
    assert!(letters[0].as_bytes() == large);
    assert_eq!(letters[1].as_bytes(), b"small");
    assert!(letters[1].headers().any(|(name, _)| name == headers::QUEUE));
}

#[test]
fn a_settle_is_answered_though_its_consumer_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().backoff(at_once());
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["1", "2"]);
    let mut consumer = puller(&broker, "jobs");
    let mut taken = take(&mut consumer, 2);
    let (first, second) = (taken.remove(0), taken.remove(0));
    let mut first = Box::pin(first.ack_confirmed());
    // Handed over, and perhaps not on disk yet.
    let polled = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    consumer.lose();
    let late = ends(move || second.ack_confirmed_blocking());
    assert_eq!(late, Err(SettleError::LeaseLost));
    if polled.is_pending() {
        ends(move || pin_on(first)).unwrap();
    }
    let mut other = puller(&broker, "jobs");
    let again = take(&mut other, 1);
    assert_eq!(
        (bodies(&again), again[0].attempts()),
        (vec!["2".to_owned()], 2)
    );
}

/// Polls until it is ready, in this thread.
fn pin_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    loop {
        let polled = std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
        match polled {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_pull_under_way_keeps_nothing_once_its_consumer_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", ["held"]);
    let mut consumer = puller(&broker, "jobs");
    let held = take(&mut consumer, 1);
    let hour = Duration::from_secs(3600);
    assert!(poll_once(consumer.receive(1, hour)).is_pending());
    drop(consumer);
    publish(&broker, "jobs", ["next"]);
    let mut other = puller(&broker, "jobs");
    let next = take(&mut other, 1);
    assert_eq!(
        (bodies(&next), next[0].attempts()),
        (vec!["next".to_owned()], 1)
    );
    drop(held);
}

#[test]
fn a_receive_that_was_dropped_leaves_its_records_to_the_next_and_no_more_than_asked() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let mut consumer = puller(&broker, "jobs");
    let hour = Duration::from_secs(3600);
    assert!(poll_once(consumer.receive(3, hour)).is_pending());
    let three = batch(["1", "2", "3"].map(Message::new));
    let mut publisher = broker.publisher("jobs").unwrap();
    publisher.publish_batch_blocking(&three).unwrap();
    for expected in ["1", "2", "3"] {
        let one = consumer.receive_blocking(1, SOON).unwrap();
        assert_eq!(bodies(&one), [expected]);
        for delivery in one {
            delivery.ack_confirmed_blocking().unwrap();
        }
    }
    let none = consumer.receive_blocking(1, Duration::ZERO).unwrap();
    assert!(none.is_empty());
}

#[test]
fn what_was_published_is_there_for_a_pull_that_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let mut consumer = puller(&broker, "jobs");
    for number in 0..200_u32 {
        publish(&broker, "jobs", [number.to_string()]);
        let one = consumer.receive_blocking(1, Duration::ZERO).unwrap();
        assert_eq!(bodies(&one), [number.to_string()]);
        one.into_iter().for_each(Delivery::ack);
    }
}

#[test]
fn consumers_and_deliveries_may_outlive_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", (0..400).map(|number| number.to_string()));
    let mut consumers: Vec<Consumer> = (0..400).map(|_| puller(&broker, "jobs")).collect();
    let deliveries: Vec<Delivery> = consumers
        .iter_mut()
        .flat_map(|consumer| take(consumer, 1))
        .collect();
    broker.close().unwrap();
    ends(move || {
        for (number, delivery) in deliveries.into_iter().enumerate() {
            match number % 3 {
                0 => drop(delivery),
                1 => delivery.ack(),
                _ => assert_eq!(delivery.ack_confirmed_blocking(), Err(SettleError::Closed)),
            }
        }
        for consumer in &mut consumers {
            assert!(consumer.next_blocking().is_none());
        }
        drop(consumers);
    });
    drop(broker);
    let broker = open(folder.path());
    let mut consumer = puller(&broker, "jobs");
    assert_eq!(take(&mut consumer, 400).len(), 400);
}
