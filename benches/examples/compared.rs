//! Writes the tables and plots of `tools/compare-peers`: what its runs came to, a row a target.
//!
//! ```text
//! compared FOLDER      reads runs.jsonl and channels.json there, writes peers.md, peers.json and plots/
//! ```
#![allow(
    clippy::indexing_slicing,
    reason = "a program for the maintainers may fail by a panic"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use millstream_benches::load::{Outcome, Run};
use millstream_benches::report::{Bar, Plot, plots};
use serde::{Deserialize, Serialize};

/// A line of `runs.jsonl`.
#[derive(Debug, Deserialize)]
struct Line {
    row: String,
    target: String,
    outcome: Option<Outcome>,
    failed: Option<i32>,
    why: Option<String>,
}

/// All runs of one target.
#[derive(Debug, Default, Serialize)]
struct Target {
    name: String,
    rows: BTreeMap<String, Outcome>,
    /// Rows of which a run failed.
    failed: Vec<String>,
    skipped: Option<String>,
}

/// A contender in one process, as the example `channels` writes it.
#[derive(Debug, Deserialize)]
struct Contender {
    name: String,
    version: String,
    keeps: String,
    hops: Vec<(String, Vec<f64>)>,
    round_trip_p50_ns: Vec<f64>,
}

/// Columns of rates: the row's name, and how its column is headed.
const RATES: [(&str, &str); 5] = [
    ("singles", "publish singly"),
    ("batches", "in batches of 1000"),
    ("read", "read stored"),
    ("queue", "queue, 4 workers"),
    ("both", "publish + read, batches of 100"),
];
/// Columns of latencies.
const LATENCIES: [(&str, &str); 3] = [
    ("e2e-1000", "1 k/s"),
    ("e2e-10000", "10 k/s"),
    ("e2e-50000", "50 k/s"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: compared FOLDER")?;
    let folder = Path::new(&folder);
    let targets = targets(&fs::read_to_string(folder.join("runs.jsonl"))?)?;
    let mut text = String::new();
    environment(&targets, &mut text)?;
    rates(&targets, &mut text)?;
    latencies(&targets, &mut text)?;
    ratios(&targets, &mut text)?;
    let drawn = folder.join("plots");
    fs::create_dir_all(&drawn)?;
    draw(&targets, &drawn)?;
    if let Ok(channels) = fs::read_to_string(folder.join("channels.json")) {
        let contenders: Vec<Contender> = serde_json::from_str(&channels)?;
        in_process(&contenders, &mut text)?;
        draw_in_process(&contenders, &drawn)?;
    }
    fs::write(folder.join("peers.md"), text)?;
    fs::write(
        folder.join("peers.json"),
        serde_json::to_vec_pretty(&targets)?,
    )?;
    Ok(())
}

fn targets(text: &str) -> Result<Vec<Target>, Box<dyn Error>> {
    let mut targets: Vec<Target> = Vec::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)?;
        let known = targets.iter().position(|target| target.name == line.target);
        let place = known.unwrap_or_else(|| {
            targets.push(Target {
                name: line.target.clone(),
                ..Target::default()
            });
            targets.len() - 1
        });
        let target = &mut targets[place];
        if line.why.is_some() {
            target.skipped = line.why;
        }
        if line.failed.is_some() {
            target.failed.push(line.row.clone());
        }
        if let Some(outcome) = line.outcome {
            match target.rows.get_mut(&line.row) {
                Some(all) => all.runs.extend(outcome.runs),
                None => drop(target.rows.insert(line.row, outcome)),
            }
        }
    }
    Ok(targets)
}

fn environment(targets: &[Target], text: &mut String) -> Result<(), Box<dyn Error>> {
    let mut outcomes = targets.iter().flat_map(|target| target.rows.values());
    let first = outcomes.next().ok_or("no run came to anything")?;
    let it = &first.environment;
    writeln!(
        text,
        "Measured {} by `tools/compare-peers` on {} processors ({}), {:.0} GiB, Linux {}, {}, {}. \
         Clients and servers share the processors; every server was started for the run, on loopback; \
         load average at the start {:.1}. Every message was checked for its place and its checksum.\n",
        it.began.split('T').next().unwrap_or(&it.began),
        it.processors,
        it.processor,
        it.memory_bytes as f64 / f64::from(1 << 30),
        it.kernel,
        it.file_system,
        std::env::var("RUSTC_VERSION").unwrap_or_default(),
        it.load_average,
    )?;
    for target in targets {
        if let Some(why) = &target.skipped {
            writeln!(text, "Skipped: {}: {}\n", target.name, why.trim())?;
        }
    }
    Ok(())
}

/// Name, version, durability and setup of a target, as it was measured in one of `rows`.
fn heading(target: &Target, rows: &[(&str, &str)]) -> String {
    let Some(outcome) = rows.iter().find_map(|(row, _)| target.rows.get(*row)) else {
        return target.name.clone();
    };
    let it = &outcome.target;
    let setup = match it.setup != "serve" && !it.setup.is_empty() {
        true => format!("; {}", it.setup),
        false => String::new(),
    };
    format!("{} {} | {}{setup}", it.name, it.version, it.durability)
}

/// Those that were measured in one of `rows` at least.
fn measured<'a>(
    targets: &'a [Target],
    rows: &'a [(&str, &str)],
) -> impl Iterator<Item = &'a Target> {
    let was_run = |target: &Target| {
        rows.iter().any(|(row, _)| {
            target.rows.contains_key(*row) || target.failed.iter().any(|failed| failed == row)
        })
    };
    targets
        .iter()
        .filter(move |target| target.skipped.is_none() && was_run(target))
}

fn rates(targets: &[Target], text: &mut String) -> Result<(), Box<dyn Error>> {
    write!(
        text,
        "| 100 B, thousand messages/s: median (lowest–highest) | durability |"
    )?;
    for (_, column) in RATES {
        write!(text, " {column} |")?;
    }
    writeln!(
        text,
        " … CPU-s per million | ready after, ms | RSS then, anonymous + file, MB |\n|{}",
        " --- |".repeat(RATES.len() + 5)
    )?;
    for target in measured(targets, &RATES) {
        write!(text, "| {} |", heading(target, &RATES))?;
        for (row, _) in RATES {
            let cell = cell(target, row, |outcome| {
                spread(outcome, |run| run.messages_per_s / 1e3, 0)
            });
            write!(text, " {cell} |")?;
        }
        let cpu = |run: &Run| {
            let used = run.broker.unwrap_or(run.generator).cpu_s;
            // It was used for those before and behind the stretch that counts as well.
            used * 1e6 / (run.delivered.received as f64).max(1.0)
        };
        let cpu = cell(target, "both", |outcome| spread(outcome, cpu, 2));
        let ready = fresh(target, "ready_after_ms", 1.0);
        let anonymous = fresh(target, "fresh_rss_anonymous_bytes", 1e-6);
        let file = fresh(target, "fresh_rss_file_bytes", 1e-6);
        writeln!(text, " {cpu} | {ready:.0} | {anonymous:.0} + {file:.0} |")?;
    }
    writeln!(text)?;
    Ok(())
}

fn latencies(targets: &[Target], text: &mut String) -> Result<(), Box<dyn Error>> {
    write!(
        text,
        "| publish to delivery at a fixed rate, open loop, 100 B, µs p50 / p99 / p99.9, medians | durability |"
    )?;
    for (_, column) in LATENCIES {
        write!(text, " {column} |")?;
    }
    writeln!(text, "\n|{}", " --- |".repeat(LATENCIES.len() + 2))?;
    for target in measured(targets, &LATENCIES) {
        write!(text, "| {} |", heading(target, &LATENCIES))?;
        for (row, _) in LATENCIES {
            let cell = cell(target, row, |outcome| {
                let micros = |of: fn(&Run) -> u64| outcome.spread(|run| of(run) as f64 / 1e3).0;
                let (p50, p99) = (
                    micros(|run| run.latency.p50_ns),
                    micros(|run| run.latency.p99_ns),
                );
                let p999 = micros(|run| run.latency.p999_ns);
                let asked = outcome.parameters.rate as f64;
                let kept = outcome.spread(|run| run.messages_per_s).0;
                let behind = match kept < 0.98 * asked {
                    true => format!(" (kept {:.0} k/s)", kept / 1e3),
                    false => String::new(),
                };
                format!("{p50:.0} / {p99:.0} / {p999:.0}{behind}")
            });
            write!(text, " {cell} |")?;
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(())
}

/// Writes a plot of each row: of rates, bars; of deliveries, latencies by percentile. What was not whole, or did
/// not keep the rate, is in none.
fn draw(targets: &[Target], folder: &Path) -> Result<(), Box<dyn Error>> {
    let rates = RATES.map(|row| (row, "rates"));
    let latencies = LATENCIES.map(|row| (row, "latencies"));
    for ((row, column), kind) in rates.into_iter().chain(latencies) {
        let outcomes = targets.iter().filter_map(|target| {
            let outcome = target.rows.get(row)?;
            let kept = outcome.spread(|run| run.messages_per_s).0;
            let it = &outcome.target;
            let name = format!("{} {}, {}", target.name, it.version, it.durability);
            let shown = outcome.is_whole() && kept >= 0.98 * outcome.parameters.rate as f64;
            shown.then_some((name, outcome))
        });
        let outcomes: Vec<_> = outcomes.collect();
        let title = match kind {
            "rates" => format!("{column}, 100 B: messages a second, median, lowest and highest"),
            _ => format!("Publish to delivery at {column}, µs by percentile, the middle run"),
        };
        for plot in plots(&outcomes) {
            if plot.name() == kind {
                fs::write(
                    folder.join(format!("{row}.svg")),
                    plot.titled(&title).file(),
                )?;
            }
        }
    }
    Ok(())
}

fn draw_in_process(contenders: &[Contender], folder: &Path) -> Result<(), Box<dyn Error>> {
    let shapes = contenders.first().map(|first| first.hops.len());
    for shape in 0..shapes.unwrap_or(0) {
        let name = &contenders[0].hops[shape].0;
        let bars = contenders.iter().filter_map(|it| {
            let mut rates = it.hops.get(shape)?.1.clone();
            rates.sort_by(f64::total_cmp);
            Some(Bar {
                name: format!(
                    "{} {}, {}",
                    it.name,
                    it.version,
                    it.keeps.split([',', ';']).next().unwrap_or_default()
                ),
                spread: (
                    rates.get(rates.len() / 2).copied()?,
                    rates[0],
                    rates[rates.len() - 1],
                ),
            })
        });
        let title =
            format!("In one process, {name}: messages a second, median, lowest and highest");
        if let Some(plot) = Plot::of_bars("rates", &title, &bars.collect::<Vec<_>>()) {
            let name = name.replace(' ', "");
            fs::write(folder.join(format!("in-process-{name}.svg")), plot.file())?;
        }
    }
    Ok(())
}

/// The cell of `row`; what failed or was not whole is told in it.
fn cell(target: &Target, row: &str, show: impl Fn(&Outcome) -> String) -> String {
    let failed = target.failed.iter().any(|failed| failed == row);
    match target.rows.get(row) {
        Some(outcome) if outcome.is_whole() && !failed => show(outcome),
        Some(outcome) if !outcome.is_whole() => format!("**not whole** {}", show(outcome)),
        Some(outcome) => format!("**failed once** {}", show(outcome)),
        None if failed => "**failed**".to_owned(),
        None => "–".to_owned(),
    }
}

fn spread(outcome: &Outcome, figure: impl Fn(&Run) -> f64, digits: usize) -> String {
    let (median, low, high) = outcome.spread(figure);
    // Of small numbers more is shown.
    let digits = if median < 10.0 { 2 } else { digits };
    format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
}

/// Median of a figure that every run has of its server as it was started.
fn fresh(target: &Target, name: &str, scale: f64) -> f64 {
    let runs = target.rows.values().flat_map(|outcome| &outcome.runs);
    let figures = runs.flat_map(|run| &run.figures);
    let mut values: Vec<f64> = figures
        .filter(|figure| figure.name == name)
        .map(|figure| figure.value * scale)
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn ratios(targets: &[Target], text: &mut String) -> Result<(), Box<dyn Error>> {
    let median = |target: &Target, row: &str| {
        let outcome = target.rows.get(row)?;
        Some(outcome.spread(|run| run.messages_per_s).0).filter(|rate| *rate > 0.0)
    };
    write!(
        text,
        "| Millstream's rate ÷ theirs, of the medians above | against |"
    )?;
    for (_, column) in RATES {
        write!(text, " {column} |")?;
    }
    writeln!(text, "\n|{}", " --- |".repeat(RATES.len() + 2))?;
    let is_ours = |target: &&Target| target.name.starts_with("millstream");
    // Theirs keep everything.
    let keeps_all = |target: &&Target| !target.name.ends_with("-newest");
    let ours = measured(targets, &RATES).filter(|target| is_ours(target) && keeps_all(target));
    for ours in ours {
        for theirs in measured(targets, &RATES).filter(|target| !is_ours(target)) {
            write!(text, "| {} | {} |", ours.name, theirs.name)?;
            for (row, _) in RATES {
                match median(ours, row).zip(median(theirs, row)) {
                    Some((ours, theirs)) => write!(text, " {:.1} |", ours / theirs)?,
                    None => write!(text, " – |")?,
                }
            }
            writeln!(text)?;
        }
    }
    writeln!(text)?;
    Ok(())
}

fn in_process(contenders: &[Contender], text: &mut String) -> Result<(), Box<dyn Error>> {
    let Some(first) = contenders.first() else {
        return Ok(());
    };
    write!(
        text,
        "| in one process, 64 B, million a second: median (lowest–highest); all poll | keeps |"
    )?;
    for (shape, _) in &first.hops {
        write!(text, " {shape} |")?;
    }
    writeln!(
        text,
        " round trip p50, ns |\n|{}",
        " --- |".repeat(first.hops.len() + 3)
    )?;
    for it in contenders {
        write!(text, "| {} {} | {} |", it.name, it.version, it.keeps)?;
        for (_, rates) in &it.hops {
            write!(text, " {} |", spread_of(rates, 1e-6, 1))?;
        }
        writeln!(text, " {} |", spread_of(&it.round_trip_p50_ns, 1.0, 0))?;
    }
    writeln!(
        text,
        "\nColumns: producers x messages of a batch. A contender without batches has none; rtrb has one \
         producer."
    )?;
    Ok(())
}

fn spread_of(values: &[f64], scale: f64, digits: usize) -> String {
    let mut sorted: Vec<f64> = values.iter().map(|value| value * scale).collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.first(), sorted.last()) {
        (Some(median), Some(low), Some(high)) => {
            // Of small numbers more is shown.
            let digits = if *median < 1.0 { 2 } else { digits };
            format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
        }
        _ => "–".to_owned(),
    }
}
