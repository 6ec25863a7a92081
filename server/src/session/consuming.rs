//! A consumer's stream: a window in, work out; settles in, cumulative answers out.
//!
//! ```text
//!         ┌──closed by the client───▶ Closing ──all answered──▶ StreamClosed
//!         ├──goodbye────────────────▶ Leaving ──all answered──▶
//!  Open ──┤──hung up────────────────▶ Lost    ──all answered──▶
//!         ├──a settle refused, drain▶ Refused ──all answered──▶ Error, StreamClosed
//!         └──the queue ended: Error─▶ Failed  ────────────────▶ StreamClosed
//! ```
//! What is not settled when a stream ends goes back to the queue: counted as a delivery in vain when
//! the client was lost, uncounted otherwise. Settles are answered in order; the queue may tell their
//! outcomes in another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use millstream::{
    BatchBuilder, Consumer, DeliveryParts, LeaseTime, Record, SettleError, Settling, Worked,
};
use millstream_protocol::control::{
    ControlError, ErrorMessage, FaultEntry, Leaser, Receive, ReceiveOver, Settle, SettleAck,
    SettleEntry, SettleFault, SettleVerb, Window, Work, WorkEntry,
};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::limits::{
    SETTLE_FAULTS_MAX, SETTLES_UNANSWERED_MAX, WORK_BYTES_MAX, WORK_RECORDS_MAX,
    WORK_WINDOW_BYTES_MAX,
};
use millstream_protocol::wire::StreamId;

use super::reading::Delivered;
use crate::limits::GATHERINGS_KEPT;
use crate::output::OutQueue;
use crate::refusal::{bad_body, refused};

/// See the drawing above.
#[derive(Debug)]
enum State {
    Open,
    /// The request to close it had this correlation.
    Closing {
        correlation: u64,
    },
    Leaving,
    Lost,
    Refused(Box<ErrorMessage>),
    Failed,
}

/// What is known of a settle that was taken and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Waiting,
    Done,
    Fault(SettleFault),
}

/// What became of a message on the stream.
#[derive(Debug)]
pub(crate) enum Settled {
    /// It was taken.
    Accepted,
    /// It is refused, and with it all that follow on the stream.
    Refused(ErrorMessage),
    /// The stream had ended before it, which the client could not know: it means nothing.
    Ignored,
    /// The client itself had closed the stream before it.
    Closed,
}

/// The last thing to say on a stream.
#[derive(Debug)]
pub(crate) enum Parting {
    /// The client closed it, by a request of this correlation.
    Closed { correlation: u64 },
    /// Settles from `number` on were refused, or the stream was ended.
    Refused { number: u64, error: ErrorMessage },
    /// It was said already.
    Failed,
    /// Nobody listens.
    Silent,
}

/// A receive that is under way.
#[derive(Debug, Clone, Copy)]
struct Receiving {
    correlation: u64,
    messages: u32,
    granted: u32,
}

#[derive(Debug)]
pub(crate) struct ConsumerStream {
    /// `None` once it has left its queue.
    consumer: Option<Consumer>,
    leaser: Leaser,
    receiving: Option<Receiving>,
    /// A record that did not fit the last message of work.
    kept: Option<(Record, DeliveryParts)>,
    /// Messages of work so far, their correlation.
    works: u64,
    /// The number of the last settle answered.
    answered: u64,
    /// The settles behind it, in order.
    unanswered: VecDeque<Slot>,
    state: State,
    /// Kept for its capacity.
    faults: Vec<FaultEntry>,
}

impl ConsumerStream {
    /// A stream that says of itself what `leaser` says.
    pub(crate) fn new(consumer: Consumer, leaser: Leaser) -> Self {
        Self {
            consumer: Some(consumer),
            leaser,
            receiving: None,
            kept: None,
            works: 0,
            answered: 0,
            unanswered: VecDeque::new(),
            state: State::Open,
            faults: Vec::new(),
        }
    }

    /// What becomes of a message in the state the stream is in; `None` when it is to be taken.
    const fn turned_away(&self) -> Option<Settled> {
        match self.state {
            State::Open => None,
            State::Closing { .. } | State::Leaving | State::Lost => Some(Settled::Closed),
            State::Refused(_) | State::Failed => Some(Settled::Ignored),
        }
    }

    /// Takes a message of settles, the first of them numbered `first`.
    pub(crate) fn settle(&mut self, first: u64, body: &[u8]) -> Settled {
        if let Some(away) = self.turned_away() {
            return away;
        }
        let settle = match Settle::decode(body) {
            Ok(settle) => settle,
            Err(error) => return Settled::Refused(bad_body(&error)),
        };
        let next = self.answered + self.unanswered.len() as u64 + 1;
        if first != next {
            let sentence = format!("correlation: settle {first} came where {next} was next");
            return Settled::Refused(refused(ErrorCode::OutOfSequence, sentence));
        }
        let unanswered = self.unanswered.len() + settle.count() as usize;
        if unanswered > SETTLES_UNANSWERED_MAX {
            let sentence =
                format!("settles: {unanswered} unanswered, over {SETTLES_UNANSWERED_MAX}");
            return Settled::Refused(refused(ErrorCode::WindowExceeded, sentence));
        }
        let Some(consumer) = &self.consumer else {
            return Settled::Ignored;
        };
        // Leases of another queue of the name, or of another run of the broker, are over.
        let ours = settle.leaser == self.leaser;
        for (entry, number) in settle.entries().zip(first..) {
            if ours {
                self.unanswered.push_back(Slot::Waiting);
                consumer.settle(entry.offset, entry.lease, settling(&entry), number);
            } else {
                let lost = Slot::Fault(SettleFault::LeaseLost);
                self.unanswered.push_back(lost);
            }
        }
        consumer.flush_settles();
        Settled::Accepted
    }

    /// Whether the queue has so much to do that settles had better wait.
    pub(crate) fn is_busy(&self) -> bool {
        self.consumer.as_ref().is_some_and(Consumer::is_busy)
    }

    /// Takes another window.
    pub(crate) fn window(&mut self, body: &[u8]) -> Settled {
        if let Some(away) = self.turned_away() {
            return away;
        }
        match Window::decode(body) {
            Err(error) => Settled::Refused(window_error(&error)),
            Ok(window) => {
                if let Some(consumer) = &self.consumer {
                    consumer.set_window(window.messages, bytes_max(window.bytes));
                }
                Settled::Accepted
            }
        }
    }

    /// Begins a receive.
    pub(crate) fn receive(&mut self, correlation: u64, body: &[u8]) -> Settled {
        if let Some(away) = self.turned_away() {
            return away;
        }
        let receive = match Receive::decode(body) {
            Ok(receive) => receive,
            Err(error) => return Settled::Refused(window_error(&error)),
        };
        if self.receiving.is_some() {
            let sentence = "receive: another one is under way on the stream";
            return Settled::Refused(refused(ErrorCode::WindowExceeded, sentence));
        }
        if let Some(consumer) = &mut self.consumer {
            consumer.begin_receive(
                receive.messages,
                bytes_max(receive.bytes),
                Duration::from_millis(receive.wait_ms.into()),
                Duration::from_millis(receive.lease_ms.into()),
            );
            self.receiving = Some(Receiving {
                correlation,
                messages: receive.messages,
                granted: 0,
            });
        }
        Settled::Accepted
    }

    /// The client closed the stream with a request of this correlation.
    pub(crate) fn close(&mut self, correlation: u64) {
        self.stop(State::Closing { correlation });
    }

    /// The client said goodbye.
    pub(crate) fn leave(&mut self) {
        self.stop(State::Leaving);
    }

    /// The client hung up.
    pub(crate) fn lose(&mut self) {
        self.stop(State::Lost);
    }

    /// Ends the stream, because of `error`.
    pub(crate) fn refuse(&mut self, error: &ErrorMessage) {
        self.stop(State::Refused(Box::new(error.clone())));
    }

    /// Has nothing more delivered.
    fn stop(&mut self, state: State) {
        if !self.is_open() {
            return;
        }
        self.state = state;
        if let Some(consumer) = &self.consumer {
            consumer.set_window(0, 0);
        }
        self.release_kept();
    }

    /// Gives back a record that was never sent.
    fn release_kept(&mut self) {
        if let (Some((_, parts)), Some(consumer)) = (self.kept.take(), &self.consumer) {
            consumer.settle(parts.offset, parts.lease, Settling::Release, 0);
            consumer.flush_settles();
        }
    }

    /// Whether the stream is neither over nor about to be.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether every settle that was taken is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// What is still to be said, once that is all there is.
    pub(crate) fn parting(&self) -> Option<Parting> {
        match &self.state {
            State::Open => None,
            _ if !self.is_answered() => None,
            State::Closing { correlation } => Some(Parting::Closed {
                correlation: *correlation,
            }),
            State::Leaving | State::Lost => Some(Parting::Silent),
            State::Refused(error) => Some(Parting::Refused {
                number: self.answered + 1,
                error: ErrorMessage::clone(error),
            }),
            State::Failed => Some(Parting::Failed),
        }
    }

    /// Queues one message of work, if there is any and room allows; with the last of a receive, its
    /// end. Has the task woken for more, and for outcomes of settles.
    pub(crate) fn poll_work(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
        out: &mut OutQueue,
        gatherings: &Gatherings,
    ) -> Delivered {
        if !self.is_open() {
            if let Some(error) = self.poll_dismissed(cx) {
                self.end(id, error, out);
            }
            return Delivered::Nothing;
        }
        if !out.takes_delivery() {
            return Delivered::Nothing;
        }
        let mut gathering = None;
        let gathered = self.gather(cx, out, gatherings, &mut gathering);
        let any = gathering.is_some_and(|gathering| {
            let any = self.send_work(id, out, &gathering);
            gatherings.put_back(gathering);
            any
        });
        out.settle_room();
        match gathered {
            Gathered::Failed(error) => {
                self.end(id, error, out);
                Delivered::Some
            }
            Gathered::ReceiveOver => {
                if let Some(receiving) = self.receiving.take() {
                    let granted = receiving.granted.min(receiving.messages);
                    let over = ReceiveOver { granted };
                    out.control(|out| over.encode(id, receiving.correlation, out));
                }
                Delivered::Some
            }
            Gathered::Full => Delivered::Some,
            Gathered::Dry if any => Delivered::Some,
            Gathered::Dry => Delivered::Nothing,
        }
    }

    /// Fills `gathering` with what there is, as far as there is memory for it.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut OutQueue,
        gatherings: &Gatherings,
        gathering: &mut Option<Gathering>,
    ) -> Gathered {
        let mut room = 0;
        // One look at the clock for a message: it takes as long as handing over a record.
        let mut now = None;
        loop {
            let (record, parts) = match self.next_work(cx) {
                Ok(work) => work,
                Err(instead) => return instead,
            };
            let bytes = record.as_bytes().len();
            let Gathering { batch, entries } = gathering.get_or_insert_with(|| gatherings.take());
            let fits = if entries.is_empty() {
                room = out.work_room(bytes.max(WORK_BYTES_MAX));
                bytes <= room
            } else {
                batch.body_bytes() as usize + bytes <= room
            };
            if !fits {
                self.kept = Some((record, parts));
                return if entries.is_empty() {
                    Gathered::Dry
                } else {
                    Gathered::Full
                };
            }
            if batch.push_record(&record).is_ok() {
                let left = parts.until.since(*now.get_or_insert_with(LeaseTime::now));
                entries.push(entry(&record, &parts, left));
                if entries.len() >= WORK_RECORDS_MAX {
                    return Gathered::Full;
                }
            } else if entries.is_empty() {
                self.reject(&parts, "the record fits no message");
            } else {
                self.kept = Some((record, parts));
                return Gathered::Full;
            }
        }
    }

    fn reject(&self, parts: &DeliveryParts, reason: &str) {
        if let Some(consumer) = &self.consumer {
            let reason = Settling::Reject(reason.to_owned());
            consumer.settle(parts.offset, parts.lease, reason, 0);
            consumer.flush_settles();
        }
    }

    /// The record that did not fit the last message, or the next one there is.
    fn next_work(&mut self, cx: &mut Context<'_>) -> Result<(Record, DeliveryParts), Gathered> {
        if let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        let Some(consumer) = &mut self.consumer else {
            return Err(Gathered::Dry);
        };
        match consumer.poll_work(cx) {
            Poll::Pending => Err(Gathered::Dry),
            Poll::Ready(Some(Ok(Worked::ReceiveOver))) => Err(Gathered::ReceiveOver),
            Poll::Ready(Some(Ok(Worked::Delivery(delivery)))) => {
                if let Some(receiving) = &mut self.receiving {
                    receiving.granted += 1;
                }
                Ok(delivery.into_parts())
            }
            Poll::Ready(Some(Err(error))) => {
                Err(Gathered::Failed(refused(error.code(), error.to_string())))
            }
            Poll::Ready(None) => Err(Gathered::Failed(deleted())),
        }
    }

    /// Queues what was gathered; says whether there was any.
    fn send_work(&mut self, id: StreamId, out: &mut OutQueue, gathering: &Gathering) -> bool {
        let Gathering { batch, entries } = gathering;
        if entries.is_empty() {
            return false;
        }
        self.works += 1;
        out.work(|out| Work::encode(entries, batch, id, self.works, out));
        true
    }

    /// Gives back what still comes on a stream that is ending; an error when its queue has ended.
    fn poll_dismissed(&mut self, cx: &mut Context<'_>) -> Option<ErrorMessage> {
        let consumer = self.consumer.as_mut()?;
        loop {
            match consumer.poll_work(cx) {
                // A delivery that is dropped is released. The window is closed: they have an end.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    return Some(refused(error.code(), error.to_string()));
                }
                Poll::Ready(None) => return Some(deleted()),
                Poll::Pending => return None,
            }
        }
    }

    /// Answers the settles whose outcome is known, in order; says whether there were any.
    pub(crate) fn answer(&mut self, id: StreamId, out: &mut OutQueue) -> bool {
        let failed = self.note_outcomes();
        let mut moved = false;
        while self.answer_some() {
            let Self {
                answered, faults, ..
            } = self;
            out.control(|out| SettleAck::encode(*answered, faults, id, out));
            moved = true;
        }
        if let Some(error) = failed {
            self.fail(id, &error, out);
            moved = true;
        }
        moved
    }

    /// Notes what the queue tells of settles; an error when it can tell nothing more.
    fn note_outcomes(&mut self) -> Option<ErrorMessage> {
        let consumer = self.consumer.as_ref()?;
        let mut failed = None;
        while let Some(outcome) = consumer.next_outcome() {
            let slot = match outcome.result {
                Ok(()) => Slot::Done,
                Err(SettleError::LeaseLost) => Slot::Fault(SettleFault::LeaseLost),
                Err(SettleError::QueueGone) => Slot::Fault(SettleFault::QueueGone),
                Err(error) => {
                    let effect = error.effect();
                    let message = refused(error.code(), error.to_string());
                    failed = Some(ErrorMessage { effect, ..message });
                    continue;
                }
            };
            let tags = outcome.tag..outcome.tag + u64::from(outcome.count);
            // Those before the first unanswered were told when the stream failed.
            let places = tags.filter_map(|tag| tag.checked_sub(self.answered + 1));
            for place in places.filter_map(|place| usize::try_from(place).ok()) {
                if let Some(told) = self.unanswered.get_mut(place) {
                    *told = slot;
                }
            }
        }
        failed
    }

    /// Counts settles as answered up to the first whose outcome is not known, or as many as one
    /// answer has faults for.
    fn answer_some(&mut self) -> bool {
        self.faults.clear();
        let before = self.answered;
        while let Some(slot) = self.unanswered.front().copied() {
            match slot {
                Slot::Waiting => break,
                Slot::Done => {}
                Slot::Fault(_) if self.faults.len() == SETTLE_FAULTS_MAX => break,
                Slot::Fault(fault) => self.faults.push(FaultEntry {
                    number: self.answered + 1,
                    fault,
                }),
            }
            self.unanswered.pop_front();
            self.answered += 1;
        }
        self.answered != before
    }

    /// The queue ended under the stream: answers what can be, and fails with the rest.
    fn end(&mut self, id: StreamId, error: ErrorMessage, out: &mut OutQueue) {
        self.answer(id, out);
        if self.is_open() || !self.is_answered() {
            let effect = match self.is_answered() {
                true => error.effect,
                false => Effect::Unknown,
            };
            self.fail(id, &ErrorMessage { effect, ..error }, out);
        }
    }

    /// What is not answered will not be.
    fn fail(&mut self, id: StreamId, error: &ErrorMessage, out: &mut OutQueue) {
        self.unanswered.clear();
        self.release_kept();
        if !matches!(self.state, State::Failed | State::Leaving | State::Lost) {
            let number = self.answered + 1;
            out.control(|out| error.encode(id, number, out));
            self.state = State::Failed;
        }
    }

    /// Leaves the queue: what is not settled goes back, uncounted unless the client was lost.
    pub(crate) fn part(&mut self) {
        self.release_kept();
        let Some(consumer) = self.consumer.take() else {
            return;
        };
        consumer.flush_settles();
        match self.state {
            State::Open | State::Lost => consumer.lose(),
            _ => consumer.close(),
        }
    }

    /// Leaves the queue as if it had never been opened.
    pub(crate) fn forget(mut self) {
        self.leave();
        self.part();
    }

    /// Gives back what was only needed for a burst.
    pub(crate) fn shrink(&mut self) {
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        self.faults = Vec::new();
    }
}

impl Drop for ConsumerStream {
    /// A stream that nobody ended is one whose connection was lost.
    fn drop(&mut self) {
        self.part();
    }
}

/// What a message of work is gathered in.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    batch: BatchBuilder,
    entries: Vec<WorkEntry>,
}

/// What messages of work are gathered in, kept for their capacity: lent for the time of one message,
/// so that it does not grow with the number of consumers.
#[derive(Debug, Clone)]
pub(crate) struct Gatherings(Arc<ArrayQueue<Gathering>>);

impl Default for Gatherings {
    fn default() -> Self {
        Self(Arc::new(ArrayQueue::new(GATHERINGS_KEPT)))
    }
}

impl Gatherings {
    fn take(&self) -> Gathering {
        self.0.pop().unwrap_or_default()
    }

    fn put_back(&self, mut gathering: Gathering) {
        gathering.batch.clear();
        gathering.entries.clear();
        // A full queue keeps enough; this one is freed.
        let _ = self.0.push(gathering);
    }
}

/// Why gathering stopped.
enum Gathered {
    /// The message is full.
    Full,
    /// There is nothing more now.
    Dry,
    ReceiveOver,
    Failed(ErrorMessage),
}

fn deleted() -> ErrorMessage {
    refused(ErrorCode::QueueNotFound, "the queue was deleted")
}

/// What a window or a receive of 0 bytes means.
pub(crate) const fn bytes_max(bytes: u64) -> u64 {
    if bytes == 0 {
        WORK_WINDOW_BYTES_MAX
    } else {
        bytes
    }
}

/// A window or a receive that is not one, or is over its limit.
fn window_error(error: &ControlError) -> ErrorMessage {
    match error {
        ControlError::Number { found, .. } if *found > 0 => {
            refused(ErrorCode::WindowExceeded, error.to_string())
        }
        _ => bad_body(error),
    }
}

fn entry(record: &Record, parts: &DeliveryParts, left: Duration) -> WorkEntry {
    WorkEntry {
        offset: parts.offset,
        lease: parts.lease,
        append_us: record.append_time_us(),
        first_us: parts.first_us,
        left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        attempts: parts.attempts.max(1),
    }
}

fn settling(entry: &SettleEntry<'_>) -> Settling {
    let argument = Duration::from_micros(entry.arg_us);
    match entry.verb {
        SettleVerb::Ack => Settling::Ack,
        SettleVerb::Retry => Settling::Retry,
        SettleVerb::RetryAfter => Settling::RetryAfter(argument),
        SettleVerb::Reject => Settling::Reject(entry.text.to_owned()),
        SettleVerb::Release => Settling::Release,
        SettleVerb::Extend => Settling::Extend(argument),
    }
}
