//! One publisher stream: what waits, what is on its way, what was acknowledged.
//!
//! ```text
//!  numbers of publishes   1 … acked │ … sent │ … sealed │ gathering
//!                         answered  │ in     │ whole    │ one frame,
//!                                   │ flight │ frames   │ still open
//! ```
//! Single messages gather in one batch for as long as the connection is busy with other bytes; when
//! it asks for more, what has gathered goes as one frame. Nothing waits for a timer. A batch that
//! came as one, and a large body, are frames of their own.

use std::collections::VecDeque;

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::{BatchBuilder, Message, PushError};
use millstream_protocol::control::PublishAck;
use millstream_protocol::frame::{ProducerStamp, PublisherFields, frame_bytes, publish_header};
use millstream_protocol::limits::{BODY_BYTES_MAX, CLAIM_ADD_BYTES_MAX, FRAME_HEADER_BYTES};
use millstream_protocol::wire::{StreamId, WireHeader};

use super::{Outgoing, ServerLimits, Stored};

/// Gathered messages are sealed into a frame at this size: the most a log claims with one atomic
/// add.
const GATHERED_BYTES_MAX: usize = CLAIM_ADD_BYTES_MAX as usize - FRAME_HEADER_BYTES;
/// Bodies from this size travel from where they are; smaller ones are copied behind one another.
const SPLIT_BYTES_MIN: usize = 16 << 10;

/// A frame ready to be sent. Made before anything is locked, since it costs a pass over the body.
#[derive(Debug, Clone)]
pub struct ReadyFrame {
    header: [u8; FRAME_HEADER_BYTES],
    body: Bytes,
    record_count: u16,
}

impl ReadyFrame {
    /// The frame of a batch, unless that is empty; copies the bodies once.
    #[must_use]
    pub fn of_batch(batch: &BatchBuilder) -> Option<Self> {
        Self::of_producer(batch, ProducerStamp::NONE)
    }

    /// As [`of_batch`](Self::of_batch), for a producer's stream.
    #[must_use]
    pub fn of_producer(batch: &BatchBuilder, producer: ProducerStamp) -> Option<Self> {
        if batch.is_empty() {
            return None;
        }
        let mut frame = Vec::new();
        batch.encode_frame(producer, &mut frame);
        let header = *frame.first_chunk()?;
        let body = Bytes::from(frame).split_off(FRAME_HEADER_BYTES);
        Some(Self {
            header,
            body,
            record_count: batch.fields().record_count,
        })
    }

    /// The frame of one message without options, when it is better sent as a frame of its own:
    /// its body is large, and not too large for any frame. Copies nothing.
    #[must_use]
    pub fn of_large(message: &Message) -> Option<Self> {
        let body = message.body();
        if !message.is_plain() || !Self::is_large(body) {
            return None;
        }
        let fields = PublisherFields::single(u32::try_from(body.len()).ok()?);
        let header = publish_header(&fields, body);
        Some(Self {
            header,
            body: body.clone(),
            record_count: 1,
        })
    }

    /// Whether a message of this body is better sent as a frame of its own.
    pub(crate) fn is_large(body: &[u8]) -> bool {
        (SPLIT_BYTES_MIN..=BODY_BYTES_MAX).contains(&body.len())
    }

    /// The records in it.
    #[must_use]
    pub const fn record_count(&self) -> u16 {
        self.record_count
    }

    /// Bytes of header and body as sent.
    fn sent_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.body.len()
    }

    /// Bytes it takes in a segment, by which windows are counted.
    pub(crate) fn frame_bytes(&self) -> u32 {
        frame_bytes(u32::try_from(self.body.len()).unwrap_or(u32::MAX))
    }
}

/// Where a message went: the number of its publish, and which record of that frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the publish on its stream: 1, 2, 3 …
    pub publish: u64,
    /// Which record of the frame it is.
    pub record: u16,
}

/// Why the core did not take a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotTaken {
    /// The window is full: wait for an acknowledgement.
    WindowFull,
    /// No stream of this number takes messages: it was never opened, or it ended.
    StreamEnded,
    /// The message breaks a limit.
    Message(PushError),
    /// The frame is larger than this server takes.
    TooLarge {
        /// The frame's bytes.
        frame_bytes: u32,
        /// The most the server takes.
        frame_bytes_max: u32,
    },
}

/// What a pass of the sender left behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Something that could be sent now.
    More,
    /// Nothing, or nothing the window lets through.
    Nothing,
}

/// ```text
///  Opening ──opened──▶ Open ──drain──▶ Draining ──all answered──▶ (close is sent)
///                        └──refused──▶ Refused ──all answered──▶ (over)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    /// The handle is gone; what it published still goes out.
    Draining,
    /// Publishes from this number on were refused; earlier ones are still acknowledged.
    Refused {
        from: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    record_count: u16,
    frame_bytes: u32,
}

/// One publisher stream of a connection.
#[derive(Debug)]
pub(super) struct Publishing {
    state: State,
    limits: ServerLimits,
    gathering: BatchBuilder,
    /// Tells what a message has.
    probe: BatchBuilder,
    sealed: VecDeque<ReadyFrame>,
    sealed_bytes: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    acked: u64,
    sent: u64,
    /// The lowest offset the next acknowledgement may name.
    next_offset: Offset,
    /// Among the streams the core asks in turn for something to send.
    pub(super) in_turn: bool,
}

impl Publishing {
    pub(super) fn new(limits: ServerLimits) -> Self {
        let body_bytes_max = (limits.frame_bytes_max as usize).saturating_sub(FRAME_HEADER_BYTES);
        Self {
            state: State::Opening,
            limits,
            gathering: BatchBuilder::with_bytes_max(body_bytes_max),
            probe: BatchBuilder::new(),
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            acked: 0,
            sent: 0,
            next_offset: Offset(0),
            in_turn: false,
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        self.state == State::Opening
    }

    pub(super) fn opened(&mut self) {
        self.state = State::Open;
    }

    /// No more comes; what is here still goes out.
    pub(super) fn drain(&mut self) {
        if self.state == State::Open {
            self.state = State::Draining;
        }
    }

    /// Whether nothing waits and everything sent was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.last() == self.acked
    }

    /// Whether the stream was drained and may be closed.
    pub(super) fn is_drained(&self) -> bool {
        self.state == State::Draining && self.is_answered()
    }

    /// Whether the server refused to go on.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused { .. })
    }

    /// Whether a message would be taken now.
    pub(super) fn has_room(&self) -> bool {
        self.room(self.gathering.body_bytes()).is_ok()
    }

    /// The numbers of publishes that were sent and not answered, and of those never sent.
    pub(super) fn unanswered(&self) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        (
            self.acked + 1..self.sent + 1,
            self.sent + 1..self.last() + 1,
        )
    }

    /// The number of the last publish that holds a record.
    fn last(&self) -> u64 {
        self.sent + self.sealed.len() as u64 + u64::from(!self.gathering.is_empty())
    }

    /// Whether there is room behind `body_bytes` that have gathered.
    fn room(&self, body_bytes: u32) -> Result<(), NotTaken> {
        if self.state != State::Open {
            return Err(NotTaken::StreamEnded);
        }
        let gathered = if self.gathering.is_empty() {
            0
        } else {
            frame_bytes(body_bytes)
        };
        let taken = self.in_flight_bytes + self.sealed_bytes + u64::from(gathered);
        if taken >= u64::from(self.limits.publish_window_bytes) {
            return Err(NotTaken::WindowFull);
        }
        Ok(())
    }

    fn gathered_bytes(&self) -> u32 {
        frame_bytes(self.gathering.body_bytes())
    }

    /// Takes one message behind all before it.
    pub(super) fn push(&mut self, message: &Message) -> Result<Place, NotTaken> {
        // Whether it was published before is answered for a frame, so one with an id has its own.
        let alone = self.has_id(message);
        let bytes = message.body().len();
        let place = self.gather(alone, bytes, |gathering| gathering.push(message))?;
        if alone {
            self.seal();
        }
        Ok(place)
    }

    /// Takes one message without options behind all before it.
    pub(super) fn push_body(&mut self, body: &[u8]) -> Result<Place, NotTaken> {
        self.gather(false, body.len(), |gathering| gathering.push_body(body))
    }

    /// Has `push` put a message with a body of so many bytes behind those that have gathered; with
    /// `alone`, into a frame that has none yet.
    #[inline]
    fn gather(
        &mut self,
        alone: bool,
        bytes: usize,
        push: impl Fn(&mut BatchBuilder) -> Result<(), PushError>,
    ) -> Result<Place, NotTaken> {
        let gathered = self.gathering.body_bytes();
        self.room(gathered)?;
        if alone || gathered as usize + bytes > GATHERED_BYTES_MAX {
            self.seal();
        }
        match push(&mut self.gathering) {
            Err(PushError::Full) => {
                self.seal();
                push(&mut self.gathering).map_err(NotTaken::Message)?;
            }
            pushed => pushed.map_err(NotTaken::Message)?,
        }
        Ok(Place {
            publish: self.last(),
            record: self.gathering.record_count() - 1,
        })
    }

    /// Whether a message has an id, by which it is known when it comes twice.
    fn has_id(&mut self, message: &Message) -> bool {
        if message.is_plain() {
            return false;
        }
        self.probe.clear();
        self.probe.push(message).is_ok() && self.probe.has_ids()
    }

    /// Takes a frame of its own behind all before it; gives its number.
    pub(super) fn push_frame(&mut self, frame: ReadyFrame) -> Result<u64, NotTaken> {
        let (frame_bytes, frame_bytes_max) = (frame.frame_bytes(), self.limits.frame_bytes_max);
        if frame_bytes > frame_bytes_max {
            return Err(NotTaken::TooLarge {
                frame_bytes,
                frame_bytes_max,
            });
        }
        self.room(self.gathering.body_bytes())?;
        self.seal();
        self.sealed_bytes += u64::from(frame_bytes);
        self.sealed.push_back(frame);
        Ok(self.last())
    }

    /// Makes a whole frame of what has gathered.
    fn seal(&mut self) {
        let Some(frame) = ReadyFrame::of_batch(&self.gathering) else {
            return;
        };
        self.gathering.clear();
        self.sealed_bytes += u64::from(frame.frame_bytes());
        self.sealed.push_back(frame);
    }

    /// Whether something waits that the window lets through.
    pub(super) fn can_send(&self) -> bool {
        let next_bytes = match self.sealed.front() {
            Some(frame) => frame.frame_bytes(),
            None if self.gathering.is_empty() => return false,
            None => self.gathered_bytes(),
        };
        let limits = &self.limits;
        let first = self.in_flight.is_empty();
        let fits = self.in_flight_bytes + u64::from(next_bytes)
            <= u64::from(limits.publish_window_bytes)
            && (self.in_flight.len() as u64) < u64::from(limits.publish_window_frames);
        // A frame larger than the window goes alone.
        matches!(self.state, State::Open | State::Draining) && (first || fits)
    }

    /// Whether it joins now those who are asked for something to send: once, until it is left out.
    pub(super) fn takes_turn(&mut self) -> bool {
        let joins = !self.in_turn && self.can_send();
        self.in_turn |= joins;
        joins
    }

    /// Puts the next frame into `out`, if one waits that the window lets through.
    pub(super) fn transmit(&mut self, stream: StreamId, out: &mut Outgoing) -> Left {
        if !self.can_send() {
            return Left::Nothing;
        }
        self.sent += 1;
        let entry = match self.sealed.pop_front() {
            Some(frame) => {
                self.sealed_bytes -= u64::from(frame.frame_bytes());
                put_wire_header(frame.sent_bytes(), stream, self.sent, out);
                out.head.extend_from_slice(&frame.header);
                let entry = InFlight {
                    record_count: frame.record_count,
                    frame_bytes: frame.frame_bytes(),
                };
                if frame.body.len() < SPLIT_BYTES_MIN {
                    out.head.extend_from_slice(&frame.body);
                } else {
                    out.body = frame.body;
                }
                entry
            }
            None => {
                let fields = self.gathering.fields();
                let sent_bytes = FRAME_HEADER_BYTES + fields.body_bytes as usize;
                put_wire_header(sent_bytes, stream, self.sent, out);
                self.gathering
                    .encode_frame(ProducerStamp::NONE, &mut out.head);
                let frame_bytes = self.gathered_bytes();
                self.gathering.clear();
                InFlight {
                    record_count: fields.record_count,
                    frame_bytes,
                }
            }
        };
        self.in_flight_bytes += u64::from(entry.frame_bytes);
        self.in_flight.push_back(entry);
        if self.can_send() {
            Left::More
        } else {
            Left::Nothing
        }
    }

    /// Takes an acknowledgement of all publishes up to `highest`; tells each with its first offset.
    ///
    /// An error says in which way the server made it up.
    pub(super) fn acknowledged(
        &mut self,
        highest: u64,
        ack: &PublishAck<'_>,
        mut told: impl FnMut(u64, Stored),
    ) -> Result<(), String> {
        if highest > self.sent {
            return Err(format!(
                "it acknowledged publish {highest}, of which {} were sent",
                self.sent
            ));
        }
        if let State::Refused { from } = self.state
            && highest >= from
        {
            return Err(format!(
                "it acknowledged publish {highest} after it refused {from}"
            ));
        }
        let publishes: u64 = ack.runs().map(|run| u64::from(run.publishes)).sum();
        if self.acked.checked_add(publishes) != Some(highest) {
            return Err(format!(
                "it acknowledged {publishes} publishes behind {}, and called the last {highest}",
                self.acked
            ));
        }
        for run in ack.runs() {
            let mut first = run.base_offset;
            let duplicate = run.duplicates;
            if first < self.next_offset && !duplicate {
                return Err(format!(
                    "it acknowledged offset {first} after {}",
                    self.next_offset
                ));
            }
            for _ in 0..run.publishes {
                let Some(entry) = self.in_flight.pop_front() else {
                    break;
                };
                let next = first
                    .checked_add(u64::from(entry.record_count))
                    .ok_or_else(|| format!("it acknowledged offset {first}, past the last one"))?;
                self.acked += 1;
                self.in_flight_bytes -= u64::from(entry.frame_bytes);
                told(self.acked, Stored { first, duplicate });
                first = next;
            }
            self.next_offset = self.next_offset.max(first);
        }
        Ok(())
    }

    /// Takes the server's word that nothing from publish `from` on is applied.
    ///
    /// Gives the numbers that were sent and those that never were; an error says in which way the
    /// server contradicts itself.
    pub(super) fn refused(
        &mut self,
        from: u64,
    ) -> Result<(std::ops::Range<u64>, std::ops::Range<u64>), String> {
        if matches!(self.state, State::Refused { .. }) {
            return Err("it refused a stream twice".to_owned());
        }
        if from <= self.acked || from > self.sent + 1 {
            return Err(format!(
                "it refused publish {from}, of {} sent and {} acknowledged",
                self.sent, self.acked
            ));
        }
        let (sent, waiting) = (from..self.sent + 1, self.sent + 1..self.last() + 1);
        let kept = from - self.acked - 1;
        self.in_flight
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.in_flight_bytes = self
            .in_flight
            .iter()
            .map(|e| u64::from(e.frame_bytes))
            .sum();
        self.sealed.clear();
        self.sealed_bytes = 0;
        self.gathering.clear();
        self.sent = from - 1;
        self.state = State::Refused { from };
        Ok((sent, waiting))
    }
}

fn put_wire_header(sent_bytes: usize, stream: StreamId, publish: u64, out: &mut Outgoing) {
    let sent_bytes = u32::try_from(sent_bytes).unwrap_or(u32::MAX);
    out.head
        .extend_from_slice(&WireHeader::publish(stream, publish, sent_bytes).encode());
}
