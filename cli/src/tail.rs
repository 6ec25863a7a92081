//! `millstream tail`: prints messages as they were published, and waits for more.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use jiff::Timestamp;
use millstream_client::{Offset, ReadError, Reader, Record};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::args::{TailArgs, TailOutput};
use crate::base64;
use crate::connect::{connect, read_failure, topic_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Bytes gathered before they are written; whatever is there is written before tail waits.
const WRITE_BYTES: usize = 256 << 10;

/// How one message is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The body and this byte, if any.
    Raw(Option<u8>),
    /// One JSON object a line.
    Jsonl,
}

impl Form {
    fn of(args: &TailArgs, output: Output) -> Result<Self, Failure> {
        let jsonl = match args.output {
            Some(chosen) => chosen == TailOutput::Jsonl,
            None => output.is_json(),
        };
        if jsonl && (args.null || args.bare) {
            let message = "--null and --bare are for raw output; JSON is one object a line";
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(match (jsonl, args.bare, args.null) {
            (true, ..) => Self::Jsonl,
            (_, true, _) => Self::Raw(None),
            (_, _, true) => Self::Raw(Some(0)),
            _ => Self::Raw(Some(b'\n')),
        })
    }
}

/// A message as JSON.
#[derive(Debug, Serialize)]
struct RecordObject<'a> {
    offset: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(&'a str, HeaderValue<'a>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// In place of a body that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// A header's value: text, or an object with its bytes.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Text(&'a str),
    Bytes { base64: String },
}

/// Messages that are missing, as JSON.
#[derive(Debug, Serialize)]
struct GapObject {
    gap: GapFields,
}

#[derive(Debug, Serialize)]
struct GapFields {
    first_offset: u64,
    next_offset: u64,
    reason: String,
}

/// Prints the topic's messages.
pub(crate) fn run(args: &TailArgs, output: Output) -> Result<(), Failure> {
    let form = Form::of(args, output)?;
    let server = connect(&args.connect)?;
    let mut reader = server
        .runtime
        .block_on(server.client.reader(&args.topic, args.from.0))
        .map_err(|error| topic_failure(&error))?;
    if args.no_follow {
        reader.stop_at(reader.end_offset());
    }
    let stdout = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    let mut printer = Printer {
        form,
        output,
        stdout,
        damaged: false,
    };
    let mut left = args.count.map_or(u64::MAX, u64::from);
    while left > 0 {
        let next = match reader.try_next() {
            Some(next) => Some(next),
            None => {
                printer.flush()?;
                wait(&server.runtime, &mut reader, args.connect.timeout)?
            }
        };
        match next {
            None => break,
            Some(Ok(record)) => {
                printer.record(&record)?;
                left -= 1;
            }
            Some(Err(error)) if error.is_final() => {
                printer.flush()?;
                return Err(read_failure(&error));
            }
            Some(Err(gap)) => printer.gap(&gap, reader.next_offset())?,
        }
    }
    printer.flush()?;
    if printer.damaged {
        Err(Failure::said(Exit::Damaged))
    } else {
        Ok(())
    }
}

/// Waits for the next message, as long as `longest` if that is given.
fn wait(
    runtime: &Runtime,
    reader: &mut Reader,
    longest: Option<Duration>,
) -> Result<Option<Result<Record, ReadError>>, Failure> {
    let Some(longest) = longest else {
        return Ok(runtime.block_on(reader.next()));
    };
    let next = runtime.block_on(async { timeout(longest, reader.next()).await });
    next.map_err(|_| {
        let seconds = longest.as_secs_f64();
        Failure::new(
            Exit::TimedOut,
            format_args!("no message within {seconds} s"),
        )
    })
}

/// Writes messages in the chosen form.
struct Printer<W> {
    form: Form,
    output: Output,
    stdout: W,
    /// Messages are missing that should be there.
    damaged: bool,
}

impl<W: Write> Printer<W> {
    fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let written = match self.form {
            Form::Raw(end) => {
                let end: &[u8] = end.as_slice();
                self.stdout
                    .write_all(record.as_bytes())
                    .and_then(|()| self.stdout.write_all(end))
            }
            Form::Jsonl => self.json(record),
        };
        written.map_err(Failure::stdout)
    }

    fn json(&mut self, record: &Record) -> io::Result<()> {
        let micros = i64::try_from(record.append_time_us()).unwrap_or(i64::MAX);
        let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        let key = record.key();
        let (key, key_base64) = key.as_deref().map_or((None, None), text_or_base64);
        let (body, body_base64) = text_or_base64(record.as_bytes());
        let headers = record.headers().map(|(name, value)| {
            let value = match std::str::from_utf8(value) {
                Ok(text) => HeaderValue::Text(text),
                Err(_) => HeaderValue::Bytes {
                    base64: base64::encode(value),
                },
            };
            (name, value)
        });
        let object = RecordObject {
            offset: record.offset().0,
            time: format!("{time:.6}"),
            key,
            key_base64,
            headers: headers.collect(),
            body,
            body_base64,
        };
        serde_json::to_writer(&mut self.stdout, &object)?;
        self.stdout.write_all(b"\n")
    }

    fn gap(&mut self, error: &ReadError, next: Offset) -> Result<(), Failure> {
        let (first, next, reason) = match error {
            ReadError::Gap {
                first,
                next,
                reason,
            } => (*first, *next, format!("{reason:?}")),
            ReadError::Unreadable { first, next, .. } => (*first, *next, "Damaged".to_owned()),
            _ => (next, next, "Damaged".to_owned()),
        };
        self.damaged |= reason == "Damaged";
        if self.form == Form::Jsonl {
            let reason = reason.to_ascii_lowercase();
            let gap = GapObject {
                gap: GapFields {
                    first_offset: first.0,
                    next_offset: next.0,
                    reason,
                },
            };
            return serde_json::to_writer(&mut self.stdout, &gap)
                .map_err(io::Error::from)
                .and_then(|()| self.stdout.write_all(b"\n"))
                .map_err(Failure::stdout);
        }
        self.flush()?;
        self.output.remark(error);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(Failure::stdout)
    }
}

/// `bytes` as text, or in base64 when they are none.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64::encode(bytes))),
    }
}
