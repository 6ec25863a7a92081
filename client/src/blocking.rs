//! The client without async: every call blocks its thread until it is done.
//!
//! The same handles over the same driver, carried by a tokio runtime of one thread that each client
//! has to itself: starting it and waiting for futures from other threads are all this module does.
//!
//! Where one thread does all there is to do, a [`Driver`] saves it the turn from thread to thread: it carries
//! the connection by the thread that waits. Many threads can't share it, so it is no replacement.
//!
//! Calls panic inside an async runtime, whose threads may not block: use [`crate::Client`] there.
//!
//! ```no_run
//! use millstream_client::{Start, blocking::Client};
//!
//! let client = Client::connect("millstream://localhost")?;
//! let mut orders = client.publisher("orders")?;
//! let receipt = orders.publish("one order")?; // on disk
//! let mut reader = client.reader("orders", Start::Offset(receipt.first))?;
//! if let Some(record) = reader.next() {
//!     assert_eq!(record?.as_bytes(), b"one order");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bell;
mod consumer;
mod driver;
mod producer;
mod queues;
mod socket;
mod worker;

pub use consumer::Consumer;
pub use driver::Driver;
pub use producer::{Producer, ProducerTicket};
pub use worker::{Batch, BatchWorker, Worker};

use std::pin::Pin;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;

use millstream_protocol::batch::{BatchBuilder, Message, Record};
use millstream_protocol::control::{Retention, TopicInfo, TopicList, Welcome};
use millstream_protocol::{Durability, Offset, Start, TopicName};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;

use crate::address::Address;
use crate::client::{ConnectOptions, TopicOptions};
use crate::connection::Load;
use crate::error::{ConnectError, ConnectionError, PublishError, ReadError, TopicError};
use crate::publisher::{PublisherOptions, Receipt};
use crate::reader::{ReaderOptions, Records};

/// A connection to a Millstream server; see [`crate::Client`].
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Handle,
}

impl Client {
    /// Connects to the server at `address`, such as `millstream://host:port`.
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub fn connect<A>(address: A) -> Result<Self, ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        Self::connect_with(address, &ConnectOptions::new())
    }

    /// As [`Client::connect`], with options. Starts a thread that lives as long as the handles.
    ///
    /// # Errors
    ///
    /// What was given is no address, nobody answers there, or not as a server does.
    pub fn connect_with<A>(address: A, options: &ConnectOptions) -> Result<Self, ConnectError>
    where
        A: TryInto<Address, Error: Into<ConnectError>>,
    {
        let address = address.try_into().map_err(Into::into)?;
        let options = options.clone();
        on_a_thread(async move |thread| {
            let (client, driver) = crate::Client::greet(address, &options, Some(thread)).await?;
            let client = Self {
                client,
                runtime: Handle::current(),
            };
            Ok((client, Some(driver)))
        })
    }

    /// See [`crate::Client::server`].
    #[must_use]
    pub fn server(&self) -> Welcome {
        self.client.server()
    }

    /// See [`crate::Client::create_topic`].
    ///
    /// # Errors
    ///
    /// The name is none, a topic with other options has it, or the server did not answer.
    pub fn create_topic(
        &self,
        name: impl AsRef<str>,
        options: TopicOptions,
    ) -> Result<TopicInfo, TopicError> {
        self.runtime
            .block_on(self.client.create_topic(name, options))
    }

    /// See [`crate::Client::topic`].
    ///
    /// # Errors
    ///
    /// There is no such topic, or the server did not answer.
    pub fn topic(&self, name: impl AsRef<str>) -> Result<TopicInfo, TopicError> {
        self.runtime.block_on(self.client.topic(name))
    }

    /// See [`crate::Client::set_retention`].
    ///
    /// # Errors
    ///
    /// There is no such topic, the server refused or knows no retention, or it did not answer.
    pub fn set_retention(
        &self,
        topic: impl AsRef<str>,
        retention: Retention,
    ) -> Result<(), TopicError> {
        self.runtime
            .block_on(self.client.set_retention(topic, retention))
    }

    /// See [`crate::Client::retention`].
    ///
    /// # Errors
    ///
    /// There is no such topic, the server knows no retention, or it did not answer.
    pub fn retention(&self, topic: impl AsRef<str>) -> Result<Retention, TopicError> {
        self.runtime.block_on(self.client.retention(topic))
    }

    /// See [`crate::Client::delete_topic`].
    ///
    /// # Errors
    ///
    /// There is no such topic, or the server did not answer.
    pub fn delete_topic(&self, name: impl AsRef<str>) -> Result<(), TopicError> {
        self.runtime.block_on(self.client.delete_topic(name))
    }

    /// See [`crate::Client::topics`].
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub fn topics(&self) -> Result<Vec<TopicInfo>, TopicError> {
        self.runtime.block_on(self.client.topics())
    }

    /// See [`crate::Client::topics_after`].
    ///
    /// # Errors
    ///
    /// The server did not answer.
    pub fn topics_after(&self, after: Option<&TopicName>) -> Result<TopicList, TopicError> {
        self.runtime.block_on(self.client.topics_after(after))
    }

    /// See [`crate::Client::publisher`].
    ///
    /// # Errors
    ///
    /// The name is none, the server refused, or it did not answer.
    pub fn publisher(&self, topic: impl AsRef<str>) -> Result<Publisher, TopicError> {
        self.publisher_with(topic, PublisherOptions::new())
    }

    /// See [`crate::Client::publisher_with`].
    ///
    /// # Errors
    ///
    /// The name is none, the server refused, or it did not answer.
    pub fn publisher_with(
        &self,
        topic: impl AsRef<str>,
        options: PublisherOptions,
    ) -> Result<Publisher, TopicError> {
        let publisher = self
            .runtime
            .block_on(self.client.publisher_with(topic, options))?;
        Ok(Publisher {
            publisher,
            runtime: self.runtime.clone(),
        })
    }

    /// See [`crate::Client::reader`].
    ///
    /// # Errors
    ///
    /// The name is none, there is no such topic or offset, or the server did not answer.
    pub fn reader(&self, topic: impl AsRef<str>, start: Start) -> Result<Reader, TopicError> {
        self.reader_with(topic, start, ReaderOptions::new())
    }

    /// See [`crate::Client::reader_with`].
    ///
    /// # Errors
    ///
    /// The name is none, there is no such topic or offset, or the server did not answer.
    pub fn reader_with(
        &self,
        topic: impl AsRef<str>,
        start: Start,
        options: ReaderOptions,
    ) -> Result<Reader, TopicError> {
        let reader = self
            .runtime
            .block_on(self.client.reader_with(topic, start, options))?;
        Ok(Reader {
            reader,
            runtime: self.runtime.clone(),
        })
    }

    /// See [`crate::Client::close`].
    ///
    /// # Errors
    ///
    /// The connection ended in another way before.
    pub fn close(self) -> Result<(), ConnectionError> {
        let Self { client, runtime } = self;
        runtime.block_on(client.close())
    }
}

/// Starts the thread of one client. There it connects by `connect`, carries the connection unless somebody else
/// does, and stays for time-outs and tasks as long as somebody holds what `connect` is given.
fn on_a_thread<T, C>(connect: C) -> Result<T, ConnectError>
where
    T: Send + 'static,
    C: AsyncFnOnce(mpsc::Sender<()>) -> Result<(T, Option<crate::Driver>), ConnectError>
        + Send
        + 'static,
{
    let failed = |message: &str| ConnectError::Thread {
        message: message.into(),
    };
    let (connected, answer) = std_mpsc::sync_channel(1);
    let work = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Nobody waits for the answer only if connecting panicked.
                let _ = connected.send(Err(failed(&error.to_string())));
                return;
            }
        };
        runtime.block_on(async {
            let (thread, mut handles_gone) = mpsc::channel(1);
            match connect(thread).await {
                Ok((made, driver)) => {
                    let _ = connected.send(Ok(made));
                    if let Some(driver) = driver {
                        driver.await;
                    }
                    // Nothing is ever sent: this ends with the last handle.
                    let _ = handles_gone.recv().await;
                }
                Err(error) => {
                    let _ = connected.send(Err(error));
                }
            }
        });
    };
    thread::Builder::new()
        .name("millstream-client".to_owned())
        .spawn(work)
        .map_err(|error| failed(&error.to_string()))?;
    answer
        .recv()
        .unwrap_or_else(|_| Err(failed("the thread panicked")))
}

/// Publishes to one topic; see [`crate::Publisher`].
#[derive(Debug, Clone)]
pub struct Publisher {
    publisher: crate::Publisher,
    runtime: Handle,
}

impl Publisher {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.publisher.topic()
    }

    /// What an acknowledged record survives.
    #[must_use]
    pub fn level(&self) -> Durability {
        self.publisher.level()
    }

    /// See [`crate::Publisher::publish`].
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; its effect says whether the message may be in the topic all the same.
    pub fn publish(&mut self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.publisher.publish(message))
    }

    /// See [`crate::Publisher::enqueue`]: blocks only while the window is full.
    ///
    /// # Errors
    ///
    /// The message was not taken; it is not and will not be in the topic.
    pub fn enqueue(&mut self, message: impl Into<Message>) -> Result<Ticket, PublishError> {
        self.put(&Load::of_message(message.into()), 1)
    }

    /// See [`crate::Publisher::enqueue_body`]: blocks only while the window is full.
    ///
    /// # Errors
    ///
    /// The message was not taken; it is not and will not be in the topic.
    pub fn enqueue_body(&mut self, body: &[u8]) -> Result<Ticket, PublishError> {
        self.put(&Load::of_body(body), 1)
    }

    /// See [`crate::Publisher::publish_batch`].
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; its effect says whether the batch may be in the topic all the same.
    pub fn publish_batch(&mut self, batch: &BatchBuilder) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.publisher.publish_batch(batch))
    }

    /// See [`crate::Publisher::enqueue_batch`]: blocks only while the window is full.
    ///
    /// # Errors
    ///
    /// The batch was not taken; it is not and will not be in the topic.
    pub fn enqueue_batch(&mut self, batch: &BatchBuilder) -> Result<Ticket, PublishError> {
        let (load, record_count) = self.publisher.load_of_batch(batch)?;
        self.put(&load, record_count)
    }

    fn put(&mut self, load: &Load<'_>, record_count: u16) -> Result<Ticket, PublishError> {
        // Mostly there is room and nothing to wait for.
        let taken = match self.publisher.try_put(load, record_count) {
            Some(taken) => taken,
            None => self
                .runtime
                .block_on(self.publisher.put(load, record_count)),
        };
        Ok(Ticket {
            ticket: taken?,
            runtime: self.runtime.clone(),
        })
    }
}

/// The receipt to come of what was enqueued.
///
/// Dropping it changes nothing about the publishing.
#[derive(Debug)]
#[must_use = "a ticket tells whether the message was published"]
pub struct Ticket {
    ticket: crate::Ticket,
    runtime: Handle,
}

impl Ticket {
    /// Waits until the message is as safe as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; its effect says whether the message may be in the topic all the same.
    pub fn wait(self) -> Result<Receipt, PublishError> {
        let mut ticket = self.ticket;
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut ticket).poll(&mut cx) {
            Poll::Ready(receipt) => receipt,
            Poll::Pending => self.runtime.block_on(ticket),
        }
    }
}

/// Reads the records of one topic; see [`crate::Reader`].
#[derive(Debug)]
pub struct Reader {
    reader: crate::Reader,
    runtime: Handle,
}

impl Reader {
    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        self.reader.topic()
    }

    /// See [`crate::Reader::incarnation`].
    #[must_use]
    pub const fn incarnation(&self) -> [u8; 16] {
        self.reader.incarnation()
    }

    /// The offset at which reading began.
    #[must_use]
    pub const fn start_offset(&self) -> Offset {
        self.reader.start_offset()
    }

    /// The offset after the last record there was to read when the reader was opened.
    #[must_use]
    pub const fn end_offset(&self) -> Offset {
        self.reader.end_offset()
    }

    /// The offset that comes next; a later one if that was never used.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.reader.next_offset()
    }

    /// See [`crate::Reader::stop_at`].
    pub const fn stop_at(&mut self, offset: Offset) {
        self.reader.stop_at(offset);
    }

    /// The next record; blocks until there is one. See [`crate::Reader::next`].
    #[expect(clippy::should_implement_trait, reason = "the engine's word for it")]
    pub fn next(&mut self) -> Option<Result<Record, ReadError>> {
        if let Some(record) = self.reader.try_next() {
            return Some(record);
        }
        self.runtime.block_on(self.reader.next())
    }

    /// The next record if it is here already; nothing also once the reader is over.
    pub fn try_next(&mut self) -> Option<Result<Record, ReadError>> {
        self.reader.try_next()
    }

    /// Blocks until there is something, then gives all that is here. See
    /// [`crate::Reader::next_run`].
    pub fn next_run(&mut self) -> Option<Records<'_>> {
        self.runtime.block_on(self.reader.next_run())
    }
}
