//! The result as one HTML file that needs nothing else: tables, and plots as SVG.

use std::fmt::Write as _;

use crate::load::{Outcome, Run};

use super::plot::{Plot, escape};
use super::{count, load_text, whole};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.25rem .5rem;text-align:left}\
svg{max-width:100%;height:auto;margin:.5rem 0}figure{display:inline-block;margin:0 1rem 1rem 0}";

/// The page, with these plots.
#[must_use]
pub(super) fn page(outcomes: &[Outcome], plots: &[Plot]) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Millstream benchmark</title>\
         <style>{STYLE}</style></head><body>\n<h1>Benchmark</h1>\n"
    );
    if let Some(first) = outcomes.first() {
        let at = &first.environment;
        let _ = writeln!(
            text,
            "<p>{}, {} processors ({}), kernel {}, {}; begun {}, load average then {:.1}; version {}{}.</p>",
            escape(&first.scenario),
            at.processors,
            escape(&at.processor),
            escape(&at.kernel),
            escape(&at.file_system),
            escape(&at.began),
            at.load_average,
            escape(&at.version),
            if at.optimised { "" } else { ", not optimised" },
        );
    }
    table(outcomes, &mut text);
    for plot in plots {
        text.push_str(&plot.figure());
    }
    text.push_str("</body></html>\n");
    text
}

fn table(outcomes: &[Outcome], text: &mut String) {
    text.push_str("<table><tr><th>target</th><th>durability</th><th>load</th><th>messages/s, median (low–high)</th><th>p50</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max µs</th><th>figures</th><th>whole</th></tr>\n");
    for outcome in outcomes {
        let (median, low, high) = outcome.spread(|run| run.messages_per_s);
        let micros = |of: fn(&Run) -> u64| outcome.spread(|run| of(run) as f64 / 1e3).0;
        let figures = super::figures(outcome);
        let _ = writeln!(
            text,
            "<tr><td>{} {}</td><td>{}</td><td>{}</td><td>{} ({}–{})</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{}</td><td>{}</td></tr>",
            escape(&outcome.target.name),
            escape(&outcome.target.version),
            escape(&outcome.target.durability),
            escape(&load_text(outcome)),
            count(median),
            count(low),
            count(high),
            micros(|run| run.latency.p50_ns),
            micros(|run| run.latency.p99_ns),
            micros(|run| run.latency.p999_ns),
            micros(|run| run.latency.p9999_ns),
            micros(|run| run.latency.max_ns),
            escape(&figures.join("; ")),
            whole(outcome),
        );
    }
    text.push_str("</table>\n");
}
