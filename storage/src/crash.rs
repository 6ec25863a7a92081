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
//! `MILLSTREAM_CRASHES=100000 cargo test -p millstream-storage --release --lib crash` runs more, from
//! seed `MILLSTREAM_CRASH_FROM` on; `MILLSTREAM_CRASH_SEED` runs the one life that a failure named.
//!
//! The disk is also for the tests of the crates above, by the feature `testing`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

#[cfg(test)]
mod again;
#[cfg(test)]
mod bound;
mod dice;
mod disk;
mod folder;
#[cfg(test)]
mod life;
mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod nth;
#[cfg(test)]
mod program;
#[cfg(test)]
mod tally;

pub use dice::Dice;
pub use disk::End;
pub use folder::{CrashFolder, Moment, Strike};

/// What a thread of a store does, and whoever opened it by hand does instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Syncs a listed log.
    Sync,
    /// Prepares a segment, or writes a footer.
    Prepare,
    /// Looks at what is due later as if it were due.
    Later,
    /// Brings pages in for a reader.
    Fetch,
}

/// A number that the environment gives.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Says, when a panic passes by, which command lives the one life again that failed.
#[derive(Debug)]
pub struct Named {
    /// The life's seed.
    pub seed: u64,
    /// The crate whose test it is.
    pub package: &'static str,
    /// The test.
    pub test: &'static str,
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed with seed {0}; again: MILLSTREAM_CRASH_SEED={0} cargo test -p {1} --lib {2} -- --nocapture",
                self.seed, self.package, self.test
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::life::Life;
    use super::tally::Tally;
    use super::{Named, number_of};

    /// Crashes of a run that nobody asked to be longer.
    const CRASHES: u64 = 1500;

    fn live(seed: u64) -> Tally {
        let _named = Named {
            seed,
            package: "millstream-storage",
            test: "whatever_is_struck_nothing_acknowledged_is_lost",
        };
        Life::new(seed).run()
    }

    #[test]
    fn whatever_is_struck_nothing_acknowledged_is_lost() {
        if let Some(seed) = number_of("MILLSTREAM_CRASH_SEED") {
            println!("{}", live(seed));
            return;
        }
        let crashes = number_of("MILLSTREAM_CRASHES").unwrap_or(CRASHES);
        let first = number_of("MILLSTREAM_CRASH_FROM").unwrap_or(0);
        let began = Instant::now();
        let mut all = Tally::default();
        let mut seed = first;
        while all.crashes < crashes {
            let told = all.crashes / 50_000;
            all.add(live(seed));
            seed += 1;
            if all.crashes / 50_000 > told {
                println!("seeds {first} to {}: {all}", seed - 1);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("seeds {first} to {}, {seconds:.1} s: {all}", seed - 1);
    }
}
