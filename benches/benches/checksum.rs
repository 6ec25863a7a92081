//! The checksum crates over what a frame is made of: a small body, a page's worth, a large read.

mod settings;

use std::hint::black_box;

use criterion::Throughput;
use settings::in_short;

fn main() {
    let mut criterion = in_short();
    for (shape, len_bytes) in [("100B", 100), ("1KiB", 1 << 10), ("64KiB", 64 << 10)] {
        let bytes: Vec<u8> = (0..=250).cycle().take(len_bytes).collect();
        let mut group = criterion.benchmark_group(format!("protocol/checksum/{shape}"));
        group.throughput(Throughput::Bytes(len_bytes as u64));
        group.bench_function("crc32c/crc-fast", |b| {
            b.iter(|| millstream_protocol::checksum::crc32c(black_box(&bytes)));
        });
        group.bench_function("crc32c/crc32c", |b| {
            b.iter(|| crc32c::crc32c(black_box(&bytes)));
        });
        group.bench_function("crc32/crc32fast", |b| {
            b.iter(|| crc32fast::hash(black_box(&bytes)));
        });
        group.finish();
    }
    criterion.final_summary();
}
