//! Delays every record of a queue again and again, and says what that takes: memory and disk.
//!
//! `cargo run --release -p millstream-benches --example delayed -- [messages] [rounds]`; bodies have
//! 100 bytes, the topic is synced.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{BatchBuilder, Broker, ConsumerOptions, QueueOptions};

/// Records of a batch.
const BATCH: u64 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (messages, rounds) = (next(1_000_000)?, next(3)?);
    let folder = tempfile::tempdir()?;
    let broker = Broker::open(folder.path())?;
    broker.create_queue("jobs", QueueOptions::new().max_deliveries(0))?;
    let mut publisher = broker.publisher("jobs")?;
    let mut builder = BatchBuilder::new();
    for _ in 0..BATCH {
        builder.push_body(&[7; 100])?;
    }
    let mut last = None;
    for _ in 0..messages.div_ceil(BATCH) {
        last = Some(publisher.enqueue_batch_blocking(&builder)?);
    }
    if let Some(ticket) = last {
        ticket.wait_blocking()?;
    }
    let live_bytes = broker.topic("jobs")?.bytes;
    tell("published", folder.path(), live_bytes)?;
    for round in 1..=rounds {
        let begun = Instant::now();
        delay_all(&broker, messages)?;
        let info = broker.queue("jobs")?;
        println!(
            "round {round}: {} delayed, {} ready, in {:?}",
            info.delayed,
            info.ready,
            begun.elapsed()
        );
        tell("  then", folder.path(), live_bytes)?;
    }
    broker.close()?;
    let begun = Instant::now();
    let broker = Broker::open(folder.path())?;
    let info = broker.queue("jobs")?;
    println!(
        "open again and counted in {:?}: {} delayed, {} ready",
        begun.elapsed(),
        info.delayed,
        info.ready
    );
    tell("  then", folder.path(), live_bytes)?;
    Ok(())
}

/// Takes every record once and delays it by some seconds, one after the other.
fn delay_all(broker: &Broker, messages: u64) -> Result<(), Box<dyn Error>> {
    let options = ConsumerOptions::new().prefetch(4096);
    let mut consumer = broker.consumer("jobs", options)?;
    for number in 0..messages {
        let delivery = consumer.next_blocking().ok_or("the queue ended")??;
        // All are due again by the time the next round takes them, and none before.
        let spread = Duration::from_micros(number % 1_000_000);
        delivery.retry_after(Duration::from_secs(20) + spread);
    }
    Ok(())
}

fn tell(when: &str, folder: &Path, live_bytes: u64) -> Result<(), Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let anonymous = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap_or_default();
    let disk_bytes = blocks(folder)? * 512;
    println!(
        "{when}: live {:.1} MB, on disk {:.1} MB ({:.2} x), {anonymous}",
        live_bytes as f64 / 1e6,
        disk_bytes as f64 / 1e6,
        disk_bytes as f64 / live_bytes as f64,
    );
    Ok(())
}

/// Blocks that the files below `folder` take.
fn blocks(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            blocks(&entry.path())?
        } else {
            metadata.blocks()
        };
    }
    Ok(sum)
}
