//! Publishes or reads so many messages in one process, for `strace -c -f`, `perf` and callgrind.
//!
//! ```text
//! in_process FOLDER publish|batches|read COUNT [BODY_BYTES]
//! ```

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use millstream::{AckLevel, Broker, Durability, Publisher, Start, TopicOptions};
use millstream_benches::stage::{
    WAKES_EVERY, batch, body, publish_batch, publish_one, wait_synced,
};

/// Records of a batch in `batches`.
const BATCH_RECORDS: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(what), Some(count)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: in_process FOLDER publish|batches|read COUNT [BODY_BYTES]".into());
    };
    let count: u64 = count.parse()?;
    let body_bytes = arguments
        .next()
        .map_or(Ok(64), |bytes| bytes.parse::<usize>())?;

    let broker = Broker::open(folder)?;
    let options = TopicOptions::new().durability(Durability::Stored);
    broker.create_topic("t", options)?;
    let start = Instant::now();
    match what.as_str() {
        "publish" => publish(&mut broker.publisher("t")?, count, body_bytes),
        "batches" => publish_batches(&mut broker.publisher("t")?, count, body_bytes),
        "read" => read(&broker, count)?,
        other => return Err(format!("{other}: publish, batches or read").into()),
    }
    let spent = start.elapsed();
    println!(
        "{what}: {count} messages in {spent:?}, {:.1} ns each",
        spent.as_secs_f64() * 1e9 / count as f64
    );
    broker.close()?;
    Ok(())
}

fn publish(publisher: &mut Publisher, count: u64, body_bytes: usize) {
    let body = body(body_bytes);
    for number in 1..=count {
        publish_one(publisher, &body);
        if number % WAKES_EVERY == 0 {
            publisher.flush_wakes();
        }
    }
    publisher.flush_wakes();
    black_box(publisher.reached(AckLevel::Stored));
}

fn publish_batches(publisher: &mut Publisher, count: u64, body_bytes: usize) {
    let batch = batch(BATCH_RECORDS as usize, body_bytes);
    for _ in 0..count / BATCH_RECORDS {
        publish_batch(publisher, &batch);
        publisher.flush_wakes();
    }
    wait_synced(publisher);
}

fn read(broker: &Broker, count: u64) -> Result<(), Box<dyn Error>> {
    let mut reader = broker.reader("t", Start::Earliest)?;
    let mut bytes = 0;
    for _ in 0..count {
        let record = reader.next_blocking().ok_or("the topic was closed")??;
        bytes += record.as_bytes().len();
    }
    black_box(bytes);
    Ok(())
}
