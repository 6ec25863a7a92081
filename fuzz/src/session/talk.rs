//! What the client says next, as the input has it.

use std::collections::BTreeMap;

use millstream_protocol::checksum::crc32c;
use millstream_protocol::control::{
    Leaser, QueueSettings, QueueVerb, Retention, SettleEntry, SettleVerb,
};
use millstream_protocol::limits::WIRE_VERSION;
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};
use millstream_protocol::{AckLevel, Durability, Offset, Start};

use super::peer::{Script, Worked};
use crate::input::Input;

const TOPICS: [&str; 3] = ["t", "u", "jobs"];
const QUEUES: [&str; 3] = ["jobs", "over", "jobs.dead"];
const AMOUNTS: [u32; 8] = [1, 0, 2, 5, 100, 65_536, 65_537, u32::MAX];
/// Largest body of a publish, and so nearly of a frame.
pub(super) const BODY_BYTES_MAX: usize = 320;
const STREAMS: u8 = 6;

/// A settle as it was said.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) body: Vec<u8>,
    pub(super) leaser: Leaser,
    pub(super) verb: SettleVerb,
}

/// All that the client said and what it may expect of that.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Something went out that was not made by the rules: numbers and counts mean nothing.
    pub(super) wild: bool,
    pub(super) deleted: bool,
    pub(super) bodies: Vec<Vec<u8>>,
    /// Highest number said on each stream, opened again or not.
    pub(super) publishes: BTreeMap<u32, u64>,
    pub(super) settles: BTreeMap<u32, Vec<Settled>>,
    pub(super) pings: Vec<u64>,
    pub(super) requests: Vec<u64>,
    /// Bytes readers may be sent, one frame for each aside.
    pub(super) credit: u64,
    pub(super) readers: u64,
    /// Records each consumer may hold at most.
    pub(super) allowed: BTreeMap<u32, u64>,
}

/// Deliveries that may be settled, and who gave them out.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) leasers: BTreeMap<u32, Leaser>,
    pub(super) works: Vec<(u32, Worked)>,
}

impl Said {
    /// The next correlation of a request.
    fn request(&mut self) -> u64 {
        let correlation = 1000 + self.requests.len() as u64;
        self.requests.push(correlation);
        correlation
    }

    /// The bytes of the message that `what` and the input spell; none where they spell none.
    pub(super) fn message(&mut self, what: u8, held: &Held, input: &mut Input<'_>) -> Vec<u8> {
        let script = Script::default();
        let script = match what {
            0 => return self.raw(input),
            1 => return self.repaired(input),
            2 => {
                self.wild = true;
                let (low, high) = (input.byte().into(), input.byte().into());
                script.and_hello(low, high)
            }
            3..=8 => self.about_topics(what, input),
            9..=11 => self.about_publishing(what, input),
            12..=14 => self.about_reading(what, input),
            15..=19 => self.about_queues(what, input),
            20..=24 => self.about_consuming(what, held, input),
            25 => {
                let correlation = self.pings.len() as u64 + 7;
                self.pings.push(correlation);
                script.ping(correlation)
            }
            26 => script.close(stream(input), self.request_of_stream()),
            _ => return Vec::new(),
        };
        script.0
    }

    /// Answered by a `StreamClosed`, or not at all.
    fn request_of_stream(&self) -> u64 {
        1 << 40
    }

    fn raw(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        self.wild = true;
        let count = usize::from(input.byte());
        input.bytes(count).to_vec()
    }

    /// Any body under any kind, the checksums right.
    fn repaired(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        self.wild = true;
        let Some(kind) = MessageKind::from_code(input.byte()) else {
            return Vec::new();
        };
        self.deleted |= matches!(
            kind,
            MessageKind::DeleteTopic | MessageKind::DeleteQueue | MessageKind::ControlQueue
        );
        let stream = StreamId(u32::from(input.byte() % STREAMS));
        let correlation = u64::from(input.byte());
        let count = usize::from(input.byte());
        let body = input.bytes(count);
        let header = WireHeader {
            kind,
            body_bytes: body.len() as u32,
            stream,
            correlation,
            body_crc: if body.is_empty() { 0 } else { crc32c(body) },
        };
        [header.encode().as_slice(), body].concat()
    }

    fn about_topics(&mut self, what: u8, input: &mut Input<'_>) -> Script {
        let (script, correlation) = (Script::default(), self.request());
        let topic = input.pick(&TOPICS);
        match what {
            3 | 4 => {
                let durability = input.pick(&[Durability::Stored, Durability::Synced]);
                script.create(correlation, topic, durability)
            }
            5 => {
                let which = input.byte();
                match which % 8 {
                    5 => script.describe_retention(correlation, topic),
                    6 => script.set_retention(correlation, topic, retention(which)),
                    7 => {
                        self.deleted = true;
                        script.delete(correlation, topic)
                    }
                    _ => script.describe(correlation, topic),
                }
            }
            6 => script.describe(correlation, topic),
            7 => script.list(correlation, input.pick(&[None, Some("t"), Some("zz")])),
            _ => {
                let at = u64::from(input.byte());
                match input.byte() % 4 {
                    0 | 1 => script.set_cursor(correlation, topic, "c", at),
                    2 => script.describe_cursor(correlation, topic, "c"),
                    _ => script.delete_cursor(correlation, topic, "c"),
                }
            }
        }
    }

    fn about_publishing(&mut self, what: u8, input: &mut Input<'_>) -> Script {
        let script = Script::default();
        let stream = stream(input);
        if what == 9 {
            self.publishes.entry(stream).or_default();
            let ack = input.pick(&[AckLevel::Topic, AckLevel::Stored, AckLevel::Synced]);
            self.publishes.insert(stream, 0);
            return script.publisher(stream, input.pick(&TOPICS), ack);
        }
        let next = self.publishes.entry(stream).or_default();
        let number = match input.byte() {
            slip @ 250.. => (*next + u64::from(slip)) % 256,
            _ => *next + 1,
        };
        *next = number;
        // It says of itself which it is.
        let mut body = format!("{stream} {number} {}", self.bodies.len()).into_bytes();
        let len_bytes = usize::from(input.byte()) + body.len();
        body.resize(len_bytes.min(BODY_BYTES_MAX), b'.');
        self.bodies.push(body.clone());
        script.publish(stream, number, &body)
    }

    fn about_reading(&mut self, what: u8, input: &mut Input<'_>) -> Script {
        let script = Script::default();
        let stream = stream(input);
        let bytes = input.pick(&[1000, 0, 1, 64 << 20, (64 << 20) + 1, u32::MAX, 200, 5000]);
        self.credit += u64::from(bytes);
        if what == 14 {
            return script.credit(stream, bytes);
        }
        self.readers += 1;
        let at = u64::from(input.byte());
        let start = input.pick(&[
            Start::Earliest,
            Start::Latest,
            Start::Offset(Offset(at)),
            Start::Time(at << 43),
        ]);
        script.reader(stream, input.pick(&TOPICS), start, bytes)
    }

    fn about_queues(&mut self, what: u8, input: &mut Input<'_>) -> Script {
        let (script, correlation) = (Script::default(), self.request());
        let queue = input.pick(&QUEUES);
        let settings = QueueSettings {
            deliveries_max: u32::from(input.byte() % 3),
            ..QueueSettings::default()
        };
        match what {
            15 | 16 => {
                let topic = (queue == "over").then_some("t");
                script.queue_over(correlation, queue, topic, settings)
            }
            17 => script.set_queue(correlation, queue, settings),
            18 => match input.byte() % 8 {
                0 | 1 => script.control_queue(correlation, queue, QueueVerb::Pause),
                2 | 3 => script.control_queue(correlation, queue, QueueVerb::Resume),
                4 => script.control_queue(correlation, queue, QueueVerb::Purge),
                5 => {
                    self.deleted = true;
                    script.delete_queue(correlation, queue)
                }
                _ => script.redrive(correlation, queue),
            },
            _ => match input.byte() % 4 {
                0 => script.describe_queue(correlation, queue),
                1 => script.list_queues(correlation, None),
                2 => script.peek(correlation, queue, 0, input.pick(&AMOUNTS)),
                _ => script.leases(correlation, queue),
            },
        }
    }

    fn about_consuming(&mut self, what: u8, held: &Held, input: &mut Input<'_>) -> Script {
        let script = Script::default();
        let stream = stream(input);
        if what >= 23 {
            return self.settle(stream, held, input);
        }
        let messages = input.pick(&AMOUNTS);
        *self.allowed.entry(stream).or_default() += u64::from(messages);
        match what {
            20 => {
                self.settles.insert(stream, Vec::new());
                script.consumer(stream, input.pick(&QUEUES), messages)
            }
            21 => script.window(stream, messages),
            _ => script.receive(stream, 1 << 41, messages, input.pick(&[0, 1, 300_001])),
        }
    }

    /// Settles what somebody holds, by its lease or nearly.
    fn settle(&mut self, stream: u32, held: &Held, input: &mut Input<'_>) -> Script {
        let forged = Leaser {
            queue_id: 77,
            boot_epoch: 0,
        };
        let leaser = held.leasers.get(&stream).copied().unwrap_or(forged);
        let said = self.settles.entry(stream).or_default();
        let first = said.len() as u64 + 1;
        let mut entries = Vec::new();
        for _ in 0..1 + input.byte() % 3 {
            let choice = usize::from(input.byte());
            let Some((_, work)) = held.works.get(choice % held.works.len().max(1)) else {
                continue;
            };
            let verb = input.pick(&[
                SettleVerb::Ack,
                SettleVerb::Retry,
                SettleVerb::RetryAfter,
                SettleVerb::Reject,
                SettleVerb::Release,
                SettleVerb::Extend,
            ]);
            let slip = input.pick(&[0, 0, 0, 1]);
            entries.push(SettleEntry {
                lease: work.lease.wrapping_add(slip),
                arg_us: if verb == SettleVerb::RetryAfter { 9 } else { 0 },
                ..work.entry(verb)
            });
            let body = work.body.clone();
            said.push(Settled { body, leaser, verb });
        }
        if entries.is_empty() {
            return Script::default();
        }
        Script::default().settle(stream, leaser, first, &entries)
    }
}

/// A stream of the client's; seldom the connection's.
fn stream(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        u8::MAX => 0,
        byte => 1 + u32::from(byte % (STREAMS - 1)),
    }
}

/// A hello this server takes.
pub(super) fn hello() -> Vec<u8> {
    Script::default().and_hello(WIRE_VERSION, WIRE_VERSION).0
}

/// Limits so low that all but the last segment goes, or none.
fn retention(which: u8) -> Retention {
    Retention {
        bytes: u64::from(which / 8 % 4),
        age_ms: u64::from(which / 32),
    }
}
