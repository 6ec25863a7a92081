//! The command line: every command, argument and option, and what each may be.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use millstream_client::Address;
use millstream_protocol::TopicName;

use crate::address::{self, DEFAULT_LISTEN};
use crate::quantity;
use crate::start_point::{DueTime, StartPoint};

mod bench;
mod folder;
mod queue;

pub(crate) use bench::{
    BenchArgs, BenchCommand, CompareArgs, GateArgs, Profile, RunArgs, RunCommand, Target,
};
pub(crate) use folder::{
    CutName, DoctorArgs, QuarantineArgs, QuarantineCommand, RepairArgs, VerifyArgs,
};
pub(crate) use queue::{
    CreateArgs, CursorArgs, CursorCommand, PeekArgs, QueueArgs, QueueCommand, RedriveArgs,
    SettingsArgs, WorkArgs,
};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  not found
  5  cannot connect, or the connection was lost
  6  timed out
  7  conflict: it exists already, or something else uses it
  8  damaged data
  9  a result is not as `bench gate` asserts
  10 doctor found what makes the machine or the folder unfit to serve";

/// A message broker: streams and work queues, on disk when they are acknowledged.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, after_help = AFTER_HELP)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print JSON: objects on standard output, errors as objects on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Publish lines, files or pieces of files
    Pub(PubArgs),
    /// Print the messages of a topic and wait for more
    Tail(TailArgs),
    /// Create, change, list, show and remove topics
    Topic(TopicArgs),
    /// Work queues: create, list, show, change and remove them, look into them, redrive
    Queue(QueueArgs),
    /// Take records from a queue, one command each
    Work(WorkArgs),
    /// Places in topics that the server keeps for readers
    Cursor(CursorArgs),
    /// Check every byte of a data folder that no server uses; changes nothing
    Verify(VerifyArgs),
    /// Look at machine, disk and data folder: is all fit to serve, and if not, what to do
    Doctor(DoctorArgs),
    /// What recovery cut off after unclean stops: list it, read what is in it
    Quarantine(QuarantineArgs),
    /// Put right what can be put right in a data folder that no server uses; deletes nothing
    Repair(RepairArgs),
    /// Look into one segment file
    Segment(SegmentArgs),
    /// Put a load on a server, measure it and check every message
    Bench(BenchArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Folder that holds the data; made when absent
    #[arg(long, value_name = "DIR", default_value = "millstream-data")]
    pub(crate) data: PathBuf,

    /// Address to listen on, HOST:PORT or unix:PATH; may be repeated. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    pub(crate) listen: Vec<String>,

    /// How to talk to sockets
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,

    /// I/O threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Look for work this long after the last that came before sleeping, for example 1ms: lowest latency,
    /// for a processor each I/O thread meanwhile. With epoll
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) poll: Option<Duration>,

    /// Which log lines to print, for example `info` or `millstream_server=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "MILLSTREAM_LOG",
        default_value = "warn"
    )]
    pub(crate) log: String,
}

/// How the server talks to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Io {
    /// io_uring where the kernel allows it, else epoll
    Auto,
    /// io_uring or nothing
    Uring,
    /// epoll
    Epoll,
}

/// Which server to ask, and how long to wait for it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// Server to talk to, millstream://HOST:PORT or millstream+unix:///PATH
    #[arg(long, value_name = "ADDRESS", env = "MILLSTREAM_SERVER",
          default_value = DEFAULT_LISTEN, value_parser = address::parse)]
    pub(crate) server: Address,

    /// Give up when the server has not answered for this long, for example 500ms or 2m; a tail told
    /// so gives up when no message came either [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Arguments of `pub`.
#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    /// Topic to publish to; created, with durability synced, when absent
    pub(crate) topic: TopicName,

    /// Files to publish; `-` or none is standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) framing: FramingArgs,

    /// At most this many messages in one batch, the unit that is stored as a whole [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,

    /// When a message counts as published [default: as the topic's durability says]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) ack: Option<Level>,

    /// Publish each message once, as the producer of this name: batches without an answer are sent
    /// again, and run again with the same input it goes on behind what is there
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub(crate) producer: Option<TopicName>,

    /// Key of every message
    #[arg(long, short)]
    pub(crate) key: Option<String>,

    /// Header of every message, NAME:VALUE; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,

    #[command(flatten)]
    pub(crate) queueing: QueueingArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// What queues make of a message; readers of the topic see it like any other.
#[derive(Debug, Args)]
#[command(next_help_heading = "For queues over the topic")]
pub(crate) struct QueueingArgs {
    /// Have queues deliver no message before so much time has passed, for example 10s or 30d
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) delay: Option<Duration>,

    /// Have queues deliver no message before this RFC 3339 time
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    pub(crate) at: Option<DueTime>,

    /// Group of every message: a grouped queue delivers one message of a group at a time, in order
    #[arg(long)]
    pub(crate) group: Option<String>,

    /// Name of the message, which must be the only one of the input: published again within the
    /// server's window it is not added, and told to be a duplicate
    #[arg(long)]
    pub(crate) id: Option<String>,

    /// Priority of every message, from 0 to 255: prioritised queues deliver higher ones first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) priority: u8,

    /// Have queues deliver no message after so much time has passed
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) expires: Option<Duration>,
}

/// What one message of the input is.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct FramingArgs {
    /// Each file is one message [default: each line is, without its newline]
    #[arg(long)]
    pub(crate) whole: bool,

    /// Messages end with a NUL byte instead of a newline
    #[arg(long, short = '0')]
    pub(crate) null: bool,

    /// Cut the input into messages of this size, for example 1MiB
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_bytes)]
    pub(crate) chunk: Option<NonZeroUsize>,
}

/// How safe a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// On disk: survives power loss
    Synced,
    /// In the server's mapped memory: survives a crash of the server, not of the machine
    Stored,
}

/// Arguments of `tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Topic to read
    pub(crate) topic: TopicName,

    /// Where to begin: start, end, an OFFSET, an age such as -15m, or an RFC 3339 time
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "start",
        allow_hyphen_values = true
    )]
    pub(crate) from: StartPoint,

    /// Stop after this many messages
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<NonZeroU64>,

    /// Stop at the end of the topic as it is now instead of waiting for more
    #[arg(long)]
    pub(crate) no_follow: bool,

    /// Begin at this cursor, which the server keeps, and move it behind what was printed; where
    /// there is no such cursor yet, --from says where to begin. It is moved each second, each 1000
    /// messages and at the end, also one by SIGINT or SIGTERM: after a crash some messages may be
    /// printed again, none is passed over
    #[arg(long, value_name = "NAME")]
    pub(crate) cursor: Option<TopicName>,

    #[command(flatten)]
    pub(crate) form: FormArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// How messages are printed.
#[derive(Debug, Args)]
pub(crate) struct FormArgs {
    /// How to print messages [default: raw, or jsonl with --json]
    #[arg(long, short, value_enum)]
    pub(crate) output: Option<TailOutput>,

    /// Raw output: print a NUL byte after each message instead of a newline
    #[arg(long, short = '0')]
    pub(crate) null: bool,

    /// Raw output: print bodies and nothing between them, which gives back what `pub --whole` and
    /// `pub --chunk` took
    #[arg(long, conflicts_with = "null")]
    pub(crate) bare: bool,
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TailOutput {
    /// The body and a newline
    Raw,
    /// One JSON object a line: offset, time, key, headers and body
    Jsonl,
}

/// Arguments of `topic`.
#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    /// What to do with topics.
    #[command(subcommand)]
    pub(crate) command: TopicCommand,
}

/// What can be done with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic
    Create {
        /// Its name: 1 to 255 bytes, no `/`, no control characters
        topic: TopicName,
        /// What an acknowledged message of it survives
        #[arg(long, value_enum, default_value_t = Level::Synced)]
        durability: Level,
        #[command(flatten)]
        retention: RetentionArgs,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Change how much of a topic is kept; what a queue over it has not settled stays in any case
    Set {
        /// Topic to change
        topic: TopicName,
        #[command(flatten)]
        retention: RetentionArgs,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// List the topics
    Ls {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show one topic: what it keeps, its offsets, size and state
    Show {
        /// Topic to show
        topic: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Remove topics and all their messages
    Rm {
        /// Topics to remove
        #[arg(required = true)]
        topics: Vec<TopicName>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// How much of a topic is kept.
#[derive(Debug, Args)]
pub(crate) struct RetentionArgs {
    /// Keep at least so much of the newest messages, for example 10GiB, and let older ones go; none: no such
    /// limit [default: as it is; of a new topic none]
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_bytes_limit)]
    pub(crate) retention_bytes: Option<u64>,

    /// Keep messages at least so long after their publishing, for example 7d, and let older ones go; none: no
    /// such limit [default: as it is; of a new topic none]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_time_limit)]
    pub(crate) retention_age: Option<u64>,
}

/// Arguments of `segment`.
#[derive(Debug, Args)]
pub(crate) struct SegmentArgs {
    /// What to do with a segment.
    #[command(subcommand)]
    pub(crate) command: SegmentCommand,
}

/// What can be done with a segment.
#[derive(Debug, Subcommand)]
pub(crate) enum SegmentCommand {
    /// Print what the file says it is, its slots and every frame
    Dump {
        /// Segment file, as it lies in a data folder
        file: PathBuf,
    },
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to print for
    pub(crate) shell: Shell,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), value.trim_start().to_owned()))
        }
        _ => Err("a header is written NAME:VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn headers_split_at_the_first_colon() {
        assert_eq!(
            parse_header("a: b:c"),
            Ok(("a".to_owned(), "b:c".to_owned()))
        );
        assert!(parse_header("a").is_err());
        assert!(parse_header(":a").is_err());
    }

    #[test]
    fn an_age_is_not_taken_for_an_option() {
        let cli = Cli::try_parse_from(["millstream", "tail", "t", "--from", "-15m"]);
        assert!(cli.is_ok(), "{cli:?}");
    }

    #[test]
    fn framings_exclude_each_other() {
        assert!(Cli::try_parse_from(["millstream", "pub", "t", "--whole", "--null"]).is_err());
        assert!(Cli::try_parse_from(["millstream", "pub", "t", "--chunk", "1MiB"]).is_ok());
    }
}
