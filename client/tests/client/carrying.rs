//! Connections carried by the thread that waits, without async.

use std::time::Duration;

use millstream_client::blocking::Driver;
use millstream_client::{Client, ConnectError, ConnectOptions, Effect, Offset, Start};
use tokio::sync::oneshot;

use crate::fake::{Fake, Fault};
use crate::over_sockets::publish_and_read;

/// Long enough that it is over only where what is waited for never comes.
const LONG: Duration = Duration::from_secs(60);

fn carried(fake: &Fake, options: &ConnectOptions) -> (Client, Driver) {
    Driver::connect(&fake.address, options).unwrap()
}

/// Lets others run until it is so.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_published_is_read_by_one_thread() {
    let folder = tempfile::tempdir().unwrap();
    for poll in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
        let path = folder.path().join(format!("{}", poll.as_millis()));
        for fake in [Fake::tcp(), Fake::unix(&path)] {
            let (client, mut driver) = carried(&fake, &ConnectOptions::new().poll(poll));
            driver.run_until(publish_and_read(&fake, &client));
            driver.run_until(client.close()).unwrap();
            until(|| fake.goodbyes() == 1);
        }
    }
}

#[test]
fn nobody_there_is_told_as_by_the_other_clients() {
    let mut fake = Fake::tcp();
    fake.kill();
    let error = Driver::connect(&fake.address, &ConnectOptions::new()).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[test]
fn what_was_put_in_is_with_the_socket_when_the_call_returns() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    for count in [1, 5_000] {
        let before = fake.bodies("t").len();
        let tickets = driver.run_until(async {
            let mut tickets = Vec::new();
            for _ in 0..count {
                tickets.push(publisher.enqueue("x").await.unwrap());
            }
            tickets
        });
        // Nobody carries the connection here; the socket has room for all of it.
        until(|| fake.bodies("t").len() == before + count);
        for (number, ticket) in tickets.into_iter().enumerate() {
            let receipt = driver.run_until(ticket).unwrap();
            assert_eq!(receipt.first, Offset((before + number) as u64));
        }
    }
}

#[test]
fn more_than_the_socket_takes_at_once_goes_on_its_way_in_both_directions() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let bodies: Vec<_> = (0..32_u8).map(|n| vec![n; 1 << 20]).collect();
    driver.run_until(async {
        let mut tickets = Vec::new();
        for body in &bodies {
            tickets.push(publisher.enqueue(body.clone()).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
    });
    let opened = client.reader("t", Start::Earliest);
    let mut reader = driver.run_until(opened).unwrap();
    for body in &bodies {
        let record = driver.run_until(reader.next()).unwrap().unwrap();
        assert_eq!(record.as_bytes(), body);
    }
}

/// As much as a future may do in one turn, and more; its turn ends, and what it put in goes out.
#[test]
fn a_future_that_never_waits_lets_the_connection_have_its_turn() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    driver.run_until(async {
        for _ in 0..600 {
            drop(publisher.enqueue("x").await.unwrap());
        }
        until(|| fake.bodies("t").len() >= 500);
    });
    // As many at once have not done that to those behind them.
    let receipt = driver.run_until(publisher.publish("y")).unwrap();
    assert_eq!(receipt.first, Offset(600));
}

#[test]
fn async_code_of_the_same_thread_has_its_own_turns() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    driver.run_until(client.topics()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&fake.address).await.unwrap();
        let mut publisher = client.publisher("t").await.unwrap();
        for _ in 0..5_000 {
            drop(publisher.enqueue("x").await.unwrap());
        }
        let receipt = publisher.publish("y").await.unwrap();
        assert_eq!(receipt.first, Offset(5_000));
    });
}

#[test]
fn a_runtime_inside_of_a_future_goes_on() {
    let fake = Fake::tcp();
    let (_client, mut driver) = carried(&fake, &ConnectOptions::new());
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let inside = runtime.block_on(Client::connect(&fake.address)).unwrap();
    let mut publisher = runtime.block_on(inside.publisher("t")).unwrap();
    driver.run_until(async {
        runtime.block_on(async {
            for _ in 0..2_000 {
                drop(publisher.enqueue("x").await.unwrap());
            }
        });
    });
    let receipt = runtime.block_on(publisher.publish("y")).unwrap();
    assert_eq!(receipt.first, Offset(2_000));
}

#[tokio::test]
#[should_panic(expected = "runtime")]
async fn in_an_async_runtime_it_panics() {
    let fake = Fake::tcp();
    let (_client, mut driver) = carried(&fake, &ConnectOptions::new());
    driver.run_until(std::future::ready(()));
}

#[test]
fn what_was_given_to_a_new_connection_is_sent_although_all_handles_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut fake = Fake::unix(&folder.path().join("socket"));
    for round in 1..=20 {
        let (client, mut driver) = carried(&fake, &ConnectOptions::new());
        fake.kill();
        driver.run_for(LONG, client.topics()).unwrap().unwrap_err();
        fake.restart();
        driver.run_for(LONG, client.reconnect()).unwrap().unwrap();
        let opened = driver.run_for(LONG, client.publisher("t"));
        let mut publisher = opened.unwrap().unwrap();
        drop(driver.run_until(publisher.enqueue("x")).unwrap());
        drop((client, publisher, driver));
        until(|| fake.goodbyes() == round);
        assert_eq!(fake.bodies("t").len(), round);
    }
}

/// The server says nothing meanwhile: room in the socket is all there is to wake it.
#[test]
fn what_the_socket_did_not_take_follows_as_it_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::unix(&folder.path().join("socket"));
    fake.hold_acks(true);
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let bodies: Vec<_> = (0..6_u8).map(|n| vec![n; 1 << 20]).collect();
    driver.run_until(async {
        for body in &bodies {
            drop(publisher.enqueue(body.clone()).await.unwrap());
        }
    });
    let (there, is_there) = oneshot::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until(|| fake.bodies("t").len() == bodies.len());
            there.send(()).unwrap();
        });
        driver.run_for(LONG, is_there).unwrap().unwrap();
    });
    assert_eq!(fake.bodies("t"), bodies);
}

#[test]
fn a_time_ends_a_wait_and_nothing_is_lost_by_it() {
    let fake = Fake::tcp();
    for poll in [Duration::ZERO, Duration::from_millis(1)] {
        let (client, mut driver) = carried(&fake, &ConnectOptions::new().poll(poll));
        let mut publisher = driver.run_until(client.publisher("t")).unwrap();
        let opened = client.reader("t", Start::Latest);
        let mut reader = driver.run_until(opened).unwrap();
        for number in 0..20_u8 {
            for time in [Duration::ZERO, Duration::from_micros(50)] {
                assert!(driver.run_for(time, reader.next()).is_none());
            }
            let ticket = driver.run_until(publisher.enqueue(&[number])).unwrap();
            let record = driver.run_for(LONG, reader.next()).unwrap();
            assert_eq!(record.unwrap().unwrap().as_bytes(), [number]);
            driver.run_for(LONG, ticket).unwrap().unwrap();
        }
    }
}

#[test]
fn what_is_there_is_taken_without_any_time() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let mut ticket = driver.run_until(publisher.enqueue("x")).unwrap();
    let receipt = loop {
        if let Some(receipt) = driver.run_for(Duration::ZERO, &mut ticket) {
            break receipt;
        }
    };
    assert_eq!(receipt.unwrap().first, Offset(0));
}

/// Where a wake-up from another thread was lost, this would wait for ever.
#[test]
fn another_thread_wakes_it() {
    let fake = Fake::tcp();
    for poll in [Duration::ZERO, Duration::from_micros(20)] {
        let (_client, mut driver) = carried(&fake, &ConnectOptions::new().poll(poll));
        let (give, given) = std::sync::mpsc::channel::<oneshot::Sender<u32>>();
        let other = std::thread::spawn(move || {
            for (number, answer) in (0..).zip(given) {
                answer.send(number).unwrap();
            }
        });
        for number in 0..2_000 {
            let (answer, answered) = oneshot::channel();
            give.send(answer).unwrap();
            assert_eq!(driver.run_for(LONG, answered), Some(Ok(number)));
        }
        drop(give);
        other.join().unwrap();
    }
}

#[test]
fn what_another_thread_sends_goes_out_while_this_one_waits() {
    let fake = Fake::tcp();
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let mut reader = driver
        .run_until(client.reader("t", Start::Earliest))
        .unwrap();
    let other = std::thread::spawn(move || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for number in 0..200_u8 {
            let body = [number];
            let enqueued = std::pin::pin!(publisher.enqueue(&body));
            let taken = std::future::Future::poll(enqueued, &mut cx);
            assert!(matches!(taken, std::task::Poll::Ready(Ok(_))));
        }
        publisher
    });
    for number in 0..200_u8 {
        let record = driver.run_for(LONG, reader.next()).unwrap();
        assert_eq!(record.unwrap().unwrap().as_bytes(), [number]);
    }
    other.join().unwrap();
}

#[test]
fn a_future_that_wakes_itself_is_polled_again() {
    let fake = Fake::tcp();
    let (_client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut polls = 0;
    let turns = std::future::poll_fn(|cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        match polls {
            100 => std::task::Poll::Ready(polls),
            _ => std::task::Poll::Pending,
        }
    });
    assert_eq!(driver.run_for(LONG, turns), Some(100));
}

#[test]
fn a_request_without_an_answer_is_given_up() {
    let fake = Fake::tcp();
    fake.fault(Fault::Mute);
    let options = ConnectOptions::new().request_timeout(Duration::from_millis(20));
    let (client, mut driver) = carried(&fake, &options);
    let error = driver.run_for(LONG, client.topics()).unwrap().unwrap_err();
    assert!(error.to_string().contains("20 ms"), "{error}");
}

#[test]
fn a_driver_that_goes_ends_its_connection() {
    let fake = Fake::tcp();
    fake.hold_acks(true);
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let ticket = driver.run_until(publisher.enqueue("x")).unwrap();
    drop(driver);
    let (_other, mut another) = carried(&fake, &ConnectOptions::new());
    let error = another.run_until(ticket).unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    let error = another.run_until(publisher.publish("y")).unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
}

#[test]
fn where_the_connection_ends_waiting_does_and_a_new_one_is_carried_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let mut fake = Fake::unix(&folder.path().join("socket"));
    fake.hold_acks(true);
    let (client, mut driver) = carried(&fake, &ConnectOptions::new());
    let mut publisher = driver.run_until(client.publisher("t")).unwrap();
    let ticket = driver.run_until(publisher.enqueue("x")).unwrap();
    fake.kill();
    let error = driver.run_for(LONG, ticket).unwrap().unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    let mut polls = 0;
    let never = std::future::poll_fn(|_| {
        polls += 1;
        std::task::Poll::<()>::Pending
    });
    assert_eq!(driver.run_for(Duration::from_millis(20), never), None);
    assert!(polls < 4, "what is over kept it awake: {polls} polls");
    assert_eq!(driver.run_until(async { 7 }), 7);

    fake.hold_acks(false);
    fake.restart();
    driver.run_for(LONG, client.reconnect()).unwrap().unwrap();
    let mut publisher = driver
        .run_for(LONG, client.publisher("t"))
        .unwrap()
        .unwrap();
    driver
        .run_for(LONG, publisher.publish("y"))
        .unwrap()
        .unwrap();
    driver.run_for(LONG, client.close()).unwrap().unwrap();
}
