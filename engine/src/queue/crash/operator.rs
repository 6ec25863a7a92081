//! What an operator does: pauses queues, purges them, and says how much of a topic is kept.

use millstream_protocol::TopicName;
use millstream_protocol::control::Retention;

use super::life::Life;

impl Life {
    /// Pauses a queue or lets it go on.
    pub(super) fn pause(&mut self, name: &str, pause: bool) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        let done = self.wait_for(|_| match pause {
            true => broker.pause_queue(name),
            false => broker.resume_queue(name),
        });
        let leases = self.leases(name);
        let queue = self.model.queues.get_mut(name).unwrap();
        // Whatever became of it, it is not sure to be paused.
        queue.is_paused = false;
        match done {
            _ if self.folder.is_struck() => return,
            Some(Ok(())) => queue.is_paused = pause,
            other => return assert!(self.failing, "{name}: {other:?}"),
        }
        queue.granted.clear();
        for lease in leases {
            queue
                .granted
                .insert((lease.offset.0, u64::from(lease.attempts)));
        }
    }

    /// Settles all that a queue has, but what is on its way elsewhere.
    pub(super) fn purge(&mut self, name: &str) {
        if self.failing {
            // A journal that failed is for the keeper to replace; who waits for it would wait for him.
            return;
        }
        let Some(broker) = self.broker.clone() else {
            return;
        };
        self.observe();
        let sure_below = self.visible_below(name);
        let queue = self.model.queues.get_mut(name).unwrap();
        let present = self.model.topics[&queue.topic].present.clone();
        for offset in &present {
            let job = queue.job(*offset);
            job.acks += 1;
            // Perhaps it is leased in the round that purges, or was before, and not taken yet.
            job.purged_in_run = true;
        }
        let done = self.wait_for(|_| broker.purge_queue(name));
        self.tally.purges += 1;
        match done {
            _ if self.folder.is_struck() => return,
            Some(Ok(_)) => {}
            other => return assert!(self.failing, "{name}: {other:?}"),
        }
        let queue = self.model.queues.get_mut(name).unwrap();
        for offset in present.range(..sure_below) {
            if !queue.may_move(*offset) {
                queue.job(*offset).done = true;
            }
        }
    }

    /// Says how much of a topic is kept whose records a queue works on: mostly less than that needs.
    pub(super) fn set_retention(&mut self) {
        if self.failing {
            // As of a purge.
            return;
        }
        let Some(broker) = self.broker.clone() else {
            return;
        };
        let retention = Retention {
            bytes: self.dice.below(3) * (1 + self.dice.below(200_000)),
            age_ms: self.dice.below(3) * (1 + self.dice.below(2_000)),
        };
        self.model.retentions.push(retention);
        let done = self.wait_for(|_| broker.set_retention("events", retention));
        self.tally.retentions += 1;
        match done {
            _ if self.folder.is_struck() => {}
            Some(Ok(())) => self.model.retentions = vec![retention],
            other => assert!(self.failing, "{other:?}"),
        }
    }

    /// What is kept of the topic is what was said.
    pub(super) fn check_retention(&mut self) {
        let Some(broker) = self.broker.clone() else {
            return;
        };
        let kept = broker.retention("events").unwrap();
        let known = &self.model.retentions;
        assert!(
            known.contains(&kept),
            "{kept:?} is kept, said was {known:?}"
        );
        self.model.retentions = vec![kept];
    }

    /// All below this is visible to the queue.
    fn visible_below(&self, name: &str) -> u64 {
        let name = TopicName::parse(name).unwrap();
        let Some(queues) = &self.queues else { return 0 };
        let entry = queues.entry(&name);
        entry.map_or(0, |entry| entry.queue.topic.high_watermark().0)
    }
}
