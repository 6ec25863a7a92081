//! Whom batches are handed to: a publisher, or a producer, whose records are there once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use millstream_client::{
    AckLevel, BatchBuilder, Client, Durability, Producer, ProducerOptions, ProducerTicket,
    PublishError, Publisher, PublisherOptions, Receipt, Ticket, TopicError, TopicName,
};

use crate::args::ConnectArgs;
use crate::connect::answer_time;

/// See the module.
#[derive(Debug)]
pub(crate) enum Sender {
    Publisher(Publisher),
    Producer(Box<Producer>),
}

/// The receipt to come of a batch.
#[derive(Debug)]
pub(crate) enum Sent {
    Publisher(Ticket),
    Producer(ProducerTicket),
}

impl Sender {
    pub(crate) async fn open(
        client: &Client,
        topic: &TopicName,
        producer: Option<&TopicName>,
        ack: AckLevel,
        connect: &ConnectArgs,
    ) -> Result<Self, TopicError> {
        let Some(producer) = producer else {
            let options = PublisherOptions::new().ack(ack);
            return Ok(Self::Publisher(
                client.publisher_with(topic, options).await?,
            ));
        };
        let options = ProducerOptions::new()
            .ack(ack)
            .patience(answer_time(connect));
        let producer = client.producer_with(topic, producer, options).await?;
        Ok(Self::Producer(Box::new(producer)))
    }

    pub(crate) fn level(&self) -> Durability {
        match self {
            Self::Publisher(publisher) => publisher.level(),
            Self::Producer(producer) => producer.level(),
        }
    }

    /// Messages from the start of the input that were published by an earlier run.
    pub(crate) const fn already_there(&self) -> u64 {
        match self {
            Self::Publisher(_) => 0,
            Self::Producer(producer) => producer.last_sequence(),
        }
    }

    /// What each acknowledgement may take, in answer times: a producer looks for its server again.
    pub(crate) const fn answer_times(&self) -> u32 {
        match self {
            Self::Publisher(_) => 1,
            Self::Producer(_) => 4,
        }
    }

    pub(crate) async fn enqueue(&mut self, batch: &BatchBuilder) -> Result<Sent, PublishError> {
        Ok(match self {
            Self::Publisher(publisher) => Sent::Publisher(publisher.enqueue_batch(batch).await?),
            Self::Producer(producer) => Sent::Producer(producer.enqueue_batch(batch).await?),
        })
    }
}

impl Future for Sent {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Publisher(ticket) => Pin::new(ticket).poll(cx),
            Self::Producer(ticket) => Pin::new(ticket).poll(cx).map_ok(|receipt| Receipt {
                // What earlier runs published was passed over, so it was this one that sent it twice.
                duplicate: false,
                ..receipt
            }),
        }
    }
}
