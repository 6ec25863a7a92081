//! A publish and a delivery cost no allocation: counted, on the thread that carries the session.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod counting;
mod peer;

use std::task::{Context, Waker};

use millstream::Broker;
use millstream_protocol::{AckLevel, Durability, Start};
use millstream_server::{Out, Session};

use counting::asked_by;
use peer::{Script, Wire};

/// The allocations of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    asked_by(work).0.times
}

/// Takes a session's output as a socket would; the bytes of frames among it.
fn send(session: &mut Session) -> usize {
    let mut delivered = 0;
    while let Some(out) = session.pop_output() {
        if let Out::Frames(frames) = &out {
            delivered += frames.as_bytes().len();
        }
        session.recycle(out);
    }
    delivered
}

#[test]
fn a_publish_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let mut wire = Wire::new(&broker);
    wire.feed(&Script::hello().create(1, "t", Durability::Stored).0);
    wire.feed(&Script::default().publisher(1, "t", AckLevel::Stored).0);
    let rounds: Vec<_> = (0..10u64)
        .map(|round| {
            (1..=1000).fold(Script::default(), |script, number| {
                script.publish(1, round * 1000 + number, &[7; 100])
            })
        })
        .collect();
    // The first rounds bring the segment, the queues and their buffers.
    let (warm, measured) = rounds.split_at(3);
    for (round, script) in warm.iter().enumerate() {
        wire.feed(&script.0);
        wire.until_acked(1, (round as u64 + 1) * 1000);
    }
    let mut cx = Context::from_waker(Waker::noop());
    let session = &mut wire.session;
    let allocated = allocations(|| {
        for script in measured {
            let received = session.receive(&script.0).unwrap();
            assert_eq!(received.consumed, script.0.len());
            session.poll(&mut cx);
            send(session);
        }
    });
    assert_eq!(allocated, 0, "for {} publishes", measured.len() * 1000);
}

#[test]
fn a_delivery_allocates_nothing_for_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    let mut wire = Wire::new(&broker);
    wire.feed(&Script::hello().create(1, "t", Durability::Stored).0);
    let script = Script::default().publisher(1, "t", AckLevel::Stored);
    wire.feed(
        &(1..=4000)
            .fold(script, |script, number| {
                script.publish(1, number, &[7; 100])
            })
            .0,
    );
    wire.until_acked(1, 4000);

    let mut cx = Context::from_waker(Waker::noop());
    let session = &mut wire.session;
    // Short of the end: the first wait there makes its place among those who wait.
    let enough = 3000 * (64 + 104);
    let open = Script::default().reader(2, "t", Start::Earliest, 100_000).0;
    session.receive(&open).unwrap();
    let job = session.take_job().unwrap();
    session.finish_job(job.run());
    let credit = Script::default().credit(2, 50_000).0;
    let mut delivered = 0;
    while delivered < 200_000 {
        session.receive(&credit).unwrap();
        session.poll(&mut cx);
        delivered += send(session);
    }
    let allocated = allocations(|| {
        while delivered < enough {
            session.receive(&credit).unwrap();
            session.poll(&mut cx);
            delivered += send(session);
        }
    });
    assert_eq!(allocated, 0);
}
