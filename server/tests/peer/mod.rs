//! A client made of bytes: what it says, and what it hears back.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use millstream::Broker;
use millstream_protocol::batch::{Checked, RecordRun};
use millstream_protocol::control::{
    ConsumerOpened, CreateTopic, Credit, DeleteTopic, Delivery, DescribeRetention, DescribeTopic,
    ErrorMessage, Gap, Goodbye, Hello, ListTopics, Magic, OpenProducer, OpenPublisher, OpenReader,
    ProducerOpened, PublishAck, PublisherOpened, ReaderOpened, Retention, SetRetention,
    SettleFault, TopicInfo, TopicList, Welcome, features,
};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::{ProducerStamp, PublisherFields, publish_header};
use millstream_protocol::limits::{FRAME_HEADER_BYTES, WIRE_VERSION};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};
use millstream_protocol::{AckLevel, Durability, Offset, Start, TopicName};
use millstream_server::{Session, SessionOptions};

mod work;

pub use work::{Answer, Worked};

pub fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

/// Messages as a client sends them, one behind the other.
#[derive(Debug, Default, Clone)]
pub struct Script(pub Vec<u8>);

impl Script {
    pub fn hello() -> Self {
        Self::default().and_hello(WIRE_VERSION, WIRE_VERSION)
    }

    pub fn and_hello(self, version_min: u16, version_max: u16) -> Self {
        self.hello_with(version_min..=version_max, features::ALL)
    }

    pub fn hello_with(mut self, versions: RangeInclusive<u16>, features: u64) -> Self {
        let hello = Hello {
            magic: Magic,
            version_min: *versions.start(),
            version_max: *versions.end(),
            features,
            client: "bytes".to_owned(),
        };
        hello.encode(StreamId(0), 0, &mut self.0);
        self
    }

    pub fn create(mut self, correlation: u64, topic: &str, durability: Durability) -> Self {
        let create = CreateTopic {
            name: name(topic),
            durability,
        };
        create.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn delete(mut self, correlation: u64, topic: &str) -> Self {
        DeleteTopic { name: name(topic) }.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn describe(mut self, correlation: u64, topic: &str) -> Self {
        DescribeTopic { name: name(topic) }.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn list(mut self, correlation: u64, after: Option<&str>) -> Self {
        let list = ListTopics {
            after: after.map(name),
        };
        list.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn set_retention(mut self, correlation: u64, topic: &str, retention: Retention) -> Self {
        let set = SetRetention {
            topic: name(topic),
            retention,
        };
        set.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn describe_retention(mut self, correlation: u64, topic: &str) -> Self {
        DescribeRetention { topic: name(topic) }.encode(StreamId(0), correlation, &mut self.0);
        self
    }

    pub fn publisher(mut self, stream: u32, topic: &str, ack: AckLevel) -> Self {
        let open = OpenPublisher {
            topic: name(topic),
            ack,
            create: true,
        };
        open.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn producer(mut self, stream: u32, topic: &str, epoch: u64) -> Self {
        let open = OpenProducer {
            topic: name(topic),
            producer: name("till-7"),
            ack: AckLevel::Topic,
            create: true,
            epoch,
            acknowledged: 0,
        };
        open.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn publish(self, stream: u32, number: u64, body: &[u8]) -> Self {
        self.publish_as(stream, number, body, ProducerStamp::NONE)
    }

    pub fn publish_as(
        mut self,
        stream: u32,
        number: u64,
        body: &[u8],
        producer: ProducerStamp,
    ) -> Self {
        let fields = PublisherFields {
            producer,
            ..PublisherFields::single(body.len() as u32)
        };
        let frame_bytes = (FRAME_HEADER_BYTES + body.len()) as u32;
        let header = WireHeader::publish(StreamId(stream), number, frame_bytes);
        self.0.extend_from_slice(&header.encode());
        self.0.extend_from_slice(&publish_header(&fields, body));
        self.0.extend_from_slice(body);
        self
    }

    pub fn reader(mut self, stream: u32, topic: &str, start: Start, credit_bytes: u32) -> Self {
        let open = OpenReader {
            topic: name(topic),
            start,
            credit_bytes,
        };
        open.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn credit(mut self, stream: u32, bytes: u32) -> Self {
        Credit { bytes }.encode(StreamId(stream), 0, &mut self.0);
        self
    }

    pub fn bare(mut self, kind: MessageKind, stream: u32, correlation: u64) -> Self {
        let header = WireHeader::bare(kind, StreamId(stream), correlation);
        self.0.extend_from_slice(&header.encode());
        self
    }

    pub fn close(self, stream: u32, correlation: u64) -> Self {
        self.bare(MessageKind::CloseStream, stream, correlation)
    }

    pub fn ping(self, correlation: u64) -> Self {
        self.bare(MessageKind::Ping, 0, correlation)
    }

    pub fn goodbye(mut self) -> Self {
        Goodbye {
            reason: "done".to_owned(),
        }
        .encode(StreamId(0), 0, &mut self.0);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// What a server said, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Welcome(Welcome),
    Ping,
    Pong(u64),
    Goodbye(String),
    Error {
        stream: u32,
        correlation: u64,
        code: ErrorCode,
        effect: Effect,
        message: String,
    },
    StreamClosed {
        stream: u32,
        correlation: u64,
    },
    Topic {
        correlation: u64,
        info: TopicInfo,
    },
    Topics {
        correlation: u64,
        list: TopicList,
    },
    Deleted(u64),
    Retention {
        correlation: u64,
        retention: Retention,
    },
    PublisherOpened {
        stream: u32,
        opened: PublisherOpened,
    },
    ProducerOpened {
        stream: u32,
        opened: ProducerOpened,
    },
    /// One for each publish.
    Acked {
        stream: u32,
        publish: u64,
        base: Offset,
    },
    ReaderOpened {
        stream: u32,
        opened: ReaderOpened,
    },
    Record {
        stream: u32,
        offset: u64,
        body: Vec<u8>,
    },
    Gap {
        stream: u32,
        gap: Gap,
    },
    Queue {
        correlation: u64,
        answer: Answer,
    },
    ConsumerOpened {
        stream: u32,
        opened: ConsumerOpened,
    },
    Work {
        stream: u32,
        work: Worked,
    },
    /// One for each settle.
    Settled {
        stream: u32,
        number: u64,
        fault: Option<SettleFault>,
    },
    ReceiveOver {
        stream: u32,
        correlation: u64,
        granted: u32,
    },
}

impl Said {
    pub fn is_error(&self, wanted: ErrorCode) -> bool {
        matches!(self, Self::Error { code, .. } if *code == wanted)
    }
}

/// Takes apart what a server sends. Acknowledgements count on from those before.
#[derive(Debug, Default)]
pub struct Ear {
    waiting: Vec<u8>,
    welcomed: bool,
    acked: std::collections::BTreeMap<u32, (u64, Vec<u16>)>,
    /// Publishes acknowledged as duplicates, by stream and number.
    pub duplicates: std::collections::BTreeSet<(u32, u64)>,
    /// Settles answered on each stream.
    settled: std::collections::BTreeMap<u32, u64>,
    /// Where each reader is: frames may begin before that.
    from: std::collections::BTreeMap<u32, Offset>,
    pub said: Vec<Said>,
    /// Bytes of frames delivered.
    pub delivered: u64,
}

impl Ear {
    pub fn hear(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        loop {
            let phase = if self.welcomed {
                Phase::Client
            } else {
                Phase::ClientBeforeWelcome
            };
            let waiting = std::mem::take(&mut self.waiting);
            let consumed = match next_message(&waiting, phase).expect("a server's bytes are right")
            {
                Next::Need(_) => {
                    self.waiting = waiting;
                    return;
                }
                Next::Message {
                    header,
                    body,
                    consumed,
                } => {
                    self.message(&header, body);
                    consumed
                }
            };
            self.waiting = waiting[consumed..].to_vec();
        }
    }

    fn message(&mut self, header: &WireHeader, body: &[u8]) {
        let (stream, correlation) = (header.stream.0, header.correlation);
        let said = match header.kind {
            MessageKind::Welcome => {
                self.welcomed = true;
                Said::Welcome(Welcome::decode(body).unwrap())
            }
            MessageKind::Ping => Said::Ping,
            MessageKind::Pong => Said::Pong(correlation),
            MessageKind::Goodbye => Said::Goodbye(Goodbye::decode(body).unwrap().reason),
            MessageKind::Error => {
                let ErrorMessage {
                    code,
                    effect,
                    message,
                    ..
                } = ErrorMessage::decode(body).unwrap();
                Said::Error {
                    stream,
                    correlation,
                    code,
                    effect,
                    message,
                }
            }
            MessageKind::StreamClosed => Said::StreamClosed {
                stream,
                correlation,
            },
            MessageKind::TopicInfo => Said::Topic {
                correlation,
                info: TopicInfo::decode(body).unwrap(),
            },
            MessageKind::TopicList => Said::Topics {
                correlation,
                list: TopicList::decode(body).unwrap(),
            },
            MessageKind::TopicDeleted => Said::Deleted(correlation),
            MessageKind::Retention => Said::Retention {
                correlation,
                retention: Retention::decode(body).unwrap(),
            },
            MessageKind::PublisherOpened => {
                // Numbers begin anew where a stream is opened again.
                self.acked.remove(&stream);
                let opened = PublisherOpened::decode(body).unwrap();
                Said::PublisherOpened { stream, opened }
            }
            MessageKind::ProducerOpened => Said::ProducerOpened {
                stream,
                opened: ProducerOpened::decode(body).unwrap(),
            },
            MessageKind::ReaderOpened => {
                let opened = ReaderOpened::decode(body).unwrap();
                self.from.insert(stream, opened.start_offset);
                Said::ReaderOpened { stream, opened }
            }
            MessageKind::Gap => Said::Gap {
                stream,
                gap: Gap::decode(body).unwrap(),
            },
            MessageKind::PublishAck => return self.acked(stream, correlation, body),
            MessageKind::Frames => return self.frames(stream, body),
            MessageKind::Work => return self.work(stream, body),
            MessageKind::SettleAck => return self.settled(stream, body),
            _ => work::said(header, body),
        };
        self.said.push(said);
    }

    /// Each publish here is one record, so a run's offsets count up by one.
    fn acked(&mut self, stream: u32, number: u64, body: &[u8]) {
        let (acked, _) = self.acked.entry(stream).or_default();
        for run in PublishAck::decode(body).unwrap().runs() {
            for index in 0..run.publishes {
                *acked += 1;
                if run.duplicates {
                    self.duplicates.insert((stream, *acked));
                }
                let base = run.base_offset + u64::from(index);
                self.said.push(Said::Acked {
                    stream,
                    publish: *acked,
                    base,
                });
            }
        }
        assert_eq!(
            *acked, number,
            "the correlation is the highest publish acknowledged"
        );
    }

    fn frames(&mut self, stream: u32, body: &[u8]) {
        let delivery = Delivery::decode(body).unwrap();
        self.delivered += delivery.frames.len() as u64;
        let from = self.from[&stream];
        let frames = bytes::Bytes::copy_from_slice(delivery.frames);
        for record in RecordRun::new(frames, delivery.prelude.place, Checked::No, from) {
            let record = record.expect("a stored frame checks out");
            let (offset, body) = (record.offset().0, record.as_bytes().to_vec());
            self.said.push(Said::Record {
                stream,
                offset,
                body,
            });
        }
        self.from.insert(stream, delivery.prelude.next_offset);
    }
}

/// Wakes a thread that parks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A session with a client on the other side of a piece of memory.
pub struct Wire {
    pub session: Session,
    input: Vec<u8>,
    pub ear: Ear,
    pub closed: bool,
    waker: Waker,
}

impl Wire {
    pub fn new(broker: &Broker) -> Self {
        let mut session = Session::new(broker.clone(), SessionOptions::new());
        session.tick(Instant::now());
        Self {
            session,
            input: Vec::new(),
            ear: Ear::default(),
            closed: false,
            waker: Arc::new(Unpark(std::thread::current())).into(),
        }
    }

    /// Hands `bytes` over as one piece of input.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.turn();
    }

    /// Hands `bytes` over as one piece of input, and takes no output.
    pub fn say(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.turn_deaf();
    }

    /// Does all that can be done now; whether anything was.
    pub fn turn(&mut self) -> bool {
        let mut moved = false;
        loop {
            let again = self.turn_deaf() | self.take_output();
            if !again {
                return moved;
            }
            moved = true;
        }
    }

    /// Does all that can be done now without taking output; whether anything was.
    pub fn turn_deaf(&mut self) -> bool {
        let mut moved = false;
        loop {
            let mut again = false;
            if !self.closed && !self.input.is_empty() && !self.session.is_held() {
                match self.session.receive(&self.input) {
                    Ok(received) => {
                        self.input.drain(..received.consumed);
                        again |= received.consumed > 0;
                    }
                    Err(_) => self.closed = true,
                }
            }
            if let Some(job) = self.session.take_job() {
                self.session.finish_job(job.run());
                again = true;
            }
            again |= self.session.poll(&mut Context::from_waker(&self.waker));
            if !again {
                return moved;
            }
            moved = true;
        }
    }

    pub fn take_output(&mut self) -> bool {
        let mut any = false;
        while let Some(out) = self.session.pop_output() {
            self.ear.hear(out.as_bytes());
            self.session.recycle(out);
            any = true;
        }
        any
    }

    /// Goes on until `done` says so of all that was heard. Parks in between.
    pub fn until(&mut self, mut done: impl FnMut(&[Said]) -> bool) -> &[Said] {
        loop {
            self.turn();
            if done(&self.ear.said) {
                return &self.ear.said;
            }
            std::thread::park();
        }
    }

    /// Goes on until something heard is what `wanted` describes.
    pub fn until_any(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        let mut found = None;
        self.until(|said| {
            found = said.iter().find(|said| wanted(said)).cloned();
            found.is_some()
        });
        found.expect("the loop ends with it")
    }

    pub fn until_error(&mut self, wanted: ErrorCode) -> Said {
        self.until_any(|said| said.is_error(wanted))
    }

    pub fn until_acked(&mut self, stream: u32, number: u64) -> &[Said] {
        self.until(|said| {
            said.iter().any(|said| {
                matches!(said, Said::Acked { stream: s, publish, .. }
                    if *s == stream && *publish == number)
            })
        })
    }
}
