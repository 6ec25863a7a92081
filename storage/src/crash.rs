//! The crash simulator: random programs over a disk of 512-byte sectors, struck at any point.
//!
//! A *life* is one data folder from its making through several crashes, by one seed. It drives the
//! production code, in one thread: what the background threads would do is taken from the lists and
//! done at a moment that the seed says. A crash is a kill (the page cache stays) or a power loss (of
//! all that no sync covered, any sector and any name is as it was or as it became), at any operation
//! of the folder or between two stores, also during recovery. Syncs and other operations fail now
//! and then, and a sync that failed leaves its pages clean.
//!
//! After each start, against a plain [`model`]: what was synced is there, once, in order, with its
//! bytes; what was stored lost a suffix at most; no offset ever means two messages; nothing is
//! invented; what ended is not changed by a byte any more; the slots covered what was acknowledged;
//! `verify` agrees.
//!
//! `MILLSTREAM_CRASHES=100000 cargo test -p millstream-storage --release --lib crash` runs more;
//! `MILLSTREAM_CRASH_SEED` runs the one life that a failure named.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod dice;
mod disk;
mod folder;
mod life;
mod memory;
mod model;
mod program;

use std::time::Instant;

use life::{Life, Tally};

/// Crashes of a run that nobody asked to be longer.
const CRASHES: u64 = 300;

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Says which life it was that failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with MILLSTREAM_CRASH_SEED={}", self.0);
        }
    }
}

fn live(seed: u64) -> Tally {
    let named = Named(seed);
    let tally = Life::new(seed).run();
    drop(named);
    tally
}

#[test]
fn whatever_is_struck_nothing_acknowledged_is_lost() {
    if let Some(seed) = number_of("MILLSTREAM_CRASH_SEED") {
        live(seed);
        return;
    }
    let crashes = number_of("MILLSTREAM_CRASHES").unwrap_or(CRASHES);
    let began = Instant::now();
    let mut all = Tally::default();
    let mut seed = 0;
    while all.crashes < crashes {
        all.add(live(seed));
        seed += 1;
    }
    println!("{seed} lives in {:.1?}: {all}", began.elapsed());
}
