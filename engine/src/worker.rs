//! Workers: handlers that are called for the records of a queue, one by one or in batches.
//!
//! Threads of their own, no async runtime. One thread takes records, some handle them, and one
//! extends the leases of all that wait or are handled whenever a third of their time has passed.

mod batch;
mod failure;
mod outcome;
mod pool;
mod sizing;
mod source;
mod stop;
mod watch;

pub use batch::{Batch, BatchWorker};
pub use failure::Failure;
pub use stop::{Report, Stop};

use std::thread;
use std::time::{Duration, Instant};

use outcome::call;
use pool::{CloseOnDrop, Pool, Watched};
use source::{ConsumeError, Consumer, Delivery, Taken, is_lost, take};

/// Handlers at once unless told otherwise.
const CONCURRENCY: usize = 4;
/// Most handlers at once.
const CONCURRENCY_MAX: usize = 1024;
/// Bytes of records taken ahead of their handlers.
const AHEAD_BYTES: u64 = 64 << 20;

/// Calls a handler for each record of a queue, several at once.
///
/// What a handler returns settles its record: `Ok` acks it, a [`Failure`] says otherwise, and any
/// error by `?` means: try again. A panic is caught and counts as a failure. Leases are extended
/// while their records wait or are handled, so that a handler may take longer than a lease.
///
/// ```no_run
/// use millstream::{Broker, ConsumerOptions, Failure, Worker};
///
/// let broker = Broker::open("data")?;
/// let worker = Worker::new(broker.consumer("billing", ConsumerOptions::new())?).concurrency(8);
/// let stop = worker.stop_handle(); // for a signal handler, say
/// let report = worker.run_blocking(|delivery| {
///     let order = std::str::from_utf8(delivery.as_bytes())?;
///     println!("{order}, time {}", delivery.attempts());
///     Ok::<(), Failure>(())
/// })?;
/// println!("{} done", report.acked);
/// # drop(stop);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    consumer: Consumer,
    stop: Stop,
    concurrency: usize,
    handler_timeout: Option<Duration>,
    idle: Option<Duration>,
    records_max: Option<u64>,
}

impl Worker {
    /// A worker of four handlers at once, without a limit to their time. The consumer's window
    /// becomes what keeps them busy.
    pub fn new(consumer: Consumer) -> Self {
        Self {
            consumer,
            stop: Stop::new(),
            concurrency: CONCURRENCY,
            handler_timeout: None,
            idle: None,
            records_max: None,
        }
    }

    /// Sets how many handlers run at once, each in a thread of its own; from 1 to 1,024.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, CONCURRENCY_MAX);
        self
    }

    /// Sets how long a handler may take. A record whose handler takes longer is delivered again,
    /// and what that handler says in the end no longer counts; its thread is busy until then, as no
    /// thread can be ended from outside.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout);
        self
    }

    /// Has the worker end by itself once nothing came and nothing ran for this long.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Has the worker end by itself once it has taken so many records and handled them.
    pub fn records_max(mut self, records: u64) -> Self {
        self.records_max = Some(records);
        self
    }

    /// Stops the worker from elsewhere, and tells what it has done so far.
    #[must_use]
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Calls `handler` for each record until it is stopped or nothing more will come; blocks.
    ///
    /// When it returns every record that was begun is handled, and all others are given back.
    ///
    /// # Errors
    ///
    /// The consumer failed; what was begun was handled, too.
    pub fn run_blocking<H>(self, handler: H) -> Result<Report, ConsumeError>
    where
        H: Fn(&Delivery) -> Result<(), Failure> + Sync,
    {
        let Self {
            mut consumer,
            stop,
            concurrency,
            handler_timeout,
            idle,
            records_max,
        } = self;
        // One record behind each that is handled, so that no handler waits for the next one.
        let window = u32::try_from(2 * concurrency).unwrap_or(u32::MAX);
        consumer.set_window(window, AHEAD_BYTES);
        let pool = Pool::new(handler_timeout);
        let feed = Feed {
            stop: &stop,
            idle,
            records_max: records_max.unwrap_or(u64::MAX),
            waiting_max: concurrency,
        };
        let fed = thread::scope(|scope| {
            let close = CloseOnDrop(&pool);
            for _ in 0..concurrency {
                scope.spawn(|| handle(&pool, &stop, &handler));
            }
            scope.spawn(|| pool.keep_watch());
            let fed = feed.run(&mut consumer, &pool);
            let left = pool.close();
            stop.count(|report| report.released += left.len() as u64);
            drop(left);
            drop(close);
            fed
        });
        fed.map(|()| stop.report())
    }
}

/// Handles jobs until none will come.
fn handle<H>(pool: &Pool<Watched>, stop: &Stop, handler: &H)
where
    H: Fn(&Delivery) -> Result<(), Failure>,
{
    while let Some((Watched { delivery, id }, _running)) = pool.next() {
        if stop.is_stopped() {
            pool.unwatch(id);
            stop.count(|report| report.released += 1);
            delivery.release();
            continue;
        }
        if is_lost(&delivery) {
            // Somebody else has it, or will.
            pool.unwatch(id);
            continue;
        }
        pool.start(std::iter::once(id));
        let outcome = call(|| handler(&delivery));
        let pace = pool.unwatch(id);
        stop.count(outcome.settle(delivery, pace));
    }
}

/// How records come to the handlers.
struct Feed<'a> {
    stop: &'a Stop,
    idle: Option<Duration>,
    records_max: u64,
    waiting_max: usize,
}

impl Feed<'_> {
    /// Takes records and hands them on until the end.
    fn run(&self, consumer: &mut Consumer, pool: &Pool<Watched>) -> Result<(), ConsumeError> {
        let mut taken = 0;
        let mut idle_from = Instant::now();
        while taken < self.records_max {
            // Bounded by the window already, unless leases were lost meanwhile.
            pool.wait_for_room(self.waiting_max);
            let until = self.idle.map(|idle| idle_from + idle);
            match take(consumer, self.stop, until) {
                Taken::Delivery(delivery) => {
                    pool.push(pool.watch(delivery));
                    taken += 1;
                    idle_from = Instant::now();
                }
                Taken::Nothing => match pool.idle_since() {
                    Some(since) if since <= idle_from => return Ok(()),
                    Some(since) => idle_from = since,
                    None => idle_from = Instant::now(),
                },
                Taken::Over => return Ok(()),
                Taken::Failed(error) => return Err(error),
            }
        }
        pool.wait_until_idle();
        Ok(())
    }
}
