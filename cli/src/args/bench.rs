//! Arguments of `bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millstream_benches::broker::Peer;
use millstream_benches::scenario::Scenario;
use millstream_client::Address;

use super::Level;
use crate::address;
use crate::quantity;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// What to do with results.
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,

    #[command(flatten)]
    pub(crate) run: Option<RunArgs>,
}

/// What can be done with results.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Fail, with exit code 9, unless a result is as asserted
    Gate(GateArgs),
    /// Compare two results, or two programs by interleaved pairs of runs: ratio with a 95 % interval
    Compare(CompareArgs),
}

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Compare this program, as B, with the running one, as A: each serves in turns
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,

    /// Compare results of other loads, durabilities or machines all the same
    #[arg(long)]
    pub(crate) force: bool,

    /// Two results, A and B; with --program a scenario and its arguments, as of `bench`
    #[arg(
        value_name = "A B | SCENARIO ARGUMENTS",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) operands: Vec<String>,
}

/// A scenario and its arguments behind `compare --program`.
#[derive(Debug, Parser)]
#[command(name = "millstream bench", no_binary_name = true)]
pub(crate) struct RunCommand {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// This program's own server.
    Millstream,
    /// Another broker.
    Peer(Peer),
}

fn parse_target(text: &str) -> Result<Target, String> {
    if text == "millstream" {
        return Ok(Target::Millstream);
    }
    text.parse().map(Target::Peer)
}

/// What a profile is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Processor time.
    Cpu,
}

/// Arguments of a benchmark.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What to measure
    ///
    /// pub: publish as fast as it is acknowledged, or at a rate; sub: read what is stored; e2e: publish
    /// at a rate, latency to the receipt; queue: work through a queue, each message acknowledged;
    /// embed: the engine in this process; backlog: a queue with little and with much behind it;
    /// topics: the same load over 1, 10 and 100 topics; connections: over one and over many
    /// connections; sizes: 24 B to 1 MiB; recover: starts of a server; mixed: publish and read as fast
    /// as it goes; fanout: one publisher, four readers; stress: all at once, sizes at random;
    /// endurance: e2e for long; sweep: e2e at rising rates; ack: one message at a time; waiting: so, by
    /// one publisher, by 32 with a connection each, by 32 on one connection
    #[arg(verbatim_doc_comment)]
    pub(crate) scenario: Scenario,

    /// What is measured: millstream, or another broker in one of its forms, started on loopback in a
    /// folder of its own: redis, redis-aof, redis-always, nats, nats-synced, rabbitmq, rabbitmq-quorum
    #[arg(long, value_name = "NAME", default_value = "millstream", value_parser = parse_target)]
    pub(crate) target: Target,

    /// Program of the other broker, where it is not the one on the path
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    pub(crate) peer_program: Option<PathBuf>,

    /// The server's program, where it is not this one.
    #[arg(skip)]
    pub(crate) program: Option<PathBuf>,

    /// Measure this part alone, of embed: 1x1, 2x1, 1x64, 2x64, '1x64 run', ping-pong or queue
    #[arg(long, value_name = "PART")]
    pub(crate) part: Option<String>,

    /// Measure beside it what bounds it on this machine: a sink that discards, memory, the disk, a
    /// round trip over TCP. For pub, sub and ack
    #[arg(long)]
    pub(crate) yardsticks: bool,

    /// Measure the server at this address instead of one that is started for it
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub(crate) server: Option<Address>,

    /// Argument for the server that is started, for example --serve=--threads --serve=1
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(crate) serve: Vec<String>,

    /// Have both ends poll this long before they sleep, for example 10ms: the server that is started, as by
    /// `serve --poll`, and the clients
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) poll: Option<Duration>,

    /// What an acknowledgement of millstream survives; another broker's name says its own
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "synced")]
    pub(crate) ack: Level,

    /// Have topics keep so much of the newest messages, for example 1GiB, and let older ones go, which are then
    /// not read back. For pub, ack, sizes and connections
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_bytes)]
    pub(crate) retention_bytes: Option<NonZeroUsize>,

    /// Bytes of a message, at least 24
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_bytes)]
    pub(crate) size: Option<NonZeroUsize>,

    /// Messages of a batch
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,

    /// Messages under way of one publisher
    #[arg(long, value_name = "N")]
    pub(crate) window: Option<NonZeroUsize>,

    /// Publishers, each with a connection of its own; of connections, how many
    #[arg(long, value_name = "N")]
    pub(crate) publishers: Option<NonZeroUsize>,

    /// Readers or workers, each with a connection of its own
    #[arg(long, value_name = "N")]
    pub(crate) receivers: Option<NonZeroUsize>,

    /// Messages a second of all publishers together, whatever becomes of them; without it a
    /// publisher sends as fast as it is acknowledged
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroUsize>,

    /// Messages of a run, of sub, queue, backlog and recover
    #[arg(long, value_name = "N")]
    pub(crate) messages: Option<u64>,

    /// How long a run counts, of scenarios that go by time
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// How long it runs before it counts
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) warmup: Option<Duration>,

    /// How often each load is run
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) repeat: NonZeroUsize,

    /// Folder in which servers have their data
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) scratch: PathBuf,

    /// Draw where the processor time went into profile.svg in the folder of --out. For embed, in a build
    /// with the feature `profile`
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) profile: Option<Profile>,

    /// Folder for result.json and its tables; one that holds a result keeps it in its history
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `bench gate`.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// The result
    pub(crate) result: PathBuf,

    /// What must hold, [PART:]FIGURE OP NUMBER: `messages_per_s>1000000`, `p99_us<500`, `lost=0`,
    /// `1x64:ratio_to_channel>1`; may be repeated
    #[arg(long = "assert", value_name = "CONDITION", required = true)]
    pub(crate) conditions: Vec<String>,
}
