//! `embed`: the engine inside a program, beside what a program would use instead.
//!
//! Parcels of 64 bytes go from one or two threads through a stored topic to a thread that reads at
//! once: in a file, checksummed, each one checked. In turns with it, through std's bounded channel.
//! *Bursts* go into fresh segments, so that neither a rotation nor the disk is part of it; a *run* has
//! both. Then one parcel there and back, beside a number there and back in two cache lines; and a
//! queue that four threads work through.

mod engine;
pub mod hop;
mod parcel;
mod queue;
mod yardstick;

use std::hint::spin_loop;
use std::path::Path;
use std::time::Duration;

use millstream::{Durability, Publisher, Reader};
use millstream_protocol::limits::FRAME_HEADER_BYTES;

pub use parcel::{PARCEL_BYTES, Parcel};
pub use yardstick::memcpy_bytes_per_s;

use crate::broker::Failure;
use crate::load::{
    Delivered, Environment, Figure, Latency, Outcome, Parameters, Progress, Run, SCHEMA, Target,
    Tell, Usage,
};
use crate::stage::{BURST_BYTES, RUN_BYTES, Stage, publish_one};
use engine::hop_through;
use hop::{Hopped, Shape};
use yardstick::{hop_through_channel, ping_pong};

/// Bursts of a run, each followed by one through the channel.
const BURSTS: u64 = 8;
/// Round trips timed together, so that the clock costs little of it; their mean is noted.
const TOGETHER: u64 = 16;
/// Groups of round trips of a run.
const GROUPS: u64 = 4_000;
/// Parcels of a run that a queue is worked through with.
const QUEUED: u64 = 20_000_000;
const _: () = assert!(QUEUED.is_multiple_of(queue::BATCH as u64), "whole batches");

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Bursts(Shape),
    Run(Shape),
    PingPong,
    Queue,
}

/// All parts, with their names.
const PARTS: [(&str, Part); 7] = [
    ("1x1", Part::Bursts(shape(1, 1))),
    ("2x1", Part::Bursts(shape(2, 1))),
    ("1x64", Part::Bursts(shape(1, 64))),
    ("2x64", Part::Bursts(shape(2, 64))),
    ("1x64 run", Part::Run(shape(1, 64))),
    ("ping-pong", Part::PingPong),
    ("queue", Part::Queue),
];

const fn shape(producers: usize, batch: usize) -> Shape {
    Shape { producers, batch }
}

/// Runs every part, or that called `only`, `repeats` times, with its topics below `scratch`.
///
/// # Errors
///
/// `only` is no part's name, or the disk failed.
pub fn measure(
    only: Option<&str>,
    repeats: usize,
    (began, scratch, tell): (&str, &Path, Tell<'_>),
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    for (name, part) in PARTS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        tell(Progress::Phase(name));
        let mut outcome = Outcome {
            schema: SCHEMA,
            scenario: "embed".to_owned(),
            target: target(),
            parameters: parameters(name, part),
            environment: Environment::now(began.to_owned(), scratch),
            runs: Vec::new(),
        };
        for _ in 0..repeats {
            let before = Usage::own(Some(scratch));
            let mut run = match part {
                Part::Bursts(shape) => bursts(shape, scratch, tell)?,
                Part::Run(shape) => sustained(shape, scratch, tell)?,
                Part::PingPong => there_and_back(scratch, tell)?,
                Part::Queue => worked(scratch, tell)?,
            };
            run.generator = Usage::own(Some(scratch)) - before;
            outcome.runs.push(run);
        }
        outcomes.push(outcome);
    }
    if outcomes.is_empty() {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        return Err(format!("the parts of embed are {}", names.join(", ")).into());
    }
    Ok(outcomes)
}

fn target() -> Target {
    Target {
        name: "millstream in process".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        durability: Durability::Stored.to_string(),
        setup: String::new(),
    }
}

fn parameters(name: &str, part: Part) -> Parameters {
    let shape = match part {
        Part::Bursts(shape) | Part::Run(shape) => shape,
        Part::PingPong => self::shape(1, 1),
        Part::Queue => self::shape(1, queue::BATCH),
    };
    let receivers = match part {
        Part::Queue => queue::WORKERS,
        Part::Bursts(_) | Part::Run(_) | Part::PingPong => 1,
    };
    Parameters {
        message_bytes: PARCEL_BYTES,
        batch: shape.batch,
        publishers: shape.producers,
        receivers,
        extra: name.to_owned(),
        ..Parameters::default()
    }
}

/// Parcels of each producer in `bytes` of frames.
fn parcels_in(bytes: usize, shape: Shape) -> u64 {
    let frame_bytes = FRAME_HEADER_BYTES + shape.batch * (PARCEL_BYTES + 4);
    (bytes / frame_bytes * shape.batch / shape.producers) as u64
}

/// Several hops of one carrier put together.
#[derive(Default)]
struct Sum {
    messages: u64,
    spent: Duration,
    delivered: Delivered,
}

impl Sum {
    fn add(&mut self, hopped: &Hopped, tell: Tell<'_>) {
        self.messages += hopped.messages;
        self.spent += hopped.spent;
        self.delivered.add(&hopped.delivered);
        tell(Progress::Messages(hopped.messages));
    }

    fn per_s(&self) -> f64 {
        self.messages as f64 / self.spent.as_secs_f64().max(1e-9)
    }
}

fn bursts(shape: Shape, scratch: &Path, tell: Tell<'_>) -> Result<Run, Failure> {
    let mut stage = Stage::of_bursts_in(scratch)?;
    let each = parcels_in(BURST_BYTES, shape);
    let (mut ours, mut channel) = (Sum::default(), Sum::default());
    for _ in 0..BURSTS {
        ours.add(&hop_through(&mut stage, shape, each), tell);
        channel.add(&hop_through_channel(shape.producers, each), tell);
    }
    Ok(run_of(&ours, &channel))
}

fn sustained(shape: Shape, scratch: &Path, tell: Tell<'_>) -> Result<Run, Failure> {
    let mut stage = Stage::of_runs_in(scratch)?;
    let each = parcels_in(RUN_BYTES, shape);
    let (mut ours, mut channel) = (Sum::default(), Sum::default());
    ours.add(&hop_through(&mut stage, shape, each), tell);
    channel.add(&hop_through_channel(shape.producers, each), tell);
    Ok(run_of(&ours, &channel))
}

fn run_of(ours: &Sum, channel: &Sum) -> Run {
    let (per_s, channel_per_s) = (ours.per_s(), channel.per_s());
    let bytes_per_s = per_s * PARCEL_BYTES as f64;
    let memcpy = memcpy_bytes_per_s();
    let mut delivered = ours.delivered;
    // The channel is trusted to lose nothing; if it did, the harness is wrong.
    delivered.lost += channel.delivered.lost;
    delivered.damaged += channel.delivered.damaged;
    Run {
        messages_per_s: per_s,
        bytes_per_s,
        messages: ours.messages,
        seconds: ours.spent.as_secs_f64(),
        delivered,
        figures: vec![
            Figure::new("channel_messages_per_s", channel_per_s),
            Figure::new("ratio_to_channel", per_s / channel_per_s.max(1.0)),
            Figure::new("memcpy_bytes_per_s", memcpy),
            Figure::new("ratio_to_memcpy", bytes_per_s / memcpy),
        ],
        ..Run::default()
    }
}

/// A queue worked through, each parcel acknowledged.
fn worked(scratch: &Path, tell: Tell<'_>) -> Result<Run, Failure> {
    let mut stage = Stage::of_runs_in(scratch)?;
    let worked = queue::work_through(&mut stage, QUEUED)?;
    tell(Progress::Messages(QUEUED));
    let per_s = |time: Duration| QUEUED as f64 / time.as_secs_f64().max(1e-9);
    let messages_per_s = per_s(worked.spent);
    Ok(Run {
        messages_per_s,
        bytes_per_s: messages_per_s * PARCEL_BYTES as f64,
        messages: QUEUED,
        seconds: worked.spent.as_secs_f64(),
        delivered: worked.delivered,
        figures: vec![Figure::new(
            "publish_messages_per_s",
            per_s(worked.publishing),
        )],
        ..Run::default()
    })
}

/// One parcel there and back: both threads poll.
fn there_and_back(scratch: &Path, tell: Tell<'_>) -> Result<Run, Failure> {
    let mut stage = Stage::of_bursts_in(scratch)?;
    let there = stage.topic(Durability::Stored);
    let back = stage.topic(Durability::Stored);
    let (mut ask, mut answer) = (there.publisher(), back.publisher());
    let (mut listen, mut hear) = (there.reader_at_end(), back.reader_at_end());
    let trips = GROUPS * TOGETHER;
    let mut latency = Latency::new();
    let mut spent = Duration::ZERO;
    let mut check = parcel::Check::new(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..trips {
                next(&mut listen, |bytes| publish_one(&mut answer, bytes));
                answer.flush_wakes();
            }
        });
        let mut sequence = 0;
        for _ in 0..GROUPS {
            let start = std::time::Instant::now();
            for _ in 0..TOGETHER {
                send(&mut ask, &Parcel::new(0, sequence));
                next(&mut hear, |bytes| check.take(bytes));
                sequence += 1;
            }
            let group = start.elapsed();
            spent += group;
            latency.note(mean_ns(group), TOGETHER);
        }
    });
    tell(Progress::Messages(trips));
    let mut line = Latency::new();
    ping_pong(GROUPS, TOGETHER, |ns| line.note(ns / TOGETHER, TOGETHER));
    let line_ns = line.percentiles().p50_ns.max(1) as f64;
    let mut run = Run {
        messages_per_s: trips as f64 / spent.as_secs_f64().max(1e-9),
        messages: trips,
        seconds: spent.as_secs_f64(),
        delivered: check.settle(trips),
        ..Run::default()
    };
    run.set_latency(&latency);
    let p50_ns = run.latency.p50_ns as f64;
    run.figures = vec![
        Figure::new("p50_ns", p50_ns),
        Figure::new("cache_line_p50_ns", line_ns),
        Figure::new("ratio_to_cache_line", p50_ns / line_ns),
    ];
    Ok(run)
}

fn mean_ns(group: Duration) -> u64 {
    u64::try_from(group.as_nanos()).unwrap_or(u64::MAX) / TOGETHER
}

fn send(publisher: &mut Publisher, parcel: &Parcel) {
    publish_one(publisher, &parcel.0);
    publisher.flush_wakes();
}

fn next(reader: &mut Reader, take: impl FnOnce(&[u8])) {
    loop {
        match reader.try_next_view() {
            Some(record) => return take(record.expect("nothing is damaged").as_bytes()),
            None => spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_whole_and_has_its_ratio() {
        let folder = tempfile::tempdir().unwrap();
        let shape = shape(2, 64);
        let mut stage = Stage::of_bursts_in(folder.path()).unwrap();
        let ours = hop_through(&mut stage, shape, 6400);
        assert!(ours.delivered.is_whole(), "{ours:?}");
        assert_eq!((ours.messages, ours.delivered.received), (12_800, 12_800));
        let channel = hop_through_channel(2, 6400);
        assert!(channel.delivered.is_whole(), "{channel:?}");
        let unknown = measure(Some("3x3"), 1, ("", folder.path(), &|_| {}));
        assert!(unknown.unwrap_err().to_string().contains("1x64"));
    }
}
