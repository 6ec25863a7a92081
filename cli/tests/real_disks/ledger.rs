//! What was sent to a topic and what was answered, kept outside the server, and held to what is
//! there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;

use millstream_client::blocking::{Client, Ticket};
use millstream_client::{
    AckLevel, Effect, Message, PublishError, PublisherOptions, Receipt, Start,
};

use crate::harness::{Numbers, Server};

/// Messages of one publisher that wait for their acknowledgement, and two more.
const UNDER_WAY: usize = 4;
/// Bytes of a large body, at most.
const LARGE_BYTES: u64 = 24 << 10;

/// Names one message, in its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// Which start of the server it was sent to.
    pub(crate) life: u32,
    pub(crate) publisher: u32,
    pub(crate) sequence: u32,
}

impl Name {
    fn key(self) -> String {
        format!("{}/{}/{}", self.life, self.publisher, self.sequence)
    }

    fn parse(key: &[u8]) -> Self {
        let text = std::str::from_utf8(key).unwrap();
        let mut parts = text.split('/').map(|part| part.parse().unwrap());
        let mut next = || parts.next().unwrap();
        Self {
            life: next(),
            publisher: next(),
            sequence: next(),
        }
    }

    /// The one body the message of this name has: mostly small, sometimes of several pages.
    fn body(self) -> Vec<u8> {
        let seed = u64::from(self.life) << 40 | u64::from(self.publisher) << 32;
        let mut numbers = Numbers::new(seed | u64::from(self.sequence));
        let most = if numbers.next().is_multiple_of(4) {
            LARGE_BYTES
        } else {
            200
        };
        let bytes = numbers.next() % most;
        numbers.bytes(bytes as usize)
    }
}

/// What a publisher hears.
#[derive(Debug)]
pub(crate) enum Said {
    Acked(Name, u64),
    /// It may be in the topic or not; nothing that was sent behind it is there without it.
    Unknown(Name, String),
    /// It is not in the topic, and never will be; what was sent behind it may be.
    Refused(Name, String),
    /// No more comes of this publisher; so many messages it sent.
    Over(Name),
}

/// Publishers of one life of the server, each in a thread of its own.
#[derive(Debug)]
pub(crate) struct Publishers {
    pub(crate) said: Receiver<Said>,
}

impl Publishers {
    /// Starts publishers with these numbers. Each sends up to `most` messages, and stops at the
    /// first that is not acknowledged.
    pub(crate) fn start(server: &Server, topic: &str, life: u32, of: &[u32], most: u32) -> Self {
        let (say, said) = mpsc::channel();
        for &publisher in of {
            let address = format!("millstream://{}", server.address());
            let (topic, say) = (topic.to_owned(), say.clone());
            let first = Name {
                life,
                publisher,
                sequence: 0,
            };
            thread::spawn(move || {
                let sent = publish(&address, &topic, first, most, &say);
                let sequence = sent;
                say.send(Said::Over(Name { sequence, ..first })).ok();
            });
        }
        Self { said }
    }

    /// Waits until all are done, and writes down what they heard; gives the first error.
    pub(crate) fn finish(self, ledger: &mut Ledger) -> Option<String> {
        let mut error = None;
        for said in self.said {
            if let Said::Unknown(_, why) | Said::Refused(_, why) = &said {
                error.get_or_insert_with(|| why.clone());
            }
            ledger.note(said);
        }
        error
    }
}

/// Publishes `most` messages, or until one fails; gives how many may have been sent.
fn publish(address: &str, topic: &str, first: Name, most: u32, say: &Sender<Said>) -> u32 {
    let Ok(client) = Client::connect(address) else {
        return 0;
    };
    let options = PublisherOptions::new().ack(AckLevel::Synced);
    let mut handle = match client.publisher_with(topic, options) {
        Ok(handle) => handle,
        Err(error) => {
            say.send(Said::Refused(first, error.to_string())).ok();
            return 0;
        }
    };
    let (tickets, waiting) = mpsc::sync_channel::<(Name, Ticket)>(UNDER_WAY);
    let say_answers = say.clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let answers = thread::spawn(move || {
        let mut stop = Some(stop);
        for (name, ticket) in waiting {
            let said = answer(name, ticket.wait());
            if !matches!(said, Said::Acked(..)) {
                // What is under way is still waited for.
                stop = None;
            }
            say_answers.send(said).ok();
        }
        drop(stop);
    });
    let mut sent = 0;
    while sent < most && stopped.try_recv() == Err(TryRecvError::Empty) {
        let name = Name {
            sequence: sent,
            ..first
        };
        let message = Message::new(name.body()).key(name.key());
        match handle.enqueue(message) {
            Ok(ticket) => {
                sent += 1;
                tickets.send((name, ticket)).unwrap();
            }
            Err(error) => {
                // Whatever the client says, it may be there.
                sent += 1;
                say.send(Said::Unknown(name, error.to_string())).ok();
                break;
            }
        }
    }
    drop(tickets);
    answers.join().unwrap();
    sent
}

fn answer(name: Name, answer: Result<Receipt, PublishError>) -> Said {
    match answer {
        Ok(receipt) => Said::Acked(name, receipt.first.0),
        Err(PublishError::Refused { refusal, .. }) if refusal.effect == Effect::NotApplied => {
            Said::Refused(name, refusal.to_string())
        }
        Err(error) => Said::Unknown(name, error.to_string()),
    }
}

/// One topic, as the outside knows it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Messages handed to the client, by life and publisher.
    sent: BTreeMap<(u32, u32), u32>,
    acked: BTreeMap<Name, u64>,
    refused: BTreeSet<Name>,
    /// Why it is not known whether a message is there.
    unknown: BTreeMap<Name, String>,
    /// What each offset was ever said, or seen, to hold. What was seen once is there for ever.
    places: BTreeMap<u64, Name>,
}

impl Ledger {
    /// Messages acknowledged as synced.
    pub(crate) fn acked(&self) -> usize {
        self.acked.len()
    }

    pub(crate) fn sent(&self) -> u32 {
        self.sent.values().sum()
    }

    pub(crate) fn note(&mut self, said: Said) {
        match said {
            Said::Acked(name, offset) => {
                assert_eq!(self.acked.insert(name, offset), None);
                self.place(offset, name);
            }
            Said::Unknown(name, why) => {
                self.unknown.insert(name, why);
            }
            Said::Refused(name, _) => {
                self.refused.insert(name);
            }
            Said::Over(end) => {
                self.sent.insert((end.life, end.publisher), end.sequence);
            }
        }
    }

    fn place(&mut self, offset: u64, name: Name) {
        let before = self.places.insert(offset, name);
        assert!(
            before.is_none_or(|before| before == name),
            "offset {offset} was {before:?} and is {name:?}"
        );
    }

    /// Reads the whole topic and holds it to what is known; gives how many records there are.
    #[track_caller]
    pub(crate) fn check(&mut self, server: &Server, topic: &str) -> usize {
        let client = Client::connect(format!("millstream://{}", server.address())).unwrap();
        let mut reader = match client.reader(topic, Start::Earliest) {
            Ok(reader) => reader,
            Err(error) => {
                assert_eq!(self.acked.len(), 0, "{error}");
                return 0;
            }
        };
        reader.stop_at(reader.end_offset());
        let mut there = BTreeMap::new();
        let mut next: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        while let Some(record) = reader.next() {
            let record = record.unwrap();
            let name = Name::parse(&record.key().unwrap());
            let offset = record.offset().0;
            let of = (name.life, name.publisher);
            let sent = self.sent.get(&of).copied().unwrap_or(0);
            assert!(name.sequence < sent, "{name:?} at {offset} was never sent");
            assert!(
                record.body() == name.body(),
                "{name:?} at {offset} has another body"
            );
            assert!(
                !self.refused.contains(&name),
                "{name:?} at {offset} was refused"
            );
            let expected = next.entry(of).or_default();
            while self.refused.contains(&Name {
                sequence: *expected,
                ..name
            }) {
                *expected += 1;
            }
            let missing = Name {
                sequence: *expected,
                ..name
            };
            assert_eq!(
                name,
                missing,
                "at {offset}: out of order, there twice, or behind a hole ({:?})",
                self.unknown.get(&missing)
            );
            *expected += 1;
            self.place(offset, name);
            there.insert(name, offset);
        }
        let mut lost = String::new();
        for (offset, name) in &self.places {
            if there.get(name) != Some(offset) {
                let (acked, now) = (self.acked.contains_key(name), there.get(name));
                let was = if acked { "acknowledged" } else { "read" };
                writeln!(lost, "{name:?}, {was} at {offset}: {now:?}").unwrap();
            }
        }
        assert!(lost.is_empty(), "{topic}: lost or moved:\n{lost}");
        there.len()
    }
}
