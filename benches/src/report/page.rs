//! The result as one HTML file that needs nothing else: tables, and plots as SVG.

use std::fmt::Write as _;

use crate::load::{Outcome, Run};

use super::{count, load_text, whole};

/// Size of a plot and of the margin in which its axes are named.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 56.0;
/// Colours of lines, in turns.
const COLOURS: [&str; 6] = [
    "#1f6fb2", "#c2571a", "#2c8a4b", "#8a3ba8", "#a3271f", "#5c6670",
];
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.25rem .5rem;text-align:left}\
svg{max-width:100%;height:auto;margin:.5rem 0}figure{display:inline-block;margin:0 1rem 1rem 0}";

/// A line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page.
#[must_use]
pub(super) fn page(outcomes: &[Outcome]) -> String {
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
    text.push_str(&rates(outcomes));
    text.push_str(&plot(
        "Messages a second over time",
        ("s", "msg/s"),
        &over_time(outcomes),
        Scale::Plain,
    ));
    text.push_str(&plot(
        "Latency",
        ("percentile: 1 / (1 - q)", "µs"),
        &curves(outcomes),
        Scale::Both,
    ));
    text.push_str("</body></html>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn name_of(outcome: &Outcome) -> String {
    let extra = &outcome.parameters.extra;
    if extra.is_empty() {
        format!("{}, {}", outcome.target.name, load_text(outcome))
    } else {
        format!("{}, {extra}", outcome.target.name)
    }
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

/// A bar for each outcome: scaling over sizes, topics, connections, or targets side by side.
fn rates(outcomes: &[Outcome]) -> String {
    let medians: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.spread(|run| run.messages_per_s))
        .collect();
    let most = medians.iter().map(|(_, _, high)| *high).fold(1.0, f64::max);
    let height = 34.0 * outcomes.len() as f64 + 10.0;
    let mut text = format!(
        "<figure><figcaption>Messages a second, median, low and high</figcaption><svg viewBox=\"0 0 900 {height}\" width=\"900\" role=\"img\">"
    );
    for (place, (outcome, (median, low, high))) in outcomes.iter().zip(medians).enumerate() {
        let y = 34.0 * place as f64 + 6.0;
        let x = |rate: f64| 360.0 + rate / most * 420.0;
        let _ = write!(
            text,
            "<text x=\"0\" y=\"{:.1}\" font-size=\"12\">{}</text><rect x=\"360\" y=\"{y:.1}\" width=\"{:.1}\" height=\"20\" fill=\"{}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#222\" stroke-width=\"2\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\">{}</text>",
            y + 14.0,
            escape(&name_of(outcome)),
            x(median) - 360.0,
            COLOURS[place % COLOURS.len()],
            x(low),
            x(high),
            y + 10.0,
            y + 10.0,
            x(high) + 6.0,
            y + 14.0,
            count(median),
        );
    }
    text.push_str("</svg></figure>\n");
    text
}

fn over_time(outcomes: &[Outcome]) -> Vec<Line> {
    let lines = outcomes.iter().filter_map(|outcome| {
        let run = outcome.middle()?;
        let tenths = run.per_tenth.iter().enumerate();
        let points: Vec<_> = tenths
            .map(|(tenth, messages)| (tenth as f64 / 10.0, *messages as f64 * 10.0))
            .collect();
        let name = name_of(outcome);
        (points.len() > 1).then_some(Line { name, points })
    });
    lines.collect()
}

fn curves(outcomes: &[Outcome]) -> Vec<Line> {
    let lines = outcomes.iter().filter_map(|outcome| {
        let run = outcome.middle()?;
        let points: Vec<_> = run
            .curve
            .iter()
            .filter(|(quantile, _)| *quantile < 1e6)
            .map(|(quantile, ns)| (1e6 / (1e6 - quantile), (*ns as f64 / 1e3).max(0.01)))
            .collect();
        let name = name_of(outcome);
        (points.len() > 1).then_some(Line { name, points })
    });
    lines.collect()
}

/// How a plot's axes are divided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// Evenly, from 0.
    Plain,
    /// By powers of ten, both.
    Both,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Plain => value,
            Self::Both => value.log10(),
        }
    }

    fn back(self, value: f64) -> f64 {
        match self {
            Self::Plain => value,
            Self::Both => 10_f64.powf(value),
        }
    }
}

fn plot(title: &str, (x_unit, y_unit): (&str, &str), lines: &[Line], scale: Scale) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    if points().next().is_none() {
        return String::new();
    }
    let x_most = points().map(|(x, _)| scale.of(*x)).fold(1e-9, f64::max);
    let y_most = points().map(|(_, y)| scale.of(*y)).fold(1e-9, f64::max) * 1.05;
    let y_least = match scale {
        Scale::Plain => 0.0,
        Scale::Both => points()
            .map(|(_, y)| scale.of(*y))
            .fold(y_most, f64::min)
            .min(y_most - 0.1),
    };
    let x = |value: f64| MARGIN + scale.of(value).max(0.0) / x_most * (WIDTH - MARGIN - 10.0);
    let y = |value: f64| {
        let share = (scale.of(value) - y_least) / (y_most - y_least);
        HEIGHT - 30.0 - share * (HEIGHT - 50.0)
    };
    let mut text = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {}\" width=\"{WIDTH}\" role=\"img\">",
        HEIGHT + 18.0 * lines.len() as f64
    );
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let value = scale.back(y_least + share * (y_most - y_least));
        let at = scale.back(share * x_most);
        let _ = write!(
            text,
            "<line x1=\"{MARGIN}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{1:.1}\" y=\"{2:.1}\" font-size=\"11\" text-anchor=\"end\">{3}</text><text x=\"{4:.1}\" y=\"{5:.1}\" font-size=\"11\" text-anchor=\"middle\">{6}</text>",
            y(value),
            MARGIN - 4.0,
            y(value) + 4.0,
            count(value),
            x(at),
            HEIGHT - 14.0,
            if at < 10.0 {
                format!("{at:.1}")
            } else {
                count(at)
            },
        );
    }
    let _ = write!(
        text,
        "<text x=\"{WIDTH}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\">{x_unit}</text><text x=\"2\" y=\"11\" font-size=\"11\">{y_unit}</text>",
        HEIGHT - 2.0
    );
    for (place, line) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let points = line.points.iter();
        let points: Vec<String> = points
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let under = HEIGHT + 18.0 * place as f64 + 12.0;
        let _ = write!(
            text,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/><rect x=\"{MARGIN}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
            points.join(" "),
            under - 9.0,
            MARGIN + 16.0,
            under,
            escape(&line.name),
        );
    }
    text.push_str("</svg></figure>\n");
    text
}
