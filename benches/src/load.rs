//! The load: stamped messages, their ledger, latencies, resources, and what a run comes to.

mod crowd;
mod environment;
mod generator;
mod latency;
mod ledger;
mod maker;
mod outcome;
mod part;
mod publishing;
mod receiving;
mod resources;
mod schedule;
mod shared;
mod stamp;

pub use crowd::run_crowd;
pub use environment::Environment;
pub use generator::run;
pub(crate) use generator::{Measured, time_again};
pub use latency::{Latency, Percentiles};
pub use ledger::{Delivered, Ledger};
pub use outcome::{Figure, Outcome, Parameters, Run, SCHEMA, Target};
pub(crate) use publishing::preload;
pub(crate) use receiving::read_back;
pub use resources::{Resources, Usage};
pub use shared::{Context, Course, Load, Progress, Tell};
pub use stamp::{STAMP_BYTES, Stamp};
