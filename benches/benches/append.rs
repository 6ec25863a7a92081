//! Publishing in-process: one and two producers, singly and in batches, to stored and synced topics.
//!
//! - `burst`: frames into memory that was made ready, up to 24 MiB a topic, stored: claim, copy,
//!   checksum, commit. Beside it, the same bodies pushed into a queue that has room for them.
//! - `run`: up to 512 MiB a topic, stored: with rotations, and the disk following within its bound.
//! - `synced`: each publish waits until it is on disk.

use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use crossbeam_queue::ArrayQueue;
use millstream::{Durability, Publisher};
use millstream_benches::{
    BURST_BYTES, RUN_BYTES, Stage, WAKES_EVERY, batch, body, in_short, publish_batch, publish_one,
    time_in_stretches, time_together,
};
use millstream_protocol::limits::FRAME_HEADER_BYTES;

/// Bodies, and how many of them in a batch.
const SHAPES: [(&str, usize); 4] = [
    ("64B", 64),
    ("100B", 100),
    ("1KiB", 1 << 10),
    ("16KiB", 16 << 10),
];
const BATCHES: [usize; 3] = [1, 64, 1000];
/// Larger batches are not published: a frame has at most 16 MiB, a burst should have several.
const BATCH_BYTES_MAX: usize = 2 << 20;
const QUEUE_SLOTS: usize = 1 << 14;

fn main() {
    let mut criterion = in_short();
    let mut bursts = Stage::of_bursts();
    let mut runs = Stage::of_runs();
    for (shape, body_bytes) in SHAPES {
        for records in BATCHES {
            if records * body_bytes <= BATCH_BYTES_MAX {
                stored(
                    &mut criterion,
                    &mut bursts,
                    &mut runs,
                    (shape, body_bytes, records),
                );
            }
        }
    }
    synced(&mut criterion, &mut runs);
    criterion.final_summary();
}

fn stored(
    criterion: &mut Criterion,
    bursts: &mut Stage,
    runs: &mut Stage,
    (shape, body_bytes, records): (&str, usize, usize),
) {
    let mut group = criterion.benchmark_group(format!("engine/append-stored/{records}x{shape}"));
    group.throughput(Throughput::Elements(records as u64));
    let frame_bytes = records * body_bytes + FRAME_HEADER_BYTES;
    for producers in [1, 2] {
        append(
            &mut group,
            &format!("burst/{producers} producers"),
            bursts,
            Appending {
                producers,
                records,
                body_bytes,
                per_topic: BURST_BYTES / frame_bytes,
            },
        );
    }
    let long = records * body_bytes == 100 || records * body_bytes == 100_000;
    if long {
        let per_topic = RUN_BYTES / frame_bytes;
        for producers in [1, 2] {
            let what = Appending {
                producers,
                records,
                body_bytes,
                per_topic,
            };
            append(
                &mut group,
                &format!("run/{producers} producers"),
                runs,
                what,
            );
        }
    }
    if records == 1 {
        match body_bytes {
            64 => peers::<64>(&mut group),
            100 => peers::<100>(&mut group),
            1024 => peers::<1024>(&mut group),
            _ => {}
        }
    }
    group.finish();
}

/// One shape of appending.
#[derive(Clone, Copy)]
struct Appending {
    producers: usize,
    records: usize,
    body_bytes: usize,
    /// Batches to one topic.
    per_topic: usize,
}

fn append(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    stage: &mut Stage,
    what: Appending,
) {
    let producers = what.producers as u64;
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let fresh = || stage.topic(Durability::Stored);
            time_in_stretches(iterations, what.per_topic as u64, fresh, |topic, count| {
                if what.producers == 1 {
                    let mut publisher = topic.publisher();
                    let mut publish = publishing(what);
                    let start = Instant::now();
                    publish(&mut publisher, count);
                    return start.elapsed();
                }
                let threads = (0..producers).map(|number| {
                    let mut publisher = topic.publisher();
                    let mut publish = publishing(what);
                    let share = count / producers + u64::from(number < count % producers);
                    let work: Box<dyn FnOnce() + Send> =
                        Box::new(move || publish(&mut publisher, share));
                    work
                });
                time_together(threads.collect())
            })
        });
    });
}

/// Publishes so many batches (or single messages) and looks for sleepers now and then.
fn publishing(what: Appending) -> impl FnMut(&mut Publisher, u64) + Send {
    let single = body(what.body_bytes);
    let many = batch(what.records, what.body_bytes);
    move |publisher, count| {
        let wakes_every = (WAKES_EVERY / what.records as u64).max(1);
        for number in 1..=count {
            if what.records == 1 {
                publish_one(publisher, &single);
            } else {
                publish_batch(publisher, &many);
            }
            if number % wakes_every == 0 {
                publisher.flush_wakes();
            }
        }
        publisher.flush_wakes();
    }
}

/// The same bodies pushed into queues that have room; emptied outside the timed part.
fn peers<const N: usize>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let body = [7_u8; N];
    let queue = ArrayQueue::new(QUEUE_SLOTS);
    group.bench_function("peer ArrayQueue/1 producers", |b| {
        b.iter_custom(|iterations| {
            in_fills(iterations, |count| {
                let start = Instant::now();
                for _ in 0..count {
                    queue.push(body).expect("there is room");
                }
                let spent = start.elapsed();
                while queue.pop().is_some() {}
                spent
            })
        });
    });
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE_SLOTS);
    group.bench_function("peer crossbeam-channel/1 producers", |b| {
        b.iter_custom(|iterations| {
            in_fills(iterations, |count| {
                let start = Instant::now();
                for _ in 0..count {
                    sender.try_send(body).expect("there is room");
                }
                let spent = start.elapsed();
                while receiver.try_recv().is_ok() {}
                spent
            })
        });
    });
}

fn in_fills(iterations: u64, mut fill: impl FnMut(u64) -> Duration) -> Duration {
    let mut left = iterations;
    let mut spent = Duration::ZERO;
    while left > 0 {
        let now = left.min(QUEUE_SLOTS as u64);
        spent += fill(now);
        left -= now;
    }
    spent
}

fn synced(criterion: &mut Criterion, stage: &mut Stage) {
    for records in BATCHES {
        let mut group = criterion.benchmark_group(format!("engine/append-synced/{records}x100B"));
        group.throughput(Throughput::Elements(records as u64));
        for producers in [1, 2] {
            group.bench_function(format!("wait for each/{producers} producers"), |b| {
                b.iter_custom(|iterations| {
                    let topic = stage.topic(Durability::Synced);
                    let threads = (0..producers).map(|number| {
                        let mut publisher = topic.publisher();
                        let batch = batch(records, 100);
                        let share =
                            iterations / producers + u64::from(number < iterations % producers);
                        let work: Box<dyn FnOnce() + Send> = Box::new(move || {
                            for _ in 0..share {
                                publisher
                                    .publish_batch_blocking(&batch)
                                    .expect("the disk works");
                            }
                        });
                        work
                    });
                    time_together(threads.collect())
                });
            });
        }
        group.finish();
    }
}
