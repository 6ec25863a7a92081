//! Publishing to one topic, in order.

use std::future::poll_fn;
use std::task::{Context, Poll};

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::frame::{PublishedFrame, PublisherFields};
use millstream_protocol::limits::BODY_BYTES_MAX;
use millstream_protocol::{AckLevel, Offset, TopicName};
use millstream_storage::{AppendError, Appended, Appender, Level, LevelWait};

use crate::block_on::block_on;
use crate::error::PublishError;
use crate::ticket::{Receipt, Ticket};

/// How a publisher is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherOptions {
    pub(crate) ack: AckLevel,
    pub(crate) create: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            ack: AckLevel::Topic,
            create: true,
        }
    }
}

impl PublisherOptions {
    /// Acknowledged at the topic's own level; a topic that is not there is made, synced.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to wait for.
    #[must_use]
    pub fn ack(mut self, ack: AckLevel) -> Self {
        self.ack = ack;
        self
    }

    /// Whether a topic that is not there is made.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
}

/// Publishes to one topic. What one handle publishes keeps its order; a clone has its own.
///
/// A handle owns its place in the log, which is why publishing takes `&mut self`: no lock and no
/// shared word but the log's tail.
#[derive(Debug)]
pub struct Publisher {
    topic: TopicName,
    level: Level,
    appender: Appender,
    /// Encodes single messages that have options; reused.
    builder: BatchBuilder,
}

impl Clone for Publisher {
    fn clone(&self) -> Self {
        Self {
            topic: self.topic.clone(),
            level: self.level,
            appender: Appender::new(self.appender.log()),
            builder: BatchBuilder::new(),
        }
    }
}

impl Publisher {
    pub(crate) fn new(topic: TopicName, level: Level, appender: Appender) -> Self {
        Self {
            topic,
            level,
            appender,
            builder: BatchBuilder::new(),
        }
    }

    /// The topic it publishes to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// What its receipts promise.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Publishes one message and waits until it is as durable as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; `effect` tells whether the message may be there all the same.
    pub async fn publish(&mut self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        let message = message.into();
        let appended = self
            .append_waiting(|this| this.append_message(&message))
            .await?;
        self.appender.announce();
        self.settled(appended).await
    }

    /// As [`publish`](Self::publish), blocking; syncs in this thread when no worker is at it.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_blocking(
        &mut self,
        message: impl Into<Message>,
    ) -> Result<Receipt, PublishError> {
        let message = message.into();
        let appended = block_on(self.append_waiting(|this| this.append_message(&message)))?;
        self.settle_blocking(appended)
    }

    /// Publishes a batch, the unit of commit: its records have consecutive offsets.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish), and [`PublishError::Empty`].
    pub async fn publish_batch(&mut self, batch: &BatchBuilder) -> Result<Receipt, PublishError> {
        let appended = self.append_waiting(|this| this.append_batch(batch)).await?;
        self.appender.announce();
        self.settled(appended).await
    }

    /// As [`publish_batch`](Self::publish_batch), blocking.
    ///
    /// # Errors
    ///
    /// As [`publish_batch`](Self::publish_batch).
    pub fn publish_batch_blocking(
        &mut self,
        batch: &BatchBuilder,
    ) -> Result<Receipt, PublishError> {
        let appended = block_on(self.append_waiting(|this| this.append_batch(batch)))?;
        self.settle_blocking(appended)
    }

    /// Appends one message and returns at once with a ticket for its durability.
    ///
    /// Waits only where the log has no room yet.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; nothing was appended.
    pub async fn enqueue(&mut self, message: impl Into<Message>) -> Result<Ticket, PublishError> {
        let message = message.into();
        let appended = self
            .append_waiting(|this| this.append_message(&message))
            .await?;
        Ok(self.ticket(appended))
    }

    /// As [`enqueue`](Self::enqueue), blocking where the log has no room yet.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_blocking(
        &mut self,
        message: impl Into<Message>,
    ) -> Result<Ticket, PublishError> {
        let message = message.into();
        let appended = block_on(self.append_waiting(|this| this.append_message(&message)))?;
        Ok(self.ticket(appended))
    }

    /// Appends a batch and returns at once with a ticket for its durability.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; nothing was appended.
    pub async fn enqueue_batch(&mut self, batch: &BatchBuilder) -> Result<Ticket, PublishError> {
        let appended = self.append_waiting(|this| this.append_batch(batch)).await?;
        Ok(self.ticket(appended))
    }

    /// As [`enqueue_batch`](Self::enqueue_batch), blocking where the log has no room yet.
    ///
    /// # Errors
    ///
    /// As [`enqueue_batch`](Self::enqueue_batch).
    pub fn enqueue_batch_blocking(&mut self, batch: &BatchBuilder) -> Result<Ticket, PublishError> {
        let appended = block_on(self.append_waiting(|this| this.append_batch(batch)))?;
        Ok(self.ticket(appended))
    }

    /// Appends the bytes of one plain message without waiting or waking anyone: the cheapest publish.
    ///
    /// Call [`flush_wakes`](Self::flush_wakes) after the last of a run, and
    /// [`poll_reached`](Self::poll_reached) to learn when it is durable.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; [`PublishError::Rotating`] asks to try again after
    /// [`poll_ready`](Self::poll_ready).
    #[inline]
    pub fn try_publish(&mut self, body: &[u8]) -> Result<Appended, PublishError> {
        Ok(self.append_body(body)?)
    }

    /// As [`try_publish`](Self::try_publish), for a batch.
    ///
    /// # Errors
    ///
    /// As [`try_publish`](Self::try_publish), and [`PublishError::Empty`].
    pub fn try_publish_batch(&mut self, batch: &BatchBuilder) -> Result<Appended, PublishError> {
        self.append_batch(batch)
    }

    /// As [`try_publish`](Self::try_publish), for a frame that came over the wire and was checked.
    /// Copies its body once, into the segment.
    ///
    /// # Errors
    ///
    /// As [`try_publish`](Self::try_publish).
    #[inline]
    pub fn try_publish_frame(
        &mut self,
        frame: &PublishedFrame<'_>,
    ) -> Result<Appended, PublishError> {
        Ok(self
            .appender
            .try_append(frame.fields(), frame.body_crc(), frame.body())?)
    }

    /// Appends one message of `len_bytes` bytes that `fill` writes straight into the segment.
    ///
    /// # Errors
    ///
    /// As [`try_publish`](Self::try_publish); [`PublishError::ShortFill`] if `fill` wrote less, whose
    /// room then is a hole that readers pass over.
    ///
    /// # Panics
    ///
    /// If `fill` writes more than `len_bytes`, or panics itself; the room becomes such a hole.
    pub fn try_publish_with(
        &mut self,
        len_bytes: usize,
        fill: impl FnOnce(&mut millstream_storage::BodyWriter<'_>),
    ) -> Result<Appended, PublishError> {
        let fields = PublisherFields::single(body_bytes(len_bytes)?);
        Ok(self.appender.try_append_with(&fields, fill)?)
    }

    /// Wakes whoever waits for what was appended since the last call, and lets it be synced.
    #[inline]
    pub fn flush_wakes(&mut self) {
        self.appender.announce();
    }

    /// Ready once an append that answered [`PublishError::Rotating`] is worth another try.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.appender.poll_room(cx).map(Ok)
    }

    /// Ready once everything below `end` is as durable as `level` says.
    ///
    /// # Errors
    ///
    /// [`PublishError::OutcomeUnknown`] if that can't be promised any more.
    pub fn poll_reached(
        &mut self,
        level: AckLevel,
        end: Offset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        let level = self.level_of(level);
        self.appender
            .poll_reached(level, end, cx)
            .map_err(PublishError::after_append)
    }

    /// Everything below the returned offset is as durable as `level` says. Never blocks.
    #[must_use]
    pub fn reached(&mut self, level: AckLevel) -> Offset {
        let level = self.level_of(level);
        self.appender.log().reached(level)
    }

    fn level_of(&self, ack: AckLevel) -> Level {
        match ack {
            AckLevel::Topic => self.appender.log().identity().durability.into(),
            AckLevel::Stored => Level::Stored,
            AckLevel::Synced => Level::Synced,
        }
    }

    fn append_body(&mut self, body: &[u8]) -> Result<Appended, AppendError> {
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.appender
            .try_append_with(&PublisherFields::single(len), |room| room.put(body))
    }

    fn append_message(&mut self, message: &Message) -> Result<Appended, PublishError> {
        if message.is_plain() {
            return Ok(self.append_body(message.body())?);
        }
        self.builder.clear();
        self.builder.push(message)?;
        let builder = &self.builder;
        Ok(self
            .appender
            .try_append_with(&builder.fields(), |room| builder.write_body(room))?)
    }

    fn append_batch(&mut self, batch: &BatchBuilder) -> Result<Appended, PublishError> {
        if batch.is_empty() {
            return Err(PublishError::Empty);
        }
        Ok(self
            .appender
            .try_append_with(&batch.fields(), |room| batch.write_body(room))?)
    }

    async fn append_waiting(
        &mut self,
        mut append: impl FnMut(&mut Self) -> Result<Appended, PublishError>,
    ) -> Result<Appended, PublishError> {
        loop {
            match append(self) {
                Err(PublishError::Rotating) => poll_fn(|cx| self.poll_ready(cx)).await?,
                done => return done,
            }
        }
    }

    async fn settled(&mut self, appended: Appended) -> Result<Receipt, PublishError> {
        let level = self.level;
        poll_fn(|cx| self.appender.poll_reached(level, appended.end, cx))
            .await
            .map_err(PublishError::after_append)?;
        Ok(Receipt::new(appended, level))
    }

    fn settle_blocking(&mut self, appended: Appended) -> Result<Receipt, PublishError> {
        match self.level {
            Level::Synced => self.appender.announce_and_lead(),
            Level::Stored => self.appender.announce(),
        }
        block_on(self.settled(appended))
    }

    fn ticket(&mut self, appended: Appended) -> Ticket {
        self.appender.announce();
        Ticket::new(
            Receipt::new(appended, self.level),
            LevelWait::new(self.appender.log(), self.level, appended.end),
        )
    }
}

fn body_bytes(len_bytes: usize) -> Result<u32, PublishError> {
    let max = u32::try_from(BODY_BYTES_MAX).unwrap_or(u32::MAX);
    match u32::try_from(len_bytes) {
        Ok(len) if len <= max => Ok(len),
        too_large => Err(PublishError::TooLarge {
            body_bytes: too_large.unwrap_or(u32::MAX),
            body_bytes_max: max,
        }),
    }
}
