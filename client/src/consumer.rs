//! Consuming a queue: records under leases, pushed within a window or pulled.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use millstream_protocol::control::{ConsumerOpened, OpenConsumer, Receive, Window};
use millstream_protocol::limits::{
    LEASE_MS_MAX, LEASE_MS_MIN, RECEIVE_WAIT_MS_MAX, WORK_WINDOW_BYTES_MAX,
    WORK_WINDOW_MESSAGES_MAX,
};
use millstream_protocol::wire::StreamId;
use millstream_protocol::{Offset, TopicName};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout_at};

use crate::client::answered;
use crate::connection::{Confirmation, Connection, Counts, Opened, StreamOver, Tally};
use crate::core::{SettleRequest, WorkItem};
use crate::delivery::Delivery;
use crate::error::{ConnectionError, ConsumeError, QueueAction, QueueError, QueueErrorCause};
use crate::link::{Link, Pauses};
use crate::turns;

/// How long the server waits for a record that `next` asks for, before it is asked again.
const PULL_WAIT: Duration = Duration::from_secs(20);
/// How long a receive may try to connect once more, also when its own time is shorter: one that is
/// called often with little time would never get through.
const RECOVERY_MIN: Duration = Duration::from_secs(1);
/// A longer wait is cut to this: a year.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a consumer is opened.
///
/// ```
/// use std::time::Duration;
/// use millstream_client::ConsumerOptions;
/// let options = ConsumerOptions::new().prefetch(16).lease(Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerOptions {
    prefetch: u32,
    prefetch_bytes: u64,
    lease: Duration,
    name: String,
    reconnect: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConsumerOptions {
    /// Up to 64 records and 64 MiB unsettled at once, under the queue's lease; a lost connection is
    /// made again.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            prefetch: 64,
            prefetch_bytes: WORK_WINDOW_BYTES_MAX,
            lease: Duration::ZERO,
            name: String::new(),
            reconnect: true,
        }
    }

    /// Sets how many records may be delivered and not settled: 0 for a consumer that only pulls, at
    /// most 65,536.
    ///
    /// A lease begins when its record is delivered ahead, not when the record is taken: less ahead
    /// suits slow work.
    #[must_use]
    pub fn prefetch(mut self, records: u32) -> Self {
        self.prefetch = records.min(WORK_WINDOW_MESSAGES_MAX);
        self
    }

    /// Sets how many bytes of records may be delivered and not settled; one record always may. At
    /// most 64 MiB.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.prefetch_bytes = bytes.clamp(1, WORK_WINDOW_BYTES_MAX);
        self
    }

    /// Sets how long its leases last, instead of the queue's own time: 10 ms to a day.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets what listings call it. At most 128 bytes are sent.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets whether a lost connection is made again and the consumer goes on. If not, it ends with
    /// [`ConsumeError::Connection`].
    #[must_use]
    pub const fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    fn open(&self, queue: &TopicName) -> OpenConsumer {
        OpenConsumer {
            queue: queue.clone(),
            window_messages: self.prefetch,
            window_bytes: self.prefetch_bytes,
            lease_ms: lease_ms(self.lease),
            name: self.name.clone(),
        }
    }
}

/// A lease as it is asked for; 0 is the queue's.
fn lease_ms(lease: Duration) -> u32 {
    match u32::try_from(lease.as_millis()) {
        Ok(0) if lease.is_zero() => 0,
        ms => ms.unwrap_or(u32::MAX).clamp(LEASE_MS_MIN, LEASE_MS_MAX),
    }
}

/// A consumer stream; closed with its last handle, deliveries included.
#[derive(Debug)]
pub(crate) struct OpenStream {
    connection: Arc<Connection>,
    id: StreamId,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.connection.act(|state| state.drop_consumer(self.id));
    }
}

impl OpenStream {
    async fn open(
        connection: Arc<Connection>,
        queue: &TopicName,
        options: &ConsumerOptions,
        tally: &Arc<Tally>,
    ) -> Result<(Self, ConsumerOpened), QueueError> {
        let failed = |cause: QueueErrorCause| {
            QueueError::new(QueueAction::OpenConsumer, queue.as_str(), cause)
        };
        let (reply, answer) = oneshot::channel();
        let id = connection.act(|state| {
            let id = state.core.open_consumer(&options.open(queue))?;
            state.add_consumer(id, queue.clone(), Arc::clone(tally));
            state.opening.insert(id, reply);
            Ok(id)
        });
        let id = id.map_err(|cause: crate::TopicErrorCause| failed(cause.into()))?;
        let longest = connection.request_timeout;
        // Dropped on failure, or with this future, it closes what may have been opened.
        let stream = Self { connection, id };
        match answered(answer, longest).await {
            Ok(Opened::Consumer(opened)) => Ok((stream, opened)),
            Ok(Opened::Publisher(_) | Opened::Producer(_) | Opened::Reader(_)) => {
                Err(failed(QueueErrorCause::Closed))
            }
            Err(cause) => Err(failed(cause.into())),
        }
    }

    /// Until when a lease lasts; none once it is lost or settled.
    pub(crate) fn held_until(&self, lease: u64, offset: Offset) -> Option<Instant> {
        self.connection.lock().held_until(self.id, lease, offset)
    }

    /// Sends a settle, together with others that wait.
    pub(crate) fn settle(&self, settle: SettleRequest, confirmation: Option<Confirmation>) {
        let notice = self
            .connection
            .act(|state| state.settle(self.id, settle, confirmation));
        if let Some(notice) = notice {
            notice.tell();
        }
    }

    fn poll_work(&self, cx: &Context<'_>) -> Poll<Result<WorkItem, StreamOver>> {
        self.connection.lock().poll_work(self.id, cx)
    }

    /// Waits until no receive is under way; what one brought is here then.
    async fn receive_over(&self) {
        poll_fn(|cx| self.connection.lock().poll_receive_over(self.id, cx)).await;
    }
}

/// Takes records from one queue, each under a lease.
///
/// Records come as the window lets them: as many as [`ConsumerOptions::prefetch`] says may be
/// delivered and not settled at once. With a prefetch of 0 each [`next`](Self::next) or
/// [`receive`](Self::receive) asks for what it takes. Several consumers of one queue share its
/// records.
///
/// Unless told otherwise a consumer survives the loss of its connection, such as a restart of the
/// server: `next` and `receive` connect once more, with growing pauses for as long as it takes, and
/// go on. What was leased before is lost then: settling it changes nothing, and the queue delivers
/// it again.
///
/// Deliveries keep the stream open: what they lease goes back to the queue once the consumer and
/// all of them are gone.
///
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut jobs = client.consumer("billing").await?;
/// while let Some(delivery) = jobs.next().await {
///     let delivery = delivery?;
///     match std::str::from_utf8(delivery.as_bytes()) {
///         Ok(job) => {
///             println!("{job}, time {}", delivery.attempts());
///             delivery.ack();
///         }
///         Err(error) => delivery.reject(error.to_string()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    link: Arc<Link>,
    queue: TopicName,
    options: ConsumerOptions,
    stream: Arc<OpenStream>,
    opened: ConsumerOpened,
    tally: Arc<Tally>,
    /// How it is getting on with opening once more. Kept here, as the call that tries may be
    /// cancelled and followed by another.
    attempts: Option<Attempts>,
    /// Nothing more comes.
    over: bool,
}

/// Attempts to open a consumer once more.
#[derive(Debug)]
struct Attempts {
    pauses: Pauses,
    /// Not before then.
    next_at: Instant,
}

impl Consumer {
    pub(crate) async fn open(
        link: Arc<Link>,
        queue: TopicName,
        options: ConsumerOptions,
    ) -> Result<Self, QueueError> {
        let tally = Arc::new(Tally::default());
        let (stream, opened) =
            OpenStream::open(link.connection(), &queue, &options, &tally).await?;
        Ok(Self {
            link,
            queue,
            options,
            stream: Arc::new(stream),
            opened,
            tally,
            attempts: None,
            over: false,
        })
    }

    /// The queue it takes from.
    #[must_use]
    pub const fn queue(&self) -> &TopicName {
        &self.queue
    }

    /// The queue's number, never given to another.
    #[must_use]
    pub const fn queue_id(&self) -> u32 {
        self.opened.queue_id
    }

    /// The topic behind the queue.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.opened.topic
    }

    /// Its own number among those of the queue; another one after each reconnection.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.opened.consumer
    }

    /// How long its leases last.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.opened.lease_ms.into())
    }

    /// Settles of it that came too late so far and changed nothing, those included that could not
    /// be sent because the connection was lost. Each is also told as a line of the log.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.tally.counts().lost
    }

    /// All it counts.
    #[must_use]
    pub fn counts(&self) -> ConsumerCounts {
        ConsumerCounts::of(self.tally.counts())
    }

    /// Sets how many records and bytes may be delivered and not settled at once, also for after a
    /// reconnection; 0 records stop deliveries.
    pub fn set_window(&mut self, records: u32, bytes: u64) {
        self.options = std::mem::take(&mut self.options)
            .prefetch(records)
            .prefetch_bytes(bytes);
        let window = Window {
            messages: self.options.prefetch,
            bytes: self.options.prefetch_bytes,
        };
        let stream = &self.stream;
        stream
            .connection
            .act(|state| state.core.set_window(stream.id, window));
    }

    /// The next record; waits until there is one. Nothing after an error, each of which is final.
    ///
    /// May be cancelled: no record is lost.
    ///
    /// # Errors
    ///
    /// See [`ConsumeError`].
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        // A loop of calls that never wait would starve the tasks that do the sending.
        turns::spend().await;
        loop {
            if self.over {
                return None;
            }
            let stream = Arc::clone(&self.stream);
            let pull = (self.options.prefetch == 0).then(|| self.asking(1, PULL_WAIT));
            let next = poll_fn(|cx| {
                stream.connection.act(|state| {
                    let next = state.poll_work(stream.id, cx);
                    if let (Poll::Pending, Some(pull)) = (&next, &pull) {
                        state.receive_work(stream.id, pull);
                    }
                    next
                })
            });
            match next.await {
                Ok(item) => return Some(Ok(Delivery::new(item, &stream))),
                Err(over) => {
                    if let Err(error) = self.recover(over, None).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// The next record if one is here already; nothing also once the consumer is over.
    ///
    /// Never connects and never asks the server for anything.
    pub fn try_next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        if self.over {
            return None;
        }
        match self.stream.poll_work(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(item)) => Some(Ok(Delivery::new(item, &self.stream))),
            // Heard of by `next`, which can do something about it.
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    /// Takes up to `max` records: those that are there, or else the first to come within `wait`.
    /// Empty when nothing came.
    ///
    /// With a prefetch of 0 it asks the queue for them; otherwise it takes what was delivered ahead.
    /// While the connection is lost it may take a second longer than told.
    ///
    /// # Errors
    ///
    /// See [`ConsumeError`]; each is final.
    pub async fn receive(
        &mut self,
        max: u32,
        wait: Duration,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        // A wait without an end that could be told is one of years.
        let until = Instant::now() + wait.min(WAIT_MAX);
        while !self.over {
            let next = match self.options.prefetch {
                0 => self.pulled(max, until).await,
                _ => self.pushed(until).await,
            };
            match next {
                Some(Ok(item)) => return Ok(self.gather(item, max)),
                Some(Err(over)) => {
                    self.recover(over, Some(until.max(Instant::now() + RECOVERY_MIN)))
                        .await?;
                    if Instant::now() >= until {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(Vec::new())
    }

    /// The first record that is delivered ahead by `until`.
    async fn pushed(&self, until: Instant) -> Option<Result<WorkItem, StreamOver>> {
        let stream = &self.stream;
        let next = poll_fn(|cx| stream.poll_work(cx));
        timeout_at(until.into(), next).await.ok()
    }

    /// The first record that asking for some brings by `until`; all of them are here then.
    async fn pulled(&self, max: u32, until: Instant) -> Option<Result<WorkItem, StreamOver>> {
        let stream = &self.stream;
        // What a call that was cancelled asked for may take longer than this one has.
        timeout_at(until.into(), stream.receive_over()).await.ok()?;
        loop {
            if let Poll::Ready(next) = stream.poll_work(&Context::from_waker(Waker::noop())) {
                return Some(next);
            }
            let left = until.saturating_duration_since(Instant::now());
            let pull = self.asking(max, left);
            stream
                .connection
                .act(|state| state.receive_work(stream.id, &pull));
            // The server keeps the time.
            stream.receive_over().await;
            match stream.poll_work(&Context::from_waker(Waker::noop())) {
                Poll::Ready(next) => return Some(next),
                Poll::Pending if Instant::now() >= until => return None,
                Poll::Pending => {}
            }
        }
    }

    /// A record and those behind it that are here, `max` in all.
    fn gather(&mut self, first: WorkItem, max: u32) -> Vec<Delivery> {
        let mut received = vec![Delivery::new(first, &self.stream)];
        while received.len() < max as usize {
            match self.try_next() {
                Some(Ok(delivery)) => received.push(delivery),
                _ => break,
            }
        }
        received
    }

    /// What to ask the queue for.
    fn asking(&self, max: u32, wait: Duration) -> Receive {
        // Rounded up: a wait that is not over is never asked for as none.
        let wait_ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
        Receive {
            messages: max.clamp(1, WORK_WINDOW_MESSAGES_MAX),
            bytes: self.options.prefetch_bytes,
            wait_ms: wait_ms.min(RECEIVE_WAIT_MS_MAX),
            lease_ms: 0,
        }
    }

    /// Opens the consumer once more after its stream or its connection was lost; fails when that
    /// cannot help or is not wanted. Gives up silently at `until`, to be called again later.
    async fn recover(
        &mut self,
        over: StreamOver,
        until: Option<Instant>,
    ) -> Result<(), ConsumeError> {
        let error = ConsumeError::of(&self.queue, over);
        if !self.options.reconnect || !error.is_retriable() {
            self.over = true;
            return Err(error);
        }
        if self.attempts.is_none() {
            tracing::warn!(queue = %self.queue, "{error}; connecting once more");
            self.attempts = Some(Attempts {
                pauses: Pauses::new(),
                next_at: Instant::now(),
            });
        }
        let reopened = self.reopen();
        let reopened = match until {
            None => reopened.await,
            Some(until) => match timeout_at(until.into(), reopened).await {
                Ok(reopened) => reopened,
                Err(_) => return Ok(()),
            },
        };
        self.attempts = None;
        let (stream, opened) = reopened.inspect_err(|_| self.over = true)?;
        self.stream = Arc::new(stream);
        self.opened = opened;
        self.tally.count(|counts| counts.reconnects += 1);
        tracing::info!(queue = %self.queue, "consuming again");
        Ok(())
    }

    /// Tries until it succeeds, or fails in a way that trying again does not help.
    async fn reopen(&mut self) -> Result<(OpenStream, ConsumerOpened), ConsumeError> {
        while let Some(attempts) = &mut self.attempts {
            sleep_until(attempts.next_at.into()).await;
            // Also when this is cancelled in the middle of the attempt.
            attempts.next_at = Instant::now() + attempts.pauses.next();
            match self.attempt().await {
                Err(error) if error.is_retriable() => {
                    tracing::debug!(queue = %self.queue, "{error}; trying again");
                }
                opened => return opened,
            }
        }
        let (queue, cause) = (self.queue.clone(), ConnectionError::ClosedHere);
        Err(ConsumeError::Connection { queue, cause })
    }

    /// Connects, unless another handle did, and opens the consumer once more.
    async fn attempt(&self) -> Result<(OpenStream, ConsumerOpened), ConsumeError> {
        let connection = self.link.reconnect().await;
        let connection = connection.map_err(|error| ConsumeError::reconnect(&self.queue, error))?;
        OpenStream::open(connection, &self.queue, &self.options, &self.tally)
            .await
            .map_err(ConsumeError::Reopen)
    }

    /// Gives back what it holds and leaves; deliveries that are still held can be settled.
    pub fn close(self) {}
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let stream = &self.stream;
        stream
            .connection
            .act(|state| state.close_consumer(stream.id));
    }
}

/// What a consumer counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerCounts {
    /// Settles that came too late and changed nothing.
    pub lost: u64,
    /// Settles that were sent and never answered: whether they changed anything is unknown.
    pub unanswered: u64,
    /// Records whose lease was over before they were taken; they were not given out.
    pub outlived: u64,
    /// How often it was opened once more.
    pub reconnects: u64,
}

impl ConsumerCounts {
    const fn of(counts: Counts) -> Self {
        let Counts {
            lost,
            unanswered,
            outlived,
            reconnects,
        } = counts;
        Self {
            lost,
            unanswered,
            outlived,
            reconnects,
        }
    }
}
