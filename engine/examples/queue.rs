//! A work queue in your own program: eight workers, retries, dead letters. `cargo run --example queue`
use std::thread;
use std::time::Duration;

use millstream::{Backoff, Broker, ConsumerOptions, Message, QueueMode, QueueOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::open(std::env::args().nth(1).unwrap_or("millstream-data".into()))?;
    let backoff = Backoff {
        first_ms: 10,
        cap_ms: 1000,
        multiplier_milli: 2000,
        jitter_percent: 20,
    };
    let options = QueueOptions::new()
        .mode(QueueMode::Grouped)
        .max_deliveries(3)
        .backoff(backoff);
    broker.create_queue("emails", options)?;
    let mut publisher = broker.publisher("emails")?;
    for number in 0..1000 {
        let message = Message::new(format!("mail {number}")).group(format!("user {}", number % 50));
        let _ticket = publisher.enqueue_blocking(message)?;
    }
    thread::scope(|scope| {
        for _ in 0..8 {
            let mut jobs = broker
                .consumer("emails", ConsumerOptions::new().prefetch(0))
                .expect("just made");
            scope.spawn(move || {
                loop {
                    let batch = jobs
                        .receive_blocking(16, Duration::from_secs(1))
                        .expect("the broker is open");
                    if batch.is_empty() {
                        break;
                    }
                    for mail in batch {
                        // One in ten fails at first, one in a hundred always.
                        match mail.offset().0 {
                            n if n % 100 == 0 => mail.retry(),
                            n if n % 10 == 0 && mail.attempts() == 1 => mail.retry(),
                            _ => mail.ack(),
                        }
                    }
                }
            });
        }
    });
    let info = broker.queue("emails")?;
    println!(
        "{} ready, {} dead, by attempts: {:?}",
        info.ready,
        info.dead,
        &info.attempts[..3]
    );
    Ok(broker.close()?)
}
