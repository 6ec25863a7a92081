//! Handling the records of a queue in batches, whose size follows what they cost.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::outcome::{Outcome, call};
use super::pool::{CloseOnDrop, Pool, Watched};
use super::sizing::Sizing;
use super::source::{ConsumeError, Consumer, Delivery, Taken, is_lost, take};
use super::stop::{Report, Stop};
use super::{AHEAD_BYTES, CONCURRENCY_MAX};

/// Bounds of the size of batches unless told otherwise.
const SIZE: RangeInclusive<u32> = 1..=1000;
/// Largest batch.
const SIZE_MAX: u32 = 32_768;
/// How long a batch may take to fill unless told otherwise.
const LINGER: Duration = Duration::from_millis(100);
/// How long handling a batch should take unless told otherwise.
const TARGET: Duration = Duration::from_secs(1);

/// Records handled together.
#[derive(Debug)]
pub struct Batch {
    records: Vec<Watched>,
    failures: BTreeMap<usize, Failure>,
}

impl Batch {
    /// How many there are, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none: never, when a handler is called.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records, in the order in which they were delivered.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.records.iter().map(|record| &record.delivery)
    }

    /// Says that the record at `index` failed, whatever becomes of the others.
    pub fn fail(&mut self, index: usize, failure: impl Into<Failure>) {
        self.failures.insert(index, failure.into());
    }
}

/// Calls a handler for many records of a queue at once.
///
/// A batch is full at a size that follows what handling costs: as many records as fit the target,
/// within bounds. It is handled when it is full or has waited for its linger. What the handler
/// returns settles all of its records, but those that it told to have failed by themselves.
/// Leases are extended as a [`Worker`](super::Worker) does.
///
/// ```no_run
/// use std::time::Duration;
/// use millstream::{BatchWorker, Broker, ConsumerOptions, Failure};
///
/// let broker = Broker::open("data")?;
/// let report = BatchWorker::new(broker.consumer("mail", ConsumerOptions::new())?)
///     .size(10..=500)
///     .target(Duration::from_millis(200))
///     .run_blocking(|batch| {
///         let bad = batch.iter().position(|delivery| delivery.as_bytes().is_empty());
///         if let Some(bad) = bad {
///             batch.fail(bad, Failure::reject("an empty letter"));
///         }
///         Ok(())
///     })?;
/// println!("{} sent", report.acked);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a worker does nothing until it is run"]
pub struct BatchWorker {
    consumer: Consumer,
    stop: Stop,
    concurrency: usize,
    size: RangeInclusive<u32>,
    linger: Duration,
    target: Duration,
    handler_timeout: Option<Duration>,
    idle: Option<Duration>,
}

impl BatchWorker {
    /// A worker of one handler at once, for batches of 1 to 1,000 records that wait for at most
    /// 100 ms and should take a second. The consumer's window becomes what keeps it busy.
    pub fn new(consumer: Consumer) -> Self {
        Self {
            consumer,
            stop: Stop::new(),
            concurrency: 1,
            size: SIZE,
            linger: LINGER,
            target: TARGET,
            handler_timeout: None,
            idle: None,
        }
    }

    /// Sets the bounds of the size of a batch; at most 32,768. Equal ones fix it.
    pub fn size(mut self, size: RangeInclusive<u32>) -> Self {
        self.size = (*size.start()).clamp(1, SIZE_MAX)..=(*size.end()).clamp(1, SIZE_MAX);
        self
    }

    /// Sets how long a batch may wait for more records once it has its first.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how long handling a batch should take.
    pub fn target(mut self, target: Duration) -> Self {
        self.target = target;
        self
    }

    /// Sets how many batches are handled at once, each in a thread of its own; from 1 to 1,024.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, CONCURRENCY_MAX);
        self
    }

    /// Sets how long a handler may take; see [`Worker::handler_timeout`](super::Worker::handler_timeout).
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout);
        self
    }

    /// Has the worker end by itself once nothing came and nothing ran for this long.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Stops the worker from elsewhere, and tells what it has done so far.
    #[must_use]
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Calls `handler` for each batch until it is stopped or nothing more will come; blocks.
    ///
    /// When it returns every batch that was begun is handled, and all other records are given back.
    ///
    /// # Errors
    ///
    /// The consumer failed; what was begun was handled, too.
    pub fn run_blocking<H>(self, handler: H) -> Result<Report, ConsumeError>
    where
        H: Fn(&mut Batch) -> Result<(), Failure> + Sync,
    {
        let Self {
            mut consumer,
            stop,
            concurrency,
            size,
            linger,
            target,
            handler_timeout,
            idle,
        } = self;
        let pool = Pool::new(handler_timeout);
        let sizing = Mutex::new(Sizing::new(size, target));
        let gather = Gather {
            pool: &pool,
            stop: &stop,
            sizing: &sizing,
            batches: u32::try_from(concurrency)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            linger,
            idle,
        };
        let gathered = thread::scope(|scope| {
            let close = CloseOnDrop(&pool);
            for _ in 0..concurrency {
                scope.spawn(|| handle(&pool, &stop, &sizing, &handler));
            }
            scope.spawn(|| pool.keep_watch());
            let gathered = gather.run(&mut consumer);
            let left = pool.close();
            let records: usize = left.iter().map(Batch::len).sum();
            stop.count(|report| report.released += records as u64);
            drop(left);
            drop(close);
            gathered
        });
        gathered.map(|()| stop.report())
    }
}

/// Handles batches until none will come.
fn handle<H>(pool: &Pool<Batch>, stop: &Stop, sizing: &Mutex<Sizing>, handler: &H)
where
    H: Fn(&mut Batch) -> Result<(), Failure>,
{
    while let Some((mut batch, _running)) = pool.next() {
        if stop.is_stopped() {
            give_back(pool, stop, batch);
            continue;
        }
        batch.records.retain(|record| {
            let lost = is_lost(&record.delivery);
            if lost {
                // Somebody else has it, or will.
                pool.unwatch(record.id);
            }
            !lost
        });
        if batch.is_empty() {
            continue;
        }
        pool.start(batch.records.iter().map(|record| record.id));
        let begun = Instant::now();
        let outcome = call(|| handler(&mut batch));
        let took = begun.elapsed();
        let Batch {
            records,
            mut failures,
        } = batch;
        let handled = u32::try_from(records.len()).unwrap_or(u32::MAX);
        lock(sizing).handled(handled, took);
        for (index, Watched { delivery, id }) in records.into_iter().enumerate() {
            let pace = pool.unwatch(id);
            let count = match failures.remove(&index) {
                Some(failure) => Outcome::Failed(failure).settle(delivery, pace),
                None => outcome.settle(delivery, pace),
            };
            stop.count(count);
        }
    }
}

/// How records come together to batches.
struct Gather<'a> {
    pool: &'a Pool<Batch>,
    stop: &'a Stop,
    sizing: &'a Mutex<Sizing>,
    /// Batches to have at once: those that are handled, and one that gathers meanwhile.
    batches: u32,
    linger: Duration,
    idle: Option<Duration>,
}

/// What gathering brought.
enum Gathered {
    Batch(Batch),
    /// Nothing in time.
    Nothing,
    /// Nothing more will come; the batch is to be given back.
    Over,
    Failed(ConsumeError),
}

impl Gather<'_> {
    fn run(&self, consumer: &mut Consumer) -> Result<(), ConsumeError> {
        let mut window = 0;
        let mut idle_from = Instant::now();
        loop {
            self.pool.wait_for_room(0);
            let size = lock(self.sizing).size();
            let wanted = size.saturating_mul(self.batches);
            if wanted != window {
                consumer.set_window(wanted, AHEAD_BYTES);
                window = wanted;
            }
            match self.gather(consumer, size, idle_from) {
                Gathered::Batch(batch) => {
                    self.pool.push(batch);
                    idle_from = Instant::now();
                }
                Gathered::Nothing => match self.pool.idle_since() {
                    Some(since) if since <= idle_from => return Ok(()),
                    Some(since) => idle_from = since,
                    None => idle_from = Instant::now(),
                },
                Gathered::Over => return Ok(()),
                Gathered::Failed(error) => return Err(error),
            }
        }
    }

    fn gather(&self, consumer: &mut Consumer, size: u32, idle_from: Instant) -> Gathered {
        let mut batch = Batch {
            records: Vec::new(),
            failures: BTreeMap::new(),
        };
        let mut until = self.idle.map(|idle| idle_from + idle);
        while batch.len() < size as usize {
            match take(consumer, self.stop, until) {
                Taken::Delivery(delivery) => {
                    if batch.is_empty() {
                        until = Some(Instant::now() + self.linger);
                    }
                    batch.records.push(self.pool.watch(delivery));
                }
                Taken::Nothing if batch.is_empty() => return Gathered::Nothing,
                Taken::Nothing => break,
                Taken::Over => {
                    give_back(self.pool, self.stop, batch);
                    return Gathered::Over;
                }
                Taken::Failed(error) => {
                    give_back(self.pool, self.stop, batch);
                    return Gathered::Failed(error);
                }
            }
        }
        Gathered::Batch(batch)
    }
}

/// Releases a batch that is not to be handled.
fn give_back(pool: &Pool<Batch>, stop: &Stop, batch: Batch) {
    for Watched { delivery, id } in batch.records {
        pool.unwatch(id);
        delivery.release();
        stop.count(|report| report.released += 1);
    }
}

fn lock(sizing: &Mutex<Sizing>) -> std::sync::MutexGuard<'_, Sizing> {
    sizing.lock().unwrap_or_else(PoisonError::into_inner)
}
