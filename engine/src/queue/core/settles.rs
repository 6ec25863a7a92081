//! Takes what consumers say of their records.

use std::sync::Arc;

use super::Core;
use crate::queue::link::{Patience, Said};
use crate::queue::scheduler::{Acks, ConsumerId, Effect, Input, Now};

impl Core {
    pub(super) fn take_settles(&mut self, consumer: ConsumerId, now: Now, patience: Patience) {
        self.absorb_settles(consumer, now, patience);
        self.scheduler.deliver(now, &mut self.effects);
    }

    pub(super) fn absorb_settles(&mut self, consumer: ConsumerId, now: Now, patience: Patience) {
        let Some(link) = self.consumers.get(&consumer).map(Arc::clone) else {
            return;
        };
        // Room is given back by all of them before any is used again: leases stay whole runs.
        let gathered = link.begin_settles(patience);
        while let Some(said) = link.next_settle() {
            match said {
                Said::Settle(settle) => {
                    let input = Input::Settle { consumer, settle };
                    self.scheduler.absorb(now, input, &mut self.effects);
                }
                Said::Acks(acks) => self.absorb_acks(consumer, acks, now),
            }
        }
        if let Some(acks) = gathered {
            self.absorb_acks(consumer, acks, now);
        }
    }

    fn absorb_acks(&mut self, consumer: ConsumerId, acks: Acks, now: Now) {
        let input = Input::Acks { consumer, acks };
        self.scheduler.absorb(now, input, &mut self.effects);
    }

    pub(super) fn take_all_settles(&mut self, now: Now, patience: Patience) {
        let mut waiting: Vec<ConsumerId> = self
            .consumers
            .values()
            .filter(|link| link.has_settles())
            .map(|link| link.id)
            .collect();
        // In the order they came, so that a run can be repeated.
        waiting.sort_unstable();
        for consumer in waiting {
            self.take_settles(consumer, now, patience);
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
