//! What every message costs in bytes handled alone: batches filled, made frames, checked again. For
//! `valgrind --tool=callgrind`, whose counts are the same each time; see `tools/bench-gate`.
//!
//! The engine itself can't be run under valgrind: rustix reads the kernel's vDSO, which valgrind hides.
//!
//! ```text
//! codec MESSAGES
//! ```

use std::error::Error;
use std::hint::black_box;

use millstream_benches::stage::body;
use millstream_client::BatchBuilder;
use millstream_protocol::frame::{ProducerStamp, check_publish};

/// Messages of a batch.
const BATCH: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).ok_or("usage: codec MESSAGES")?;
    let count: u64 = count.parse()?;
    let body = body(64);
    let mut batch = BatchBuilder::new();
    let mut frame = Vec::new();
    for _ in 0..count / BATCH {
        batch.clear();
        for _ in 0..BATCH {
            batch.push_body(black_box(&body))?;
        }
        frame.clear();
        batch.encode_frame(ProducerStamp::NONE, &mut frame);
        black_box(check_publish(black_box(&frame)).is_ok());
    }
    Ok(())
}
