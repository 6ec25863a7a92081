//! What must hold for bytes nobody of us wrote.
//!
//! Each target is a plain function over the fuzzer's input. It panics when a claim fails and says
//! otherwise whether the input got through, so that a replayed corpus can be asked to hold both
//! kinds. `cargo test` replays the corpora on stable; `cargo +nightly fuzz run TARGET --features
//! libfuzzer` looks for more.
#![forbid(unsafe_code)]

pub mod batch;
pub mod control;
mod damage;
mod due;
mod folder;
pub mod frame;
mod input;
pub mod journal;
pub mod recovery;
pub mod scheduler;
pub mod session;
pub mod wire;

/// What became of an input whose claims all held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken for what it claims to be.
    Accepted,
    /// It was refused with an error.
    Refused,
}

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]) -> Outcome);

/// Every target.
pub const TARGETS: &[Target] = &[
    ("frame", frame::check),
    ("batch", batch::check),
    ("control", control::check),
    ("wire", wire::check),
    ("scheduler", scheduler::check),
    ("recovery", recovery::check),
    ("session", session::check),
    ("journal", journal::check),
];
