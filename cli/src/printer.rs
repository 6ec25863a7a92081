//! Messages as they are printed: their bodies, or one JSON object a line.

use std::io::{self, BufWriter, StdoutLock, Write};

use jiff::Timestamp;
use millstream_client::{Delivery, Offset, ReadError, Record};
use serde::Serialize;

use crate::args::{FormArgs, TailOutput};
use crate::base64;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Bytes gathered before they are written; whatever is there is written before anyone waits.
const WRITE_BYTES: usize = 256 << 10;

/// How one message is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The body and this byte, if any.
    Raw(Option<u8>),
    /// One JSON object a line.
    Jsonl,
}

impl Form {
    /// The form that `args` ask for.
    pub(crate) fn of(args: &FormArgs, output: Output) -> Result<Self, Failure> {
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
pub(crate) struct RecordObject<'a> {
    offset: u64,
    time: String,
    /// Deliveries so far, when it was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
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

/// Writes messages in the chosen form.
#[derive(Debug)]
pub(crate) struct Printer<W> {
    form: Form,
    output: Output,
    stdout: W,
    /// Messages are missing that should be there.
    damaged: bool,
}

impl Printer<BufWriter<StdoutLock<'static>>> {
    /// Writes to standard output.
    pub(crate) fn new(form: Form, output: Output) -> Self {
        Self {
            form,
            output,
            stdout: BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock()),
            damaged: false,
        }
    }
}

impl<W: Write> Printer<W> {
    /// Whether messages are missing that should be there.
    pub(crate) const fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Prints a record that was leased.
    pub(crate) fn delivery(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.print(delivery.record(), Some(delivery.attempts()))
    }

    /// Prints a record.
    pub(crate) fn record(&mut self, record: &Record) -> Result<(), Failure> {
        self.print(record, None)
    }

    fn print(&mut self, record: &Record, attempts: Option<u16>) -> Result<(), Failure> {
        let written = match self.form {
            Form::Raw(end) => {
                let end: &[u8] = end.as_slice();
                self.stdout
                    .write_all(record.as_bytes())
                    .and_then(|()| self.stdout.write_all(end))
            }
            Form::Jsonl => {
                let object = RecordObject::of(record, attempts);
                serde_json::to_writer(&mut self.stdout, &object)
                    .map_err(io::Error::from)
                    .and_then(|()| self.stdout.write_all(b"\n"))
            }
        };
        written.map_err(Failure::stdout)
    }

    /// Tells that records up to `next` are not there.
    pub(crate) fn gap(&mut self, error: &ReadError, next: Offset) -> Result<(), Failure> {
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

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(Failure::stdout)
    }
}

impl<'a> RecordObject<'a> {
    /// What there is to say of `record`, which was delivered `attempts` times.
    pub(crate) fn of(record: &'a Record, attempts: Option<u16>) -> Self {
        let options = record.options_ref();
        let key = options.as_ref().and_then(|options| options.key());
        let group = options.as_ref().and_then(|options| options.group());
        let (key, key_base64) = key.map_or((None, None), text_or_base64);
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
        Self {
            offset: record.offset().0,
            time: show_time(record.append_time_us()),
            attempts,
            group: group.map(|group| String::from_utf8_lossy(group).into_owned()),
            key,
            key_base64,
            headers: headers.collect(),
            body,
            body_base64,
        }
    }
}

/// A time of the Unix epoch in microseconds, as RFC 3339 has it.
pub(crate) fn show_time(us: u64) -> String {
    let micros = i64::try_from(us).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    format!("{time:.6}")
}

/// `bytes` as text, or in base64 when they are none.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64::encode(bytes))),
    }
}
