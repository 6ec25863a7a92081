//! Queues and cursors as the broker's users make, change and look at them.

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::control::{
    Backoff, CursorInfo, DeadLetter, LeaseInfo, OnExpiry, PeekedRecord, QueueInfo, QueueMode,
    QueueSettings, QueueTotals, RecordState, WhenFull,
};
use millstream_protocol::{Offset, Start, TopicName};

use super::consumer::{Consumer, ConsumerOptions};
use super::cursor::Cursor;
use super::error::QueueError;
use super::redrive::Redrive;
use super::registry::{Entry, NewQueue, Queues};
use super::scheduler::{Counts, State};
use crate::broker::Broker;
use crate::error::TopicError;

/// How a queue is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    topic: Option<String>,
    mode: QueueMode,
    start: Start,
    settings: QueueSettings,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            topic: None,
            mode: QueueMode::Plain,
            start: Start::Earliest,
            settings: QueueSettings::default(),
        }
    }
}

impl QueueOptions {
    /// A plain queue over a topic of its own: leases of 30 s, five deliveries, then a dead letter in
    /// `<name>.dead`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The topic whose records it delivers, instead of one of its own. All queues of a topic see
    /// every record.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Plain, grouped or prioritised; fixed for good.
    #[must_use]
    pub fn mode(mut self, mode: QueueMode) -> Self {
        self.mode = mode;
        self
    }

    /// The first record of the topic that it delivers.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// All settings at once.
    #[must_use]
    pub fn settings(mut self, settings: QueueSettings) -> Self {
        self.settings = settings;
        self
    }

    /// How long a consumer may take to settle.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease_ms = millis(lease);
        self
    }

    /// After so many deliveries a record is a dead letter; 0: never.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.settings.deliveries_max = deliveries;
        self
    }

    /// How long a record that is to be retried waits.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Where dead letters go.
    #[must_use]
    pub fn dead_letter(mut self, dead_letter: DeadLetter) -> Self {
        self.settings.dead_letter = dead_letter;
        self
    }

    /// What becomes of records whose time passed.
    #[must_use]
    pub fn expired(mut self, expired: OnExpiry) -> Self {
        self.settings.expired = expired;
        self
    }

    /// Unsettled records it may have, and what happens when there are more; 0: no limit.
    #[must_use]
    pub fn messages_max(mut self, messages: u64, when_full: WhenFull) -> Self {
        self.settings.messages_max = messages;
        self.settings.when_full = when_full;
        self
    }

    /// Records older than this expire; zero: never.
    #[must_use]
    pub fn age_max(mut self, age: Duration) -> Self {
        self.settings.age_max_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn queue_name(name: &str) -> Result<TopicName, QueueError> {
    Ok(TopicName::parse(name).map_err(TopicError::Name)?)
}

impl Broker {
    /// Makes a queue; one that is there and the same is as good. Its dead-letter queue is made with
    /// it. On disk when this returns; may wait for it.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn create_queue(
        &self,
        name: impl AsRef<str>,
        options: QueueOptions,
    ) -> Result<QueueInfo, QueueError> {
        let topic = options.topic.as_deref().map(queue_name).transpose()?;
        let entry = self.queues_of_broker().create(&NewQueue {
            name: queue_name(name.as_ref())?,
            topic,
            mode: options.mode,
            start: options.start,
            settings: options.settings,
        })?;
        self.queues_of_broker().info(&entry)
    }

    /// Gives a queue other settings, all of them.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn set_queue(
        &self,
        name: impl AsRef<str>,
        settings: &QueueSettings,
    ) -> Result<QueueInfo, QueueError> {
        let queues = self.queues_of_broker();
        let entry = queues.set(&queue_name(name.as_ref())?, settings)?;
        queues.info(&entry)
    }

    /// Deletes a queue, with its topic if that was made for it and no other queue uses it. Gives how
    /// many records were not settled.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn delete_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        self.queues_of_broker().delete(&queue_name(name.as_ref())?)
    }

    /// One queue, counted as it is now. Looks at what of the topic it did not see yet.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn queue(&self, name: impl AsRef<str>) -> Result<QueueInfo, QueueError> {
        let queues = self.queues_of_broker();
        let entry = queues.entry(&queue_name(name.as_ref())?)?;
        queues.info(&entry)
    }

    /// Whether it is known what queues and cursors there are; else their lists are empty.
    ///
    /// # Errors
    ///
    /// [`QueueError::Offline`].
    pub fn check_queues(&self) -> Result<(), QueueError> {
        self.queues_of_broker().check_online()
    }

    /// All queues, by name; without those that ended meanwhile or were stopped by a defect.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueInfo> {
        let queues = self.queues_of_broker();
        let entries = queues.entries();
        let infos = entries.iter().filter_map(|entry| queues.info(entry).ok());
        infos.collect()
    }

    /// Stops deliveries until [`resume_queue`](Self::resume_queue); what is leased may be settled.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn pause_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        let name = queue_name(name.as_ref())?;
        self.queues_of_broker().pause(&name, true)
    }

    /// Lets a paused queue deliver again.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn resume_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        let name = queue_name(name.as_ref())?;
        self.queues_of_broker().pause(&name, false)
    }

    /// Settles every record that is visible now, also leased and delayed ones; gives how many. They
    /// stay settled from then on, whatever happens.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn purge_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        self.queues_of_broker().purge(&queue_name(name.as_ref())?)
    }

    /// Sends dead letters of queue `name` back to the queues they died in; gives how many. Takes as
    /// long as the rate asked for makes it take.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn redrive_queue(
        &self,
        name: impl AsRef<str>,
        wanted: &Redrive,
    ) -> Result<u64, QueueError> {
        self.queues_of_broker()
            .redrive(&queue_name(name.as_ref())?, wanted)
    }

    /// Up to `max` records that are not settled, from offset `from` on.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn peek_queue(
        &self,
        name: impl AsRef<str>,
        from: Offset,
        max: u32,
    ) -> Result<Vec<PeekedRecord>, QueueError> {
        let entry = self.queues_of_broker().entry(&queue_name(name.as_ref())?)?;
        let queue = Arc::clone(&entry.queue);
        let peeked = entry.queue.look(move |core, now| {
            core.scan_to_end(&queue, now);
            core.scheduler.peek(from, max as usize)
        })?;
        let peeked = peeked.into_iter().filter_map(|record| {
            Some(PeekedRecord {
                offset: record.offset,
                state: match record.state {
                    State::Settled => return None,
                    State::Ready => RecordState::Ready,
                    State::Leased => RecordState::Leased,
                    State::Delayed | State::Far => RecordState::Delayed,
                    State::Moving => RecordState::Moving,
                },
                attempts: record.attempts,
                due_us: record.due_us,
            })
        });
        Ok(peeked.collect())
    }

    /// Up to `max` leases that are held now.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn leases(&self, name: impl AsRef<str>, max: u32) -> Result<Vec<LeaseInfo>, QueueError> {
        let entry = self.queues_of_broker().entry(&queue_name(name.as_ref())?)?;
        entry.queue.look(move |core, now| {
            let leases = core.scheduler.leases(max as usize);
            let leases = leases.into_iter().map(|lease| LeaseInfo {
                offset: lease.offset,
                consumer: lease.consumer.0,
                attempts: lease.attempts,
                left_ms: u32::try_from(lease.until_boot_us.saturating_sub(now.boot_us) / 1_000)
                    .unwrap_or(u32::MAX),
            });
            leases.collect()
        })
    }

    /// A consumer of queue `name`.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn consumer(
        &self,
        name: impl AsRef<str>,
        options: ConsumerOptions,
    ) -> Result<Consumer, QueueError> {
        let entry = self.queues_of_broker().entry(&queue_name(name.as_ref())?)?;
        Ok(Consumer::open(&entry.queue, &options))
    }

    /// The cursor `name` of `topic`; it exists once something was committed.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<Cursor, QueueError> {
        self.queues_of_broker()
            .cursor(topic.as_ref(), name.as_ref())
    }

    /// What there is to say about one cursor.
    ///
    /// # Errors
    ///
    /// [`QueueError::CursorNotFound`] when nothing was committed under the name, and others.
    pub fn cursor_info(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<CursorInfo, QueueError> {
        let cursor = self.cursor(topic, name)?;
        self.queues_of_broker().cursor_info(&cursor)
    }

    /// The cursors of one topic, or of all, by topic and name.
    #[must_use]
    pub fn cursors(&self, topic: Option<&TopicName>) -> Vec<CursorInfo> {
        self.queues_of_broker().cursors(topic)
    }

    /// Forgets a cursor.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn delete_cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<(), QueueError> {
        let cursor = self.cursor(topic, name)?;
        self.queues_of_broker().delete_cursor(&cursor)
    }
}

impl Queues {
    fn info(&self, entry: &Entry) -> Result<QueueInfo, QueueError> {
        let queue = Arc::clone(&entry.queue);
        let (counts, floor, unscanned, consumers, rates, paused) =
            entry.queue.look(move |core, now| {
                core.scan_to_end(&queue, now);
                (
                    core.counts(),
                    core.scheduler.floor(),
                    core.unscanned(&queue)
                        .saturating_sub(core.scheduler.moving_unscanned()),
                    core.consumers().count(),
                    core.rate.milli_per_s(now.boot_us),
                    core.paused,
                )
            })?;
        let definition = &entry.definition;
        let dead = definition.dead_letter_queue();
        let dead = dead.and_then(|name| self.entry(&name).ok());
        let wall_us = self.clock.now().wall_us;
        Ok(QueueInfo {
            name: definition.name.clone(),
            topic: definition.topic.clone(),
            queue_id: definition.id,
            mode: definition.mode,
            own_topic: definition.own_topic,
            paused,
            settings: definition.settings.clone(),
            ready: counts.ready + unscanned,
            leased: counts.leased,
            delayed: counts.delayed,
            moving: counts.moving,
            dead: dead.and_then(|entry| unsettled(&entry).ok()).unwrap_or(0),
            oldest_ready_us: match counts.oldest_ready_append_us {
                0 => 0,
                append_us => wall_us.saturating_sub(append_us).max(1),
            },
            consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
            floor,
            next: entry.queue.topic.high_watermark(),
            delivered_milli: rates.0,
            acked_milli: rates.1,
            totals: totals(&counts),
            attempts: counts.totals.attempts,
        })
    }
}

/// Records of a queue that are not settled.
fn unsettled(entry: &Entry) -> Result<u64, QueueError> {
    let queue = Arc::clone(&entry.queue);
    entry.queue.look(move |core, now| {
        core.scan_to_end(&queue, now);
        core.counts().unsettled_scanned + core.unscanned(&queue)
    })
}

fn totals(counts: &Counts) -> QueueTotals {
    let totals = &counts.totals;
    QueueTotals {
        delivered: totals.delivered,
        acked: totals.acked,
        retried: totals.retried,
        rejected: totals.rejected,
        dead_lettered: totals.dead_lettered,
        expired: totals.expired,
        dropped: totals.dropped,
        released: totals.released,
        lease_expired: totals.lease_expired,
        lease_lost: totals.lease_lost,
        damaged: totals.damaged,
        redriven: totals.redriven,
    }
}
