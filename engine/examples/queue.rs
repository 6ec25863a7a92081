//! A work queue in your own program: eight handlers, groups kept in order, retries, dead letters.

use std::time::Duration;

use millstream::{Broker, ConsumerOptions, Failure, Message, QueueMode, QueueOptions, Worker};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::open(std::env::args().nth(1).unwrap_or("embedded-data".into()))?;
    let grouped = QueueOptions::new().mode(QueueMode::Grouped);
    broker.create_queue("emails", grouped.max_deliveries(3))?;
    let mut publisher = broker.publisher("emails")?;
    for number in 0..1000 {
        let mail = Message::new(format!("mail {number}")).group(format!("user {}", number % 50));
        let _ticket = publisher.enqueue_blocking(mail)?;
    }
    let consumer = broker.consumer("emails", ConsumerOptions::new())?;
    let worker = Worker::new(consumer)
        .concurrency(8)
        .idle(Duration::from_secs(8));
    let report = worker.run_blocking(|mail| match mail.offset().0 {
        n if n % 100 == 0 => Err(Failure::retry("always fails")),
        n if n % 20 == 7 && mail.attempts() < 3 => Err(Failure::retry("fails twice")),
        _ => Ok(()),
    })?;
    let info = broker.queue("emails")?;
    println!("{} acked, {} in emails.dead", report.acked, info.dead);
    println!("by attempts: {:?}", info.attempts);
    Ok(broker.close()?)
}
