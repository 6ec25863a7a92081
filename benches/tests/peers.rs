//! Each of the other brokers that is installed here takes a small load: everything that was
//! acknowledged is read, once, in order; a queue's messages go to one worker each.
//!
//! What is not installed is told on standard error and passed over.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;

use millstream_benches::broker::{Broker, PEERS, Peer};
use millstream_benches::load::{Course, Load, run};
use millstream_benches::scenario::{Asked, Scenario};

/// Messages of a run that goes by number.
const MESSAGES: u64 = 2_000;

/// The broker, unless it is not installed or too old, which is told.
fn start(name: &str) -> Option<Box<dyn Broker>> {
    let peer: Peer = name.parse().unwrap();
    match peer.start(None, &std::env::temp_dir()) {
        Ok(broker) => Some(broker),
        Err(error) => {
            let error = error.to_string();
            let skipped = ["is not installed", "unknown field \"sync_interval\""];
            assert!(skipped.iter().any(|why| error.contains(why)), "{error}");
            eprintln!("SKIPPED {name}: {error}");
            None
        }
    }
}

/// A small load of `scenario`.
fn load(scenario: Scenario, batch: usize) -> Load {
    let asked = Asked {
        batch: Some(batch),
        window: Some(500),
        publishers: Some(2),
        receivers: Some(match scenario {
            Scenario::Queue => 3,
            _ => 1,
        }),
        messages: Some(MESSAGES),
        seconds: Some(0.3),
        warmup_s: Some(0.0),
        ..Asked::default()
    };
    scenario.loads(&asked).remove(0)
}

fn works(name: &str) {
    let Some(broker) = start(name) else { return };
    let pid = broker.pid().unwrap();
    let loads = [
        load(Scenario::Publish, 1),
        load(Scenario::Read, 1),
        load(Scenario::Mixed, 10),
        load(Scenario::Queue, 1),
    ];
    for (number, load) in loads.iter().enumerate() {
        let found = run(broker.as_ref(), load, &format!("load-{number}"), &|_| ()).unwrap();
        assert!(found.delivered.is_whole(), "{name} {load:?}: {found:?}");
        assert!(found.delivered.received > 0, "{name} {load:?}: {found:?}");
        if load.course == Course::Receive {
            assert_eq!(found.delivered.received, MESSAGES, "{name} {load:?}");
        }
    }
    let target = broker.target();
    assert!(target.version.starts_with(|c: char| c.is_ascii_digit()));
    drop(broker);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name} ended");
}

#[test]
fn redis_streams_keep_what_they_acknowledge() {
    for name in ["redis", "redis-aof", "redis-always"] {
        works(name);
    }
}

#[test]
fn jetstream_keeps_what_it_acknowledges() {
    for name in ["nats", "nats-synced"] {
        works(name);
    }
}

#[test]
fn rabbitmq_keeps_what_it_confirms() {
    for name in ["rabbitmq", "rabbitmq-quorum"] {
        works(name);
    }
}

#[test]
fn each_name_is_one_peer_and_a_missing_program_is_told() {
    for (name, peer) in PEERS {
        assert_eq!(name.parse(), Ok(peer));
        let none = Path::new("/no/such/program");
        let failure = peer.start(Some(none), &std::env::temp_dir()).err().unwrap();
        let failure = failure.to_string();
        assert!(failure.contains("is not installed"), "{name}: {failure}");
    }
    assert!("kafka".parse::<Peer>().is_err());
}
