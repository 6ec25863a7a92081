//! One consumer stream: what the server may deliver, and what became of settles.
//!
//! ```text
//!  numbers of settles   1 … answered │ … sent    │ … waiting
//!                       durable, or  │ in flight │ gathered until the
//!                       refused      │           │ connection asks for more
//! ```
//! Settles gather for as long as the connection is busy with other bytes; when it asks for more,
//! all that wait go as one message, as far as the protocol's limits let them. Nothing waits for a
//! timer, and none waits for the answer to another.

use std::collections::VecDeque;
use std::ops::Range;

use millstream_protocol::Offset;
use millstream_protocol::control::{
    ConsumerOpened, FaultEntry, Leaser, Settle, SettleAck, SettleEntry, SettleFault, SettleVerb,
};
use millstream_protocol::limits::{
    REASON_BYTES_MAX, SETTLE_BYTES_MAX, SETTLE_ENTRY_BYTES, SETTLE_PRELUDE_BYTES, SETTLES_MAX,
    SETTLES_UNANSWERED_MAX, WORK_WINDOW_BYTES_MAX, WORK_WINDOW_MESSAGES_MAX,
};
use millstream_protocol::wire::StreamId;

use super::Outgoing;
use super::publishing::Left;

/// Records a server may deliver ahead of the consumer: a full window, and another for those whose
/// leases ran out meanwhile.
const AHEAD_MESSAGES_MAX: u64 = 2 * WORK_WINDOW_MESSAGES_MAX as u64;
/// Bytes of such records.
const AHEAD_BYTES_MAX: u64 = 2 * WORK_WINDOW_BYTES_MAX;

const _: () = assert!(
    SETTLE_PRELUDE_BYTES + SETTLE_ENTRY_BYTES + REASON_BYTES_MAX <= SETTLE_BYTES_MAX,
    "one settle always fits a message"
);

/// What is to become of a record that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleRequest {
    /// Its number in the queue's topic.
    pub offset: Offset,
    /// The lease it was delivered with.
    pub lease: u64,
    /// What is to become of it.
    pub verb: SettleVerb,
    /// The time a retry or an extension names, else 0.
    pub arg_us: u64,
    /// Why it is rejected, else empty.
    pub reason: Box<str>,
}

impl SettleRequest {
    fn entry(&self) -> SettleEntry<'_> {
        SettleEntry {
            offset: self.offset,
            lease: self.lease,
            verb: self.verb,
            arg_us: self.arg_us,
            text: &self.reason,
        }
    }
}

/// A settle that was sent and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InFlight {
    offset: Offset,
    lease: u64,
    verb: SettleVerb,
}

/// A settle that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedSettle {
    /// Its number on its stream.
    pub number: u64,
    /// The record.
    pub offset: Offset,
    /// The lease it named.
    pub lease: u64,
    /// What was to become of the record.
    pub verb: SettleVerb,
    /// Why nothing did.
    pub fault: SettleFault,
}

/// ```text
///  Opening ──opened──▶ Open ──drain──▶ Draining ──all answered──▶ (close is sent)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open(Leaser),
    /// The handles are gone; what they settled still goes out.
    Draining(Leaser),
}

/// One consumer stream of a connection.
#[derive(Debug)]
pub(super) struct Consuming {
    state: State,
    waiting: VecDeque<SettleRequest>,
    in_flight: VecDeque<InFlight>,
    /// The number of the last settle that was answered.
    answered: u64,
    /// Delivered and not taken by the consumer yet.
    ahead_messages: u64,
    ahead_bytes: u64,
    /// The receive that is not over.
    receive: Option<u64>,
    next_receive: u64,
    /// Among the streams the core asks in turn for something to send.
    pub(super) in_turn: bool,
}

impl Consuming {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Opening,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            answered: 0,
            ahead_messages: 0,
            ahead_bytes: 0,
            receive: None,
            next_receive: 1,
            in_turn: false,
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        self.state == State::Opening
    }

    pub(super) const fn opened(&mut self, opened: &ConsumerOpened) {
        self.state = State::Open(Leaser {
            queue_id: opened.queue_id,
            boot_epoch: opened.boot_epoch,
        });
    }

    /// No more is settled than what was; that still goes out.
    pub(super) const fn drain(&mut self) {
        if let State::Open(leaser) = self.state {
            self.state = State::Draining(leaser);
        }
    }

    /// Whether every settle was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Whether the stream was drained and may be closed.
    pub(super) fn is_drained(&self) -> bool {
        matches!(self.state, State::Draining(_)) && self.is_answered()
    }

    /// The numbers of settles that were sent and not answered, and of those never sent.
    pub(super) fn unanswered(&self) -> (Range<u64>, Range<u64>) {
        let sent = self.sent();
        let last = sent + self.waiting.len() as u64;
        (self.answered + 1..sent + 1, sent + 1..last + 1)
    }

    fn sent(&self) -> u64 {
        self.answered + self.in_flight.len() as u64
    }

    /// Takes a settle behind all before it; gives its number. None before the stream is open or
    /// once it is being closed.
    pub(super) fn settle(&mut self, settle: SettleRequest) -> Option<u64> {
        if !matches!(self.state, State::Open(_)) {
            return None;
        }
        self.waiting.push_back(settle);
        Some(self.sent() + self.waiting.len() as u64)
    }

    /// Whether a settle waits that may be sent.
    pub(super) fn can_send(&self) -> bool {
        !self.waiting.is_empty()
            && self.in_flight.len() < SETTLES_UNANSWERED_MAX
            && matches!(self.state, State::Open(_) | State::Draining(_))
    }

    /// Puts one message of settles into `out`, if any wait that may be sent.
    pub(super) fn transmit(&mut self, stream: StreamId, out: &mut Outgoing) -> Left {
        let (State::Open(leaser) | State::Draining(leaser)) = self.state else {
            return Left::Nothing;
        };
        if !self.can_send() {
            return Left::Nothing;
        }
        let first = self.sent() + 1;
        let count_max = SETTLES_MAX.min(SETTLES_UNANSWERED_MAX - self.in_flight.len());
        let mut bytes = SETTLE_PRELUDE_BYTES;
        let fitting = self.waiting.iter().take(count_max).take_while(|settle| {
            bytes += settle.entry().len_bytes();
            bytes <= SETTLE_BYTES_MAX
        });
        let count = fitting.count();
        let entries = self.waiting.iter().take(count).map(SettleRequest::entry);
        Settle::encode(leaser, entries, stream, first, &mut out.head);
        let sent = self.waiting.drain(..count).map(|settle| InFlight {
            offset: settle.offset,
            lease: settle.lease,
            verb: settle.verb,
        });
        self.in_flight.extend(sent);
        if self.can_send() {
            Left::More
        } else {
            Left::Nothing
        }
    }

    /// Takes an answer to all settles up to a number; tells each that changed nothing.
    ///
    /// An error says in which way the server made it up.
    pub(super) fn acknowledged(
        &mut self,
        ack: &SettleAck<'_>,
        mut refused: impl FnMut(RefusedSettle),
    ) -> Result<(), String> {
        let (before, sent) = (self.answered, self.sent());
        let through = ack.through;
        if through <= before || through > sent {
            return Err(format!(
                "it answered settle {through}, of {sent} sent and {before} answered"
            ));
        }
        for FaultEntry { number, fault } in ack.faults() {
            let at = number.checked_sub(before + 1);
            let entry = at
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| self.in_flight.get(at));
            let Some(entry) = entry else {
                return Err(format!(
                    "it refused settle {number}, of {sent} sent and {before} answered"
                ));
            };
            refused(RefusedSettle {
                number,
                offset: entry.offset,
                lease: entry.lease,
                verb: entry.verb,
                fault,
            });
        }
        let answered = usize::try_from(through - before).unwrap_or(usize::MAX);
        self.in_flight.drain(..answered.min(self.in_flight.len()));
        self.answered = through;
        Ok(())
    }

    /// Takes account of records that came. An error says what no server may do.
    pub(super) fn delivered(&mut self, messages: u64, bytes: u64) -> Result<(), String> {
        if self.is_opening() {
            return Err("it delivered work on a stream it had not opened".to_owned());
        }
        if self.ahead_messages >= AHEAD_MESSAGES_MAX || self.ahead_bytes >= AHEAD_BYTES_MAX {
            return Err(format!(
                "it delivered {messages} records on top of {} that were not taken, {} bytes",
                self.ahead_messages, self.ahead_bytes
            ));
        }
        self.ahead_messages += messages;
        self.ahead_bytes += bytes;
        Ok(())
    }

    /// The consumer took a record, or let it go because its lease is over.
    pub(super) const fn taken(&mut self, bytes: u64) {
        self.ahead_messages = self.ahead_messages.saturating_sub(1);
        self.ahead_bytes = self.ahead_bytes.saturating_sub(bytes);
    }

    /// Starts a receive unless one is not over; gives its number.
    pub(super) const fn start_receive(&mut self) -> Option<u64> {
        if !matches!(self.state, State::Open(_)) || self.receive.is_some() {
            return None;
        }
        let number = self.next_receive;
        self.next_receive += 1;
        self.receive = Some(number);
        Some(number)
    }

    /// A receive is over. An error says that there was none.
    pub(super) fn receive_over(&mut self, number: u64) -> Result<(), String> {
        if self.receive != Some(number) {
            return Err(format!("it ended receive {number}, which is not open"));
        }
        self.receive = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(1);

    fn open() -> Consuming {
        let mut consuming = Consuming::new();
        consuming.state = State::Open(Leaser {
            queue_id: 1,
            boot_epoch: 1,
        });
        consuming
    }

    fn settle(offset: u64, reason: &str) -> SettleRequest {
        SettleRequest {
            offset: Offset(offset),
            lease: offset,
            verb: SettleVerb::Reject,
            arg_us: 0,
            reason: reason.into(),
        }
    }

    #[test]
    fn a_message_of_settles_keeps_to_its_bytes() {
        let mut consuming = open();
        let reason = "r".repeat(REASON_BYTES_MAX);
        for offset in 0..2000 {
            consuming.settle(settle(offset, &reason)).unwrap();
        }
        let mut sent = 0;
        let mut messages = 0;
        loop {
            let mut out = Outgoing::default();
            let left = consuming.transmit(STREAM, &mut out);
            let body = &out.head[32..];
            assert!(body.len() <= SETTLE_BYTES_MAX);
            sent += Settle::decode(body).unwrap().count();
            messages += 1;
            if left == Left::Nothing {
                break;
            }
        }
        assert_eq!((sent, messages), (2000, 3));
    }

    #[test]
    fn no_more_is_in_flight_than_may_be_unanswered() {
        let mut consuming = open();
        for offset in 0..SETTLES_UNANSWERED_MAX as u64 + 10 {
            consuming.settle(settle(offset, "")).unwrap();
        }
        let mut out = Outgoing::default();
        while consuming.transmit(STREAM, &mut out) == Left::More {}
        assert_eq!(consuming.in_flight.len(), SETTLES_UNANSWERED_MAX);
        assert_eq!(consuming.waiting.len(), 10);
        let mut bytes = Vec::new();
        SettleAck::encode(4, &[], STREAM, &mut bytes);
        let ack = SettleAck::decode(&bytes[32..]).unwrap();
        consuming.acknowledged(&ack, |_| {}).unwrap();
        assert!(consuming.can_send());
        assert_eq!(consuming.transmit(STREAM, &mut out), Left::Nothing);
        assert_eq!(consuming.waiting.len(), 6);
    }
}
