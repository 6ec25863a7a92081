//! Publishing as a producer, blocking.

use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::{Durability, TopicName};
use tokio::runtime::Handle;

use super::Client;
use crate::error::{PublishError, TopicError};
use crate::producer::ProducerOptions;
use crate::publisher::Receipt;

/// Publishes to one topic as a producer; see [`crate::Producer`].
#[derive(Debug)]
pub struct Producer {
    producer: crate::Producer,
    runtime: Handle,
}

/// The receipt to come of what a producer enqueued.
#[derive(Debug)]
#[must_use = "a ticket tells whether the records were published"]
pub struct ProducerTicket {
    ticket: crate::ProducerTicket,
    runtime: Handle,
}

impl Client {
    /// See [`crate::Client::producer`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn producer(
        &self,
        topic: impl AsRef<str>,
        producer: impl AsRef<str>,
    ) -> Result<Producer, TopicError> {
        self.producer_with(topic, producer, ProducerOptions::new())
    }

    /// See [`crate::Client::producer_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn producer_with(
        &self,
        topic: impl AsRef<str>,
        producer: impl AsRef<str>,
        options: ProducerOptions,
    ) -> Result<Producer, TopicError> {
        let opened = self.client.producer_with(topic, producer, options);
        Ok(Producer {
            producer: self.runtime.block_on(opened)?,
            runtime: self.runtime.clone(),
        })
    }
}

impl Producer {
    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        self.producer.topic()
    }

    /// What an acknowledged record survives.
    #[must_use]
    pub const fn level(&self) -> Durability {
        self.producer.level()
    }

    /// See [`crate::Producer::last_sequence`].
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.producer.last_sequence()
    }

    /// See [`crate::Producer::was_known`].
    #[must_use]
    pub const fn was_known(&self) -> bool {
        self.producer.was_known()
    }

    /// See [`crate::Producer::publish`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn publish(&mut self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.producer.publish(message))
    }

    /// See [`crate::Producer::enqueue`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn enqueue(&mut self, message: impl Into<Message>) -> Result<ProducerTicket, PublishError> {
        let ticket = self.runtime.block_on(self.producer.enqueue(message))?;
        Ok(self.ticket(ticket))
    }

    /// See [`crate::Producer::publish_batch`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn publish_batch(&mut self, batch: &BatchBuilder) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.producer.publish_batch(batch))
    }

    /// See [`crate::Producer::enqueue_batch`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn enqueue_batch(&mut self, batch: &BatchBuilder) -> Result<ProducerTicket, PublishError> {
        let ticket = self.runtime.block_on(self.producer.enqueue_batch(batch))?;
        Ok(self.ticket(ticket))
    }

    /// See [`crate::Producer::flush`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn flush(&mut self) -> Result<(), PublishError> {
        self.runtime.block_on(self.producer.flush())
    }

    fn ticket(&self, ticket: crate::ProducerTicket) -> ProducerTicket {
        ProducerTicket {
            ticket,
            runtime: self.runtime.clone(),
        }
    }
}

impl ProducerTicket {
    /// Waits until the records are as safe as asked.
    ///
    /// # Errors
    ///
    /// See [`PublishError::Producer`].
    pub fn wait(self) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.ticket)
    }
}
