//! The real binary over real file systems, on disks that fail, lose power, rot and run full.
//!
//! What was acknowledged is written down outside, by the test; after each misfortune every message
//! acknowledged as synced must be there, once, in order, at its offset and with its body, and
//! nothing that nobody sent. Needs root, FUSE and loop devices, and says so where they lack.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod clock;
mod cuts;
mod errors;
mod full;
#[path = "../harness/mod.rs"]
mod harness;
mod ledger;
mod rig;
mod rot;
