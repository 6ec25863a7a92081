//! The blocking client over real sockets.

use millstream_client::blocking::Client;
use millstream_client::{
    BatchBuilder, ConnectError, Durability, Effect, ErrorCode, Offset, PublisherOptions,
    ReaderOptions, Retention, Start, TopicOptions,
};
use millstream_protocol::control::features;

use crate::fake::{Fake, Fault};

#[test]
fn every_word_has_a_blocking_form() {
    let fake = Fake::tcp();
    fake.offer(features::RETENTION);
    let client = Client::connect(&fake.address).unwrap();
    assert_eq!(client.server().server, "script");
    client.create_topic("t", TopicOptions::new()).unwrap();
    assert_eq!(client.topics().unwrap().len(), 1);
    assert_eq!(client.topics_after(None).unwrap().topics.len(), 1);
    let mut publisher = client.publisher_with("t", PublisherOptions::new()).unwrap();
    assert_eq!(
        (publisher.topic().as_str(), publisher.level()),
        ("t", Durability::Synced)
    );
    assert_eq!(publisher.publish("a").unwrap().first, Offset(0));
    let ticket = publisher.enqueue("b").unwrap();
    assert_eq!(ticket.wait().unwrap().first, Offset(1));
    let ticket = publisher.enqueue_body(b"c").unwrap();
    assert_eq!(ticket.wait().unwrap().first, Offset(2));
    let mut batch = BatchBuilder::new();
    batch.push_body(b"d").unwrap();
    assert_eq!(publisher.publish_batch(&batch).unwrap().last, Offset(3));
    batch.push_body(b"d").unwrap();
    assert_eq!(
        publisher
            .enqueue_batch(&batch)
            .unwrap()
            .wait()
            .unwrap()
            .last,
        Offset(5)
    );
    assert_eq!(client.topic("t").unwrap().next_offset, Offset(6));

    let mut reader = client
        .reader_with("t", Start::Earliest, ReaderOptions::new())
        .unwrap();
    assert_eq!(
        (reader.start_offset(), reader.end_offset()),
        (Offset(0), Offset(6))
    );
    assert_eq!(
        (reader.topic().as_str(), reader.incarnation()),
        ("t", [1; 16])
    );
    reader.stop_at(reader.end_offset());
    assert_eq!(reader.next().unwrap().unwrap().as_bytes(), b"a");
    let mut read = Vec::new();
    while let Some(run) = reader.next_run() {
        for record in run {
            read.extend_from_slice(record.unwrap().as_bytes());
        }
    }
    assert_eq!(read, b"bcddd");
    assert_eq!(reader.next_offset(), Offset(6));
    assert!(reader.try_next().is_none() && reader.next().is_none());
    let newest = Retention {
        bytes: 1 << 20,
        ..Retention::KEEP_ALL
    };
    client.set_retention("t", newest).unwrap();
    assert_eq!(client.retention("t"), Ok(newest));
    client.delete_topic("t").unwrap();
    client.close().unwrap();
}

#[test]
fn a_reader_blocks_until_something_comes() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    let mut reader = client.reader("t", Start::Earliest).unwrap();
    let reading = std::thread::spawn(move || reader.next().unwrap().unwrap().into_body());
    publisher.publish("late").unwrap();
    assert_eq!(reading.join().unwrap(), "late");
}

#[test]
fn enqueueing_blocks_while_the_window_is_full() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    fake.hold_acks(true);
    let tickets: Vec<_> = (0..8)
        .map(|_| publisher.enqueue(vec![1; 1 << 20]).unwrap())
        .collect();
    let late = std::thread::spawn(move || publisher.enqueue("late").unwrap().wait());
    fake.hold_acks(false);
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(late.join().unwrap().unwrap().first, Offset(8));
}

#[test]
fn threads_share_a_client() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let client = client.clone();
            scope.spawn(move || {
                let mut publisher = client.publisher("t").unwrap();
                let tickets: Vec<_> = (0..200_u8)
                    .map(|n| publisher.enqueue(&[thread, n]).unwrap())
                    .collect();
                for ticket in tickets {
                    ticket.wait().unwrap();
                }
            });
        }
    });
    let bodies = fake.bodies("t");
    assert_eq!(bodies.len(), 800);
    for thread in 0..4 {
        let numbers: Vec<_> = bodies
            .iter()
            .filter(|body| body[0] == thread)
            .map(|body| body[1])
            .collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn handles_outlive_their_connection() {
    let mut fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    let mut reader = client.reader("t", Start::Earliest).unwrap();
    fake.kill();
    assert!(publisher.publish("a").is_err());
    assert!(reader.next().unwrap().is_err());
    assert!(client.topics().is_err());
    assert!(client.create_topic("t", TopicOptions::new()).is_err());
}

#[test]
fn what_was_enqueued_is_published_although_all_handles_are_gone() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    for _ in 0..10 {
        drop(publisher.enqueue("a").unwrap());
    }
    drop((client, publisher));
    while fake.goodbyes() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(fake.bodies("t").len(), 10);
}

#[test]
fn errors_are_those_of_the_async_form() {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    fake.fault(Fault::Refuse(ErrorCode::StorageFull));
    let error = publisher.publish("a").unwrap_err();
    assert_eq!(
        (error.effect(), error.is_retriable()),
        (Effect::NotApplied, true)
    );
    publisher.publish("b").unwrap();
    fake.fault(Fault::Refuse(ErrorCode::StorageFull));
    assert!(publisher.enqueue("c").unwrap().wait().is_err());
    assert_eq!(
        publisher.enqueue("d").unwrap().wait().unwrap().first,
        Offset(1)
    );
    let error = publisher.enqueue_batch(&BatchBuilder::new()).unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
    let error = Client::connect("nonsense").unwrap_err();
    assert!(matches!(error, ConnectError::Address(_)));
    let error = Client::connect("millstream+unix:///nowhere/at/all").unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }));
}

#[test]
fn a_unix_socket_carries_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::unix(&folder.path().join("socket"));
    let client = Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    publisher.publish(vec![1; 1 << 20]).unwrap();
    let mut reader = client.reader("t", Start::Earliest).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().as_bytes(), vec![1; 1 << 20]);
}
