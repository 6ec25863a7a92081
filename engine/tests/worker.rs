//! Workers and batch workers of the engine, by the public API.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use millstream::{
    Backoff, BatchWorker, Broker, Consumer, ConsumerOptions, Delivery, Failure, QueueInfo,
    QueueOptions, Worker,
};

fn broker(path: &Path, options: QueueOptions, bodies: &[&str]) -> Broker {
    let broker = Broker::open(path).unwrap();
    let at_once = Backoff {
        first_ms: 0,
        cap_ms: 0,
        multiplier_milli: 1000,
        jitter_percent: 0,
    };
    let made = broker.create_queue("jobs", options.backoff(at_once));
    assert_eq!(made.unwrap().name.as_str(), "jobs");
    let mut publisher = broker.publisher("jobs").unwrap();
    for body in bodies {
        publisher.publish_blocking(*body).unwrap();
    }
    broker
}

fn consumer(broker: &Broker) -> Consumer {
    broker.consumer("jobs", ConsumerOptions::new()).unwrap()
}

fn info(broker: &Broker) -> QueueInfo {
    broker.queue("jobs").unwrap()
}

/// Waits until the one dead letter is where it belongs.
fn buried(broker: &Broker) {
    while info(broker).dead == 0 {
        std::thread::yield_now();
    }
}

/// Fails as its record says.
fn handle(delivery: &Delivery) -> Result<(), Failure> {
    match delivery.as_bytes() {
        b"retry" if delivery.attempts() == 1 => Err(Failure::retry("for now")),
        b"later" if delivery.attempts() == 1 => Err(Failure::retry_after(Duration::from_millis(1))),
        b"error" if delivery.attempts() == 1 => {
            "x".parse::<u32>()?;
            Ok(())
        }
        b"panic" if delivery.attempts() == 1 => panic!("for now"),
        b"reject" => Err(Failure::reject("never")),
        _ => Ok(()),
    }
}

#[test]
fn handlers_settle_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = ["ok", "retry", "later", "error", "panic", "reject"];
    let broker = broker(folder.path(), QueueOptions::new(), &bodies);
    let worker = Worker::new(consumer(&broker)).records_max(10);
    let report = worker.run_blocking(handle).unwrap();
    assert_eq!((report.acked, report.retried, report.rejected), (5, 3, 1));
    assert_eq!((report.panicked, report.handled()), (1, 10));
    buried(&broker);
    let info = info(&broker);
    assert_eq!((info.totals.acked, info.totals.rejected), (5, 1));
    assert_eq!((info.attempts[0], info.attempts[1]), (1, 4));
    broker.close().unwrap();
}

#[test]
fn stopping_finishes_what_was_begun_and_releases_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["x"; 20]);
    let worker = Worker::new(consumer(&broker)).concurrency(2);
    let stop = worker.stop_handle();
    let begun = Barrier::new(2);
    let report = worker.run_blocking(|_| {
        begun.wait();
        stop.stop();
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.acked, report.handled()), (2, 2));
    assert_eq!(stop.report(), report);
    // Given back uncounted.
    let again = Worker::new(consumer(&broker)).records_max(18);
    let attempts = Mutex::new(Vec::new());
    let report = again.run_blocking(|delivery| {
        attempts.lock().unwrap().push(delivery.attempts());
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 18);
    assert_eq!(attempts.into_inner().unwrap(), [1; 18]);
}

#[test]
fn a_handler_may_take_longer_than_a_lease() {
    let folder = tempfile::tempdir().unwrap();
    let lease = Duration::from_millis(300);
    let options = QueueOptions::new().lease(lease).max_deliveries(1);
    let broker = broker(folder.path(), options, &["slow", "waits"]);
    let worker = Worker::new(consumer(&broker)).concurrency(1).records_max(2);
    let report = worker.run_blocking(|_| {
        // Ends when the lease would be long over; no time is measured but the lease's own.
        let until = std::time::Instant::now() + 3 * lease;
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 2);
    let totals = info(&broker).totals;
    assert_eq!(
        (totals.acked, totals.lease_expired, totals.lease_lost),
        (2, 0, 0)
    );
}

#[test]
fn a_record_whose_handler_had_its_time_is_delivered_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["slow"]);
    let worker = Worker::new(consumer(&broker))
        .concurrency(2)
        .records_max(2)
        .handler_timeout(Duration::from_millis(1));
    // The first handler ends only after the second one has begun, for the same record.
    let both = Barrier::new(2);
    let report = worker.run_blocking(|_| {
        both.wait();
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.timed_out >= 1, "{report:?}");
    assert_eq!(report.handled(), 2);
}

#[test]
fn an_idle_worker_ends() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["a"]);
    let idle = Duration::from_millis(20);
    let worker = Worker::new(consumer(&broker)).idle(idle);
    assert_eq!(worker.run_blocking(|_| Ok(())).unwrap().acked, 1);
    let batches = BatchWorker::new(consumer(&broker)).idle(idle);
    assert_eq!(batches.run_blocking(|_| Ok(())).unwrap().acked, 0);
}

#[test]
fn a_closed_broker_ends_its_workers() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["a"]);
    let worker = Worker::new(consumer(&broker));
    let report = worker.run_blocking(|_| {
        broker.close().unwrap();
        Ok(())
    });
    assert_eq!(report.unwrap().handled(), 1);
}

#[test]
fn batches_are_filled_settled_and_grow() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["x"; 100]);
    let worker = BatchWorker::new(consumer(&broker))
        .size(2..=16)
        .target(Duration::from_secs(3600));
    let stop = worker.stop_handle();
    let sizes = Mutex::new(Vec::new());
    let report = worker.run_blocking(|batch| {
        let mut sizes = sizes.lock().unwrap();
        sizes.push(batch.len());
        if sizes.iter().sum::<usize>() == 100 {
            stop.stop();
        }
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 100);
    let sizes = sizes.into_inner().unwrap();
    assert_eq!((sizes[0], sizes.iter().max()), (2, Some(&16)));
    let totals = info(&broker).totals;
    assert_eq!((totals.acked, totals.retried), (100, 0));
}

#[test]
fn records_of_a_batch_fail_by_themselves_or_together() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), QueueOptions::new(), &["good", "bad", "good"]);
    let worker = BatchWorker::new(consumer(&broker)).size(3..=3);
    let stop = worker.stop_handle();
    let report = worker.run_blocking(|batch| {
        if batch.iter().next().unwrap().attempts() == 1 {
            return Err(Failure::retry("all of it"));
        }
        let bad = batch.iter().position(|d| d.as_bytes() == b"bad");
        batch.fail(bad.unwrap(), Failure::reject("bad"));
        stop.stop();
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.retried, report.acked, report.rejected), (3, 2, 1));
    buried(&broker);
}
