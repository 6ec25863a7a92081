//! The engine inside one process, beside what a program would use instead: channels, rings, a log.
//!
//! ```text
//! channels [--json] [--repeats N] [--messages N] [--only NAME] [--folder DIR]
//! ```
//!
//! Parcels of 64 bytes go from one or two threads to another, singly and in batches of 64 where the
//! contender has batches, and one parcel goes there and back. Everybody polls; every parcel is checked
//! for its place and its checksum. Each repeat runs all contenders in turn, so that what else the
//! machine does falls on all of them.
#![allow(
    clippy::indexing_slicing,
    reason = "tables are sized by the contenders; a benchmark may fail by a panic"
)]

mod logs;
mod queues;
mod rings;
mod trip;

use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use millstream_benches::embed::hop::{Hopped, Shape};
use serde::Serialize;

/// The versions that were built.
const LOCK: &str = include_str!("../../../Cargo.lock");
/// Names the folder of a process that has the environment which one of the contenders reads.
const PREPARED: &str = "MILLSTREAM_CHANNELS_FOLDER";

/// The shapes of a hop, with their names.
const SHAPES: [(&str, Shape); 4] = [
    ("1 x 1", shape(1, 1)),
    ("2 x 1", shape(2, 1)),
    ("1 x 64", shape(1, 64)),
    ("2 x 64", shape(2, 64)),
];

const fn shape(producers: usize, batch: usize) -> Shape {
    Shape { producers, batch }
}

/// Whoever is measured.
struct Contender {
    name: &'static str,
    /// Its package, whose version is shown.
    package: &'static str,
    /// What is behind it.
    keeps: &'static str,
    /// It gets so many times fewer parcels, being slower.
    share: u64,
    /// Sends so many parcels a producer; `None` where it has no such shape.
    hop: fn(&Path, Shape, u64) -> Option<Hopped>,
    /// Median nanoseconds of a round trip; `None` where it is not asked.
    trip: fn(&Path) -> Option<u64>,
}

/// Results of one contender, one value a repeat.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    version: String,
    keeps: &'static str,
    /// By shape: parcels a second.
    hops: Vec<(&'static str, Vec<f64>)>,
    round_trip_p50_ns: Vec<f64>,
}

struct Asked {
    json: bool,
    repeats: usize,
    messages: u64,
    only: Option<String>,
    folder: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let asked = asked()?;
    let Some(folder) = std::env::var_os(PREPARED) else {
        return Err(become_prepared(&asked).into());
    };
    let measured = measure_all(&asked, Path::new(&folder));
    std::fs::remove_dir_all(&folder)?;
    let rows = measured?;
    if asked.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        print!("{}", table(&rows));
    }
    Ok(())
}

/// Starts over as the same process with the environment that walrus-rust reads, which a program can't
/// safely change for itself; gives why that failed.
fn become_prepared(asked: &Asked) -> std::io::Error {
    let folder = match tempfile::tempdir_in(&asked.folder) {
        Ok(folder) => folder,
        Err(error) => return error,
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let failure = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(PREPARED, folder.path())
        .env("WALRUS_DATA_DIR", folder.path())
        .env("WALRUS_QUIET", "1")
        .exec();
    drop(folder);
    failure
}

fn measure_all(asked: &Asked, folder: &Path) -> Result<Vec<Row>, Box<dyn Error>> {
    let contenders = contenders();
    let wanted = |contender: &&Contender| {
        let only = asked.only.as_deref();
        only.is_none_or(|only| contender.name.contains(only))
    };
    let mut rows: Vec<Row> = contenders.iter().filter(wanted).map(row).collect();
    // The first round warms everything up and is not kept.
    for repeat in 0..=asked.repeats {
        for (contender, row) in contenders.iter().filter(wanted).zip(&mut rows) {
            measure(contender, row, repeat > 0, (asked, folder))?;
        }
    }
    Ok(rows)
}

fn asked() -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked {
        json: false,
        repeats: 5,
        messages: 500_000,
        only: None,
        folder: std::env::temp_dir(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            asked.json = true;
            continue;
        }
        let value = arguments
            .next()
            .ok_or_else(|| format!("{argument}: usage: channels [--json] [--repeats N] [--messages N] [--only NAME] [--folder DIR]"))?;
        match argument.as_str() {
            "--repeats" => asked.repeats = value.parse()?,
            "--messages" => asked.messages = value.parse()?,
            "--only" => asked.only = Some(value),
            "--folder" => asked.folder = value.into(),
            _ => return Err(format!("{argument}: not known").into()),
        }
    }
    Ok(asked)
}

fn contenders() -> Vec<Contender> {
    let mut all = logs::contenders();
    all.extend(queues::contenders());
    all.extend(rings::contenders());
    all
}

fn row(contender: &Contender) -> Row {
    Row {
        name: contender.name,
        version: version(contender.package),
        keeps: contender.keeps,
        hops: SHAPES.iter().map(|(name, _)| (*name, Vec::new())).collect(),
        round_trip_p50_ns: Vec::new(),
    }
}

/// The version of `package` in the lock file; the compiler's for what comes with it.
fn version(package: &str) -> String {
    if package == "std" {
        let told = Command::new("rustc").arg("--version").output();
        let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
        let version = told.unwrap_or_default();
        return version.split(' ').nth(1).unwrap_or("").to_owned();
    }
    let entry = format!("name = \"{package}\"\nversion = \"");
    let version = LOCK.split(&entry).nth(1);
    let version = version.and_then(|rest| rest.split('"').next());
    version.unwrap_or("").to_owned()
}

fn measure(
    contender: &Contender,
    row: &mut Row,
    counts: bool,
    (asked, folder): (&Asked, &Path),
) -> Result<(), Box<dyn Error>> {
    for ((name, shape), (_, rates)) in SHAPES.iter().zip(&mut row.hops) {
        let each = asked.messages / contender.share / shape.producers as u64;
        let Some(hopped) = (contender.hop)(folder, *shape, each) else {
            continue;
        };
        if !hopped.delivered.is_whole() {
            return Err(format!("{} {name}: {hopped:?}", contender.name).into());
        }
        if counts {
            rates.push(hopped.messages as f64 / hopped.spent.as_secs_f64());
        }
    }
    if let Some(p50_ns) = (contender.trip)(folder)
        && counts
    {
        row.round_trip_p50_ns.push(p50_ns as f64);
    }
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| 64 B, million a second: median (lowest–highest) |");
    for (name, _) in SHAPES {
        text += &format!(" {name} |");
    }
    text += " round trip p50, ns | keeps |\n| --- |";
    text += &" --- |".repeat(SHAPES.len() + 2);
    text += "\n";
    for row in rows {
        text += &format!("| {} {} |", row.name, row.version);
        for (_, rates) in &row.hops {
            let millions: Vec<f64> = rates.iter().map(|rate| rate / 1e6).collect();
            text += &format!(" {} |", spread(&millions, 1));
        }
        let trips = spread(&row.round_trip_p50_ns, 0);
        text += &format!(" {trips} | {} |\n", row.keeps);
    }
    text
}

fn spread(values: &[f64], digits: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return "–".to_owned();
    };
    let median = sorted[sorted.len() / 2];
    // Of small numbers more is shown.
    let digits = if median < 1.0 { 2 } else { digits };
    format!("{median:.digits$} ({first:.digits$}–{last:.digits$})")
}
