//! The client's side of one connection as a state machine: bytes in, bytes and events out.
//!
//! It reads no clock and does no I/O; whoever drives it says what time it is, hands it what the
//! socket gave, sends what [`Core::transmit`] puts out, and carries out [`Event`]s. The same core
//! runs under the tokio driver, in tests against a scripted server, and under a fuzzer.
//!
//! Everything the server sends is checked against what this side knows: the layout and checksum of
//! each message, acknowledgements against what was sent, deliveries against credit and order. What
//! does not fit ends the connection with [`ConnectionError::Protocol`].
//!
//! ```text
//!  Greeting ──welcome──▶ Core ──close──▶ closing ──all answered, goodbye sent──▶ ended
//!                          └──goodbye, error, silence, end of bytes──────────────▶ ended
//! ```

mod consuming;
mod event;
mod greeting;
mod heartbeat;
mod incoming;
mod publishing;
mod reading;
mod request;
mod streams;

pub use consuming::{RefusedSettle, SettleRequest};
pub use event::{Delivery, Event, RequestId, Stored, Unpublished, Unsettled, WorkItem};
pub use greeting::{Greeting, ServerLimits};
pub use publishing::{NotTaken, Place, ReadyFrame};
pub use request::{Answer, Request};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::control::{Goodbye, Welcome};
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use crate::error::ConnectionError;
use consuming::Consuming;
use heartbeat::{Beat, Heartbeat};
use publishing::{Left, Publishing};
use reading::Reading;
use request::Asked;

/// A pass of [`Core::transmit`] ends with the message that reaches this many bytes.
const TRANSMIT_BYTES: usize = 64 << 10;

/// What to send next: first `head`, then `body`. Reused from pass to pass.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Messages, the last of which may end in `body`.
    pub head: Vec<u8>,
    /// The end of a large frame, sent from where it is.
    pub body: Bytes,
}

impl Outgoing {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    fn clear(&mut self) {
        self.head.clear();
        // What one large message needed is not kept for ever.
        self.head.shrink_to(4 * TRANSMIT_BYTES);
        self.body = Bytes::new();
    }
}

#[derive(Debug)]
enum Stream {
    Publisher(Box<Publishing>),
    Reader(Reading),
    Consumer(Box<Consuming>),
    /// A close was sent; what still comes is for nobody.
    Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// What was published still goes out and is answered.
    Draining,
    /// The goodbye is among the bytes to send.
    Said,
}

/// The client's side of one connection.
#[derive(Debug)]
pub struct Core {
    ended: Option<ConnectionError>,
    closing: Closing,
    welcome: Welcome,
    limits: ServerLimits,
    heartbeat: Heartbeat,
    /// Control messages to send.
    control: Vec<u8>,
    /// The correlation of a ping to answer; a later one stands for all before it.
    pong: Option<u64>,
    streams: BTreeMap<StreamId, Stream>,
    /// The number of the next stream: none is used twice on a connection.
    next_stream: u32,
    /// Publisher and consumer streams that may have something to send, each once.
    sending: VecDeque<StreamId>,
    requests: BTreeMap<u64, Asked>,
    next_request: u64,
    /// What the server gave as its reason to go.
    goodbye: Arc<str>,
    events: VecDeque<Event>,
    /// Bytes the next message needs in all.
    wanted_bytes: usize,
}

impl Core {
    fn new(now: Instant, welcome: Welcome, limits: ServerLimits) -> Self {
        Self {
            ended: None,
            closing: Closing::No,
            welcome,
            limits,
            heartbeat: Heartbeat::new(now, limits.heartbeat),
            control: Vec::new(),
            pong: None,
            streams: BTreeMap::new(),
            next_stream: 1,
            sending: VecDeque::new(),
            requests: BTreeMap::new(),
            next_request: 1,
            goodbye: Arc::from(""),
            events: VecDeque::new(),
            wanted_bytes: 0,
        }
    }

    /// What the server said of itself.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// What the server lets this client have.
    #[must_use]
    pub const fn limits(&self) -> ServerLimits {
        self.limits
    }

    /// Why the connection is over, once it is.
    #[must_use]
    pub const fn ended(&self) -> Option<&ConnectionError> {
        self.ended.as_ref()
    }

    /// The next thing to carry out.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes of input the next message needs in all; 0 when that is not known yet.
    #[must_use]
    pub const fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// When [`Core::tick`] is due, at the latest; none once the connection is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.ended.is_none().then(|| self.heartbeat.deadline())
    }

    /// Lets time pass: asks an idle peer for a sign of life, gives a silent one up.
    ///
    /// What has arrived is to be handed in first.
    pub fn tick(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        match self.heartbeat.tick(now) {
            Beat::Quiet => {}
            Beat::Ping => self.bare(MessageKind::Ping, StreamId::CONNECTION, 0),
            Beat::Lost(silence) => {
                let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
                self.end(ConnectionError::Silent { ms });
            }
        }
    }

    /// The server's bytes are at their end.
    pub fn end_of_input(&mut self) {
        let error = match self.closing {
            Closing::Said => ConnectionError::ClosedHere,
            _ => ConnectionError::ClosedByServer {
                reason: self.goodbye.clone(),
            },
        };
        self.end(error);
    }

    /// The connection is over, for `error`. Whatever was not answered is told as events; the last
    /// event is [`Event::Ended`]. Only the first call counts.
    pub fn end(&mut self, error: ConnectionError) {
        if self.ended.is_some() {
            return;
        }
        for (stream, state) in std::mem::take(&mut self.streams) {
            match state {
                Stream::Publisher(publishing) => {
                    let (sent, waiting) = publishing.unanswered();
                    self.unpublished(stream, sent, Unpublished::Unknown(error.clone()));
                    self.unpublished(stream, waiting, Unpublished::NotSent(error.clone()));
                }
                Stream::Consumer(consuming) => self.unsettled(stream, &consuming, u64::MAX),
                Stream::Reader(_) | Stream::Closing => {}
            }
        }
        self.requests.clear();
        self.sending.clear();
        self.control.clear();
        self.pong = None;
        self.ended = Some(error.clone());
        self.events.push_back(Event::Ended(error));
    }

    /// Takes nothing more, sends what was taken, waits for its answers, says goodbye.
    pub fn close(&mut self) {
        if self.closing == Closing::No && self.ended.is_none() {
            self.closing = Closing::Draining;
            for stream in self.streams.values_mut() {
                match stream {
                    Stream::Publisher(publishing) => publishing.drain(),
                    Stream::Consumer(consuming) => consuming.drain(),
                    Stream::Reader(_) | Stream::Closing => {}
                }
            }
            self.go_on_closing();
        }
    }

    /// Whether everything this side will ever send was put out: the socket may be shut.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.ended.is_some() || self.closing == Closing::Said && self.control.is_empty()
    }

    /// Fills `out` with what to send now; false when there is nothing.
    ///
    /// To be called again once all of `out` was written: what is published meanwhile gathers.
    pub fn transmit(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        out.clear();
        if self.ended.is_some() {
            return false;
        }
        if let Some(correlation) = self.pong.take() {
            self.bare(MessageKind::Pong, StreamId::CONNECTION, correlation);
        }
        out.head.append(&mut self.control);
        while out.head.len() < TRANSMIT_BYTES && out.body.is_empty() {
            let Some(stream) = self.sending.pop_front() else {
                break;
            };
            let left = match self.streams.get_mut(&stream) {
                Some(Stream::Publisher(publishing)) => {
                    let left = publishing.transmit(stream, out);
                    publishing.in_turn = left == Left::More;
                    left
                }
                Some(Stream::Consumer(consuming)) => {
                    let left = consuming.transmit(stream, out);
                    consuming.in_turn = left == Left::More;
                    left
                }
                _ => Left::Nothing,
            };
            if left == Left::More {
                self.sending.push_back(stream);
            }
        }
        if out.is_empty() {
            return false;
        }
        self.heartbeat.sent(now);
        true
    }

    /// Whether [`Core::transmit`] has something to put out.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || self.pong.is_some() || !self.sending.is_empty()
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// The connection is over, or being closed.
    pub fn request(&mut self, request: &Request) -> Result<RequestId, ConnectionError> {
        self.check_open()?;
        let correlation = self.next_request;
        let asked = request.encode(correlation, &mut self.control);
        self.next_request += 1;
        self.requests.insert(correlation, asked);
        Ok(RequestId(correlation))
    }

    fn go_on_closing(&mut self) {
        let waits = |stream: &Stream| match stream {
            Stream::Publisher(publishing) => !publishing.is_answered(),
            Stream::Consumer(consuming) => !consuming.is_answered(),
            Stream::Reader(_) | Stream::Closing => false,
        };
        if self.closing == Closing::Draining && !self.streams.values().any(waits) {
            self.closing = Closing::Said;
            Goodbye {
                reason: String::new(),
            }
            .encode(StreamId::CONNECTION, 0, &mut self.control);
        }
    }

    fn bare(&mut self, kind: MessageKind, stream: StreamId, correlation: u64) {
        let header = WireHeader::bare(kind, stream, correlation);
        self.control.extend_from_slice(&header.encode());
    }

    /// Whether the connection takes requests and messages.
    ///
    /// # Errors
    ///
    /// It is over, or being closed.
    pub fn check_open(&self) -> Result<(), ConnectionError> {
        match &self.ended {
            Some(error) => Err(error.clone()),
            None if self.closing != Closing::No => Err(ConnectionError::ClosedHere),
            None => Ok(()),
        }
    }

    fn unpublished(&mut self, stream: StreamId, publishes: std::ops::Range<u64>, why: Unpublished) {
        if !publishes.is_empty() {
            self.events.push_back(Event::Unpublished {
                stream,
                publishes,
                why,
            });
        }
    }

    /// The settles of a stream that is over: what was not answered never will be. From `unchanged`
    /// on they changed nothing.
    fn unsettled(&mut self, stream: StreamId, consuming: &Consuming, unchanged: u64) {
        let (sent, waiting) = consuming.unanswered();
        let unchanged = unchanged.clamp(sent.start, sent.end);
        let unanswered = [
            (sent.start..unchanged, Unsettled::Unanswered),
            (unchanged..waiting.end, Unsettled::Unchanged),
        ];
        for (settles, why) in unanswered {
            if !settles.is_empty() {
                self.events.push_back(Event::Unsettled {
                    stream,
                    settles,
                    why,
                });
            }
        }
    }
}
