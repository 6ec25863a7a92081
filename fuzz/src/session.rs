//! A session, whatever its client says, in whatever pieces, with whatever delays.
//!
//! The first byte says how it begins and ends; each step behind it is a byte for what happens (its
//! low five bits: a message, or the clock, a request carried out, output taken, hanging up) and when
//! what was said so far is handed over (its high three). The broker is a real one over a folder in
//! memory. Claims:
//! - all the server says is what a server says, in whole messages;
//! - before a hello it says an error at most, asks for 512 bytes at most and carries nothing out;
//! - an acknowledged publish is in a topic at its offset; what is read or delivered was published;
//! - a pong for each ping in order, one answer for each request, none that nobody asked for;
//! - readers get no more than their credit and a frame, consumers no more than they asked for; no
//!   lease is given twice, and what was acknowledged is not delivered again;
//! - a session that is closed says why, last of all; any other goes on answering.

#[path = "../../server/tests/peer/mod.rs"]
mod peer;
mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use millstream::{Broker, Start};
use millstream_protocol::control::SettleVerb;
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, HELLO_BYTES_MAX, PRE_HELLO_BYTES_MAX, WIRE_HEADER_BYTES,
};
use millstream_server::{JobDone, Received, Session, SessionOptions};
use millstream_storage::{HeapFolder, StoreOptions};

use crate::Outcome;
use crate::input::Input;
use peer::{Ear, Said as Heard};
use talk::{BODY_BYTES_MAX, Held, Said};

/// Published when the session is over.
const LAST: &str = "last";
/// More are left out.
const STEPS_MAX: usize = 120;

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let mut input = Input::new(data);
    let choice = input.byte();
    let folder = HeapFolder::new();
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
    };
    let broker = millstream::fuzzing::open_folder(Arc::new(folder), &options)
        .expect("an empty folder opens");
    let mut client = Client::new(&broker);
    if !choice.is_multiple_of(8) {
        client.unsent.extend(talk::hello());
    }
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        client.step(&mut input);
    }
    let outcome = client.end(choice / 8);
    broker.close().expect("it closes");
    outcome
}

/// The client and the session, on either side of a piece of memory.
struct Client<'a> {
    broker: &'a Broker,
    session: Session,
    now: Instant,
    unsent: Vec<u8>,
    input: Vec<u8>,
    done: Option<JobDone>,
    closed: bool,
    ear: Ear,
    out_bytes: usize,
    said: Said,
    heard: Listener,
    held: Held,
}

/// What was made of what was heard so far.
#[derive(Default)]
struct Listener {
    /// How much of it was looked at.
    seen: usize,
    welcomed: bool,
    pongs: usize,
    answered: BTreeSet<u64>,
    /// Stream, number and offset.
    acked: Vec<(u32, u64, u64)>,
    leases: BTreeSet<(u32, u64, u64)>,
    delivered: BTreeMap<u32, u64>,
    /// Queue and body.
    finished: BTreeSet<(u32, Vec<u8>)>,
}

impl<'a> Client<'a> {
    fn new(broker: &'a Broker) -> Self {
        let mut session = Session::new(broker.clone(), SessionOptions::new());
        let now = Instant::now();
        session.tick(now);
        Self {
            broker,
            session,
            now,
            unsent: Vec::new(),
            input: Vec::new(),
            done: None,
            closed: false,
            ear: Ear::default(),
            out_bytes: 0,
            said: Said::default(),
            heard: Listener::default(),
            held: Held::default(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        match step % 32 {
            27 => self.tick(input),
            28 => {
                self.carry_out(input.byte().is_multiple_of(2));
            }
            29 => {
                self.take_output(usize::from(input.byte()));
            }
            30 if input.byte() % 16 == 15 => self.session.input_ended(),
            31 if input.byte() % 16 == 15 => self.session.drain(),
            what => {
                let message = self.said.message(what, &self.held, input);
                self.unsent.extend(message);
            }
        }
        match step / 32 {
            0..=3 => {
                self.turn();
            }
            // Held back until more was said.
            4 => {}
            5 => self.hand_over(self.unsent.len() / 2),
            6 => {
                self.hand_over(self.unsent.len());
                self.poll();
            }
            _ => {
                self.hand_over(1);
                self.hand_over(self.unsent.len());
                self.poll();
                self.take_output(1);
            }
        }
    }

    /// Does all that can be done now; whether anything was.
    fn turn(&mut self) -> bool {
        self.hand_over(self.unsent.len());
        let mut moved = false;
        loop {
            let mut again = self.receive();
            again |= self.carry_out(true);
            again |= self.poll();
            again |= self.take_output(usize::MAX);
            if !again {
                return moved;
            }
            moved = true;
        }
    }

    fn hand_over(&mut self, bytes: usize) {
        let said = self.unsent.drain(..bytes.min(self.unsent.len()));
        self.input.extend(said);
        self.receive();
    }

    fn receive(&mut self) -> bool {
        if self.closed || self.input.is_empty() || self.session.is_held() {
            return false;
        }
        match self.session.receive(&self.input) {
            Ok(Received { consumed, need, .. }) => {
                self.input.drain(..consumed);
                let held = self.session.is_held() || self.session.is_closed();
                let most = if self.heard.welcomed || consumed > 0 {
                    WIRE_HEADER_BYTES + FRAME_BYTES_MAX
                } else {
                    HELLO_BYTES_MAX
                };
                assert!(held || need <= most, "{need} bytes are asked for");
                assert!(held || self.input.is_empty() || need > self.input.len());
                consumed > 0
            }
            Err(_) => {
                self.closed = true;
                true
            }
        }
    }

    fn poll(&mut self) -> bool {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        self.session.poll(&mut Context::from_waker(&waker))
    }

    /// Carries a request out; its outcome is told at once, or the next time.
    fn carry_out(&mut self, tell: bool) -> bool {
        if let Some(done) = self.done.take() {
            self.session.finish_job(done);
            return true;
        }
        let Some(job) = self.session.take_job() else {
            return false;
        };
        let done = job.run();
        if tell {
            self.session.finish_job(done);
        } else {
            self.done = Some(done);
        }
        true
    }

    fn tick(&mut self, input: &mut Input<'_>) {
        self.now += Duration::from_millis(input.pick(&[0, 1, 2_500, 5_000, 10_000, 31_000]));
        let next = self.session.tick(self.now);
        assert!(next > self.now, "it looks at the clock again, later");
    }

    fn take_output(&mut self, pieces: usize) -> bool {
        let mut any = false;
        for _ in 0..pieces {
            let Some(out) = self.session.pop_output() else {
                break;
            };
            self.out_bytes += out.as_bytes().len();
            self.ear.hear(out.as_bytes());
            self.session.recycle(out);
            any = true;
        }
        while let Some(heard) = self.ear.said.get(self.heard.seen) {
            let heard = heard.clone();
            self.heard.seen += 1;
            self.heard.note(heard, &self.said, &mut self.held);
        }
        let bytes = self.ear.delivered;
        let frame = (FRAME_HEADER_BYTES + BODY_BYTES_MAX) as u64;
        let most = self.said.credit + self.said.readers * frame;
        assert!(
            self.said.wild || bytes <= most,
            "{bytes} delivered of {most}"
        );
        if !self.heard.welcomed {
            assert!(self.out_bytes <= PRE_HELLO_BYTES_MAX, "too much said");
        }
        any
    }

    /// Goes on until `done`.
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        loop {
            self.turn();
            if done(self) {
                return;
            }
            std::thread::park();
        }
    }

    /// Comes to an end in one of three ways, and looks at what is left.
    fn end(mut self, choice: u8) -> Outcome {
        self.turn();
        match choice % 3 {
            0 => self.session.input_ended(),
            1 => self.session.drain(),
            // One that has begun a message and says no more would wait for the rest of it.
            _ if !self.input.is_empty() || !self.heard.welcomed => self.session.input_ended(),
            _ if !self.session.is_closed() => {
                let ping = peer::Script::default().ping(u64::MAX);
                self.unsent.extend(ping.0);
                self.said.wild = true;
                self.until(|client| {
                    client.session.is_closed() || client.ear.said.contains(&Heard::Pong(u64::MAX))
                });
                self.session.input_ended();
            }
            _ => {}
        }
        self.until(|client| client.session.is_closed());
        self.turn();
        if self.closed {
            let last = self.ear.said.last();
            let why = matches!(
                last,
                Some(Heard::Error { stream: 0, .. } | Heard::Goodbye(_))
            );
            assert!(why, "closed without a word: {last:?}");
        }
        self.check_topics();
        let accepted = self.heard.welcomed && !self.closed;
        if accepted {
            Outcome::Accepted
        } else {
            Outcome::Refused
        }
    }

    /// Everything acknowledged is where it was said to be, and all there is was published.
    fn check_topics(&self) {
        let mut there = BTreeSet::new();
        for topic in self.broker.topics() {
            let name = topic.name.as_str();
            // What is acknowledged as stored can be read once it is synced, so before this one.
            let mut last = self.broker.publisher(name).expect("it is there");
            let last = last.publish_blocking(LAST).expect("it is published").first;
            let mut reader = self
                .broker
                .reader(name, Start::Earliest)
                .expect("it is there");
            while reader.next_offset() < last {
                let Some(Ok(record)) = reader.next_blocking() else {
                    break;
                };
                let body = record.as_bytes().to_vec();
                if body == LAST.as_bytes() {
                    break;
                }
                assert!(
                    self.said.bodies.contains(&body),
                    "{name}: an invented record"
                );
                there.insert((record.offset().0, body));
            }
        }
        for (stream, number, offset) in &self.heard.acked {
            let start = format!("{stream} {number} ").into_bytes();
            let mut at = there.range((*offset, Vec::new())..(offset + 1, Vec::new()));
            let kept = at.any(|(_, body)| body.starts_with(&start));
            let lost = format!("publish {number} of stream {stream} at {offset} is gone");
            assert!(kept || self.said.deleted, "{lost}");
        }
    }
}

impl Listener {
    fn note(&mut self, heard: Heard, said: &Said, held: &mut Held) {
        match heard {
            Heard::Welcome(_) => {
                assert!(!self.welcomed, "welcome twice");
                self.welcomed = true;
            }
            Heard::Error {
                stream: 0,
                correlation: 0,
                ..
            }
            | Heard::Goodbye(_) => {}
            other => {
                assert!(self.welcomed, "{other:?} before a hello");
                self.note_later(other, said, held);
            }
        }
    }

    fn note_later(&mut self, heard: Heard, said: &Said, held: &mut Held) {
        match heard {
            Heard::Pong(correlation) if correlation != u64::MAX => {
                let ping = said.pings.get(self.pongs);
                assert!(
                    said.wild || ping == Some(&correlation),
                    "pong {correlation}"
                );
                self.pongs += 1;
            }
            Heard::Topic { correlation, .. }
            | Heard::Topics { correlation, .. }
            | Heard::Deleted(correlation)
            | Heard::Retention { correlation, .. }
            | Heard::Queue { correlation, .. }
            | Heard::Error {
                stream: 0,
                correlation,
                ..
            } => {
                let asked = said.requests.contains(&correlation);
                let first = self.answered.insert(correlation);
                assert!(said.wild || asked && first, "answer {correlation}");
            }
            Heard::Acked {
                stream,
                publish,
                base,
            } => self.acked.push((stream, publish, base.0)),
            Heard::Record { body, .. } => {
                assert!(said.bodies.contains(&body), "an invented record is read");
            }
            Heard::ConsumerOpened { stream, opened } => {
                let leaser = millstream_protocol::control::Leaser {
                    queue_id: opened.queue_id,
                    boot_epoch: opened.boot_epoch,
                };
                held.leasers.insert(stream, leaser);
            }
            Heard::Work { stream, work } => self.note_work(stream, work, said, held),
            Heard::Settled {
                stream,
                number,
                fault,
            } => {
                let settles = said.settles.get(&stream);
                let settle = settles.and_then(|all| all.get(number as usize - 1));
                assert!(said.wild || settle.is_some(), "settle {number} is answered");
                if let (Some(settle), None, false) = (settle, fault, said.wild)
                    && settle.verb == SettleVerb::Ack
                {
                    let queue = settle.leaser.queue_id;
                    self.finished.insert((queue, settle.body.clone()));
                }
            }
            _ => {}
        }
    }

    fn note_work(&mut self, stream: u32, work: peer::Worked, said: &Said, held: &mut Held) {
        assert!(said.bodies.contains(&work.body), "an invented delivery");
        let queue = held
            .leasers
            .get(&stream)
            .map_or(0, |leaser| leaser.queue_id);
        let fresh = self.leases.insert((queue, work.lease, work.offset));
        assert!(fresh, "lease {} is given twice", work.lease);
        let done = self.finished.contains(&(queue, work.body.clone()));
        assert!(!done, "delivered after it was acknowledged");
        let delivered = self.delivered.entry(stream).or_default();
        *delivered += 1;
        let settled = said.settles.get(&stream).map_or(0, Vec::len) as u64;
        let allowed = said.allowed.get(&stream).copied().unwrap_or(0);
        assert!(
            said.wild || *delivered <= settled + allowed,
            "{delivered} of {allowed} delivered"
        );
        held.works.push((stream, work));
    }
}

/// Wakes a thread that parks.
struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
