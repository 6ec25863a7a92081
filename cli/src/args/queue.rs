//! Arguments of `queue`, `cursor` and `work`.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use millstream_client::{DeadLetter, OnExpiry, QueueSettings, WhenFull};
use millstream_protocol::TopicName;

use super::{ConnectArgs, FormArgs};
use crate::backoff::BackoffText;
use crate::quantity;
use crate::start_point::StartPoint;

/// Arguments of `queue`.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// What to do with queues.
    #[command(subcommand)]
    pub(crate) command: QueueCommand,
}

/// What can be done with queues.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Create a queue; without --topic its topic, too, whose records go once they are settled
    Create(CreateArgs),
    /// List the queues
    Ls {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show one queue: what it holds, does and did, and its settings
    Show {
        /// Queue to show
        queue: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Change settings of a queue; those that are not given stay as they are
    Set {
        /// Queue to change
        queue: TopicName,
        #[command(flatten)]
        settings: SettingsArgs,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Remove queues, and their topics where those were made with them
    Rm {
        /// Queues to remove
        #[arg(required = true)]
        queues: Vec<TopicName>,
        /// Do not ask, though there are records that nobody has settled. Without a terminal nothing
        /// is ever asked
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Settle every record there is, also those that somebody works on
    Purge {
        /// Queue to empty
        queue: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Deliver nothing until told to resume; what is leased may still be settled
    Pause {
        /// Queue to pause
        queue: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Deliver again
    Resume {
        /// Queue to resume
        queue: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Send dead letters back to the queue they died in
    Redrive(RedriveArgs),
    /// Print records that are not settled, without taking them
    Peek(PeekArgs),
    /// List the records that consumers have taken and not settled
    Leases {
        /// Queue to look into
        queue: TopicName,
        /// At most this many; a server tells of 1024 at most
        #[arg(long, short = 'n', value_name = "N", default_value_t = 1024)]
        count: u32,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// Arguments of `queue create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 255 bytes, no `/`, no control characters, no `$` first
    pub(crate) queue: TopicName,

    /// Topic whose records it delivers [default: one of the queue's name, made with it]
    #[arg(long)]
    pub(crate) topic: Option<TopicName>,

    /// The first record it delivers: start, end or an OFFSET
    #[arg(long, value_name = "WHERE", default_value = "start")]
    pub(crate) from: StartPoint,

    /// Of each group only one record at a time, in order; never changed later
    #[arg(long, conflicts_with = "prioritised")]
    pub(crate) grouped: bool,

    /// Higher priorities first; never changed later
    #[arg(long, alias = "prioritized")]
    pub(crate) prioritised: bool,

    #[command(flatten)]
    pub(crate) settings: SettingsArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// How a queue delivers: what is given is changed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Deliveries after which an unsettled record becomes a dead letter; 0: without end [a new
    /// queue: 5]
    #[arg(long, value_name = "N")]
    pub(crate) max_deliveries: Option<u32>,

    /// How long a consumer has to settle a record, or to ask for more time [a new queue: 30s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) lease: Option<Duration>,

    /// How long a record waits before it comes again, FIRST[..CAP][xMULTIPLIER][~JITTER%]: `10ms`
    /// always; `1s..5m` doubling up to the cap; `1s..5mx3~20%` [a new queue: 1s..5mx2~20%]
    #[arg(long, value_name = "BACKOFF")]
    pub(crate) backoff: Option<BackoffText>,

    /// Where dead letters go: to the queue NAME, made when it is not there, to one of its `own`
    /// called like it and `.dead`, or `none` are kept [a new queue: own]
    #[arg(long, value_name = "NAME|own|none", value_parser = parse_dead_letter)]
    pub(crate) dead_letter: Option<DeadLetter>,

    /// What becomes of records whose time has passed [a new queue: dead-letter]
    #[arg(long, value_enum)]
    pub(crate) expired: Option<Expired>,

    /// Most records that are not settled; none: no limit [a new queue: none]
    #[arg(long, value_name = "N", value_parser = quantity::parse_count_limit)]
    pub(crate) max_messages: Option<u64>,

    /// Most bytes of records that are not settled, for example 1GiB; none: no limit [a new queue:
    /// none]
    #[arg(long, value_name = "BYTES", value_parser = quantity::parse_bytes_limit)]
    pub(crate) max_bytes: Option<u64>,

    /// How long after its publishing a record's time has passed, for example 7d; none: never [a new
    /// queue: none]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_time_limit)]
    pub(crate) max_age: Option<u64>,

    /// What becomes of new records while one of the limits is reached [a new queue: refuse]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) when_full: Option<Full>,
}

impl SettingsArgs {
    /// Changes in `settings` what was given.
    pub(crate) fn apply(&self, settings: &mut QueueSettings) {
        fn change<T: Clone>(setting: &mut T, given: Option<&T>) {
            if let Some(given) = given {
                setting.clone_from(given);
            }
        }
        let lease_ms = self
            .lease
            .map(|lease| u32::try_from(lease.as_millis()).unwrap_or(u32::MAX));
        change(&mut settings.deliveries_max, self.max_deliveries.as_ref());
        change(&mut settings.lease_ms, lease_ms.as_ref());
        change(
            &mut settings.backoff,
            self.backoff.map(|text| text.0).as_ref(),
        );
        change(&mut settings.dead_letter, self.dead_letter.as_ref());
        change(&mut settings.expired, self.expired.map(Into::into).as_ref());
        change(&mut settings.messages_max, self.max_messages.as_ref());
        change(&mut settings.bytes_max, self.max_bytes.as_ref());
        change(&mut settings.age_max_ms, self.max_age.as_ref());
        change(
            &mut settings.when_full,
            self.when_full.map(Into::into).as_ref(),
        );
    }
}

fn parse_dead_letter(text: &str) -> Result<DeadLetter, String> {
    match text {
        "own" => Ok(DeadLetter::Own),
        "none" => Ok(DeadLetter::Nowhere),
        name => TopicName::parse(name)
            .map(DeadLetter::Queue)
            .map_err(|error| error.to_string()),
    }
}

/// What becomes of a record whose time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expired {
    /// It is settled and counted
    Drop,
    /// It becomes a dead letter
    DeadLetter,
}

impl From<Expired> for OnExpiry {
    fn from(expired: Expired) -> Self {
        match expired {
            Expired::Drop => Self::Drop,
            Expired::DeadLetter => Self::DeadLetter,
        }
    }
}

/// What becomes of new records while a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Full {
    /// Publishing to the topic is refused, and may be tried again
    Refuse,
    /// Publishing to the topic waits
    Wait,
    /// The oldest ready records make room; they become dead letters where any are kept
    DropOldest,
}

impl From<Full> for WhenFull {
    fn from(full: Full) -> Self {
        match full {
            Full::Refuse => Self::Refuse,
            Full::Wait => Self::Wait,
            Full::DropOldest => Self::DropOldest,
        }
    }
}

/// Arguments of `queue redrive`.
#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// Queue whose dead letters go back. A queue that others send their dead letters to gives back
    /// its own records; any other has those given back that it sent to its dead-letter queue
    pub(crate) queue: TopicName,

    /// At most this many [default: as many as there are when it begins]
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<NonZeroU64>,

    /// At most this many a second, for example 50/s [default: as fast as it goes]
    #[arg(long, value_name = "N/s", value_parser = quantity::parse_rate)]
    pub(crate) rate: Option<NonZeroU32>,

    /// Only those that died for this reason: max-deliveries, rejected, expired or limit
    #[arg(long)]
    pub(crate) reason: Option<String>,

    /// Only those that died in this queue
    #[arg(long, value_name = "QUEUE")]
    pub(crate) source: Option<TopicName>,

    /// Only those with this key
    #[arg(long)]
    pub(crate) key: Option<String>,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Arguments of `queue peek`.
#[derive(Debug, Args)]
pub(crate) struct PeekArgs {
    /// Queue to look into
    pub(crate) queue: TopicName,

    /// Look into the queue that its dead letters go to
    #[arg(long)]
    pub(crate) dead: bool,

    /// The first record to print
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) from: u64,

    /// At most this many records
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) count: u64,

    /// All records: to keep them, `queue peek QUEUE --all --json > FILE`
    #[arg(long, conflicts_with = "count")]
    pub(crate) all: bool,

    /// Print bodies and nothing between them [default: a table for people, or all there is to say
    /// with --json]
    #[arg(long)]
    pub(crate) bare: bool,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Arguments of `cursor`.
#[derive(Debug, Args)]
pub(crate) struct CursorArgs {
    /// What to do with cursors.
    #[command(subcommand)]
    pub(crate) command: CursorCommand,
}

/// What can be done with cursors.
#[derive(Debug, Subcommand)]
pub(crate) enum CursorCommand {
    /// List the cursors, of one topic or of all
    Ls {
        /// Topic whose cursors to list
        topic: Option<TopicName>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show one cursor: where it is, and how far that is from the end
    Show {
        /// Its topic
        topic: TopicName,
        /// Its name
        name: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Set a cursor, and make it when it is not there
    Set {
        /// Its topic
        topic: TopicName,
        /// Its name
        name: TopicName,
        /// The next record to read: start, end, an OFFSET, an age such as -15m, or an RFC 3339 time
        #[arg(value_name = "WHERE", allow_hyphen_values = true)]
        place: StartPoint,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Remove a cursor
    Rm {
        /// Its topic
        topic: TopicName,
        /// Its name
        name: TopicName,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

const WORK_HELP: &str = "\
What a command says by its exit:
  0       acknowledged: the record is done
  65      rejected: a dead letter, with the last line of standard error as its reason
  others  retried after the queue's back-off, also when a signal ended it

A command finds in its environment MILLSTREAM_QUEUE, MILLSTREAM_TOPIC, MILLSTREAM_OFFSET,
MILLSTREAM_ATTEMPTS (1 at the first delivery) and, where the record has them, MILLSTREAM_KEY
and MILLSTREAM_GROUP. A record is delivered at least once: a command must bear to see one again.

On SIGINT or SIGTERM no more records are taken, commands that run may finish, the rest is given
back, and it ends with exit code 0. A second signal kills the commands and gives their records
back, too.

A server that goes away is waited for, unless --timeout says how long.";

/// Arguments of `work`.
#[derive(Debug, Args)]
#[command(after_help = WORK_HELP)]
pub(crate) struct WorkArgs {
    /// Queue to take records from
    pub(crate) queue: TopicName,

    /// Run `sh -c CMD` for each record, with its body on standard input [default: print bodies as
    /// `tail` does, and acknowledge each once it is written]
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,

    /// Commands that run at once
    #[arg(long, short, value_name = "N", default_value = "1", requires = "exec")]
    pub(crate) concurrency: NonZeroU32,

    /// Stop after this many deliveries
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<NonZeroU64>,

    /// End with exit code 0 once nothing was delivered for this long, provided that no record is
    /// leased to anybody and none is due within as long again: retries that wait are waited for
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) wait: Option<Duration>,

    /// How long a lease lasts; while a command runs it is extended [default: as the queue says]
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration)]
    pub(crate) lease: Option<Duration>,

    /// Kill a command that runs for longer than this; its record is retried
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, requires = "exec")]
    pub(crate) exec_timeout: Option<Duration>,

    #[command(flatten)]
    pub(crate) form: FormArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings(args: &[&str]) -> QueueSettings {
        let args = [&["millstream", "queue", "set", "q"], args].concat();
        let cli = Cli::try_parse_from(args).unwrap();
        let Command::Queue(QueueArgs {
            command: QueueCommand::Set {
                settings: given, ..
            },
        }) = cli.command
        else {
            panic!("{cli:?}");
        };
        let mut settings = QueueSettings {
            messages_max: 7,
            ..QueueSettings::default()
        };
        given.apply(&mut settings);
        settings
    }

    #[test]
    fn only_what_is_given_changes() {
        let before = settings(&[]);
        assert_eq!(before.messages_max, 7);
        let after = settings(&["--max-deliveries", "3", "--dead-letter", "none"]);
        let expected = QueueSettings {
            deliveries_max: 3,
            dead_letter: DeadLetter::Nowhere,
            ..before.clone()
        };
        assert_eq!(after, expected);
        let unlimited = settings(&["--max-messages", "none"]);
        assert_eq!(unlimited.messages_max, 0);
    }

    #[test]
    fn every_setting_can_be_given() {
        let all = settings(&[
            "--max-deliveries=0",
            "--lease=1m",
            "--backoff=10ms..1sx2~20%",
            "--dead-letter=graves",
            "--expired=drop",
            "--max-messages=10",
            "--max-bytes=1MiB",
            "--max-age=7d",
            "--when-full=drop-oldest",
        ]);
        assert_eq!(all.deliveries_max, 0);
        assert_eq!(all.lease_ms, 60_000);
        assert_eq!(all.backoff.cap_ms, 1000);
        let graves = TopicName::parse("graves").unwrap();
        assert_eq!(all.dead_letter, DeadLetter::Queue(graves));
        assert_eq!(all.expired, OnExpiry::Drop);
        assert_eq!(all.messages_max, 10);
        assert_eq!(all.bytes_max, 1 << 20);
        assert_eq!(all.age_max_ms, 7 * 86_400_000);
        assert_eq!(all.when_full, WhenFull::DropOldest);
    }

    #[test]
    fn a_command_is_needed_to_run_several() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from([&["millstream", "work", "q"], args].concat()).map(drop)
        };
        assert!(parse(&["--concurrency", "8"]).is_err());
        assert!(parse(&["--exec", "true", "--concurrency", "8"]).is_ok());
        assert!(parse(&["--exec", "true", "--concurrency", "0"]).is_err());
    }

    #[test]
    fn a_queue_has_one_mode() {
        let args = [
            "millstream",
            "queue",
            "create",
            "q",
            "--grouped",
            "--prioritised",
        ];
        assert!(Cli::try_parse_from(args).is_err());
    }
}
