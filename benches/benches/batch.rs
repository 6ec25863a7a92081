//! A batch from messages to a frame, and the checks of a frame as a server and a reader make them.

mod settings;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use millstream::{BatchBuilder, Offset};
use millstream_benches::stage::{batch, body};
use millstream_protocol::batch::{Checked, RecordRun};
use millstream_protocol::frame::{
    CommitWord, FrameHeader, FramePlace, FrameSeed, ProducerStamp, check_publish, frame_bytes,
};
use settings::in_short;

const BODY_BYTES: usize = 100;
const PLACE: FramePlace = FramePlace {
    seed: FrameSeed(7),
    nonce_half: 9,
    position: 12_288,
};

fn main() {
    let mut criterion = in_short();
    for records in [1, 64, 1000] {
        batch_of(&mut criterion, records);
    }
    criterion.final_summary();
}

fn batch_of(criterion: &mut Criterion, records: usize) {
    let mut group = criterion.benchmark_group(format!("protocol/batch/{records}x100B"));
    group.throughput(Throughput::Elements(records as u64));
    let body = body(BODY_BYTES);
    let mut builder = BatchBuilder::new();
    let mut frame = Vec::new();
    group.bench_function("encode", |b| {
        b.iter(|| {
            builder.clear();
            frame.clear();
            for _ in 0..records {
                builder
                    .push_body(black_box(&body))
                    .expect("the batch fits in a frame");
            }
            builder.encode_frame(ProducerStamp::NONE, &mut frame);
            frame.len()
        });
    });
    group.bench_function("check", |b| {
        b.iter(|| check_publish(black_box(&frame)).map(|frame| frame.body_crc()));
    });
    let stored = bytes::Bytes::from(stored(&batch(records, BODY_BYTES)));
    for (name, checked) in [("read", Checked::Yes), ("check and read", Checked::No)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                RecordRun::new(black_box(&stored).clone(), PLACE, checked, Offset(0))
                    .filter_map(Result::ok)
                    .map(|record| record.as_bytes().len())
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

/// The frame of a batch as it lies in a segment.
fn stored(batch: &BatchBuilder) -> Vec<u8> {
    let mut sent = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut sent);
    let frame = check_publish(&sent).expect("it was just made");
    let header = FrameHeader {
        fields: *frame.fields(),
        body_crc: frame.body_crc(),
        base_offset: Offset(0),
        append_time_us: 1,
    };
    let word = CommitWord {
        frame_bytes: frame_bytes(frame.fields().body_bytes),
        nonce_half: PLACE.nonce_half,
    };
    let mut stored = word.to_u64().to_le_bytes().to_vec();
    stored.extend_from_slice(&header.encode(PLACE.seed, PLACE.position));
    stored.extend_from_slice(frame.body());
    stored.resize(word.frame_bytes as usize, 0);
    stored
}
