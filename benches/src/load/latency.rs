//! Latencies: one histogram a thread, merged exactly, and the same second by second.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart: an hour. Longer ones count as that.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Three digits: a value is told within 0.1 %.
const DIGITS: u8 = 3;

/// Latencies of one thread, or of all.
#[derive(Debug, Clone)]
pub struct Latency {
    all: Histogram<u64>,
}

/// Latencies as a result keeps them, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_ns: u64,
    /// 95 of 100 were no longer.
    pub p95_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p999_ns: u64,
    /// 9,999 of 10,000.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let all = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS);
        Self {
            all: all.expect("the bounds are right"),
        }
    }

    /// Notes one latency `times` times.
    #[inline]
    pub fn note(&mut self, ns: u64, times: u64) {
        self.all.saturating_record_n(ns.max(1), times);
    }

    /// Adds another thread's; nothing is lost by it.
    pub fn merge(&mut self, other: &Self) {
        self.all.add(&other.all).expect("all have the same bounds");
    }

    /// The figures of a result.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.all.value_at_quantile(quantile);
        Percentiles {
            count: self.all.len(),
            p50_ns: at(0.5),
            p95_ns: at(0.95),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: self.all.max(),
        }
    }

    /// The curve in some 60 points: how many of a million are no longer than so many nanoseconds.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, u64)> {
        let steps = self.all.iter_quantiles(3);
        let points =
            steps.map(|step| (step.quantile_iterated_to() * 1e6, step.value_iterated_to()));
        points.collect()
    }

    /// The curve as text, as HdrHistogram's own tools write and plot it: value in microseconds,
    /// quantile, count, 1 / (1 - quantile).
    #[must_use]
    pub fn curve(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        for step in self.all.iter_quantiles(5) {
            let value_us = step.value_iterated_to() as f64 / 1e3;
            let quantile = step.quantile_iterated_to();
            let total = self.all.count_between(0, step.value_iterated_to());
            let inverse = 1.0 / (1.0 - quantile);
            // Writing to a string does not fail.
            let _ = if inverse.is_finite() {
                writeln!(
                    text,
                    "{value_us:12.3} {quantile:14.12} {total:10} {inverse:14.2}"
                )
            } else {
                writeln!(text, "{value_us:12.3} {quantile:14.12} {total:10}")
            };
        }
        let count = self.all.len();
        let _ = writeln!(
            text,
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {count:12}]",
            self.all.mean() / 1e3,
            self.all.stdev() / 1e3,
            self.all.max() as f64 / 1e3,
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_are_what_one_would_have_been() {
        let (mut one, mut other, mut both) = (Latency::new(), Latency::new(), Latency::new());
        for ns in 1..=10_000_u64 {
            let half = if ns % 2 == 0 { &mut one } else { &mut other };
            half.note(ns * 1000, 1);
            both.note(ns * 1000, 1);
        }
        one.merge(&other);
        assert_eq!(one.percentiles(), both.percentiles());
        let found = one.percentiles();
        assert_eq!(found.count, 10_000);
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(near(found.p50_ns, 5_000_000), "{found:?}");
        assert!(near(found.p9999_ns, 9_999_000), "{found:?}");
        assert!(one.curve().contains("Total count    =        10000"));
    }
}
