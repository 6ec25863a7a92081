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
        let one = |course, kind, own| vec![asked.load(course, kind, own)];
        match self {
            Self::Publish => one(
                Publish,
                Kind::Stream,
                Parameters {
                    receivers: 0,
                    ..own()
                },
            ),
            Self::Read => one(
                Receive,
                Kind::Stream,
                Parameters {
                    messages: MESSAGES,
                    ..own()
                },
            ),
            Self::EndToEnd => one(
                Through,
                Kind::Stream,
                Parameters {
                    batch: 1,
                    rate: RATE,
                    ..own()
                },
            ),
            Self::Queue => {
                let own = Parameters {
                    receivers: 4,
                    messages: MESSAGES,
                    ..own()
                };
                one(Receive, Kind::Queue, own)
            }
            Self::Mixed => one(Through, Kind::Stream, own()),
            Self::FanOut => one(
                Through,
                Kind::Stream,
                Parameters {
                    receivers: 4,
                    ..own()
                },
            ),
            Self::Sizes => [24, 100, 1 << 10, 16 << 10, 256 << 10, 1 << 20]
                .into_iter()
                .map(|message_bytes| {
                    // As many as fit in a quarter of a mebibyte, a hundredth of them under way.
                    let batch = ((256 << 10) / message_bytes).clamp(1, 1000);
                    let window = batch.max((8 << 20) / message_bytes);
                    let own = Parameters {
                        message_bytes,
                        batch,
                        window,
                        receivers: 0,
                        ..own()
                    };
                    asked.load(Publish, Kind::Stream, own)
                })
                .collect(),
            Self::Backlog => [10_000, 100_000, 1_000_000, 10_000_000]
                .into_iter()
                .map(|messages| {
                    let own = Parameters {
                        receivers: 1,
                        messages,
                        ..own()
                    };
                    asked.load(Receive, Kind::Queue, own)
                })
                .collect(),
            Self::Topics => [1, 10, 100]
                .into_iter()
                .map(|topics| {
                    let own = Parameters {
                        batch: 10,
                        window: 100,
                        publishers: topics,
                        receivers: 0,
                        extra: format!("{topics} topics"),
                        ..own()
                    };
                    Load {
                        topics,
                        ..asked.load(Publish, Kind::Stream, own)
                    }
                })
                .collect(),
            Self::Sweep => [1_000, 10_000, 50_000, 200_000]
                .into_iter()
                .map(|rate| {
                    asked.load(
                        Through,
                        Kind::Stream,
                        Parameters {
                            batch: 1,
                            rate,
                            ..own()
                        },
                    )
                })
                .collect(),
        }
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
