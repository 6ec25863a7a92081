//! Consuming without async.

use std::time::Duration;

use millstream_protocol::TopicName;
use tokio::runtime::Handle;

use super::Client;
use crate::consumer::{ConsumerCounts, ConsumerOptions};
use crate::delivery::Delivery;
use crate::error::{ConsumeError, QueueError};

impl Client {
    /// See [`crate::Client::consumer`].
    ///
    /// # Errors
    ///
    /// The name is none, there is no such queue, or the server did not answer.
    pub fn consumer(&self, queue: impl AsRef<str>) -> Result<Consumer, QueueError> {
        self.consumer_with(queue, ConsumerOptions::new())
    }

    /// See [`crate::Client::consumer_with`].
    ///
    /// # Errors
    ///
    /// The name is none, there is no such queue, or the server did not answer.
    pub fn consumer_with(
        &self,
        queue: impl AsRef<str>,
        options: ConsumerOptions,
    ) -> Result<Consumer, QueueError> {
        let consumer = self
            .runtime
            .block_on(self.client.consumer_with(queue, options))?;
        Ok(Consumer {
            consumer,
            runtime: self.runtime.clone(),
        })
    }
}

/// Takes records from one queue, each under a lease; see [`crate::Consumer`].
///
/// Deliveries are those of the async form: none of their ways to be settled waits, but for
/// [`Delivery::ack_confirmed_blocking`].
///
/// ```no_run
/// use millstream_client::blocking::Client;
///
/// let client = Client::connect("millstream://localhost")?;
/// let mut jobs = client.consumer("billing")?;
/// while let Some(delivery) = jobs.next() {
///     let delivery = delivery?;
///     println!("{:?}", delivery.as_bytes());
///     delivery.ack();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Consumer {
    pub(crate) consumer: crate::Consumer,
    pub(crate) runtime: Handle,
}

impl Consumer {
    /// The queue it takes from.
    #[must_use]
    pub const fn queue(&self) -> &TopicName {
        self.consumer.queue()
    }

    /// See [`crate::Consumer::queue_id`].
    #[must_use]
    pub const fn queue_id(&self) -> u32 {
        self.consumer.queue_id()
    }

    /// The topic behind the queue.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        self.consumer.topic()
    }

    /// See [`crate::Consumer::id`].
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.consumer.id()
    }

    /// How long its leases last.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.consumer.lease()
    }

    /// See [`crate::Consumer::lost`].
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.consumer.lost()
    }

    /// See [`crate::Consumer::counts`].
    #[must_use]
    pub fn counts(&self) -> ConsumerCounts {
        self.consumer.counts()
    }

    /// See [`crate::Consumer::set_window`].
    pub fn set_window(&mut self, records: u32, bytes: u64) {
        self.consumer.set_window(records, bytes);
    }

    /// The next record; blocks until there is one. See [`crate::Consumer::next`].
    #[expect(clippy::should_implement_trait, reason = "the engine's word for it")]
    pub fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        if let Some(delivery) = self.consumer.try_next() {
            return Some(delivery);
        }
        self.runtime.block_on(self.consumer.next())
    }

    /// The next record if one is here already; see [`crate::Consumer::try_next`].
    pub fn try_next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        self.consumer.try_next()
    }

    /// Takes up to `max` records, blocking for up to `wait`; see [`crate::Consumer::receive`].
    ///
    /// # Errors
    ///
    /// See [`ConsumeError`]; each is final.
    pub fn receive(&mut self, max: u32, wait: Duration) -> Result<Vec<Delivery>, ConsumeError> {
        self.runtime.block_on(self.consumer.receive(max, wait))
    }

    /// Gives back what it holds and leaves; deliveries that are still held can be settled.
    pub fn close(self) {}
}
