//! Conditions on a result: `millstream bench gate`.

use std::fmt;
use std::str::FromStr;

use crate::load::{Outcome, Run};

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
enum Comparison {
    Above,
    Below,
    Equal,
}

/// A condition on the median of a figure.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Condition {
    /// The part of the result it is about: a scenario, or what else its load was told; all if empty.
    part: String,
    figure: String,
    comparison: Comparison,
    number: f64,
}

/// A figure that every run has, by its name.
type Named = (&'static str, fn(&Run) -> f64);

/// Figures that a condition may name.
const FIGURES: [Named; 12] = [
    ("messages_per_s", |run| run.messages_per_s),
    ("bytes_per_s", |run| run.bytes_per_s),
    ("p50_us", |run| run.latency.p50_ns as f64 / 1e3),
    ("p95_us", |run| run.latency.p95_ns as f64 / 1e3),
    ("p99_us", |run| run.latency.p99_ns as f64 / 1e3),
    ("p999_us", |run| run.latency.p999_ns as f64 / 1e3),
    ("max_us", |run| run.latency.max_ns as f64 / 1e3),
    ("lost", |run| run.delivered.lost as f64),
    ("doubled", |run| run.delivered.doubled as f64),
    ("reordered", |run| run.delivered.reordered as f64),
    ("damaged", |run| run.delivered.damaged as f64),
    ("broker_cpu_s", |run| {
        run.broker.map_or(0.0, |broker| broker.cpu_s)
    }),
];

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: a condition is FIGURE, then <, > or =, then a number");
        let at = text.find(['<', '>', '=']).ok_or_else(wrong)?;
        let (figure, rest) = text.split_at(at);
        let (part, figure) = figure.split_once(':').unwrap_or(("", figure));
        let comparison = match rest.as_bytes().first() {
            Some(b'>') => Comparison::Above,
            Some(b'<') => Comparison::Below,
            _ => Comparison::Equal,
        };
        let number = rest.get(1..).unwrap_or_default().trim();
        Ok(Self {
            part: part.trim().to_owned(),
            figure: figure.trim().to_owned(),
            comparison,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::Above => '>',
            Comparison::Below => '<',
            Comparison::Equal => '=',
        };
        if !self.part.is_empty() {
            write!(f, "{}:", self.part)?;
        }
        write!(f, "{}{sign}{}", self.figure, self.number)
    }
}

impl Condition {
    /// Whether it is about `outcome`.
    #[must_use]
    pub fn is_about(&self, outcome: &Outcome) -> bool {
        let part = &self.part;
        part.is_empty() || *part == outcome.scenario || *part == outcome.parameters.extra
    }

    /// Whether the median of the figure over the runs is as the condition says.
    ///
    /// # Errors
    ///
    /// What it is instead, or which figures there are.
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let median = self.median(outcome)?;
        let holds = match self.comparison {
            Comparison::Above => median > self.number,
            Comparison::Below => median < self.number,
            Comparison::Equal => (median - self.number).abs() < f64::EPSILON,
        };
        if holds {
            Ok(())
        } else {
            Err(format!(
                "{} of {} is {median}",
                self.figure, outcome.scenario
            ))
        }
    }

    fn median(&self, outcome: &Outcome) -> Result<f64, String> {
        if outcome.runs.is_empty() {
            return Err(format!("{} has no runs", outcome.scenario));
        }
        if let Some((_, of)) = FIGURES.iter().find(|(name, _)| *name == self.figure) {
            return Ok(outcome.spread(of).0);
        }
        let own = |run: &Run| {
            let found = run.figures.iter().find(|figure| figure.name == self.figure);
            found.map_or(f64::NAN, |figure| figure.value)
        };
        let median = outcome.spread(own).0;
        if median.is_nan() {
            let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
            let own = outcome.runs.first().map(|run| run.figures.as_slice());
            let own = own.into_iter().flatten().map(|figure| figure.name.as_str());
            let all: Vec<&str> = names.into_iter().chain(own).collect();
            return Err(format!(
                "no figure is called {}; there are {}",
                self.figure,
                all.join(", ")
            ));
        }
        Ok(median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Environment, Parameters, SCHEMA, Target};

    fn outcome(rates: &[f64]) -> Outcome {
        let text = String::new;
        Outcome {
            schema: SCHEMA,
            scenario: "pub".to_owned(),
            target: Target {
                name: text(),
                version: text(),
                durability: text(),
                setup: text(),
            },
            parameters: Parameters::default(),
            environment: Environment::now(text(), std::path::Path::new("/")),
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
    fn the_median_is_what_counts() {
        let found = outcome(&[1.0, 100.0, 10.0]);
        let holds = |text: &str| text.parse::<Condition>().unwrap().check(&found);
        assert_eq!(holds("messages_per_s>9"), Ok(()));
        assert_eq!(holds("messages_per_s<11"), Ok(()));
        assert_eq!(holds("lost=0"), Ok(()));
        assert!(holds("messages_per_s>11").unwrap_err().contains("is 10"));
        assert!(
            holds("speed>1")
                .unwrap_err()
                .contains("there are messages_per_s")
        );
        assert!(outcome(&[]).runs.is_empty());
        let nothing = "lost=0".parse::<Condition>().unwrap();
        assert!(
            nothing.check(&outcome(&[])).is_err(),
            "no run holds nothing"
        );
    }

    #[test]
    fn a_condition_may_be_about_a_part() {
        let mut found = outcome(&[1.0]);
        found.parameters.extra = "1x64".to_owned();
        let about = |text: &str| text.parse::<Condition>().unwrap().is_about(&found);
        assert!(about("1x64:lost=0") && about("pub:lost=0") && about("lost=0"));
        assert!(!about("2x64:lost=0"));
        let shown = "1x64: lost=0".parse::<Condition>().unwrap().to_string();
        assert_eq!(shown, "1x64:lost=0");
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "lost", "lost=", "lost=x", "=1x"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
