//! A session: bytes in, bytes and effects out.
//!
//! It owns no socket and reads no clock; it never blocks. What would wait for the disk is handed out
//! as a [`Job`]. Messages are parsed where they lie in the input, and a publish goes straight from
//! there into the log. What can not go on at this moment holds the input back: the rest is left
//! with the caller until [`Session::poll`] says otherwise.

mod consuming;
mod intake;
mod job;
mod publishing;
mod queueing;
mod reading;
mod streams;
mod vitals;

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

use millstream::Broker;
use millstream_protocol::control::{AckRun, ErrorMessage, Goodbye};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};

pub use job::{Job, JobDone};

use crate::budget::OutBudget;
use crate::limits::REQUESTS_WAITING_MAX;
use crate::output::{Out, OutQueue};
use crate::refusal::refused;
use consuming::{Gatherings, Parting};
use publishing::Farewell;
use reading::Delivered;
use streams::{Stream, Streams};
use vitals::{Observed, Verdict, Vitals};

/// How a session introduces itself, and the memory it shares with those of the same options.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    server: String,
    budget: OutBudget,
    gatherings: Gatherings,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            server: concat!("millstream ", env!("CARGO_PKG_VERSION")).to_owned(),
            budget: OutBudget::default(),
            gatherings: Gatherings::default(),
        }
    }
}

impl SessionOptions {
    /// The name and version of this crate, and a budget of its own for output.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// What a session made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes from the front that are done with.
    pub consumed: usize,
    /// Bytes in one run, from the first that is not done with, that the next message takes. Means
    /// nothing while the session is held.
    pub need: usize,
    /// Whether other sessions may have been woken by it.
    pub may_wake: bool,
}

/// The session takes no more input: what it has queued is to be sent, then the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the session is closed")
    }
}

impl std::error::Error for Closed {}

/// Said to clients of a server that stops.
const SHUTTING_DOWN: &str = "the server is shutting down";

/// Why the message at the front of the input has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The log of this publisher is between two segments.
    Rotating(StreamId),
    /// The stream it is about is being opened.
    Opening(StreamId),
    /// The queue of this consumer has much to do already.
    Busy(StreamId),
    /// Too many requests wait already.
    Requests,
}

/// What to do with the message at hand.
enum Taken {
    Done,
    Held(Hold),
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Open,
    Closed,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    broker: Broker,
    options: SessionOptions,
    stage: Stage,
    /// Whether the server stops: nothing new is begun.
    draining: bool,
    /// Whether the client sends nothing more.
    ended: bool,
    streams: Streams,
    out: OutQueue,
    hold: Option<Hold>,
    waiting: VecDeque<Job>,
    job_is_out: bool,
    vitals: Vitals,
    /// Length of the message that has begun and is not whole; 0: none.
    partial_bytes: usize,
    /// Which reader is asked first, so that each is in turn.
    first_reader: usize,
    /// Kept for its capacity.
    runs: Vec<AckRun>,
}

impl Session {
    /// A session that waits for its hello.
    #[must_use]
    pub fn new(broker: Broker, options: SessionOptions) -> Self {
        let out = OutQueue::new(options.budget.clone());
        Self {
            broker,
            options,
            stage: Stage::Greeting,
            draining: false,
            ended: false,
            streams: Streams::default(),
            out,
            hold: None,
            waiting: VecDeque::new(),
            job_is_out: false,
            vitals: Vitals::new(),
            partial_bytes: 0,
            first_reader: 0,
            runs: Vec::new(),
        }
    }

    /// Takes the messages at the front of `input`: all whole ones, unless the session is held.
    ///
    /// What was not consumed is to be offered again, with what follows it, once there is more or
    /// the session is no longer held. Each publish costs one copy, into the log; no lock, no
    /// allocation, no system call.
    ///
    /// # Errors
    ///
    /// [`Closed`] when there is nothing more to take: the peer broke the protocol, or said goodbye.
    pub fn receive(&mut self, input: &[u8]) -> Result<Received, Closed> {
        let mut rest = input;
        let mut need = 0;
        let mut may_wake = false;
        while self.stage != Stage::Closed && !self.ended && !self.is_held() {
            let phase = match self.stage {
                Stage::Greeting => Phase::ServerBeforeHello,
                Stage::Open | Stage::Closed => Phase::Server,
            };
            match next_message(rest, phase) {
                Ok(Next::Need(bytes)) => {
                    need = bytes;
                    break;
                }
                Ok(Next::Message {
                    header,
                    body,
                    consumed,
                }) => {
                    // What is published is announced below, which tells.
                    may_wake |= header.kind != MessageKind::Publish;
                    match self.take(&header, body) {
                        Taken::Done => rest = rest.get(consumed..).unwrap_or_default(),
                        Taken::Held(hold) => self.hold = Some(hold),
                    }
                }
                Err(error) => self.close_with(&refused(error.code(), error.to_string())),
            }
        }
        may_wake |= self.flush_wakes();
        if self.ended {
            rest = &[];
        }
        let consumed = input.len() - rest.len();
        self.vitals.heard(consumed > 0);
        self.partial_bytes = if rest.is_empty() { 0 } else { need };
        if self.stage == Stage::Closed {
            Err(Closed)
        } else {
            Ok(Received {
                consumed,
                need,
                may_wake,
            })
        }
    }

    /// Wakes whoever waits for what was published; whether anybody did.
    fn flush_wakes(&mut self) -> bool {
        let mut waited = false;
        for (_, stream) in self.streams.iter_mut() {
            if let Stream::Publisher(publisher) = stream {
                waited |= publisher.flush_wakes();
            }
        }
        waited
    }

    /// Does what does not come from input: acknowledges, delivers, lets held input go on. `cx` is
    /// woken when there is more of that to do. Returns whether anything was done.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stage == Stage::Closed {
            return false;
        }
        let before = self.out.bytes();
        let mut moved = self.poll_hold(cx);
        moved |= self.poll_acks(cx);
        moved |= self.poll_deliveries(cx);
        moved |= self.poll_answers();
        if self.draining && self.is_settled() {
            self.say_goodbye();
            moved = true;
        }
        if self.out.bytes() != before {
            self.vitals.sent();
        }
        moved
    }

    /// Tries whether what holds the input back is over.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> bool {
        let over = match self.hold {
            None => return false,
            Some(Hold::Requests) => self.waiting.len() < REQUESTS_WAITING_MAX,
            Some(Hold::Opening(id)) => !matches!(self.streams.get(id), Some(Stream::Opening)),
            Some(Hold::Busy(id)) => match self.streams.get(id) {
                Some(Stream::Consumer(consumer)) if consumer.is_busy() => {
                    // Whoever runs the queue is at it this moment: the others first, then again.
                    cx.waker().wake_by_ref();
                    false
                }
                _ => true,
            },
            Some(Hold::Rotating(id)) => match self.streams.get(id) {
                Some(Stream::Publisher(publisher)) => match publisher.poll_ready(cx) {
                    Poll::Pending => false,
                    Poll::Ready(()) => true,
                },
                _ => true,
            },
        };
        if over {
            self.hold = None;
        }
        over
    }

    fn poll_acks(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some((id, stream)) = self.streams.at(index) {
            index += 1;
            let Stream::Publisher(publisher) = stream else {
                continue;
            };
            if publisher.has_unacked() {
                moved |= publisher.poll_acks(id, cx, &mut self.runs, &mut self.out);
            }
            if let Some(farewell) = publisher.farewell() {
                self.bid_farewell(id, farewell);
                moved = true;
                // Another stream is in its place now.
                index -= 1;
            }
        }
        moved
    }

    /// Says that a publisher's stream has ended, and why, and forgets it.
    fn bid_farewell(&mut self, id: StreamId, farewell: Farewell) {
        let correlation = match farewell {
            Farewell::Closed { correlation } => {
                self.streams.remove(id);
                correlation
            }
            Farewell::Refused { number, error } => {
                self.error(id, number, &error);
                self.streams.end(id);
                0
            }
            Farewell::Failed => {
                self.streams.end(id);
                0
            }
        };
        self.bare(MessageKind::StreamClosed, id, correlation);
    }

    /// Answers what consumers settled, and ends their streams that are over.
    fn poll_answers(&mut self) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some((id, stream)) = self.streams.at(index) {
            if self.out.is_congested() {
                // The outcomes keep; they are fewer bytes where they are.
                break;
            }
            index += 1;
            let Stream::Consumer(consumer) = stream else {
                continue;
            };
            moved |= consumer.answer(id, &mut self.out);
            if let Some(parting) = consumer.parting() {
                consumer.part();
                self.part(id, parting);
                moved = true;
                // Another stream is in its place now.
                index -= 1;
            }
        }
        moved
    }

    /// Says that a consumer's stream has ended, and why, and forgets it.
    fn part(&mut self, id: StreamId, parting: Parting) {
        let correlation = match parting {
            Parting::Silent => return self.streams.remove(id),
            Parting::Closed { correlation } => {
                self.streams.remove(id);
                correlation
            }
            Parting::Refused { number, error } => {
                self.error(id, number, &error);
                self.streams.end(id);
                0
            }
            Parting::Failed => {
                self.streams.end(id);
                0
            }
        };
        self.bare(MessageKind::StreamClosed, id, correlation);
    }

    /// Queues deliveries, one a reader or consumer in turn, until none has any or the queue is full.
    fn poll_deliveries(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            let streams = self.streams.len();
            let mut again = false;
            for turn in 0..streams {
                let index = (self.first_reader + turn) % streams;
                let delivered = match self.streams.at(index) {
                    Some((id, Stream::Reader(reader))) => {
                        (id, reader.poll_deliver(id, cx, &mut self.out))
                    }
                    Some((id, Stream::Consumer(consumer))) => {
                        let gatherings = &self.options.gatherings;
                        (id, consumer.poll_work(id, cx, &mut self.out, gatherings))
                    }
                    _ => continue,
                };
                let (id, delivered) = delivered;
                match delivered {
                    Delivered::Nothing => {}
                    Delivered::Some => again = true,
                    Delivered::Failed(message) => {
                        self.refuse_stream(id, &message);
                        // The places have shifted.
                        again = true;
                        break;
                    }
                }
            }
            if !again {
                return moved;
            }
            moved = true;
            self.first_reader = self.first_reader.wrapping_add(1);
        }
    }

    /// Takes the next piece to be sent.
    pub fn pop_output(&mut self) -> Option<Out> {
        self.out.pop()
    }

    /// Gives back a piece that was sent, for its memory.
    pub fn recycle(&mut self, out: Out) {
        self.out.recycle(out);
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes a request to be carried out beside the session. It gets one at a time, and the next
    /// only once [`Session::finish_job`] had the outcome of the last, and the client takes answers.
    pub fn take_job(&mut self) -> Option<Job> {
        if self.job_is_out || self.out.is_congested() {
            return None;
        }
        let job = self.waiting.pop_front();
        self.job_is_out = job.is_some();
        job
    }

    /// Whether the message at the front of the input has to wait for [`Session::poll`], or for
    /// output to be taken.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.hold.is_some() || self.out.is_congested()
    }

    /// Whether the connection is to end once all output is sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed || self.ended && self.is_settled()
    }

    /// Whether all that was accepted is acknowledged, and all that was asked answered.
    fn is_settled(&self) -> bool {
        let acked = |stream: &Stream| match stream {
            Stream::Opening => false,
            Stream::Publisher(publisher) => publisher.is_open() && !publisher.has_unacked(),
            Stream::Reader(_) => true,
            Stream::Consumer(consumer) => consumer.is_open() && consumer.is_answered(),
        };
        !self.job_is_out && self.waiting.is_empty() && self.streams.iter().all(acked)
    }

    /// Takes note that the client sends nothing more: what it began is finished, nothing is
    /// delivered to it any more.
    pub fn input_ended(&mut self) {
        self.ended = true;
        self.hold = None;
        self.streams.drop_readers();
        for (_, stream) in self.streams.iter_mut() {
            if let Stream::Consumer(consumer) = stream {
                consumer.lose();
            }
        }
    }

    /// The client said that it sends nothing more: its consumers leave in good order.
    fn goodbye(&mut self) {
        for (_, stream) in self.streams.iter_mut() {
            if let Stream::Consumer(consumer) = stream {
                consumer.leave();
            }
        }
        self.input_ended();
    }

    /// Takes note that the server stops. Streams are ended with an error that says from which
    /// publish on nothing was taken; what was accepted is acknowledged; a goodbye is the last message.
    pub fn drain(&mut self) {
        if self.draining || self.stage == Stage::Closed {
            return;
        }
        self.draining = true;
        let stopping = refused(ErrorCode::ShuttingDown, SHUTTING_DOWN);
        for id in self.streams.ids() {
            self.refuse_stream(id, &stopping);
        }
        if self.stage == Stage::Greeting {
            self.say_goodbye();
        }
    }

    fn say_goodbye(&mut self) {
        let goodbye = Goodbye {
            reason: SHUTTING_DOWN.to_owned(),
        };
        self.out
            .control(|out| goodbye.encode(StreamId::CONNECTION, 0, out));
        self.stage = Stage::Closed;
    }

    /// Looks at the clock, and says when to look next. Call it once when the session begins.
    pub fn tick(&mut self, now: Instant) -> Instant {
        let seen = Observed {
            greeted: self.stage != Stage::Greeting,
            held: self.is_held(),
            partial_bytes: self.partial_bytes,
        };
        if self.vitals.quiet() {
            self.shrink();
        }
        let closing = match self.vitals.tick(now, seen) {
            _ if self.stage == Stage::Closed => None,
            Verdict::Fine => None,
            Verdict::Ping => {
                self.bare(MessageKind::Ping, StreamId::CONNECTION, 0);
                self.vitals.sent();
                None
            }
            Verdict::NoHello => Some(refused(ErrorCode::HelloRequired, "no hello came in time")),
            Verdict::Silent => Some(refused(
                ErrorCode::TimedOut,
                "nothing was heard for three heartbeats",
            )),
            Verdict::Stuck => Some(refused(
                ErrorCode::TimedOut,
                "a message was begun and did not end in time",
            )),
        };
        if let Some(error) = closing {
            self.close_with(&error);
        }
        self.vitals.next(now, seen.greeted)
    }

    /// Gives back memory that a quiet session does not need.
    fn shrink(&mut self) {
        self.out.shrink();
        self.runs = Vec::new();
        for (_, stream) in self.streams.iter_mut() {
            match stream {
                Stream::Publisher(publisher) => publisher.shrink(),
                Stream::Consumer(consumer) => consumer.shrink(),
                Stream::Opening | Stream::Reader(_) => {}
            }
        }
    }

    /// Says why, and closes.
    fn close_with(&mut self, error: &ErrorMessage) {
        self.error(StreamId::CONNECTION, 0, error);
        self.stage = Stage::Closed;
    }

    fn error(&mut self, stream: StreamId, correlation: u64, error: &ErrorMessage) {
        self.out
            .control(|out| error.encode(stream, correlation, out));
    }

    fn bare(&mut self, kind: MessageKind, stream: StreamId, correlation: u64) {
        let header = WireHeader::bare(kind, stream, correlation).encode();
        self.out.control(|out| out.extend_from_slice(&header));
    }
}
