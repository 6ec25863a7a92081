//! A topic as an embedder uses it: publish, read back, restart, read again.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

use millstream::{
    AckLevel, BatchBuilder, Broker, BrokerOptions, Durability, Message, Offset, PublisherOptions,
    ReadError, Reader, Record, Start, TopicOptions,
};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

fn read_all(broker: &Broker, topic: &str, start: Start) -> Vec<(u64, Vec<u8>)> {
    let mut reader = broker.reader(topic, start).unwrap();
    let end = reader.high_watermark();
    let mut found = Vec::new();
    while reader.next_offset() < end {
        let record = reader.next_blocking().unwrap().unwrap();
        found.push((record.offset().0, record.as_bytes().to_vec()));
    }
    found
}

#[test]
fn what_was_published_is_read_back_also_after_a_restart() -> Result {
    let folder = tempfile::tempdir()?;
    let mut expected = Vec::new();
    for round in 0..3 {
        let broker = Broker::open(folder.path())?;
        assert!(
            broker.recovery().is_empty(),
            "a clean stop needs no recovery"
        );

        let mut orders = broker.publisher("orders")?;
        for number in 0..100 {
            let body = format!("single {round} {number}");
            let receipt = orders.publish_blocking(body.clone())?;
            expected.push((receipt.first.0, body.into_bytes()));
        }
        let mut batch = BatchBuilder::new();
        for number in 0..200 {
            let body = format!("batch {round} {number}");
            batch.push(&Message::new(body.clone()).key("k"))?;
            expected.push((expected.len() as u64, body.into_bytes()));
        }
        let receipt = orders.publish_batch_blocking(&batch)?;
        assert_eq!(receipt.last.0 - receipt.first.0, 199);
        assert_eq!(read_all(&broker, "orders", Start::Earliest), expected);
        broker.close()?;
    }
    let broker = Broker::open(folder.path())?;
    assert_eq!(read_all(&broker, "orders", Start::Earliest), expected);
    let from = read_all(&broker, "orders", Start::Offset(Offset(450)));
    assert_eq!(from, expected[450..]);
    Ok(())
}

/// Flips a bit of `body` where it lies in a segment below `folder`.
fn damage(folder: &Path, body: &[u8]) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            damage(&path, body)?;
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            let mut bytes = fs::read(&path)?;
            let found = bytes.windows(body.len()).position(|at| at == body);
            if let Some(place) = found {
                bytes[place] ^= 1;
                fs::write(&path, bytes)?;
            }
        }
    }
    Ok(())
}

#[test]
fn each_way_to_read_gives_the_same_records_and_tells_of_the_same_gap() -> Result {
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    let mut publisher = broker.publisher("t")?;
    for number in 0..300 {
        publisher.publish_blocking(format!("record {number:04} {}", "x".repeat(200)))?;
    }
    let mut batch = BatchBuilder::new();
    for number in 300..400 {
        batch.push(&Message::new(format!("record {number:04}")).key("k"))?;
    }
    publisher.publish_batch_blocking(&batch)?;
    drop(publisher);
    broker.close()?;
    damage(folder.path(), b"record 0150")?;

    let broker = Broker::open(folder.path())?;
    let read = |next: fn(&mut Reader) -> Option<Seen>| {
        let mut reader = broker.reader("t", Start::Earliest).unwrap();
        let end = reader.high_watermark();
        let mut seen = Vec::new();
        while reader.next_offset() < end {
            // Nothing at this moment: its pages are brought in.
            match next(&mut reader) {
                Some(found) => seen.push(found),
                None => std::thread::yield_now(),
            }
        }
        seen
    };
    let waiting = read(|reader| reader.next_blocking().map(|next| seen(next.as_ref())));
    let owned = read(|reader| reader.try_next().map(|next| seen(next.as_ref())));
    let borrowed = read(|reader| {
        let next = reader.try_next_view()?;
        Some(next.map_err(|error| error.to_string()).map(|record| {
            let key = record.key().map(<[u8]>::to_vec);
            (record.offset().0, record.as_bytes().to_vec(), key)
        }))
    });
    let gaps = waiting.iter().filter(|seen| seen.is_err()).count();
    assert_eq!(gaps, 1, "{waiting:?}");
    assert!(waiting.len() > 200, "{}", waiting.len());
    assert_eq!(owned, waiting);
    assert_eq!(borrowed, waiting);
    Ok(())
}

/// Offset, body and key of a record, or what was told in its place.
type Seen = std::result::Result<(u64, Vec<u8>, Option<Vec<u8>>), String>;

fn seen(next: std::result::Result<&Record, &ReadError>) -> Seen {
    let record = next.map_err(ToString::to_string)?;
    let key = record.key().map(|key| key.to_vec());
    Ok((record.offset().0, record.as_bytes().to_vec(), key))
}

#[test]
fn segments_rotate_under_two_publishers_and_nothing_is_lost() -> Result {
    let folder = tempfile::tempdir()?;
    let broker = BrokerOptions::new()
        .segment_bytes_first(1 << 20)
        .segment_bytes_max(1 << 20)
        .open(folder.path())?;
    broker.create_topic("t", TopicOptions::new().durability(Durability::Stored))?;
    std::thread::scope(|scope| {
        for who in 0..2_u8 {
            let mut publisher = broker.publisher("t").unwrap();
            scope.spawn(move || {
                let mut last = None;
                for number in 0..3000_u32 {
                    let mut body = vec![who; 1000 + (number as usize % 7) * 100];
                    body[1..5].copy_from_slice(&number.to_le_bytes());
                    last = Some(publisher.enqueue_blocking(body).unwrap());
                }
                last.unwrap().wait_blocking().unwrap();
            });
        }
    });
    let check = |broker: &Broker| {
        let all = read_all(broker, "t", Start::Earliest);
        assert_eq!(all.len(), 6000);
        for who in 0..2_u8 {
            let numbers: Vec<u32> = all
                .iter()
                .filter(|(_, body)| body[0] == who)
                .map(|(_, body)| u32::from_le_bytes(body[1..5].try_into().unwrap()))
                .collect();
            assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
        }
    };
    check(&broker);
    assert!(broker.topic("t")?.segments > 3);
    broker.close()?;
    check(&Broker::open(folder.path())?);
    Ok(())
}

#[test]
fn a_reader_waits_for_what_comes() -> Result {
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    broker.create_topic("t", TopicOptions::new())?;
    let mut reader = broker.reader("t", Start::Latest)?;
    assert!(reader.try_next().is_none());
    let there = std::thread::spawn(move || {
        let record = reader.next_blocking().unwrap().unwrap();
        (record.offset(), record.body())
    });
    let mut publisher =
        broker.publisher_with("t", PublisherOptions::new().ack(AckLevel::Stored))?;
    publisher.publish_blocking("late")?;
    assert_eq!(there.join().unwrap(), (Offset(0), "late".into()));
    Ok(())
}

#[test]
fn a_start_by_time_finds_the_first_record_at_or_after_it() -> Result {
    let folder = tempfile::tempdir()?;
    let broker = BrokerOptions::new()
        .segment_bytes_first(1 << 20)
        .segment_bytes_max(1 << 20)
        .open(folder.path())?;
    let mut publisher = broker.publisher("t")?;
    for _ in 0..40 {
        publisher.publish_blocking(vec![7; 100_000])?;
    }
    let mut reader = broker.reader("t", Start::Earliest)?;
    let mut times = Vec::new();
    for _ in 0..40 {
        times.push(reader.next_blocking().unwrap()?.append_time_us());
    }
    broker.close()?;
    let broker = Broker::open(folder.path())?;
    for time in [times[0], times[17], times[39]] {
        let first = times.iter().position(|at| *at >= time).unwrap();
        let mut reader = broker.reader("t", Start::Time(time))?;
        assert_eq!(reader.next_blocking().unwrap()?.offset().0, first as u64);
    }
    Ok(())
}

#[test]
fn a_body_outlives_the_topic_and_the_broker() -> Result {
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    let mut publisher = broker.publisher("t")?;
    publisher.publish_blocking("kept")?;
    let record = broker
        .reader("t", Start::Earliest)?
        .next_blocking()
        .unwrap()?;
    let body = record.into_body();
    broker.delete_topic("t")?;
    assert!(publisher.publish_blocking("refused").is_err());
    broker.close()?;
    drop(broker);
    folder.close()?;
    assert_eq!(body, "kept");
    Ok(())
}
