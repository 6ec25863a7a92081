//! What a benchmark came to, as `result.json` keeps it.

use serde::{Deserialize, Serialize};

use super::latency::Percentiles;
use super::{Delivered, Environment, Latency, Resources};

/// Version of the schema. What is added keeps it; what is renamed or means something else raises it.
pub const SCHEMA: u32 = 1;

/// A benchmark: one scenario against one target, run several times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// What was measured: `pub`, `sub`, `e2e` …
    pub scenario: String,
    /// Against what.
    pub target: Target,
    /// With which load.
    pub parameters: Parameters,
    /// Where.
    pub environment: Environment,
    /// Each repetition.
    pub runs: Vec<Run>,
}

/// The broker or channel that was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its version, as it says itself.
    pub version: String,
    /// What an acknowledgement of it survives: `synced` power loss, `stored` a kill, `memory` neither;
    /// or what it says of itself where that is neither.
    pub durability: String,
    /// How it was started, where that matters.
    pub setup: String,
}

/// The load of a run. What does not apply is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Bytes of the largest, where sizes are random.
    #[serde(default)]
    pub message_bytes_max: usize,
    /// Messages of a batch.
    pub batch: usize,
    /// Messages sent and not yet acknowledged at most, of one publisher.
    pub window: usize,
    /// Publishers, each with a connection of its own.
    pub publishers: usize,
    /// Readers or workers, each with a connection of its own.
    pub receivers: usize,
    /// Messages a second of all publishers together; 0 is as fast as it goes.
    pub rate: u64,
    /// Messages of a run, where it is not told by time.
    pub messages: u64,
    /// Seconds of a run that count.
    pub seconds: f64,
    /// Seconds before them that do not.
    pub warmup_s: f64,
    /// What else the scenario was told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub extra: String,
}

/// One figure of a run that is no latency: a rate, a ratio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name, which ends in its unit.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// One repetition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// Messages a second.
    pub messages_per_s: f64,
    /// Bytes of bodies a second.
    pub bytes_per_s: f64,
    /// Messages that count.
    pub messages: u64,
    /// Seconds that count.
    pub seconds: f64,
    /// From the time each message was due to its acknowledgement or its receipt.
    pub latency: Percentiles,
    /// The whole curve of it: how many of a million are no longer than so many nanoseconds.
    #[serde(default)]
    pub curve: Vec<(f64, u64)>,
    /// The same as HdrHistogram's tools read it, for a file of its own.
    #[serde(skip)]
    pub hgrm: String,
    /// What became of the messages.
    pub delivered: Delivered,
    /// What the broker's process used; absent in process.
    pub broker: Option<Resources>,
    /// What the load generator used, and the broker with it where it runs in this process.
    pub generator: Resources,
    /// Messages in each tenth of a second, for a plot over time.
    pub per_tenth: Vec<u64>,
    /// What else the scenario measures.
    pub figures: Vec<Figure>,
}

impl Figure {
    /// A figure.
    #[must_use]
    pub fn new(name: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            value,
        }
    }
}

impl Run {
    /// Takes what `latency` comes to.
    pub fn set_latency(&mut self, latency: &Latency) {
        self.latency = latency.percentiles();
        if self.latency.count > 0 {
            self.curve = latency.points();
            self.hgrm = latency.curve();
        }
    }

    /// Its figure called `name`.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        let found = self.figures.iter().find(|figure| figure.name == name);
        found.map(|figure| figure.value)
    }
}

impl Outcome {
    /// Median, lowest and highest of `figure` over the runs.
    #[must_use]
    pub fn spread(&self, figure: impl Fn(&Run) -> f64) -> (f64, f64, f64) {
        let mut values: Vec<f64> = self.runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
            (Some(below), Some(above)) if values.len().is_multiple_of(2) => (below + above) / 2.0,
            (_, Some(median)) => *median,
            _ => 0.0,
        };
        let first = values.first().copied().unwrap_or(0.0);
        (median, first, values.last().copied().unwrap_or(0.0))
    }

    /// The run whose rate is nearest to the median.
    #[must_use]
    pub fn middle(&self) -> Option<&Run> {
        let (median, _, _) = self.spread(|run| run.messages_per_s);
        let distance = |run: &&Run| (run.messages_per_s - median).abs();
        self.runs
            .iter()
            .min_by(|one, other| distance(one).total_cmp(&distance(other)))
    }

    /// Whether every message of every run came, once, in order and as it was sent.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.runs.iter().all(|run| run.delivered.is_whole())
    }
}
