//! A hostile client beside an honest one: whatever it says, in whatever order, cut and damaged.
//!
//! A program by seed drives a hostile session through valid messages in a senseless order, messages
//! with a bit flipped or a piece missing, streams opened twice or never, credit past its limit, and
//! settles of what others hold. The honest session shares its topic and its queue. Afterwards the
//! honest one has lost nothing and was told nothing false; the hostile one lives and answers, or
//! was told by a typed error why not; and what it cost was bounded all along.
//!
//! `MILLSTREAM_HOSTILE_SEEDS` sets how many programs run, [`SEEDS`] unless told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod counting;
mod peer;

use millstream::Broker;
use millstream_protocol::control::{Leaser, QueueSettings, SettleEntry, SettleFault, SettleVerb};
use millstream_protocol::limits::{READ_CREDIT_BYTES_MAX, SESSION_OUT_BYTES_MAX};
use millstream_protocol::wire::MessageKind;
use millstream_protocol::{AckLevel, Durability, Offset, Start};

use counting::asked_by;
use peer::{Said, Script, Wire, Worked};

/// Programs run in a test of every day.
const SEEDS: u64 = 200;
/// Steps of a program.
const STEPS: u64 = 60;
/// Records the honest client publishes and the queue holds.
const RECORDS: u64 = 24;
/// Most bytes of one piece a hostile message makes a session ask for: a run of answers, and a
/// message of work.
const LARGEST_BYTES_MAX: u64 = 256 << 10;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The client that keeps to the rules.
struct Honest {
    wire: Wire,
    leaser: Leaser,
    /// What it holds of the queue.
    held: Vec<Worked>,
    published: u64,
}

fn body(number: u64) -> Vec<u8> {
    format!("honest {number}").into_bytes()
}

impl Honest {
    /// Half of the records are published, all of the queue's are leased.
    fn new(broker: &Broker) -> Self {
        let mut wire = Wire::new(broker);
        let mut script = Script::hello()
            .create(1, "t", Durability::Stored)
            .queue(2, "q", QueueSettings::default())
            .publisher(1, "t", AckLevel::Stored)
            .publisher(4, "q", AckLevel::Stored)
            .reader(2, "t", Start::Earliest, 1 << 20)
            .consumer(3, "q", RECORDS as u32);
        for number in 1..=RECORDS {
            script = script.publish(4, number, &body(number));
        }
        wire.feed(&script.0);
        let work = |said: &Said| match said {
            Said::Work { work, .. } => Some(work.clone()),
            _ => None,
        };
        wire.until(|said| said.iter().filter_map(work).count() as u64 == RECORDS);
        let held = wire.ear.said.iter().filter_map(work).collect();
        let opened = wire.until_any(|said| matches!(said, Said::ConsumerOpened { .. }));
        let Said::ConsumerOpened { opened, .. } = opened else {
            unreachable!()
        };
        let leaser = Leaser {
            queue_id: opened.queue_id,
            boot_epoch: opened.boot_epoch,
        };
        Self {
            wire,
            leaser,
            held,
            published: 0,
        }
    }

    fn publish(&mut self) {
        self.published += 1;
        let script = Script::default().publish(1, self.published, &body(self.published));
        self.wire.feed(&script.0);
    }

    /// Everything is as if it had been alone.
    fn check(mut self, broker: &Broker) {
        while self.published < RECORDS {
            self.publish();
        }
        let acks: Vec<_> = self
            .held
            .iter()
            .map(|work| work.entry(SettleVerb::Ack))
            .collect();
        let script = Script::default().settle(3, self.leaser, 1, &acks).ping(99);
        self.wire.feed(&script.0);
        let records = |said: &[Said]| -> Vec<(u64, Vec<u8>)> {
            let record = |said: &Said| match said {
                Said::Record { offset, body, .. } => Some((*offset, body.clone())),
                _ => None,
            };
            said.iter().filter_map(record).collect()
        };
        let settles = |said: &[Said]| -> Vec<Option<SettleFault>> {
            let fault = |said: &Said| match said {
                Said::Settled { fault, .. } => Some(*fault),
                _ => None,
            };
            said.iter().filter_map(fault).collect()
        };
        let said = self.wire.until(|said| {
            records(said).len() as u64 >= RECORDS && settles(said).len() as u64 >= RECORDS
        });
        let wanted: Vec<_> = (0..RECORDS).map(|at| (at, body(at + 1))).collect();
        assert_eq!(records(said), wanted);
        assert_eq!(settles(said), vec![None; RECORDS as usize], "leases held");
        assert!(said.contains(&Said::Pong(99)));
        let errors: Vec<_> = said
            .iter()
            .filter(|said| matches!(said, Said::Error { .. } | Said::StreamClosed { .. }))
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(broker.topic("t").unwrap().next_offset, Offset(RECORDS));
        let queue = broker.queue("q").unwrap();
        assert_eq!((queue.ready, queue.leased, queue.dead), (0, 0, 0));
        assert_eq!(queue.totals.acked, RECORDS);
    }
}

/// The client that keeps to none.
struct Hostile {
    wire: Wire,
    chance: Chance,
    /// Whether it said nothing that could not be read.
    well_formed: bool,
    said_goodbye: bool,
}

const WORDS: [u32; 8] = [
    0,
    1,
    1000,
    READ_CREDIT_BYTES_MAX,
    READ_CREDIT_BYTES_MAX + 1,
    65_537,
    1 << 31,
    u32::MAX,
];

impl Hostile {
    fn new(broker: &Broker, chance: Chance) -> Self {
        Self {
            wire: Wire::new(broker),
            chance,
            well_formed: true,
            said_goodbye: false,
        }
    }

    /// One message, valid in itself.
    fn message(&mut self, honest: &Honest) -> Script {
        let script = Script::default();
        let chance = &mut self.chance;
        let stream = 1 + chance.below(5) as u32;
        let word = chance.of(&WORDS);
        let number = chance.of(&[1, 1, 2, 3, u64::MAX]);
        match chance.below(20) {
            0..3 => script.publisher(
                stream,
                "own",
                chance.of(&[AckLevel::Stored, AckLevel::Synced]),
            ),
            3 => script.reader(stream, "t", Start::Earliest, word),
            4 => script.reader(
                stream,
                "own",
                Start::Latest,
                word.min(READ_CREDIT_BYTES_MAX),
            ),
            5 | 6 => script.consumer(stream, "q", word),
            7..9 => script.publish(stream, number, b"hostile"),
            9 => script.credit(stream, word),
            10 => script.window(stream, word),
            11 => script.receive(stream, number, word, word),
            12 => script.close(stream, number),
            13 => script.ping(number),
            14 => script.describe(number, "t"),
            15 => script.list(number, None),
            16 => script.peek(number, "q", number, word),
            _ => {
                let leaser = Leaser {
                    boot_epoch: honest.leaser.boot_epoch - chance.below(2) as u32,
                    ..honest.leaser
                };
                script.settle(stream, leaser, number, &foreign(chance, honest))
            }
        }
    }

    /// Says one thing, whole, damaged, cut or in two pieces.
    fn step(&mut self, honest: &Honest) {
        let mut bytes = self.message(honest).0;
        let place = self.chance.below(bytes.len() as u64) as usize;
        match self.chance.below(24) {
            0 => {
                bytes[place] ^= 1 << self.chance.below(8);
                self.well_formed = false;
            }
            1 => {
                bytes.drain(..place);
                self.well_formed &= place == 0;
            }
            2 => {
                bytes.truncate(place);
                self.well_formed &= place == 0;
            }
            3 => {
                bytes = Script::hello().0;
                self.well_formed = false;
            }
            4 if self.chance.below(8) == 0 => {
                bytes = Script::default().goodbye().0;
                self.said_goodbye = true;
            }
            _ => {}
        }
        let cut = self.chance.below(bytes.len() as u64 + 1) as usize;
        let (first, second) = bytes.split_at(cut);
        self.say(first);
        self.say(second);
    }

    fn say(&mut self, bytes: &[u8]) {
        let deaf = self.chance.below(4) == 0;
        let (asked, ()) = asked_by(|| self.wire.say(bytes));
        assert!(asked.largest <= LARGEST_BYTES_MAX, "{asked:?}");
        if !deaf {
            self.wire.take_output();
        }
    }

    /// It answers, or said why it does not.
    fn check(&mut self) {
        let mut waiting = 0;
        while let Some(out) = self.wire.session.pop_output() {
            waiting += out.as_bytes().len();
            self.wire.ear.hear(out.as_bytes());
        }
        assert!(waiting <= SESSION_OUT_BYTES_MAX, "{waiting}");
        if self.wire.session.is_closed() {
            let typed = |said: &Said| {
                matches!(
                    said,
                    Said::Error {
                        stream: 0,
                        correlation: 0,
                        ..
                    }
                )
            };
            let told = self.wire.ear.said.iter().any(typed);
            assert!(told || self.said_goodbye, "{:?}", self.wire.ear.said);
            assert!(!self.well_formed || self.said_goodbye, "closed for nothing");
        } else if self.well_formed {
            self.wire.feed(&Script::default().ping(777).0);
            self.wire.until_any(|said| *said == Said::Pong(777));
        }
    }
}

/// Settles of what the honest client holds, and of what nobody does.
fn foreign(chance: &mut Chance, honest: &Honest) -> Vec<SettleEntry<'static>> {
    let entries = (0..1 + chance.below(4)).map(|_| {
        let work = &honest.held[chance.below(RECORDS) as usize];
        let verb = chance.of(&[
            SettleVerb::Ack,
            SettleVerb::Retry,
            SettleVerb::Reject,
            SettleVerb::Release,
            SettleVerb::Extend,
        ]);
        let lease = work.lease.wrapping_add(chance.of(&[0, 0, 0, 1, u64::MAX]));
        SettleEntry {
            lease,
            ..work.entry(verb)
        }
    });
    entries.collect()
}

/// A folder in memory where there is one: what is tested here is not the disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Runs the program of `seed`.
fn run(seed: u64) {
    let folder = folder();
    let broker = Broker::open(folder.path()).unwrap();
    let mut honest = Honest::new(&broker);
    let mut chance = Chance(seed);
    let mut hostile = Hostile::new(&broker, Chance(chance.next()));
    let greets = chance.below(8) > 0;
    if greets {
        hostile.say(&Script::hello().0);
    } else {
        hostile.well_formed = false;
    }
    for _ in 0..STEPS {
        if chance.below(4) == 0 && honest.published < RECORDS {
            honest.publish();
        }
        hostile.step(&honest);
        if hostile.wire.session.is_closed() || chance.below(40) == 0 {
            hostile.check();
            hostile = Hostile::new(&broker, Chance(chance.next()));
            hostile.say(&Script::hello().0);
        }
    }
    hostile.check();
    drop(hostile);
    honest.check(&broker);
}

#[test]
fn an_honest_client_beside_a_hostile_one_loses_nothing() {
    let seeds = std::env::var("MILLSTREAM_HOSTILE_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let told = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = told {
            eprintln!("the program of seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_conversation_cut_at_any_byte_comes_to_the_same() {
    let folder = folder();
    let broker = Broker::open(folder.path()).unwrap();
    let ghost = Leaser {
        queue_id: 99,
        boot_epoch: 0,
    };
    let entry = SettleEntry {
        offset: Offset(1),
        lease: 1,
        verb: SettleVerb::Ack,
        arg_us: 0,
        text: "",
    };
    let script = Script::hello()
        .create(1, "t", Durability::Stored)
        .create(2, "t", Durability::Stored)
        .publish(9, 1, b"never opened")
        .settle(8, ghost, 1, &[entry])
        .bare(MessageKind::CloseStream, 7, 3)
        .describe(4, "absent")
        .window(6, 1)
        .ping(5)
        .bare(MessageKind::Welcome, 0, 0);
    let converse = |pieces: &[&[u8]]| {
        let mut wire = Wire::new(&broker);
        for piece in pieces {
            wire.feed(piece);
        }
        assert!(wire.closed, "a welcome is not for a server");
        // Requests are answered apart from the rest, and not any more once the connection is over.
        let mut said: Vec<_> = wire
            .ear
            .said
            .iter()
            .skip(1)
            .map(|said| format!("{said:?}"))
            .filter(|said| {
                let at_once = ["StreamUnknown", "UnknownKind", "Pong"];
                at_once.iter().any(|kind| said.contains(kind))
            })
            .collect();
        assert!(said.len() > 3, "{said:?}");
        said.sort();
        said
    };
    converse(&[&script.0]);
    let whole = converse(&[&script.0]);
    let single: Vec<&[u8]> = script.0.chunks(1).collect();
    assert_eq!(converse(&single), whole);
    for cut in 0..script.0.len() {
        let (first, second) = script.0.split_at(cut);
        assert_eq!(converse(&[first, second]), whole, "cut at {cut}");
    }
}
