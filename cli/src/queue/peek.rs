//! `millstream queue peek`: records that are not settled, with their bodies; none is taken.

use std::io::{self, BufWriter, Write};

use millstream_client::{Offset, PeekedRecord, Reader, Record, RecordState, Start};
use millstream_protocol::TopicName;
use millstream_protocol::limits::QUEUE_RECORDS_PER_LIST_MAX;
use serde::Serialize;

use super::{describe, object::dead_letter_queue};
use crate::args::PeekArgs;
use crate::connect::{Connected, connect, queue_failure, read_failure, topic_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printer::{RecordObject, show_time};

/// Records read past on the way to the next one, before a new reader is opened for it.
const READ_PAST: u64 = 1000;
/// Characters of a body that people are shown.
const SHOWN_CHARS: usize = 60;

/// A record as `--json` prints it.
#[derive(Debug, Serialize)]
struct PeekedObject<'a> {
    state: &'static str,
    /// Deliveries that were counted.
    deliveries: u16,
    /// Before which it is not delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    #[serde(flatten)]
    record: RecordObject<'a>,
}

/// A record that cannot be read, as `--json` prints it.
#[derive(Debug, Serialize)]
struct UnreadableObject {
    state: &'static str,
    deliveries: u16,
    offset: u64,
    unreadable: bool,
}

pub(super) fn run(args: &PeekArgs, output: Output) -> Result<(), Failure> {
    if args.bare && output.is_json() {
        let message = "--bare is for raw output; JSON is one object a line";
        return Err(Failure::new(Exit::Usage, message));
    }
    let server = connect(&args.connect)?;
    let mut info = describe(&server, &args.queue)?;
    if args.dead {
        let Some(letters) = dead_letter_queue(&info) else {
            let message = format!("{} keeps no dead letters", args.queue);
            return Err(Failure::new(Exit::NotFound, message));
        };
        let letters = TopicName::parse(&letters)
            .map_err(|error| Failure::new(Exit::Failed, format_args!("{letters}: {error}")))?;
        info = describe(&server, &letters)?;
    }
    let mut bodies = Bodies {
        server: &server,
        topic: info.topic,
        reader: None,
    };
    let mut printer = Printer::new(args, output);
    let mut from = Offset(args.from);
    let mut left = if args.all { u64::MAX } else { args.count };
    while left > 0 {
        let most = left.min(QUEUE_RECORDS_PER_LIST_MAX as u64) as u32;
        let page = server.client.peek_queue(&info.name, from, most);
        let page = server.runtime.block_on(page);
        let page = page.map_err(|error| queue_failure(&error))?;
        let Some(last) = page.last() else {
            break;
        };
        from = last.offset + 1;
        left -= page.len() as u64;
        for peeked in &page {
            let record = bodies.read(peeked.offset)?;
            printer.print(peeked, record.as_ref())?;
        }
    }
    printer.finish()
}

/// Reads the records of one topic, by rising offset.
struct Bodies<'a> {
    server: &'a Connected,
    topic: TopicName,
    reader: Option<Reader>,
}

impl Bodies<'_> {
    /// The record at `offset`; none when it cannot be read.
    fn read(&mut self, offset: Offset) -> Result<Option<Record>, Failure> {
        let near = |reader: &Reader| {
            let next = reader.next_offset();
            next <= offset && offset.0 - next.0 <= READ_PAST
        };
        let mut reader = match self.reader.take().filter(near) {
            Some(reader) => reader,
            None => {
                let opened = self
                    .server
                    .client
                    .reader(&self.topic, Start::Offset(offset));
                let opened = self.server.runtime.block_on(opened);
                let mut reader = opened.map_err(|error| topic_failure(&error))?;
                reader.stop_at(reader.end_offset());
                reader
            }
        };
        let found = loop {
            if reader.next_offset() > offset {
                break None;
            }
            match self.server.runtime.block_on(reader.next()) {
                Some(Ok(record)) if record.offset() == offset => break Some(record),
                Some(Ok(record)) if record.offset() > offset => break None,
                Some(Ok(_)) => {}
                Some(Err(error)) if error.is_final() => return Err(read_failure(&error)),
                Some(Err(_)) => {}
                None => break None,
            }
        };
        self.reader = Some(reader);
        Ok(found)
    }
}

/// How peeked records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Bare,
    Json,
}

struct Printer {
    form: Form,
    rows: Vec<Vec<String>>,
    stdout: BufWriter<io::Stdout>,
    unreadable: u64,
    output: Output,
}

impl Printer {
    fn new(args: &PeekArgs, output: Output) -> Self {
        let form = match (args.bare, output.is_json()) {
            (true, _) => Form::Bare,
            (_, true) => Form::Json,
            _ => Form::Table,
        };
        Self {
            form,
            rows: Vec::new(),
            stdout: BufWriter::new(io::stdout()),
            unreadable: 0,
            output,
        }
    }

    fn print(&mut self, peeked: &PeekedRecord, record: Option<&Record>) -> Result<(), Failure> {
        self.unreadable += u64::from(record.is_none());
        let written = match (self.form, record) {
            (Form::Table, record) => {
                self.rows.push(row(peeked, record));
                Ok(())
            }
            (Form::Bare, Some(record)) => self.stdout.write_all(record.as_bytes()),
            (Form::Bare, None) => Ok(()),
            (Form::Json, Some(record)) => self.object(&PeekedObject {
                state: state_name(peeked.state),
                deliveries: peeked.attempts,
                due: due(peeked),
                record: RecordObject::of(record, None),
            }),
            (Form::Json, None) => self.object(&UnreadableObject {
                state: state_name(peeked.state),
                deliveries: peeked.attempts,
                offset: peeked.offset.0,
                unreadable: true,
            }),
        };
        written.map_err(Failure::stdout)
    }

    fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, object)?;
        self.stdout.write_all(b"\n")
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(Failure::stdout)?;
        Output::table(
            &["OFFSET", "STATE", "DELIVERIES", "DUE", "BODY"],
            &self.rows,
        )?;
        if self.unreadable == 0 {
            return Ok(());
        }
        let unreadable = self.unreadable;
        self.output
            .remark(format_args!("{unreadable} records cannot be read"));
        Err(Failure::said(Exit::Damaged))
    }
}

fn row(peeked: &PeekedRecord, record: Option<&Record>) -> Vec<String> {
    let body = match record {
        None => "(cannot be read)".to_owned(),
        Some(record) => notes(record) + &excerpt(record.as_bytes()),
    };
    vec![
        peeked.offset.to_string(),
        state_name(peeked.state).to_owned(),
        peeked.attempts.to_string(),
        due(peeked).unwrap_or_default(),
        body,
    ]
}

/// Why a dead letter died, in front of its body.
fn notes(record: &Record) -> String {
    let note = |wanted: &str| {
        record
            .headers()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    match (note("ms-reason"), note("ms-reason-text")) {
        (None, _) => String::new(),
        (Some(reason), None) => format!("[{reason}] "),
        (Some(reason), Some(text)) => format!("[{reason}: {}] ", excerpt(text.as_bytes())),
    }
}

/// The beginning of `bytes` on one line.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(printable).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn printable(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_control() {
        Box::new(c.escape_default())
    } else {
        Box::new(std::iter::once(c))
    }
}

const fn state_name(state: RecordState) -> &'static str {
    match state {
        RecordState::Ready => "ready",
        RecordState::Leased => "leased",
        RecordState::Delayed => "delayed",
        RecordState::Moving => "moving",
    }
}

fn due(peeked: &PeekedRecord) -> Option<String> {
    (peeked.due_us != 0).then(|| show_time(peeked.due_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_line() {
        assert_eq!(excerpt(b"a\nb\x1b[0m"), "a\\nb\\u{1b}[0m");
        let long = "x".repeat(SHOWN_CHARS + 1);
        assert_eq!(excerpt(long.as_bytes()).chars().count(), SHOWN_CHARS + 1);
        assert_eq!(excerpt(&[0xff, b'a']), "\u{fffd}a");
    }
}
