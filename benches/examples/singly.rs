//! Publishes so many messages of 100 bytes one by one to a server of its own, for `perf` and callgrind:
//! what the client costs a message.
//!
//! ```text
//! singly PROGRAM FOLDER COUNT
//! ```

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream_benches::broker::{Broker, Kind, Millstream};
use millstream_client::Durability;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 100;
/// Messages handed over together.
const TOGETHER: u64 = 64;
/// Messages under way at most.
const WINDOW: u64 = 64_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, folder, count] = arguments.as_slice() else {
        return Err("usage: singly PROGRAM FOLDER COUNT".into());
    };
    let count = count.parse::<u64>()?.next_multiple_of(TOGETHER);
    let durability = Durability::Stored;
    let server = Millstream::start(Path::new(program), &[], Path::new(folder), durability)
        .map_err(|error| error.to_string())?;
    server
        .create("t", Kind::Stream)
        .map_err(|error| error.to_string())?;
    let mut publisher = server
        .publisher("t", 1)
        .map_err(|error| error.to_string())?;
    let messages = vec![7; TOGETHER as usize * MESSAGE_BYTES];
    let (mut sent, mut acknowledged) = (0, 0);
    let began = Instant::now();
    while acknowledged < count {
        if sent < count && sent - acknowledged < WINDOW {
            publisher
                .send(&messages, MESSAGE_BYTES)
                .map_err(|error| error.to_string())?;
            sent += TOGETHER;
        }
        let full = sent == count || sent - acknowledged >= WINDOW;
        let wait = if full {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        acknowledged += publisher
            .acknowledged(wait)
            .map_err(|error| error.to_string())?;
    }
    let spent = began.elapsed();
    println!(
        "{count} messages in {spent:?}, {:.1} ns each",
        spent.as_secs_f64() * 1e9 / count as f64
    );
    Ok(())
}
