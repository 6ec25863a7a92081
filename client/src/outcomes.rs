//! What became of frames, for the tickets of their messages to look up.
//!
//! One slot a frame, not one a message: a message's offset is its frame's first one plus its place
//! in the frame. Slots are reused, so publishing allocates nothing per message once warm.

use std::task::{Context, Poll, Waker};

use crate::core::Stored;
use crate::error::PublishError;

/// The slot of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotId(usize);

/// What became of a frame: where its records are, or why there are none.
pub(crate) type Outcome = Result<Stored, PublishError>;

#[derive(Debug, Default)]
struct Slot {
    outcome: Option<Outcome>,
    /// Tickets that have not looked.
    tickets: usize,
    /// The frame is on its way: the slot is in use even without tickets.
    expected: bool,
    wakers: Vec<Waker>,
}

/// The slots of all frames of a connection that are on their way or have a ticket.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    slots: Vec<Slot>,
    free: Vec<SlotId>,
}

impl Outcomes {
    /// A slot for a frame that is on its way, without tickets yet.
    pub(crate) fn expect(&mut self) -> SlotId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            SlotId(self.slots.len() - 1)
        });
        self.slot(id).expected = true;
        id
    }

    /// Counts one more ticket of the frame.
    pub(crate) fn add_ticket(&mut self, id: SlotId) {
        self.slot(id).tickets += 1;
    }

    /// Notes what became of the frame; those to be woken go to `wakers`.
    pub(crate) fn resolve(&mut self, id: SlotId, outcome: Outcome, wakers: &mut Vec<Waker>) {
        let slot = self.slot(id);
        slot.outcome = Some(outcome);
        slot.expected = false;
        wakers.append(&mut slot.wakers);
        self.free_if_done(id);
    }

    /// What became of the frame, for a ticket, which is counted off when there is an answer.
    ///
    /// `registered` is the ticket's own note of where its waker is.
    pub(crate) fn poll(
        &mut self,
        id: SlotId,
        registered: &mut Option<usize>,
        cx: &Context<'_>,
    ) -> Poll<Outcome> {
        let slot = self.slot(id);
        if let Some(outcome) = &slot.outcome {
            // Nearly all are stored; only what failed has something to clone.
            let outcome = match outcome {
                Ok(stored) => Ok(*stored),
                Err(error) => Err(error.clone()),
            };
            slot.tickets -= 1;
            self.free_if_done(id);
            return Poll::Ready(outcome);
        }
        match registered.and_then(|at| slot.wakers.get_mut(at)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                *registered = Some(slot.wakers.len());
                slot.wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Counts off a ticket that will not look.
    pub(crate) fn drop_ticket(&mut self, id: SlotId) {
        self.slot(id).tickets -= 1;
        self.free_if_done(id);
    }

    fn free_if_done(&mut self, id: SlotId) {
        let slot = self.slot(id);
        if slot.tickets == 0 && !slot.expected {
            slot.outcome = None;
            self.free.push(id);
        }
    }

    fn slot(&mut self, id: SlotId) -> &mut Slot {
        self.slots.get_mut(id.0).expect("slots are never removed")
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::Offset;

    use super::*;

    #[test]
    fn a_slot_is_reused_once_answered_and_looked_at() {
        let stored = Stored {
            first: Offset(7),
            duplicate: false,
        };
        let mut outcomes = Outcomes::default();
        let mut wakers = Vec::new();
        let cx = Context::from_waker(Waker::noop());
        let first = outcomes.expect();
        outcomes.add_ticket(first);
        outcomes.add_ticket(first);
        let mut registered = None;
        assert!(outcomes.poll(first, &mut registered, &cx).is_pending());
        assert!(outcomes.poll(first, &mut registered, &cx).is_pending());
        outcomes.resolve(first, Ok(stored), &mut wakers);
        assert_eq!(wakers.len(), 1, "one ticket looked, twice");
        assert_ne!(outcomes.expect(), first, "still to be looked at");
        assert_eq!(
            outcomes.poll(first, &mut registered, &cx),
            Poll::Ready(Ok(stored))
        );
        outcomes.drop_ticket(first);
        assert_eq!(outcomes.expect(), first);
    }

    #[test]
    fn a_frame_without_tickets_keeps_its_slot_until_answered() {
        let mut outcomes = Outcomes::default();
        let first = outcomes.expect();
        outcomes.add_ticket(first);
        outcomes.drop_ticket(first);
    }
}
