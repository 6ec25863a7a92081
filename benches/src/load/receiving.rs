//! The receivers of a run, and what becomes of the messages.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::part::Part;
use super::shared::{Load, Progress, Shared, Tell};
use super::{Delivered, Ledger};
use crate::broker::{Broker, Failure, Kind, Receive};

/// How long a receiver waits, at most, before it looks whether all is done; at least half of it.
const WAIT: Duration = Duration::from_millis(100);
/// Most messages of one publisher that a run's ledger has room for: 256 MiB of bits.
const MESSAGES_MAX: u64 = 1 << 31;

/// Messages that came together and were due together.
#[derive(Default)]
struct Together {
    due_ns: u64,
    messages: u64,
    bytes: u64,
}

impl Together {
    /// Counts them as through now.
    fn count(&mut self, part: &mut Part, shared: &Shared) {
        if self.messages > 0 {
            let times = (shared.now_ns(), self.due_ns);
            part.count(shared, times, (self.messages, self.bytes));
        }
        *self = Self::default();
    }
}

/// Receives from `topic` until all that was acknowledged is there, or nothing comes any more.
pub(super) fn receive(
    receiver: &mut dyn Receive,
    shared: &Shared,
    topic: usize,
) -> Result<Part, Failure> {
    let mut part = Part::new(shared);
    let mut ledger = Ledger::new(shared.acknowledged.len(), MESSAGES_MAX);
    let mut heard = (Instant::now(), 0);
    // A queue's receivers share its messages.
    let shares = shared.load.kind == Kind::Queue && shared.load.topics == 1;
    loop {
        let mut together = Together::default();
        let received = receiver.receive(WAIT, &mut |body| {
            let Some(stamp) = ledger.take(body) else {
                return;
            };
            if stamp.due_ns != together.due_ns {
                together.count(&mut part, shared);
                together.due_ns = stamp.due_ns;
            }
            together.messages += 1;
            together.bytes += body.len() as u64;
        })?;
        together.count(&mut part, shared);
        // Relaxed: a count.
        let all = shared.received.fetch_add(received, Ordering::Relaxed) + received;
        if all != heard.1 {
            heard = (Instant::now(), all);
        }
        // Acquire: the counts of what was acknowledged, behind which it was set.
        let done = shared.published_all.load(Ordering::Acquire) && {
            let mine = if shares { all } else { ledger.received() };
            mine >= shared.expected(topic)
        };
        if done || shared.has_failed() || heard.0.elapsed() > shared.load.silence {
            // What is doubled may come behind the last; it is no part of what is timed.
            receiver.receive(WAIT, &mut |body| {
                ledger.take(body);
            })?;
            receiver.finish()?;
            part.ledger = Some(ledger);
            return Ok(part);
        }
    }
}

/// What became of the messages that receivers were to get.
pub(super) fn settle(load: &Load, acknowledged: &[u64], received: Vec<Part>) -> Delivered {
    let mut found = Delivered::default();
    let mut queues: Vec<Option<Ledger>> = vec![None; load.topics];
    for (number, part) in received.into_iter().enumerate() {
        let topic = number % load.topics;
        let Some(ledger) = part.ledger else { continue };
        match (load.kind, &mut queues[topic]) {
            (Kind::Stream, _) => found.add(&ledger.settle(&load.of_topic(topic, acknowledged))),
            (Kind::Queue, Some(all)) => all.merge(&ledger),
            (Kind::Queue, none) => *none = Some(ledger),
        }
    }
    for (topic, ledger) in queues.into_iter().enumerate() {
        if let Some(ledger) = ledger {
            let mut all = ledger.settle(&load.of_topic(topic, acknowledged));
            if load.parameters.receivers > 1 {
                // Among several receivers there is no order to keep.
                all.reordered = 0;
            }
            found.add(&all);
        }
    }
    found
}

/// Reads everything back, a topic at a time, and checks it.
pub(crate) fn read_back(
    broker: &dyn Broker,
    load: &Load,
    acknowledged: &[u64],
    topics: &[String],
    tell: Tell<'_>,
) -> Result<Delivered, Failure> {
    tell(Progress::Phase("checking"));
    let mut found = Delivered::default();
    for (topic, name) in topics.iter().enumerate() {
        let mut receiver = broker.receiver(name, load.kind)?;
        let mut ledger = Ledger::new(acknowledged.len(), MESSAGES_MAX);
        let of_topic = load.of_topic(topic, acknowledged);
        let expected: u64 = of_topic.iter().sum();
        let mut heard = Instant::now();
        let mut done = false;
        while !done {
            // Once more behind the last: what is doubled may come there.
            done =
                ledger.received() + receiver.let_go() >= expected || heard.elapsed() > load.silence;
            let received = receiver.receive(WAIT, &mut |body| {
                ledger.take(body);
            })?;
            if received > 0 {
                heard = Instant::now();
            }
            tell(Progress::Messages(received));
        }
        receiver.finish()?;
        found.add(&ledger.settle(&of_topic).without(receiver.let_go()));
    }
    Ok(found)
}
