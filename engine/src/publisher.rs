//! Publishing to one topic, in order.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use millstream_protocol::batch::{BatchBuilder, BatchView, ColumnKind, Columns, Message};
use millstream_protocol::frame::{ProducerStamp, PublishedFrame, PublisherFields};
use millstream_protocol::limits::BODY_BYTES_MAX;
use millstream_protocol::{AckLevel, Offset, TopicName};
use millstream_storage::{AppendError, Appender, Level, LevelWait};

use crate::block_on::block_on;
use crate::error::PublishError;
use crate::producer::{NotProduced, Produced, ProducerError, ProducerInfo, Producing, Resume};
use crate::queue::{Admission, Asking, Queues, TopicRules, boot_us};
use crate::ticket::{Receipt, Ticket};

/// Where published records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset behind the last.
    pub end: Offset,
    /// They were published before, under the same ids or sequences, and nothing was added: `base` is the
    /// offset the first one got then, and all of them lie below `end`.
    pub duplicate: bool,
}

impl From<millstream_storage::Appended> for Appended {
    fn from(appended: millstream_storage::Appended) -> Self {
        Self {
            base: appended.base,
            end: appended.end,
            duplicate: false,
        }
    }
}

/// How a publisher is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherOptions {
    pub(crate) ack: AckLevel,
    pub(crate) create: bool,
    pub(crate) producer: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) acknowledged: u64,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            ack: AckLevel::Topic,
            create: true,
            producer: None,
            epoch: 0,
            acknowledged: 0,
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

    /// Publishes as the producer of this name: the topic takes each of its records once, whatever is
    /// published again after an answer was lost. The name follows the rules of topic names.
    ///
    /// Opening makes a new instance of it, and instances before it can publish no more. See
    /// [`Publisher::set_sequence`].
    #[must_use]
    pub fn producer(mut self, name: impl Into<String>) -> Self {
        self.producer = Some(name.into());
        self
    }

    /// Goes on as the instance of the producer that was given `epoch`, unless there is a newer one.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    pub(crate) fn resume(&self) -> Resume {
        Resume {
            epoch: self.epoch,
            acknowledged: self.acknowledged,
        }
    }

    /// The highest sequence that is known to be acknowledged: what follows is above it, even if the
    /// topic lost some.
    #[must_use]
    pub fn acknowledged(mut self, sequence: u64) -> Self {
        self.acknowledged = sequence;
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
    /// A body whose ids are looked up; reused.
    body: Vec<u8>,
    /// What the queues of the topic ask of publishers.
    rules: Arc<TopicRules>,
    queues: Arc<Queues>,
    /// What the last append that was told to wait waits for.
    awaited: Awaited,
    /// Whose records these are, if they are numbered.
    producing: Option<Box<Producing>>,
}

/// What a publisher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Room in the log.
    Room,
    /// Room for so many records in a queue of the topic.
    Queue(u64),
    /// The ids published before the start.
    Ids,
}

impl Clone for Publisher {
    fn clone(&self) -> Self {
        Self {
            topic: self.topic.clone(),
            level: self.level,
            appender: Appender::new(self.appender.log()),
            builder: BatchBuilder::new(),
            body: Vec::new(),
            rules: Arc::clone(&self.rules),
            queues: Arc::clone(&self.queues),
            awaited: Awaited::Room,
            producing: self.producing.clone(),
        }
    }
}

impl Publisher {
    pub(crate) fn new(level: Level, appender: Appender, queues: &Arc<Queues>) -> Self {
        let topic = appender.log().identity().name.clone();
        Self {
            rules: queues.rules(appender.log()),
            queues: Arc::clone(queues),
            topic,
            level,
            appender,
            builder: BatchBuilder::new(),
            body: Vec::new(),
            awaited: Awaited::Room,
            producing: None,
        }
    }

    /// The same, whose records are numbered.
    pub(crate) fn with_producer(mut self, producing: Producing) -> Self {
        self.producing = Some(Box::new(producing));
        self
    }

    #[cfg(test)]
    pub(crate) fn producing_for_tests(&self) -> Option<Producing> {
        self.producing.as_deref().cloned()
    }

    /// The topic it publishes to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// What the topic knew of its producer when it was opened, if it has one.
    #[must_use]
    pub fn producer(&self) -> Option<ProducerInfo> {
        Some(self.producing.as_ref()?.info)
    }

    /// Numbers what this handle publishes from `next` on, one sequence for each record. Without a
    /// call each record gets its producer's next one.
    ///
    /// Who keeps what he publishes with its number can publish it again under the same, and the
    /// receipt says that it was there: without a producer this means nothing.
    pub fn set_sequence(&mut self, next: u64) {
        if let Some(producing) = &mut self.producing {
            producing.next = Some(next);
        }
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
        self.append_body(body)
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
        self.admit(u64::from(frame.fields().record_count))?;
        let stamp = frame.fields().producer;
        if self.producing.is_some() || !stamp.is_none() {
            let stamped = Some((stamp, frame.body_crc()));
            return self.append_produced(frame.fields(), frame.body(), stamped);
        }
        if Columns::of(frame.fields(), frame.body()).has(ColumnKind::Id) {
            let fields = *frame.fields();
            return self.append_unseen(&fields, frame.body(), |appender| {
                appender.try_append(&fields, frame.body_crc(), frame.body())
            });
        }
        let appended = self
            .appender
            .try_append(frame.fields(), frame.body_crc(), frame.body())?;
        Ok(appended.into())
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
        self.admit(1)?;
        if self.producing.is_some() {
            let body = filled(len_bytes, fill)?;
            return self.append_produced(&fields, &body, None);
        }
        Ok(self.appender.try_append_with(&fields, fill)?.into())
    }

    /// Wakes whoever waits for what was appended since the last call, and lets it be synced. Returns
    /// whether anybody waited.
    #[inline]
    pub fn flush_wakes(&mut self) -> bool {
        self.appender.announce()
    }

    /// Ready once an append that answered [`PublishError::Rotating`] is worth another try.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        match std::mem::replace(&mut self.awaited, Awaited::Room) {
            Awaited::Room => self.appender.poll_room(cx).map(Ok),
            Awaited::Queue(records) => {
                let admitted = self.rules.poll_admitted(self.appender.log(), records, cx);
                if admitted.is_pending() {
                    self.awaited = Awaited::Queue(records);
                }
                admitted.map(Ok)
            }
            Awaited::Ids => {
                if !self.rules.ids().wait_loaded(cx.waker()) {
                    self.awaited = Awaited::Ids;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(()))
            }
        }
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

    /// Whether the queues of the topic let `records` more pass; one load where none has limits.
    #[inline]
    fn admit(&mut self, records: u64) -> Result<(), PublishError> {
        match self.rules.admit(self.appender.log(), records) {
            Admission::Granted => Ok(()),
            Admission::Wait => {
                self.awaited = Awaited::Queue(records);
                Err(PublishError::Rotating)
            }
            Admission::Refused(queue) => Err(PublishError::QueueFull { queue }),
        }
    }

    #[inline]
    fn append_body(&mut self, body: &[u8]) -> Result<Appended, PublishError> {
        self.admit(1)?;
        if self.producing.is_some() {
            return self.append_produced_body(body);
        }
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let appended = self
            .appender
            .try_append_with(&PublisherFields::single(len), |room| room.put(body))?;
        Ok(appended.into())
    }

    #[cold]
    #[inline(never)]
    fn append_produced_body(&mut self, body: &[u8]) -> Result<Appended, PublishError> {
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.append_produced(&PublisherFields::single(len), body, None)
    }

    /// Appends a frame of the publisher's producer unless it was published before.
    #[cold]
    #[inline(never)]
    fn append_produced(
        &mut self,
        fields: &PublisherFields,
        body: &[u8],
        stamped: Option<(ProducerStamp, u32)>,
    ) -> Result<Appended, PublishError> {
        let Some(producing) = &mut self.producing else {
            let found = stamped.map_or(ProducerStamp::NONE, |(stamp, _)| stamp);
            return Err(ProducerError::Foreign { found }.into());
        };
        if body.len() > BODY_BYTES_MAX {
            body_bytes(body.len())?;
        }
        if Columns::of(fields, body).has(ColumnKind::Id) {
            return Err(ProducerError::Ids.into());
        }
        match producing.append(&mut self.appender, fields, body, stamped) {
            Ok(Produced::Added(placed)) => Ok(placed.into()),
            Ok(Produced::Duplicate(placed)) => Ok(Appended {
                duplicate: true,
                ..placed.into()
            }),
            Err(NotProduced::Producer(error)) => Err(error.into()),
            Err(NotProduced::Append(error)) => Err(error.into()),
        }
    }

    fn append_message(&mut self, message: &Message) -> Result<Appended, PublishError> {
        if message.is_plain() {
            return self.append_body(message.body());
        }
        let mut builder = std::mem::take(&mut self.builder);
        builder.clear();
        let appended = match builder.push(message) {
            Ok(()) => self.append_batch(&builder),
            Err(error) => Err(error.into()),
        };
        self.builder = builder;
        appended
    }

    fn append_batch(&mut self, batch: &BatchBuilder) -> Result<Appended, PublishError> {
        if batch.is_empty() {
            return Err(PublishError::Empty);
        }
        let fields = batch.fields();
        self.admit(u64::from(fields.record_count))?;
        let produced = self.producing.is_some();
        if produced || batch.has_ids() {
            let mut body = std::mem::take(&mut self.body);
            body.clear();
            batch.write_body(&mut body);
            let appended = if produced {
                self.append_produced(&fields, &body, None)
            } else {
                self.append_unseen(&fields, &body, |appender| {
                    appender.try_append_with(&fields, |room| room.put(&body))
                })
            };
            self.body = body;
            return appended;
        }
        let appended = self
            .appender
            .try_append_with(&fields, |room| batch.write_body(room))?;
        Ok(appended.into())
    }

    /// Appends a batch with ids unless they were published before. Looking them up and appending is
    /// one step, so of two publishers with one id only the first adds a record.
    fn append_unseen(
        &mut self,
        fields: &PublisherFields,
        body: &[u8],
        append: impl FnOnce(&mut Appender) -> Result<millstream_storage::Appended, AppendError>,
    ) -> Result<Appended, PublishError> {
        let view = BatchView::check(fields.kind, fields.record_count, fields.compressed, body);
        let Ok(view) = view else {
            // It was made or checked by this process.
            return Ok(append(&mut self.appender)?.into());
        };
        let rules = Arc::clone(&self.rules);
        let mut seen = rules.ids();
        if !seen.is_loaded() {
            drop(seen);
            let log = self.appender.log();
            self.queues.load_ids_soon(&rules, log, Asking::Publisher);
            self.awaited = Awaited::Ids;
            return Err(PublishError::Rotating);
        }
        let now_us = boot_us();
        let mut duplicates = 0;
        // Where the first of them is, and where the last of them ends: they need not follow each
        // other, nor have come in this order.
        let mut there: Option<(Offset, Offset)> = None;
        let mut ids = HashSet::new();
        for record in view.iter() {
            let Some(id) = record.id() else {
                continue;
            };
            if let Some(offset) = seen.find(id, now_us) {
                duplicates += 1;
                let (_, end) = there.get_or_insert((offset, offset));
                *end = (*end).max(offset + 1);
            } else if view.len() > 1 && !ids.insert(id) {
                // Of two records with one id in a batch only the first could be added.
                duplicates += 1;
            }
        }
        match there {
            None if duplicates == 0 => {}
            Some((base, end)) if duplicates == view.len() => {
                return Ok(Appended {
                    base,
                    end,
                    duplicate: true,
                });
            }
            _ => {
                return Err(PublishError::PartlyDuplicate {
                    duplicates,
                    records: view.len(),
                });
            }
        }
        let appended = append(&mut self.appender)?;
        for (index, record) in view.iter().enumerate() {
            if let Some(id) = record.id() {
                seen.note(id, appended.base + index as u64, now_us);
            }
        }
        Ok(appended.into())
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
            Level::Stored => {
                self.appender.announce();
            }
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

/// A body that `fill` writes, apart from any segment.
fn filled(
    len_bytes: usize,
    fill: impl FnOnce(&mut millstream_storage::BodyWriter<'_>),
) -> Result<Vec<u8>, PublishError> {
    let mut body = vec![0; len_bytes];
    let mut writer = millstream_storage::BodyWriter::over(&mut body);
    fill(&mut writer);
    if writer.written_bytes() != len_bytes {
        return Err(PublishError::ShortFill);
    }
    Ok(body)
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
