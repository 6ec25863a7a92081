//! Workers over real sockets: of tasks, of threads, and in batches.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use millstream_client::blocking::{self, BatchWorker};
use millstream_client::{Client, Delivery, Failure, Offset, Stop, Worker};

use crate::fake::{Fake, Fate};

const NO_TIME: Duration = Duration::from_millis(1);

/// Fails as its record says.
fn handle(delivery: &Delivery) -> Result<(), Failure> {
    match delivery.as_bytes() {
        b"retry" if delivery.attempts() == 1 => Err(Failure::retry("for now")),
        b"later" if delivery.attempts() == 1 => Err(Failure::retry_after(NO_TIME)),
        b"error" if delivery.attempts() == 1 => {
            "x".parse::<u32>()?;
            Ok(())
        }
        b"panic" if delivery.attempts() == 1 => panic!("for now"),
        b"reject" => Err(Failure::reject("never")),
        _ => Ok(()),
    }
}

const BODIES: [&str; 6] = ["ok", "retry", "later", "error", "panic", "reject"];
/// What became of them in the end.
const FATES: [Fate; 6] = [
    Fate::Acked,
    Fate::Acked,
    Fate::Acked,
    Fate::Acked,
    Fate::Acked,
    Fate::Dead,
];

fn blocking(fake: &Fake) -> blocking::Consumer {
    let client = blocking::Client::connect(&fake.address).unwrap();
    client.consumer("jobs").unwrap()
}

#[tokio::test]
async fn tasks_settle_what_their_handlers_say() {
    let fake = Fake::tcp();
    fake.queue("jobs", &BODIES);
    let client = Client::connect(&fake.address).await.unwrap();
    let worker = Worker::new(client.consumer("jobs").await.unwrap()).records_max(10);
    let report = worker.run(|delivery| async move { handle(&delivery) });
    let report = report.await.unwrap();
    client.close().await.unwrap();
    assert_eq!((report.acked, report.retried, report.rejected), (5, 3, 1));
    assert_eq!((report.panicked, report.handled()), (1, 10));
    assert_eq!(fake.fates("jobs"), FATES);
    assert_eq!(fake.reasons("jobs"), ["never"]);
}

#[test]
fn threads_settle_what_their_handlers_say() {
    let fake = Fake::tcp();
    fake.queue("jobs", &BODIES);
    let worker = blocking::Worker::new(blocking(&fake)).records_max(10);
    let report = worker.run(handle).unwrap();
    assert_eq!((report.acked, report.retried, report.rejected), (5, 3, 1));
    assert_eq!((report.panicked, report.handled()), (1, 10));
    while fake.fates("jobs") != FATES {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_dropped_and_its_record_retried() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["slow"]);
    let client = Client::connect(&fake.address).await.unwrap();
    let worker = Worker::new(client.consumer("jobs").await.unwrap())
        .records_max(2)
        .handler_timeout(NO_TIME);
    let report = worker.run(|delivery| async move {
        if delivery.attempts() == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    let report = report.await.unwrap();
    assert_eq!((report.timed_out, report.acked), (1, 1));
}

#[test]
fn a_thread_that_takes_too_long_is_not_waited_for() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["slow"]);
    let worker = blocking::Worker::new(blocking(&fake))
        .concurrency(2)
        .records_max(2)
        .handler_timeout(NO_TIME);
    // The first handler ends only after the second one has begun, for the same record.
    let both = Barrier::new(2);
    let report = worker.run(|delivery| {
        if delivery.attempts() <= 2 {
            both.wait();
        }
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.timed_out >= 1, "{report:?}");
    assert_eq!(report.handled(), 2);
}

#[test]
fn stopping_finishes_what_was_begun_and_releases_the_rest() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["a", "b", "c", "d", "e", "f"]);
    let worker = blocking::Worker::new(blocking(&fake)).concurrency(2);
    let stop = worker.stop_handle();
    let begun = Barrier::new(2);
    let report = worker.run(|_| {
        begun.wait();
        stop.stop();
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.acked, report.handled()), (2, 2));
    assert!(stop.is_stopped());
    assert_eq!(stop.report(), report);
    let fates = [
        Fate::Acked,
        Fate::Acked,
        Fate::Ready,
        Fate::Ready,
        Fate::Ready,
        Fate::Ready,
    ];
    while fake.fates("jobs") != fates {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn tasks_stop_as_threads_do() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["a", "b", "c", "d", "e", "f"]);
    let client = Client::connect(&fake.address).await.unwrap();
    let worker = Worker::new(client.consumer("jobs").await.unwrap()).concurrency(2);
    let stop = worker.stop_handle();
    let begun = Arc::new(tokio::sync::Barrier::new(2));
    let report = worker.run(|_| {
        let (stop, begun): (Stop, _) = (stop.clone(), Arc::clone(&begun));
        async move {
            begun.wait().await;
            stop.stop();
            Ok(())
        }
    });
    let report = report.await.unwrap();
    client.close().await.unwrap();
    assert_eq!(report.handled(), 2);
    let ready = fake.fates("jobs").into_iter().filter(|f| *f == Fate::Ready);
    assert_eq!(ready.count(), 4);
}

#[test]
fn as_many_handlers_run_at_once_as_told() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["x"; 40]);
    let worker = blocking::Worker::new(blocking(&fake))
        .concurrency(4)
        .records_max(40);
    let running_and_most = Mutex::new((0, 0));
    let all = Barrier::new(4);
    let report = worker.run(|_| {
        {
            let (running, most) = &mut *running_and_most.lock().unwrap();
            *running += 1;
            *most = (*most).max(*running);
        }
        all.wait();
        running_and_most.lock().unwrap().0 -= 1;
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 40);
    assert_eq!(running_and_most.into_inner().unwrap(), (0, 4));
}

#[test]
fn an_idle_worker_ends() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["a"]);
    let worker = blocking::Worker::new(blocking(&fake)).idle(Duration::from_millis(20));
    assert_eq!(worker.run(|_| Ok(())).unwrap().acked, 1);
    let batches = BatchWorker::new(blocking(&fake)).idle(Duration::from_millis(20));
    assert_eq!(batches.run(|_| Ok(())).unwrap().acked, 0);
}

#[test]
fn a_deleted_queue_ends_its_workers_with_an_error() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["a"]);
    let worker = blocking::Worker::new(blocking(&fake));
    let result = worker.run(|_| {
        fake.delete_queue("jobs");
        Ok(())
    });
    assert!(matches!(
        result,
        Err(millstream_client::ConsumeError::QueueGone { .. })
    ));
}

#[test]
fn leases_are_extended_while_a_handler_runs() {
    let fake = Fake::tcp();
    fake.short_leases(30);
    fake.queue("jobs", &["a", "waits"]);
    let worker = blocking::Worker::new(blocking(&fake))
        .concurrency(1)
        .records_max(2);
    let report = worker.run(|_| {
        let before = fake.extended("jobs");
        // Both of them, the one that is handled and the one that waits.
        while fake.extended("jobs") < before + 4 {
            std::thread::yield_now();
        }
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 2);
}

#[test]
fn batches_are_filled_settled_and_grow() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["x"; 100]);
    let worker = BatchWorker::new(blocking(&fake))
        .size(2..=16)
        .target(Duration::from_secs(3600));
    let stop = worker.stop_handle();
    let sizes = Mutex::new(Vec::new());
    let report = worker.run(|batch| {
        let mut sizes = sizes.lock().unwrap();
        sizes.push(batch.len());
        if batch.iter().any(|delivery| delivery.offset() == Offset(99)) {
            stop.stop();
        }
        Ok(())
    });
    let sizes = sizes.into_inner().unwrap();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert_eq!(sizes[0], 2);
    assert_eq!(sizes.iter().max(), Some(&16));
    assert_eq!(report.unwrap().acked, 100);
}

#[test]
fn a_batch_waits_for_its_linger_and_no_longer() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["a", "b"]);
    let worker = BatchWorker::new(blocking(&fake))
        .size(10..=10)
        .linger(NO_TIME);
    let stop = worker.stop_handle();
    let report = worker.run(|batch| {
        assert!(batch.len() <= 2);
        if batch.iter().any(|delivery| delivery.offset() == Offset(1)) {
            stop.stop();
        }
        Ok(())
    });
    assert_eq!(report.unwrap().acked, 2);
}

#[test]
fn records_of_a_batch_fail_by_themselves_or_together() {
    let fake = Fake::tcp();
    fake.queue("jobs", &["good", "bad", "good"]);
    let worker = BatchWorker::new(blocking(&fake)).size(3..=3).concurrency(2);
    let stop = worker.stop_handle();
    let report = worker.run(|batch| {
        if batch.iter().next().unwrap().attempts() == 1 {
            return Err(Failure::retry("all of it"));
        }
        let bad = batch
            .iter()
            .position(|delivery| delivery.as_bytes() == b"bad");
        batch.fail(bad.unwrap(), Failure::reject("bad"));
        stop.stop();
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.retried, report.acked, report.rejected), (3, 2, 1));
    while fake.fates("jobs") != [Fate::Acked, Fate::Dead, Fate::Acked] {
        std::thread::yield_now();
    }
}
