//! What `millstream bench` measures: each scenario is a list of loads, each run several times.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::broker::{Broker, Failure, Kind};
use crate::load::{
    Course, Environment, Figure, Load, Outcome, Parameters, Run, SCHEMA, Tell, run, run_crowd,
};

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
    /// One publisher that waits for each acknowledgement.
    Ack,
    /// The same total under way over more and more connections.
    Connections,
    /// Publishers that wait for each acknowledgement: one, many with a connection each, many on one.
    Waiting,
    /// Streams and queues at once, sizes at random.
    Stress,
    /// End to end for long, and how the end differs from the beginning.
    Endurance,
    /// The engine in this process, beside a channel, memory and a cache line.
    Embed,
    /// Starts of a server: of an empty one, after a kill, after a stop; and what it costs idle.
    Recover,
}

/// All scenarios, with their names.
pub const SCENARIOS: [(&str, Scenario); 17] = [
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
    ("ack", Scenario::Ack),
    ("connections", Scenario::Connections),
    ("waiting", Scenario::Waiting),
    ("stress", Scenario::Stress),
    ("endurance", Scenario::Endurance),
    ("embed", Scenario::Embed),
    ("recover", Scenario::Recover),
];

impl Scenario {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = SCENARIOS.iter().find(|(_, scenario)| *scenario == self);
        found.map_or("", |(name, _)| name)
    }

    /// Whether all its loads run at once.
    const fn is_together(self) -> bool {
        matches!(self, Self::Stress)
    }

    /// Whether its loads ask what the first one's rate becomes.
    const fn compares(self) -> bool {
        matches!(
            self,
            Self::Backlog | Self::Topics | Self::Connections | Self::Waiting
        )
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

/// Without a message for so long, what did not come is lost.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes of a message unless told otherwise.
const MESSAGE_BYTES: usize = 100;
/// Messages under way at most, of one publisher.
const WINDOW: usize = 64_000;
/// Rate of `e2e` unless told otherwise.
const RATE: u64 = 10_000;
/// Messages of scenarios that go by number.
const MESSAGES: u64 = 1_000_000;
/// Messages that `sub` reads: enough for half a second at ten million a second.
const READ_MESSAGES: u64 = 5_000_000;
/// Connections of `connections`, unless told otherwise.
const CONNECTIONS: usize = 1000;
/// Publishers of `waiting`, unless told otherwise.
const WAITING: usize = 32;

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
    /// Whether to measure beside each load what bounds it.
    pub yardsticks: bool,
}

impl Asked {
    fn load(&self, course: Course, kind: Kind, own: Parameters) -> Load {
        Load {
            course,
            kind,
            topics: 1,
            silence: SILENCE,
            crowd: None,
            yardsticks: self.yardsticks,
            parameters: Parameters {
                message_bytes: self.message_bytes.unwrap_or(own.message_bytes),
                message_bytes_max: own.message_bytes_max,
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
        seconds: 3.0,
        warmup_s: 0.5,
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
            Self::Read => vec![asked.load(Receive, Kind::Stream, stored(READ_MESSAGES, 1))],
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
            Self::Backlog => backlog(asked),
            Self::Topics => [1, 10, 100].map(|topics| spread(asked, topics)).into(),
            Self::Sweep => [1_000, 10_000, 50_000, 200_000]
                .map(|rate| asked.load(Through, Kind::Stream, at_rate(rate)))
                .into(),
            Self::Ack => vec![asked.load(Publish, Kind::Stream, waiting())],
            Self::Connections => connections(asked),
            Self::Waiting => all_waiting(asked),
            Self::Stress => stress(asked),
            Self::Endurance => {
                let own = Parameters {
                    seconds: 60.0,
                    ..at_rate(RATE)
                };
                vec![asked.load(Through, Kind::Stream, own)]
            }
            // They are no loads on a broker.
            Self::Embed | Self::Recover => Vec::new(),
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

fn waiting() -> Parameters {
    Parameters {
        batch: 1,
        window: 1,
        ..publishing()
    }
}

/// What is behind the first message that a worker takes: 300,000, then ten times as much or as told.
fn backlog(asked: &Asked) -> Vec<Load> {
    let most = asked.messages.unwrap_or(3_000_000);
    let load = |messages| {
        let asked = Asked {
            messages: None,
            ..*asked
        };
        asked.load(Course::Receive, Kind::Queue, stored(messages, 1))
    };
    vec![load(300_000.min(most)), load(most)]
}

/// A load whose publishers share so many connections; what was asked of all its loads together is in `own`.
fn crowd(asked: &Asked, connections: Option<usize>, own: Parameters) -> Load {
    let asked = Asked {
        publishers: None,
        window: None,
        batch: None,
        ..*asked
    };
    Load {
        crowd: connections,
        ..asked.load(Course::Publish, Kind::Stream, own)
    }
}

/// One connection, then as many as told, with the same total under way.
fn connections(asked: &Asked) -> Vec<Load> {
    let most = asked.publishers.unwrap_or(CONNECTIONS);
    let window = asked.window.unwrap_or(most).max(most);
    let load = |publishers| {
        let own = Parameters {
            batch: 1,
            window,
            publishers,
            extra: format!("{publishers} connections"),
            ..publishing()
        };
        crowd(asked, Some(publishers), own)
    };
    vec![load(1), load(most)]
}

/// One publisher whose thread carries its connection, then as many as told, over a connection each and over
/// one that they share.
fn all_waiting(asked: &Asked) -> Vec<Load> {
    let most = asked.publishers.unwrap_or(WAITING);
    let load = |publishers, connections, extra: &str| {
        let own = Parameters {
            publishers,
            // A crowd's is that of all together.
            window: publishers,
            extra: extra.to_owned(),
            ..waiting()
        };
        crowd(asked, connections, own)
    };
    vec![
        load(1, None, "alone"),
        load(most, Some(most), "a connection each"),
        load(most, Some(1), "one connection"),
    ]
}

/// Everything at once: batches and singles, streams and queues, sizes at random, a rate beside them.
fn stress(asked: &Asked) -> Vec<Load> {
    let load = |course, kind, topics, own: Parameters| Load {
        topics,
        ..asked.load(course, kind, own)
    };
    let own = |extra: &str, batch, publishers, receivers, largest| Parameters {
        message_bytes: 24,
        message_bytes_max: largest,
        batch,
        window: 20 * batch,
        publishers,
        receivers,
        extra: extra.to_owned(),
        ..own()
    };
    let paced = Parameters {
        rate: 1000,
        ..own("stream at a rate", 1, 1, 1, 100)
    };
    vec![
        load(
            Course::Through,
            Kind::Stream,
            2,
            own("streams", 10, 2, 2, 64 << 10),
        ),
        load(
            Course::Through,
            Kind::Queue,
            1,
            own("queue", 1, 2, 4, 4 << 10),
        ),
        load(
            Course::Publish,
            Kind::Stream,
            4,
            own("topics", 50, 4, 0, 1 << 10),
        ),
        load(Course::Through, Kind::Stream, 1, paced),
    ]
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

/// Runs every load of `scenario` `repeats` times, in turns, so that what changes meanwhile strikes all.
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
    let mut outcomes: Vec<Outcome> = loads
        .iter()
        .map(|load| Outcome {
            schema: SCHEMA,
            scenario: scenario.name().to_owned(),
            target: broker.target(),
            parameters: load.parameters.clone(),
            environment: Environment::now(began.to_owned(), folder),
            runs: Vec::new(),
        })
        .collect();
    for repeat in 0..repeats {
        let name = |place| format!("bench-{}-{place}-{repeat}", scenario.name());
        let run_one = |place: usize, load: &Load| match load.crowd {
            Some(connections) => run_crowd(broker, (load, connections), &name(place), tell),
            None => run(broker, load, &name(place), tell),
        };
        let loads = loads.iter().enumerate();
        let mut runs = if scenario.is_together() {
            std::thread::scope(|scope| {
                let threads: Vec<_> = loads
                    .map(|(place, load)| scope.spawn(move || run_one(place, load)))
                    .collect();
                let joined = threads.into_iter().map(|thread| {
                    let panicked = |_| Err("a thread of the load panicked".into());
                    thread.join().unwrap_or_else(panicked)
                });
                joined.collect::<Result<Vec<Run>, Failure>>()
            })?
        } else {
            let runs = loads.map(|(place, load)| run_one(place, load));
            runs.collect::<Result<Vec<Run>, Failure>>()?
        };
        if scenario.compares() {
            compare_to_first(&mut runs);
        }
        for (outcome, run) in outcomes.iter_mut().zip(runs) {
            outcome.runs.push(run);
        }
    }
    Ok(outcomes)
}

/// Notes for each run but the first what its rate is of the first one's.
fn compare_to_first(runs: &mut [Run]) {
    let Some((first, rest)) = runs.split_first_mut() else {
        return;
    };
    for run in rest {
        let ratio = run.messages_per_s / first.messages_per_s.max(1e-9);
        run.figures.push(Figure::new("ratio_to_first", ratio));
    }
}
