//! Connections carried by whoever uses them.

use std::time::Duration;

use millstream_client::{Client, ConnectOptions, Driver, Effect, Offset};

use crate::fake::Fake;
use crate::over_sockets::publish_and_read;

async fn driven(options: &ConnectOptions) -> (Fake, Client, Driver) {
    let fake = Fake::tcp();
    let (client, driver) = Client::connect_driven(&fake.address, options)
        .await
        .unwrap();
    (fake, client, driver)
}

/// Waits until it is so; others do the rest.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.expect("it never is");
}

#[tokio::test]
async fn what_is_published_is_read_where_the_caller_carries_the_connection() {
    for time in [Duration::ZERO, Duration::from_millis(1)] {
        let (fake, client, mut driver) = driven(&ConnectOptions::new().poll(time)).await;
        driver.run_until(publish_and_read(&fake, &client)).await;
        driver.run_until(client.close()).await.unwrap();
        driver.await;
        // It was sent; the server may be about to read it.
        until(|| fake.goodbyes() == 1).await;
    }
}

#[tokio::test]
async fn what_was_put_in_is_sent_by_the_call_that_put_it() {
    let (fake, client, mut driver) = driven(&ConnectOptions::new()).await;
    let mut publisher = driver.run_until(client.publisher("t")).await.unwrap();
    let ticket = driver.run_until(publisher.enqueue("x")).await.unwrap();
    // Nobody polls the connection here.
    until(|| fake.bodies("t").len() == 1).await;
    let receipt = driver.run_until(ticket).await.unwrap();
    assert_eq!(receipt.first, Offset(0));
}

/// As much as a task of the runtime may do in one turn, and more.
#[tokio::test]
async fn much_that_was_put_in_is_sent_too() {
    let (fake, client, mut driver) = driven(&ConnectOptions::new()).await;
    let mut publisher = driver.run_until(client.publisher("t")).await.unwrap();
    for count in [512, 5_000] {
        let before = fake.bodies("t").len();
        // A turn of its own, so that it has all of what a turn may do.
        tokio::task::yield_now().await;
        let tickets = driver.run_until(async {
            let mut tickets = Vec::new();
            for _ in 0..count {
                tickets.push(publisher.enqueue("x").await.unwrap());
            }
            tickets
        });
        let tickets = tickets.await;
        // The socket has room for all of it.
        until(|| fake.bodies("t").len() == before + count).await;
        for ticket in tickets {
            driver.run_until(ticket).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_driver_may_become_a_task_of_its_own() {
    let (fake, client, mut driver) = driven(&ConnectOptions::new()).await;
    driver.run_until(client.topics()).await.unwrap();
    let carried = tokio::spawn(driver);
    // It is polled there with nothing to send; who has something wakes it, and not who carried it before.
    tokio::task::yield_now().await;
    publish_and_read(&fake, &client).await;
    client.close().await.unwrap();
    carried.await.unwrap();
}

#[tokio::test]
async fn a_driver_that_goes_ends_its_connection() {
    let (fake, client, mut driver) = driven(&ConnectOptions::new()).await;
    fake.hold_acks(true);
    let mut publisher = driver.run_until(client.publisher("t")).await.unwrap();
    let ticket = driver.run_until(publisher.enqueue("x")).await.unwrap();
    drop(driver);
    let error = ticket.await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    let error = publisher.publish("y").await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert_eq!(error.effect(), Effect::NotApplied);
}

#[tokio::test]
async fn what_is_waited_for_comes_to_its_end_where_the_connection_does() {
    let (mut fake, client, mut driver) = driven(&ConnectOptions::new()).await;
    fake.hold_acks(true);
    let mut publisher = driver.run_until(client.publisher("t")).await.unwrap();
    let ticket = driver.run_until(publisher.enqueue("x")).await.unwrap();
    fake.kill();
    let error = driver.run_until(ticket).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(driver.run_until(async { 7 }).await, 7);
    driver.await;
}
