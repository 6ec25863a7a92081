//! `millstream topic`: topics created, listed, shown and removed.

use millstream_client::{
    Action, Durability, ErrorCode, Retention, TopicError, TopicErrorCause, TopicInfo, TopicOptions,
};
use millstream_protocol::TopicName;
use millstream_protocol::control::features;
use serde::Serialize;

use crate::args::{ConnectArgs, Level, RetentionArgs, TopicArgs, TopicCommand};
use crate::connect::{Connected, connect, topic_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::{show_bytes, show_ms};

/// A topic as `--json` prints it.
#[derive(Debug, Serialize)]
struct TopicObject<'a> {
    topic: &'a str,
    durability: String,
    /// The oldest message still kept.
    first_offset: u64,
    /// The next message's.
    next_offset: u64,
    /// Everything before it is on disk.
    synced_offset: u64,
    bytes: u64,
    segments: u32,
    incarnation: String,
    /// Why it takes no more messages.
    poisoned: Option<&'a str>,
}

/// A topic as `topic show --json` prints it.
#[derive(Debug, Serialize)]
struct ShownObject<'a> {
    #[serde(flatten)]
    topic: TopicObject<'a>,
    /// It was made for the queue of its name, goes with it, and what is settled may go from it; null: not known.
    queues_own: Option<bool>,
    /// The newest bytes that are kept at least; 0: all; null: not known.
    retention_bytes: Option<u64>,
    /// Milliseconds for which messages are kept at least; 0: for ever; null: not known.
    retention_age_ms: Option<u64>,
}

/// What is kept of a topic, as `topic set --json` prints it.
#[derive(Debug, Serialize)]
struct RetentionObject<'a> {
    topic: &'a str,
    retention_bytes: u64,
    retention_age_ms: u64,
}

impl<'a> RetentionObject<'a> {
    fn of(topic: &'a TopicName, retention: Retention) -> Self {
        Self {
            topic: topic.as_str(),
            retention_bytes: retention.bytes,
            retention_age_ms: retention.age_ms,
        }
    }
}

impl RetentionArgs {
    const fn is_given(&self) -> bool {
        self.retention_bytes.is_some() || self.retention_age.is_some()
    }

    /// What is given, and the rest as it is `known`.
    fn over(&self, known: Retention) -> Retention {
        Retention {
            bytes: self.retention_bytes.unwrap_or(known.bytes),
            age_ms: self.retention_age.unwrap_or(known.age_ms),
        }
    }
}

#[derive(Debug, Serialize)]
struct RemovedObject<'a> {
    removed: &'a str,
}

impl<'a> TopicObject<'a> {
    fn of(info: &'a TopicInfo) -> Self {
        Self {
            topic: info.name.as_str(),
            durability: info.durability.to_string(),
            first_offset: info.first_offset.0,
            next_offset: info.next_offset.0,
            synced_offset: info.synced_offset.0,
            bytes: info.bytes,
            segments: info.segments,
            incarnation: info
                .incarnation
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            poisoned: info.poisoned.as_deref(),
        }
    }
}

impl From<Level> for Durability {
    fn from(level: Level) -> Self {
        match level {
            Level::Synced => Self::Synced,
            Level::Stored => Self::Stored,
        }
    }
}

/// Does what `args` say about topics.
pub(crate) fn run(args: &TopicArgs, output: Output) -> Result<(), Failure> {
    match &args.command {
        TopicCommand::Create {
            topic,
            durability,
            retention,
            connect,
        } => create(topic, (*durability).into(), retention, connect, output),
        TopicCommand::Set {
            topic,
            retention,
            connect,
        } => set(topic, retention, connect, output),
        TopicCommand::Ls { connect } => list(connect, output),
        TopicCommand::Show { topic, connect } => show(topic, connect, output),
        TopicCommand::Rm { topics, connect } => remove(topics, connect, output),
    }
}

fn create(
    topic: &TopicName,
    durability: Durability,
    retention: &RetentionArgs,
    args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    let server = connect(args)?;
    if retention.is_given() && server.client.server().features & features::RETENTION == 0 {
        let message = "this server knows no retention, a newer one does; the topic was not made";
        return Err(Failure::new(Exit::Failed, message));
    }
    let options = TopicOptions::new().durability(durability);
    let info = server
        .runtime
        .block_on(server.client.create_topic(topic, options))
        .map_err(|error| topic_failure(&error))?;
    if retention.is_given() {
        let known = server.runtime.block_on(server.client.retention(topic));
        let known = known.map_err(|error| topic_failure(&error))?;
        let wanted = retention.over(known);
        let is_unused = info.next_offset.0 == 0 && known.keeps_all();
        if wanted != known && !is_unused {
            let message = format!(
                "{topic} is there and keeps {}; `topic set` changes that",
                show_kept(known, is_queues_own(&server, topic))
            );
            return Err(Failure::new(Exit::Conflict, message));
        }
        change_retention(&server, topic, retention)?;
    }
    output.line(
        &TopicObject::of(&info),
        format_args!("{} ({})", info.name, info.durability),
    )
}

fn set(
    topic: &TopicName,
    args: &RetentionArgs,
    connect_args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    if !args.is_given() {
        let message = "nothing to change: give --retention-bytes, --retention-age or both";
        return Err(Failure::new(Exit::Usage, message));
    }
    let server = connect(connect_args)?;
    let retention = change_retention(&server, topic, args)?;
    let keeps = show_kept(retention, is_queues_own(&server, topic));
    output.line(
        &RetentionObject::of(topic, retention),
        format_args!("{topic} keeps {keeps}"),
    )
}

/// Whether the topic was made for a queue and goes with it; `None` where nobody can say now.
fn is_queues_own(server: &Connected, topic: &TopicName) -> Option<bool> {
    // A queue's own topic has its name.
    match server.runtime.block_on(server.client.queue(topic)) {
        Ok(queue) => Some(queue.own_topic),
        Err(error) if error.code() == Some(ErrorCode::QueueNotFound) => Some(false),
        Err(_) => None,
    }
}

/// Sets what is given and leaves the rest as it is.
fn change_retention(
    server: &Connected,
    topic: &TopicName,
    args: &RetentionArgs,
) -> Result<Retention, Failure> {
    let client = &server.client;
    let changed = async {
        let retention = args.over(client.retention(topic).await?);
        client.set_retention(topic, retention).await?;
        Ok(retention)
    };
    let changed: Result<Retention, TopicError> = server.runtime.block_on(changed);
    changed.map_err(|error| {
        // Whatever had to be asked first.
        let action = Action::SetRetention;
        topic_failure(&TopicError { action, ..error })
    })
}

fn show_retention(retention: Retention) -> String {
    let Retention { bytes, age_ms } = retention;
    let newest = format!("the newest {}", show_bytes(bytes));
    let young = format!("what is younger than {}", show_ms(age_ms));
    match (bytes, age_ms) {
        (0, 0) => "everything".to_owned(),
        (_, 0) => newest,
        (0, _) => young,
        _ => format!("{newest} of {young}"),
    }
}

/// The same, where what its queue settled may go unless it is to be kept.
fn show_kept(retention: Retention, queues_own: Option<bool>) -> String {
    const UNSETTLED: &str = "what its queues have not settled";
    match (queues_own, retention.keeps_all()) {
        (Some(false), _) | (None, false) => show_retention(retention),
        (None, true) => format!("everything, or {UNSETTLED}"),
        (Some(true), true) => UNSETTLED.to_owned(),
        (Some(true), false) => format!("{}, and {UNSETTLED}", show_retention(retention)),
    }
}

fn list(args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let server = connect(args)?;
    let topics = server
        .runtime
        .block_on(server.client.topics())
        .map_err(|error| topic_failure(&error))?;
    if output.is_json() {
        return topics
            .iter()
            .try_for_each(|info| output.line(&TopicObject::of(info), format_args!("")));
    }
    let rows: Vec<Vec<String>> = topics
        .iter()
        .map(|info| {
            vec![
                info.name.to_string(),
                info.durability.to_string(),
                info.first_offset.to_string(),
                info.next_offset.to_string(),
                show_bytes(info.bytes),
                state(info).to_owned(),
            ]
        })
        .collect();
    Output::table(
        &["TOPIC", "DURABILITY", "FIRST", "NEXT", "SIZE", "STATE"],
        &rows,
    )
}

const fn state(info: &TopicInfo) -> &'static str {
    if info.poisoned.is_some() {
        "poisoned"
    } else {
        "ok"
    }
}

fn show(topic: &TopicName, args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let server = connect(args)?;
    let info = server
        .runtime
        .block_on(server.client.topic(topic))
        .map_err(|error| topic_failure(&error))?;
    let queues_own = is_queues_own(&server, topic);
    let (retention, keeps) = match server.runtime.block_on(server.client.retention(topic)) {
        Ok(retention) => (Some(retention), show_kept(retention, queues_own)),
        // The rest is worth showing.
        Err(error) if matches!(error.cause, TopicErrorCause::Refused(_)) => {
            (None, format!("unknown: {error}"))
        }
        Err(error) => return Err(topic_failure(&error)),
    };
    let object = ShownObject {
        topic: TopicObject::of(&info),
        queues_own,
        retention_bytes: retention.map(|retention| retention.bytes),
        retention_age_ms: retention.map(|retention| retention.age_ms),
    };
    let text = format!(
        "topic       {}\ndurability  {}\nkeeps       {}\nfirst       {}\nnext        {}\nsynced      {}\n\
         size        {} in {} segments\nincarnation {}\nstate       {}",
        info.name,
        info.durability,
        keeps,
        info.first_offset,
        info.next_offset,
        info.synced_offset,
        show_bytes(info.bytes),
        info.segments,
        object.topic.incarnation,
        info.poisoned.as_deref().unwrap_or("ok"),
    );
    output.line(&object, format_args!("{text}"))
}

fn remove(topics: &[TopicName], args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let server = connect(args)?;
    let mut failed: Option<Exit> = None;
    for topic in topics {
        match server.runtime.block_on(server.client.delete_topic(topic)) {
            Ok(()) => output.line(
                &RemovedObject {
                    removed: topic.as_str(),
                },
                format_args!("{topic} removed"),
            )?,
            Err(error) => {
                let failure = topic_failure(&error);
                failure.report(output.is_json());
                failed.get_or_insert(failure.exit());
            }
        }
    }
    failed.map_or(Ok(()), |exit| Err(Failure::said(exit)))
}
