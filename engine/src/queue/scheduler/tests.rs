//! Tests of the scheduler: against a plain model, by a table of states and events, and by name.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::*;

mod cases;
mod chance;
mod model;
mod pair;
mod table;
