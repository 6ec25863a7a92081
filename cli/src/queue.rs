//! `millstream queue`: work queues created, listed, shown, changed, looked into and removed.

mod object;
mod peek;
mod redrive;

use std::io::{self, IsTerminal, Write};

use millstream_client::{LeaseInfo, QueueInfo, QueueMode, QueueOptions, QueueSettings, Start};
use millstream_protocol::TopicName;
use serde::Serialize;

use crate::args::{ConnectArgs, CreateArgs, QueueArgs, QueueCommand, SettingsArgs};
use crate::connect::{Connected, connect, queue_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::show_ms;
use object::{QueueObject, mode_name, summary};

/// That something was done to a queue, as `--json` prints it.
#[derive(Debug, Serialize)]
struct DoneObject<'a> {
    queue: &'a str,
    done: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
}

/// A leased record as `--json` prints it.
#[derive(Debug, Serialize)]
struct LeaseObject {
    offset: u64,
    consumer: u64,
    attempts: u16,
    left_ms: u32,
}

/// Does what `args` say about queues.
pub(crate) fn run(args: &QueueArgs, output: Output) -> Result<(), Failure> {
    match &args.command {
        QueueCommand::Create(args) => create(args, output),
        QueueCommand::Ls { connect } => list(connect, output),
        QueueCommand::Show {
            queue,
            connect: args,
        } => {
            let info = describe(&connect(args)?, queue)?;
            output.line(&QueueObject::of(&info), format_args!("{}", summary(&info)))
        }
        QueueCommand::Set {
            queue,
            settings,
            connect,
        } => set(queue, settings, connect, output),
        QueueCommand::Rm {
            queues,
            yes,
            connect,
        } => remove(queues, Ask::of(*yes), connect, output),
        QueueCommand::Purge {
            queue,
            connect: args,
        } => {
            let server = connect(args)?;
            let purged = server.runtime.block_on(server.client.purge_queue(queue));
            let records = purged.map_err(|error| queue_failure(&error))?;
            done(queue, "purged", Some(records), output)
        }
        QueueCommand::Pause {
            queue,
            connect: args,
        } => {
            let server = connect(args)?;
            let paused = server.runtime.block_on(server.client.pause_queue(queue));
            paused.map_err(|error| queue_failure(&error))?;
            done(queue, "paused", None, output)
        }
        QueueCommand::Resume {
            queue,
            connect: args,
        } => {
            let server = connect(args)?;
            let resumed = server.runtime.block_on(server.client.resume_queue(queue));
            resumed.map_err(|error| queue_failure(&error))?;
            done(queue, "resumed", None, output)
        }
        QueueCommand::Redrive(args) => redrive::run(args, output),
        QueueCommand::Peek(args) => peek::run(args, output),
        QueueCommand::Leases {
            queue,
            count,
            connect,
        } => leases(queue, *count, connect, output),
    }
}

fn describe(server: &Connected, queue: &TopicName) -> Result<QueueInfo, Failure> {
    server
        .runtime
        .block_on(server.client.queue(queue))
        .map_err(|error| queue_failure(&error))
}

fn done(
    queue: &TopicName,
    done: &str,
    records: Option<u64>,
    output: Output,
) -> Result<(), Failure> {
    let object = DoneObject {
        queue: queue.as_str(),
        done,
        records,
    };
    match records {
        None => output.line(&object, format_args!("{queue} {done}")),
        Some(1) => output.line(&object, format_args!("{queue} {done}: 1 record")),
        Some(count) => output.line(&object, format_args!("{queue} {done}: {count} records")),
    }
}

fn create(args: &CreateArgs, output: Output) -> Result<(), Failure> {
    let start = args.from.0;
    if matches!(start, Start::Time(_)) {
        let message = "--from: a queue begins at start, end or an OFFSET";
        return Err(Failure::new(Exit::Usage, message));
    }
    let mode = match (args.grouped, args.prioritised) {
        (true, _) => QueueMode::Grouped,
        (_, true) => QueueMode::Prioritised,
        _ => QueueMode::Plain,
    };
    let mut settings = QueueSettings::default();
    args.settings.apply(&mut settings);
    let mut options = QueueOptions::new()
        .mode(mode)
        .start(start)
        .settings(settings);
    if let Some(topic) = &args.topic {
        options = options.topic(topic.as_str());
    }
    let server = connect(&args.connect)?;
    let created = server.client.create_queue(&args.queue, options);
    let info = server
        .runtime
        .block_on(created)
        .map_err(|error| queue_failure(&error))?;
    let (mode, topic) = (mode_name(info.mode), &info.topic);
    let object = QueueObject::of(&info);
    output.line(
        &object,
        format_args!("{} ({mode}, over topic {topic})", info.name),
    )
}

fn list(args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let server = connect(args)?;
    let queues = server
        .runtime
        .block_on(server.client.queues())
        .map_err(|error| queue_failure(&error))?;
    if output.is_json() {
        return queues
            .iter()
            .try_for_each(|info| output.line(&QueueObject::of(info), format_args!("")));
    }
    let row = |info: &QueueInfo| {
        vec![
            info.name.to_string(),
            info.topic.to_string(),
            mode_name(info.mode).to_owned(),
            info.ready.to_string(),
            info.leased.to_string(),
            info.delayed.to_string(),
            info.dead.to_string(),
            info.consumers.to_string(),
            if info.paused { "paused" } else { "ok" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = queues.iter().map(row).collect();
    let heading = [
        "QUEUE",
        "TOPIC",
        "MODE",
        "READY",
        "LEASED",
        "DELAYED",
        "DEAD",
        "CONSUMERS",
        "STATE",
    ];
    Output::table(&heading, &rows)
}

fn set(
    queue: &TopicName,
    given: &SettingsArgs,
    args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    let server = connect(args)?;
    let mut settings = describe(&server, queue)?.settings;
    given.apply(&mut settings);
    let info = server
        .runtime
        .block_on(server.client.set_queue(queue, settings))
        .map_err(|error| queue_failure(&error))?;
    output.line(&QueueObject::of(&info), format_args!("{}", summary(&info)))
}

/// Whether a person is asked before records are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Yes: there is one to ask.
    Person,
    /// It was said already, or nobody is there.
    Nobody,
}

impl Ask {
    fn of(said_already: bool) -> Self {
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        if terminal && !said_already {
            Self::Person
        } else {
            Self::Nobody
        }
    }
}

fn remove(
    queues: &[TopicName],
    ask: Ask,
    args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    let server = connect(args)?;
    let mut failed: Option<Exit> = None;
    for queue in queues {
        match remove_one(&server, queue, ask) {
            Ok(Some(records)) => done(queue, "removed", Some(records), output)?,
            Ok(None) => output.remark(format_args!("{queue} is kept")),
            Err(failure) => {
                failure.report(output.is_json());
                failed.get_or_insert(failure.exit());
            }
        }
    }
    failed.map_or(Ok(()), |exit| Err(Failure::said(exit)))
}

/// Removes a queue; gives how many records were not settled, or nothing when it is to be kept.
fn remove_one(server: &Connected, queue: &TopicName, ask: Ask) -> Result<Option<u64>, Failure> {
    if ask == Ask::Person {
        let info = describe(server, queue)?;
        let unsettled = info.ready + info.leased + info.delayed + info.moving;
        if unsettled > 0 && !agrees(queue, unsettled)? {
            return Ok(None);
        }
    }
    let deleted = server.runtime.block_on(server.client.delete_queue(queue));
    deleted.map(Some).map_err(|error| queue_failure(&error))
}

fn agrees(queue: &TopicName, unsettled: u64) -> Result<bool, Failure> {
    let failed = |error: io::Error| Failure::file("standard input", "read", &error);
    eprint!("{queue} has {unsettled} records that are not settled. Remove it? [y/N] ");
    io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn leases(
    queue: &TopicName,
    count: u32,
    args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    let server = connect(args)?;
    let leases = server
        .runtime
        .block_on(server.client.leases(queue, count))
        .map_err(|error| queue_failure(&error))?;
    if output.is_json() {
        return leases.iter().try_for_each(|lease| {
            let LeaseInfo {
                offset,
                consumer,
                attempts,
                left_ms,
            } = *lease;
            let object = LeaseObject {
                offset: offset.0,
                consumer,
                attempts,
                left_ms,
            };
            output.line(&object, format_args!(""))
        });
    }
    let row = |lease: &LeaseInfo| {
        vec![
            lease.offset.to_string(),
            lease.consumer.to_string(),
            lease.attempts.to_string(),
            show_ms(lease.left_ms.into()),
        ]
    };
    let rows: Vec<Vec<String>> = leases.iter().map(row).collect();
    Output::table(&["OFFSET", "CONSUMER", "ATTEMPTS", "LEFT"], &rows)
}
