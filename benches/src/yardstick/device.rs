//! What the disk takes: pwrite and fdatasync over blocks that were written before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::Latency;

/// Bytes of the file.
const FILE_BYTES: u64 = 128 << 20;
/// Bytes written before each sync.
const BLOCK_BYTES: u64 = 1 << 20;
/// Bytes written before each sync where one record at a time is.
const RECORD_BYTES: u64 = 4 << 10;
/// How long each is measured.
const MEASURED: Duration = Duration::from_secs(1);

/// Bytes a second of 1 MiB each, written and synced one after the other.
pub(super) fn synced_bytes_per_s(folder: &Path) -> io::Result<f64> {
    let mut bytes = 0;
    let mut spent = Duration::ZERO;
    write_and_sync(folder, BLOCK_BYTES, |one| {
        bytes += BLOCK_BYTES;
        spent += one;
    })?;
    Ok(bytes as f64 / spent.as_secs_f64().max(1e-9))
}

/// The median of 4 KiB written and synced.
pub(super) fn sync_p50_us(folder: &Path) -> io::Result<f64> {
    let mut latency = Latency::new();
    write_and_sync(folder, RECORD_BYTES, |one| {
        latency.note(u64::try_from(one.as_nanos()).unwrap_or(u64::MAX), 1);
    })?;
    Ok(latency.percentiles().p50_ns as f64 / 1e3)
}

fn write_and_sync(folder: &Path, bytes: u64, mut note: impl FnMut(Duration)) -> io::Result<()> {
    let file: File = tempfile::tempfile_in(folder)?;
    let block = vec![7_u8; BLOCK_BYTES as usize];
    for place in (0..FILE_BYTES).step_by(BLOCK_BYTES as usize) {
        file.write_all_at(&block, place)?;
    }
    file.sync_all()?;
    let began = Instant::now();
    let places = (0..FILE_BYTES).step_by(bytes as usize).cycle();
    for place in places {
        let start = Instant::now();
        file.write_all_at(&block[..bytes as usize], place)?;
        file.sync_data()?;
        note(start.elapsed());
        if began.elapsed() > MEASURED {
            break;
        }
    }
    Ok(())
}
