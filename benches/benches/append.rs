//! Publishing in-process: one and two producers, singly and in batches, to stored and synced topics.
//!
//! - `burst`: 24 MiB of frames into memory that was made ready, stored: claim, copy, checksum,
//!   commit. Beside it, the same bodies pushed into a queue that has room for them.
//! - `run`: 512 MiB of frames, stored: with rotations, and the disk following within its bound.
//! - `synced`: each publish waits until it is on disk.

mod settings;

use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use crossbeam_queue::ArrayQueue;
use millstream::{Durability, Publisher};
use millstream_benches::stage::{
    BURST_BYTES, RUN_BYTES, Stage, WAKES_EVERY, Work, batch, body, publish_batch, publish_one,
    time_stretches, time_together,
};
use millstream_protocol::limits::FRAME_HEADER_BYTES;
use settings::in_stretches;

const SHAPES: [(&str, usize); 4] = [
    ("64B", 64),
    ("100B", 100),
    ("1KiB", 1 << 10),
    ("16KiB", 16 << 10),
];
const BATCHES: [usize; 3] = [1, 64, 1000];
/// Larger batches are not published: a frame has at most 16 MiB, a burst should have several.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Messages pushed into a queue in one go.
const QUEUE_SLOTS: usize = 1 << 16;
/// Publishes of a stretch whose each is waited for.
const SYNCED_PUBLISHES: u64 = 200;

fn main() {
    let mut criterion = in_stretches();
    let mut bursts = Stage::of_bursts();
    let mut runs = Stage::of_runs();
    for (shape, body_bytes) in SHAPES {
        for records in BATCHES {
            if records * body_bytes <= BATCH_BYTES_MAX {
                burst(&mut criterion, &mut bursts, shape, (records, body_bytes));
            }
        }
    }
    for records in BATCHES {
        run(&mut criterion, &mut runs, records);
        synced(&mut criterion, &mut runs, records);
    }
    criterion.final_summary();
}

fn group<'c>(
    criterion: &'c mut Criterion,
    name: String,
    elements: usize,
) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(elements as u64));
    group
}

fn burst(
    criterion: &mut Criterion,
    stage: &mut Stage,
    shape: &str,
    (records, body_bytes): (usize, usize),
) {
    let name = format!("engine/append-burst-stored/{records}x{shape}");
    let publishes = BURST_BYTES / (records * body_bytes + FRAME_HEADER_BYTES);
    let what = Appending {
        records,
        body_bytes,
        publishes: publishes as u64,
    };
    let mut bursts = group(criterion, name.clone(), publishes * records);
    for producers in [1, 2] {
        append(&mut bursts, producers, stage, what);
    }
    bursts.finish();
    let mut peers = group(criterion, name, QUEUE_SLOTS);
    match (records, body_bytes) {
        (1, 64) => push_into_peers::<64>(&mut peers),
        (1, 100) => push_into_peers::<100>(&mut peers),
        (1, 1024) => push_into_peers::<1024>(&mut peers),
        _ => {}
    }
    peers.finish();
}

fn run(criterion: &mut Criterion, stage: &mut Stage, records: usize) {
    let body_bytes = 100;
    let publishes = RUN_BYTES / (records * body_bytes + FRAME_HEADER_BYTES);
    let name = format!("engine/append-run-stored/{records}x100B");
    let mut group = group(criterion, name, publishes * records);
    for producers in [1, 2] {
        let what = Appending {
            records,
            body_bytes,
            publishes: publishes as u64,
        };
        append(&mut group, producers, stage, what);
    }
    group.finish();
}

/// One shape of appending.
#[derive(Clone, Copy)]
struct Appending {
    records: usize,
    body_bytes: usize,
    /// Batches, or single messages, of one stretch.
    publishes: u64,
}

fn append(
    group: &mut BenchmarkGroup<'_, WallTime>,
    producers: u64,
    stage: &mut Stage,
    what: Appending,
) {
    let share = what.publishes / producers;
    group.bench_function(format!("{producers} producers"), |b| {
        b.iter_custom(|iterations| {
            let fresh = || stage.topic(Durability::Stored);
            time_stretches(iterations, fresh, |topic| {
                if producers == 1 {
                    let mut publisher = topic.publisher();
                    let mut publish = publishing(what);
                    let start = Instant::now();
                    publish(&mut publisher, share);
                    return start.elapsed();
                }
                let threads = (0..producers).map(|_| {
                    let mut publisher = topic.publisher();
                    let mut publish = publishing(what);
                    let work: Work<'_> = Box::new(move || publish(&mut publisher, share));
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
fn push_into_peers<const N: usize>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let body = [7_u8; N];
    let queue = ArrayQueue::new(QUEUE_SLOTS);
    group.bench_function("peer ArrayQueue", |b| {
        b.iter_custom(|iterations| {
            let fill = |_| {
                let start = Instant::now();
                for _ in 0..QUEUE_SLOTS {
                    queue.push(body).expect("there is room");
                }
                let spent = start.elapsed();
                while queue.pop().is_some() {}
                spent
            };
            (0..iterations).map(fill).sum()
        });
    });
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE_SLOTS);
    group.bench_function("peer crossbeam-channel", |b| {
        b.iter_custom(|iterations| {
            let fill = |_| {
                let start = Instant::now();
                for _ in 0..QUEUE_SLOTS {
                    sender.try_send(body).expect("there is room");
                }
                let spent = start.elapsed();
                while receiver.try_recv().is_ok() {}
                spent
            };
            (0..iterations).map(fill).sum()
        });
    });
}

fn synced(criterion: &mut Criterion, stage: &mut Stage, records: usize) {
    let elements = SYNCED_PUBLISHES as usize * records;
    let mut group = group(
        criterion,
        format!("engine/append-synced/{records}x100B"),
        elements,
    );
    for producers in [1, 2] {
        group.bench_function(format!("{producers} producers"), |b| {
            b.iter_custom(|iterations| {
                let fresh = || stage.topic(Durability::Synced);
                time_stretches(iterations, fresh, |topic| {
                    let threads = (0..producers).map(|_| {
                        let mut publisher = topic.publisher();
                        let batch = batch(records, 100);
                        let work: Work<'_> = Box::new(move || {
                            for _ in 0..SYNCED_PUBLISHES / producers {
                                publisher
                                    .publish_batch_blocking(&batch)
                                    .expect("the disk works");
                            }
                        });
                        work
                    });
                    time_together(threads.collect())
                })
            });
        });
    }
    group.finish();
}
