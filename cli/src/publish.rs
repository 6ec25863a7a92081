//! `millstream pub`: messages from files or standard input, in batches, many under way at once.
//!
//! Three parties: a thread reads the input and sends batches; a task takes their acknowledgements
//! in order; the main thread waits for both, or for the first thing that goes wrong, and reports.
//! The reading thread may be stuck in a read then; the process ends without it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use millstream_client::{AckLevel, Durability, Effect, Receipt};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::args::{Level, PubArgs};
use crate::connect::{answer_time, connect, publish_failure, topic_failure};
use crate::failure::{Exit, Failure};
use crate::feed::{Enqueued, Feed, Template};
use crate::output::Output;
use crate::progress::Progress;
use crate::sender::Sender;

/// Most batches that are sent and not acknowledged; the server's window may be narrower.
const UNDER_WAY_MAX: usize = 4096;

/// What became of the messages.
#[derive(Debug, Default)]
struct Tally {
    published: u64,
    /// Were there before, by their id.
    duplicates: u64,
    /// Were published by an earlier run of the producer, and passed over.
    already_there: u64,
    first: Option<u64>,
    last: Option<u64>,
    /// Sent, and never answered.
    unknown: u64,
    level: Option<Durability>,
}

/// The report as `--json` prints it, also when publishing failed midway.
#[derive(Debug, Serialize)]
struct Report<'a> {
    published: u64,
    duplicates: u64,
    first_offset: Option<u64>,
    last_offset: Option<u64>,
    ack: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    already_there: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Publishes what `args` name.
pub(crate) fn run(args: &PubArgs, output: Output) -> Result<(), Failure> {
    let template = Template::new(args)?;
    let server = connect(&args.connect)?;
    let ack = match args.ack {
        None => AckLevel::Topic,
        Some(Level::Stored) => AckLevel::Stored,
        Some(Level::Synced) => AckLevel::Synced,
    };
    let producer = args.producer.as_ref();
    let opened = Sender::open(&server.client, &args.topic, producer, ack, &args.connect);
    let publisher = server
        .runtime
        .block_on(opened)
        .map_err(|error| topic_failure(&error))?;
    let tally = Arc::new(Mutex::new(Tally {
        level: Some(publisher.level()),
        already_there: publisher.already_there(),
        ..Tally::default()
    }));
    let progress = Progress::start(output, template.bytes_total());
    let (tickets, enqueued) = mpsc::channel(UNDER_WAY_MAX);
    let acknowledged = server.runtime.spawn(acknowledge(
        enqueued,
        Arc::clone(&tally),
        progress.clone(),
        publisher.answer_times() * answer_time(&args.connect),
    ));
    let fed = feed(
        template,
        publisher,
        tickets,
        server.runtime.handle().clone(),
    )?;
    let outcome = server.runtime.block_on(async {
        // Whichever fails first is what is told; all is well when both are done.
        tokio::pin!(acknowledged, fed);
        tokio::select! {
            biased;
            acks = &mut acknowledged => match finished(acks) {
                Ok(()) => match fed.await {
                    Ok(fed) => fed,
                    Err(_) => Err(Failure::new(Exit::Failed, "reading the input stopped")),
                },
                failed => failed,
            },
            fed = &mut fed => match fed {
                // All is sent, or sending failed: what is under way is answered first.
                Ok(fed) => finished(acknowledged.await).and(fed),
                Err(_) => Err(Failure::new(Exit::Failed, "reading the input stopped")),
            },
            _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
        }
    });
    progress.clear();
    let reported = report(&lock(&tally), outcome.as_ref().err(), output);
    // The reading thread may be waiting for input that never comes.
    server.runtime.shutdown_background();
    outcome.and(reported)
}

/// What a task answered; a panic of its own is a failure like any other.
fn finished(task: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    task.unwrap_or_else(|error| Err(Failure::new(Exit::Failed, error)))
}

/// Starts the thread that reads the input and sends it.
fn feed(
    template: Template,
    publisher: Sender,
    tickets: mpsc::Sender<Enqueued>,
    runtime: tokio::runtime::Handle,
) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let (done, fed) = oneshot::channel();
    let feed = Feed::new(template, publisher, tickets, runtime);
    thread::Builder::new()
        .name("mill-input".to_owned())
        .spawn(move || {
            // Nobody waits any more when publishing failed already.
            let _ = done.send(feed.run());
        })
        .map_err(|error| {
            Failure::new(Exit::Failed, format_args!("cannot start a thread: {error}"))
        })?;
    Ok(fed)
}

/// Takes acknowledgements in order until all tickets are in. The first that fails is the failure;
/// those behind it are still counted.
async fn acknowledge(
    mut enqueued: mpsc::Receiver<Enqueued>,
    tally: Arc<Mutex<Tally>>,
    progress: Progress,
    longest: Duration,
) -> Result<(), Failure> {
    let mut failed: Option<Failure> = None;
    while let Some(Enqueued {
        ticket,
        messages,
        bytes,
    }) = enqueued.recv().await
    {
        match timeout(longest, ticket).await {
            Ok(Ok(receipt)) => {
                lock(&tally).acknowledged(receipt, messages);
                progress.add_bytes(bytes);
            }
            Ok(Err(error)) => {
                if error.effect() == Effect::Unknown {
                    lock(&tally).unknown += messages;
                }
                failed.get_or_insert_with(|| publish_failure(&error));
                // No more is taken; what was sent is still answered.
                enqueued.close();
            }
            Err(_) => {
                lock(&tally).unknown += messages;
                let seconds = longest.as_secs_f64();
                let message = format!("no acknowledgement within {seconds} s");
                return Err(failed.unwrap_or_else(|| Failure::new(Exit::TimedOut, message)));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

impl Tally {
    fn acknowledged(&mut self, receipt: Receipt, messages: u64) {
        if receipt.duplicate {
            self.duplicates += messages;
        } else {
            self.published += messages;
        }
        self.first.get_or_insert(receipt.first.0);
        self.last = Some(receipt.last.0);
        self.level = Some(receipt.level);
    }
}

fn report(tally: &Tally, failure: Option<&Failure>, output: Output) -> Result<(), Failure> {
    let level = tally.level.unwrap_or(Durability::Synced);
    let report = Report {
        published: tally.published,
        duplicates: tally.duplicates,
        already_there: Some(tally.already_there).filter(|there| *there > 0),
        first_offset: tally.first,
        last_offset: tally.last,
        ack: level.to_string(),
        unknown: Some(tally.unknown).filter(|unknown| *unknown > 0),
        error: failure.map(Failure::message),
    };
    let messages = if tally.published == 1 {
        "message"
    } else {
        "messages"
    };
    let mut text = format!("published {} {messages}", tally.published);
    if let (Some(first), Some(last)) = (tally.first, tally.last) {
        text.push_str(&format!(", offsets {first} to {last}, {level}"));
    }
    if tally.duplicates > 0 {
        let duplicates = tally.duplicates;
        text.push_str(&format!("; {duplicates} was there already: a duplicate"));
    }
    if tally.already_there > 0 {
        let there = tally.already_there;
        text.push_str(&format!(
            "; {there} were there already and were passed over"
        ));
    }
    if tally.unknown > 0 {
        text.push_str(&format!("; of {} more it is not known", tally.unknown));
    }
    output.line(&report, format_args!("{text}"))
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    // Every change is one call that leaves the tally whole.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
