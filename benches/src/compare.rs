//! Two results beside each other: the ratio of their rates with an interval, and whether they are alike
//! enough for one.
//!
//! The runs are pairs, the n-th of one with the n-th of the other. The interval is Student's for the
//! mean of paired differences (W. S. Gosset, *The probable error of a mean*, 1908), taken of the
//! logarithms, as a ratio of rates is what differs: `exp(mean ± t(0.975, n - 1) · s / √n)`.

use std::fmt;

use serde::Serialize;

use crate::load::{Outcome, Run};

/// 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// The same for more: a little too wide.
const T_MANY: f64 = 2.042;

/// The mean of ratios, with the interval in which the true one lies 95 times of 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Geometric mean.
    pub mean: f64,
    /// Lower end of the interval; the mean where one pair says nothing of it.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Of `ratios`, one a pair; `None` without one above 0.
    #[must_use]
    pub fn of(ratios: impl IntoIterator<Item = f64>) -> Option<Self> {
        let usable = ratios.into_iter().filter(|ratio| *ratio > 0.0);
        let logs: Vec<f64> = usable.map(f64::ln).collect();
        let pairs = logs.len();
        if pairs == 0 {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / pairs as f64;
        let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
        let half = if pairs > 1 {
            let freedom = pairs - 1;
            let t = T.get(freedom - 1).copied().unwrap_or(T_MANY);
            t * (squares / freedom as f64 / pairs as f64).sqrt()
        } else {
            0.0
        };
        Some(Self {
            mean: mean.exp(),
            low: (mean - half).exp(),
            high: (mean + half).exp(),
            pairs,
        })
    }

    /// Of a `figure` of `after` to that of `before`; `None` where they have none.
    #[must_use]
    pub fn between(before: &Outcome, after: &Outcome, figure: fn(&Run) -> f64) -> Option<Self> {
        let pairs = before.runs.iter().zip(&after.runs);
        let ratios = pairs.map(|(before, after)| figure(after) / figure(before));
        Self::of(ratios.filter(|ratio| ratio.is_finite()))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mean,
            low,
            high,
            pairs,
        } = self;
        if *pairs > 1 {
            write!(f, "{mean:.3} (95 % {low:.3}–{high:.3}, {pairs} pairs)")
        } else {
            write!(f, "{mean:.3} (one pair: no interval)")
        }
    }
}

/// In what two outcomes differ that makes their figures no matter of the programs alone.
#[must_use]
pub fn unlike(before: &Outcome, after: &Outcome) -> Vec<String> {
    let (here, there) = (&before.environment, &after.environment);
    let same = [
        ("scenario", before.scenario == after.scenario),
        (
            "durability",
            before.target.durability == after.target.durability,
        ),
        ("load", before.parameters == after.parameters),
        ("processor", here.processor == there.processor),
        ("processors", here.processors == there.processors),
        ("memory", here.memory_bytes == there.memory_bytes),
        ("kernel", here.kernel == there.kernel),
        ("file system", here.file_system == there.file_system),
        ("optimisation", here.optimised == there.optimised),
    ];
    let differing = same.into_iter().filter(|(_, same)| !same);
    differing.map(|(what, _)| what.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Environment, Parameters, SCHEMA, Target};

    fn outcome(rates: &[f64], message_bytes: usize) -> Outcome {
        Outcome {
            schema: SCHEMA,
            scenario: "pub".to_owned(),
            target: Target::default(),
            parameters: Parameters {
                message_bytes,
                ..Parameters::default()
            },
            environment: Environment::now(String::new(), std::path::Path::new("/")),
            runs: rates
                .iter()
                .map(|rate| Run {
                    messages_per_s: *rate,
                    ..Run::default()
                })
                .collect(),
        }
    }

    #[test]
    fn the_interval_is_students() {
        // Logarithms 0.1, 0.2, 0.3: mean 0.2, s 0.1, t(2) 4.303, half 0.2484.
        let found = Ratio::of([0.1_f64, 0.2, 0.3].map(f64::exp)).unwrap();
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-3;
        assert!(near(found.mean, 1.2214), "{found:?}");
        assert!(
            near(found.low, 0.9527) && near(found.high, 1.5658),
            "{found:?}"
        );
        assert!(Ratio::of([]).is_none());
        assert!(
            Ratio::of([2.0])
                .unwrap()
                .to_string()
                .contains("no interval")
        );
    }

    #[test]
    fn a_steady_difference_is_told_from_noise() {
        let rate = |run: &Run| run.messages_per_s;
        let before = outcome(&[100.0, 150.0, 80.0, 120.0], 100);
        let slower = outcome(&[91.0, 134.0, 72.5, 109.0], 100);
        let found = Ratio::between(&before, &slower, rate).unwrap();
        assert!(found.high < 1.0, "the pairs moved together: {found}");
        let noise = outcome(&[120.0, 100.0, 95.0, 110.0], 100);
        let found = Ratio::between(&before, &noise, rate).unwrap();
        assert!(found.low < 1.0 && found.high > 1.0, "{found}");
        let none = Ratio::between(&before, &noise, |run| run.latency.p50_ns as f64);
        assert!(
            none.is_none(),
            "without latencies there is no ratio of them"
        );
    }

    #[test]
    fn results_of_other_loads_are_unlike() {
        let one = outcome(&[1.0], 100);
        assert!(unlike(&one, &one).is_empty());
        assert_eq!(unlike(&one, &outcome(&[1.0], 200)), ["load"]);
        let mut other = one.clone();
        other.target.durability = "stored".to_owned();
        other.environment.processors += 1;
        assert_eq!(unlike(&one, &other), ["durability", "processors"]);
    }
}
