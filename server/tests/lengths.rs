//! Whatever a length or a count claims, nothing is allocated from it before it was checked.
//!
//! Every 32-bit word at every place of every message a client may send is set to each of
//! [`CLAIMS`], with all checksums made right again, and what the session asks the allocator for
//! while it takes the message is counted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod counting;
mod peer;

use std::task::{Context, Waker};
use std::time::Instant;

use millstream::Broker;
use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::{
    Leaser, QueueSettings, QueueVerb, Retention, SettleEntry, SettleVerb,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::frame::ProducerStamp;
use millstream_protocol::limits::{
    CONTROL_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, HELLO_BYTES_MAX, PRE_HELLO_BYTES_MAX,
    PUBLISH_WINDOW_BYTES, READ_CREDIT_BYTES_MAX, RECORDS_PER_FRAME_MAX, SETTLE_BYTES_MAX,
    SETTLES_MAX, WIRE_HEADER_BYTES, WORK_WINDOW_MESSAGES_MAX,
};
use millstream_protocol::wire::{MessageKind, Phase, StreamId, WireHeader};
use millstream_protocol::{AckLevel, Durability, Offset, Start};
use millstream_server::{Session, SessionOptions};

use counting::{Asked, asked_by};
use peer::{Said, Script, Wire};

/// What a length may claim: nothing, one, each limit and one more, and the largest there are.
const CLAIMS: [u32; 26] = [
    0,
    1,
    2,
    32,
    33,
    255,
    256,
    HELLO_BYTES_MAX as u32,
    HELLO_BYTES_MAX as u32 + 1,
    SETTLES_MAX as u32,
    SETTLES_MAX as u32 + 1,
    RECORDS_PER_FRAME_MAX as u32,
    RECORDS_PER_FRAME_MAX as u32 + 1,
    WORK_WINDOW_MESSAGES_MAX + 1,
    CONTROL_BYTES_MAX as u32 - 32,
    SETTLE_BYTES_MAX as u32,
    SETTLE_BYTES_MAX as u32 + 1,
    PUBLISH_WINDOW_BYTES,
    PUBLISH_WINDOW_BYTES + 1,
    FRAME_BYTES_MAX as u32,
    FRAME_BYTES_MAX as u32 + 1,
    READ_CREDIT_BYTES_MAX,
    READ_CREDIT_BYTES_MAX + 1,
    1 << 31,
    (1 << 31) + 1,
    u32::MAX,
];

/// Most bytes a session asks for to take a small message, whatever it claims, and to answer it.
const ASKED_BYTES_MAX: u64 = 64 << 10;
/// Most bytes of them in one piece.
const LARGEST_BYTES_MAX: u64 = 32 << 10;

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    (folder, broker)
}

/// A session that has been greeted.
fn open(broker: &Broker) -> Wire {
    let mut wire = Wire::new(broker);
    wire.feed(&Script::hello().0);
    wire.ear.said.clear();
    wire
}

/// A header whose checksum is right, whatever else it says.
fn header(kind: u8, body_bytes: u32, stream: u32, body_crc: u32) -> [u8; WIRE_HEADER_BYTES] {
    let mut bytes = WireHeader::bare(MessageKind::Ping, StreamId(stream), 1).encode();
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    bytes[24..28].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The error a header alone is refused with; none when the session waits for its body, or takes it.
fn refusal(kind: u8, body_bytes: u32, phase: Phase) -> Option<ErrorCode> {
    let Some(kind) = MessageKind::from_code(kind) else {
        return Some(ErrorCode::UnknownKind);
    };
    if !kind.may_come(phase) {
        return Some(match phase {
            Phase::ServerBeforeHello => ErrorCode::HelloRequired,
            _ => ErrorCode::UnknownKind,
        });
    }
    (body_bytes as usize > kind.body_bytes_max()).then_some(ErrorCode::TooLarge)
}

/// Whether a message of the kind is about a stream.
fn is_about_stream(kind: u8) -> bool {
    matches!(kind, 7 | 8 | 32..=37 | 48..=52 | 96..=103)
}

#[test]
fn the_type_is_checked_before_the_length_and_the_length_before_anything_is_allocated() {
    let (_folder, broker) = broker();
    for kind in 0..=u8::MAX {
        let limit = MessageKind::from_code(kind).map_or(1 << 16, MessageKind::body_bytes_max);
        let limit = u32::try_from(limit).unwrap();
        for body_bytes in [0, 1, limit, limit + 1, 1 << 31, u32::MAX] {
            for phase in [Phase::ServerBeforeHello, Phase::Server] {
                let mut wire = match phase {
                    Phase::Server => open(&broker),
                    _ => Wire::new(&broker),
                };
                let header = header(kind, body_bytes, u32::from(is_about_stream(kind)), 0);
                let (asked, received) = asked_by(|| wire.session.receive(&header));
                let what = format!("kind {kind}, {body_bytes} bytes, {phase:?}: {asked:?}");
                assert!(asked.bytes <= 4096, "{what}");
                let said = |wire: &mut Wire| {
                    wire.take_output();
                    wire.ear.said.last().cloned()
                };
                match refusal(kind, body_bytes, phase) {
                    Some(code) => {
                        assert!(received.is_err(), "{what}");
                        let said = said(&mut wire);
                        assert!(said.is_some_and(|said| said.is_error(code)), "{what}");
                    }
                    None if body_bytes > 0 => {
                        assert_eq!(received.unwrap().need, 32 + body_bytes as usize, "{what}");
                        assert_eq!(said(&mut wire), None, "{what}");
                    }
                    None => {}
                }
            }
        }
    }
}

/// A message's kind, stream and body.
type Sample = (u8, u32, Vec<u8>);

/// Takes a script of one message apart.
fn sample(script: Script) -> Sample {
    let bytes = script.0;
    let stream = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    (bytes[0], stream, bytes[WIRE_HEADER_BYTES..].to_vec())
}

/// The message with all its checksums made right.
fn whole((kind, stream, body): &Sample) -> Vec<u8> {
    let mut body = body.clone();
    let is_publish = *kind == MessageKind::Publish.code();
    if is_publish && body.len() >= FRAME_HEADER_BYTES {
        let crc = crc32c(&body[32..]);
        body[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = if is_publish { 0 } else { crc32c(&body) };
    let header = header(*kind, body.len() as u32, *stream, crc);
    [&header[..], &body].concat()
}

/// Every message that differs from `sample` in one word that is one of [`CLAIMS`].
fn claims(sample: &Sample) -> impl Iterator<Item = Sample> {
    let places = 0..sample.2.len().saturating_sub(3);
    places.flat_map(move |place| {
        CLAIMS.into_iter().map(move |claim| {
            let mut claiming = sample.clone();
            claiming.2[place..place + 4].copy_from_slice(&claim.to_le_bytes());
            claiming
        })
    })
}

/// Requests whose outcome is looked at, too: none of them makes anything.
fn questions() -> Vec<Script> {
    let script = Script::default;
    vec![
        script().describe(1, "topic"),
        script().list(1, Some("topic")),
        script().describe_retention(1, "topic"),
        script().describe_queue(1, "queue"),
        script().list_queues(1, Some("queue")),
        script().peek(1, "queue", 1, 1),
        script().leases(1, "queue"),
        script().describe_cursor(1, "topic", "cursor"),
        script().list_cursors(1, Some(("topic", "cursor"))),
        script().reader(1, "topic", Start::Offset(Offset(1)), 1),
        script().consumer(1, "queue", 1),
    ]
}

/// Requests that are only taken: what came of them would be on disk.
fn orders() -> Vec<Script> {
    let script = Script::default;
    vec![
        script().create(1, "topic", Durability::Stored),
        script().delete(1, "topic"),
        script().set_retention(1, "topic", Retention::KEEP_ALL),
        script().queue_over(1, "queue", Some("topic"), QueueSettings::default()),
        script().set_queue(1, "queue", QueueSettings::default()),
        script().delete_queue(1, "queue"),
        script().control_queue(1, "queue", QueueVerb::Purge),
        script().redrive(1, "queue"),
        script().set_cursor(1, "topic", "cursor", 1),
        script().delete_cursor(1, "topic", "cursor"),
        script().publisher(1, "topic", AckLevel::Stored),
        script().goodbye(),
    ]
}

#[track_caller]
fn is_modest(asked: Asked, sample: &Sample) {
    assert!(
        asked.bytes <= ASKED_BYTES_MAX && asked.largest <= LARGEST_BYTES_MAX,
        "{asked:?} for kind {}: {:?}",
        sample.0,
        sample.2
    );
}

/// Hands a message over and takes what is answered; what that asked for.
fn take(session: &mut Session, bytes: &[u8], run_jobs: bool) -> Asked {
    let (asked, ()) = asked_by(|| {
        // Refused is as good as taken.
        let _ = session.receive(bytes);
        if run_jobs && let Some(job) = session.take_job() {
            session.finish_job(job.run());
        }
        while session.poll(&mut Context::from_waker(Waker::noop())) {}
        while let Some(out) = session.pop_output() {
            session.recycle(out);
        }
    });
    asked
}

/// A broker with something to ask about.
fn furnished() -> (tempfile::TempDir, Broker) {
    let (folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .create(1, "topic", Durability::Stored)
            .queue(2, "queue", QueueSettings::default())
            .set_cursor(3, "topic", "cursor", 0)
            .0,
    );
    let done = |said: &Said| matches!(said, Said::Queue { correlation: 3, .. });
    wire.until_any(done);
    (folder, broker)
}

#[test]
fn no_claim_of_a_request_is_allocated_from() {
    let (_folder, broker) = furnished();
    let mut taken = 0;
    for (scripts, run_jobs) in [(questions(), true), (orders(), false)] {
        for script in scripts {
            let sample = sample(script);
            for claiming in claims(&sample) {
                let bytes = whole(&claiming);
                let mut wire = open(&broker);
                is_modest(take(&mut wire.session, &bytes, run_jobs), &claiming);
                taken += 1;
            }
        }
    }
    eprintln!("{taken} requests");
}

#[test]
fn no_claim_of_a_hello_is_allocated_from() {
    let (_folder, broker) = broker();
    let hello = sample(Script::hello());
    for claiming in claims(&hello) {
        let bytes = whole(&claiming);
        let mut session = Session::new(broker.clone(), SessionOptions::new());
        session.tick(Instant::now());
        let asked = take(&mut session, &bytes, false);
        assert!(asked.bytes <= PRE_HELLO_BYTES_MAX as u64, "{asked:?}");
    }
}

/// A batch with every column there is.
fn batch() -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    for number in 0..3_u64 {
        let message = Message::new(number.to_le_bytes().to_vec())
            .key("key")
            .id("id")
            .group("group")
            .header("name", "value")
            .due_at_us(1)
            .expires_at_us(2)
            .published_at_us(3)
            .priority(4);
        batch.push(&message).unwrap();
    }
    let mut frame = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut frame);
    frame
}

#[test]
fn no_claim_on_an_open_stream_is_allocated_from() {
    let (_folder, broker) = furnished();
    let leaser = Leaser {
        queue_id: 1,
        boot_epoch: broker.boot_epoch(),
    };
    let entry = |verb, text| SettleEntry {
        offset: Offset(1),
        lease: 1,
        verb,
        arg_us: 0,
        text,
    };
    let entries = [entry(SettleVerb::Ack, ""), entry(SettleVerb::Reject, "why")];
    let script = Script::default;
    let samples = [
        sample(script().publish(1, 1, b"body")),
        (MessageKind::Publish.code(), 1, batch()),
        sample(script().credit(2, 1)),
        sample(script().window(3, 1)),
        sample(script().receive(3, 1, 1, 1)),
        sample(script().settle(3, leaser, 1, &entries)),
    ];
    let streams = script()
        .publisher(1, "topic", AckLevel::Stored)
        .reader(2, "topic", Start::Latest, 1)
        .consumer(3, "queue", 0);
    for sample in &samples {
        for claiming in claims(sample) {
            let mut wire = open(&broker);
            wire.feed(&streams.0);
            let bytes = whole(&claiming);
            is_modest(take(&mut wire.session, &bytes, false), &claiming);
        }
    }
}
