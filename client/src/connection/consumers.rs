//! What the consumers of one connection have not taken yet, hold leased, and wait to hear.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use millstream_protocol::control::{Receive, SettleFault, SettleVerb, Window};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::wire::StreamId;
use millstream_protocol::{Offset, TopicName};
use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;

use super::{State, StreamEnd, StreamOver};
use crate::core::{RefusedSettle, SettleRequest, Unsettled, WorkItem};
use crate::error::SettleError;

/// What a consumer counts, over all the streams it had.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

/// See [`crate::Consumer::lost`] and its like.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) lost: u64,
    pub(crate) unanswered: u64,
    pub(crate) outlived: u64,
    pub(crate) reconnects: u64,
}

impl Tally {
    pub(crate) fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A settle that was refused, to be told once the lock is free.
#[derive(Debug)]
pub(crate) struct Notice {
    queue: TopicName,
    offset: Offset,
    verb: SettleVerb,
    error: SettleError,
}

impl Notice {
    pub(crate) fn tell(&self) {
        let Self {
            queue,
            offset,
            verb,
            error,
        } = self;
        tracing::warn!(%queue, %offset, ?verb, "a delivery was not settled: {error}");
    }
}

/// Who waits to hear what became of a settle.
pub(crate) type Confirmation = oneshot::Sender<Result<(), SettleError>>;

/// What became of a lease that a delivery holds.
#[derive(Debug)]
struct Held {
    until: Instant,
    lost: bool,
}

#[derive(Debug)]
pub(super) struct ConsumerState {
    queue: TopicName,
    lease: Duration,
    inbox: VecDeque<WorkItem>,
    waker: Option<Waker>,
    /// A receive was sent and is not over.
    receiving: bool,
    ended: Option<StreamEnd>,
    /// What deliveries hold, by lease and offset: records that were granted together share a lease.
    held: HashMap<(u64, Offset), Held, FxBuildHasher>,
    /// By number of the settle.
    confirmations: BTreeMap<u64, Confirmation>,
    /// The number of the last settle.
    last: u64,
    tally: Arc<Tally>,
    /// The consumer is gone; deliveries may be left.
    closed: bool,
    /// The handles are gone; the entry goes with the last answer.
    dropped: bool,
}

impl ConsumerState {
    /// What a settle hears that cannot be sent any more.
    fn over(&self) -> SettleError {
        match &self.ended {
            Some(StreamEnd::Refused(refusal)) if refusal.code == ErrorCode::QueueNotFound => {
                SettleError::QueueGone
            }
            _ => SettleError::LeaseLost,
        }
    }

    /// Counts a settle that changed nothing, if that is worth a word: a lease given back too late
    /// is not, and one that could not be extended is heard of when it is settled.
    fn lost(&self, offset: Offset, verb: SettleVerb, error: SettleError) -> Option<Notice> {
        if matches!(verb, SettleVerb::Release | SettleVerb::Extend) {
            return None;
        }
        self.tally.count(|counts| counts.lost += 1);
        Some(Notice {
            queue: self.queue.clone(),
            offset,
            verb,
            error,
        })
    }

    /// Takes the oldest record whose lease is not over.
    fn pop(&mut self, now: Instant, mut taken: impl FnMut(u64)) -> Option<WorkItem> {
        while let Some(item) = self.inbox.pop_front() {
            taken(item.record.as_bytes().len() as u64);
            if item.until > now {
                return Some(item);
            }
            self.tally.count(|counts| counts.outlived += 1);
        }
        None
    }

    /// Lets go of records at the front whose leases are over: others took their room.
    fn prune(&mut self, now: Instant, mut taken: impl FnMut(u64)) {
        while let Some(item) = self.inbox.pop_front_if(|item| item.until <= now) {
            taken(item.record.as_bytes().len() as u64);
            self.tally.count(|counts| counts.outlived += 1);
        }
    }
}

const fn fault_error(fault: SettleFault) -> SettleError {
    match fault {
        SettleFault::LeaseLost => SettleError::LeaseLost,
        SettleFault::QueueGone => SettleError::QueueGone,
    }
}

impl State {
    /// Makes room for what a consumer stream brings.
    pub(crate) fn add_consumer(&mut self, stream: StreamId, queue: TopicName, tally: Arc<Tally>) {
        let consumer = ConsumerState {
            queue,
            lease: Duration::ZERO,
            inbox: VecDeque::new(),
            waker: None,
            receiving: false,
            ended: None,
            held: HashMap::default(),
            confirmations: BTreeMap::new(),
            last: 0,
            tally,
            closed: false,
            dropped: false,
        };
        self.consumers.insert(stream, consumer);
    }

    /// The handles of a consumer stream are gone, its deliveries included.
    pub(crate) fn drop_consumer(&mut self, stream: StreamId) {
        self.core.close_stream(stream);
        self.opening.remove(&stream);
        if let Some(consumer) = self.consumers.get_mut(&stream) {
            consumer.dropped = true;
            consumer.inbox.clear();
            if consumer.last == 0 || consumer.ended.is_some() || self.core.ended().is_some() {
                self.consumers.remove(&stream);
            }
        }
    }

    pub(super) fn consumer_opened(&mut self, stream: StreamId, lease_ms: u32) {
        if let Some(consumer) = self.consumers.get_mut(&stream) {
            consumer.lease = Duration::from_millis(lease_ms.into());
        }
    }

    pub(super) fn worked(
        &mut self,
        stream: StreamId,
        work: Vec<WorkItem>,
        wakers: &mut Vec<Waker>,
    ) {
        let Some(consumer) = self.consumers.get_mut(&stream) else {
            return;
        };
        let core = &mut self.core;
        consumer.prune(Instant::now(), |bytes| core.work_taken(stream, bytes));
        consumer.inbox.extend(work);
        wakers.extend(consumer.waker.take());
        if consumer.closed {
            self.release_inbox(stream);
        }
    }

    /// The consumer is gone, though deliveries may keep its stream: nothing more is to come, and
    /// what came and comes all the same goes back.
    pub(crate) fn close_consumer(&mut self, stream: StreamId) {
        if let Some(consumer) = self.consumers.get_mut(&stream) {
            consumer.closed = true;
            let window = Window {
                messages: 0,
                bytes: 0,
            };
            self.core.set_window(stream, window);
            self.release_inbox(stream);
        }
    }

    fn release_inbox(&mut self, stream: StreamId) {
        let Some(consumer) = self.consumers.get_mut(&stream) else {
            return;
        };
        while let Some(item) = consumer.inbox.pop_front() {
            self.core
                .work_taken(stream, item.record.as_bytes().len() as u64);
            let release = SettleRequest {
                offset: item.entry.offset,
                lease: item.entry.lease,
                verb: SettleVerb::Release,
                arg_us: 0,
                reason: Box::default(),
            };
            if let Some(number) = self.core.settle(stream, release) {
                consumer.last = number;
            }
        }
    }

    pub(super) fn receive_over(&mut self, stream: StreamId, wakers: &mut Vec<Waker>) {
        if let Some(consumer) = self.consumers.get_mut(&stream) {
            consumer.receiving = false;
            wakers.extend(consumer.waker.take());
        }
    }

    pub(super) fn settle_refused(&mut self, stream: StreamId, refused: RefusedSettle) {
        let Some(consumer) = self.consumers.get_mut(&stream) else {
            return;
        };
        let error = fault_error(refused.fault);
        if let Some(held) = consumer.held.get_mut(&(refused.lease, refused.offset)) {
            held.lost = true;
        }
        if let Some(confirmation) = consumer.confirmations.remove(&refused.number) {
            // Whoever asked may have gone; then it is only counted.
            let _ = confirmation.send(Err(error));
        }
        let notice = consumer.lost(refused.offset, refused.verb, error);
        self.notices.extend(notice);
    }

    pub(super) fn settled(&mut self, stream: StreamId, through: u64) {
        let Some(consumer) = self.consumers.get_mut(&stream) else {
            return;
        };
        while let Some(first) = consumer.confirmations.first_entry() {
            if *first.key() > through {
                break;
            }
            let _ = first.remove().send(Ok(()));
        }
        if consumer.dropped && consumer.last <= through {
            self.consumers.remove(&stream);
        }
    }

    pub(super) fn unsettled(&mut self, stream: StreamId, settles: Range<u64>, why: Unsettled) {
        let Some(consumer) = self.consumers.get_mut(&stream) else {
            return;
        };
        let error = match why {
            Unsettled::Unchanged => consumer.over(),
            Unsettled::Unanswered => SettleError::Unknown,
        };
        let count = settles.end.saturating_sub(settles.start);
        consumer.tally.count(|counts| match why {
            Unsettled::Unchanged => counts.lost += count,
            Unsettled::Unanswered => counts.unanswered += count,
        });
        let mut rest = consumer.confirmations.split_off(&settles.start);
        consumer
            .confirmations
            .append(&mut rest.split_off(&settles.end));
        for confirmation in rest.into_values() {
            let _ = confirmation.send(Err(error));
        }
        if consumer.dropped {
            self.consumers.remove(&stream);
        }
    }

    pub(super) fn consumer_ended(
        &mut self,
        stream: StreamId,
        end: &StreamEnd,
        wakers: &mut Vec<Waker>,
    ) {
        if let Some(consumer) = self.consumers.get_mut(&stream) {
            consumer.ended = Some(end.clone());
            consumer.receiving = false;
            consumer.inbox.clear();
            wakers.extend(consumer.waker.take());
        }
    }

    /// The connection is over: so is every lease.
    pub(super) fn consumers_ended(&mut self, wakers: &mut Vec<Waker>) {
        self.consumers.retain(|_, consumer| !consumer.dropped);
        for consumer in self.consumers.values_mut() {
            consumer.receiving = false;
            consumer.inbox.clear();
            wakers.extend(consumer.waker.take());
        }
    }

    /// The next record of a consumer. Ready without one when nothing more will come.
    pub(crate) fn poll_work(
        &mut self,
        stream: StreamId,
        cx: &Context<'_>,
    ) -> Poll<Result<WorkItem, StreamOver>> {
        let consumer = self.consumers.get_mut(&stream);
        let consumer = consumer.expect("a consumer's state lives as long as its handles");
        if let Some(error) = self.core.ended() {
            return Poll::Ready(Err(StreamOver::Connection(error.clone())));
        }
        if let Some(end) = &consumer.ended {
            return Poll::Ready(Err(StreamOver::Stream(end.clone())));
        }
        let core = &mut self.core;
        let item = consumer.pop(Instant::now(), |bytes| core.work_taken(stream, bytes));
        match item {
            Some(item) => {
                let held = Held {
                    until: item.until,
                    lost: false,
                };
                let place = (item.entry.lease, item.entry.offset);
                consumer.held.insert(place, held);
                Poll::Ready(Ok(item))
            }
            None => {
                consumer.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Asks for records once, unless such a request is under way.
    pub(crate) fn receive_work(&mut self, stream: StreamId, receive: &Receive) {
        if let Some(consumer) = self.consumers.get_mut(&stream)
            && !consumer.receiving
        {
            consumer.receiving = true;
            self.core.receive_work(stream, receive);
        }
    }

    /// Ready once no request for records is under way: what one brought is in the inbox then.
    pub(crate) fn poll_receive_over(&mut self, stream: StreamId, cx: &Context<'_>) -> Poll<()> {
        match self.consumers.get_mut(&stream) {
            Some(consumer) if consumer.receiving => {
                consumer.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Hands a settle over; its outcome goes to `confirmation`. Gives what is to be told when it
    /// cannot be sent any more.
    pub(crate) fn settle(
        &mut self,
        stream: StreamId,
        settle: SettleRequest,
        confirmation: Option<Confirmation>,
    ) -> Option<Notice> {
        let consumer = self.consumers.get_mut(&stream)?;
        let (offset, verb) = (settle.offset, settle.verb);
        let place = (settle.lease, offset);
        if verb != SettleVerb::Extend {
            consumer.held.remove(&place);
        } else if let Some(held) = consumer.held.get_mut(&place) {
            let lease = match settle.arg_us {
                0 => consumer.lease,
                us => Duration::from_micros(us),
            };
            held.until = Instant::now() + lease;
        }
        match self.core.settle(stream, settle) {
            Some(number) => {
                consumer.last = number;
                if let Some(confirmation) = confirmation {
                    consumer.confirmations.insert(number, confirmation);
                }
                None
            }
            None => {
                if let Some(held) = consumer.held.get_mut(&place) {
                    held.lost = true;
                }
                let error = consumer.over();
                if let Some(confirmation) = confirmation {
                    let _ = confirmation.send(Err(error));
                }
                consumer.lost(offset, verb, error)
            }
        }
    }

    /// Until when a lease that a delivery holds lasts; none once it is lost or settled.
    pub(crate) fn held_until(
        &self,
        stream: StreamId,
        lease: u64,
        offset: Offset,
    ) -> Option<Instant> {
        let consumer = self.consumers.get(&stream)?;
        if consumer.ended.is_some() || self.core.ended().is_some() {
            return None;
        }
        let held = consumer.held.get(&(lease, offset))?;
        (!held.lost).then_some(held.until)
    }
}
