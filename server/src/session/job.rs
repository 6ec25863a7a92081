//! Requests that may wait for the disk: made by a session, carried out beside it, answered by it.

use millstream::{Broker, PublisherOptions, TopicError, TopicOptions};
use millstream_protocol::TopicName;
use millstream_protocol::control::{
    ConsumerOpened, CreateTopic, DeleteTopic, DescribeRetention, DescribeTopic, ErrorMessage,
    ListTopics, OpenConsumer, OpenProducer, OpenPublisher, OpenReader, ProducerOpened,
    PublisherOpened, Retention, SetRetention, TopicInfo, TopicList,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::TOPICS_PER_LIST_MAX;
use millstream_protocol::wire::StreamId;

use super::consuming::ConsumerStream;
use super::publishing::PublisherStream;
use super::queueing::{QueueAnswer, QueueRequest, open_consumer, queue_refusal};
use super::reading::{Opening, ReaderStream};
use crate::refusal::refused;

/// What a client asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Create(CreateTopic),
    Delete(DeleteTopic),
    Describe(DescribeTopic),
    List(ListTopics),
    SetRetention(SetRetention),
    DescribeRetention(DescribeRetention),
    OpenPublisher(OpenPublisher),
    OpenProducer(OpenProducer),
    OpenReader(OpenReader),
    OpenConsumer(OpenConsumer),
    Queue(QueueRequest),
}

/// A request to be carried out where waiting for the disk hurts nobody.
#[derive(Debug)]
pub struct Job {
    pub(crate) broker: Broker,
    pub(crate) request: Request,
    pub(crate) stream: StreamId,
    pub(crate) correlation: u64,
}

/// What came of a [`Job`]; its session wants it back.
#[derive(Debug)]
pub struct JobDone {
    pub(crate) outcome: Outcome,
    pub(crate) stream: StreamId,
    pub(crate) correlation: u64,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Topic(TopicInfo),
    Deleted,
    Topics(TopicList),
    Retention(Retention),
    Publisher(Box<PublisherStream>, PublisherOpened),
    Producer(Box<PublisherStream>, ProducerOpened),
    Reader(Box<ReaderStream>),
    Consumer(Box<ConsumerStream>, ConsumerOpened),
    Queue(QueueAnswer),
    Refused(ErrorMessage),
}

impl Job {
    /// Whether it may take long after all that is on disk, so that it gets a thread of its own.
    pub(crate) const fn may_take_long(&self) -> bool {
        matches!(&self.request, Request::Queue(request) if request.may_take_long())
    }

    /// What comes of a job that there is no thread for.
    pub(crate) fn turned_away(self) -> JobDone {
        let sentence = "redrives: too many are under way on this server";
        JobDone {
            outcome: Outcome::Refused(refused(ErrorCode::Limit, sentence)),
            stream: self.stream,
            correlation: self.correlation,
        }
    }

    /// Carries the request out. May block for as long as the disk takes.
    #[must_use]
    pub fn run(self) -> JobDone {
        let Self {
            broker,
            request,
            stream,
            correlation,
        } = self;
        let outcome = match request {
            Request::Create(create) => broker
                .create_topic(
                    &create.name,
                    TopicOptions::new().durability(create.durability),
                )
                .map(Outcome::Topic),
            Request::Delete(delete) => broker.delete_topic(&delete.name).map(|()| Outcome::Deleted),
            Request::Describe(describe) => broker.topic(&describe.name).map(Outcome::Topic),
            Request::List(list) => Ok(list_topics(&broker, list.after.as_ref())),
            Request::SetRetention(set) => broker
                .set_retention(&set.topic, set.retention)
                .map(|()| Outcome::Retention(set.retention)),
            Request::DescribeRetention(describe) => {
                broker.retention(&describe.topic).map(Outcome::Retention)
            }
            Request::OpenPublisher(open) => open_publisher(&broker, &open),
            Request::OpenProducer(open) => open_producer(&broker, &open),
            Request::OpenReader(open) => open_reader(&broker, &open, correlation),
            Request::OpenConsumer(open) => Ok(open_consumer(&broker, open).map_or_else(
                |error| Outcome::Refused(queue_refusal(&error)),
                |(consumer, opened)| Outcome::Consumer(consumer, opened),
            )),
            Request::Queue(request) => Ok(request.run(&broker).map_or_else(
                |error| Outcome::Refused(queue_refusal(&error)),
                Outcome::Queue,
            )),
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::Refused(refusal(&error)));
        JobDone {
            outcome,
            stream,
            correlation,
        }
    }
}

fn list_topics(broker: &Broker, after: Option<&TopicName>) -> Outcome {
    let mut topics = broker.topics();
    if let Some(after) = after {
        topics.retain(|topic| topic.name > *after);
    }
    let more = topics.len() > TOPICS_PER_LIST_MAX;
    topics.truncate(TOPICS_PER_LIST_MAX);
    Outcome::Topics(TopicList { topics, more })
}

fn open_publisher(broker: &Broker, open: &OpenPublisher) -> Result<Outcome, TopicError> {
    let options = PublisherOptions::new().ack(open.ack).create(open.create);
    let publisher = broker.publisher_with(&open.topic, options)?;
    let TopicInfo {
        durability,
        next_offset,
        ..
    } = broker.topic(&open.topic)?;
    let opened = PublisherOpened {
        durability,
        next_offset,
    };
    Ok(Outcome::Publisher(
        Box::new(PublisherStream::new(publisher)),
        opened,
    ))
}

fn open_producer(broker: &Broker, open: &OpenProducer) -> Result<Outcome, TopicError> {
    let options = PublisherOptions::new()
        .ack(open.ack)
        .create(open.create)
        .producer(open.producer.as_str())
        .epoch(open.epoch)
        .acknowledged(open.acknowledged);
    let publisher = broker.publisher_with(&open.topic, options)?;
    let TopicInfo {
        durability,
        next_offset,
        ..
    } = broker.topic(&open.topic)?;
    let told = publisher.producer().ok_or(TopicError::Closed)?;
    let opened = ProducerOpened {
        durability,
        next_offset,
        producer_id: told.id,
        epoch: told.epoch,
        last_sequence: told.last_sequence,
        known: told.known,
    };
    let stream = Box::new(PublisherStream::new(publisher));
    Ok(Outcome::Producer(stream, opened))
}

fn open_reader(
    broker: &Broker,
    open: &OpenReader,
    correlation: u64,
) -> Result<Outcome, TopicError> {
    let TopicInfo { incarnation, .. } = broker.topic(&open.topic)?;
    let reader = broker.reader(&open.topic, open.start)?;
    let opening = Opening {
        incarnation,
        correlation,
    };
    Ok(Outcome::Reader(Box::new(ReaderStream::new(
        reader,
        open.credit_bytes,
        opening,
    ))))
}

fn refusal(error: &TopicError) -> ErrorMessage {
    ErrorMessage {
        effect: error.effect(),
        retriable: error.is_retriable(),
        ..refused(error.code(), error.to_string())
    }
}
