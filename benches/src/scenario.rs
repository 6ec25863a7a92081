//! What `millstream bench` measures: each scenario is a list of loads, each run several times.

use std::path::Path;
use std::str::FromStr;

use crate::broker::{Broker, Failure, Kind};
use crate::load::{Course, Environment, Load, Outcome, Parameters, SCHEMA, Tell, run};

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Publish as fast as it is acknowledged, or at a rate; all is read back afterwards.
    Publish,
    /// Read what is stored.
    Read,
    /// Publish at a rate and read at once: latency from the intended time to the receipt.
    EndToEnd,
    /// Work through a queue, each message acknowledged by itself.
    Queue,
    /// Publish and read at once, as fast as it goes.
    Mixed,
    /// One publisher, several readers that each get everything.
    FanOut,
    /// Messages of all sizes from 24 B to 1 MiB.
    Sizes,
    /// The same queue with more and more behind it.
    Backlog,
    /// The same load spread over more and more topics.
    Topics,
    /// End to end at one rate after another.
    Sweep,
}

/// All scenarios against a broker, with their names.
pub const SCENARIOS: [(&str, Scenario); 10] = [
    ("pub", Scenario::Publish),
    ("sub", Scenario::Read),
    ("e2e", Scenario::EndToEnd),
    ("queue", Scenario::Queue),
    ("mixed", Scenario::Mixed),
    ("fanout", Scenario::FanOut),
    ("sizes", Scenario::Sizes),
    ("backlog", Scenario::Backlog),
    ("topics", Scenario::Topics),
    ("sweep", Scenario::Sweep),
];

impl Scenario {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = SCENARIOS.iter().find(|(_, scenario)| *scenario == self);
        found.map_or("", |(name, _)| name)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = SCENARIOS.iter().find(|(name, _)| *name == text);
        found.map(|(_, scenario)| *scenario).ok_or_else(|| {
            let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
            format!("{text}: the scenarios are {}", names.join(", "))
        })
    }
}

/// Bytes of a message unless told otherwise.
const MESSAGE_BYTES: usize = 100;
/// Messages under way at most, of one publisher.
const WINDOW: usize = 64_000;
/// Rate of `e2e` unless told otherwise.
const RATE: u64 = 10_000;
/// Messages of scenarios that go by number.
const MESSAGES: u64 = 1_000_000;

/// What the caller asked for; the rest is the scenario's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Bytes of a message.
    pub message_bytes: Option<usize>,
    /// Messages of a batch.
    pub batch: Option<usize>,
    /// Messages under way of one publisher.
    pub window: Option<usize>,
    /// Publishers.
    pub publishers: Option<usize>,
    /// Receivers.
    pub receivers: Option<usize>,
    /// Messages a second.
    pub rate: Option<u64>,
    /// Messages.
    pub messages: Option<u64>,
    /// Seconds that count.
    pub seconds: Option<f64>,
    /// Seconds before them.
    pub warmup_s: Option<f64>,
}

impl Asked {
    fn load(&self, course: Course, kind: Kind, own: Parameters) -> Load {
        Load {
            course,
            kind,
            topics: 1,
            parameters: Parameters {
                message_bytes: self.message_bytes.unwrap_or(own.message_bytes),
                batch: self.batch.unwrap_or(own.batch),
                window: self.window.unwrap_or(own.window),
                publishers: self.publishers.unwrap_or(own.publishers),
                receivers: self.receivers.unwrap_or(own.receivers),
                rate: self.rate.unwrap_or(own.rate),
                messages: self.messages.unwrap_or(own.messages),
                seconds: self.seconds.unwrap_or(own.seconds),
                warmup_s: self.warmup_s.unwrap_or(own.warmup_s),
                extra: own.extra,
            },
        }
    }
}

fn own() -> Parameters {
    Parameters {
        message_bytes: MESSAGE_BYTES,
        batch: 1000,
        window: WINDOW,
        publishers: 1,
        receivers: 1,
        seconds: 5.0,
        warmup_s: 1.0,
        ..Parameters::default()
    }
}

impl Scenario {
    /// Its loads, in the order they are run.
    #[must_use]
    pub fn loads(self, asked: &Asked) -> Vec<Load> {
        use Course::{Publish, Receive, Through};
        match self {
            Self::Publish => vec![asked.load(Publish, Kind::Stream, publishing())],
            Self::Read => vec![asked.load(Receive, Kind::Stream, stored(MESSAGES, 1))],
            Self::EndToEnd => vec![asked.load(Through, Kind::Stream, at_rate(RATE))],
            Self::Queue => vec![asked.load(Receive, Kind::Queue, stored(MESSAGES, 4))],
            Self::Mixed => vec![asked.load(Through, Kind::Stream, own())],
            Self::FanOut => {
                let own = Parameters {
                    receivers: 4,
                    ..own()
                };
                vec![asked.load(Through, Kind::Stream, own)]
            }
            Self::Sizes => [24, 100, 1 << 10, 16 << 10, 256 << 10, 1 << 20]
                .map(|message_bytes| asked.load(Publish, Kind::Stream, of_size(message_bytes)))
                .into(),
            Self::Backlog => [10_000, 100_000, 1_000_000, 10_000_000]
                .map(|messages| asked.load(Receive, Kind::Queue, stored(messages, 1)))
                .into(),
            Self::Topics => [1, 10, 100].map(|topics| spread(asked, topics)).into(),
            Self::Sweep => [1_000, 10_000, 50_000, 200_000]
                .map(|rate| asked.load(Through, Kind::Stream, at_rate(rate)))
                .into(),
        }
    }
}

fn publishing() -> Parameters {
    Parameters {
        receivers: 0,
        ..own()
    }
}

fn stored(messages: u64, receivers: usize) -> Parameters {
    Parameters {
        receivers,
        messages,
        ..own()
    }
}

fn at_rate(rate: u64) -> Parameters {
    Parameters {
        batch: 1,
        rate,
        ..own()
    }
}

/// As many in a batch as fit in a quarter of a mebibyte, and 8 MiB under way.
fn of_size(message_bytes: usize) -> Parameters {
    let batch = ((256 << 10) / message_bytes).clamp(1, 1000);
    Parameters {
        message_bytes,
        batch,
        window: batch.max((8 << 20) / message_bytes),
        ..publishing()
    }
}

/// A publisher for each topic, with few messages under way, so that syncs are shared or are many.
fn spread(asked: &Asked, topics: usize) -> Load {
    let own = Parameters {
        batch: 10,
        window: 100,
        publishers: topics,
        extra: format!("{topics} topics"),
        ..publishing()
    };
    Load {
        topics,
        ..asked.load(Course::Publish, Kind::Stream, own)
    }
}

/// Runs every load of `scenario` `repeats` times.
///
/// # Errors
///
/// What the broker said.
pub fn measure(
    broker: &dyn Broker,
    scenario: Scenario,
    loads: &[Load],
    repeats: usize,
    (began, folder, tell): (&str, &Path, Tell<'_>),
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    for (place, load) in loads.iter().enumerate() {
        let mut outcome = Outcome {
            schema: SCHEMA,
            scenario: scenario.name().to_owned(),
            target: broker.target(),
            parameters: load.parameters.clone(),
            environment: Environment::now(began.to_owned(), folder),
            runs: Vec::new(),
        };
        for repeat in 0..repeats {
            let name = format!("bench-{}-{place}-{repeat}", scenario.name());
            outcome.runs.push(run(broker, load, &name, tell)?);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}
