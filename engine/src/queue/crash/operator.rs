//! What an operator does: pauses queues, and purges them.

use millstream_protocol::TopicName;

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

    /// All below this is visible to the queue.
    fn visible_below(&self, name: &str) -> u64 {
        let name = TopicName::parse(name).unwrap();
        let Some(queues) = &self.queues else { return 0 };
        let entry = queues.entry(&name);
        entry.map_or(0, |entry| entry.queue.topic.high_watermark().0)
    }
}
