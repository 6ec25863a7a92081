//! A broker with a queue is killed again and again while it works. What was settled stays settled,
//! and a dead letter is there once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use millstream::{
    Broker, Consumer, ConsumerOptions, Message, Offset, QueueOptions, Settling, WhenFull, headers,
};

const FOLDER: &str = "MILLSTREAM_KILLED_FOLDER";
const FIRST: &str = "MILLSTREAM_KILLED_FIRST";
const ROUNDS: u64 = 12;
/// Large enough that segments are finished and dropped while it runs.
const BODY_BYTES: usize = 16 << 10;
/// A pull waits so long before it is looked whether there is more.
const WHILE: Duration = Duration::from_millis(100);

fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(BODY_BYTES, 7);
    body
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

/// Every fifth record is rejected, every seventh fails all its deliveries.
fn verb(number: u64) -> &'static str {
    match (number % 5, number % 7) {
        (0, _) => "reject",
        (_, 0) => "retry",
        _ => "ack",
    }
}

fn say(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    // The parent is gone when it can't be said.
    let _ = writeln!(out, "\nsaid {what} {number}").and_then(|()| out.flush());
}

fn open(path: &Path) -> Broker {
    let broker = Broker::open(path).unwrap();
    let options = QueueOptions::new()
        .max_deliveries(2)
        .messages_max(64, WhenFull::Wait)
        .backoff(millstream::Backoff {
            first_ms: 0,
            cap_ms: 0,
            multiplier_milli: 1000,
            jitter_percent: 0,
        });
    broker.create_queue("jobs", options).unwrap();
    broker
}

/// What is killed: publishes and settles for ever, and says what is durable.
#[test]
#[ignore = "run by the test below, to be killed"]
fn a_broker_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let broker = open(Path::new(&folder));
    let mut publisher = broker.publisher("jobs").unwrap();
    std::thread::spawn(move || {
        for number in first.. {
            publisher
                .publish_blocking(Message::new(body(number)))
                .unwrap();
            say("published", number);
        }
    });
    let options = ConsumerOptions::new().prefetch(32);
    let mut consumer = broker.consumer("jobs", options).unwrap();
    let mut settled = BTreeMap::new();
    let mut tag = 0;
    loop {
        let delivery = consumer.next_blocking().unwrap().unwrap();
        let number = number(delivery.as_bytes());
        let (_, parts) = delivery.into_parts();
        let how = match verb(number) {
            "ack" => Settling::Ack,
            "reject" => Settling::Reject("no".to_owned()),
            _ => Settling::Retry,
        };
        say("settling", number);
        tag += 1;
        settled.insert(tag, number);
        consumer.settle(parts.offset, parts.lease, how, tag);
        while let Some(outcome) = consumer.next_outcome() {
            let number = settled.remove(&outcome.tag).unwrap();
            assert_eq!(outcome.result, Ok(()));
            say(verb(number), number);
        }
    }
}

/// Everything that is in a queue, by number, with how often.
fn drain(broker: &Broker, queue: &str) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    let options = ConsumerOptions::new().prefetch(0);
    let mut consumer: Consumer = broker.consumer(queue, options).unwrap();
    loop {
        let some = consumer.receive_blocking(256, WHILE).unwrap();
        if some.is_empty() && broker.queue(queue).unwrap().ready == 0 {
            break;
        }
        for delivery in some {
            *found.entry(number(delivery.as_bytes())).or_insert(0) += 1;
            if queue == "jobs.dead" {
                let source = delivery.headers().find(|(name, _)| *name == headers::QUEUE);
                assert_eq!(source.unwrap().1, b"jobs");
            }
            delivery.ack();
        }
    }
    found
}

#[test]
fn after_kills_nothing_settled_comes_again_and_each_dead_letter_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut said: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_broker_that_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .env(FIRST, (1 + round * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Further each time: the first stops meet a queue that hardly began, later ones dropped
        // segments and checkpoints.
        let mut left = 40 + round * round * 110;
        for line in lines {
            let line = line.unwrap();
            if let Some(("said", what)) = line.split_once(' ') {
                let (what, number) = what.split_once(' ').unwrap();
                let known = said.entry(what.to_owned()).or_default();
                known.insert(number.parse().unwrap());
                left = left.saturating_sub(1);
                if left == 0 {
                    // What it said meanwhile is still read.
                    child.kill().unwrap();
                }
            }
        }
        assert_eq!(left, 0, "it was killed, and did not stop by itself");
        child.wait().unwrap();
    }
    let broker = open(folder.path());
    // Moves that were under way arrive.
    let moving = || broker.queue("jobs").unwrap().moving;
    while moving() > 0 {
        std::thread::yield_now();
    }
    let waiting = drain(&broker, "jobs");
    let dead = drain(&broker, "jobs.dead");
    let none = BTreeSet::new();
    let said = |what: &str| said.get(what).unwrap_or(&none);
    for (number, times) in dead.iter().chain(&waiting) {
        assert_eq!(*times, 1, "{number} is there {times} times");
    }
    for number in said("ack") {
        assert!(!waiting.contains_key(number), "{number} was acknowledged");
    }
    for number in said("reject") {
        assert!(!waiting.contains_key(number), "{number} was rejected");
        assert!(dead.contains_key(number), "{number} is no dead letter");
    }
    for number in dead.keys() {
        assert!(!waiting.contains_key(number), "{number} is in both queues");
        assert!(verb(*number) != "ack", "{number} never failed");
    }
    for number in said("published") {
        let there = waiting.contains_key(number) || dead.contains_key(number);
        let gone = verb(*number) == "ack" && said("settling").contains(number);
        assert!(there || gone, "{number} is lost");
    }
    assert!(said("reject").len() > 50 && said("ack").len() > 200);
    let dropped = broker.topic("jobs").unwrap().first_offset;
    assert!(dropped > Offset(0), "segments were dropped on the way");
}
