//! Settles all that a queue has.

use std::sync::Arc;

use millstream_protocol::TopicName;
use millstream_storage::{AppendError, park_until};

use super::error::QueueError;
use super::journal::{Owner, Writer};
use super::registry::{Entry, Queues};
use super::scheduler::Input;

impl Queues {
    /// Settles every record of queue `name` that is visible now; gives how many. That is on disk when
    /// this returns (Q3).
    pub(super) fn purge(&self, name: &TopicName) -> Result<u64, QueueError> {
        let entry = self.entry(name)?;
        let queue = Arc::clone(&entry.queue);
        let purged = entry.queue.ask(move |core, now| {
            core.scan_to_end(&queue, now);
            let before = core.counts().unsettled_scanned + core.unscanned(&queue);
            let to = queue.topic.high_watermark();
            core.step(now, Input::Purge { to });
            let after = core.counts().unsettled_scanned + core.unscanned(&queue);
            before.saturating_sub(after)
        })?;
        self.await_steps(&entry)?;
        Ok(purged)
    }

    /// Waits until what the queue's steps made so far is on disk.
    fn await_steps(&self, entry: &Entry) -> Result<(), QueueError> {
        let stopped = || QueueError::Stopped {
            name: entry.queue.name.clone(),
        };
        let journal = self.state().journal.clone().ok_or_else(stopped)?;
        let mut writer = Writer::of(&journal, Owner::Queue(entry.queue.id));
        loop {
            let queue = Arc::clone(&entry.queue);
            // Asked in its turn: where the journal has no room it is answered once that has.
            let flushed = entry
                .queue
                .ask(move |core, now| (core.flush(&queue, now), core.is_closed()))?;
            match flushed {
                (Some(end), _) => {
                    let synced = park_until(|cx| writer.poll_synced(end, cx));
                    return synced.map_err(|error: AppendError| QueueError::Journal {
                        reason: error.to_string(),
                    });
                }
                (None, true) => return Err(stopped()),
                (None, false) => {}
            }
        }
    }
}
