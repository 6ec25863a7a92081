//! How fast Millstream and others are: what the benchmarks of the hot path share ([`stage`]), and the
//! load generator behind `millstream bench`.
//!
//! ```text
//! scenario ─▶ runs of a load ─▶ broker (ours, another's, or a channel in this process)
//!                 │                  every message has a stamp: who sent it, which one, when it was due
//!                 ▼
//!             ledger: lost, doubled, reordered, damaged · latency from the intended time · resources
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "tables are sized by the load; one that is too short is a mistake here, and a benchmark may fail by a panic"
)]
#![allow(
    clippy::disallowed_types,
    reason = "counters between the threads of a benchmark; nothing of the product rests on them"
)]

pub mod broker;
pub mod compare;
pub mod embed;
pub mod gate;
pub mod load;
pub mod recover;
pub mod report;
pub mod scenario;
pub mod stage;
mod yardstick;
