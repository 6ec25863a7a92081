//! Producers by the public API: what is published again is not there twice.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;

use millstream::{
    BatchBuilder, Broker, BrokerOptions, ConsumerOptions, Message, ProducerError, PublishError,
    Publisher, PublisherOptions, QueueOptions, Retention, Start, TopicError,
};

fn instance(broker: &Broker, topic: &str) -> Publisher {
    let options = PublisherOptions::new().producer("till-7");
    broker.publisher_with(topic, options).unwrap()
}

fn records(broker: &Broker, topic: &str) -> Vec<String> {
    let mut reader = broker.reader(topic, Start::Earliest).unwrap();
    let next = broker.topic(topic).unwrap().next_offset;
    let mut found = Vec::new();
    while reader.next_offset() < next {
        if let Some(Ok(record)) = reader.next_blocking() {
            found.push(String::from_utf8(record.as_bytes().to_vec()).unwrap());
        }
    }
    found
}

/// What is on disk while the broker runs: what a kill would leave. Its threads may be at work, so it is
/// copied again until no file came or went meanwhile.
fn killed(folder: &Path) -> tempfile::TempDir {
    loop {
        let before = names(folder);
        let copied = tempfile::tempdir().unwrap();
        let whole = copy(folder, copied.path()).is_ok();
        if whole && names(folder) == before {
            return copied;
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&to)?;
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Every file, and what the manifest says.
fn names(folder: &Path) -> (Vec<std::path::PathBuf>, Vec<u8>) {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
            names.push(entry.path());
        }
    }
    names.sort();
    (
        names,
        std::fs::read(folder.join("manifest")).unwrap_or_default(),
    )
}

#[test]
fn each_record_is_there_once_however_often_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let mut publisher = instance(&broker, "orders");
    assert_eq!(publisher.producer().unwrap().last_sequence, 0);
    let first = publisher.publish_blocking("a").unwrap();
    let mut batch = BatchBuilder::new();
    for body in ["b", "c"] {
        batch.push(&Message::new(body)).unwrap();
    }
    let second = publisher.publish_batch_blocking(&batch).unwrap();
    for again in 0..3 {
        publisher.set_sequence(1);
        let receipt = publisher.publish_blocking("a").unwrap();
        assert_eq!((receipt.first, receipt.duplicate), (first.first, true));
        let receipt = publisher.publish_batch_blocking(&batch).unwrap();
        assert_eq!((receipt.first, receipt.last), (second.first, second.last));
        let filled = publisher
            .try_publish_with(1, |room| room.put(b"d"))
            .unwrap();
        assert_eq!(filled.duplicate, again > 0);
    }
    // One that goes on numbering by itself.
    let mut newer = instance(&broker, "orders");
    assert_eq!(newer.producer().unwrap().last_sequence, 4);
    let clone = newer.clone();
    for mut publisher in [newer.clone(), clone] {
        assert!(!publisher.publish_blocking("e").unwrap().duplicate);
    }
    newer.publish_blocking(Message::new("f").key("k")).unwrap();
    assert_eq!(
        records(&broker, "orders"),
        ["a", "b", "c", "d", "e", "e", "f"]
    );
    drop(broker);
    let copy = killed(folder.path());
    let broker = Broker::open(copy.path()).unwrap();
    assert_eq!(
        instance(&broker, "orders")
            .producer()
            .unwrap()
            .last_sequence,
        7
    );
}

#[test]
fn what_a_producer_may_not_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let mut publisher = instance(&broker, "orders");
    let epoch = publisher.producer().unwrap().epoch;
    publisher.publish_blocking("a").unwrap();
    let refused = |publisher: &mut Publisher, sequence: u64, body: Message| {
        publisher.set_sequence(sequence);
        match publisher.publish_blocking(body) {
            Err(PublishError::Producer(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = refused(&mut publisher, 1, "b".into());
    assert_eq!(error, ProducerError::SequenceReused { sequence: 1 });
    let error = refused(&mut publisher, 3, "b".into());
    assert_eq!(error, ProducerError::OutOfSequence { expected: 2 });
    let error = refused(&mut publisher, 2, Message::new("b").id("b"));
    assert_eq!(error, ProducerError::Ids);
    let newer = instance(&broker, "orders");
    let current = newer.producer().unwrap().epoch;
    let fenced = ProducerError::Fenced {
        ours: epoch,
        current,
    };
    assert_eq!(refused(&mut publisher, 2, "b".into()), fenced);
    let options = PublisherOptions::new().producer("till-7").epoch(epoch);
    let error = broker.publisher_with("orders", options).unwrap_err();
    assert_eq!(error, TopicError::Producer(fenced));
    let options = PublisherOptions::new().producer("till/7");
    assert!(matches!(
        broker.publisher_with("orders", options),
        Err(TopicError::Name(_))
    ));
    assert_eq!(records(&broker, "orders"), ["a"]);
}

#[test]
fn segments_that_a_queue_drops_take_no_producer_along() {
    let folder = tempfile::tempdir().unwrap();
    let broker = BrokerOptions::new()
        .segment_bytes_first(1 << 20)
        .segment_bytes_max(1 << 20)
        .open(folder.path())
        .unwrap();
    broker.create_queue("jobs", QueueOptions::new()).unwrap();
    let mut publisher = instance(&broker, "jobs");
    let epoch = publisher.producer().unwrap().epoch;
    let body = vec![7; 100_000];
    for _ in 0..100 {
        publisher.publish_blocking(body.clone()).unwrap();
    }
    let mut consumer = broker.consumer("jobs", ConsumerOptions::new()).unwrap();
    for _ in 0..100 {
        consumer.next_blocking().unwrap().unwrap().ack();
    }
    // Dropped behind our back; the test's own time limit is the bound.
    while broker.topic("jobs").unwrap().segments > 2 {
        std::thread::yield_now();
    }
    let copy = killed(folder.path());
    broker.close().unwrap();
    for path in [copy.path(), folder.path()] {
        let broker = Broker::open(path).unwrap();
        let options = PublisherOptions::new().producer("till-7").epoch(epoch);
        let mut publisher = broker.publisher_with("jobs", options).unwrap();
        assert_eq!(publisher.producer().unwrap().last_sequence, 100);
        publisher.set_sequence(1);
        let receipt = publisher.publish_blocking(body.clone()).unwrap();
        assert_eq!((receipt.first.0, receipt.duplicate), (0, true));
    }
}

#[test]
fn segments_that_retention_lets_go_take_no_producer_along() {
    let folder = tempfile::tempdir().unwrap();
    let broker = BrokerOptions::new()
        .segment_bytes_first(1 << 20)
        .segment_bytes_max(1 << 20)
        .open(folder.path())
        .unwrap();
    let mut publisher = instance(&broker, "t");
    publisher.publish_blocking("first").unwrap();
    let newest = Retention {
        bytes: 1,
        ..Retention::KEEP_ALL
    };
    broker.set_retention("t", newest).unwrap();
    let mut others = broker.publisher("t").unwrap();
    // Behind our back; the test's own time limit is the bound.
    while broker.topic("t").unwrap().first_offset.0 == 0 {
        others.publish_blocking(vec![7; 100_000]).unwrap();
    }
    let left = killed(folder.path());
    drop((publisher, others, broker));
    let broker = Broker::open(left.path()).unwrap();
    assert!(broker.topic("t").unwrap().first_offset.0 > 0);
    let known = instance(&broker, "t").producer().unwrap();
    assert_eq!((known.last_sequence, known.known), (1, true));
}

#[test]
fn a_topic_made_again_under_the_name_knows_no_producer() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    instance(&broker, "orders").publish_blocking("a").unwrap();
    broker.delete_topic("orders").unwrap();
    let publisher = instance(&broker, "orders");
    let told = publisher.producer().unwrap();
    assert_eq!((told.last_sequence, told.known), (0, false));
}
