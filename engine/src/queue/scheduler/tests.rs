//! Tests of the scheduler: against a plain model, by a table of states and events, and by name.
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

mod cases;
mod chance;
mod model;
mod pair;
mod table;
