//! What many clients that take nothing make a server hold together, however many they are.
//!
//! The sessions share the options of one server, and with them its budget for output.
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
use millstream_protocol::control::QueueSettings;
use millstream_protocol::wire::MessageKind;
use millstream_protocol::{AckLevel, Durability};
use millstream_server::{Out, Session, SessionOptions};

use counting::asked_by;
use peer::{Said, Script, Wire};

/// Clients that take nothing.
const DEAF: usize = 300;
/// Most bytes of output they may make a server hold: the budget of all, and a little of each.
const BYTES_MAX: usize = (48 << 20) + DEAF * (64 << 10);

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    (folder, broker)
}

/// One session more of a server, greeted.
fn greeted(broker: &Broker, options: &SessionOptions) -> Session {
    let mut session = Session::new(broker.clone(), options.clone());
    session.tick(Instant::now());
    session.receive(&Script::hello().0).unwrap();
    drain(&mut session);
    session
}

/// Goes on for as long as the session can without its output being taken.
fn turn(session: &mut Session) {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let mut moved = session.poll(&mut cx);
        if let Some(job) = session.take_job() {
            session.finish_job(job.run());
            moved = true;
        }
        if !moved {
            return;
        }
    }
}

/// Takes all output there is, as a socket does; its bytes on the heap.
fn drain(session: &mut Session) -> usize {
    let mut bytes = 0;
    while let Some(out) = session.pop_output() {
        if let Out::Bytes(piece) = &out {
            bytes += piece.len();
        }
        session.recycle(out);
    }
    bytes
}

/// Clients that take nothing, and say `bytes` so many times, if they are listened to for so long.
fn flood(broker: &Broker, options: &SessionOptions, bytes: &[u8], times: usize) -> Vec<Session> {
    let sessions = (0..DEAF).map(|_| {
        let mut session = greeted(broker, options);
        for _ in 0..times {
            if session.is_held() {
                break;
            }
            let received = session.receive(bytes).unwrap();
            turn(&mut session);
            if received.consumed < bytes.len() {
                break;
            }
        }
        session
    });
    sessions.collect()
}

/// All of them together keep to the bound, and one that reads is served beside them.
fn check(broker: &Broker, options: &SessionOptions, mut deaf: Vec<Session>) {
    let mut reads = greeted(broker, options);
    for number in 1..=1000 {
        assert!(!reads.is_held(), "it takes what it is told");
        let script = Script::default().ping(number).list(number, None);
        let received = reads.receive(&script.0).unwrap();
        assert_eq!(received.consumed, script.0.len());
        turn(&mut reads);
        assert!(drain(&mut reads) > 64);
    }
    let waiting: usize = deaf.iter_mut().map(drain).sum();
    assert!(
        waiting > BYTES_MAX / 8,
        "{waiting}: nothing was asked of them"
    );
    assert!(waiting <= BYTES_MAX, "{waiting} of {BYTES_MAX}");
    for session in &mut deaf {
        turn(session);
        drain(session);
        assert!(
            !session.is_held(),
            "it goes on once it takes what it was told"
        );
    }
}

#[test]
fn pongs_that_nobody_takes_are_bounded_over_all_connections() {
    let (_folder, broker) = broker();
    let options = SessionOptions::new();
    let pings = Script::default().ping(1).0.repeat(512);
    let deaf = flood(&broker, &options, &pings, 2000);
    check(&broker, &options, deaf);
}

#[test]
fn lists_that_nobody_takes_are_bounded_over_all_connections() {
    let (_folder, broker) = broker();
    let options = SessionOptions::new();
    let mut wire = Wire::new(&broker);
    let name = "n".repeat(200);
    let create = |script: Script, number: u64| {
        script.create(number, &format!("{name}{number}"), Durability::Stored)
    };
    wire.feed(&(0..64).fold(Script::hello(), create).0);
    let lists = Script::default().list(1, None).0.repeat(60);
    let deaf = flood(&broker, &options, &lists, 2000);
    check(&broker, &options, deaf);
}

#[test]
fn work_that_nobody_takes_is_bounded_over_all_connections() {
    const RECORDS: u64 = 4000;
    let (_folder, broker) = broker();
    let options = SessionOptions::new();
    let mut wire = Wire::new(&broker);
    wire.feed(&Script::hello().queue(1, "q", QueueSettings::default()).0);
    let script = Script::default().publisher(1, "q", AckLevel::Stored);
    wire.feed(&script.0);
    let body = vec![7; 30 << 10];
    for number in 1..=RECORDS {
        wire.feed(&Script::default().publish(1, number, &body).0);
        if number % 100 == 0 {
            wire.until_acked(1, number);
        }
    }
    let open = Script::default().consumer(1, "q", 1024).0;
    let mut deaf = flood(&broker, &options, &open, 1);
    // What could not be made at first can not be made later either, until something is taken.
    // Grants come from another thread.
    while broker.queue("q").unwrap().leased < RECORDS {
        std::thread::yield_now();
    }
    let mut asked_bytes = 0;
    loop {
        let (asked, ()) = asked_by(|| deaf.iter_mut().for_each(turn));
        asked_bytes += asked.bytes;
        assert!(asked_bytes < 96 << 20, "it is made again and again");
        if asked.bytes < 4 << 20 {
            break;
        }
    }
    check(&broker, &options, deaf);
    // All that went with those who left comes to one who takes it.
    let closed = |said: &Said| matches!(said, Said::Work { .. });
    wire.feed(&Script::default().bare(MessageKind::CloseStream, 1, 5).0);
    wire.feed(&Script::default().consumer(2, "q", 64).0);
    wire.until_any(closed);
}
