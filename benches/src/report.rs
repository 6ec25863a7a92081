//! Results as people read them, and as files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::compare::Ratio;
use crate::load::{Outcome, Run};

mod page;
mod plot;

pub use plot::{Bar, Plot, plots};

/// Name of the file with the results.
const RESULT: &str = "result.json";

/// A table of `outcomes`: a row each, medians with the lowest and the highest.
#[must_use]
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| scenario | target | durability | load | messages/s (low–high) | MB/s | p50 / p99 / p99.9 µs | CPU-s per million | RSS anon / file MB | whole |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for outcome in outcomes {
        row(outcome, &mut text);
    }
    for outcome in outcomes {
        let figures = figures(outcome);
        if !figures.is_empty() {
            let extra = &outcome.parameters.extra;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "\n{} {extra}: {}",
                outcome.scenario,
                figures.join("; ")
            );
        }
    }
    text
}

/// The figures of its own that `outcome` has: medians, and of ratios the mean with its interval.
fn figures(outcome: &Outcome) -> Vec<String> {
    let names = outcome.runs.first().map(|run| run.figures.as_slice());
    let names = names.unwrap_or_default().iter().map(|figure| &figure.name);
    let shown = names.map(|name| {
        let of = |run: &Run| run.figure(name).unwrap_or(f64::NAN);
        let ratio = name.starts_with("ratio") || name.ends_with("drift");
        match Ratio::of(outcome.runs.iter().map(of)).filter(|_| ratio) {
            Some(ratio) => format!("{name} {ratio}"),
            None => {
                let median = outcome.spread(of).0;
                let shown = if median < 1000.0 {
                    format!("{median:.2}")
                } else {
                    count(median)
                };
                format!("{name} {shown}")
            }
        }
    });
    shown.collect()
}

fn row(outcome: &Outcome, text: &mut String) {
    let (median, low, high) = outcome.spread(|run| run.messages_per_s);
    let (bytes, _, _) = outcome.spread(|run| run.bytes_per_s);
    let micros = |of: fn(&Run) -> u64| outcome.spread(|run| of(run) as f64 / 1e3).0;
    let (p50, p99, p999) = (
        micros(|run| run.latency.p50_ns),
        micros(|run| run.latency.p99_ns),
        micros(|run| run.latency.p999_ns),
    );
    let broker = |of: fn(&crate::load::Resources) -> f64| {
        outcome
            .spread(|run| of(&run.broker.unwrap_or(run.generator)))
            .0
    };
    let messages = outcome.spread(|run| run.messages as f64).0.max(1.0);
    let cpu = broker(|used| used.cpu_s) * 1e6 / messages;
    let (anonymous, file) = (
        broker(|used| used.rss_anonymous_bytes as f64) / 1e6,
        broker(|used| used.rss_file_bytes as f64) / 1e6,
    );
    let latency = if outcome.runs.iter().any(|run| run.latency.count > 0) {
        format!("{p50:.0} / {p99:.0} / {p999:.0}")
    } else {
        "–".to_owned()
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "| {} | {} {} | {} | {} | {} ({}–{}) | {:.1} | {latency} | {cpu:.3} | {anonymous:.0} / {file:.0} | {} |",
        outcome.scenario,
        outcome.target.name,
        outcome.target.version,
        outcome.target.durability,
        load_text(outcome),
        count(median),
        count(low),
        count(high),
        bytes / 1e6,
        whole(outcome),
    );
}

/// Whether every message came; and how many of them nobody could look at, as their topic was told.
fn whole(outcome: &Outcome) -> String {
    if !outcome.is_whole() {
        return "NO".to_owned();
    }
    let (let_go, _, _) = outcome.spread(|run| run.delivered.let_go as f64);
    if let_go > 0.0 {
        format!("yes, but for {} let go", count(let_go))
    } else {
        "yes".to_owned()
    }
}

fn load_text(outcome: &Outcome) -> String {
    let load = &outcome.parameters;
    let mut text = if load.message_bytes_max > load.message_bytes {
        format!(
            "{}–{} B x {}",
            load.message_bytes, load.message_bytes_max, load.batch
        )
    } else {
        format!("{} B x {}", load.message_bytes, load.batch)
    };
    let mut add = |number: u64, what: &str| {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number as f64));
        }
    };
    add(load.publishers as u64, "publishing");
    add(load.receivers as u64, "receiving");
    add(load.rate, "a second");
    add(load.messages, "messages");
    if !load.extra.is_empty() {
        let _ = write!(text, ", {}", load.extra);
    }
    text
}

/// A count in three digits: 950, 12.3 k, 4.56 M.
fn count(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => return format!("{n:.0}"),
    };
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$}{unit}")
}

/// Writes `outcomes` into `folder`, made when absent: `result.json`, `result.md`,
/// `result.html`, each of its plots as `rates.svg`, `over-time.svg` and `latencies.svg`, and the latencies of each
/// outcome's middle run as `N-SCENARIO.hgrm`. A result that is there is kept as `history/RFC-3339-time.json`.
///
/// # Errors
///
/// What the file system said.
pub fn write_results(folder: &Path, outcomes: &[Outcome]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let result = folder.join(RESULT);
    if let Ok(before) = fs::read(&result) {
        let history = folder.join("history");
        fs::create_dir_all(&history)?;
        let began = serde_json::from_slice::<Vec<Outcome>>(&before)
            .ok()
            .and_then(|before| Some(before.first()?.environment.began.clone()));
        let name = began.unwrap_or_else(|| "unknown".to_owned());
        fs::rename(&result, history.join(format!("{name}.json")))?;
    }
    fs::write(&result, serde_json::to_vec_pretty(outcomes)?)?;
    for (place, outcome) in outcomes.iter().enumerate() {
        let run = outcome.middle().filter(|run| !run.hgrm.is_empty());
        if let Some(run) = run {
            let name = format!("{place}-{}.hgrm", outcome.scenario);
            fs::write(folder.join(name), &run.hgrm)?;
        }
    }
    let named = outcomes
        .iter()
        .map(|outcome| (plot::name_of(outcome), outcome));
    let plots = plots(&named.collect::<Vec<_>>());
    for plot in &plots {
        fs::write(folder.join(format!("{}.svg", plot.name())), plot.file())?;
    }
    fs::write(folder.join("result.html"), page::page(outcomes, &plots))?;
    fs::write(folder.join("result.md"), markdown(outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Environment, Figure, Latency, Parameters, SCHEMA, Target};

    #[test]
    fn a_result_is_written_whole_and_the_one_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut latency = Latency::new();
        for ns in 1..1000 {
            latency.note(ns * 1000, 1);
        }
        let mut run = Run {
            messages_per_s: 5e6,
            per_tenth: vec![4, 5, 6],
            figures: vec![Figure::new("ratio_to_sink", 0.75)],
            ..Run::default()
        };
        run.set_latency(&latency);
        let outcome = |began: &str| Outcome {
            schema: SCHEMA,
            scenario: "pub".to_owned(),
            target: Target {
                name: "<b>".to_owned(),
                durability: "stored".to_owned(),
                ..Target::default()
            },
            parameters: Parameters::default(),
            environment: Environment::now(began.to_owned(), folder.path()),
            runs: vec![run.clone(), run.clone()],
        };
        write_results(folder.path(), &[outcome("first")]).unwrap();
        write_results(folder.path(), &[outcome("second"), outcome("third")]).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("history/first.json").contains("\"pub\""));
        let back: Vec<Outcome> = serde_json::from_str(&read("result.json")).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!(back[0].runs[0].curve.len(), run.curve.len());
        assert!(read("0-pub.hgrm").contains("#[Max"));
        assert!(read("result.md").contains("ratio_to_sink 0.750 (95 %"));
        let page = read("result.html");
        assert!(
            page.contains("&lt;b&gt;") && !page.contains("<b>"),
            "escaped"
        );
        assert_eq!(page.matches("<polyline").count(), 4, "two plots of two");
        for name in ["rates.svg", "over-time.svg", "latencies.svg"] {
            let plot = read(name);
            assert!(
                plot.starts_with("<svg xmlns=") && plot.contains("&lt;b&gt; stored"),
                "{name}"
            );
            assert!(
                !plot.contains("NaN") && !plot.contains("inf"),
                "all is finite in {name}"
            );
        }
        assert!(
            !page.contains("NaN") && !page.contains("inf"),
            "all is finite"
        );
    }

    #[test]
    fn counts_have_three_digits() {
        let shown = [950.0, 12_345.0, 456_789.0, 4_560_000.0, 45_600_000.0].map(count);
        assert_eq!(shown, ["950", "12.3 k", "457 k", "4.56 M", "45.6 M"]);
    }
}
