//! From the input to the publisher: which messages make up a batch, and when it is sent.
//!
//! A batch is sent when it is full, and before any read that may wait: nothing that was read is
//! held back, and no timer decides. A message with an id is alone, which only the end of the input
//! shows: it is sent then.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millstream_client::{BatchBuilder, Message};
use millstream_protocol::limits::{BODY_BYTES_MAX, RECORDS_PER_FRAME_MAX};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::args::{FramingArgs, PubArgs, QueueingArgs};
use crate::connect::publish_failure;
use crate::failure::{Exit, Failure};
use crate::sender::{Sender, Sent};
use crate::splitter::{Framing, Splitter};

/// Messages of a batch unless told otherwise.
const BATCH_MESSAGES: usize = 1000;
/// Bytes after which a batch is sent, however few its messages.
const BATCH_BYTES: usize = 1 << 20;

/// A batch that was sent: the ticket of its acknowledgement, and what was in it.
#[derive(Debug)]
pub(crate) struct Enqueued {
    pub(crate) ticket: Sent,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// The input, and what every message of it has.
#[derive(Debug)]
pub(crate) struct Template {
    sources: Vec<Source>,
    framing: Framing,
    batch_messages: usize,
    options: Options,
}

/// What every message has besides its body.
#[derive(Debug, Default)]
struct Options {
    key: Bytes,
    headers: Vec<(String, Bytes)>,
    due: Due,
    group: Bytes,
    id: Bytes,
    priority: u8,
    expires: Option<Duration>,
}

/// When queues deliver a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Due {
    /// At once.
    #[default]
    Now,
    /// So long after it was read.
    After(Duration),
    /// At this time, in microseconds of the Unix epoch.
    At(u64),
}

impl Options {
    fn of(args: &PubArgs) -> Self {
        let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into();
        let QueueingArgs {
            delay,
            at,
            group,
            id,
            priority,
            expires,
        } = &args.queueing;
        let headers = args.header.iter();
        Self {
            key: bytes(&args.key),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
            due: match (delay, at) {
                (Some(delay), _) => Due::After(*delay),
                (None, Some(at)) => Due::At(at.0),
                (None, None) => Due::Now,
            },
            group: bytes(group),
            id: bytes(id),
            priority: *priority,
            expires: *expires,
        }
    }

    /// Whether a message is its body and nothing else.
    fn is_empty(&self) -> bool {
        self.expires.is_none() && self.due == Due::Now && self.message(Bytes::new()).is_plain()
    }

    /// Whether there may be one message only.
    fn is_for_one(&self) -> bool {
        !self.id.is_empty()
    }

    fn message(&self, body: Bytes) -> Message {
        let message = Message::new(body)
            .key(self.key.clone())
            .group(self.group.clone())
            .id(self.id.clone())
            .priority(self.priority)
            .due_at_us(match self.due {
                Due::Now => 0,
                Due::After(delay) => from_now(delay),
                Due::At(us) => us,
            })
            .expires_at_us(self.expires.map_or(0, from_now));
        self.headers
            .iter()
            .cloned()
            .fold(message, |message, (name, value)| {
                message.header(name, value)
            })
    }
}

/// The time after `duration`, in microseconds of the Unix epoch.
fn from_now(duration: Duration) -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.saturating_add(duration).as_micros()).unwrap_or(u64::MAX)
}

/// One file of the input, open.
#[derive(Debug)]
struct Source {
    name: String,
    file: File,
    /// Bytes it has, when it is a regular file; all others may make a reader wait.
    bytes: Option<u64>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Self::stdin();
        }
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| Failure::file(&name, "read", &error))?;
        if metadata.is_dir() {
            return Err(Failure::new(
                Exit::Failed,
                format_args!("{name} is a folder"),
            ));
        }
        Ok(Self {
            name,
            file,
            bytes: metadata.is_file().then_some(metadata.len()),
        })
    }

    fn stdin() -> Result<Self, Failure> {
        let name = "standard input".to_owned();
        let fail = |error| Failure::file("standard input", "read", &error);
        let file = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(fail)?);
        let metadata = file.metadata().map_err(fail)?;
        Ok(Self {
            name,
            file,
            bytes: metadata.is_file().then_some(metadata.len()),
        })
    }
}

impl Template {
    /// Opens the files and checks what can be checked before anything is sent.
    pub(crate) fn new(args: &PubArgs) -> Result<Self, Failure> {
        let sources = match args.files.as_slice() {
            [] => vec![Source::stdin()?],
            files => files
                .iter()
                .map(|path| Source::open(path))
                .collect::<Result<_, _>>()?,
        };
        let batch_messages = args.batch.map_or(BATCH_MESSAGES, NonZeroUsize::get);
        if batch_messages > RECORDS_PER_FRAME_MAX {
            let message = format!("--batch: a batch has at most {RECORDS_PER_FRAME_MAX} messages");
            return Err(Failure::new(Exit::Usage, message));
        }
        let options = Options::of(args);
        BatchBuilder::new()
            .push(&options.message(Bytes::new()))
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        Ok(Self {
            sources,
            framing: framing(&args.framing)?,
            batch_messages,
            options,
        })
    }

    /// Bytes of the whole input, when they can be known.
    pub(crate) fn bytes_total(&self) -> Option<u64> {
        self.sources.iter().map(|source| source.bytes).sum()
    }
}

fn framing(args: &FramingArgs) -> Result<Framing, Failure> {
    match args {
        FramingArgs { whole: true, .. } => Ok(Framing::Whole),
        FramingArgs { null: true, .. } => Ok(Framing::Delimited(0)),
        FramingArgs {
            chunk: Some(bytes), ..
        } if bytes.get() > BODY_BYTES_MAX => Err(Failure::new(
            Exit::Usage,
            format_args!("--chunk: a message has at most {BODY_BYTES_MAX} bytes"),
        )),
        FramingArgs {
            chunk: Some(bytes), ..
        } => Ok(Framing::Chunks(*bytes)),
        FramingArgs { .. } => Ok(Framing::Delimited(b'\n')),
    }
}

/// Reads the input to its end and sends it.
#[derive(Debug)]
pub(crate) struct Feed {
    sources: Vec<Source>,
    framing: Framing,
    batch_messages: usize,
    options: Options,
    batch: BatchBuilder,
    /// Bytes of the input that are in the batch.
    batch_bytes: u64,
    publisher: Sender,
    /// Messages of the input that are there already, and are to be passed over.
    to_skip: u64,
    tickets: mpsc::Sender<Enqueued>,
    runtime: Handle,
}

/// Why feeding stops before the end of the input.
enum Stop {
    /// Whoever takes the tickets wants no more, and tells why.
    Unwanted,
    /// This went wrong here.
    Failed(Failure),
}

impl Feed {
    pub(crate) fn new(
        template: Template,
        publisher: Sender,
        tickets: mpsc::Sender<Enqueued>,
        runtime: Handle,
    ) -> Self {
        let Template {
            sources,
            framing,
            batch_messages,
            options,
        } = template;
        Self {
            sources,
            framing,
            batch_messages,
            options,
            batch: BatchBuilder::new(),
            batch_bytes: 0,
            to_skip: publisher.already_there(),
            publisher,
            tickets,
            runtime,
        }
    }

    /// Sends everything; what was read before a failure is sent too.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let sources = std::mem::take(&mut self.sources);
        let fed = sources
            .into_iter()
            .try_for_each(|source| self.source(source));
        let sent = match fed {
            Err(Stop::Unwanted) => Ok(()),
            _ => self.send(),
        };
        match fed.and(sent) {
            Ok(()) | Err(Stop::Unwanted) => Ok(()),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    fn source(&mut self, source: Source) -> Result<(), Stop> {
        let Source { name, file, bytes } = source;
        let may_wait = bytes.is_none();
        let failed = |error: &dyn Display| {
            Stop::Failed(Failure::new(Exit::Failed, format_args!("{name}: {error}")))
        };
        let mut splitter = Splitter::new(file, self.framing, BODY_BYTES_MAX);
        loop {
            if may_wait && !splitter.is_ready() && !self.options.is_for_one() {
                self.send()?;
            }
            let Some(message) = splitter.next_message().map_err(|error| failed(&error))? else {
                return Ok(());
            };
            if self.to_skip > 0 {
                self.to_skip -= 1;
                continue;
            }
            if self.options.is_for_one() && !self.batch.is_empty() {
                self.batch.clear();
                let message = "--id names one message, and the input has more: publish them one \
                               by one, or a file with --whole; nothing was published";
                return Err(Stop::Failed(Failure::new(Exit::Usage, message)));
            }
            if self.batch.len() >= self.batch_messages
                || self.batch.payload_bytes() + message.len() > BATCH_BYTES
            {
                self.send()?;
            }
            let pushed = if self.options.is_empty() {
                self.batch.push_body(message)
            } else {
                self.batch
                    .push(&self.options.message(Bytes::copy_from_slice(message)))
            };
            pushed.map_err(|error| failed(&error))?;
            self.batch_bytes += message.len() as u64 + self.framing.delimiter_bytes();
        }
    }

    /// Sends the batch, unless it is empty or no more is wanted.
    fn send(&mut self) -> Result<(), Stop> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let Self {
            batch,
            publisher,
            tickets,
            runtime,
            ..
        } = self;
        let sent = runtime.block_on(async {
            tokio::select! {
                // Once a batch has failed, no later one may be published.
                biased;
                () = tickets.closed() => Err(Stop::Unwanted),
                ticket = publisher.enqueue(batch) => {
                    ticket.map_err(|error| Stop::Failed(publish_failure(&error)))
                }
            }
        });
        let enqueued = Enqueued {
            ticket: sent?,
            messages: batch.len() as u64,
            bytes: std::mem::take(&mut self.batch_bytes),
        };
        batch.clear();
        tickets.blocking_send(enqueued).map_err(|_| Stop::Unwanted)
    }
}
