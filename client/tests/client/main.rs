//! The client against a scripted server, byte by byte, and against a small one over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod acknowledging;
mod carrying;
mod consuming;
mod delivering;
mod driving;
mod fake;
mod greeting;
mod hostile;
mod keeping;
mod over_sockets;
mod publishing;
mod queues_over_sockets;
mod script;
mod splitting;
mod viewing;
mod without_async;
mod working;
