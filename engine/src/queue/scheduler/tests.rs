//! Tests of the scheduler: against a plain model, by a table of states and events, and by name. The
//! fuzzer runs programs against the model too.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use millstream_protocol::Offset;

use super::consumers::RECEIVES_MAX;
use super::leases::RUN_MAX;
use super::report::PeekedRecord;
use super::*;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod chance;
mod model;
mod pair;
mod program;
#[cfg(test)]
mod table;

/// Bytes of one operation.
#[cfg(feature = "fuzzing")]
const OPERATION_BYTES: usize = 5;
/// More are left out, so that one run stays short.
#[cfg(feature = "fuzzing")]
const OPERATIONS_MAX: usize = 400;

/// Runs the program that `data` spells: 6 bytes that choose mode, policy and bounds, then 5 for each
/// operation. False if there is none.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) -> bool {
    let Some(([m0, m1, p0, p1, b0, b1], rest)) = data.split_first_chunk() else {
        return false;
    };
    let pair = |low: u8, high: u8| u16::from_le_bytes([low, high]);
    let (operations, _) = rest.as_chunks::<OPERATION_BYTES>();
    let operations: Vec<program::Operation> = operations
        .iter()
        .take(OPERATIONS_MAX)
        .map(|[what, a0, a1, b0, b1]| (*what, pair(*a0, *a1), pair(*b0, *b1)))
        .collect();
    program::run(
        (pair(*m0, *m1), pair(*p0, *p1), pair(*b0, *b1)),
        &operations,
    );
    !operations.is_empty()
}
