//! A work queue in-process: one publisher, some workers that take and acknowledge each record.
//!
//! `cargo run --release -p millstream-benches --example work_queue -- [messages] [workers] [batch]`;
//! the topic is `stored`, bodies have 64 bytes.

use std::error::Error;
use std::thread;
use std::time::Instant;

use millstream::{
    BatchBuilder, Broker, ConsumerOptions, Durability, Offset, QueueOptions, TopicOptions,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (messages, workers, batch) = (next(2_000_000)?, next(4)?, next(64)?);
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    broker.create_topic("jobs", TopicOptions::new().durability(Durability::Stored))?;
    broker.create_queue("jobs", QueueOptions::new().topic("jobs"))?;
    let begun = Instant::now();
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        for _ in 0..workers {
            let options = ConsumerOptions::new().prefetch(1024);
            let mut consumer = broker.consumer("jobs", options)?;
            scope.spawn(move || {
                while let Some(Ok(delivery)) = consumer.next_blocking() {
                    delivery.ack();
                }
            });
        }
        let mut publisher = broker.publisher("jobs")?;
        let mut builder = BatchBuilder::new();
        let body = [7; 64];
        for _ in 0..batch {
            builder.push_body(&body)?;
        }
        for _ in 0..messages / batch {
            let _ticket = publisher.enqueue_batch_blocking(&builder)?;
        }
        let published = begun.elapsed();
        while broker.queue("jobs")?.floor < Offset(messages / batch * batch) {
            thread::yield_now();
        }
        let done = begun.elapsed();
        let per_s = messages as f64 / done.as_secs_f64() / 1e6;
        println!("published in {published:?}, settled in {done:?}: {per_s:.2} M/s");
        broker.close()?;
        Ok(())
    })
}
