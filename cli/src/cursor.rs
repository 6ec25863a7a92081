//! `millstream cursor`: places in topics that the server keeps for readers.

use millstream_client::{CursorInfo, Offset, Start};
use millstream_protocol::TopicName;
use serde::Serialize;

use crate::args::{ConnectArgs, CursorArgs, CursorCommand};
use crate::connect::{Connected, connect, queue_failure, topic_failure};
use crate::failure::Failure;
use crate::output::Output;
use crate::printer::show_time;

/// A cursor as `--json` prints it.
#[derive(Debug, Serialize)]
struct CursorObject<'a> {
    topic: &'a str,
    cursor: &'a str,
    /// The next message to read.
    offset: u64,
    /// The offset after the last message there is to read.
    end_offset: u64,
    /// How far the cursor is from the end, in offsets.
    lag: u64,
    updated: String,
}

#[derive(Debug, Serialize)]
struct RemovedObject<'a> {
    topic: &'a str,
    removed: &'a str,
}

impl<'a> CursorObject<'a> {
    fn of(info: &'a CursorInfo) -> Self {
        Self {
            topic: info.topic.as_str(),
            cursor: info.name.as_str(),
            offset: info.offset.0,
            end_offset: info.end_offset.0,
            lag: info.end_offset.0.saturating_sub(info.offset.0),
            updated: show_time(info.updated_us),
        }
    }
}

/// Does what `args` say about cursors.
pub(crate) fn run(args: &CursorArgs, output: Output) -> Result<(), Failure> {
    match &args.command {
        CursorCommand::Ls { topic, connect } => list(topic.as_ref(), connect, output),
        CursorCommand::Show {
            topic,
            name,
            connect: args,
        } => {
            let server = connect(args)?;
            let info = server
                .runtime
                .block_on(server.client.cursor_info(topic, name));
            say(&info.map_err(|error| queue_failure(&error))?, output)
        }
        CursorCommand::Set {
            topic,
            name,
            place,
            connect: args,
        } => {
            let server = connect(args)?;
            let offset = resolve(&server, topic, place.0)?;
            let set = server.client.set_cursor(topic, name, offset);
            let info = server.runtime.block_on(set);
            say(&info.map_err(|error| queue_failure(&error))?, output)
        }
        CursorCommand::Rm {
            topic,
            name,
            connect: args,
        } => {
            let server = connect(args)?;
            let deleted = server
                .runtime
                .block_on(server.client.delete_cursor(topic, name));
            deleted.map_err(|error| queue_failure(&error))?;
            let object = RemovedObject {
                topic: topic.as_str(),
                removed: name.as_str(),
            };
            output.line(&object, format_args!("{topic}/{name} removed"))
        }
    }
}

/// The offset of a place in `topic`.
fn resolve(server: &Connected, topic: &TopicName, place: Start) -> Result<Offset, Failure> {
    if let Start::Offset(offset) = place {
        // A name that is misspelt would make a cursor nobody reads from.
        let there = server.runtime.block_on(server.client.topic(topic));
        there.map_err(|error| topic_failure(&error))?;
        return Ok(offset);
    }
    let reader = server.runtime.block_on(server.client.reader(topic, place));
    Ok(reader
        .map_err(|error| topic_failure(&error))?
        .start_offset())
}

fn say(info: &CursorInfo, output: Output) -> Result<(), Failure> {
    let object = CursorObject::of(info);
    let text = format!(
        "cursor   {}/{}\noffset   {}\nend      {}\nlag      {}\nupdated  {}",
        object.topic, object.cursor, object.offset, object.end_offset, object.lag, object.updated,
    );
    output.line(&object, format_args!("{text}"))
}

fn list(topic: Option<&TopicName>, args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let server = connect(args)?;
    let cursors = server.client.cursors(topic.map(TopicName::as_str));
    let cursors = server
        .runtime
        .block_on(cursors)
        .map_err(|error| queue_failure(&error))?;
    if output.is_json() {
        return cursors
            .iter()
            .try_for_each(|info| output.line(&CursorObject::of(info), format_args!("")));
    }
    let row = |info: &CursorInfo| {
        let object = CursorObject::of(info);
        vec![
            object.topic.to_owned(),
            object.cursor.to_owned(),
            object.offset.to_string(),
            object.end_offset.to_string(),
            object.lag.to_string(),
            object.updated,
        ]
    };
    let rows: Vec<Vec<String>> = cursors.iter().map(row).collect();
    Output::table(
        &["TOPIC", "CURSOR", "OFFSET", "END", "LAG", "UPDATED"],
        &rows,
    )
}
