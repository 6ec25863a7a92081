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

mod event;
mod greeting;
mod heartbeat;
mod incoming;
mod publishing;
mod reading;

pub use event::{Answer, Delivery, Event, RequestId, Unpublished};
pub use greeting::{Greeting, ServerLimits};
pub use publishing::{NotTaken, Place, ReadyFrame};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::batch::Message;
use millstream_protocol::control::{
    CreateTopic, Credit, DeleteTopic, DescribeTopic, Goodbye, ListTopics, OpenPublisher,
    OpenReader, Welcome,
};
use millstream_protocol::limits::STREAMS_PER_CONNECTION_MAX;
use millstream_protocol::wire::{MessageKind, StreamId, WireHeader};

use crate::error::{ConnectionError, TopicErrorCause};
use heartbeat::{Beat, Heartbeat};
use publishing::{Left, Publishing};
use reading::Reading;

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

/// A request about topics.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Create one; answered by [`Answer::Topic`].
    Create(CreateTopic),
    /// Describe one; answered by [`Answer::Topic`].
    Describe(DescribeTopic),
    /// Delete one; answered by [`Answer::Deleted`].
    Delete(DeleteTopic),
    /// List some; answered by [`Answer::Topics`].
    List(ListTopics),
}

/// Which answer a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Topic,
    Topics,
    Deletion,
}

#[derive(Debug)]
enum Stream {
    Publisher(Box<Publishing>),
    Reader(Reading),
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
    /// Publisher streams that may have something to send, each once.
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
            let Stream::Publisher(publishing) = state else {
                continue;
            };
            let (sent, waiting) = publishing.unanswered();
            self.unpublished(stream, sent, Unpublished::Unknown(error.clone()));
            self.unpublished(stream, waiting, Unpublished::NotSent(error.clone()));
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
                if let Stream::Publisher(publishing) = stream {
                    publishing.drain();
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
            let Some(Stream::Publisher(publishing)) = self.streams.get_mut(&stream) else {
                continue;
            };
            publishing.in_turn = publishing.transmit(stream, out) == Left::More;
            if publishing.in_turn {
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

    /// Sends a request about topics.
    ///
    /// # Errors
    ///
    /// The connection is over, or being closed.
    pub fn request(&mut self, request: &Request) -> Result<RequestId, ConnectionError> {
        self.check_open()?;
        let correlation = self.next_request;
        let out = &mut self.control;
        let asked = match request {
            Request::Create(create) => {
                create.encode(StreamId::CONNECTION, correlation, out);
                Asked::Topic
            }
            Request::Describe(describe) => {
                describe.encode(StreamId::CONNECTION, correlation, out);
                Asked::Topic
            }
            Request::Delete(delete) => {
                delete.encode(StreamId::CONNECTION, correlation, out);
                Asked::Deletion
            }
            Request::List(list) => {
                list.encode(StreamId::CONNECTION, correlation, out);
                Asked::Topics
            }
        };
        self.next_request += 1;
        self.requests.insert(correlation, asked);
        Ok(RequestId(correlation))
    }

    /// Asks for a publisher stream; [`Event::PublisherOpened`] or [`Event::StreamEnded`] answers.
    ///
    /// # Errors
    ///
    /// The connection is over or being closed, or all its streams are in use.
    pub fn open_publisher(&mut self, open: &OpenPublisher) -> Result<StreamId, TopicErrorCause> {
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        let publishing = Box::new(Publishing::new(self.limits));
        self.streams.insert(stream, Stream::Publisher(publishing));
        Ok(stream)
    }

    /// Asks for a reader stream; [`Event::ReaderOpened`] or [`Event::StreamEnded`] answers.
    ///
    /// # Errors
    ///
    /// The connection is over or being closed, or all its streams are in use.
    pub fn open_reader(&mut self, open: &OpenReader) -> Result<StreamId, TopicErrorCause> {
        let stream = self.next_stream()?;
        open.encode(stream, 0, &mut self.control);
        self.streams
            .insert(stream, Stream::Reader(Reading::new(open.credit_bytes)));
        Ok(stream)
    }

    /// Takes a message for a publisher stream. It goes out with others that wait, in order.
    ///
    /// # Errors
    ///
    /// Nothing was taken; see [`NotTaken`].
    pub fn publish(&mut self, stream: StreamId, message: &Message) -> Result<Place, NotTaken> {
        let publishing = self.publishing(stream)?;
        let place = publishing.push(message)?;
        self.wants_to_send(stream);
        Ok(place)
    }

    /// Takes a frame for a publisher stream, in order behind the messages before it; gives the
    /// number of its publish.
    ///
    /// # Errors
    ///
    /// Nothing was taken; see [`NotTaken`].
    pub fn publish_frame(&mut self, stream: StreamId, frame: ReadyFrame) -> Result<u64, NotTaken> {
        let publishing = self.publishing(stream)?;
        let publish = publishing.push_frame(frame)?;
        self.wants_to_send(stream);
        Ok(publish)
    }

    /// Whether a publisher stream would take a message now, window and all.
    #[must_use]
    pub fn has_room(&self, stream: StreamId) -> bool {
        match self.streams.get(&stream) {
            Some(Stream::Publisher(publishing)) => publishing.has_room(),
            _ => false,
        }
    }

    /// The reader consumed bytes of what was delivered to it: credit goes back when it is due.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        if let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream)
            && let Some(bytes) = reading.consumed(bytes)
        {
            Credit { bytes }.encode(stream, 0, &mut self.control);
        }
    }

    /// The reader took a gap.
    pub fn gap_taken(&mut self, stream: StreamId) {
        if let Some(Stream::Reader(reading)) = self.streams.get_mut(&stream) {
            reading.gap_taken();
        }
    }

    /// Nobody uses the stream any more. A publisher's is closed once all it took was answered.
    pub fn close_stream(&mut self, stream: StreamId) {
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) if !publishing.is_opening() => {
                publishing.drain();
                self.close_if_drained(stream);
            }
            Some(state @ (Stream::Publisher(_) | Stream::Reader(_))) => {
                *state = Stream::Closing;
                self.bare(MessageKind::CloseStream, stream, 0);
            }
            Some(Stream::Closing) | None => {}
        }
    }

    fn close_if_drained(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(&stream)
            && let Stream::Publisher(publishing) = state
            && publishing.is_drained()
            && self.closing == Closing::No
        {
            *state = Stream::Closing;
            self.bare(MessageKind::CloseStream, stream, 0);
        }
    }

    fn go_on_closing(&mut self) {
        let waits = |stream: &Stream| matches!(stream, Stream::Publisher(publishing) if !publishing.is_answered());
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

    fn next_stream(&mut self) -> Result<StreamId, TopicErrorCause> {
        self.check_open().map_err(TopicErrorCause::NotSent)?;
        if self.streams.len() >= STREAMS_PER_CONNECTION_MAX || self.next_stream == u32::MAX {
            return Err(TopicErrorCause::StreamsInUse {
                streams: self.streams.len(),
            });
        }
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        Ok(stream)
    }

    fn publishing(&mut self, stream: StreamId) -> Result<&mut Publishing, NotTaken> {
        match self.streams.get_mut(&stream) {
            Some(Stream::Publisher(publishing)) => Ok(publishing),
            _ => Err(NotTaken::StreamEnded),
        }
    }

    /// Has a publisher stream asked for something to send, when it has something it may send.
    fn wants_to_send(&mut self, stream: StreamId) {
        if let Some(Stream::Publisher(publishing)) = self.streams.get_mut(&stream)
            && publishing.can_send()
            && !std::mem::replace(&mut publishing.in_turn, true)
        {
            self.sending.push_back(stream);
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
}
