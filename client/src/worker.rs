//! Workers of tasks: an async handler that is called for the records of a queue.

mod failure;
pub(crate) mod outcome;
pub(crate) mod sizing;
mod stop;
pub(crate) mod watch;

pub use failure::Failure;
pub use stop::{Report, Stop};

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending, poll_fn};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};

use crate::consumer::Consumer;
use crate::delivery::{Delivery, DeliveryToken};
use crate::error::ConsumeError;
use outcome::{Outcome, said};
use watch::{Due, JobId, Pace, Watch};

/// Handlers at once unless told otherwise.
pub(crate) const CONCURRENCY: usize = 4;
/// Most handlers at once.
pub(crate) const CONCURRENCY_MAX: usize = 1024;
/// Bytes of records taken ahead of their handlers.
pub(crate) const AHEAD_BYTES: u64 = 64 << 20;

/// Calls an async handler for each record of a queue, several at once, each as a tokio task.
///
/// What a handler returns settles its record: `Ok` acks it, a [`Failure`] says otherwise, and any
/// error by `?` means: try again. A panic is caught and counts as a failure. Leases are extended
/// while their records wait or are handled, so that a handler may take longer than a lease.
///
/// [`blocking::Worker`](crate::blocking::Worker) does the same with threads.
///
/// ```no_run
/// use std::time::Duration;
/// use millstream_client::{Client, Failure, Worker};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let worker = Worker::new(client.consumer("billing").await?)
///     .concurrency(8)
///     .handler_timeout(Duration::from_secs(60));
/// let stop = worker.stop_handle(); // for a signal handler, say
/// let report = worker
///     .run(|delivery| async move {
///         let order = std::str::from_utf8(delivery.as_bytes())?;
///         println!("{order}, time {}", delivery.attempts());
///         Ok::<(), Failure>(())
///     })
///     .await?;
/// println!("{} done", report.acked);
/// # drop(stop);
/// # Ok(())
/// # }
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

    /// Sets how many handlers run at once, from 1 to 1,024.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, CONCURRENCY_MAX);
        self
    }

    /// Sets how long a handler may take. One that takes longer is dropped, and its record is
    /// delivered again.
    pub const fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout);
        self
    }

    /// Has the worker end by itself once nothing came and nothing ran for this long.
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Has the worker end by itself once it has taken so many records and handled them.
    pub const fn records_max(mut self, records: u64) -> Self {
        self.records_max = Some(records);
        self
    }

    /// Stops the worker from elsewhere, and tells what it has done so far.
    #[must_use]
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Calls `handler` for each record until it is stopped or nothing more will come.
    ///
    /// When it returns every record that was begun is handled, and all others are given back.
    /// Dropped before, it drops the handlers, too, and gives back what they had.
    ///
    /// # Errors
    ///
    /// The consumer failed; what was begun was handled, too.
    pub async fn run<H, F>(mut self, handler: H) -> Result<Report, ConsumeError>
    where
        H: Fn(Arc<Delivery>) -> F,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        // One record behind each that is handled, so that no handler waits for the next one.
        let window = u32::try_from(2 * self.concurrency).unwrap_or(u32::MAX);
        self.consumer.set_window(window, AHEAD_BYTES);
        let mut crew = Crew::new(handler, self.handler_timeout, self.stop.clone());
        let fed = self.feed(&mut crew).await;
        crew.finish().await;
        fed.map(|()| self.stop.report())
    }

    /// Takes records and has them handled until the end.
    async fn feed<H, F>(&mut self, crew: &mut Crew<H>) -> Result<(), ConsumeError>
    where
        H: Fn(Arc<Delivery>) -> F,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let mut left = self.records_max.unwrap_or(u64::MAX);
        loop {
            // Kept while other things happen: it may be connecting once more.
            let mut next = std::pin::pin!(self.consumer.next());
            let next = loop {
                crew.start(self.concurrency);
                if left == 0 && crew.is_idle() {
                    return Ok(());
                }
                let takes = left > 0 && crew.waiting.len() < self.concurrency;
                let idle = self.idle.filter(|_| crew.is_idle());
                let idle_until = idle.map(|idle| crew.idle_from + idle);
                tokio::select! {
                    biased;
                    () = poll_fn(|cx| self.stop.poll_stopped(cx)) => return Ok(()),
                    () = crew.changed() => {}
                    next = &mut next, if takes => break next,
                    () = at(idle_until) => return Ok(()),
                }
            };
            match next {
                None => return Ok(()),
                Some(next) => crew.add(next?),
            }
            left -= 1;
        }
    }
}

/// Ready at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(TokioInstant::from_std(time)).await,
        None => pending().await,
    }
}

/// The handlers of a worker, the records that wait for one, and the watch over all leases.
struct Crew<H> {
    handler: H,
    handler_timeout: Option<Duration>,
    stop: Stop,
    tasks: JoinSet<(Outcome, Pace)>,
    running: HashMap<Id, (Arc<Delivery>, JobId)>,
    waiting: VecDeque<(Delivery, JobId)>,
    watch: Watch<DeliveryToken>,
    /// When something last came or was done.
    idle_from: Instant,
}

impl<H, F> Crew<H>
where
    H: Fn(Arc<Delivery>) -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    fn new(handler: H, handler_timeout: Option<Duration>, stop: Stop) -> Self {
        Self {
            handler,
            handler_timeout,
            stop,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            waiting: VecDeque::new(),
            // A task that takes too long is dropped, which needs no watching.
            watch: Watch::new(None),
            idle_from: Instant::now(),
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.tasks.is_empty()
    }

    /// Takes a record under watch.
    fn add(&mut self, delivery: Delivery) {
        self.idle_from = Instant::now();
        let (token, left) = (delivery.token(), delivery.lease_left());
        let id = self.watch.add(self.idle_from, token, left);
        self.waiting.push_back((delivery, id));
    }

    /// Starts handlers for records that wait, up to so many at once.
    fn start(&mut self, concurrency: usize) {
        while self.tasks.len() < concurrency && !self.stop.is_stopped() {
            let Some((delivery, job)) = self.waiting.pop_front() else {
                return;
            };
            if delivery.lease_left().is_zero() {
                // Somebody else has it, or will.
                self.watch.remove(job);
                continue;
            }
            let delivery = Arc::new(delivery);
            let handling = (self.handler)(Arc::clone(&delivery));
            let longest = self.handler_timeout;
            let task = self.tasks.spawn(async move {
                let result = match longest {
                    None => handling.await,
                    Some(longest) => match timeout(longest, handling).await {
                        Ok(result) => result,
                        Err(_) => return (Outcome::Done, Pace::Late),
                    },
                };
                match result {
                    Ok(()) => (Outcome::Done, Pace::InTime),
                    Err(failure) => (Outcome::Failed(failure), Pace::InTime),
                }
            });
            self.running.insert(task.id(), (delivery, job));
        }
    }

    /// Waits until a handler is done or leases are to be extended, and does what is to be done.
    async fn changed(&mut self) {
        let tick = self.watch.next_at();
        tokio::select! {
            biased;
            Some(done) = self.tasks.join_next_with_id() => self.done(done),
            () = at(tick) => {
                for due in self.watch.due(Instant::now()) {
                    match due {
                        Due::Extend(token) => token.extend(Duration::ZERO),
                        Due::Late(token) => token.retry(),
                    }
                }
            }
        }
    }

    /// A handler is done: its record is settled.
    fn done(&mut self, done: Result<(Id, (Outcome, Pace)), JoinError>) {
        let (id, (outcome, pace)) = match done {
            Ok(done) => done,
            Err(error) => {
                let id = error.id();
                let what = match error.try_into_panic() {
                    Ok(panic) => said(&*panic),
                    Err(error) => error.to_string(),
                };
                (id, (Outcome::Panicked(what), Pace::InTime))
            }
        };
        self.idle_from = Instant::now();
        let Some((delivery, job)) = self.running.remove(&id) else {
            return;
        };
        self.watch.remove(job);
        if pace == Pace::Late {
            delivery.token().retry();
        }
        // A handler may have kept it, for whatever reason.
        let delivery = Arc::try_unwrap(delivery).unwrap_or_else(|kept| kept.second());
        self.stop.count(outcome.settle(delivery, pace));
    }

    /// Gives back what waits and finishes what was begun.
    async fn finish(&mut self) {
        for (delivery, job) in self.waiting.drain(..) {
            self.watch.remove(job);
            delivery.release();
            self.stop.count(|report| report.released += 1);
        }
        while !self.tasks.is_empty() {
            self.changed().await;
        }
    }
}
