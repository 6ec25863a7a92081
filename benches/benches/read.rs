//! Reading what is stored, from memory: records as an embedder takes them, frames as a server does.

mod settings;

use std::hint::black_box;
use std::task::{Context, Poll, Waker};

use criterion::{BatchSize, Criterion, Throughput};
use millstream::{Chunk, Durability, Reader};
use millstream_benches::stage::{
    BURST_BYTES, Stage, Topic, batch, body, publish_batch, publish_one,
};
use millstream_protocol::limits::{DELIVERY_BYTES_MAX, FRAME_HEADER_BYTES};
use settings::in_short;

fn main() {
    let mut criterion = in_short();
    let mut stage = Stage::of_bursts();
    for (shape, records, body_bytes) in [
        ("1x64B", 1, 64),
        ("1x100B", 1, 100),
        ("64x100B", 64, 100),
        ("1000x100B", 1000, 100),
        ("1x1KiB", 1, 1 << 10),
        ("64x1KiB", 64, 1 << 10),
        ("1x16KiB", 1, 16 << 10),
    ] {
        let topic = stage.topic(Durability::Stored);
        fill(&topic, records, body_bytes);
        reading(&mut criterion, &topic, shape);
    }
    criterion.final_summary();
}

fn fill(topic: &Topic, records: usize, body_bytes: usize) {
    let mut publisher = topic.publisher();
    let (single, many) = (body(body_bytes), batch(records, body_bytes));
    for _ in 0..BURST_BYTES / (records * body_bytes + FRAME_HEADER_BYTES) {
        if records == 1 {
            publish_one(&mut publisher, &single);
        } else {
            publish_batch(&mut publisher, &many);
        }
    }
    publisher.flush_wakes();
}

fn reading(criterion: &mut Criterion, topic: &Topic, shape: &str) {
    let mut group = criterion.benchmark_group(format!("engine/read-stored/{shape}"));
    group.throughput(Throughput::Elements(topic.reader_at_end().next_offset().0));
    group.bench_function("records", |b| {
        b.iter_batched_ref(|| topic.reader(), read_records, BatchSize::PerIteration);
    });
    group.bench_function("views", |b| {
        b.iter_batched_ref(|| topic.reader(), read_views, BatchSize::PerIteration);
    });
    group.bench_function("frames", |b| {
        b.iter_batched_ref(|| topic.reader(), read_frames, BatchSize::PerIteration);
    });
    group.finish();
}

fn read_records(reader: &mut Reader) -> usize {
    let mut bytes = 0;
    while let Some(record) = reader.try_next() {
        bytes += black_box(record.expect("nothing is damaged").as_bytes()).len();
    }
    bytes
}

fn read_views(reader: &mut Reader) -> usize {
    let mut bytes = 0;
    while let Some(record) = reader.try_next_view() {
        bytes += black_box(record.expect("nothing is damaged").as_bytes()).len();
    }
    bytes
}

/// Deliveries as a server sends them on: frames are found, their bodies not touched.
fn read_frames(reader: &mut Reader) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    while let Poll::Ready(chunk) = reader.poll_frames(DELIVERY_BYTES_MAX as u32, &mut cx) {
        if let Chunk::Frames(slice) = chunk.expect("the topic is open") {
            bytes += black_box(slice.as_bytes()).len();
        }
    }
    bytes
}
