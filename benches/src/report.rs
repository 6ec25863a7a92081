//! Results as people read them, and as files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::load::{Outcome, Run};

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
    text
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
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "| {} | {} {} | {} | {} | {} ({}–{}) | {:.1} | {p50:.0} / {p99:.0} / {p999:.0} | {cpu:.3} | {anonymous:.0} / {file:.0} | {} |",
        outcome.scenario,
        outcome.target.name,
        outcome.target.version,
        outcome.target.durability,
        load_text(outcome),
        count(median),
        count(low),
        count(high),
        bytes / 1e6,
        if outcome.is_whole() { "yes" } else { "NO" },
    );
}

fn load_text(outcome: &Outcome) -> String {
    let load = &outcome.parameters;
    let mut text = format!("{} B x {}", load.message_bytes, load.batch);
    let mut add = |number: u64, what: &str| {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number as f64));
        }
    };
    add(load.publishers as u64, "publishing");
    add(load.receivers as u64, "receiving");
    add(load.rate, "a second");
    add(load.messages, "messages");
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

/// Writes `outcomes` into `folder`, made when absent: `result.json`, `result.md`. A result that is there
/// is kept as `history/RFC-3339-time.json`.
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
    fs::write(folder.join("result.md"), markdown(outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits() {
        let shown = [950.0, 12_345.0, 456_789.0, 4_560_000.0, 45_600_000.0].map(count);
        assert_eq!(shown, ["950", "12.3 k", "457 k", "4.56 M", "45.6 M"]);
    }
}
