//! From one thread to another: published here, read there, both busy; and there and back again.
//!
//! The topics are stored: a reader sees what is in the committed prefix. Beside them the queues that
//! a program would use for the same hop, which keep nothing.

mod settings;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use crossbeam_queue::ArrayQueue;
use millstream::{BatchBuilder, Durability, Publisher, Reader, Record};
use millstream_benches::stage::{
    BURST_BYTES, Stage, WAKES_EVERY, batch, body, publish_batch, publish_one, step_back,
    time_stretches, time_together,
};
use millstream_protocol::limits::FRAME_HEADER_BYTES;
use settings::in_stretches;

/// Slots of a peer's queue.
const QUEUE_SLOTS: usize = 1 << 10;
/// Messages through a peer's queue in one stretch.
const PEER_MESSAGES: u64 = 500_000;
/// Round trips of one stretch.
const ROUND_TRIPS: u64 = 50_000;

fn main() {
    let mut criterion = in_stretches();
    let mut stage = Stage::of_bursts();
    for (shape, records, body_bytes) in [
        ("1x64B", 1, 64),
        ("64x64B", 64, 64),
        ("1x100B", 1, 100),
        ("64x100B", 64, 100),
        ("1000x100B", 1000, 100),
        ("1x1KiB", 1, 1 << 10),
        ("64x1KiB", 64, 1 << 10),
    ] {
        let name = format!("engine/publish-to-read/{shape}");
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        hop(&mut group, &mut stage, records, body_bytes);
        group.throughput(Throughput::Elements(PEER_MESSAGES));
        match (records, body_bytes) {
            (1, 64) => peers::<64>(&mut group),
            (1, 100) => peers::<100>(&mut group),
            (1, 1024) => peers::<1024>(&mut group),
            _ => {}
        }
        group.finish();
    }
    round_trip(&mut criterion, &mut stage);
    criterion.final_summary();
}

fn hop(
    group: &mut BenchmarkGroup<'_, WallTime>,
    stage: &mut Stage,
    records: usize,
    body_bytes: usize,
) {
    let publishes = BURST_BYTES / (records * body_bytes + FRAME_HEADER_BYTES);
    let elements = (publishes * records) as u64;
    group.throughput(Throughput::Elements(elements));
    group.bench_function("stored topic", |b| {
        b.iter_custom(|iterations| {
            let fresh = || stage.topic(Durability::Stored);
            time_stretches(iterations, fresh, |topic| {
                let (single, many) = (body(body_bytes), batch(records, body_bytes));
                let mut publisher = topic.publisher();
                let mut reader = topic.reader_at_end();
                time_together(vec![
                    Box::new(move || publish(&mut publisher, &single, &many, publishes as u64)),
                    Box::new(move || read(&mut reader, elements)),
                ])
            })
        });
    });
}

fn publish(publisher: &mut Publisher, single: &[u8], many: &BatchBuilder, count: u64) {
    let wakes_every = (WAKES_EVERY / many.len() as u64).max(1);
    for number in 1..=count {
        if many.len() == 1 {
            publish_one(publisher, single);
        } else {
            publish_batch(publisher, many);
        }
        if number % wakes_every == 0 {
            publisher.flush_wakes();
        }
    }
    publisher.flush_wakes();
}

fn read(reader: &mut Reader, count: u64) {
    for _ in 0..count {
        black_box(next(reader).as_bytes());
    }
}

fn next(reader: &mut Reader) -> Record {
    loop {
        match reader.try_next() {
            Some(record) => return record.expect("nothing is damaged"),
            None => step_back(),
        }
    }
}

fn peers<const N: usize>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function("peer ArrayQueue", |b| {
        b.iter_custom(|iterations| {
            let messages = iterations * PEER_MESSAGES;
            let queue = ArrayQueue::new(QUEUE_SLOTS);
            time_together(vec![
                Box::new(|| {
                    for _ in 0..messages {
                        while queue.push(black_box([7_u8; N])).is_err() {
                            std::hint::spin_loop();
                        }
                    }
                }),
                Box::new(|| {
                    for _ in 0..messages {
                        take(|| queue.pop());
                    }
                }),
            ])
        });
    });
    group.bench_function("peer crossbeam-channel", |b| {
        b.iter_custom(|iterations| {
            let messages = iterations * PEER_MESSAGES;
            let (sender, receiver) = crossbeam_channel::bounded(QUEUE_SLOTS);
            time_together(vec![
                Box::new(move || {
                    for _ in 0..messages {
                        sender
                            .send(black_box([7_u8; N]))
                            .expect("the receiver takes all");
                    }
                }),
                Box::new(move || {
                    for _ in 0..messages {
                        take(|| receiver.try_recv().ok());
                    }
                }),
            ])
        });
    });
}

fn take<T>(mut pop: impl FnMut() -> Option<T>) -> T {
    loop {
        match pop() {
            Some(value) => return black_box(value),
            None => std::hint::spin_loop(),
        }
    }
}

/// 64 bytes there, and 64 back: both threads poll.
fn round_trip(criterion: &mut Criterion, stage: &mut Stage) {
    let mut group = criterion.benchmark_group("engine/round-trip/1x64B");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(ROUND_TRIPS));
    group.bench_function("stored topics", |b| {
        b.iter_custom(|iterations| (0..iterations).map(|_| there_and_back(stage)).sum());
    });
    group.bench_function("peer ArrayQueue", |b| {
        b.iter_custom(|iterations| {
            let round_trips = iterations * ROUND_TRIPS;
            let (there, back) = (ArrayQueue::new(64), ArrayQueue::new(64));
            std::thread::scope(|scope| {
                let (there, back) = (&there, &back);
                scope.spawn(move || {
                    for _ in 0..round_trips {
                        let value: [u8; 64] = take(|| there.pop());
                        back.push(value).expect("one is under way at a time");
                    }
                });
                let start = Instant::now();
                for _ in 0..round_trips {
                    there.push([7; 64]).expect("one is under way at a time");
                    take(|| back.pop());
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}

fn there_and_back(stage: &mut Stage) -> Duration {
    let body = body(64);
    let there = stage.topic(Durability::Stored);
    let back = stage.topic(Durability::Stored);
    let (mut ask, mut answer) = (there.publisher(), back.publisher());
    let (mut listen, mut hear) = (there.reader_at_end(), back.reader_at_end());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..ROUND_TRIPS {
                let record = next(&mut listen);
                publish_one(&mut answer, record.as_bytes());
                answer.flush_wakes();
            }
        });
        let start = Instant::now();
        for _ in 0..ROUND_TRIPS {
            publish_one(&mut ask, &body);
            ask.flush_wakes();
            black_box(next(&mut hear));
        }
        start.elapsed()
    })
}
