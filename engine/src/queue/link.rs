//! What a consumer and its queue share: grants one way, settles the other.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use millstream_protocol::Offset;
use millstream_storage::{Counter, Flag, Lane, Mailbox, Put, Tray, TrayBusy};

use super::error::{ConsumeError, SettleError};
use super::scheduler::{Acks, ConsumerId, Grant, LeaseNumber, Settle, Verb};
use super::shared::{Message, QueueShared};

/// Settles of one consumer are handed over when a quarter of its window is waiting, within these
/// bounds, or nothing else is to do: fewer at a time cost a round of the queue and a wake each.
const SETTLES_TOGETHER: RangeInclusive<u32> = 32..=1024;
/// Tags from here on name a confirmation somebody waits for; those below are told in order.
const CONFIRMATION: u64 = 1 << 63;

/// What a consumer hears from its queue.
#[derive(Debug)]
pub(super) enum Event {
    Grant(Grant),
    /// A pull is over, which brought so many; its grants came before.
    ReceiveOver(u32),
}

/// What a queue hears from a consumer.
#[derive(Debug)]
pub(super) enum Said {
    Settle(Settle),
    Acks(Acks),
}

/// What a queue does that comes for settles while somebody leaves one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Waits: what was left before must not be missed.
    Wait,
    /// Comes again within a millisecond or so.
    ComeAgain,
}

/// Acknowledgements put together while the queue is at something else.
#[derive(Debug, Default)]
struct Gathered {
    /// Left behind all that is in the lane, but for acknowledgements.
    acks: Option<Acks>,
    /// Settles left since the queue took them last.
    count: usize,
}

impl Gathered {
    /// Leaves one more: with those here, or behind them in the lane. Gives the count.
    fn add(&mut self, settle: Settle, lane: &Lane<Said>) -> usize {
        self.count += 1;
        if self.acks.as_mut().is_some_and(|acks| acks.join(&settle)) {
            return self.count;
        }
        if let Some(before) = self.acks.take() {
            lane.push(Said::Acks(before));
        }
        match Acks::of(&settle) {
            // A confirmation is waited for by itself.
            Some(acks) if settle.tag < CONFIRMATION => self.acks = Some(acks),
            _ => lane.push(Said::Settle(settle)),
        }
        self.count
    }

    fn take(&mut self) -> Option<Acks> {
        self.count = 0;
        self.acks.take()
    }
}

/// What became of settles that were numbered, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The number that the first was given.
    pub tag: u64,
    /// How many they are.
    pub count: u32,
    /// Settled, durably, each of them; or why not.
    pub result: Result<(), SettleError>,
}

#[derive(Debug)]
enum Confirmation {
    Waiting(Option<Waker>),
    Told(Result<(), SettleError>),
}

/// One consumer's end and its queue's.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) queue: Arc<QueueShared>,
    pub(super) id: ConsumerId,
    /// What its user calls it, for listings.
    pub(super) name: Box<str>,
    /// Bounded by the consumer's window and its pull.
    pub(super) mailbox: Mailbox<Event>,
    /// What is not in the lane yet: it came behind what is.
    gathered: Tray<Gathered>,
    /// Bounded by what was delivered and not settled.
    settles: Lane<Said>,
    /// Handed over at the latest when there are so many.
    settles_together: usize,
    /// A message about waiting settles is in the queue's ring.
    announced: Flag,
    /// Somebody takes from the mailbox.
    read: Flag,
    /// The peer was lost: what it had is somebody else's.
    lost_peer: Flag,
    outcomes: Mutex<VecDeque<Outcome>>,
    confirmations: Mutex<BTreeMap<u64, Confirmation>>,
    next_confirmation: Counter,
    /// Settles that came too late.
    lost: Counter,
    closed: OnceLock<ConsumeError>,
}

impl Link {
    /// For a consumer that is called `name` and has a window of so many records at first.
    pub(super) fn new(queue: &Arc<QueueShared>, name: &str, window: u32) -> Self {
        let read = Flag::new();
        // It was not set before.
        let _ = read.set();
        let together = (window / 4).clamp(*SETTLES_TOGETHER.start(), *SETTLES_TOGETHER.end());
        Self {
            id: queue.next_consumer(),
            queue: Arc::clone(queue),
            name: name.into(),
            mailbox: Mailbox::new(),
            gathered: Tray::new(Gathered::default()),
            settles: Lane::new(),
            settles_together: together as usize,
            announced: Flag::new(),
            read,
            lost_peer: Flag::new(),
            outcomes: Mutex::new(VecDeque::new()),
            confirmations: Mutex::new(BTreeMap::new()),
            next_confirmation: Counter::new(),
            lost: Counter::new(),
            closed: OnceLock::new(),
        }
    }

    /// Hands a settle to the queue, now or together with those that follow soon.
    pub(super) fn settle(&self, offset: Offset, lease: LeaseNumber, verb: Verb, tag: u64) {
        let settle = Settle {
            offset,
            lease,
            verb,
            tag,
        };
        self.leave(settle, |told| {
            if self.mailbox.is_empty() {
                self.announce();
            } else if !told {
                self.queue.nudge();
            }
        });
    }

    /// As [`settle`](Self::settle), for who says when no more follow, by [`flush`](Self::flush).
    pub(super) fn settle_ahead(&self, settle: Settle) {
        self.leave(settle, |_| {});
    }

    /// Leaves a settle for the queue. It hears at once where many wait, else what `tell` says, which is
    /// given whether it was told of what it would find.
    fn leave(&self, settle: Settle, tell: impl FnOnce(bool)) {
        if let Some(error) = self.ended() {
            return self.tell(settle.tag, 1, Err(error));
        }
        let (waiting, told) = self.put(settle);
        if waiting >= self.settles_together {
            self.announce();
        } else {
            tell(told);
        }
        // It may have ended since: then nobody else looks at what was put there.
        if let Some(error) = self.ended() {
            self.refuse_waiting(error);
        }
    }

    /// Puts a settle where the queue finds it: how many wait about, and whether it was told of them.
    fn put(&self, settle: Settle) -> (usize, bool) {
        let mut settle = settle;
        loop {
            let add = |gathered: &mut Gathered, settle| gathered.add(settle, &self.settles);
            settle = match self.gathered.put(settle, add) {
                Ok(Put::Joined(count)) => return (count, true),
                Ok(Put::First(count)) => return (count, false),
                Err(settle) => settle,
            };
            // One that changes nothing for those that are put together need not wait for whoever is at it.
            if settle.verb == Verb::Ack && settle.tag == 0 {
                self.settles.push(Said::Settle(settle));
                return (self.settles.len(), false);
            }
            // For some instructions. Beside it this would overtake what was left before.
            std::thread::yield_now();
        }
    }

    /// Takes what is gathered, once nobody is at it.
    fn take_gathered(&self) -> Option<Acks> {
        loop {
            match self.gathered.take(Gathered::take) {
                Ok(gathered) => return gathered.flatten(),
                Err(TrayBusy) => std::thread::yield_now(),
            }
        }
    }

    /// What settles hear once nobody takes them any more.
    fn ended(&self) -> Option<SettleError> {
        match self.closed.get() {
            Some(error) => Some(error.for_settle()),
            None => self.lost_peer.is_set().then_some(SettleError::LeaseLost),
        }
    }

    fn refuse_waiting(&self, error: SettleError) {
        let refuse = |acks: Acks| self.tell(acks.tag, acks.count(), Err(error));
        if let Some(acks) = self.take_gathered() {
            refuse(acks);
        }
        while let Some(said) = self.settles.pop() {
            match said {
                Said::Settle(settle) => self.tell(settle.tag, 1, Err(error)),
                Said::Acks(acks) => refuse(acks),
            }
        }
    }

    /// The peer is gone, and what it had goes to others: further settles come too late.
    pub(super) fn lose_peer(&self) {
        // It may be said more than once.
        let _ = self.lost_peer.set();
    }

    /// Nobody takes from the mailbox any more: what is there, or comes, is given back.
    pub(super) fn stop_reading(&self) {
        self.read.clear();
        self.give_back();
    }

    /// Whether somebody takes what is pushed to the mailbox. Looked at after pushing.
    pub(super) fn is_read(&self) -> bool {
        self.read.is_set()
    }

    /// Releases the grants in the mailbox; the settles still are to be handed over.
    pub(super) fn give_back(&self) {
        while let Some(event) = self.mailbox.pop() {
            if let Event::Grant(grant) = event {
                self.give_back_grant(&grant);
            }
        }
    }

    /// Releases the records of one grant; the settles still are to be handed over.
    pub(super) fn give_back_grant(&self, grant: &Grant) {
        for index in 0..u64::from(grant.count) {
            self.settles.push(Said::Settle(Settle {
                offset: grant.first + index,
                lease: grant.lease,
                verb: Verb::Release,
                tag: 0,
            }));
        }
    }

    /// Hands waiting settles to the queue.
    pub(super) fn flush(&self) {
        if self.has_settles() {
            self.announce();
        }
    }

    fn announce(&self) {
        if self.announced.set() {
            self.queue.send(Message::Settles(self.id));
        }
    }

    /// Takes the settles that wait, by the queue: acknowledgements to be looked at behind all that
    /// [`next_settle`](Self::next_settle) gives from here on.
    pub(super) fn begin_settles(&self, patience: Patience) -> Option<Acks> {
        self.announced.clear();
        // First, or one put there meanwhile could leave another in the lane, of which nobody is told.
        match self.gathered.take(Gathered::take) {
            Ok(gathered) => gathered.flatten(),
            Err(TrayBusy) if patience == Patience::Wait => self.take_gathered(),
            Err(TrayBusy) => {
                self.queue.nudge();
                None
            }
        }
    }

    pub(super) fn next_settle(&self) -> Option<Said> {
        self.settles.pop()
    }

    pub(super) fn has_settles(&self) -> bool {
        !self.gathered.is_empty() || !self.settles.is_empty()
    }

    /// Tells what became of `count` settles, the first of them numbered `tag`. Those without a number are only
    /// counted when they came late.
    pub(super) fn tell(&self, tag: u64, count: u32, result: Result<(), SettleError>) {
        if result.is_err() {
            self.lost.add(u64::from(count));
        }
        if tag >= CONFIRMATION {
            let told = match self.confirmations().get_mut(&tag) {
                Some(told) => std::mem::replace(told, Confirmation::Told(result)),
                // Nobody waits for it any more.
                None => return,
            };
            if let Confirmation::Waiting(Some(waker)) = told {
                waker.wake();
            }
        } else if tag != 0 {
            self.outcomes().push_back(Outcome { tag, count, result });
            self.mailbox.wake();
        }
    }

    /// A number for a settle whose outcome somebody will wait for.
    pub(super) fn new_confirmation(&self) -> u64 {
        let tag = CONFIRMATION | self.next_confirmation.add(1);
        self.confirmations()
            .insert(tag, Confirmation::Waiting(None));
        tag
    }

    /// Ready with what became of the settle numbered `tag`.
    pub(super) fn poll_confirmation(
        &self,
        tag: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SettleError>> {
        let mut confirmations = self.confirmations();
        match confirmations.get_mut(&tag) {
            Some(Confirmation::Told(result)) => {
                let result = *result;
                confirmations.remove(&tag);
                Poll::Ready(result)
            }
            Some(Confirmation::Waiting(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(Err(SettleError::QueueGone)),
        }
    }

    /// Confirmations that are kept.
    #[cfg(test)]
    pub(super) fn kept_confirmations(&self) -> usize {
        self.confirmations().len()
    }

    /// Nobody waits for `tag` any more.
    pub(super) fn forget_confirmation(&self, tag: u64) {
        self.confirmations().remove(&tag);
    }

    pub(super) fn next_outcome(&self) -> Option<Outcome> {
        self.outcomes().pop_front()
    }

    /// Settles that came too late so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Ends the link: the consumer hears of it once it has taken what came before.
    pub(super) fn close(&self, error: ConsumeError) {
        let settle_error = error.for_settle();
        // The first reason stays.
        let _ = self.closed.set(error);
        self.refuse_waiting(settle_error);
        let waiting: Vec<u64> = self.confirmations().keys().copied().collect();
        for tag in waiting {
            let untold = matches!(
                self.confirmations().get(&tag),
                Some(Confirmation::Waiting(_))
            );
            if untold {
                self.tell(tag, 1, Err(settle_error));
            }
        }
        self.mailbox.close();
    }

    pub(super) fn closed(&self) -> Option<&ConsumeError> {
        self.closed.get()
    }

    fn outcomes(&self) -> MutexGuard<'_, VecDeque<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirmations(&self) -> MutexGuard<'_, BTreeMap<u64, Confirmation>> {
        self.confirmations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{Broker, ConsumerOptions, QueueOptions};

    #[test]
    fn what_was_gathered_when_a_link_ends_is_lost_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        broker.create_queue("jobs", QueueOptions::new()).unwrap();
        let consumer = broker.consumer("jobs", ConsumerOptions::new()).unwrap();
        let link = consumer.link();
        for offset in [0, 1, 100] {
            // As `settle` does, untold.
            link.put(Settle::ack(Offset(offset), LeaseNumber(1)));
        }
        link.close(ConsumeError::Closed);
        assert_eq!(link.lost(), 3);
        assert!(!link.has_settles());
    }

    #[test]
    fn a_queue_that_came_while_acknowledgements_were_put_together_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        broker.create_queue("jobs", QueueOptions::new()).unwrap();
        let mut publisher = broker.publisher("jobs").unwrap();
        publisher.publish_blocking("work").unwrap();
        let mut consumer = broker.consumer("jobs", ConsumerOptions::new()).unwrap();
        let (_, parts) = consumer.next_blocking().unwrap().unwrap().into_parts();
        let link = consumer.link();
        let settle = Settle::ack(parts.offset, LeaseNumber(parts.lease));
        let put = link.gathered.put(settle, |gathered, settle| {
            gathered.add(settle, &link.settles);
            // The queue's thread, in the middle of it.
            assert_eq!(link.begin_settles(Patience::ComeAgain), None);
        });
        assert_eq!(put, Ok(Put::First(())));
        // Nobody but the queue itself says that something is there.
        while broker.queue("jobs").unwrap().floor < Offset(1) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_queue_that_must_not_miss_what_was_left_waits_for_whoever_leaves_more() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        broker.create_queue("jobs", QueueOptions::new()).unwrap();
        let consumer = broker.consumer("jobs", ConsumerOptions::new()).unwrap();
        let link = consumer.link();
        // Nobody else runs the queue, and takes some of it first.
        broker.queues_of_broker().keeper.stop();
        let ack = |offset| Settle::ack(Offset(offset), LeaseNumber(1));
        link.put(ack(7));
        assert!(link.announced.set());
        let (entered, at_it) = std::sync::mpsc::channel();
        let acks = std::thread::scope(|scope| {
            scope.spawn(|| {
                link.gathered.put(ack(8), |gathered, settle| {
                    entered.send(()).unwrap();
                    // Until the queue has come.
                    while link.announced.is_set() {
                        std::thread::yield_now();
                    }
                    gathered.add(settle, &link.settles)
                })
            });
            at_it.recv().unwrap();
            link.begin_settles(Patience::Wait)
        });
        assert_eq!(acks.map(|acks| acks.count()), Some(2));
    }

    #[test]
    fn what_finds_somebody_leaving_more_does_not_overtake_what_was_left_before() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        broker.create_queue("jobs", QueueOptions::new()).unwrap();
        let consumer = broker.consumer("jobs", ConsumerOptions::new()).unwrap();
        let link = consumer.link();
        // Nobody else runs the queue, and takes some of it first.
        broker.queues_of_broker().keeper.stop();
        let ack = Settle::ack(Offset(7), LeaseNumber(1));
        let retry = Settle {
            verb: Verb::Retry,
            ..ack.clone()
        };
        link.put(ack);
        let (entered, at_it) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let held = link.gathered.put((), |_, ()| {
                scope.spawn(|| {
                    entered.send(()).unwrap();
                    link.put(retry);
                });
                at_it.recv().unwrap();
                // Time enough to go past it.
                (0..10_000).for_each(|_| std::thread::yield_now());
                link.settles.is_empty()
            });
            assert_eq!(held, Ok(Put::Joined(true)), "it went past");
        });
        assert!(matches!(link.next_settle(), Some(Said::Acks(_))));
        let last = link.next_settle();
        assert!(matches!(
            last,
            Some(Said::Settle(Settle {
                verb: Verb::Retry,
                ..
            }))
        ));
    }
}
