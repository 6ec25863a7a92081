//! A connection to a server, and what is asked of it about topics.

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::control::{
    CreateTopic, DeleteTopic, DescribeRetention, DescribeTopic, ListTopics, Retention,
    SetRetention, TopicInfo, TopicList, Welcome, features,
};
use millstream_protocol::{Durability, Start, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::address::Address;
use crate::connection::{Connection, Shared};
use crate::consumer::{Consumer, ConsumerOptions};
use crate::core::{Answer, Request};
use crate::driver::Driver;
use crate::error::{
    Action, ConnectError, ConnectionError, QueueAction, QueueError, QueueErrorCause, TopicError,
    TopicErrorCause,
};
use crate::handshake::greet;
use crate::link::Link;
use crate::producer::{Producer, ProducerOptions};
use crate::publisher::{Publisher, PublisherOptions};
use crate::reader::{Reader, ReaderOptions};

/// How a client connects.
///
/// ```
/// use std::time::Duration;
/// use millstream_client::ConnectOptions;
/// let options = ConnectOptions::new().name("billing").timeout(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) poll: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectOptions {
    /// Ten seconds to connect, thirty for an answer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: concat!("millstream-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            poll: Duration::ZERO,
        }
    }

    /// Sets what this client calls itself, for the server's log. At most 128 bytes are sent.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long connecting may take, up to the server's welcome.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long an answer about a topic, a queue or a cursor is waited for. Publishing, reading
    /// and consuming wait as long as the connection lives.
    #[must_use]
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Has the connection look for what comes for `time` after the last that came, instead of sleeping:
    /// answers wait for no wake-up, and the runtime's thread takes a processor meanwhile. Zero, as it is
    /// otherwise, is not at all.
    #[must_use]
    pub const fn poll(mut self, time: Duration) -> Self {
        self.poll = time;
        self
    }
}

/// How a topic is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicOptions {
    durability: Durability,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TopicOptions {
    /// A topic whose records are on disk before they are acknowledged and shown.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            durability: Durability::Synced,
        }
    }

    /// Sets how safe records are when they are acknowledged and shown.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// A connection to a Millstream server.
///
/// Cheap to clone; all clones, publishers, readers and tickets share one connection, which is
/// closed in good order when the last of them goes: what was published is still sent. Needs a tokio
/// runtime with I/O and time; [`crate::blocking::Client`] needs none.
///
/// # Example
///
/// ```no_run
/// use millstream_client::{Client, Start};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("millstream://localhost").await?;
/// let mut orders = client.publisher("orders").await?;
/// let receipt = orders.publish("one order").await?; // on disk
/// let mut reader = client.reader("orders", Start::Offset(receipt.first)).await?;
/// if let Some(record) = reader.next().await {
///     assert_eq!(record?.as_bytes(), b"one order");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) link: Arc<Link>,
}

impl Client {
    /// Connects to the server at `address`, such as `millstream://host:port`.
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub async fn connect<A>(address: A) -> Result<Self, ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        Self::connect_with(address, &ConnectOptions::new()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub async fn connect_with<A>(address: A, options: &ConnectOptions) -> Result<Self, ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        let (client, driver) = Self::connect_driven(address, options).await?;
        tokio::spawn(driver);
        Ok(client)
    }

    /// As [`Client::connect_with`], but the caller carries the connection, by polling the driver beside
    /// what he waits for: an answer reaches him without a turn from task to task, which on a runtime of one
    /// thread is one look at the sockets less for each call.
    ///
    /// [`Client::reconnect`], and a consumer or a producer that connects again, have a task of its own carry
    /// the new connection. A [`Producer`] has a task as well, which must run for it to send.
    ///
    /// ```no_run
    /// use millstream_client::{Client, ConnectOptions};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let address = "millstream://localhost";
    /// let (client, mut driver) = Client::connect_driven(address, &ConnectOptions::new()).await?;
    /// let mut orders = driver.run_until(client.publisher("orders")).await?;
    /// let receipt = driver.run_until(orders.publish("one order")).await?;
    /// println!("stored at {}", receipt.first);
    /// driver.run_until(client.close()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub async fn connect_driven<A>(
        address: A,
        options: &ConnectOptions,
    ) -> Result<(Self, Driver), ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        let address = address.try_into().map_err(Into::into)?;
        Self::greet(address, options, None).await
    }

    /// Connects; the connection is yet to be driven.
    pub(crate) async fn greet(
        address: Address,
        options: &ConnectOptions,
        thread: Option<mpsc::Sender<()>>,
    ) -> Result<(Self, Driver), ConnectError> {
        let greeted = greet(&address, options).await?;
        let (shared, driver) = Driver::new(greeted, options.poll);
        Ok((Self::of(address, options, shared, thread), driver))
    }

    /// Of the connection to `address`, which is yet to be carried.
    pub(crate) fn of(
        address: Address,
        options: &ConnectOptions,
        shared: Arc<Shared>,
        thread: Option<mpsc::Sender<()>>,
    ) -> Self {
        let link = Arc::new(Link::new(address, options.clone(), shared, thread));
        Self { link }
    }

    /// Connects once more if the connection was lost; what follows uses the new one.
    ///
    /// Handles that were opened before stay on the old connection, but for consumers, which do this
    /// by themselves. A client that was closed stays closed.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or not as a server is.
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        self.link.reconnect().await.map(drop)
    }

    /// What the server said of itself when it welcomed this client.
    #[must_use]
    pub fn server(&self) -> Welcome {
        self.link.connection().lock().core.welcome().clone()
    }

    /// Creates a topic, or finds it there with the same options; tells what there is to say of it.
    ///
    /// # Errors
    ///
    /// The name is none, a topic with other options has it, or the server did not answer.
    pub async fn create_topic(
        &self,
        name: impl AsRef<str>,
        options: TopicOptions,
    ) -> Result<TopicInfo, TopicError> {
        let asking = Asking::new(self, Action::Create, name.as_ref());
        let request = CreateTopic {
            name: asking.name()?,
            durability: options.durability,
        };
        asking.topic(Request::Create(request)).await
    }

    /// Tells what there is to say of a topic.
    ///
    /// # Errors
    ///
    /// There is no such topic, or the server did not answer.
    pub async fn topic(&self, name: impl AsRef<str>) -> Result<TopicInfo, TopicError> {
        let asking = Asking::new(self, Action::Describe, name.as_ref());
        let request = DescribeTopic {
            name: asking.name()?,
        };
        asking.topic(Request::Describe(request)).await
    }

    /// Sets how much of a topic is kept; on the server's disk when this returns. Holds for what is there as well.
    ///
    /// # Errors
    ///
    /// There is no such topic, the server refused or knows no retention, or it did not answer.
    pub async fn set_retention(
        &self,
        topic: impl AsRef<str>,
        retention: Retention,
    ) -> Result<(), TopicError> {
        let asking = Asking::new(self, Action::SetRetention, topic.as_ref());
        let request = SetRetention {
            topic: asking.name()?,
            retention,
        };
        let asked = Request::SetRetention(request);
        asking.retention(asked).await.map(drop)
    }

    /// How much of a topic is kept.
    ///
    /// # Errors
    ///
    /// There is no such topic, the server knows no retention, or it did not answer.
    pub async fn retention(&self, topic: impl AsRef<str>) -> Result<Retention, TopicError> {
        let asking = Asking::new(self, Action::DescribeRetention, topic.as_ref());
        let request = DescribeRetention {
            topic: asking.name()?,
        };
        asking.retention(Request::DescribeRetention(request)).await
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    ///
    /// There is no such topic, or the server did not answer.
    pub async fn delete_topic(&self, name: impl AsRef<str>) -> Result<(), TopicError> {
        let asking = Asking::new(self, Action::Delete, name.as_ref());
        let request = DeleteTopic {
            name: asking.name()?,
        };
        match asking.ask(Request::Delete(request)).await? {
            Answer::Deleted => Ok(()),
            _ => Err(asking.mismatched()),
        }
    }

    /// All topics, by rising name: as many requests as it takes.
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, TopicError> {
        let mut all: Vec<TopicInfo> = Vec::new();
        loop {
            let page = self
                .topics_after(all.last().map(|topic| &topic.name))
                .await?;
            let rises = match (all.last(), page.topics.first()) {
                (Some(last), Some(first)) => last.name < first.name,
                _ => true,
            };
            let more = page.more && rises && !page.topics.is_empty();
            if rises {
                all.extend(page.topics);
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// The topics whose names follow `after`, as many as one answer holds, by rising name.
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub async fn topics_after(&self, after: Option<&TopicName>) -> Result<TopicList, TopicError> {
        let asking = Asking::new(self, Action::List, "");
        match asking
            .ask(Request::List(ListTopics {
                after: after.cloned(),
            }))
            .await?
        {
            Answer::Topics(list) => Ok(list),
            _ => Err(asking.mismatched()),
        }
    }

    /// Opens a consumer of a queue: up to 64 records ahead, under the queue's lease.
    ///
    /// # Errors
    ///
    /// The name is none, there is no such queue, or the server did not answer.
    pub async fn consumer(&self, queue: impl AsRef<str>) -> Result<Consumer, QueueError> {
        self.consumer_with(queue, ConsumerOptions::new()).await
    }

    /// As [`Client::consumer`], with options.
    ///
    /// # Errors
    ///
    /// The name is none, there is no such queue, or the server did not answer.
    pub async fn consumer_with(
        &self,
        queue: impl AsRef<str>,
        options: ConsumerOptions,
    ) -> Result<Consumer, QueueError> {
        let queue = TopicName::parse(queue.as_ref()).map_err(|error| {
            let cause = QueueErrorCause::Name(error);
            QueueError::new(QueueAction::OpenConsumer, queue.as_ref(), cause)
        })?;
        Consumer::open(Arc::clone(&self.link), queue, options).await
    }

    /// Opens a topic for publishing, as durable as the topic is; creates it, `synced`, if needed.
    ///
    /// # Errors
    ///
    /// The name is none, the server refused, or it did not answer.
    pub async fn publisher(&self, topic: impl AsRef<str>) -> Result<Publisher, TopicError> {
        self.publisher_with(topic, PublisherOptions::new()).await
    }

    /// Opens a topic for publishing.
    ///
    /// # Errors
    ///
    /// The name is none, the server refused, or it did not answer.
    pub async fn publisher_with(
        &self,
        topic: impl AsRef<str>,
        options: PublisherOptions,
    ) -> Result<Publisher, TopicError> {
        let topic = Asking::new(self, Action::OpenPublisher, topic.as_ref()).name()?;
        Publisher::open(self.link.connection(), topic, options).await
    }

    /// Opens a topic for publishing as the producer `producer`, whose records it takes once each; see
    /// [`Producer`].
    ///
    /// # Errors
    ///
    /// A name is none, the server refused or knows no producers, or it did not answer.
    pub async fn producer(
        &self,
        topic: impl AsRef<str>,
        producer: impl AsRef<str>,
    ) -> Result<Producer, TopicError> {
        self.producer_with(topic, producer, ProducerOptions::new())
            .await
    }

    /// As [`Client::producer`], with options.
    ///
    /// # Errors
    ///
    /// A name is none, the server refused or knows no producers, or it did not answer.
    pub async fn producer_with(
        &self,
        topic: impl AsRef<str>,
        producer: impl AsRef<str>,
        options: ProducerOptions,
    ) -> Result<Producer, TopicError> {
        let action = Action::OpenPublisher;
        let producer = Asking::new(self, action, producer.as_ref()).name()?;
        let topic = Asking::new(self, action, topic.as_ref()).name()?;
        Producer::open(Arc::clone(&self.link), topic, producer, options).await
    }

    /// Opens a reader of a topic. It goes on with what is published later.
    ///
    /// # Errors
    ///
    /// The name is none, there is no such topic or offset, or the server did not answer.
    pub async fn reader(&self, topic: impl AsRef<str>, start: Start) -> Result<Reader, TopicError> {
        self.reader_with(topic, start, ReaderOptions::new()).await
    }

    /// As [`Client::reader`], with options.
    ///
    /// # Errors
    ///
    /// The name is none, there is no such topic or offset, or the server did not answer.
    pub async fn reader_with(
        &self,
        topic: impl AsRef<str>,
        start: Start,
        options: ReaderOptions,
    ) -> Result<Reader, TopicError> {
        let topic = Asking::new(self, Action::OpenReader, topic.as_ref()).name()?;
        Reader::open(self.link.connection(), topic, start, options).await
    }

    /// Closes the connection in good order: what was published is sent and answered first.
    ///
    /// Other handles of the connection get [`ConnectionError::ClosedHere`] from now on.
    ///
    /// # Errors
    ///
    /// The connection ended in another way before.
    pub async fn close(self) -> Result<(), ConnectionError> {
        let connection = self.link.connection();
        connection.act(|state| state.core.close());
        match connection.over().await {
            ConnectionError::ClosedHere => Ok(()),
            error => Err(error),
        }
    }
}

/// One request, and what its errors say.
struct Asking<'a> {
    connection: Arc<Connection>,
    action: Action,
    topic: &'a str,
}

impl<'a> Asking<'a> {
    fn new(client: &Client, action: Action, topic: &'a str) -> Self {
        Self {
            connection: client.link.connection(),
            action,
            topic,
        }
    }

    fn error(&self, cause: TopicErrorCause) -> TopicError {
        TopicError::new(self.action, self.topic, cause)
    }

    fn name(&self) -> Result<TopicName, TopicError> {
        TopicName::parse(self.topic).map_err(|error| self.error(TopicErrorCause::Name(error)))
    }

    async fn ask(&self, request: Request) -> Result<Answer, TopicError> {
        let answer = self.connection.ask(&request).await;
        answer.map_err(|cause| self.error(cause))
    }

    async fn topic(&self, request: Request) -> Result<TopicInfo, TopicError> {
        match self.ask(request).await? {
            Answer::Topic(info) => Ok(info),
            _ => Err(self.mismatched()),
        }
    }

    async fn retention(&self, request: Request) -> Result<Retention, TopicError> {
        let features = self.connection.lock().core.welcome().features;
        if features & features::RETENTION == 0 {
            return Err(self.error(TopicErrorCause::unsupported("retention")));
        }
        match self.ask(request).await? {
            Answer::Retention(retention) => Ok(retention),
            _ => Err(self.mismatched()),
        }
    }

    fn mismatched(&self) -> TopicError {
        self.error(mismatched())
    }
}

/// The core lets no answer of another kind through; should it, this is what is said.
pub(crate) fn mismatched() -> TopicErrorCause {
    TopicErrorCause::Unanswered(ConnectionError::protocol(
        "it answered something that was not asked",
    ))
}

/// Waits for what a reply brings, but not for ever.
pub(crate) async fn answered<T>(
    answer: oneshot::Receiver<Result<T, TopicErrorCause>>,
    longest: Duration,
) -> Result<T, TopicErrorCause> {
    match timeout(longest, answer).await {
        Ok(Ok(result)) => result,
        // The reply is dropped unsent only together with what the asker holds.
        Ok(Err(_)) => Err(TopicErrorCause::Unanswered(ConnectionError::ClosedHere)),
        Err(_) => Err(TopicErrorCause::TimedOut {
            ms: millis(longest),
        }),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
