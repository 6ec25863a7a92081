//! A scripted server: makes the bytes a server sends, reads those a client sent.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use millstream_client::core::{Core, Event, Greeting, Outgoing};
use millstream_client::{AckLevel, Durability, ErrorCode, Offset, Start};
use millstream_protocol::TopicName;
use millstream_protocol::batch::BatchBuilder;
use millstream_protocol::control::{
    AckRun, ConsumerOpened, DeliveryPrelude, ErrorMessage, FaultEntry, OpenConsumer, OpenPublisher,
    OpenReader, PublishAck, PublisherOpened, ReaderOpened, SettleAck, SettleFault, Welcome, Work,
    WorkEntry,
};
use millstream_protocol::frame::{
    CommitWord, FrameHeader, FrameKind, FramePlace, FrameSeed, ProducerStamp, PublisherFields,
    check_publish, frame_bytes,
};
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES, WIRE_VERSION,
};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};

pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
pub(crate) const PLACE: FramePlace = FramePlace {
    seed: FrameSeed(0xfeed),
    nonce_half: 0xabcd,
    position: 12_288,
};

pub(crate) const QUEUE_ID: u32 = 7;
pub(crate) const BOOT_EPOCH: u32 = 3;
pub(crate) const LEASE_MS: u32 = 30_000;

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: WIRE_VERSION,
        features: 0,
        server: "script".to_owned(),
        folder_id: [7; 16],
        boot_epoch: 1,
        frame_bytes_max: FRAME_BYTES_MAX as u32,
        publish_window_bytes: PUBLISH_WINDOW_BYTES,
        publish_window_frames: PUBLISH_WINDOW_FRAMES,
        heartbeat_ms: HEARTBEAT.as_millis() as u32,
    }
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// A message a client sent: its header, and its body.
pub(crate) type Sent = (WireHeader, Vec<u8>);

/// A core and the server it talks to.
pub(crate) struct Session {
    pub(crate) core: Core,
    pub(crate) now: Instant,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self::with(&welcome())
    }

    pub(crate) fn with(welcome: &Welcome) -> Self {
        let now = Instant::now();
        let mut bytes = Vec::new();
        welcome.encode(StreamId::CONNECTION, 0, &mut bytes);
        let mut input = BytesMut::from(&bytes[..]);
        let core = Greeting::new("test").receive(now, &mut input).unwrap();
        let core = core.expect("the welcome is whole");
        assert!(input.is_empty());
        Self { core, now }
    }

    /// A publisher stream the server has opened.
    pub(crate) fn open_publisher(&mut self) -> StreamId {
        let open = OpenPublisher {
            topic: topic("t"),
            ack: AckLevel::Topic,
            create: true,
        };
        let stream = self.core.open_publisher(&open).unwrap();
        let sent = self.sent();
        assert_eq!(sent.last().unwrap().0.kind, MessageKind::OpenPublisher);
        self.feed(&publisher_opened(stream));
        assert!(matches!(self.events()[..], [Event::PublisherOpened { .. }]));
        stream
    }

    /// A reader stream the server has opened at `start`.
    pub(crate) fn open_reader(&mut self, credit_bytes: u32, start: u64) -> StreamId {
        let open = OpenReader {
            topic: topic("t"),
            start: Start::Earliest,
            credit_bytes,
        };
        let stream = self.core.open_reader(&open).unwrap();
        self.sent();
        self.feed(&reader_opened(stream, start, start));
        assert!(matches!(self.events()[..], [Event::ReaderOpened { .. }]));
        stream
    }

    /// A consumer stream the server has opened.
    pub(crate) fn open_consumer(&mut self, window_messages: u32) -> StreamId {
        let open = OpenConsumer {
            queue: topic("q"),
            window_messages,
            window_bytes: 0,
            lease_ms: 0,
            name: "test".to_owned(),
        };
        let stream = self.core.open_consumer(&open).unwrap();
        let sent = self.sent();
        assert_eq!(OpenConsumer::decode(&sent.last().unwrap().1).unwrap(), open);
        self.feed(&consumer_opened(stream, 1));
        assert!(matches!(self.events()[..], [Event::ConsumerOpened { .. }]));
        stream
    }

    /// Hands bytes of the server in, all at once.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        self.core.receive(self.now, &mut input);
        assert!(
            input.is_empty() || self.core.ended().is_some(),
            "the script sends whole messages"
        );
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.core.next_event()).collect()
    }

    /// The messages of one pass of the writer.
    pub(crate) fn pass(&mut self) -> Vec<Sent> {
        let mut out = Outgoing::default();
        self.core.transmit(self.now, &mut out);
        let bytes = [&out.head[..], &out.body[..]].concat();
        messages(&bytes)
    }

    /// The messages of all passes until nothing is left.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            let pass = self.pass();
            if pass.is_empty() {
                return sent;
            }
            sent.extend(pass);
        }
    }

    /// The records of every publish that is sent, frame by frame.
    pub(crate) fn publishes(&mut self) -> Vec<Published> {
        let sent = self.sent();
        sent.iter().map(published).collect()
    }

    /// The events so far, the last of which must say that the server broke the protocol.
    pub(crate) fn violation(&mut self) -> String {
        match self.events().pop() {
            Some(Event::Ended(millstream_client::ConnectionError::Protocol { what })) => {
                what.to_string()
            }
            other => panic!("not taken for a violation: {other:?}"),
        }
    }
}

/// A publish as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) stream: u32,
    pub(crate) number: u64,
    pub(crate) bodies: Vec<Vec<u8>>,
}

/// What was sent must pass the server's checks.
pub(crate) fn published((header, body): &Sent) -> Published {
    assert_eq!(header.kind, MessageKind::Publish);
    let frame = check_publish(body).unwrap();
    let fields = frame.fields();
    let view = millstream_protocol::batch::BatchView::check(
        fields.kind,
        fields.record_count,
        fields.compressed,
        frame.body(),
    );
    let bodies = view.unwrap().iter().map(|r| r.body().to_vec()).collect();
    Published {
        stream: header.stream.0,
        number: header.correlation,
        bodies,
    }
}

pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Sent> {
    let mut sent = Vec::new();
    while !bytes.is_empty() {
        match next_message(bytes, Phase::Server).unwrap() {
            Next::Message {
                header,
                body,
                consumed,
            } => {
                sent.push((header, body.to_vec()));
                bytes = &bytes[consumed..];
            }
            Next::Need(_) => panic!("a pass ends with a whole message"),
        }
    }
    sent
}

pub(crate) fn publisher_opened(stream: StreamId) -> Vec<u8> {
    let opened = PublisherOpened {
        durability: Durability::Synced,
        next_offset: Offset(0),
    };
    encoded(|out| opened.encode(stream, 0, out))
}

pub(crate) fn reader_opened(stream: StreamId, start: u64, end: u64) -> Vec<u8> {
    let opened = ReaderOpened {
        start_offset: Offset(start),
        end_offset: Offset(end),
        incarnation: [1; 16],
    };
    encoded(|out| opened.encode(stream, 0, out))
}

/// An acknowledgement up to `highest`, as runs of (publishes, base offset).
pub(crate) fn ack(stream: StreamId, highest: u64, runs: &[(u32, u64)]) -> Vec<u8> {
    let runs: Vec<_> = runs
        .iter()
        .map(|&(publishes, base)| AckRun {
            publishes,
            duplicates: false,
            base_offset: Offset(base),
        })
        .collect();
    encoded(|out| PublishAck::encode(&runs, stream, highest, out))
}

pub(crate) fn refusal(stream: StreamId, correlation: u64, code: ErrorCode) -> Vec<u8> {
    let error = ErrorMessage::new(code, "because");
    encoded(|out| error.encode(stream, correlation, out))
}

pub(crate) fn bare(kind: MessageKind, stream: StreamId, correlation: u64) -> Vec<u8> {
    WireHeader::bare(kind, stream, correlation)
        .encode()
        .to_vec()
}

pub(crate) fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

/// A stored frame with these bodies, as it lies at `position`.
pub(crate) fn stored(bodies: &[&[u8]], base: u64, position: u32) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    for body in bodies {
        batch.push_body(body).unwrap();
    }
    let mut sent = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut sent);
    store(&sent, base, position)
}

/// The frame a publisher sent, as a log stores it. Nothing is checked: it may be a hostile one.
pub(crate) fn store(sent: &[u8], base: u64, position: u32) -> Vec<u8> {
    let body = &sent[64..];
    let fields = PublisherFields {
        kind: FrameKind::from_code(sent[32]).unwrap(),
        compressed: sent[33] & 1 == 1,
        record_count: record_count(sent),
        body_bytes: body.len() as u32,
        producer: ProducerStamp::NONE,
    };
    let header = FrameHeader {
        fields,
        body_crc: u32::from_le_bytes(*sent[12..].first_chunk().unwrap()),
        base_offset: Offset(base),
        append_time_us: 1_000_000,
    };
    let length = frame_bytes(fields.body_bytes);
    let word = CommitWord {
        frame_bytes: length,
        nonce_half: PLACE.nonce_half,
    };
    let mut bytes = word.to_u64().to_le_bytes().to_vec();
    bytes.extend_from_slice(&header.encode(PLACE.seed, position));
    bytes.extend_from_slice(body);
    bytes.resize(length as usize, 0);
    bytes
}

/// The records a frame says it has.
pub(crate) fn record_count(sent: &[u8]) -> u16 {
    u16::from_le_bytes(*sent[34..].first_chunk().unwrap())
}

/// A delivery of frames that begin at `position`.
pub(crate) fn delivery(
    stream: StreamId,
    position: u32,
    offsets: std::ops::Range<u64>,
    frames: &[u8],
) -> Vec<u8> {
    let prelude = DeliveryPrelude {
        place: FramePlace { position, ..PLACE },
        frames_bytes: frames.len() as u32,
        first_offset: Offset(offsets.start),
        next_offset: Offset(offsets.end),
    };
    let mut bytes = prelude.encode(stream, 1).to_vec();
    bytes.extend_from_slice(frames);
    bytes
}

/// A consumer of queue `QUEUE_ID`, number `consumer`, with leases of 30 seconds.
pub(crate) fn consumer_opened(stream: StreamId, consumer: u64) -> Vec<u8> {
    let opened = ConsumerOpened {
        queue_id: QUEUE_ID,
        boot_epoch: BOOT_EPOCH,
        consumer,
        lease_ms: LEASE_MS,
        topic: topic("t"),
    };
    encoded(|out| opened.encode(stream, 0, out))
}

/// Work of these offsets and leases; each body is its offset.
pub(crate) fn work(stream: StreamId, leases: &[(u64, u64)]) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    let entries: Vec<_> = leases
        .iter()
        .map(|&(offset, lease)| {
            batch.push_body(offset.to_string().as_bytes()).unwrap();
            WorkEntry {
                offset: Offset(offset),
                lease,
                append_us: 1_000_000,
                first_us: 0,
                left_ms: LEASE_MS,
                attempts: 1,
            }
        })
        .collect();
    encoded(|out| Work::encode(&entries, &batch, stream, 0, out))
}

/// All settles up to `through` are on disk, but those listed, whose leases are lost.
pub(crate) fn settle_ack(stream: StreamId, through: u64, lost: &[u64]) -> Vec<u8> {
    let faults: Vec<_> = lost
        .iter()
        .map(|&number| FaultEntry {
            number,
            fault: SettleFault::LeaseLost,
        })
        .collect();
    encoded(|out| SettleAck::encode(through, &faults, stream, out))
}
