//! A work queue in process: one thread publishes, others take each parcel and acknowledge it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use millstream::{Broker, Consumer, ConsumerOptions, Durability, QueueOptions};

use super::engine::Publishing;
use super::hop::{SILENCE, send};
use super::parcel;
use crate::broker::Failure;
use crate::load::{Delivered, Ledger};
use crate::stage::Stage;

/// Threads that take and acknowledge.
pub(super) const WORKERS: usize = 4;
/// Parcels published together.
pub(super) const BATCH: usize = 64;
/// Parcels a worker may have and not have acknowledged.
const PREFETCH: u32 = 4096;

/// What a queue worked through came to.
#[derive(Debug)]
pub(super) struct Worked {
    /// From the first publish until the last was published.
    pub(super) publishing: Duration,
    /// From the first publish until all were acknowledged and the queue's floor was behind the last.
    pub(super) spent: Duration,
    pub(super) delivered: Delivered,
}

/// Sends `messages` parcels, rounded to whole batches, through a queue with a stored topic of its own, whose
/// segments serve again once they are settled.
///
/// # Errors
///
/// The disk failed, or not all was settled.
pub(super) fn work_through(stage: &mut Stage, messages: u64) -> Result<Worked, Failure> {
    let messages = messages - messages % BATCH as u64;
    let queue = stage.unused_topic(Durability::Stored);
    let broker = stage.broker();
    // A topic of its name that nobody used becomes the queue's own.
    broker.create_queue(&queue, QueueOptions::new())?;
    let mut publishing = Publishing::by(broker.publisher(&queue)?);
    let mut consumers = Vec::new();
    for _ in 0..WORKERS {
        consumers.push(broker.consumer(&queue, ConsumerOptions::new().prefetch(PREFETCH))?);
    }
    thread::scope(|scope| {
        let (tell, told) = channel();
        let workers = consumers.into_iter().map(|consumer| {
            let tell = tell.clone();
            scope.spawn(move || work(consumer, messages, &tell))
        });
        let workers: Vec<_> = workers.collect();
        let begun = Instant::now();
        send(&mut publishing, 0, (BATCH, messages));
        let published = begun.elapsed();
        wait_received(&told, messages);
        let settled = wait_settled(broker, &queue);
        let spent = begun.elapsed();
        // Ends the workers, whatever became of it.
        let unsettled = broker.delete_queue(&queue)?;
        settled?;
        let mut ledger = Ledger::new(1, messages);
        for worker in workers {
            ledger.merge(&worker.join().expect("a worker does not panic"));
        }
        let delivered = Delivered {
            // Workers have no order among them that could be told.
            reordered: 0,
            ..ledger.settle(&[messages])
        };
        if unsettled > 0 {
            return Err(
                format!("{unsettled} of {messages} were not settled: {delivered:?}").into(),
            );
        }
        Ok(Worked {
            publishing: published,
            spent,
            delivered,
        })
    })
}

/// Takes and acknowledges until the queue is gone; tells how many whenever none is there.
fn work(mut consumer: Consumer, messages: u64, tell: &Sender<u64>) -> Ledger {
    let mut ledger = Ledger::new(1, messages);
    let mut told = 0;
    while let Some(first) = consumer.next_blocking() {
        let first = first.expect("the queue works");
        ledger.note(parcel::read(first.as_bytes()));
        first.ack();
        while let Some(delivery) = consumer.try_next_view() {
            let delivery = delivery.expect("the queue works");
            ledger.note(parcel::read(delivery.as_bytes()));
            delivery.ack();
        }
        // Nobody listens any more once the last came.
        let _ = tell.send(ledger.received() - told);
        told = ledger.received();
    }
    ledger
}

/// Waits until the workers received so many, or nothing for long.
fn wait_received(told: &Receiver<u64>, messages: u64) {
    let mut received = 0;
    while received < messages
        && let Ok(more) = told.recv_timeout(SILENCE)
    {
        received += more;
    }
}

/// Waits until the queue's floor is behind all that was published, or for long.
fn wait_settled(broker: &Broker, queue: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < SILENCE {
        let info = broker.queue(queue)?;
        if info.floor >= info.next {
            break;
        }
        thread::yield_now();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parcel_is_worked_on_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = Stage::of_runs_in(folder.path()).unwrap();
        let worked = work_through(&mut stage, 6400).unwrap();
        assert!(worked.delivered.is_whole(), "{worked:?}");
        assert_eq!(worked.delivered.received, 6400);
        assert!(worked.publishing <= worked.spent, "{worked:?}");
    }
}
