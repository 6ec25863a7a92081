//! Work queues by the public API: delivered, settled, retried, buried, and all of it across restarts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use millstream::{
    Backoff, Broker, BrokerOptions, Consumer, ConsumerOptions, DeadLetter, Delivery, DeliveryView,
    Message, Offset, OnExpiry, PublishError, PublisherOptions, QueueError, QueueMode, QueueOptions,
    Redrive, SettleError, Start, WhenFull, headers,
};

/// Longer than any of these tests should take.
const SOON: Duration = Duration::from_secs(20);

fn open(path: &Path) -> Broker {
    Broker::open(path).unwrap()
}

fn publish(broker: &Broker, topic: &str, bodies: impl IntoIterator<Item = impl Into<Message>>) {
    let mut publisher = broker
        .publisher_with(topic, PublisherOptions::new().create(false))
        .unwrap();
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

fn acked(delivery: Delivery) {
    delivery.ack_confirmed_blocking().unwrap();
}

#[test]
fn records_are_delivered_in_order_and_once_acked_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("emails", QueueOptions::new()).unwrap();
    publish(&broker, "emails", ["a", "b", "c"]);
    let mut consumer = puller(&broker, "emails");
    let deliveries = take(&mut consumer, 3);
    assert_eq!(bodies(&deliveries), ["a", "b", "c"]);
    assert!(deliveries.iter().all(|delivery| delivery.attempts() == 1));
    deliveries.into_iter().for_each(acked);
    let info = broker.queue("emails").unwrap();
    assert_eq!((info.ready, info.leased, info.floor), (0, 0, Offset(3)));
    assert_eq!(info.attempts[0], 3);
    broker.close().unwrap();

    let broker = open(folder.path());
    publish(&broker, "emails", ["d"]);
    let mut consumer = puller(&broker, "emails");
    assert_eq!(bodies(&take(&mut consumer, 1)), ["d"]);
}

#[test]
fn two_queues_of_one_topic_each_see_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker
        .create_topic("orders", millstream::TopicOptions::new())
        .unwrap();
    for queue in ["billing", "shipping"] {
        broker
            .create_queue(queue, QueueOptions::new().topic("orders"))
            .unwrap();
    }
    publish(&broker, "orders", ["1", "2"]);
    for queue in ["billing", "shipping"] {
        let mut consumer = puller(&broker, queue);
        let deliveries = take(&mut consumer, 2);
        assert_eq!(bodies(&deliveries), ["1", "2"]);
        deliveries.into_iter().for_each(acked);
    }
    let in_use = broker.delete_topic("orders").unwrap_err();
    assert!(in_use.to_string().contains("billing"), "{in_use}");
}

#[test]
fn what_is_dropped_comes_again_uncounted_and_a_retry_counts() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().backoff(at_once());
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["job"]);
    let mut consumer = puller(&broker, "jobs");
    drop(take(&mut consumer, 1));
    let again = take(&mut consumer, 1).remove(0);
    assert_eq!(again.attempts(), 1);
    again.retry();
    let third = take(&mut consumer, 1).remove(0);
    assert_eq!(third.attempts(), 2);
    drop(consumer);
    // A delivery outlives its consumer.
    acked(third);
    assert_eq!(broker.queue("jobs").unwrap().attempts[1], 1);
}

#[test]
fn a_late_settle_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new()
        .lease(Duration::from_millis(100))
        .backoff(at_once());
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["job"]);
    let mut slow = puller(&broker, "jobs");
    let late = take(&mut slow, 1).remove(0);
    let mut other = puller(&broker, "jobs");
    // Comes only once the first lease has ended.
    let second = take(&mut other, 1).remove(0);
    assert_eq!(second.attempts(), 2);
    assert_eq!(
        late.ack_confirmed_blocking(),
        Err(SettleError::LeaseLost),
        "another has it"
    );
    assert_eq!(slow.lost(), 1);
    acked(second);
    assert_eq!(broker.queue("jobs").unwrap().totals.lease_lost, 1);
}

#[test]
fn an_extended_lease_holds() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    // Long enough to extend it wherever this runs.
    let options = QueueOptions::new().lease(Duration::from_secs(1));
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["one", "two"]);
    let mut consumer = puller(&broker, "jobs");
    let mut deliveries = take(&mut consumer, 2);
    deliveries[0].extend(Duration::from_secs(60));
    let token = deliveries[0].token();
    // The other's lease ends meanwhile, which is seen by its coming again.
    let again = take(&mut consumer, 1).remove(0);
    assert_eq!((again.offset(), again.attempts()), (Offset(1), 2));
    token.extend(Duration::from_secs(60));
    acked(deliveries.remove(0));
    acked(again);
}

#[test]
fn attempts_survive_a_restart_and_end_in_a_dead_letter_with_its_story() {
    let folder = tempfile::tempdir().unwrap();
    let options = || QueueOptions::new().max_deliveries(2).backoff(at_once());
    {
        let broker = open(folder.path());
        broker.create_queue("jobs", options()).unwrap();
        publish(
            &broker,
            "jobs",
            [Message::new("poison").key("k").header("h", "v")],
        );
        let mut consumer = puller(&broker, "jobs");
        take(&mut consumer, 1).remove(0).retry();
        drop(consumer);
        broker.close().unwrap();
    }
    let broker = open(folder.path());
    let mut consumer = puller(&broker, "jobs");
    let second = take(&mut consumer, 1).remove(0);
    assert_eq!(second.attempts(), 2);
    second.retry();
    let mut graves = puller(&broker, "jobs.dead");
    let letter = take(&mut graves, 1).remove(0);
    assert_eq!(letter.as_bytes(), b"poison");
    assert_eq!(letter.key().unwrap(), "k");
    let notes: BTreeMap<String, String> = letter
        .headers()
        .map(|(name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap()))
        .collect();
    assert_eq!(notes["h"], "v");
    assert_eq!(notes[headers::REASON], "max-deliveries");
    assert_eq!(notes[headers::QUEUE], "jobs");
    assert_eq!(notes[headers::OFFSET], "0");
    assert_eq!(notes[headers::ATTEMPTS], "2");
    assert_ne!(notes[headers::FIRST_US], "0");
}

#[test]
fn a_rejected_record_is_a_dead_letter_and_goes_back_by_redrive_to_its_queue_alone() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker
        .create_topic("orders", millstream::TopicOptions::new())
        .unwrap();
    for queue in ["billing", "shipping"] {
        broker
            .create_queue(queue, QueueOptions::new().topic("orders"))
            .unwrap();
    }
    publish(&broker, "orders", ["1", "2", "3"]);
    let mut billing = puller(&broker, "billing");
    for delivery in take(&mut billing, 3) {
        if delivery.as_bytes() == b"2" {
            delivery.reject("no such customer");
        } else {
            delivery.ack();
        }
    }
    let mut graves = puller(&broker, "billing.dead");
    let letter = take(&mut graves, 1).remove(0);
    let said = letter
        .headers()
        .find_map(|(name, value)| (name == headers::REASON_TEXT).then(|| value.to_vec()));
    assert_eq!(said.unwrap(), b"no such customer");
    letter.release();
    assert_eq!(broker.queue("billing").unwrap().dead, 1);
    let others = Redrive::all().reason("expired");
    assert_eq!(broker.redrive_queue("billing.dead", &others).unwrap(), 0);
    assert_eq!(
        broker
            .redrive_queue("billing.dead", &Redrive::all())
            .unwrap(),
        1
    );
    let back = take(&mut billing, 1).remove(0);
    assert_eq!((back.as_bytes(), back.attempts()), (&b"2"[..], 1));
    acked(back);
    let mut shipping = puller(&broker, "shipping");
    let all = take(&mut shipping, 3);
    assert_eq!(bodies(&all), ["1", "2", "3"], "each once");
    all.into_iter().for_each(acked);
    let info = broker.queue("shipping").unwrap();
    assert_eq!((info.ready, info.dead), (0, 0));
    assert_eq!(broker.queue("billing").unwrap().dead, 0);
}

#[test]
fn what_is_delayed_comes_when_it_is_due_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let now_us = wall_us();
    publish(
        &broker,
        "jobs",
        [
            Message::new("in ten years").due_at_us(now_us + 10 * 365 * 86_400_000_000),
            Message::new("soon").due_at_us(now_us + 300_000),
            Message::new("now"),
        ],
    );
    let mut consumer = puller(&broker, "jobs");
    let first = take(&mut consumer, 1).remove(0);
    assert_eq!(first.as_bytes(), b"now");
    assert_eq!(broker.queue("jobs").unwrap().delayed, 2);
    let second = take(&mut consumer, 1).remove(0);
    assert_eq!(second.as_bytes(), b"soon");
    assert!(wall_us() >= now_us + 300_000, "not before it is due");
    acked(first);
    acked(second);
    assert_eq!(broker.queue("jobs").unwrap().delayed, 1);
}

#[test]
fn a_group_is_worked_on_one_at_a_time_in_order_across_retries() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new()
        .mode(QueueMode::Grouped)
        .backoff(at_once());
    broker.create_queue("jobs", options).unwrap();
    publish(
        &broker,
        "jobs",
        [
            Message::new("a1").group("a"),
            Message::new("a2").group("a"),
            Message::new("b1").group("b"),
        ],
    );
    let mut consumer = puller(&broker, "jobs");
    let mut both = take(&mut consumer, 2);
    assert_eq!(bodies(&both), ["a1", "b1"], "a2 waits for a1");
    both.remove(0).retry();
    let again = take(&mut consumer, 1).remove(0);
    assert_eq!(again.as_bytes(), b"a1");
    acked(again);
    assert_eq!(bodies(&take(&mut consumer, 1)), ["a2"]);
}

#[test]
fn higher_priorities_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().mode(QueueMode::Prioritised);
    broker.create_queue("jobs", options).unwrap();
    publish(
        &broker,
        "jobs",
        [
            Message::new("low"),
            Message::new("high").priority(9),
            Message::new("middle").priority(4),
        ],
    );
    let mut consumer = puller(&broker, "jobs");
    assert_eq!(bodies(&take(&mut consumer, 3)), ["high", "middle", "low"]);
}

#[test]
fn an_id_published_twice_is_one_record_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let broker = open(folder.path());
        let mut publisher = broker.publisher("orders").unwrap();
        let first = publisher
            .publish_blocking(Message::new("pay").id("order 7"))
            .unwrap();
        assert!(!first.duplicate);
        let second = publisher
            .publish_blocking(Message::new("pay").id("order 7"))
            .unwrap();
        assert_eq!((second.first, second.duplicate), (first.first, true));
        broker.close().unwrap();
    }
    let broker = open(folder.path());
    let mut publisher = broker.publisher("orders").unwrap();
    let third = publisher
        .publish_blocking(Message::new("pay").id("order 7"))
        .unwrap();
    assert_eq!((third.first, third.duplicate), (Offset(0), true));
    assert_eq!(broker.topic("orders").unwrap().next_offset, Offset(1));
}

#[test]
fn a_message_with_an_id_that_comes_behind_the_end_is_refused_though_no_ids_were_read() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let mut publisher = first.publisher("orders").unwrap();
    publisher.publish_blocking("1").unwrap();
    first.close().unwrap();
    drop((publisher, first));
    let broker = open(folder.path());
    let mut publisher = broker.publisher("orders").unwrap();
    broker.close().unwrap();
    let refused = publisher.publish_blocking(Message::new("pay").id("order 7"));
    assert_eq!(refused.unwrap_err(), PublishError::Closed);
}

#[test]
fn a_full_queue_refuses_waits_or_drops_as_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let limited = |when_full| QueueOptions::new().messages_max(2, when_full);
    broker
        .create_queue("refuses", limited(WhenFull::Refuse))
        .unwrap();
    publish(&broker, "refuses", ["1", "2"]);
    let mut publisher = broker.publisher("refuses").unwrap();
    let refused = publisher.publish_blocking("3").unwrap_err();
    assert!(
        matches!(refused, PublishError::QueueFull { .. }),
        "{refused}"
    );
    assert!(refused.is_retriable());
    let mut consumer = puller(&broker, "refuses");
    acked(take(&mut consumer, 1).remove(0));
    publisher.publish_blocking("3").unwrap();

    broker
        .create_queue("drops", limited(WhenFull::DropOldest))
        .unwrap();
    publish(&broker, "drops", ["1", "2", "3"]);
    let mut graves = puller(&broker, "drops.dead");
    assert_eq!(bodies(&take(&mut graves, 1)), ["1"]);
    let mut consumer = puller(&broker, "drops");
    assert_eq!(bodies(&take(&mut consumer, 2)), ["2", "3"]);

    broker
        .create_queue("waits", limited(WhenFull::Wait))
        .unwrap();
    publish(&broker, "waits", ["1", "2"]);
    let mut publisher = broker.publisher("waits").unwrap();
    let waiting = std::thread::spawn(move || publisher.publish_blocking("3").unwrap());
    let mut consumer = puller(&broker, "waits");
    acked(take(&mut consumer, 1).remove(0));
    assert_eq!(waiting.join().unwrap().first, Offset(2));
}

#[test]
fn a_paused_queue_delivers_nothing_and_a_purged_one_has_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    publish(&broker, "jobs", ["1", "2", "3"]);
    let mut consumer = puller(&broker, "jobs");
    let leased = take(&mut consumer, 1).remove(0);
    broker.pause_queue("jobs").unwrap();
    let none = consumer.receive_blocking(1, Duration::ZERO).unwrap();
    assert!(none.is_empty());
    assert_eq!(broker.purge_queue("jobs").unwrap(), 3);
    assert_eq!(
        leased.ack_confirmed_blocking(),
        Err(SettleError::LeaseLost),
        "purged meanwhile"
    );
    broker.resume_queue("jobs").unwrap();
    publish(&broker, "jobs", ["4"]);
    assert_eq!(bodies(&take(&mut consumer, 1)), ["4"]);
}

#[test]
fn an_expired_record_is_buried_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let dropping = QueueOptions::new().expired(OnExpiry::Drop);
    broker.create_queue("drops", dropping).unwrap();
    broker.create_queue("buries", QueueOptions::new()).unwrap();
    for queue in ["drops", "buries"] {
        let old = Message::new("old").expires_at_us(wall_us() - 1);
        publish(&broker, queue, [old, Message::new("new")]);
        let mut consumer = puller(&broker, queue);
        assert_eq!(bodies(&take(&mut consumer, 1)), ["new"]);
    }
    let mut graves = puller(&broker, "buries.dead");
    assert_eq!(bodies(&take(&mut graves, 1)), ["old"]);
    assert_eq!(broker.queue("drops").unwrap().totals.expired, 1);
    assert_eq!(broker.queue("drops").unwrap().dead, 0);
}

#[test]
fn settled_segments_of_a_queue_of_its_own_topic_go() {
    let folder = tempfile::tempdir().unwrap();
    let broker = BrokerOptions::new()
        .segment_bytes_first(1 << 20)
        .segment_bytes_max(1 << 20)
        .open(folder.path())
        .unwrap();
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let body = vec![7; 100_000];
    publish(&broker, "jobs", (0..100).map(|_| body.clone()));
    let before = broker.topic("jobs").unwrap().segments;
    assert!(before > 8, "{before}");
    let mut consumer = puller(&broker, "jobs");
    take(&mut consumer, 100).into_iter().for_each(acked);
    // Dropped behind our back; the test's own time limit is the bound.
    while broker.topic("jobs").unwrap().segments > 2 {
        std::thread::yield_now();
    }
    broker.close().unwrap();
    let broker = open(folder.path());
    let info = broker.queue("jobs").unwrap();
    assert_eq!((info.ready, info.next), (0, Offset(100)));
}

#[test]
fn a_cursor_is_where_it_was_left_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let broker = open(folder.path());
        broker
            .create_topic("orders", millstream::TopicOptions::new())
            .unwrap();
        publish(&broker, "orders", ["a", "b", "c"]);
        let cursor = broker.cursor("orders", "report").unwrap();
        assert_eq!((cursor.offset(), cursor.lag()), (Offset(0), 3));
        cursor.commit(Offset(2)).unwrap();
        broker.close().unwrap();
    }
    let broker = open(folder.path());
    let cursor = broker.cursor("orders", "report").unwrap();
    assert_eq!((cursor.offset(), cursor.lag()), (Offset(2), 1));
    let record = cursor.reader().next_blocking().unwrap().unwrap();
    assert_eq!(record.as_bytes(), b"c");
    assert_eq!(cursor.seek(Start::Earliest).unwrap(), Offset(0));
    assert_eq!(broker.cursors(None).len(), 1);
    broker.delete_cursor("orders", "report").unwrap();
    let gone = broker.cursor_info("orders", "report").unwrap_err();
    assert!(matches!(gone, QueueError::CursorNotFound { .. }));
}

#[test]
fn a_deleted_queue_takes_its_own_topic_along_and_tells_its_consumers() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().dead_letter(DeadLetter::Nowhere);
    broker.create_queue("jobs", options).unwrap();
    publish(&broker, "jobs", ["1", "2"]);
    let mut consumer = puller(&broker, "jobs");
    let delivery = take(&mut consumer, 1).remove(0);
    assert_eq!(broker.delete_queue("jobs").unwrap(), 2);
    assert!(consumer.next_blocking().is_none());
    assert_eq!(
        delivery.ack_confirmed_blocking(),
        Err(SettleError::QueueGone)
    );
    assert!(broker.topic("jobs").is_err());
    assert!(matches!(
        broker.queue("jobs"),
        Err(QueueError::NotFound { .. })
    ));
}

#[test]
fn closing_while_dead_letters_move_ends() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let broker = open(folder.path());
        broker.create_queue("jobs", QueueOptions::new()).unwrap();
        publish(&broker, "jobs", ["bad"]);
        let mut consumer = puller(&broker, "jobs");
        take(&mut consumer, 1).remove(0).reject("no");
        broker.close().unwrap();
        drop(consumer);
        let broker = open(folder.path());
        let mut graves = puller(&broker, "jobs.dead");
        assert_eq!(take(&mut graves, round + 1).len(), round as usize + 1);
        broker.close().unwrap();
    }
}

#[test]
fn what_a_consumer_acknowledged_is_settled_while_it_works_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let options = ConsumerOptions::new().prefetch(8);
    let mut consumer = broker.consumer("jobs", options).unwrap();
    publish(&broker, "jobs", ["quick"]);
    let quick = consumer.next_blocking().unwrap().unwrap();
    publish(&broker, "jobs", ["long"]);
    // Granted, so that the consumer has more at hand and hands nothing over by itself.
    while broker.queue("jobs").unwrap().leased < 2 {
        std::thread::yield_now();
    }
    quick.ack();
    while broker.queue("jobs").unwrap().floor < Offset(1) {
        std::thread::yield_now();
    }
    let long = consumer.next_blocking().unwrap().unwrap();
    assert_eq!(bodies(&[long]), ["long"]);
}

#[test]
fn threads_that_settle_for_one_consumer_lose_nothing_and_settle_nothing_twice() {
    const RECORDS: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    let options = QueueOptions::new().backoff(at_once());
    broker.create_queue("jobs", options).unwrap();
    let options = ConsumerOptions::new().prefetch(256);
    let mut consumer = broker.consumer("jobs", options).unwrap();
    let mut publisher = broker.publisher("jobs").unwrap();
    let tickets: Vec<_> = (0..RECORDS)
        .map(|number| publisher.enqueue_blocking(number.to_string()).unwrap())
        .collect();
    let mut settled = Vec::new();
    std::thread::scope(|scope| {
        let (lanes, threads): (Vec<_>, Vec<_>) = (0..4)
            .map(|_| {
                let (lane, deliveries) = std::sync::mpsc::channel::<Delivery>();
                let settle = move || {
                    let mut acked = Vec::new();
                    for delivery in deliveries {
                        let offset = delivery.offset();
                        // Each seventh at its second attempt, each ninth extended first.
                        if offset.0.is_multiple_of(7) && delivery.attempts() == 1 {
                            delivery.retry();
                            continue;
                        }
                        if offset.0.is_multiple_of(9) {
                            delivery.extend(SOON);
                        }
                        acked.push(offset);
                        delivery.ack();
                    }
                    acked
                };
                (lane, scope.spawn(settle))
            })
            .unzip();
        let to_come = RECORDS + RECORDS.div_ceil(7);
        for number in 0..to_come {
            let delivery = consumer.next_blocking().unwrap().unwrap();
            lanes[(number % 4) as usize].send(delivery).unwrap();
        }
        drop(lanes);
        for thread in threads {
            settled.extend(thread.join().unwrap());
        }
    });
    while broker.queue("jobs").unwrap().floor < Offset(RECORDS) {
        std::thread::yield_now();
    }
    settled.sort_unstable();
    assert_eq!(settled, (0..RECORDS).map(Offset).collect::<Vec<_>>());
    assert_eq!(consumer.lost(), 0);
    assert!(consumer.try_next().is_none());
    for ticket in tickets {
        ticket.wait_blocking().unwrap();
    }
}

#[test]
fn of_two_settles_of_a_record_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let options = ConsumerOptions::new().prefetch(8);
    let mut consumer = broker.consumer("jobs", options).unwrap();
    publish(&broker, "jobs", ["twice"]);
    let twice = consumer.next_blocking().unwrap().unwrap();
    publish(&broker, "jobs", ["later"]);
    // More is at hand, so what is said waits for what follows.
    while broker.queue("jobs").unwrap().leased < 2 {
        std::thread::yield_now();
    }
    let token = twice.token();
    twice.ack();
    token.retry();
    while broker.queue("jobs").unwrap().floor < Offset(1) || consumer.lost() < 1 {
        std::thread::yield_now();
    }
    assert_eq!(consumer.lost(), 1);
}

#[test]
fn a_borrowed_delivery_is_acknowledged_kept_or_released() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let options = ConsumerOptions::new().prefetch(8);
    let mut consumer = broker.consumer("jobs", options).unwrap();
    publish(&broker, "jobs", ["done", "kept", "dropped"]);
    let mut view = |body: &str, then: &mut dyn FnMut(DeliveryView<'_>)| {
        loop {
            if let Some(view) = consumer.try_next_view() {
                let view = view.unwrap();
                assert_eq!((view.as_bytes(), view.attempts()), (body.as_bytes(), 1));
                assert_eq!(view.record().offset(), view.offset());
                return then(view);
            }
            std::thread::yield_now();
        }
    };
    let mut kept = None;
    view("done", &mut |view| view.ack());
    view("kept", &mut |view| kept = Some(view.into_delivery()));
    view("dropped", &mut |view| drop(view));
    // Again, uncounted.
    view("dropped", &mut |view| view.ack());
    let kept = kept.unwrap();
    assert_eq!((kept.as_bytes(), kept.attempts()), (&b"kept"[..], 1));
    while broker.queue("jobs").unwrap().floor < Offset(1) {
        std::thread::yield_now();
    }
    kept.ack_confirmed_blocking().unwrap();
    while broker.queue("jobs").unwrap().floor < Offset(3) {
        std::thread::yield_now();
    }
    assert!(consumer.try_next_view().is_none());
}

#[test]
fn consumers_share_the_work_and_each_record_goes_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path());
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let options = ConsumerOptions::new().prefetch(8);
            let mut consumer = broker.consumer("jobs", options).unwrap();
            std::thread::spawn(move || {
                let mut offsets = Vec::new();
                while let Some(delivery) = consumer.next_blocking() {
                    let delivery = delivery.unwrap();
                    offsets.push(delivery.offset());
                    delivery.ack();
                }
                offsets
            })
        })
        .collect();
    let mut publisher = broker.publisher("jobs").unwrap();
    let mut tickets = Vec::new();
    for number in 0..2000_u32 {
        tickets.push(publisher.enqueue_blocking(number.to_string()).unwrap());
    }
    for ticket in tickets {
        ticket.wait_blocking().unwrap();
    }
    while broker.queue("jobs").unwrap().floor < Offset(2000) {
        std::thread::yield_now();
    }
    broker.close().unwrap();
    let mut all: Vec<Offset> = workers
        .into_iter()
        .flat_map(|worker| worker.join().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..2000).map(Offset).collect::<Vec<_>>());
}

fn wall_us() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}
