//! Sends dead letters back to the queues they died in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_protocol::{Offset, TopicName};

use super::consumer::{Consumer, ConsumerOptions};
use super::delivery::{Delivery, DeliveryParts};
use super::error::{QueueError, SettleError};
use super::notes;
use super::registry::{Entry, Queues};
use crate::block_on::block_on;

/// Dead letters looked at together.
const LETTERS_TOGETHER: u32 = 256;
/// Pages that are brought in from disk are waited for in steps of this.
const LOOK: Duration = Duration::from_millis(5);
/// Letters that are passed over are kept from others for as long as looking may take.
const LEASE: Duration = Duration::from_secs(3600);

/// Which dead letters go back, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redrive {
    records_max: Option<u64>,
    per_second: Option<u32>,
    reason: Option<String>,
    source: Option<TopicName>,
    key: Option<Vec<u8>>,
}

impl Redrive {
    /// All of them, as fast as it goes.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// At most this many.
    #[must_use]
    pub fn records_max(mut self, records: u64) -> Self {
        self.records_max = Some(records);
        self
    }

    /// At most this many a second; 0 is as fast as it goes.
    #[must_use]
    pub fn per_second(mut self, records: u32) -> Self {
        self.per_second = Some(records).filter(|records| *records != 0);
        self
    }

    /// Only those that died for this reason: what the header `ms-reason` says.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Only those that died in this queue.
    #[must_use]
    pub fn source(mut self, queue: TopicName) -> Self {
        self.source = Some(queue);
        self
    }

    /// Only those with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    fn takes(&self, letter: &Delivery) -> bool {
        let note = |name| notes::header_text(letter.record(), name);
        let reason = self.reason.as_ref();
        let key = self.key.as_ref();
        reason.is_none_or(|reason| note(notes::REASON).as_ref() == Some(reason))
            && self
                .source
                .as_ref()
                .is_none_or(|source| note(notes::QUEUE).as_deref() == Some(source.as_str()))
            && key.is_none_or(|key| letter.key().is_some_and(|found| found == key))
    }
}

impl Queues {
    /// Moves the dead letters that are in queue `name` now back to their queues; gives how many.
    pub(super) fn redrive(&self, name: &TopicName, wanted: &Redrive) -> Result<u64, QueueError> {
        let entry = self.entry(name)?;
        let end = entry.queue.topic.high_watermark();
        let options = ConsumerOptions::new()
            .prefetch(0)
            .lease(LEASE)
            .name("redrive");
        let mut consumer = Consumer::open(&entry.queue, &options);
        let begun = Instant::now();
        let mut moved = 0;
        let mut all_found = false;
        // By number, so that what is passed over pins no page.
        let mut passed: Vec<DeliveryParts> = Vec::new();
        let failed = loop {
            let left = wanted.records_max.unwrap_or(u64::MAX) - moved;
            let max =
                u32::try_from(left).map_or(LETTERS_TOGETHER, |left| left.min(LETTERS_TOGETHER));
            if max == 0 {
                break None;
            }
            let letters = match consumer.receive_blocking(max, Duration::ZERO) {
                Ok(letters) => letters,
                Err(error) => break Some(error.to_string()),
            };
            if letters.is_empty() {
                if all_found {
                    break None;
                }
                // What was found since that pull is for the next.
                all_found = !is_looking(&entry, end)?;
                continue;
            }
            all_found = false;
            let mut going = Vec::new();
            for letter in letters {
                let here = letter.offset() < end;
                if here && wanted.takes(&letter) && self.has_home(&letter) {
                    going.push(letter);
                } else {
                    passed.push(letter.into_parts().1);
                }
            }
            for letter in going {
                match block_on(letter.redrive_confirmed()) {
                    Ok(()) => moved += 1,
                    Err(SettleError::LeaseLost) => {}
                    Err(error) => return Err(stopped(&error.to_string())),
                }
                pace(begun, moved, wanted.per_second);
            }
        };
        for parts in passed {
            let released = super::consumer::Settling::Release;
            consumer.settle(parts.offset, parts.lease, released, 0);
        }
        consumer.flush_settles();
        self.keeper.look_after();
        match failed {
            Some(reason) => Err(stopped(&reason)),
            None => Ok(moved),
        }
    }

    /// Whether the queue a letter died in is still there.
    fn has_home(&self, letter: &Delivery) -> bool {
        let source = notes::header_text(letter.record(), notes::QUEUE);
        source.is_some_and(|name| self.topic_of(&name).is_some())
    }
}

/// Whether letters below `end` may still be found, because the topic is being read: then a little
/// was waited for them.
fn is_looking(entry: &Entry, end: Offset) -> Result<bool, QueueError> {
    let queue = Arc::clone(&entry.queue);
    let looking = entry.queue.look(move |core, now| {
        core.scan_to_end(&queue, now);
        let scheduler = &core.scheduler;
        let reading = core.is_reading() && scheduler.next_scan() < end;
        reading && !core.paused && scheduler.wants_lookahead()
    })?;
    if looking {
        std::thread::sleep(LOOK);
    }
    Ok(looking)
}

fn stopped(reason: &str) -> QueueError {
    QueueError::Journal {
        reason: reason.to_owned(),
    }
}

/// Waits until `moved` records are not more than the rate allows.
fn pace(begun: Instant, moved: u64, per_second: Option<u32>) {
    let Some(per_second) = per_second else {
        return;
    };
    let due = Duration::from_secs_f64(moved as f64 / f64::from(per_second));
    let early = due.saturating_sub(begun.elapsed());
    if !early.is_zero() {
        std::thread::sleep(early);
    }
}
