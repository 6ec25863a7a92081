//! Takes what consumers say of their records.

use std::sync::Arc;

use super::Core;
use crate::queue::scheduler::{Acks, ConsumerId, Effect, Input, Now};

impl Core {
    pub(super) fn take_settles(&mut self, consumer: ConsumerId, now: Now) {
        self.absorb_settles(consumer, now);
        self.scheduler.deliver(now, &mut self.effects);
    }

    pub(super) fn absorb_settles(&mut self, consumer: ConsumerId, now: Now) {
        let Some(link) = self.consumers.get(&consumer).map(Arc::clone) else {
            return;
        };
        link.begin_settles();
        // Room is given back by all of them before any is used again: leases stay whole runs.
        let mut together: Option<Acks> = None;
        while let Some(settle) = link.next_settle() {
            if together.as_mut().is_some_and(|acks| acks.join(&settle)) {
                continue;
            }
            self.absorb_acks(consumer, together.take(), now);
            together = Acks::of(&settle);
            if together.is_none() {
                let input = Input::Settle { consumer, settle };
                self.scheduler.absorb(now, input, &mut self.effects);
            }
        }
        self.absorb_acks(consumer, together, now);
    }

    fn absorb_acks(&mut self, consumer: ConsumerId, acks: Option<Acks>, now: Now) {
        if let Some(acks) = acks {
            let input = Input::Acks { consumer, acks };
            self.scheduler.absorb(now, input, &mut self.effects);
        }
    }

    pub(super) fn take_all_settles(&mut self, now: Now) {
        let mut waiting: Vec<ConsumerId> = self
            .consumers
            .values()
            .filter(|link| link.has_settles())
            .map(|link| link.id)
            .collect();
        // In the order they came, so that a run can be repeated.
        waiting.sort_unstable();
        for consumer in waiting {
            self.take_settles(consumer, now);
        }
    }

    /// What was granted to a consumer and never came to it does not count when it is lost.
    pub(super) fn give_back_untaken(&self, consumer: ConsumerId) {
        let Some(link) = self.consumers.get(&consumer) else {
            return;
        };
        link.give_back();
        for effect in &self.effects {
            if let Effect::Deliver(grant) = effect
                && grant.consumer == consumer
            {
                link.give_back_grant(grant);
            }
        }
    }
}
