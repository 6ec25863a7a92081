//! `millstream bench compare`: two results, or two programs in turns.

use std::fmt;

use clap::Parser;
use indicatif::ProgressBar;
use jiff::Timestamp;
use millstream_benches::compare::{Ratio, unlike};
use millstream_benches::load::Outcome;
use serde::Serialize;

use super::{asked, outcomes_of, read, whole};
use crate::args::{CompareArgs, RunCommand};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// What is printed of each scenario.
#[derive(Serialize)]
struct Compared<'a> {
    scenario: &'a str,
    load: &'a str,
    /// Of messages a second.
    ratio: Ratio,
    /// Of latencies, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<Ratio>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<Ratio>,
}

impl fmt::Display for Compared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} B / A: {}", self.scenario, self.load, self.ratio)?;
        for (name, ratio) in [("p50", self.p50), ("p99", self.p99)] {
            if let Some(ratio) = ratio {
                write!(f, "; {name} {ratio}")?;
            }
        }
        Ok(())
    }
}

pub(super) fn run(args: &CompareArgs, output: Output) -> Result<(), Failure> {
    let (before, after) = match &args.program {
        Some(_) => in_turns(args, output)?,
        None => {
            let [before, after] = args.operands.as_slice() else {
                return Err(Failure::new(Exit::Usage, "name two results"));
            };
            (read(before.as_ref())?, read(after.as_ref())?)
        }
    };
    if before.len() != after.len() {
        let message = "the results have not the same loads";
        return Err(Failure::new(Exit::Failed, message));
    }
    for (before, after) in before.iter().zip(&after) {
        let unlike = unlike(before, after);
        if !unlike.is_empty() && !args.force {
            let message = format!(
                "the results are of another {}: --force compares them all the same",
                unlike.join(", ")
            );
            return Err(Failure::new(Exit::Failed, message));
        }
        let Some(ratio) = Ratio::between(before, after, |run| run.messages_per_s) else {
            return Err(Failure::new(Exit::Failed, "a result has no runs"));
        };
        let compared = Compared {
            scenario: &before.scenario,
            load: &before.parameters.extra,
            ratio,
            p50: Ratio::between(before, after, |run| run.latency.p50_ns as f64),
            p99: Ratio::between(before, after, |run| run.latency.p99_ns as f64),
        };
        output.line(&compared, format_args!("{compared}"))?;
    }
    Ok(())
}

/// Runs the scenario once with each program, and again the other way around.
fn in_turns(args: &CompareArgs, output: Output) -> Result<(Vec<Outcome>, Vec<Outcome>), Failure> {
    let wrong = |error: clap::Error| Failure::new(Exit::Usage, error);
    let mut run = RunCommand::try_parse_from(&args.operands)
        .map_err(wrong)?
        .run;
    let asked = asked(&run)?;
    let began = Timestamp::now().to_string();
    let pairs = run.repeat.get();
    run.repeat = std::num::NonZeroUsize::MIN;
    let mut found: [Vec<Outcome>; 2] = [Vec::new(), Vec::new()];
    for pair in 0..pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            run.program = if which == 0 {
                None
            } else {
                args.program.clone()
            };
            let outcomes = outcomes_of(&run, &asked, &began, &ProgressBar::hidden())?;
            whole(&outcomes)?;
            let Some(found) = found.get_mut(which) else {
                continue;
            };
            if found.is_empty() {
                *found = outcomes;
            } else {
                for (all, one) in found.iter_mut().zip(outcomes) {
                    all.runs.extend(one.runs);
                }
            }
        }
        if output.shows_progress() {
            output.remark(format_args!("pair {} of {pairs}", pair + 1));
        }
    }
    let [before, after] = found;
    Ok((before, after))
}
