//! Publishing as a producer: each record once, across lost connections and restarted servers.
//!
//! ```text
//!  Producer ──frames with id, epoch, sequence──▶ carrier ──▶ stream ──▶ server
//!     ▲                                            │ kept until acknowledged
//!     └────────────── receipts ◀───────────────────┤
//!                                connection lost: connect, open with the epoch, send all kept again
//! ```
//! The carrier is a task of its own. It ends when the handle is gone and all was answered, or when
//! nothing helps: a newer instance took over, or the server stayed away for longer than the patience.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::control::{OpenProducer, ProducerOpened};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::ProducerStamp;
use millstream_protocol::limits::{PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES};
use millstream_protocol::{AckLevel, Durability, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::connection::{Load, Untaken};
use crate::core::ReadyFrame;
use crate::error::{ProducerEnd, PublishError, TopicError, TopicErrorCause};
use crate::link::{Link, Pauses};
use crate::publisher::{OpenStream, Receipt, Ticket};

/// Frames on their way from the handle to its carrier.
const INBOX_FRAMES: usize = 16;
/// Frames that are kept because they are not acknowledged; a server recognises at least as many.
const KEPT_FRAMES_MAX: usize = PUBLISH_WINDOW_FRAMES as usize;
/// Bytes of such frames; one is always kept, however large.
const KEPT_BYTES_MAX: u64 = PUBLISH_WINDOW_BYTES as u64;

/// How a producer is opened.
///
/// ```
/// use std::time::Duration;
/// use millstream_client::ProducerOptions;
/// let options = ProducerOptions::new().patience(Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerOptions {
    ack: AckLevel,
    create: bool,
    patience: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ProducerOptions {
    /// Acknowledged at the topic's own level; a topic that is not there is created; a server that is
    /// away is tried again for five minutes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ack: AckLevel::Topic,
            create: true,
            patience: Duration::from_secs(300),
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

    /// Sets how long a server that is away or refuses for now is tried again, each time.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// Publishes to one topic as a producer: a name whose records the topic takes once each.
///
/// What was sent and not acknowledged is sent again on a new connection when one is lost, and the
/// server recognises it. So a receipt comes for every record, once, unless the producer ends: see
/// [`ProducerEnd`].
///
/// Records are numbered from 1 by their sequence, over all instances of the producer. A program
/// that is started again with the same input goes on behind
/// [`last_sequence`](Self::last_sequence). Opening a producer ends its older instances.
///
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut orders = client.producer("orders", "till-7").await?;
/// for sequence in orders.last_sequence() + 1..=1000 {
///     orders.enqueue(format!("order {sequence}")).await?; // once, however often this is run
/// }
/// orders.flush().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Producer {
    topic: TopicName,
    level: Durability,
    opened: ProducerOpened,
    /// The sequence of the next record.
    next: u64,
    carrier: mpsc::Sender<Order>,
    batch: BatchBuilder,
}

/// What the handle asks of its carrier.
#[derive(Debug)]
enum Order {
    Publish(Kept),
    /// To be answered when all before it is.
    Flush(oneshot::Sender<Result<(), PublishError>>),
}

/// A frame that is not acknowledged.
#[derive(Debug)]
struct Kept {
    frame: ReadyFrame,
    sequence: u64,
    /// A stream was lost with it: what became of it can't be told when the producer ends.
    was_lost: bool,
    reply: oneshot::Sender<Result<Receipt, PublishError>>,
}

/// The receipt to come of what a producer enqueued: a future.
///
/// Dropping it changes nothing about the publishing.
#[derive(Debug)]
#[must_use = "a ticket tells whether the records were published"]
pub struct ProducerTicket {
    topic: TopicName,
    answer: oneshot::Receiver<Result<Receipt, PublishError>>,
}

impl Future for ProducerTicket {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answered| answered.unwrap_or_else(|_| Err(gone(&self.topic, Effect::Unknown))))
    }
}

/// The carrier went without a word: its runtime ended.
fn gone(topic: &TopicName, effect: Effect) -> PublishError {
    PublishError::Producer {
        topic: topic.clone(),
        end: Arc::new(ProducerEnd::Closed),
        effect,
    }
}

impl Producer {
    pub(crate) async fn open(
        link: Arc<Link>,
        topic: TopicName,
        producer: TopicName,
        options: ProducerOptions,
    ) -> Result<Self, TopicError> {
        let open = OpenProducer {
            topic: topic.clone(),
            producer,
            ack: options.ack,
            create: options.create,
            epoch: 0,
            acknowledged: 0,
        };
        let (stream, opened) = OpenStream::open_producer(link.connection(), &open).await?;
        let (carrier, orders) = mpsc::channel(INBOX_FRAMES);
        let level = stream.level();
        let work = Carrier {
            link,
            patience: options.patience,
            open: OpenProducer {
                epoch: opened.epoch,
                acknowledged: opened.last_sequence,
                ..open
            },
            kept: VecDeque::new(),
            kept_bytes: 0,
            flushes: VecDeque::new(),
            tickets: VecDeque::new(),
            stream: Some(stream),
            away_since: None,
            pauses: Pauses::new(),
        };
        tokio::spawn(work.run(orders));
        Ok(Self {
            topic,
            level,
            next: opened.last_sequence + 1,
            opened,
            carrier,
            batch: BatchBuilder::new(),
        })
    }

    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// What an acknowledged record survives.
    #[must_use]
    pub const fn level(&self) -> Durability {
        self.level
    }

    /// The sequence of the last record that the topic had of the producer when this was opened; 0:
    /// none. All up to it are as safe as asked.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.opened.last_sequence
    }

    /// Whether the topic remembered the producer. If not, nothing tells what it published before.
    #[must_use]
    pub const fn was_known(&self) -> bool {
        self.opened.known
    }

    /// The sequence of the next record.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Publishes a message; done when it is as safe as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError::Producer`].
    pub async fn publish(&mut self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.enqueue(message).await?.await
    }

    /// Sends a message on its way; its ticket resolves when it is as safe as asked.
    ///
    /// Waits only while as much is under way as may be.
    ///
    /// # Errors
    ///
    /// The message was not taken; it is not and will not be in the topic.
    pub async fn enqueue(
        &mut self,
        message: impl Into<Message>,
    ) -> Result<ProducerTicket, PublishError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let enqueued = match batch.push(&message.into()) {
            Ok(()) => self.enqueue_batch(&batch).await,
            Err(cause) => Err(PublishError::Message {
                topic: self.topic.clone(),
                cause,
            }),
        };
        self.batch = batch;
        enqueued
    }

    /// Publishes a batch as one frame: all of it or nothing; done when it is as safe as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError::Producer`].
    pub async fn publish_batch(&mut self, batch: &BatchBuilder) -> Result<Receipt, PublishError> {
        self.enqueue_batch(batch).await?.await
    }

    /// Sends a batch on its way as one frame, one sequence for each of its records.
    ///
    /// # Errors
    ///
    /// The batch was not taken; it is not and will not be in the topic.
    pub async fn enqueue_batch(
        &mut self,
        batch: &BatchBuilder,
    ) -> Result<ProducerTicket, PublishError> {
        let stamp = ProducerStamp {
            id: self.opened.producer_id,
            epoch: self.opened.epoch,
            sequence: self.next,
        };
        let Some(frame) = ReadyFrame::of_producer(batch, stamp) else {
            let topic = self.topic.clone();
            return Err(PublishError::EmptyBatch { topic });
        };
        // From here on nothing is waited for: a call that is given up took no sequence.
        let Ok(room) = self.carrier.reserve().await else {
            return Err(gone(&self.topic, Effect::NotApplied));
        };
        let (reply, answer) = oneshot::channel();
        self.next += u64::from(frame.record_count());
        room.send(Order::Publish(Kept {
            frame,
            sequence: stamp.sequence,
            was_lost: false,
            reply,
        }));
        let topic = self.topic.clone();
        Ok(ProducerTicket { topic, answer })
    }

    /// Waits until everything enqueued so far is as safe as asked.
    ///
    /// # Errors
    ///
    /// The producer ended before; the tickets tell of each frame.
    pub async fn flush(&mut self) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        let unknown = |_| gone(&self.topic, Effect::Unknown);
        let sent = self.carrier.send(Order::Flush(reply)).await;
        sent.map_err(|_| gone(&self.topic, Effect::Unknown))?;
        answer.await.map_err(unknown)?
    }
}

/// The task behind a producer.
struct Carrier {
    link: Arc<Link>,
    patience: Duration,
    /// How the stream is opened again; `acknowledged` is kept up to date.
    open: OpenProducer,
    /// What is not acknowledged, by rising sequence; the first of it are under way.
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// Who waits for all up to this sequence.
    flushes: VecDeque<(u64, oneshot::Sender<Result<(), PublishError>>)>,
    /// Of what is under way on the stream.
    tickets: VecDeque<Ticket>,
    stream: Option<OpenStream>,
    /// Since when nothing was acknowledged because the server is away.
    away_since: Option<Instant>,
    pauses: Pauses,
}

/// Why a stream was lost.
struct Cause {
    message: Arc<str>,
    code: Option<ErrorCode>,
}

impl Cause {
    fn new(error: impl Display, code: Option<ErrorCode>) -> Self {
        let message = error.to_string().into();
        Self { message, code }
    }
}

/// What comes of one turn.
enum Turn {
    GoesOn,
    /// The handle is gone and all was answered.
    Over,
    /// The stream is of no use any more; another may be.
    Lost(Cause),
    /// Nothing helps.
    Ended(ProducerEnd),
}

impl Carrier {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut open = true;
        let end = loop {
            let turn = match self.stream.take() {
                Some(stream) => {
                    let turn = self.carry(&stream, &mut orders, &mut open).await;
                    if matches!(turn, Turn::GoesOn) {
                        self.stream = Some(stream);
                    }
                    turn
                }
                None => self.reopen().await,
            };
            match turn {
                Turn::GoesOn => {}
                Turn::Over => return,
                Turn::Lost(cause) => {
                    for kept in self.kept.iter_mut().take(self.tickets.len() + 1) {
                        kept.was_lost = true;
                    }
                    self.tickets.clear();
                    if let Some(end) = self.wait_or_end(cause).await {
                        break end;
                    }
                }
                Turn::Ended(end) => break end,
            }
        };
        self.end(end, orders).await;
    }

    /// Does the next thing there is to do with an open stream.
    async fn carry(
        &mut self,
        stream: &OpenStream,
        orders: &mut mpsc::Receiver<Order>,
        open: &mut bool,
    ) -> Turn {
        let under_way = self.tickets.len();
        if under_way == 0 && !*open && self.kept.is_empty() {
            return Turn::Over;
        }
        let has_room = self.kept.len() < KEPT_FRAMES_MAX && self.kept_bytes < KEPT_BYTES_MAX;
        let waiting = self.kept.get(under_way).map(|kept| {
            let frame = kept.frame.clone();
            (frame.record_count(), Load::Frame(frame))
        });
        let first = self.tickets.front_mut();
        tokio::select! {
            biased;
            answer = async { first.expect("it is there").await }, if under_way > 0 => {
                self.tickets.pop_front();
                self.answered(answer)
            }
            put = async {
                let (record_count, load) = waiting.as_ref().expect("one waits");
                stream.put(load).await.map(|taken| stream.ticket(taken, *record_count))
            }, if waiting.is_some() => self.put(put),
            order = orders.recv(), if *open && has_room => {
                match order {
                    Some(Order::Publish(kept)) => self.keep(kept),
                    Some(Order::Flush(reply)) => self.flush(reply),
                    None => *open = false,
                }
                Turn::GoesOn
            }
        }
    }

    fn keep(&mut self, kept: Kept) {
        self.kept_bytes += u64::from(kept.frame.frame_bytes());
        self.kept.push_back(kept);
    }

    fn flush(&mut self, reply: oneshot::Sender<Result<(), PublishError>>) {
        match self.kept.back() {
            Some(last) => self.flushes.push_back((last.sequence, reply)),
            // Whoever asked may have gone.
            None => drop(reply.send(Ok(()))),
        }
    }

    fn put(&mut self, put: Result<Ticket, Untaken>) -> Turn {
        match put {
            Ok(ticket) => {
                self.tickets.push_back(ticket);
                Turn::GoesOn
            }
            Err(Untaken::WindowFull) => Turn::GoesOn,
            // The tickets tell why.
            Err(Untaken::StreamOver) => Turn::Lost(Cause::new("the stream ended", None)),
            Err(Untaken::Failed(error)) => failed(error),
        }
    }

    /// Takes what became of the first frame.
    fn answered(&mut self, answer: Result<Receipt, PublishError>) -> Turn {
        let receipt = match answer {
            Ok(receipt) => receipt,
            Err(error) => return failed(error),
        };
        let Some(kept) = self.kept.pop_front() else {
            return Turn::GoesOn;
        };
        self.kept_bytes -= u64::from(kept.frame.frame_bytes());
        self.open.acknowledged = kept.sequence + u64::from(kept.frame.record_count()) - 1;
        self.is_back();
        // Whoever asked may have gone.
        let _ = kept.reply.send(Ok(receipt));
        while let Some((_, reply)) = self
            .flushes
            .pop_front_if(|(last, _)| *last == kept.sequence)
        {
            let _ = reply.send(Ok(()));
        }
        Turn::GoesOn
    }

    /// Opens the stream again, on a new connection if need be.
    async fn reopen(&mut self) -> Turn {
        let connection = match self.link.reconnect().await {
            Ok(connection) => connection,
            Err(error) if error.is_retriable() => {
                return Turn::Lost(Cause::new(&error, error.code()));
            }
            Err(error) => return Turn::Ended(ProducerEnd::Connect(error)),
        };
        let (stream, opened) = match OpenStream::open_producer(connection, &self.open).await {
            Ok(opened) => opened,
            Err(error) => {
                return match &error.cause {
                    TopicErrorCause::Refused(refusal) if !refusal.retriable => {
                        Turn::Ended(ProducerEnd::Reopen(error))
                    }
                    _ => Turn::Lost(Cause::new(&error, error.code())),
                };
            }
        };
        let (acknowledged, last) = (self.open.acknowledged, opened.last_sequence);
        if opened.epoch != self.open.epoch || !opened.known {
            return Turn::Ended(ProducerEnd::Forgotten);
        }
        if last < acknowledged {
            return Turn::Ended(ProducerEnd::Lost { acknowledged, last });
        }
        self.stream = Some(stream);
        if self.kept.is_empty() {
            self.is_back();
        }
        Turn::GoesOn
    }

    /// The server does what it is for.
    const fn is_back(&mut self) {
        self.away_since = None;
        self.pauses = Pauses::new();
    }

    /// Waits before the next attempt, unless the patience is over.
    async fn wait_or_end(&mut self, cause: Cause) -> Option<ProducerEnd> {
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.patience {
            let Cause { message, code } = cause;
            return Some(ProducerEnd::Away { message, code });
        }
        sleep(self.pauses.next()).await;
        None
    }

    /// Answers everything that waits, and what still comes, by the end.
    async fn end(mut self, end: ProducerEnd, mut orders: mpsc::Receiver<Order>) {
        let end = Arc::new(end);
        let topic = self.open.topic.clone();
        let error = |effect| PublishError::Producer {
            topic: topic.clone(),
            end: Arc::clone(&end),
            effect,
        };
        // The first that is under way has no ticket any more when it was refused.
        let under_way = self.tickets.len() + 1;
        let told = match &*end {
            ProducerEnd::Refused(refusal) => refusal.effect,
            _ => Effect::Unknown,
        };
        for (place, kept) in self.kept.drain(..).enumerate() {
            let effect = match (kept.was_lost, place < under_way) {
                (true, _) => Effect::Unknown,
                (false, true) => told,
                (false, false) => Effect::NotApplied,
            };
            let _ = kept.reply.send(Err(error(effect)));
        }
        for (_, reply) in self.flushes.drain(..) {
            let _ = reply.send(Err(error(Effect::Unknown)));
        }
        while let Some(order) = orders.recv().await {
            match order {
                Order::Publish(kept) => drop(kept.reply.send(Err(error(Effect::NotApplied)))),
                Order::Flush(reply) => drop(reply.send(Err(error(Effect::Unknown)))),
            }
        }
    }
}

/// What follows from an error of a frame.
fn failed(error: PublishError) -> Turn {
    match error {
        PublishError::Refused { refusal, .. } if !refusal.retriable => {
            Turn::Ended(ProducerEnd::Refused(refusal))
        }
        PublishError::TooLarge {
            frame_bytes,
            frame_bytes_max,
            ..
        } => Turn::Ended(ProducerEnd::TooLarge {
            frame_bytes,
            frame_bytes_max,
        }),
        error => Turn::Lost(Cause::new(&error, error.code())),
    }
}
