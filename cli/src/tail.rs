//! `millstream tail`: prints messages as they were published, and waits for more.
//!
//! With a cursor it begins where that is and moves it behind what was written to standard output,
//! never further.

use std::time::{Duration, Instant};

use millstream_client::{Client, ErrorCode, Offset, QueueError, ReadError, Reader, Record, Start};
use millstream_protocol::TopicName;
use tokio::time::timeout_at;

use crate::args::TailArgs;
use crate::connect::{Connected, connect, queue_failure, read_failure, topic_failure};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printer::{Form, Printer};
use crate::stop::Stop;

/// Messages after which a cursor is moved.
const COMMIT_MESSAGES: u64 = 1000;
/// Time after which a cursor is moved.
const COMMIT_TIME: Duration = Duration::from_secs(1);

/// Prints the topic's messages.
pub(crate) fn run(args: &TailArgs, output: Output) -> Result<(), Failure> {
    let form = Form::of(&args.form, output)?;
    let server = connect(&args.connect)?;
    let mut bookmark = match &args.cursor {
        None => None,
        Some(name) => Some(Bookmark::find(&server, &args.topic, name)?),
    };
    let start = match bookmark.as_ref().and_then(|bookmark| bookmark.found) {
        Some(offset) => Start::Offset(offset),
        None => args.from.0,
    };
    let mut reader = server
        .runtime
        .block_on(server.client.reader(&args.topic, start))
        .map_err(|error| topic_failure(&error))?;
    if args.no_follow {
        reader.stop_at(reader.end_offset());
    }
    let mut printer = Printer::new(form, output);
    let mut left = args.count.map_or(u64::MAX, u64::from);
    let printed = loop {
        if left == 0 {
            break Ok(());
        }
        let next = match reader.try_next() {
            Some(next) => Some(next),
            None => {
                printer.flush()?;
                let place = reader.next_offset();
                match wait(&server, &mut reader, args.connect.timeout, &mut bookmark) {
                    Ok(Waited::Next(next)) => next.map(|next| *next),
                    Ok(Waited::Due) => {
                        commit(&server, &mut bookmark, place)?;
                        continue;
                    }
                    Ok(Waited::Stopped) => break Ok(()),
                    Err(failure) => break Err(failure),
                }
            }
        };
        match next {
            None => break Ok(()),
            Some(Ok(record)) => {
                printer.record(&record)?;
                left -= 1;
            }
            Some(Err(error)) if error.is_final() => break Err(read_failure(&error)),
            Some(Err(gap)) => printer.gap(&gap, reader.next_offset())?,
        }
        if bookmark.as_mut().is_some_and(Bookmark::counted_is_due) {
            printer.flush()?;
            commit(&server, &mut bookmark, reader.next_offset())?;
        }
    };
    printer.flush()?;
    let committed = commit(&server, &mut bookmark, reader.next_offset());
    printed.and(committed)?;
    if printer.is_damaged() {
        Err(Failure::said(Exit::Damaged))
    } else {
        Ok(())
    }
}

/// What came of waiting for a message.
enum Waited {
    /// A message, or the end.
    Next(Option<Box<Result<Record, ReadError>>>),
    /// The cursor is to be moved.
    Due,
    /// A signal.
    Stopped,
}

/// Waits for the next message, as long as `longest` if that is given, or until the cursor is to be
/// moved.
fn wait(
    server: &Connected,
    reader: &mut Reader,
    longest: Option<Duration>,
    bookmark: &mut Option<Bookmark>,
) -> Result<Waited, Failure> {
    let boxed = |next: Option<_>| Waited::Next(next.map(Box::new));
    let began = Instant::now();
    let given_up = longest.map(|longest| began + longest);
    let (due, mut stop) = match bookmark {
        None => (None, None),
        Some(bookmark) => (bookmark.due(), Some(&mut bookmark.stop)),
    };
    let until = [due, given_up].into_iter().flatten().min();
    let stopped = async {
        match &mut stop {
            Some(stop) => stop.told().await,
            None => std::future::pending().await,
        }
    };
    let waited = server.runtime.block_on(async {
        let next = async {
            match until {
                None => Some(reader.next().await),
                Some(until) => timeout_at(until.into(), reader.next()).await.ok(),
            }
        };
        tokio::select! {
            biased;
            () = stopped => Some(Waited::Stopped),
            next = next => next.map(boxed),
        }
    });
    match (waited, longest) {
        (Some(waited), _) => Ok(waited),
        (None, Some(longest)) if due.is_none_or(|due| given_up < Some(due)) => {
            let seconds = longest.as_secs_f64();
            let message = format!("no message within {seconds} s");
            Err(Failure::new(Exit::TimedOut, message))
        }
        (None, _) => Ok(Waited::Due),
    }
}

/// A cursor that follows what is printed.
struct Bookmark {
    topic: TopicName,
    name: TopicName,
    /// Where it was at the start, if it was there.
    found: Option<Offset>,
    /// Where it is, as far as was told.
    committed: Option<Offset>,
    committed_at: Instant,
    /// Messages taken since.
    messages: u64,
    stop: Stop,
}

impl Bookmark {
    fn find(server: &Connected, topic: &TopicName, name: &TopicName) -> Result<Self, Failure> {
        let _runtime = server.runtime.enter();
        let stop = Stop::new()?;
        let found = server.runtime.block_on(find(&server.client, topic, name));
        let found = found.map_err(|error| queue_failure(&error))?;
        Ok(Self {
            topic: topic.clone(),
            name: name.clone(),
            found,
            committed: found,
            committed_at: Instant::now(),
            messages: 0,
            stop,
        })
    }

    /// When it is to be moved, if anything was printed since.
    fn due(&self) -> Option<Instant> {
        (self.messages > 0).then(|| self.committed_at + COMMIT_TIME)
    }

    /// Counts one message; whether the cursor is to be moved.
    fn counted_is_due(&mut self) -> bool {
        self.messages += 1;
        self.messages >= COMMIT_MESSAGES
            || self.messages.is_multiple_of(64) && self.committed_at.elapsed() >= COMMIT_TIME
    }
}

async fn find(
    client: &Client,
    topic: &TopicName,
    name: &TopicName,
) -> Result<Option<Offset>, QueueError> {
    match client.cursor_info(topic, name).await {
        Ok(info) => Ok(Some(info.offset)),
        Err(error) if error.code() == Some(ErrorCode::CursorNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves the cursor to `place`: everything before it is written.
fn commit(
    server: &Connected,
    bookmark: &mut Option<Bookmark>,
    place: Offset,
) -> Result<(), Failure> {
    let Some(bookmark) = bookmark else {
        return Ok(());
    };
    bookmark.messages = 0;
    bookmark.committed_at = Instant::now();
    if bookmark.committed == Some(place) {
        return Ok(());
    }
    let set = server
        .client
        .set_cursor(&bookmark.topic, &bookmark.name, place);
    let set = server.runtime.block_on(set);
    set.map_err(|error| queue_failure(&error))?;
    bookmark.committed = Some(place);
    Ok(())
}
