//! A topic that keeps the newest alone, read from a real server: what it let go is told apart from what is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread::yield_now;
use std::time::{Duration, Instant};

use millstream::{BatchBuilder, BrokerOptions, Durability, Offset};
use millstream_benches::broker::{Broker, Kind, Millstream, Receive};
use millstream_server::{Listen, Server, ServerOptions};
use tempfile::TempDir;

const SEGMENT_BYTES: u32 = 1 << 20;
const KEPT_BYTES: u64 = 2 << 20;
const BODY_BYTES: usize = 10_000;
const BATCH: u64 = 100;
const WAIT: Duration = Duration::from_secs(20);

struct Setup {
    engine: millstream::Broker,
    server: Server,
    _folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = BrokerOptions::new()
            .segment_bytes_first(SEGMENT_BYTES)
            .segment_bytes_max(SEGMENT_BYTES);
        let engine = options.open(folder.path()).unwrap();
        let options = ServerOptions::new().listen(Listen::Tcp(([127, 0, 0, 1], 0).into()));
        let server = Server::bind(&options, &engine).unwrap();
        Self {
            engine,
            server,
            _folder: folder,
        }
    }

    fn target(&self) -> Millstream {
        let address = format!("millstream://{}", self.server.local_addr().unwrap());
        Millstream::at(address.parse().unwrap(), Durability::Stored)
    }

    /// Publishes so many and waits until the topic keeps no more than it has to, of whole segments.
    fn publish(&self, batches: u64) -> u64 {
        let mut batch = BatchBuilder::new();
        for _ in 0..BATCH {
            batch.push_body(&[7; BODY_BYTES]).unwrap();
        }
        let mut publisher = self.engine.publisher("t").unwrap();
        for _ in 0..batches {
            publisher.publish_batch_blocking(&batch).unwrap();
        }
        let begun = Instant::now();
        loop {
            let info = self.engine.topic("t").unwrap();
            if info.bytes <= KEPT_BYTES + u64::from(SEGMENT_BYTES) {
                assert!(info.first_offset > Offset(0), "{info:?}");
                return info.next_offset.0;
            }
            assert!(begun.elapsed() < WAIT, "{info:?}");
            yield_now();
        }
    }

    /// Asserts that no more is said to have been let go than the topic did.
    fn check(&self, receiver: &dyn Receive) {
        let first = self.engine.topic("t").unwrap().first_offset.0;
        let let_go = receiver.let_go();
        assert!(let_go <= first, "{let_go} by {first}");
    }
}

/// Receives until as many came, or were let go, as were published; how many came, with `received` before.
fn receive(receiver: &mut dyn Receive, mut received: u64, published: u64) -> u64 {
    while received + receiver.let_go() < published {
        let before = received + receiver.let_go();
        received += receiver.receive(WAIT, &mut |_| {}).unwrap();
        assert!(received + receiver.let_go() > before, "nothing comes");
    }
    received
}

#[test]
fn what_a_topic_let_go_before_and_while_it_is_read_is_counted() {
    let setup = Setup::new();
    let target = setup.target().keeping(KEPT_BYTES);
    target.create("t", Kind::Stream).unwrap();
    let published = setup.publish(20);
    let mut receiver = target.receiver("t", Kind::Stream).unwrap();
    let received = receive(receiver.as_mut(), 0, published);
    let before = receiver.let_go();
    assert!(before > 0);
    setup.check(receiver.as_ref());
    assert_eq!(received + before, published);
    // More than any buffer between the two holds goes by while it does not look.
    let all = setup.publish(200);
    let received = receive(receiver.as_mut(), received, all);
    assert!(receiver.let_go() > before, "nothing went by");
    assert_eq!(received + receiver.let_go(), all);
    setup.check(receiver.as_ref());

    // Whoever was not told that anything goes counts nothing as let go.
    let mut receiver = setup.target().receiver("t", Kind::Stream).unwrap();
    assert!(receiver.receive(WAIT, &mut |_| {}).unwrap() > 0);
    assert_eq!(receiver.let_go(), 0);
}
