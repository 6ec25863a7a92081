//! `kill -9` in mid-publish, again and again, and what is there afterwards.
//!
//! Four publishers over two server threads put messages of one byte and of one mebibyte into one
//! topic, so that at nearly every moment a large claim is being filled while small ones behind it
//! are done. The server is killed after some number of acknowledgements. After each restart every
//! acknowledged message must be there once, at the offset it was acknowledged with; each
//! publisher's messages must be in its order and without holes; and nothing may be there that
//! nobody sent. `verify` must pass.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use harness::{Numbers, Server, Setup, millstream};
use millstream_client::blocking::{Client, Publisher, Ticket};
use millstream_client::{AckLevel, Message, PublishError, PublisherOptions, Start};

/// Kills, unless `MILLSTREAM_KILL_ROUNDS` says otherwise.
const ROUNDS: u32 = 50;
/// Kills that one topic lives through before it is deleted; keeps the disk use of the test low.
const ROUNDS_OF_A_TOPIC: u32 = 5;
const PUBLISHERS: u32 = 4;
const LARGE_BYTES: usize = 1 << 20;
/// Messages of one publisher that wait for their acknowledgement, and two more: so many that claims
/// are open all the time, and so few that a round is soon read back. With acknowledgements that do
/// not wait for the claims before them, one kill in about fourteen loses some.
const UNDER_WAY: usize = 8;
/// Acknowledgements in a round before the kill, at least and at most.
const ACKED: std::ops::Range<u64> = 10..130;

/// Names one message: in its key, so that a body of one byte can be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    round: u32,
    publisher: u32,
    sequence: u32,
}

impl Name {
    fn key(self) -> String {
        format!("{}/{}/{}", self.round, self.publisher, self.sequence)
    }

    fn parse(key: &[u8]) -> Self {
        let mut parts = std::str::from_utf8(key)
            .unwrap()
            .split('/')
            .map(|part| part.parse());
        let mut next = || parts.next().unwrap().unwrap();
        Self {
            round: next(),
            publisher: next(),
            sequence: next(),
        }
    }
}

/// Bytes of which every large body is a part.
#[derive(Debug, Clone)]
struct Bodies(Bytes);

impl Bodies {
    fn new() -> Self {
        Self(Numbers::new(7).bytes(2 * LARGE_BYTES).into())
    }

    /// The one body the message of this name has.
    fn of(&self, name: Name) -> Bytes {
        let seed = u64::from(name.round) << 40 | u64::from(name.publisher) << 32;
        let number = Numbers::new(seed | u64::from(name.sequence)).next();
        // The first two publish mostly large messages, the others mostly small ones.
        let often_large = name.publisher < PUBLISHERS / 2;
        let usual = !number.is_multiple_of(8);
        let start = (number >> 8) as usize % LARGE_BYTES;
        let bytes = if often_large == usual { LARGE_BYTES } else { 1 };
        self.0.slice(start..start + bytes)
    }
}

/// What was sent to one topic, and what was acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    /// Messages handed to the client, by round and publisher.
    sent: BTreeMap<(u32, u32), u32>,
    acked: BTreeMap<Name, u64>,
    /// Where each message was found, from the first restart on that had it.
    found: BTreeMap<u64, Name>,
}

#[derive(Debug, Default)]
struct Counts {
    kills: u32,
    sent: u64,
    acked: u64,
    unacked_kept: u64,
    restarts_with_a_cut: u32,
    cut_bytes: u64,
}

#[test]
fn fifty_kills_lose_nothing_acknowledged() {
    let rounds =
        std::env::var("MILLSTREAM_KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let bodies = Bodies::new();
    let mut numbers = Numbers::new(u64::from(rounds));
    let mut counts = Counts::default();
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let topic = format!("t{}", round / ROUNDS_OF_A_TOPIC);
        let io = if round.is_multiple_of(2) {
            "auto"
        } else {
            "epoll"
        };
        let server = start(&data, io);
        let goal = ACKED.start + numbers.next() % (ACKED.end - ACKED.start);
        publish_until_killed(
            server,
            Run {
                topic: &topic,
                round,
                goal,
                bodies: &bodies,
            },
            &mut ledger,
        );
        counts.kills += 1;

        let mut server = start(&data, io);
        let recovered = server.next_line().unwrap();
        assert_eq!(
            (&recovered["event"], &recovered["topic"]),
            (&"recovered".into(), &topic.as_str().into())
        );
        let cut_bytes = recovered["cut_bytes"].as_u64().unwrap();
        counts.restarts_with_a_cut += u32::from(cut_bytes > 0);
        counts.cut_bytes += cut_bytes;
        assert_eq!(recovered["possibly_acknowledged"], false, "{recovered}");
        ledger.check(&server, &topic, &bodies);
        let last = round + 1 == rounds || (round + 1).is_multiple_of(ROUNDS_OF_A_TOPIC);
        if last {
            counts.add(&std::mem::take(&mut ledger));
            server.run(&["topic", "rm", &topic]).expect(0);
        }
        server.terminate().expect(0);
        millstream(&["verify", data.to_str().unwrap()]).expect(0);
    }
    println!("{counts:?}");
    assert_eq!(counts.kills, rounds);
}

fn start(data: &Path, io: &'static str) -> Server {
    Server::start_with(Setup::io(io), data, &["--threads", "2"])
}

/// One round: where to publish, and how long.
struct Run<'a> {
    topic: &'a str,
    round: u32,
    /// Acknowledgements after which the server is killed.
    goal: u64,
    bodies: &'a Bodies,
}

/// What a publisher's acknowledgements say.
enum Said {
    Acked(Name, u64),
    /// A server that is to be killed refuses nothing before.
    Refused(Name, PublishError),
    /// No more acknowledgements come; so many messages were sent.
    Over {
        publisher: u32,
        sent: u32,
    },
}

fn publish_until_killed(server: Server, run: Run<'_>, ledger: &mut Ledger) {
    let (say, said) = mpsc::channel();
    let address = format!("millstream://{}", server.address());
    for publisher in 0..PUBLISHERS {
        let client = Client::connect(&address).unwrap();
        // Half of them are content with what survives a kill, and so hear of it sooner.
        let ack = if publisher.is_multiple_of(2) {
            AckLevel::Stored
        } else {
            AckLevel::Synced
        };
        let options = PublisherOptions::new().ack(ack);
        let handle = client.publisher_with(run.topic, options).unwrap();
        let first = Name {
            round: run.round,
            publisher,
            sequence: 0,
        };
        let (bodies, say) = (run.bodies.clone(), say.clone());
        thread::spawn(move || publish(handle, first, &bodies, &say));
    }
    drop(say);
    let mut server = Some(server);
    let mut acked = 0;
    for said in said {
        match said {
            Said::Acked(name, offset) => {
                assert_eq!(ledger.acked.insert(name, offset), None);
                acked += 1;
            }
            Said::Refused(name, error) => panic!("{name:?}: {error}"),
            Said::Over { publisher, sent } => {
                ledger.sent.insert((run.round, publisher), sent);
            }
        }
        if acked == run.goal
            && let Some(server) = server.take()
        {
            server.kill();
        }
    }
    assert!(
        server.is_none(),
        "the publishers stopped before the kill, after {acked}"
    );
}

/// Publishes until the connection breaks, and tells what was acknowledged.
fn publish(mut handle: Publisher, first: Name, bodies: &Bodies, say: &mpsc::Sender<Said>) {
    let (tickets, waiting) = mpsc::sync_channel::<(Name, Ticket)>(UNDER_WAY);
    let say_acked = say.clone();
    let acks = thread::spawn(move || {
        for (name, ticket) in waiting {
            let heard = match ticket.wait() {
                Ok(receipt) => Said::Acked(name, receipt.first.0),
                Err(PublishError::NotSent { .. } | PublishError::OutcomeUnknown { .. }) => continue,
                Err(refused) => Said::Refused(name, refused),
            };
            say_acked.send(heard).unwrap();
        }
    });
    let mut next = first;
    loop {
        let message = Message::new(bodies.of(next)).key(next.key());
        // Counted as sent before it is: it may be in the topic whatever the client says.
        let name = next;
        next.sequence += 1;
        match handle.enqueue(message) {
            Ok(ticket) => tickets.send((name, ticket)).unwrap(),
            Err(_) => break,
        }
    }
    drop(tickets);
    acks.join().unwrap();
    say.send(Said::Over {
        publisher: first.publisher,
        sent: next.sequence,
    })
    .unwrap();
}

impl Ledger {
    /// Reads the whole topic and holds it to what is known.
    fn check(&mut self, server: &Server, topic: &str, bodies: &Bodies) {
        let client = Client::connect(format!("millstream://{}", server.address())).unwrap();
        let mut reader = client.reader(topic, Start::Earliest).unwrap();
        reader.stop_at(reader.end_offset());
        let mut found = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut next: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        while let Some(record) = reader.next() {
            let record = record.unwrap();
            let name = Name::parse(&record.key().unwrap());
            let offset = record.offset().0;
            let of = (name.round, name.publisher);
            let sent = self.sent.get(&of).copied().unwrap_or(0);
            assert!(name.sequence < sent, "{name:?} at {offset} was never sent");
            assert!(
                record.body() == bodies.of(name),
                "{name:?} at {offset} has another body"
            );
            assert!(
                seen.insert(name),
                "{name:?} is there twice, again at {offset}"
            );
            let expected = next.entry(of).or_default();
            assert_eq!(
                name.sequence, *expected,
                "{name:?} at {offset} is out of order"
            );
            *expected += 1;
            found.insert(offset, name);
        }
        let mut wrong = String::new();
        for (name, offset) in &self.acked {
            if found.get(offset) != Some(name) {
                writeln!(
                    wrong,
                    "{name:?}, acknowledged at {offset}: {:?}",
                    found.get(offset)
                )
                .unwrap();
            }
        }
        for (offset, name) in &self.found {
            if found.get(offset) != Some(name) {
                writeln!(
                    wrong,
                    "{name:?}, read at {offset} before: {:?}",
                    found.get(offset)
                )
                .unwrap();
            }
        }
        assert!(wrong.is_empty(), "lost or moved:\n{wrong}");
        self.found = found;
    }
}

impl Counts {
    fn add(&mut self, ledger: &Ledger) {
        self.sent += ledger.sent.values().copied().map(u64::from).sum::<u64>();
        self.acked += ledger.acked.len() as u64;
        self.unacked_kept += (ledger.found.len() - ledger.acked.len()) as u64;
    }
}
