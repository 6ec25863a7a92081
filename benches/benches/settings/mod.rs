//! Short criterion settings.
#![allow(dead_code, reason = "each benchmark uses one of them")]

use std::time::Duration;

use criterion::Criterion;

/// Criterion for a machine of two cores: half a second to warm up, two to measure.
pub(crate) fn in_short() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Criterion for what needs a fresh topic each time: making one takes longer than filling it, so an
/// iteration is a whole stretch of messages, and there are few of them.
pub(crate) fn in_stretches() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .configure_from_args()
}
