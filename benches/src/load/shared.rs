//! A load, and what the threads that run it share.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Parameters;
use super::maker::Sizes;
use crate::broker::Kind;

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Publishers are timed; all is read back and checked afterwards.
    Publish,
    /// Messages are stored first; receivers are timed until they have them all.
    Receive,
    /// Both at once, for a time; publishers and receivers are counted, latency is to the receipt.
    Through,
}

/// A load.
#[derive(Debug, Clone)]
pub struct Load {
    /// What is timed.
    pub course: Course,
    /// What receivers do.
    pub kind: Kind,
    /// Topics; publisher and receiver n use topic n modulo their number.
    pub topics: usize,
    /// Without a message for so long, what did not come is lost.
    pub silence: Duration,
    /// Connections that its publishers share, carried by one thread for each processor, where not each of
    /// them has a connection and a thread of its own.
    pub crowd: Option<usize>,
    /// Whether to measure beside it what bounds it on this machine.
    pub yardsticks: bool,
    /// How much of it.
    pub parameters: Parameters,
}

impl Load {
    pub(crate) fn sizes(&self) -> Sizes {
        let Parameters {
            message_bytes,
            message_bytes_max,
            ..
        } = self.parameters;
        Sizes {
            smallest: message_bytes,
            largest: message_bytes_max.max(message_bytes),
        }
    }

    pub(super) fn publishers(&self) -> usize {
        self.parameters.publishers.max(1)
    }

    /// How many of `counts`, one for each publisher, went to `topic`; none of the others'.
    pub(super) fn of_topic(&self, topic: usize, counts: &[u64]) -> Vec<u64> {
        let counts = counts.iter().enumerate();
        let mine = |number: usize| number % self.topics == topic;
        counts
            .map(|(number, count)| if mine(number) { *count } else { 0 })
            .collect()
    }
}

/// How a run gets on.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// So many messages more.
    Messages(u64),
    /// What is done now.
    Phase(&'static str),
}

/// Is told how a run gets on.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Sync);

/// When it began, in which folder, and who is told.
pub type Context<'a> = (&'a str, &'a std::path::Path, Tell<'a>);

/// What the threads of a run share.
pub(super) struct Shared {
    pub(super) load: Load,
    pub(super) began: Instant,
    /// Behind this nothing new is sent.
    pub(super) end_ns: u64,
    /// What is before it is not counted.
    pub(super) counted_from_ns: u64,
    /// Messages acknowledged to each publisher.
    pub(super) acknowledged: Vec<AtomicU64>,
    pub(super) received: AtomicU64,
    pub(super) published_all: AtomicBool,
    pub(super) failed: AtomicBool,
    pub(super) start: Barrier,
}

impl Shared {
    /// For so many `threads`, when `stored` messages of each publisher are there already.
    pub(super) fn new(load: &Load, stored: &[u64], threads: usize) -> Self {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let Parameters {
            warmup_s, seconds, ..
        } = load.parameters;
        let by_number = load.course == Course::Receive;
        let counted_from_ns = if by_number { 0 } else { nanoseconds(warmup_s) };
        Self {
            load: load.clone(),
            began: Instant::now(),
            end_ns: if by_number {
                u64::MAX
            } else {
                counted_from_ns + nanoseconds(seconds)
            },
            counted_from_ns,
            acknowledged: stored.iter().map(|count| AtomicU64::new(*count)).collect(),
            received: AtomicU64::new(0),
            published_all: AtomicBool::new(by_number),
            failed: AtomicBool::new(false),
            start: Barrier::new(threads + 1),
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether what happens at `at_ns` counts.
    pub(super) fn counts_at(&self, at_ns: u64) -> bool {
        (self.counted_from_ns..self.end_ns).contains(&at_ns)
    }

    pub(super) fn has_failed(&self) -> bool {
        // Relaxed: it carries nothing; whoever failed is joined.
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn note_failure<T, E>(&self, done: Result<T, E>) -> Result<T, E> {
        if done.is_err() {
            // Relaxed: as above.
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Messages acknowledged to each publisher so far.
    pub(super) fn counts(&self) -> Vec<u64> {
        let counts = self.acknowledged.iter();
        // Relaxed: counts; whoever needs the last ones saw `published_all` or joined the threads.
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Messages a stream's receiver, or a queue's receivers together, are to get from `topic`.
    pub(super) fn expected(&self, topic: usize) -> u64 {
        let of_topic = self.acknowledged.iter().skip(topic);
        let of_topic = of_topic.step_by(self.load.topics);
        // Relaxed: as in `counts`.
        of_topic.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}
