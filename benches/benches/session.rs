//! What a server does with the bytes of a connection: split, check, append; without a socket.

mod settings;

use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{SamplingMode, Throughput};
use millstream::{AckLevel, Durability, TopicName};
use millstream_benches::stage::{BURST_BYTES, Stage, Topic, batch, time_stretches};
use millstream_protocol::control::{Hello, Magic, OpenPublisher};
use millstream_protocol::frame::{ProducerStamp, check_publish};
use millstream_protocol::limits::{WIRE_HEADER_BYTES, WIRE_VERSION};
use millstream_protocol::wire::{Next, Phase, StreamId, WireHeader, next_message};
use millstream_server::{Session, SessionOptions};
use settings::in_short;

/// What a socket hands over at once.
const INPUT_BYTES: usize = 64 << 10;
const STREAM: StreamId = StreamId(1);

fn main() {
    let mut criterion = in_short();
    let mut stage = Stage::of_bursts();
    for (shape, records, body_bytes) in [
        ("1x64B", 1, 64),
        ("1x100B", 1, 100),
        ("64x100B", 64, 100),
        ("1x1KiB", 1, 1 << 10),
    ] {
        let mut frame = Vec::new();
        batch(records, body_bytes).encode_frame(ProducerStamp::NONE, &mut frame);
        let mut input = Input::of(frame);
        let mut group = criterion.benchmark_group(format!("server/publish/{shape}"));
        group.throughput(Throughput::Elements(input.publishes * records as u64));
        input.number_from(1);
        group.bench_function("split and check", |b| {
            b.iter(|| split(black_box(&input.bytes)));
        });
        let turns = (BURST_BYTES / input.bytes.len()) as u64;
        let records = input.publishes * records as u64;
        group.throughput(Throughput::Elements(turns * records));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.measurement_time(Duration::from_millis(200));
        group.bench_function("session, stored", |b| {
            b.iter_custom(|iterations| {
                let fresh = || stage.topic(Durability::Stored);
                time_stretches(iterations, fresh, |topic| {
                    let mut session = publishing_to(topic);
                    let mut spent = Duration::ZERO;
                    for turn in 0..turns {
                        input.number_from(1 + turn * input.publishes);
                        let start = Instant::now();
                        take(&mut session, &input.bytes);
                        spent += start.elapsed();
                    }
                    spent
                })
            });
        });
        group.finish();
    }
    criterion.final_summary();
}

/// What a socket hands over at once: publishes of one frame each.
struct Input {
    frame: Vec<u8>,
    publishes: u64,
    bytes: Vec<u8>,
}

impl Input {
    fn of(frame: Vec<u8>) -> Self {
        let publishes = (INPUT_BYTES / (WIRE_HEADER_BYTES + frame.len())).max(1) as u64;
        Self {
            frame,
            publishes,
            bytes: Vec::new(),
        }
    }

    /// Writes the publishes, the first of which is the stream's `number`-th.
    fn number_from(&mut self, number: u64) {
        let frame_bytes = u32::try_from(self.frame.len()).expect("a frame fits in 32 bits");
        self.bytes.clear();
        for number in number..number + self.publishes {
            let header = WireHeader::publish(STREAM, number, frame_bytes);
            self.bytes.extend_from_slice(&header.encode());
            self.bytes.extend_from_slice(&self.frame);
        }
    }
}

/// Finds the publishes in `input` and checks each; how many there were.
fn split(mut input: &[u8]) -> u64 {
    let mut publishes = 0;
    while let Ok(Next::Message { body, consumed, .. }) = next_message(input, Phase::Server) {
        publishes += u64::from(check_publish(body).is_ok());
        input = input.get(consumed..).unwrap_or_default();
    }
    publishes
}

/// A session with a publisher's stream that is open.
fn publishing_to(topic: &Topic) -> Session {
    let mut session = Session::new(topic.broker().clone(), SessionOptions::new());
    session.tick(Instant::now());
    let mut said = Vec::new();
    let hello = Hello {
        magic: Magic,
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        features: 0,
        client: "bench".to_owned(),
    };
    hello.encode(StreamId::CONNECTION, 0, &mut said);
    let open = OpenPublisher {
        topic: TopicName::parse(topic.name()).expect("it is the name of a topic"),
        ack: AckLevel::Stored,
        create: false,
    };
    open.encode(STREAM, 0, &mut said);
    take(&mut session, &said);
    if let Some(job) = session.take_job() {
        session.finish_job(job.run());
    }
    session
}

/// Hands `input` over, and takes what the session answers, as an I/O thread does in a turn.
fn take(session: &mut Session, input: &[u8]) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut rest = input;
    while !rest.is_empty() {
        let received = session.receive(rest).expect("the input is in order");
        rest = rest.get(received.consumed..).unwrap_or_default();
        session.poll(&mut cx);
        while let Some(out) = session.pop_output() {
            black_box(out.as_bytes());
            session.recycle(out);
        }
    }
}
