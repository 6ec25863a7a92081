//! The load: stamped messages, their ledger, latencies, resources, and what a run comes to.

mod environment;
mod generator;
mod latency;
mod ledger;
mod outcome;
mod resources;
mod stamp;

pub use environment::Environment;
pub use generator::{Course, Load, Tell, run};
pub use latency::{Latency, Percentiles};
pub use ledger::{Delivered, Ledger};
pub use outcome::{Figure, Outcome, Parameters, Run, SCHEMA, Target};
pub use resources::{Resources, Usage};
pub use stamp::{STAMP_BYTES, Stamp};
