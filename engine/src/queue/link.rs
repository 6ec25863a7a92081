//! What a consumer and its queue share: grants one way, settles the other.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use millstream_protocol::Offset;
use millstream_storage::{Counter, Flag, Lane, Mailbox};

use super::error::{ConsumeError, SettleError};
use super::scheduler::{ConsumerId, Grant, LeaseNumber, Settle, Verb};
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

/// What became of a settle that was numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The number it was given.
    pub tag: u64,
    /// Settled, durably; or why not.
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
    /// Bounded by what was delivered and not settled.
    settles: Lane<Settle>,
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
        if let Some(error) = self.ended() {
            return self.tell(tag, Err(error));
        }
        self.settles.push(Settle {
            offset,
            lease,
            verb,
            tag,
        });
        if self.settles.len() >= self.settles_together || self.mailbox.is_empty() {
            self.flush();
        } else {
            self.queue.nudge();
        }
        // It may have ended since: then nobody else looks at what was pushed.
        if let Some(error) = self.ended() {
            self.refuse_waiting(error);
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
        while let Some(settle) = self.settles.pop() {
            self.tell(settle.tag, Err(error));
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
            self.settles.push(Settle {
                offset: grant.first + index,
                lease: grant.lease,
                verb: Verb::Release,
                tag: 0,
            });
        }
    }

    /// Hands waiting settles to the queue.
    pub(super) fn flush(&self) {
        if !self.settles.is_empty() && self.announced.set() {
            self.queue.send(Message::Settles(self.id));
        }
    }

    /// Takes the settles that wait, by the queue.
    pub(super) fn begin_settles(&self) {
        self.announced.clear();
    }

    pub(super) fn next_settle(&self) -> Option<Settle> {
        self.settles.pop()
    }

    pub(super) fn has_settles(&self) -> bool {
        !self.settles.is_empty()
    }

    /// Tells what became of a settle. Those without a number are only counted when they came late.
    pub(super) fn tell(&self, tag: u64, result: Result<(), SettleError>) {
        if result.is_err() {
            self.lost.add(1);
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
            self.outcomes().push_back(Outcome { tag, result });
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
                self.tell(tag, Err(settle_error));
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
