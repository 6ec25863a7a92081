//! What a session does with each message, and with the outcome of each request.

use millstream_protocol::control::{
    CreateTopic, Credit, DeleteTopic, DescribeRetention, DescribeTopic, ErrorMessage, Hello,
    ListTopics, OpenConsumer, OpenProducer, OpenPublisher, OpenReader, SetRetention, Welcome,
    features,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, HEARTBEAT_MS, PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES,
    STREAMS_PER_CONNECTION_MAX, WIRE_VERSION,
};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use super::consuming::Settled;
use super::job::{Job, JobDone, Outcome, Request};
use super::publishing::Published;
use super::queueing::{QueueRequest, check_open};
use super::reading::check_credit;
use super::streams::Stream;
use super::{Hold, SHUTTING_DOWN, Session, Stage, Taken};
use crate::limits::REQUESTS_WAITING_MAX;
use crate::refusal::{bad_body, refused};

impl Session {
    /// Takes one message.
    pub(super) fn take(&mut self, header: &WireHeader, body: &[u8]) -> Taken {
        match header.kind {
            MessageKind::Publish => return self.take_publish(header, body),
            MessageKind::Credit => return self.take_credit(header, body),
            MessageKind::Settle | MessageKind::Window | MessageKind::Receive => {
                return self.take_consuming(header, body);
            }
            MessageKind::CloseStream => return self.take_close(header),
            MessageKind::Hello => self.take_hello(body),
            MessageKind::Ping => {
                self.bare(MessageKind::Pong, StreamId::CONNECTION, header.correlation);
            }
            MessageKind::Goodbye => self.goodbye(),
            MessageKind::CreateTopic
            | MessageKind::DeleteTopic
            | MessageKind::DescribeTopic
            | MessageKind::ListTopics
            | MessageKind::SetRetention
            | MessageKind::DescribeRetention
            | MessageKind::OpenPublisher
            | MessageKind::OpenProducer
            | MessageKind::OpenReader
            | MessageKind::CreateQueue
            | MessageKind::SetQueue
            | MessageKind::DeleteQueue
            | MessageKind::DescribeQueue
            | MessageKind::ListQueues
            | MessageKind::ControlQueue
            | MessageKind::RedriveQueue
            | MessageKind::PeekQueue
            | MessageKind::ListLeases
            | MessageKind::OpenConsumer
            | MessageKind::SetCursor
            | MessageKind::DescribeCursor
            | MessageKind::ListCursors
            | MessageKind::DeleteCursor => return self.take_request(header, body),
            // A pong has done its work by arriving; the splitter lets nothing else pass.
            _ => {}
        }
        Taken::Done
    }

    fn take_hello(&mut self, body: &[u8]) {
        let hello = match Hello::decode(body) {
            Ok(hello) => hello,
            Err(error) => return self.close_with(&bad_body(&error)),
        };
        if !(hello.version_min..=hello.version_max).contains(&WIRE_VERSION) {
            let sentence = format!(
                "version: the client speaks {} to {}, this server {WIRE_VERSION}",
                hello.version_min, hello.version_max
            );
            return self.close_with(&refused(ErrorCode::UnsupportedVersion, sentence));
        }
        let welcome = Welcome {
            version: WIRE_VERSION,
            features: hello.features & features::ALL,
            server: self.options.server.clone(),
            folder_id: self.broker.folder_id(),
            boot_epoch: self.broker.boot_epoch(),
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            publish_window_bytes: PUBLISH_WINDOW_BYTES,
            publish_window_frames: PUBLISH_WINDOW_FRAMES,
            heartbeat_ms: HEARTBEAT_MS as u32,
        };
        self.out
            .control(|out| welcome.encode(StreamId::CONNECTION, 0, out));
        self.stage = Stage::Open;
    }

    fn take_publish(&mut self, header: &WireHeader, body: &[u8]) -> Taken {
        let id = header.stream;
        match self.streams.get(id) {
            Some(Stream::Opening) => return Taken::Held(Hold::Opening(id)),
            Some(Stream::Publisher(publisher)) => {
                match publisher.publish(header.correlation, body) {
                    Published::Accepted | Published::Ignored => {}
                    Published::NotYet => return Taken::Held(Hold::Rotating(id)),
                    Published::Refused(error) => self.refuse_stream(id, &error),
                    Published::Closed => self.unknown(header),
                }
            }
            Some(Stream::Reader(_) | Stream::Consumer(_)) => {
                let error = refused(
                    ErrorCode::Malformed,
                    "stream: only a publisher's takes publishes",
                );
                self.refuse_stream(id, &error);
            }
            None => self.unknown(header),
        }
        Taken::Done
    }

    fn take_credit(&mut self, header: &WireHeader, body: &[u8]) -> Taken {
        let id = header.stream;
        let credited = match self.streams.get(id) {
            Some(Stream::Opening) => return Taken::Held(Hold::Opening(id)),
            Some(Stream::Reader(reader)) => Credit::decode(body)
                .map_err(|error| bad_body(&error))
                .and_then(|credit| reader.credit(credit.bytes)),
            Some(Stream::Publisher(_) | Stream::Consumer(_)) => Err(refused(
                ErrorCode::Malformed,
                "stream: only a reader's takes credit",
            )),
            None => {
                self.unknown(header);
                Ok(())
            }
        };
        if let Err(error) = credited {
            self.refuse_stream(id, &error);
        }
        Taken::Done
    }

    /// Takes what is for a consumer.
    fn take_consuming(&mut self, header: &WireHeader, body: &[u8]) -> Taken {
        let id = header.stream;
        let settled = match self.streams.get(id) {
            Some(Stream::Opening) => return Taken::Held(Hold::Opening(id)),
            Some(Stream::Consumer(consumer)) => match header.kind {
                MessageKind::Window => consumer.window(body),
                MessageKind::Receive => consumer.receive(header.correlation, body),
                _ if consumer.is_busy() => return Taken::Held(Hold::Busy(id)),
                _ => consumer.settle(header.correlation, body),
            },
            Some(Stream::Publisher(_) | Stream::Reader(_)) => Settled::Refused(refused(
                ErrorCode::Malformed,
                "stream: only a consumer's takes windows, receives and settles",
            )),
            None => Settled::Closed,
        };
        match settled {
            Settled::Accepted | Settled::Ignored => {}
            Settled::Refused(error) => self.refuse_stream(id, &error),
            Settled::Closed => self.unknown(header),
        }
        Taken::Done
    }

    fn take_close(&mut self, header: &WireHeader) -> Taken {
        let id = header.stream;
        match self.streams.get(id) {
            Some(Stream::Opening) => return Taken::Held(Hold::Opening(id)),
            // Once all before it is acknowledged, the answer follows.
            Some(Stream::Publisher(publisher)) => {
                publisher.close(header.correlation);
            }
            Some(Stream::Consumer(consumer)) => consumer.close(header.correlation),
            Some(Stream::Reader(_)) => {
                self.streams.remove(id);
                self.bare(MessageKind::StreamClosed, id, header.correlation);
            }
            None => self.unknown(header),
        }
        Taken::Done
    }

    /// A message on a stream that is not open. If this side ended it, the client could not know yet.
    fn unknown(&mut self, header: &WireHeader) {
        if !self.streams.was_ended(header.stream) {
            let sentence = format!("stream: {} is not open", header.stream);
            let error = refused(ErrorCode::StreamUnknown, sentence);
            self.error(header.stream, header.correlation, &error);
        }
    }

    /// Puts a request in line.
    fn take_request(&mut self, header: &WireHeader, body: &[u8]) -> Taken {
        if self.waiting.len() >= REQUESTS_WAITING_MAX {
            return Taken::Held(Hold::Requests);
        }
        let id = header.stream;
        let opens = id != StreamId::CONNECTION;
        match self.streams.get(id) {
            Some(Stream::Opening) => return Taken::Held(Hold::Opening(id)),
            Some(Stream::Publisher(_) | Stream::Reader(_) | Stream::Consumer(_)) => {
                self.refuse_stream(id, &refused(ErrorCode::StreamInUse, "stream: open already"));
                return Taken::Done;
            }
            None => {}
        }
        let checked = if self.draining {
            Err(refused(ErrorCode::ShuttingDown, SHUTTING_DOWN))
        } else if opens && self.streams.is_full() {
            let sentence = format!("streams: {STREAMS_PER_CONNECTION_MAX} are open already");
            Err(refused(ErrorCode::Limit, sentence))
        } else {
            request(header.kind, body)
        };
        match checked {
            Err(error) => self.refuse_request(id, header.correlation, &error),
            Ok(request) => {
                if opens {
                    self.streams.insert(id, Stream::Opening);
                }
                let broker = self.broker.clone();
                let correlation = header.correlation;
                self.waiting.push_back(Job {
                    broker,
                    request,
                    stream: id,
                    correlation,
                });
            }
        }
        Taken::Done
    }

    /// Answers a request with an error; a stream it was to open is over.
    fn refuse_request(&mut self, id: StreamId, correlation: u64, error: &ErrorMessage) {
        self.error(id, correlation, error);
        if id != StreamId::CONNECTION {
            self.bare(MessageKind::StreamClosed, id, 0);
            self.streams.end(id);
        }
    }

    /// Ends an open stream with an error.
    pub(super) fn refuse_stream(&mut self, id: StreamId, error: &ErrorMessage) {
        match self.streams.get(id) {
            Some(Stream::Publisher(publisher)) => publisher.refuse(error),
            Some(Stream::Consumer(consumer)) => consumer.refuse(error),
            Some(Stream::Reader(_)) => {
                self.error(id, 0, error);
                self.bare(MessageKind::StreamClosed, id, 0);
                self.streams.end(id);
            }
            Some(Stream::Opening) | None => {}
        }
    }

    /// Takes the outcome of a request that [`Session::take_job`] gave out.
    pub fn finish_job(&mut self, done: JobDone) {
        let JobDone {
            outcome,
            stream,
            correlation,
        } = done;
        self.job_is_out = false;
        if self.stage == Stage::Closed {
            // Nothing follows the error that closed it, or the goodbye.
            if let Outcome::Consumer(consumer, _) = outcome {
                consumer.forget();
            }
            return;
        }
        match outcome {
            Outcome::Topic(info) => {
                self.out
                    .control(|out| info.encode(stream, correlation, out));
            }
            Outcome::Topics(list) => {
                self.out
                    .control(|out| list.encode(stream, correlation, out));
            }
            Outcome::Retention(retention) => {
                self.out
                    .control(|out| retention.encode(stream, correlation, out));
            }
            Outcome::Deleted => self.bare(MessageKind::TopicDeleted, stream, correlation),
            Outcome::Queue(answer) => self.out.control(|out| answer.encode(correlation, out)),
            Outcome::Refused(error) => self.refuse_request(stream, correlation, &error),
            Outcome::Consumer(consumer, _) if self.draining || self.ended => {
                consumer.forget();
                let error = refused(ErrorCode::ShuttingDown, SHUTTING_DOWN);
                self.refuse_request(stream, correlation, &error);
            }
            Outcome::Consumer(consumer, opened) => {
                self.out
                    .control(|out| opened.encode(stream, correlation, out));
                self.streams.insert(stream, Stream::Consumer(consumer));
            }
            Outcome::Publisher(..) | Outcome::Producer(..) | Outcome::Reader(_)
                if self.draining =>
            {
                let error = refused(ErrorCode::ShuttingDown, SHUTTING_DOWN);
                self.refuse_request(stream, correlation, &error);
            }
            Outcome::Publisher(publisher, opened) => {
                self.out
                    .control(|out| opened.encode(stream, correlation, out));
                self.streams.insert(stream, Stream::Publisher(publisher));
            }
            Outcome::Producer(publisher, opened) => {
                self.out
                    .control(|out| opened.encode(stream, correlation, out));
                self.streams.insert(stream, Stream::Publisher(publisher));
            }
            // A client that has hung up has nothing delivered.
            Outcome::Reader(_) if self.ended => self.streams.remove(stream),
            Outcome::Reader(reader) => self.streams.insert(stream, Stream::Reader(reader)),
        }
    }
}

/// Reads the body of a request.
fn request(kind: MessageKind, body: &[u8]) -> Result<Request, ErrorMessage> {
    let request = match kind {
        MessageKind::CreateTopic => CreateTopic::decode(body).map(Request::Create),
        MessageKind::DeleteTopic => DeleteTopic::decode(body).map(Request::Delete),
        MessageKind::DescribeTopic => DescribeTopic::decode(body).map(Request::Describe),
        MessageKind::ListTopics => ListTopics::decode(body).map(Request::List),
        MessageKind::SetRetention => SetRetention::decode(body).map(Request::SetRetention),
        MessageKind::DescribeRetention => {
            DescribeRetention::decode(body).map(Request::DescribeRetention)
        }
        MessageKind::OpenPublisher => OpenPublisher::decode(body).map(Request::OpenPublisher),
        MessageKind::OpenProducer => OpenProducer::decode(body).map(Request::OpenProducer),
        MessageKind::OpenReader => OpenReader::decode(body).map(Request::OpenReader),
        MessageKind::OpenConsumer => OpenConsumer::decode(body).map(Request::OpenConsumer),
        kind => match QueueRequest::decode(kind, body) {
            Some(request) => request.map(Request::Queue),
            None => {
                let sentence = format!("message kind: {kind:?} asks for nothing");
                return Err(refused(ErrorCode::UnknownKind, sentence));
            }
        },
    };
    let request = request.map_err(|error| bad_body(&error))?;
    match &request {
        Request::OpenReader(open) => check_credit(i64::from(open.credit_bytes))?,
        Request::OpenConsumer(open) => check_open(open)?,
        _ => {}
    }
    Ok(request)
}
