//! Queues, cursors and consumers over real sockets.

use std::time::Duration;

use millstream_client::{
    Client, ConnectionError, ConsumeError, ConsumerOptions, DeadLetter, Effect, ErrorCode, Offset,
    QueueAction, QueueErrorCause, QueueMode, QueueOptions, QueueSettings, RecordState, Redrive,
    SettleError, Start, WhenFull,
};

use crate::fake::{Fake, Fate};

const SOON: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

async fn connected(bodies: &[&str]) -> (Fake, Client) {
    let fake = Fake::tcp();
    fake.queue("jobs", bodies);
    let client = Client::connect(&fake.address).await.unwrap();
    (fake, client)
}

/// Waits until what was sent has arrived.
async fn settled(fake: &Fake, fates: &[Fate]) {
    while fake.fates("jobs") != fates {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn queues_are_created_told_about_changed_and_deleted() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).await.unwrap();
    let options = QueueOptions::new()
        .topic("orders")
        .mode(QueueMode::Grouped)
        .start(Start::Latest)
        .lease(Duration::from_secs(5))
        .max_deliveries(3)
        .dead_letter(DeadLetter::Nowhere)
        .messages_max(10, WhenFull::Wait)
        .age_max(Duration::from_secs(60));
    let info = client.create_queue("jobs", options.clone()).await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.topic.as_str()),
        ("jobs", "orders")
    );
    assert_eq!((info.mode, info.own_topic), (QueueMode::Grouped, false));
    assert_eq!(
        (info.settings.lease_ms, info.settings.deliveries_max),
        (5000, 3)
    );
    assert_eq!(
        (info.settings.messages_max, info.settings.age_max_ms),
        (10, 60_000)
    );
    client.create_queue("jobs", options).await.unwrap();
    let error = client.create_queue("jobs", QueueOptions::new()).await;
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::QueueExists));
    let settings = QueueSettings {
        deliveries_max: 9,
        ..QueueSettings::default()
    };
    client.set_queue("jobs", settings.clone()).await.unwrap();
    assert_eq!(client.queue("jobs").await.unwrap().settings, settings);
    for name in ["a", "b", "c", "d"] {
        client
            .create_queue(name, QueueOptions::new())
            .await
            .unwrap();
    }
    let names: Vec<_> = client.queues().await.unwrap();
    let names: Vec<_> = names.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "jobs"], "two pages");
    assert_eq!(client.delete_queue("jobs").await, Ok(0));
    let error = client.queue("jobs").await.unwrap_err();
    assert_eq!(
        (error.action, error.code()),
        (QueueAction::Describe, Some(ErrorCode::QueueNotFound))
    );
    assert!(
        error
            .to_string()
            .contains("cannot describe the queue \"jobs\""),
        "{error}"
    );
    let error = client.consumer("jobs").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::QueueNotFound));
    let none = client
        .create_queue("a/b", QueueOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(none.cause, QueueErrorCause::Name(_)));
    let short = QueueOptions::new().lease(Duration::ZERO);
    let error = client.create_queue("e", short).await.unwrap_err();
    assert_eq!(
        (error.code(), error.effect()),
        (Some(ErrorCode::QueueSettings), Effect::NotApplied)
    );
}

#[tokio::test]
async fn queues_are_looked_into_paused_purged_and_redriven() {
    let (fake, client) = connected(&["a", "b", "c"]).await;
    let mut jobs = client
        .consumer_with("jobs", ConsumerOptions::new().prefetch(1))
        .await
        .unwrap();
    jobs.next().await.unwrap().unwrap().reject("bad address");
    let held = jobs.next().await.unwrap().unwrap();
    assert_eq!(fake.reasons("jobs"), ["bad address"]);
    let leases = client.leases("jobs", 10).await.unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!((leases[0].offset, leases[0].attempts), (Offset(1), 1));
    let peeked = client.peek_queue("jobs", Offset(1), 10).await.unwrap();
    let states: Vec<_> = peeked.iter().map(|record| record.state).collect();
    assert_eq!(states, [RecordState::Leased, RecordState::Ready]);
    client.pause_queue("jobs").await.unwrap();
    held.ack();
    assert!(jobs.receive(1, SOON).await.unwrap().is_empty());
    client.resume_queue("jobs").await.unwrap();
    assert_eq!(jobs.next().await.unwrap().unwrap().offset(), Offset(2));
    let redrive = Redrive::all().records_max(5).per_second(50);
    let redrive = redrive
        .reason("rejected")
        .source(crate::script::topic("jobs"))
        .key("c7");
    assert_eq!(client.redrive_queue("jobs", &redrive).await, Ok(1));
    assert_eq!(client.purge_queue("jobs").await, Ok(2));
}

#[tokio::test]
async fn cursors_are_set_shown_listed_and_deleted() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).await.unwrap();
    for (topic, name) in [("t", "a"), ("t", "b"), ("u", "a"), ("u", "b"), ("u", "c")] {
        let cursor = client.set_cursor(topic, name, Offset(7)).await.unwrap();
        assert_eq!((cursor.offset, cursor.end_offset), (Offset(7), Offset(100)));
    }
    let names = |cursors: Vec<millstream_client::CursorInfo>| -> Vec<String> {
        let name = |c: &millstream_client::CursorInfo| format!("{}/{}", c.topic, c.name);
        cursors.iter().map(name).collect()
    };
    let all = names(client.cursors(None).await.unwrap());
    assert_eq!(all, ["t/a", "t/b", "u/a", "u/b", "u/c"], "two pages");
    assert_eq!(
        names(client.cursors(Some("t")).await.unwrap()),
        ["t/a", "t/b"]
    );
    assert_eq!(
        client.cursor_info("t", "a").await.unwrap().offset,
        Offset(7)
    );
    client.delete_cursor("t", "a").await.unwrap();
    let error = client.cursor_info("t", "a").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::CursorNotFound));
    assert!(error.to_string().contains("\"t/a\""), "{error}");
}

#[tokio::test]
async fn deliveries_are_settled_in_every_way() {
    let (fake, client) = connected(&["ack", "reject", "retry", "later", "release", "drop"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    assert_eq!(
        (jobs.queue().as_str(), jobs.topic().as_str()),
        ("jobs", "t")
    );
    assert_eq!(jobs.lease(), Duration::from_secs(30));
    let mut seen = Vec::new();
    for _ in 0..6 {
        let delivery = jobs.next().await.unwrap().unwrap();
        assert_eq!(
            (delivery.attempts(), delivery.first_delivered_us()),
            (1, None)
        );
        seen.push(String::from_utf8(delivery.as_bytes().to_vec()).unwrap());
        match seen.last().unwrap().as_str() {
            "ack" => delivery.ack(),
            "reject" => delivery.reject("no such customer"),
            "retry" => delivery.retry(),
            "later" => delivery.retry_after(Duration::from_secs(1)),
            "release" => delivery.release(),
            _ => drop(delivery),
        }
    }
    assert_eq!(seen, ["ack", "reject", "retry", "later", "release", "drop"]);
    let mut again = Vec::new();
    for _ in 0..4 {
        let delivery = jobs.next().await.unwrap().unwrap();
        let body = String::from_utf8(delivery.as_bytes().to_vec()).unwrap();
        again.push((body, delivery.attempts()));
        delivery.ack_confirmed().await.unwrap();
    }
    let again: Vec<_> = again
        .iter()
        .map(|(body, attempts)| (body.as_str(), *attempts))
        .collect();
    assert_eq!(
        again,
        [("retry", 2), ("later", 2), ("release", 1), ("drop", 1)]
    );
    assert_eq!(fake.reasons("jobs"), ["no such customer"]);
    assert_eq!(jobs.lost(), 0);
}

#[tokio::test]
async fn settles_of_a_stretch_of_work_travel_together() {
    let bodies = vec!["x"; 64];
    let (fake, client) = connected(&bodies).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let first = jobs.next().await.unwrap().unwrap();
    let mut held = vec![first];
    while held.len() < 64 {
        held.push(jobs.next().await.unwrap().unwrap());
    }
    let last = held.pop().unwrap();
    held.into_iter().for_each(millstream_client::Delivery::ack);
    last.ack_confirmed().await.unwrap();
    assert_eq!(fake.settle_messages(), 1);
    assert_eq!(fake.fates("jobs"), [Fate::Acked; 64]);
}

#[tokio::test]
async fn a_late_settle_is_told_and_counted_and_changes_nothing() {
    let (fake, client) = connected(&["a", "b", "c"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    let b = jobs.next().await.unwrap().unwrap();
    let c = jobs.next().await.unwrap().unwrap();
    let token = c.token();
    assert!(token.lease_left() > Duration::from_secs(20));
    fake.take_leases("jobs");
    assert_eq!(a.ack_confirmed().await, Err(SettleError::LeaseLost));
    b.retry();
    token.extend(Duration::from_secs(60));
    while !token.is_over() {
        tokio::task::yield_now().await;
    }
    assert_eq!(c.ack_confirmed().await, Err(SettleError::LeaseLost));
    assert_eq!(jobs.lost(), 3, "the extension is not counted");
    assert_eq!(fake.fates("jobs"), [Fate::Leased; 3]);
}

#[tokio::test]
async fn a_lease_is_extended_from_elsewhere() {
    let (fake, client) = connected(&["a"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let delivery = jobs.next().await.unwrap().unwrap();
    let token = delivery.token();
    assert_eq!(token.offset(), Offset(0));
    let extending = tokio::spawn(async move { token.extend(Duration::from_secs(3600)) });
    extending.await.unwrap();
    assert!(delivery.lease_left() > Duration::from_secs(3000));
    delivery.extend(Duration::ZERO);
    assert!(
        delivery.lease_left() <= Duration::from_secs(30),
        "its usual lease"
    );
    delivery.ack_confirmed().await.unwrap();
    assert_eq!(fake.extended("jobs"), 2);
}

#[tokio::test]
async fn settling_one_record_of_a_lease_leaves_the_others_theirs() {
    let (_fake, client) = connected(&["a", "b", "c"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    let b = jobs.next().await.unwrap().unwrap();
    let token = a.token();
    a.ack();
    assert!(token.is_over());
    assert!(b.lease_left() > Duration::from_secs(20));
    b.extend(Duration::from_secs(3600));
    let c = jobs.next().await.unwrap().unwrap();
    assert!(c.lease_left() <= Duration::from_secs(30));
}

#[tokio::test]
async fn the_window_bounds_what_is_delivered_ahead() {
    let (fake, client) = connected(&["a", "b", "c", "d"]).await;
    let options = ConsumerOptions::new().prefetch(2).name("test");
    let mut jobs = client.consumer_with("jobs", options).await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    let b = jobs.next().await.unwrap().unwrap();
    assert!(jobs.receive(1, SOON).await.unwrap().is_empty());
    a.ack();
    let c = jobs.next().await.unwrap().unwrap();
    assert_eq!(c.offset(), Offset(2));
    jobs.set_window(3, 1 << 20);
    let d = jobs.next().await.unwrap().unwrap();
    drop((b, c, d));
    settled(
        &fake,
        &[Fate::Acked, Fate::Leased, Fate::Leased, Fate::Leased],
    )
    .await;
}

#[tokio::test]
async fn receive_takes_what_is_there_and_waits_for_the_first() {
    let (fake, client) = connected(&["a", "b", "c"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    // What comes in one message of work is here at once.
    let two = jobs.receive(2, LONG).await.unwrap();
    let bodies: Vec<_> = two
        .iter()
        .map(millstream_client::Delivery::as_bytes)
        .collect();
    assert_eq!(bodies, [b"a", b"b"]);
    let third = jobs.receive(9, LONG).await.unwrap();
    assert_eq!(third.len(), 1);
    assert!(jobs.receive(9, Duration::ZERO).await.unwrap().is_empty());
    let (late, ()) = tokio::join!(jobs.receive(9, LONG), async {
        tokio::task::yield_now().await;
        fake.enqueue("jobs", &["d"]);
    });
    assert_eq!(late.unwrap()[0].as_bytes(), b"d");
}

#[tokio::test]
async fn a_consumer_without_a_window_asks_for_what_it_takes() {
    let (fake, client) = connected(&["a", "b", "c"]).await;
    let options = ConsumerOptions::new().prefetch(0);
    let mut jobs = client.consumer_with("jobs", options).await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    settled(&fake, &[Fate::Leased, Fate::Ready, Fate::Ready]).await;
    a.ack();
    assert_eq!(jobs.receive(9, LONG).await.unwrap().len(), 2);
    settled(&fake, &[Fate::Acked, Fate::Ready, Fate::Ready]).await;
    let both = jobs.receive(9, Duration::ZERO).await.unwrap();
    both.into_iter().for_each(millstream_client::Delivery::ack);
    assert!(jobs.receive(1, Duration::ZERO).await.unwrap().is_empty());
    // The server keeps the time; what is over is asked for again while time is left.
    let (late, ()) = tokio::join!(jobs.receive(1, LONG), async {
        fake.end_receive();
        tokio::task::yield_now().await;
        fake.enqueue("jobs", &["d"]);
    });
    late.unwrap().remove(0).ack();
    let (late, ()) = tokio::join!(jobs.next(), async {
        fake.end_receive();
        tokio::task::yield_now().await;
        fake.enqueue("jobs", &["e"]);
    });
    assert_eq!(late.unwrap().unwrap().as_bytes(), b"e");
}

#[tokio::test]
async fn a_receive_that_was_cancelled_loses_nothing() {
    let (fake, client) = connected(&[]).await;
    let options = ConsumerOptions::new().prefetch(0);
    let mut jobs = client.consumer_with("jobs", options).await.unwrap();
    let cancelled = tokio::time::timeout(SOON, jobs.receive(1, LONG)).await;
    assert!(cancelled.is_err());
    // The one under way is the server's; this one has no time for it.
    assert!(jobs.receive(1, SOON).await.unwrap().is_empty());
    fake.enqueue("jobs", &["a"]);
    assert_eq!(jobs.receive(1, LONG).await.unwrap()[0].as_bytes(), b"a");
}

#[tokio::test]
async fn what_was_not_taken_goes_back_when_the_consumer_goes() {
    let (fake, client) = connected(&["a", "b", "c"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    jobs.close();
    settled(&fake, &[Fate::Leased, Fate::Ready, Fate::Ready]).await;
    // The delivery keeps the stream, and can be settled.
    a.ack_confirmed().await.unwrap();
    let mut jobs = client.consumer("jobs").await.unwrap();
    assert_eq!(jobs.next().await.unwrap().unwrap().attempts(), 1);
}

#[tokio::test]
async fn a_closed_client_sends_what_was_settled() {
    let (fake, client) = connected(&["a", "b"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    fake.hold_answers(true);
    jobs.next().await.unwrap().unwrap().ack();
    let (closed, ()) = tokio::join!(client.close(), async {
        settled(&fake, &[Fate::Acked, Fate::Leased]).await;
        fake.hold_answers(false);
    });
    closed.unwrap();
    let error = jobs.next().await.unwrap().unwrap_err();
    let ConsumeError::Connection { cause, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(cause, ConnectionError::ClosedHere);
    assert!(jobs.next().await.is_none());
}

#[tokio::test]
async fn a_deleted_queue_ends_its_consumers() {
    let (fake, client) = connected(&["a"]).await;
    let mut jobs = client.consumer("jobs").await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    fake.delete_queue("jobs");
    let error = jobs.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ConsumeError::QueueGone { .. }), "{error}");
    assert_eq!(error.code(), Some(ErrorCode::QueueNotFound));
    assert!(jobs.next().await.is_none());
    assert_eq!(a.ack_confirmed().await, Err(SettleError::QueueGone));
    assert_eq!(jobs.lost(), 1);
}

#[tokio::test]
async fn a_consumer_survives_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut fake = Fake::unix(&folder.path().join("socket"));
    fake.queue("jobs", &["a", "b"]);
    let client = Client::connect(&fake.address).await.unwrap();
    let one = ConsumerOptions::new().prefetch(1);
    let mut jobs = client.consumer_with("jobs", one.clone()).await.unwrap();
    let mut other = client.consumer_with("jobs", one).await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    let token = a.token();
    fake.kill();
    let restarting = std::thread::spawn(move || {
        fake.restart();
        fake
    });
    let again = jobs.next().await.unwrap().unwrap();
    let fake = restarting.join().unwrap();
    assert_eq!((again.as_bytes(), again.attempts()), (&b"a"[..], 2));
    // What the old connection leased is lost, and says so.
    assert!(token.is_over());
    assert_eq!(a.ack_confirmed().await, Err(SettleError::LeaseLost));
    assert_eq!((jobs.lost(), jobs.counts().reconnects), (1, 1));
    again.ack_confirmed().await.unwrap();
    let b = jobs.next().await.unwrap().unwrap();
    b.ack_confirmed().await.unwrap();
    // The other one uses the same new connection, and so do new requests.
    assert!(other.receive(1, SOON).await.unwrap().is_empty());
    assert_eq!(fake.hellos().len(), 2);
    assert_eq!(client.queue("jobs").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_settle_without_an_answer_is_unknown() {
    let (mut fake, client) = connected(&["a", "b"]).await;
    let options = ConsumerOptions::new().reconnect(false);
    let mut jobs = client.consumer_with("jobs", options).await.unwrap();
    let a = jobs.next().await.unwrap().unwrap();
    fake.hold_answers(true);
    let (told, ()) = tokio::join!(a.ack_confirmed(), async {
        settled(&fake, &[Fate::Acked, Fate::Leased]).await;
        fake.kill();
    });
    assert_eq!(told, Err(SettleError::Unknown));
    let error = jobs.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ConsumeError::Connection { .. }), "{error}");
    assert!(error.is_retriable());
    assert!(jobs.next().await.is_none());
    assert_eq!((jobs.lost(), jobs.counts().unanswered), (0, 1));
}

#[test]
fn every_word_of_queues_has_a_blocking_form() {
    let fake = Fake::tcp();
    let client = millstream_client::blocking::Client::connect(&fake.address).unwrap();
    client.create_queue("jobs", QueueOptions::new()).unwrap();
    fake.enqueue("jobs", &["a", "b", "c"]);
    assert_eq!(client.queue("jobs").unwrap().ready, 3);
    assert_eq!(client.queues().unwrap().len(), 1);
    let mut jobs = client.consumer("jobs").unwrap();
    let a = jobs.next().unwrap().unwrap();
    assert!(!a.lease_left().is_zero());
    a.ack_confirmed_blocking().unwrap();
    jobs.try_next().unwrap().unwrap().ack();
    let rest = jobs.receive(5, LONG).unwrap();
    assert_eq!(rest.len(), 1);
    drop(rest);
    client.pause_queue("jobs").unwrap();
    client.resume_queue("jobs").unwrap();
    client.leases("jobs", 5).unwrap();
    client.peek_queue("jobs", Offset(0), 5).unwrap();
    client.set_queue("jobs", QueueSettings::default()).unwrap();
    client.purge_queue("jobs").unwrap();
    client.set_cursor("t", "c", Offset(1)).unwrap();
    assert_eq!(client.cursors(None).unwrap().len(), 1);
    assert_eq!(client.cursor_info("t", "c").unwrap().offset, Offset(1));
    client.delete_cursor("t", "c").unwrap();
    client.delete_queue("jobs").unwrap();
    assert_eq!(jobs.lost(), 0);
    client.reconnect().unwrap();
    client.close().unwrap();
}

#[test]
fn a_blocking_consumer_survives_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut fake = Fake::unix(&folder.path().join("socket"));
    fake.queue("jobs", &["a"]);
    let client = millstream_client::blocking::Client::connect(&fake.address).unwrap();
    let mut jobs = client.consumer("jobs").unwrap();
    let a = jobs.next().unwrap().unwrap();
    fake.kill();
    fake.restart();
    let again = jobs.next().unwrap().unwrap();
    assert_eq!(again.attempts(), 2);
    drop(client);
    again.ack_confirmed_blocking().unwrap();
    assert_eq!(a.ack_confirmed_blocking(), Err(SettleError::LeaseLost));
}
