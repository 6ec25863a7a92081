//! What is asked of a server about queues and cursors.

use std::time::Duration;

use millstream_protocol::control::{
    Backoff, ControlQueue, CreateQueue, CursorInfo, CursorList, DeadLetter, DeleteCursor,
    DeleteQueue, DescribeCursor, DescribeQueue, LeaseInfo, ListCursors, ListLeases, ListQueues,
    OnExpiry, PeekQueue, PeekedRecord, QueueInfo, QueueList, QueueMode, QueueSettings, QueueVerb,
    RedriveQueue, SetCursor, SetQueue, WhenFull,
};
use millstream_protocol::{Offset, Start, TopicName};

use crate::client::{Client, mismatched};
use crate::core::{Answer, Request};
use crate::error::{QueueAction, QueueError, QueueErrorCause};

/// How a queue is created.
///
/// ```
/// use std::time::Duration;
/// use millstream_client::{QueueMode, QueueOptions};
/// let options = QueueOptions::new()
///     .topic("orders")
///     .mode(QueueMode::Grouped)
///     .lease(Duration::from_secs(60))
///     .max_deliveries(3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    topic: Option<String>,
    mode: QueueMode,
    start: Start,
    settings: QueueSettings,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl QueueOptions {
    /// A plain queue over a topic of its own name, made with it, from the earliest record on, with
    /// the settings of [`QueueSettings::default`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            topic: None,
            mode: QueueMode::Plain,
            start: Start::Earliest,
            settings: QueueSettings::default(),
        }
    }

    /// Sets the topic whose records it delivers, which must be there.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets how it orders what it delivers; never changed later.
    #[must_use]
    pub const fn mode(mut self, mode: QueueMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the first record it delivers.
    #[must_use]
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets all that may be changed later at once.
    #[must_use]
    pub fn settings(mut self, settings: QueueSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets how long a consumer has to settle a record.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// Sets how often a record is delivered before it becomes a dead letter; 0: without end.
    #[must_use]
    pub const fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.settings.deliveries_max = deliveries;
        self
    }

    /// Sets how long a record waits before it is delivered again.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Sets where dead letters go.
    #[must_use]
    pub fn dead_letter(mut self, dead_letter: DeadLetter) -> Self {
        self.settings.dead_letter = dead_letter;
        self
    }

    /// Sets what becomes of records whose time has passed.
    #[must_use]
    pub const fn expired(mut self, expired: OnExpiry) -> Self {
        self.settings.expired = expired;
        self
    }

    /// Sets how many unsettled records it may have, and what happens when there are more; 0: no
    /// limit.
    #[must_use]
    pub const fn messages_max(mut self, messages: u64, when_full: WhenFull) -> Self {
        self.settings.messages_max = messages;
        self.settings.when_full = when_full;
        self
    }

    /// Sets how many bytes of unsettled records it may have, and what happens when there are more;
    /// 0: no limit.
    #[must_use]
    pub const fn bytes_max(mut self, bytes: u64, when_full: WhenFull) -> Self {
        self.settings.bytes_max = bytes;
        self.settings.when_full = when_full;
        self
    }

    /// Sets the age at which records expire; zero: never.
    #[must_use]
    pub fn age_max(mut self, age: Duration) -> Self {
        self.settings.age_max_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// Which dead letters are sent back, and how fast.
///
/// ```
/// use millstream_client::Redrive;
/// let some = Redrive::all().records_max(1000).per_second(50).reason("max-deliveries");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redrive {
    records_max: u64,
    per_second: u32,
    reason: Option<String>,
    source: Option<TopicName>,
    key: Option<String>,
}

impl Redrive {
    /// All of them, as fast as it goes.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// At most this many; 0: all there are.
    #[must_use]
    pub const fn records_max(mut self, records: u64) -> Self {
        self.records_max = records;
        self
    }

    /// At most this many a second; 0: as fast as it goes.
    #[must_use]
    pub const fn per_second(mut self, records: u32) -> Self {
        self.per_second = records;
        self
    }

    /// Only those that died for this reason, as their header `ms-reason` says.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Only those that died in this queue.
    #[must_use]
    pub fn source(mut self, queue: TopicName) -> Self {
        self.source = Some(queue);
        self
    }

    /// Only those with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// Queues.
impl Client {
    /// Creates a queue, or finds it there with the same options; tells what there is to say of it.
    ///
    /// # Errors
    ///
    /// The name is none, a queue with other options has it, or the server did not answer.
    pub async fn create_queue(
        &self,
        name: impl AsRef<str>,
        options: QueueOptions,
    ) -> Result<QueueInfo, QueueError> {
        let asking = Asking::new(self, QueueAction::Create, name.as_ref());
        let QueueOptions {
            topic,
            mode,
            start,
            settings,
        } = options;
        asking.check(&settings)?;
        let request = CreateQueue {
            name: asking.name()?,
            topic: topic.map(|topic| asking.parse(&topic)).transpose()?,
            mode,
            start,
            settings,
        };
        asking.queue(Request::CreateQueue(request)).await
    }

    /// Gives a queue other settings, all of them.
    ///
    /// # Errors
    ///
    /// There is no such queue, it cannot have these settings, or the server did not answer.
    pub async fn set_queue(
        &self,
        name: impl AsRef<str>,
        settings: QueueSettings,
    ) -> Result<QueueInfo, QueueError> {
        let asking = Asking::new(self, QueueAction::Set, name.as_ref());
        asking.check(&settings)?;
        let name = asking.name()?;
        let request = SetQueue { name, settings };
        asking.queue(Request::SetQueue(request)).await
    }

    /// Tells what there is to say of a queue.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn queue(&self, name: impl AsRef<str>) -> Result<QueueInfo, QueueError> {
        let asking = Asking::new(self, QueueAction::Describe, name.as_ref());
        let name = asking.name()?;
        asking
            .queue(Request::DescribeQueue(DescribeQueue { name }))
            .await
    }

    /// All queues, by rising name: as many requests as it takes.
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>, QueueError> {
        let mut all: Vec<QueueInfo> = Vec::new();
        loop {
            let page = self
                .queues_after(all.last().map(|queue| &queue.name))
                .await?;
            let rises = match (all.last(), page.queues.first()) {
                (Some(last), Some(first)) => last.name < first.name,
                _ => true,
            };
            let more = page.more && rises && !page.queues.is_empty();
            if rises {
                all.extend(page.queues);
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// The queues whose names follow `after`, as many as one answer holds, by rising name.
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub async fn queues_after(&self, after: Option<&TopicName>) -> Result<QueueList, QueueError> {
        let asking = Asking::new(self, QueueAction::List, "");
        let after = after.cloned();
        match asking
            .ask(Request::ListQueues(ListQueues { after }))
            .await?
        {
            Answer::Queues(list) => Ok(list),
            _ => Err(asking.mismatched()),
        }
    }

    /// Deletes a queue, and its topic when that was made with it; tells how many records were not
    /// settled.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn delete_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        let asking = Asking::new(self, QueueAction::Delete, name.as_ref());
        let name = asking.name()?;
        asking
            .done(Request::DeleteQueue(DeleteQueue { name }))
            .await
    }

    /// Has a queue deliver nothing until it is resumed; what is leased may be settled.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn pause_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        let asking = Asking::new(self, QueueAction::Pause, name.as_ref());
        asking.control(QueueVerb::Pause).await.map(drop)
    }

    /// Has a queue deliver again.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn resume_queue(&self, name: impl AsRef<str>) -> Result<(), QueueError> {
        let asking = Asking::new(self, QueueAction::Resume, name.as_ref());
        asking.control(QueueVerb::Resume).await.map(drop)
    }

    /// Settles every record a queue has, also those that are leased; tells how many.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn purge_queue(&self, name: impl AsRef<str>) -> Result<u64, QueueError> {
        let asking = Asking::new(self, QueueAction::Purge, name.as_ref());
        asking.control(QueueVerb::Purge).await
    }

    /// Sends dead letters of queue `name` back to the queues they died in; tells how many. Takes as
    /// long as the rate asked for makes it take, however long that is.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn redrive_queue(
        &self,
        name: impl AsRef<str>,
        redrive: &Redrive,
    ) -> Result<u64, QueueError> {
        let asking = Asking::new(self, QueueAction::Redrive, name.as_ref());
        let Redrive {
            records_max,
            per_second,
            reason,
            source,
            key,
        } = redrive.clone();
        let request = RedriveQueue {
            name: asking.name()?,
            records_max,
            per_second,
            reason,
            source,
            key,
        };
        asking.done(Request::RedriveQueue(request)).await
    }

    /// Up to `max` records of a queue that are not settled, from an offset on; an answer holds at
    /// most 1,024.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn peek_queue(
        &self,
        name: impl AsRef<str>,
        from: Offset,
        max: u32,
    ) -> Result<Vec<PeekedRecord>, QueueError> {
        let asking = Asking::new(self, QueueAction::Peek, name.as_ref());
        let name = asking.name()?;
        let request = PeekQueue { name, from, max };
        match asking.ask(Request::PeekQueue(request)).await? {
            Answer::Peeked(list) => Ok(list.records),
            _ => Err(asking.mismatched()),
        }
    }

    /// Up to `max` records of a queue that are with consumers; an answer holds at most 1,024.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the server did not answer.
    pub async fn leases(
        &self,
        name: impl AsRef<str>,
        max: u32,
    ) -> Result<Vec<LeaseInfo>, QueueError> {
        let asking = Asking::new(self, QueueAction::Leases, name.as_ref());
        let name = asking.name()?;
        match asking
            .ask(Request::ListLeases(ListLeases { name, max }))
            .await?
        {
            Answer::Leases(list) => Ok(list.leases),
            _ => Err(asking.mismatched()),
        }
    }
}

/// Cursors: a reader's place in a topic, kept by the server under a name.
impl Client {
    /// Sets a cursor to the next record to read, and makes it when it is not there. On disk when it
    /// returns.
    ///
    /// # Errors
    ///
    /// There is no such topic, a name is none, or the server did not answer.
    pub async fn set_cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        offset: Offset,
    ) -> Result<CursorInfo, QueueError> {
        let (topic, name) = (topic.as_ref(), name.as_ref());
        let shown = shown(topic, name);
        let asking = Asking::new(self, QueueAction::SetCursor, &shown);
        let request = SetCursor {
            topic: asking.parse(topic)?,
            name: asking.parse(name)?,
            offset,
        };
        asking.cursor(Request::SetCursor(request)).await
    }

    /// Tells where a cursor is.
    ///
    /// # Errors
    ///
    /// There is no such cursor, or the server did not answer.
    pub async fn cursor_info(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<CursorInfo, QueueError> {
        let (topic, name) = (topic.as_ref(), name.as_ref());
        let shown = shown(topic, name);
        let asking = Asking::new(self, QueueAction::DescribeCursor, &shown);
        let request = DescribeCursor {
            topic: asking.parse(topic)?,
            name: asking.parse(name)?,
        };
        asking.cursor(Request::DescribeCursor(request)).await
    }

    /// All cursors, or those of one topic, by topic and name: as many requests as it takes.
    ///
    /// # Errors
    ///
    /// The name is none, or the server did not answer.
    pub async fn cursors(&self, topic: Option<&str>) -> Result<Vec<CursorInfo>, QueueError> {
        let asking = Asking::new(self, QueueAction::ListCursors, topic.unwrap_or_default());
        let topic = topic.map(|topic| asking.parse(topic)).transpose()?;
        let mut all: Vec<CursorInfo> = Vec::new();
        loop {
            let place = |cursor: &CursorInfo| (cursor.topic.clone(), cursor.name.clone());
            let after = all.last().map(place);
            let page = self.cursors_after(topic.as_ref(), after.as_ref()).await?;
            let rises = page
                .cursors
                .first()
                .is_some_and(|first| after.is_none_or(|after| after < place(first)));
            let more = page.more && rises;
            if rises {
                all.extend(page.cursors);
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// The cursors of a topic or of all that follow topic and name `after`, as many as one answer
    /// holds.
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub async fn cursors_after(
        &self,
        topic: Option<&TopicName>,
        after: Option<&(TopicName, TopicName)>,
    ) -> Result<CursorList, QueueError> {
        let shown = topic.map_or("", TopicName::as_str);
        let asking = Asking::new(self, QueueAction::ListCursors, shown);
        let (after_topic, after_name) = after.cloned().unzip();
        let request = ListCursors {
            topic: topic.cloned(),
            after_topic,
            after_name,
        };
        match asking.ask(Request::ListCursors(request)).await? {
            Answer::Cursors(list) => Ok(list),
            _ => Err(asking.mismatched()),
        }
    }

    /// Deletes a cursor.
    ///
    /// # Errors
    ///
    /// There is no such cursor, or the server did not answer.
    pub async fn delete_cursor(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<(), QueueError> {
        let (topic, name) = (topic.as_ref(), name.as_ref());
        let shown = shown(topic, name);
        let asking = Asking::new(self, QueueAction::DeleteCursor, &shown);
        let request = DeleteCursor {
            topic: asking.parse(topic)?,
            name: asking.parse(name)?,
        };
        match asking.ask(Request::DeleteCursor(request)).await? {
            Answer::Deleted => Ok(()),
            _ => Err(asking.mismatched()),
        }
    }
}

/// What an error calls a cursor.
fn shown(topic: &str, name: &str) -> String {
    format!("{topic}/{name}")
}

/// One request, and what its errors say.
struct Asking<'a> {
    client: &'a Client,
    action: QueueAction,
    name: &'a str,
}

impl<'a> Asking<'a> {
    const fn new(client: &'a Client, action: QueueAction, name: &'a str) -> Self {
        Self {
            client,
            action,
            name,
        }
    }

    fn error(&self, cause: impl Into<QueueErrorCause>) -> QueueError {
        QueueError::new(self.action, self.name, cause.into())
    }

    fn parse(&self, name: &str) -> Result<TopicName, QueueError> {
        TopicName::parse(name).map_err(|error| self.error(QueueErrorCause::Name(error)))
    }

    fn name(&self) -> Result<TopicName, QueueError> {
        self.parse(self.name)
    }

    fn check(&self, settings: &QueueSettings) -> Result<(), QueueError> {
        let checked = settings.check();
        checked.map_err(|error| self.error(QueueErrorCause::Settings(error)))
    }

    fn mismatched(&self) -> QueueError {
        self.error(mismatched())
    }

    async fn ask(&self, request: Request) -> Result<Answer, QueueError> {
        let answer = self.client.link.connection().ask(&request).await;
        answer.map_err(|cause| self.error(cause))
    }

    async fn queue(&self, request: Request) -> Result<QueueInfo, QueueError> {
        match self.ask(request).await? {
            Answer::Queue(info) => Ok(*info),
            _ => Err(self.mismatched()),
        }
    }

    async fn done(&self, request: Request) -> Result<u64, QueueError> {
        match self.ask(request).await? {
            Answer::Done(done) => Ok(done.records),
            _ => Err(self.mismatched()),
        }
    }

    async fn control(&self, verb: QueueVerb) -> Result<u64, QueueError> {
        let name = self.name()?;
        self.done(Request::ControlQueue(ControlQueue { name, verb }))
            .await
    }

    async fn cursor(&self, request: Request) -> Result<CursorInfo, QueueError> {
        match self.ask(request).await? {
            Answer::Cursor(info) => Ok(info),
            _ => Err(self.mismatched()),
        }
    }
}
