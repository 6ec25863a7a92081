//! `millstream topic`: topics created, listed, shown and removed.

use millstream_client::{Durability, TopicInfo, TopicOptions};
use millstream_protocol::TopicName;
use serde::Serialize;

use crate::args::{ConnectArgs, Level, TopicArgs, TopicCommand};
use crate::connect::{connect, topic_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::show_bytes;

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
            connect,
        } => create(topic, (*durability).into(), connect, output),
        TopicCommand::Ls { connect } => list(connect, output),
        TopicCommand::Show { topic, connect } => show(topic, connect, output),
        TopicCommand::Rm { topics, connect } => remove(topics, connect, output),
    }
}

fn create(
    topic: &TopicName,
    durability: Durability,
    args: &ConnectArgs,
    output: Output,
) -> Result<(), Failure> {
    let server = connect(args)?;
    let options = TopicOptions::new().durability(durability);
    let info = server
        .runtime
        .block_on(server.client.create_topic(topic, options))
        .map_err(|error| topic_failure(&error))?;
    output.line(
        &TopicObject::of(&info),
        format_args!("{} ({})", info.name, info.durability),
    )
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
    let object = TopicObject::of(&info);
    let text = format!(
        "topic       {}\ndurability  {}\nfirst       {}\nnext        {}\nsynced      {}\n\
         size        {} in {} segments\nincarnation {}\nstate       {}",
        info.name,
        info.durability,
        info.first_offset,
        info.next_offset,
        info.synced_offset,
        show_bytes(info.bytes),
        info.segments,
        object.incarnation,
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
