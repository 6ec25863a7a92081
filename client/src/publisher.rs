//! Publishing: a stream of messages to one topic, and the tickets they leave.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::control::{OpenProducer, OpenPublisher, ProducerOpened};
use millstream_protocol::wire::StreamId;
use millstream_protocol::{AckLevel, Durability, Offset, TopicName};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::client::answered;
use crate::connection::{Connection, Load, Opened, Untaken, offset_in};
use crate::core::ReadyFrame;
use crate::error::{Action, PublishError, TopicError, TopicErrorCause};
use crate::outcomes::SlotId;
use crate::turns;

/// Calls that count as one against the budget of the task they are made in: tokio lets it do 128 such
/// things before it has others go on.
const CALLS_A_TURN: u8 = 4;

/// How a topic is opened for publishing.
///
/// ```
/// use millstream_client::{AckLevel, PublisherOptions};
/// let options = PublisherOptions::new().ack(AckLevel::Stored).create(false);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherOptions {
    ack: AckLevel,
    create: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl PublisherOptions {
    /// Acknowledged at the topic's own level; a topic that is not there is created.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ack: AckLevel::Topic,
            create: true,
        }
    }

    /// Sets how safe a record must be before it is acknowledged.
    #[must_use]
    pub const fn ack(mut self, ack: AckLevel) -> Self {
        self.ack = ack;
        self
    }

    /// Sets whether a topic that is not there is created, `synced`.
    #[must_use]
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
}

/// Where records went, and how safe they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The offset of the first record.
    pub first: Offset,
    /// The offset of the last one; the records between follow without gaps.
    pub last: Offset,
    /// What they survive.
    pub level: Durability,
    /// Whether they were there before, by a message's id or a producer's sequence, within the topic's
    /// window for duplicates: nothing was added.
    pub duplicate: bool,
}

/// Publishes to one topic.
///
/// What one handle publishes is stored in the order of its calls; a clone is its own order. Clones
/// share a stream of the connection: small messages that wait while the connection is busy travel
/// together, which nobody waits for.
///
/// Un-acknowledged bytes are bounded by the server's window; past it, publishing waits.
///
/// After a refusal that says a retry may help, such as a full disk, the messages under way fail and
/// the next call opens a new stream.
///
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use millstream_client::Message;
///
/// let mut orders = client.publisher("orders").await?;
/// let first = orders.enqueue("one").await?; // on its way
/// let second = orders.enqueue(Message::new("two").key("c7")).await?;
/// println!("{} and {}", first.await?.first, second.await?.first); // both on disk
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Publisher {
    origin: Arc<Origin>,
    stream: Arc<OpenStream>,
    /// Calls, counted round and round.
    calls: u8,
}

/// What clones share: how to open the stream once more, and the newest one that was.
struct Origin {
    topic: TopicName,
    options: PublisherOptions,
    /// Whoever opens the stream once more holds this meanwhile.
    opening: Semaphore,
    newest: Mutex<Arc<OpenStream>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("topic", &self.topic)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A publisher stream; closed with its last handle.
#[derive(Debug)]
pub(crate) struct OpenStream {
    connection: Arc<Connection>,
    id: StreamId,
    level: Durability,
    /// Handles that wait take turns in the order they came, so that a large message is not overtaken
    /// for ever while the window is full.
    turn: Semaphore,
    /// Whose turn it is waits here for room in the window.
    room: Arc<Notify>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.connection.act(|state| state.drop_publisher(self.id));
    }
}

impl OpenStream {
    async fn open(
        connection: Arc<Connection>,
        topic: &TopicName,
        options: PublisherOptions,
    ) -> Result<Self, TopicError> {
        let failed = |cause| TopicError::new(Action::OpenPublisher, topic.as_str(), cause);
        let PublisherOptions { ack, create } = options;
        let (reply, answer) = oneshot::channel();
        let room = Arc::new(Notify::new());
        let id = connection.act(|state| {
            let open = OpenPublisher {
                topic: topic.clone(),
                ack,
                create,
            };
            let id = state.core.open_publisher(&open)?;
            state.add_publisher(id, topic.clone(), Arc::clone(&room));
            state.opening.insert(id, reply);
            Ok(id)
        });
        let id = id.map_err(failed)?;
        let longest = connection.request_timeout;
        // Dropped on failure, or with this future, it closes what may have been opened.
        let mut stream = Self {
            connection,
            id,
            level: Durability::Synced,
            turn: Semaphore::new(1),
            room,
        };
        match answered(answer, longest).await.map_err(failed)? {
            Opened::Publisher(opened) => {
                stream.level = ack.of(opened.durability);
                Ok(stream)
            }
            Opened::Producer(_) | Opened::Reader(_) | Opened::Consumer(_) => {
                Err(failed(TopicErrorCause::Closed))
            }
        }
    }

    /// Opens a producer's stream.
    pub(crate) async fn open_producer(
        connection: Arc<Connection>,
        open: &OpenProducer,
    ) -> Result<(Self, ProducerOpened), TopicError> {
        let topic = &open.topic;
        let failed = |cause| TopicError::new(Action::OpenPublisher, topic.as_str(), cause);
        let (reply, answer) = oneshot::channel();
        let room = Arc::new(Notify::new());
        let id = connection.act(|state| {
            let id = state.core.open_producer(open)?;
            state.add_publisher(id, topic.clone(), Arc::clone(&room));
            state.opening.insert(id, reply);
            Ok(id)
        });
        let id = id.map_err(failed)?;
        let longest = connection.request_timeout;
        // Dropped on failure, or with this future, it closes what may have been opened.
        let mut stream = Self {
            connection,
            id,
            level: Durability::Synced,
            turn: Semaphore::new(1),
            room,
        };
        match answered(answer, longest).await.map_err(failed)? {
            Opened::Producer(opened) => {
                stream.level = open.ack.of(opened.durability);
                Ok((stream, opened))
            }
            _ => Err(failed(TopicErrorCause::Closed)),
        }
    }

    pub(crate) const fn level(&self) -> Durability {
        self.level
    }

    /// The receipt to come of what was put.
    pub(crate) fn ticket(&self, (slot, record): (SlotId, u16), record_count: u16) -> Ticket {
        Ticket {
            connection: Arc::clone(&self.connection),
            slot: Some(slot),
            registered: None,
            record,
            record_count,
            level: self.level,
        }
    }

    /// Hands `load` over unless there is no room, or others wait for it.
    fn put_now(&self, load: &Load<'_>) -> Result<(SlotId, u16), Untaken> {
        self.connection
            .act(|state| state.publish(self.id, load, false))
    }

    /// Waits for its turn and for room in the window, and hands `load` over.
    pub(crate) async fn put(&self, load: &Load<'_>) -> Result<(SlotId, u16), Untaken> {
        let _waits = Waits::begin(self);
        let turn = self.turn.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        loop {
            match self
                .connection
                .act(|state| state.publish(self.id, load, true))
            {
                Err(Untaken::WindowFull) => self.room.notified().await,
                taken => return taken,
            }
        }
    }
}

/// Counted among those who wait to put something into a stream: who comes meanwhile goes behind them.
struct Waits<'a>(&'a OpenStream);

impl<'a> Waits<'a> {
    fn begin(stream: &'a OpenStream) -> Self {
        stream.connection.lock().begin_wait(stream.id);
        Self(stream)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.connection.lock().end_wait(self.0.id);
    }
}

impl Publisher {
    pub(crate) async fn open(
        connection: Arc<Connection>,
        topic: TopicName,
        options: PublisherOptions,
    ) -> Result<Self, TopicError> {
        let stream = Arc::new(OpenStream::open(connection, &topic, options).await?);
        let origin = Origin {
            topic,
            options,
            opening: Semaphore::new(1),
            newest: Mutex::new(Arc::clone(&stream)),
        };
        Ok(Self {
            origin: Arc::new(origin),
            stream,
            calls: 0,
        })
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.origin.topic
    }

    /// What an acknowledged record survives.
    #[must_use]
    pub fn level(&self) -> Durability {
        self.stream.level
    }

    /// Publishes a message; done when it is as safe as asked.
    ///
    /// One at a time costs a round trip each; [`Publisher::enqueue`] keeps many under way.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; its effect says whether the message may be in the topic all the same.
    pub async fn publish(&mut self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.enqueue(message).await?.await
    }

    /// Sends a message on its way; its ticket resolves when it is as safe as asked.
    ///
    /// Waits only while the window is full. A message whose ticket is dropped is published all the
    /// same.
    ///
    /// # Errors
    ///
    /// The message was not taken; it is not and will not be in the topic.
    pub async fn enqueue(&mut self, message: impl Into<Message>) -> Result<Ticket, PublishError> {
        let load = Load::of_message(message.into());
        self.put(&load, 1).await
    }

    /// As [`enqueue`](Self::enqueue), for a message of this body without options. It is copied to where
    /// it is sent from, so nothing is allocated or counted for it.
    ///
    /// # Errors
    ///
    /// The message was not taken; it is not and will not be in the topic.
    pub async fn enqueue_body(&mut self, body: &[u8]) -> Result<Ticket, PublishError> {
        self.put(&Load::of_body(body), 1).await
    }

    /// Publishes a batch as one frame: all of it or nothing; done when it is as safe as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; its effect says whether the batch may be in the topic all the same.
    pub async fn publish_batch(&mut self, batch: &BatchBuilder) -> Result<Receipt, PublishError> {
        self.enqueue_batch(batch).await?.await
    }

    /// Sends a batch on its way as one frame; its ticket resolves when it is as safe as asked.
    ///
    /// # Errors
    ///
    /// The batch was not taken; it is not and will not be in the topic.
    pub async fn enqueue_batch(&mut self, batch: &BatchBuilder) -> Result<Ticket, PublishError> {
        let (load, record_count) = self.load_of_batch(batch)?;
        self.put(&load, record_count).await
    }

    pub(crate) fn load_of_batch(
        &self,
        batch: &BatchBuilder,
    ) -> Result<(Load<'static>, u16), PublishError> {
        match ReadyFrame::of_batch(batch) {
            Some(frame) => {
                let record_count = frame.record_count();
                Ok((Load::Frame(frame), record_count))
            }
            None => Err(PublishError::EmptyBatch {
                topic: self.topic().clone(),
            }),
        }
    }

    /// Hands `load` over if that needs no waiting, neither for room nor for a new stream.
    pub(crate) fn try_put(
        &self,
        load: &Load<'_>,
        record_count: u16,
    ) -> Option<Result<Ticket, PublishError>> {
        match self.stream.put_now(load) {
            Ok(taken) => Some(Ok(self.ticket(taken, record_count))),
            Err(Untaken::Failed(error)) => Some(Err(error)),
            Err(Untaken::WindowFull | Untaken::StreamOver) => None,
        }
    }

    /// Hands `load` over, if need be to a new stream.
    pub(crate) async fn put(
        &mut self,
        load: &Load<'_>,
        record_count: u16,
    ) -> Result<Ticket, PublishError> {
        // A loop of calls that never wait would starve the tasks that do the sending; one that waits often
        // would have them send little at a time.
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(CALLS_A_TURN) {
            turns::spend().await;
        }
        let mut tried = self.stream.put_now(load);
        loop {
            match tried {
                Ok(taken) => return Ok(self.ticket(taken, record_count)),
                Err(Untaken::WindowFull) => {}
                Err(Untaken::StreamOver) => self.reopen().await?,
                Err(Untaken::Failed(error)) => return Err(error),
            }
            tried = self.stream.put(load).await;
        }
    }

    fn ticket(&self, taken: (SlotId, u16), record_count: u16) -> Ticket {
        self.stream.ticket(taken, record_count)
    }

    /// Goes over to a newer stream of its clones, or opens one.
    async fn reopen(&mut self) -> Result<(), PublishError> {
        let _opening = self
            .origin
            .opening
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let newest = self.origin.newest();
        if !Arc::ptr_eq(&newest, &self.stream) {
            self.stream = newest;
            return Ok(());
        }
        let connection = Arc::clone(&self.stream.connection);
        let Origin { topic, options, .. } = &*self.origin;
        let opened = OpenStream::open(connection, topic, *options).await;
        self.stream = Arc::new(opened.map_err(PublishError::Reopen)?);
        self.origin.set_newest(Arc::clone(&self.stream));
        Ok(())
    }
}

impl Origin {
    fn newest(&self) -> Arc<OpenStream> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_newest(&self, stream: Arc<OpenStream>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *newest, stream);
        drop(newest);
        // Dropping a stream takes the connection's lock, so not under this one.
        drop(old);
    }
}

/// The receipt to come of what was enqueued: a future.
///
/// Dropping it changes nothing about the publishing.
#[derive(Debug)]
#[must_use = "a ticket tells whether the message was published"]
pub struct Ticket {
    pub(crate) connection: Arc<Connection>,
    /// Taken once the answer was given.
    slot: Option<SlotId>,
    registered: Option<usize>,
    record: u16,
    record_count: u16,
    level: Durability,
}

impl Future for Ticket {
    type Output = Result<Receipt, PublishError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let slot = this.slot.expect("a ticket is not polled after its answer");
        let outcome = this
            .connection
            .lock()
            .outcomes
            .poll(slot, &mut this.registered, cx);
        let outcome = ready!(outcome);
        this.slot = None;
        Poll::Ready(outcome.map(|stored| Receipt {
            first: offset_in(stored, this.record),
            last: offset_in(stored, this.record + (this.record_count - 1)),
            level: this.level,
            duplicate: stored.duplicate,
        }))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.connection.lock().outcomes.drop_ticket(slot);
        }
    }
}
