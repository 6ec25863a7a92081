//! The publishers of a run: on schedule, or as fast as they are acknowledged.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::maker::{Maker, Sizes};
use super::part::Part;
use super::schedule::Schedule;
use super::shared::{Course, Shared};
use crate::broker::{Broker, Failure, Publish};

/// Messages made and sent together in a closed loop, where batches are smaller.
const TOGETHER: usize = 256;
/// Batches in which messages are stored before a run.
const PRELOAD_BATCH: usize = 1000;
/// Bytes of messages under way when they are stored before a run.
const PRELOAD_WINDOW_BYTES: usize = 16 << 20;

/// Stores `share` messages of publisher `number`, `window` under way.
pub(crate) fn preload(
    broker: &dyn Broker,
    topic: &str,
    (number, share): (usize, u64),
    sizes: Sizes,
    window: usize,
) -> Result<u64, Failure> {
    let batch = (PRELOAD_WINDOW_BYTES / 4 / sizes.largest.max(1)).clamp(1, PRELOAD_BATCH);
    let most = PRELOAD_WINDOW_BYTES / sizes.largest.max(1);
    // Brokers refuse what is too much for them at once.
    let window = most.min(window).max(batch) as u64;
    let mut publisher = broker.publisher(topic, batch)?;
    let mut maker = Maker::new(number, sizes);
    let (mut under_way, mut left) = (0, share);
    while left > 0 {
        let count = left.min(batch as u64);
        let (messages, message_bytes) = maker.make(count as usize, |_| 0);
        publisher.send(messages, message_bytes)?;
        left -= count;
        under_way += count;
        while under_way > window {
            under_way -= publisher.acknowledged(Duration::from_secs(1))?;
        }
    }
    while under_way > 0 {
        under_way -= publisher.acknowledged(Duration::from_secs(1))?;
    }
    Ok(share)
}

/// Messages that were sent together and are not all acknowledged.
struct UnderWay {
    sent_ns: u64,
    count: u64,
    message_bytes: u64,
}

/// One publisher of a run.
pub(super) struct Publishing<'a> {
    shared: &'a Shared,
    number: usize,
    schedule: Option<Schedule>,
    maker: Maker,
    under_way: VecDeque<UnderWay>,
    /// Messages under way.
    waiting: u64,
    acknowledged: u64,
    part: Part,
}

impl<'a> Publishing<'a> {
    pub(super) fn new(shared: &'a Shared, number: usize) -> Self {
        let load = &shared.load;
        Self {
            shared,
            number,
            schedule: Schedule::new(load.parameters.rate, load.publishers(), number),
            maker: Maker::new(number, load.sizes()),
            under_way: VecDeque::new(),
            waiting: 0,
            acknowledged: 0,
            part: Part::new(shared),
        }
    }

    /// Publishes until the run is over and all is acknowledged.
    pub(super) fn run(mut self, publisher: &mut dyn Publish) -> Result<Part, Failure> {
        if self.schedule.is_some() {
            // Without it a sleep takes 50 microseconds more; where it is refused, it does.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        loop {
            let now_ns = self.shared.now_ns();
            let over = now_ns >= self.shared.end_ns || self.shared.has_failed();
            let count = if over { 0 } else { self.sendable(now_ns) };
            if count > 0 {
                self.send(publisher, now_ns, count)?;
            }
            if over && self.waiting == 0 {
                self.count_unsent();
                return Ok(self.part);
            }
            let (sleep, wait) = self.pause(over, count > 0);
            if !sleep.is_zero() {
                thread::sleep(sleep);
                // What is due goes before acknowledgements are looked for.
                continue;
            }
            let acknowledged = publisher.acknowledged(wait)?;
            if acknowledged > 0 {
                self.note(acknowledged);
            }
        }
    }

    /// What was due before the end and did not get its turn is late, not gone.
    fn count_unsent(&mut self) {
        let Some(schedule) = &self.schedule else {
            return;
        };
        let (now_ns, sent) = (self.shared.now_ns(), self.maker.sequence());
        let due = schedule.due(self.shared.end_ns, sent);
        for sequence in sent..sent + due {
            let times = (now_ns, schedule.due_ns(sequence));
            self.part.count_unsent(self.shared, times);
        }
    }

    /// How many messages may go now: whole batches, as far as the window has room.
    fn sendable(&self, now_ns: u64) -> u64 {
        let asked = &self.shared.load.parameters;
        let window = asked.window.max(asked.batch);
        let room = (window as u64).saturating_sub(self.waiting);
        let together = asked.batch.max(TOGETHER.min(window)) as u64;
        let wanted = match &self.schedule {
            Some(schedule) => schedule.due(now_ns, self.maker.sequence()),
            None => together,
        };
        let wanted = wanted.min(room).min(together);
        wanted - wanted % asked.batch.max(1) as u64
    }

    fn send(
        &mut self,
        publisher: &mut dyn Publish,
        now_ns: u64,
        count: u64,
    ) -> Result<(), Failure> {
        let schedule = self.schedule.as_ref();
        let due_ns = |sequence| schedule.map_or(now_ns, |schedule| schedule.due_ns(sequence));
        let (messages, message_bytes) = self.maker.make(count as usize, due_ns);
        publisher.send(messages, message_bytes)?;
        self.under_way.push_back(UnderWay {
            sent_ns: now_ns,
            count,
            message_bytes: message_bytes as u64,
        });
        self.waiting += count;
        Ok(())
    }

    /// How long to sleep, then how long to wait for acknowledgements.
    fn pause(&self, over: bool, sent: bool) -> (Duration, Duration) {
        const LONG: Duration = Duration::from_secs(1);
        let asked = &self.shared.load.parameters;
        let room = (asked.window.max(asked.batch) as u64).saturating_sub(self.waiting);
        let full = room < asked.batch as u64;
        let Some(schedule) = &self.schedule else {
            let wait = if over || full { LONG } else { Duration::ZERO };
            return (Duration::ZERO, wait);
        };
        if over || full {
            return (Duration::ZERO, LONG);
        }
        if sent {
            return (Duration::ZERO, Duration::ZERO);
        }
        let last = self.maker.sequence() + asked.batch as u64 - 1;
        let until = schedule.until(last, self.shared.now_ns());
        if self.waiting > 0 && self.shared.load.course == Course::Publish {
            // The latency is to the acknowledgement: it is waited for.
            (Duration::ZERO, until)
        } else {
            (until, Duration::ZERO)
        }
    }

    fn note(&mut self, acknowledged: u64) {
        let now_ns = self.shared.now_ns();
        let timed = self.shared.load.course == Course::Publish;
        let mut left = acknowledged;
        while let Some(oldest) = self.under_way.front_mut()
            && left > 0
        {
            let taken = left.min(oldest.count);
            let bytes = oldest.message_bytes;
            match &self.schedule {
                _ if !timed => {}
                None => {
                    let times = (now_ns, oldest.sent_ns);
                    self.part.count(self.shared, times, (taken, taken * bytes));
                }
                Some(schedule) => {
                    let first = self.acknowledged + (acknowledged - left);
                    for sequence in first..first + taken {
                        let times = (now_ns, schedule.due_ns(sequence));
                        self.part.count(self.shared, times, (1, bytes));
                    }
                }
            }
            left -= taken;
            oldest.count -= taken;
            if oldest.count == 0 {
                self.under_way.pop_front();
            }
        }
        self.waiting -= acknowledged;
        self.acknowledged += acknowledged;
        // Relaxed: a count; the last one is read behind `published_all` or a join.
        self.shared.acknowledged[self.number].store(self.acknowledged, Ordering::Relaxed);
    }
}
