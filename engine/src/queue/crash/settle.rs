//! Consumers: what they are given, how they settle it, and what they hear of that.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millstream_protocol::control::LeaseInfo;

use super::hands::{LEAPS_US, until_down};
use super::life::Life;
use super::model::Known;
use super::observe::known;
use crate::queue::{
    ConsumeError, Consumer, ConsumerOptions, Delivery, SettleError, Settling, Worked,
};

/// A consumer.
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) queue: String,
    pub(super) consumer: Consumer,
}

/// A record with a consumer.
pub(super) struct Held {
    seat: u64,
    queue: String,
    offset: u64,
    lease: u64,
    until_us: u64,
    /// How often it was delivered, this one counted.
    attempts: u64,
    /// Kept where it may be redriven.
    delivery: Option<Delivery>,
}

/// How a record is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Ack,
    Retry,
    Reject,
    Redrive,
    /// What changes nothing that lasts.
    Other,
}

/// A settle whose outcome nobody heard yet.
#[derive(Debug)]
pub(super) struct Pending {
    queue: String,
    offset: u64,
    verb: Verb,
    attempts: u64,
}

impl Life {
    pub(super) fn open_seat(&mut self, queue: &str, prefetch: u32) {
        let lease = Duration::from_millis(self.dice.below(4) * 1500);
        let options = ConsumerOptions::new().prefetch(prefetch).lease(lease);
        let Some(broker) = &self.broker else { return };
        match broker.consumer(queue, options) {
            Ok(consumer) => {
                self.seats.push(Seat {
                    number: self.next_seat,
                    queue: queue.to_owned(),
                    consumer,
                });
                self.next_seat += 1;
            }
            Err(error) => assert!(self.failing || self.folder.is_struck(), "{error}"),
        }
    }

    /// Asks for some records.
    pub(super) fn pull(&mut self) {
        let Some(at) = self.some_seat() else { return };
        let max = 1 + self.dice.below(6) as u32;
        let wait = Duration::from_millis(self.dice.below(2) * 800);
        let consumer = &mut self.seats[at].consumer;
        if !consumer.is_receiving() {
            consumer.begin_receive(max, u64::MAX, wait, Duration::ZERO);
        }
    }

    fn some_seat(&mut self) -> Option<usize> {
        let count = self.seats.len() as u64;
        (count > 0).then(|| self.dice.below(count) as usize)
    }

    /// Takes what has come, of all consumers; gives how many deliveries that were.
    pub(super) fn take(&mut self) -> u64 {
        let mut taken = 0;
        let mut at = 0;
        while at < self.seats.len() {
            let mut cx = Context::from_waker(Waker::noop());
            let work = self.seats[at].consumer.poll_work(&mut cx);
            if self.folder.is_struck() {
                return taken;
            }
            match work {
                Poll::Ready(Some(Ok(Worked::Delivery(delivery)))) => {
                    self.delivered(at, delivery);
                    taken += 1;
                }
                Poll::Ready(Some(Ok(Worked::ReceiveOver))) => {}
                Poll::Ready(Some(Err(error))) => self.seat_ended(at, Some(&error)),
                Poll::Ready(None) => self.seat_ended(at, None),
                Poll::Pending => at += 1,
            }
        }
        taken
    }

    fn seat_ended(&mut self, at: usize, error: Option<&ConsumeError>) {
        let defect =
            matches!(error, Some(ConsumeError::Failed { reason }) if reason.contains("defect"));
        assert!(!defect, "a queue panicked");
        assert!(self.failing, "a queue ended: {error:?}");
        let seat = self.seats.swap_remove(at);
        self.held.retain(|held| held.seat != seat.number);
    }

    /// Checks one delivery, and keeps it.
    fn delivered(&mut self, at: usize, delivery: Delivery) {
        let offset = delivery.offset().0;
        let (seat, name) = (self.seats[at].number, self.seats[at].queue.clone());
        let found = known(delivery.record());
        self.check_record(&name, offset, &found);
        let left_us = delivery.lease_left().as_micros() as u64;
        if left_us > 0 {
            self.check_delivery(&name, &delivery);
        }
        let now_us = self.now_us;
        self.tally.delivered += 1;
        let redrives = name.ends_with(".dead");
        let lease = {
            let token = delivery.token();
            token.lease_number()
        };
        let attempts = u64::from(delivery.attempts());
        let delivery = if redrives {
            Some(delivery)
        } else {
            drop(delivery.into_parts());
            None
        };
        self.held.push(Held {
            seat,
            queue: name,
            offset,
            lease,
            until_us: now_us + left_us,
            attempts,
            delivery,
        });
    }

    /// A delivery under a lease that goes on: the record is this consumer's alone, and is owed.
    fn check_delivery(&mut self, name: &str, delivery: &Delivery) {
        let offset = delivery.offset().0;
        let attempts = u64::from(delivery.attempts());
        let now_us = self.now_us;
        let twice = self
            .held
            .iter()
            .any(|held| held.queue == name && held.offset == offset && held.until_us > now_us);
        assert!(!twice, "{name} {offset} is with two consumers");
        let queue = self.model.queues.get_mut(name).unwrap();
        if queue.job(offset).purged_in_run {
            return;
        }
        let granted = !queue.is_paused || queue.granted.contains(&(offset, attempts));
        assert!(granted, "{name} is paused, and delivers {offset}");
        let max = queue.deliveries_max;
        let job = queue.job(offset);
        assert!(
            !job.done,
            "{name} {offset} was acknowledged for good, and comes again"
        );
        assert!(
            !job.moved,
            "{name} {offset} was moved for good, and comes again"
        );
        assert!(
            !job.ended_in_run,
            "{name} {offset} was settled in this run, and comes again"
        );
        assert!(
            (job.counted_least + 1..=job.counted_most + 1).contains(&attempts),
            "{name} {offset} comes for the {attempts}. time: {job:?}"
        );
        assert!(
            max == 0 || attempts <= max,
            "{name} {offset}: {attempts} deliveries"
        );
        let letter = self.model.letter(name, offset);
        assert_eq!(letter, None, "{name} {offset} died, and comes again");
    }

    /// What is delivered is what stands in the topic.
    fn check_record(&mut self, queue: &str, offset: u64, found: &Known) {
        let topic = self.model.queues[queue].topic.clone();
        if !self.model.topics[&topic].given.contains_key(&offset) {
            self.observe();
        }
        let known = self.model.topics[&topic].given.get(&offset);
        assert_eq!(known, Some(found), "{queue} {offset}");
        let another = self.model.is_for_another(&topic, offset, queue);
        assert!(!another, "{queue} got {offset}, which is for another queue");
    }

    /// Settles one of those that are held, somehow.
    pub(super) fn settle_some(&mut self) {
        let count = self.held.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.dice.below(count) as usize;
        let (how, verb) = match self.dice.below(20) {
            0..=7 => (Settling::Ack, Verb::Ack),
            8..=11 => (Settling::Retry, Verb::Retry),
            12 | 13 => {
                let delay = Duration::from_millis(self.dice.below(2000));
                (Settling::RetryAfter(delay), Verb::Retry)
            }
            14 | 15 => (Settling::Reject("no".into()), Verb::Reject),
            16 | 17 => (Settling::Release, Verb::Other),
            18 => {
                return self.extend(at);
            }
            _ if self.held[at].delivery.is_some() => return self.redrive(at),
            _ => (Settling::Ack, Verb::Ack),
        };
        self.settle(at, how, verb);
    }

    /// Acknowledges all that is held.
    pub(super) fn settle_all(&mut self) {
        while !self.held.is_empty() {
            self.settle(0, Settling::Ack, Verb::Ack);
        }
    }

    fn extend(&mut self, at: usize) {
        let lease = Duration::from_secs(3);
        let held = &mut self.held[at];
        // From now on, which may be sooner than it was; or the queue never hears of it.
        held.until_us = held.until_us.min(self.now_us + lease.as_micros() as u64);
        let held = &self.held[at];
        let seat = self.seats.iter().find(|seat| seat.number == held.seat);
        if let Some(seat) = seat {
            let offset = millstream_protocol::Offset(held.offset);
            seat.consumer
                .settle(offset, held.lease, Settling::Extend(lease), 0);
        }
    }

    fn settle(&mut self, at: usize, how: Settling, verb: Verb) {
        let mut held = self.held.remove(at);
        let keeps_letters = self.model.queues[&held.queue].letters.is_some();
        let verb = match verb {
            // A letter that is rejected goes nowhere.
            Verb::Reject if !keeps_letters => Verb::Ack,
            verb => verb,
        };
        let in_time = self.now_us < held.until_us;
        self.note_settle(&held, verb, in_time);
        let tag = self.next_tag;
        self.next_tag += 1;
        let key = (held.seat, tag);
        let pending = Pending {
            queue: held.queue.clone(),
            offset: held.offset,
            verb,
            attempts: held.attempts,
        };
        self.pending.insert(key, pending);
        if let Some(delivery) = held.delivery.take() {
            drop(delivery.into_parts());
        }
        let seat = self.seats.iter().find(|seat| seat.number == held.seat);
        let seat = seat.expect("its consumer is there");
        let offset = millstream_protocol::Offset(held.offset);
        seat.consumer.settle(offset, held.lease, how, tag);
        if self.dice.once_in(2) {
            seat.consumer.flush_settles();
        }
    }

    /// Sends a dead letter back.
    fn redrive(&mut self, at: usize) {
        let mut held = self.held.remove(at);
        let in_time = self.now_us < held.until_us;
        self.note_settle(&held, Verb::Redrive, in_time);
        let pending = Pending {
            queue: held.queue.clone(),
            offset: held.offset,
            verb: Verb::Redrive,
            attempts: held.attempts,
        };
        if let Some(delivery) = held.delivery.take() {
            let mut redriving: super::life::Redriving = Box::pin(delivery.redrive_confirmed());
            let mut cx = Context::from_waker(Waker::noop());
            match redriving.as_mut().poll(&mut cx) {
                Poll::Ready(told) => self.heard(&pending, told),
                Poll::Pending => self.redriving.push((redriving, pending)),
            }
        }
    }

    fn note_settle(&mut self, held: &Held, verb: Verb, in_time: bool) {
        self.tally.settled += 1;
        let queue = self.model.queues.get_mut(&held.queue).unwrap();
        let job = queue.job(held.offset);
        if verb == Verb::Retry {
            job.may_count(held.attempts);
        }
        match verb {
            Verb::Ack => job.acks += 1,
            Verb::Reject | Verb::Redrive => job.moves += 1,
            Verb::Retry | Verb::Other => return,
        }
        job.ended_in_run |= in_time;
    }

    /// Hears what became of settles.
    pub(super) fn hear(&mut self) {
        if self.folder.is_struck() {
            return;
        }
        self.look_at_clock();
        let mut told = Vec::new();
        for seat in &self.seats {
            while let Some(outcome) = seat.consumer.next_outcome() {
                for tag in outcome.tag..outcome.tag + u64::from(outcome.count) {
                    if let Some(pending) = self.pending.remove(&(seat.number, tag)) {
                        told.push((pending, outcome.result));
                    }
                }
            }
        }
        let mut cx = Context::from_waker(Waker::noop());
        for (mut redriving, pending) in std::mem::take(&mut self.redriving) {
            match redriving.as_mut().poll(&mut cx) {
                Poll::Ready(result) => told.push((pending, result)),
                Poll::Pending => self.redriving.push((redriving, pending)),
            }
        }
        for (pending, result) in told {
            self.heard(&pending, result);
        }
    }

    fn heard(&mut self, pending: &Pending, told: Result<(), SettleError>) {
        let queue = self.model.queues.get_mut(&pending.queue).unwrap();
        let job = queue.job(pending.offset);
        match (told, pending.verb) {
            (Ok(()), Verb::Ack) => job.done = true,
            (Ok(()), Verb::Retry) => job.counted_least = job.counted_least.max(pending.attempts),
            (Ok(()), Verb::Reject | Verb::Redrive) => job.moved = true,
            (Ok(()), Verb::Other) => {}
            (Err(SettleError::LeaseLost), verb) => {
                match verb {
                    Verb::Ack => job.acks -= 1,
                    Verb::Reject | Verb::Redrive => job.moves -= 1,
                    Verb::Retry | Verb::Other => {}
                }
                if job.acks == 0 && job.moves == 0 {
                    job.ended_in_run = false;
                }
            }
            (Err(_), _) => {}
        }
        if told.is_ok() && pending.verb != Verb::Other {
            self.tally.confirmed += 1;
        }
        if told.is_ok() && pending.verb == Verb::Redrive {
            self.tally.redriven += 1;
        }
    }

    /// Time passes: leases that end meanwhile may count, also of records that nobody took yet.
    pub(super) fn pass_time(&mut self, us: u64) {
        self.expect_time(us);
        millstream_storage::hand::set_time_us(self.now_us + us);
        self.look_at_clock();
    }

    pub(super) fn look_at_clock(&mut self) {
        self.now_us = millstream_storage::hand::time_us().unwrap_or(0);
    }

    /// So much time may pass.
    fn expect_time(&mut self, us: u64) {
        let names: Vec<String> = self.model.queues.keys().cloned().collect();
        for name in names {
            for lease in self.leases(&name) {
                if u64::from(lease.left_ms) * 1000 <= us {
                    self.may_count(&name, &lease);
                }
            }
        }
    }

    /// Does what may wait for the disk, or for room on it; `None` where the machine went down.
    pub(super) fn wait_for<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.hands.begin();
        self.expect_time(LEAPS_US);
        let done = until_down(|| run(self));
        self.look_at_clock();
        done
    }

    pub(super) fn leases(&self, queue: &str) -> Vec<LeaseInfo> {
        let Some(broker) = &self.broker else {
            return Vec::new();
        };
        let list = || until_down(|| broker.leases(queue, u32::MAX))?.ok();
        let mut leases = list().unwrap_or_default();
        // The round that answers may deliver behind its answer.
        while let Some(later) = list()
            && later != leases
        {
            leases = later;
        }
        leases
    }

    /// The delivery under this lease may count.
    fn may_count(&mut self, queue: &str, lease: &LeaseInfo) {
        let queue = self.model.queues.get_mut(queue).unwrap();
        let attempts = u64::from(lease.attempts);
        queue.job(lease.offset.0).may_count(attempts);
    }

    /// A consumer leaves: what it holds is given back, or it is lost, and that counts.
    pub(super) fn drop_seat(&mut self) {
        let Some(at) = self.some_seat() else { return };
        let seat = self.seats.swap_remove(at);
        let lost = self.dice.once_in(2);
        if lost && self.failing {
            // What its topic can't give now is with it, too, though it never came.
            for lease in self.leases(&seat.queue) {
                if lease.consumer == seat.consumer.id() {
                    self.may_count(&seat.queue, &lease);
                }
            }
        }
        if lost {
            // What it had counts, and nothing else.
            for held in self.held.iter().filter(|held| held.seat == seat.number) {
                let queue = self.model.queues.get_mut(&held.queue).unwrap();
                queue.job(held.offset).may_count(held.attempts);
            }
        }
        let (gone, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.seat == seat.number);
        self.held = held;
        if !lost {
            drop(gone);
            return drop(seat);
        }
        // Settles that were on their way come too late, and nobody hears it.
        for (_, pending) in self.pending.range((seat.number, 0)..(seat.number + 1, 0)) {
            let queue = self.model.queues.get_mut(&pending.queue).unwrap();
            let job = queue.job(pending.offset);
            job.may_count(pending.attempts);
            job.ended_in_run = false;
        }
        seat.consumer.lose();
        drop(gone);
    }

    /// All consumers leave.
    pub(super) fn leave_seats(&mut self) {
        self.hear();
        self.held.clear();
        self.seats.clear();
    }
}
