//! What becomes of deliveries.

use super::durable::PendingMove;
use super::entry::cut;
use super::leases::LetGo;
use super::policy::ATTEMPTS_MAX;
use super::scan::push_settled;
use super::window::State;
use super::{
    Acks, Cell, ConsumerId, DeadLetters, Detached, Effect, Entry, FarEntry, LeaseNumber, Now,
    OnExpiry, Reason, Scheduler, Settle, SettleRefusal, Verb,
};

/// What a delivery was, once it is taken from its consumer.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// As it was before this delivery.
    record: FarEntry,
    delivered_us: u64,
}

impl Taken {
    /// The record with this delivery counted.
    fn counted(self) -> FarEntry {
        let first = self.record.attempts == 0;
        FarEntry {
            attempts: self.record.attempts.saturating_add(1).min(ATTEMPTS_MAX),
            first_us: if first {
                self.delivered_us
            } else {
                self.record.first_us
            },
            last_us: self.delivered_us,
            ..self.record
        }
    }
}

impl Scheduler {
    /// Settles one record, if the lease is the one it is held under.
    pub(super) fn settle(
        &mut self,
        now: Now,
        consumer: ConsumerId,
        settle: Settle,
        effects: &mut Vec<Effect>,
    ) {
        let (offset, number) = (settle.offset.0, settle.lease);
        let lease = self.leases.get(number);
        let held = lease.is_some_and(|lease| lease.holds(consumer, offset));
        let mut result = Err(SettleRefusal::LeaseLost);
        if held {
            self.settle_held(now, number, offset, settle.verb, effects);
            result = Ok(());
        } else {
            self.totals.lease_lost += 1;
        }
        if result.is_err() || settle.tag != 0 {
            effects.push(Effect::Settled {
                consumer,
                tag: settle.tag,
                count: 1,
                result,
            });
        }
    }

    /// Settles records of one lease that were acknowledged: all at once where nothing is particular
    /// about any of them.
    pub(super) fn ack_together(
        &mut self,
        now: Now,
        consumer: ConsumerId,
        acks: Acks,
        effects: &mut Vec<Effect>,
    ) {
        let number = acks.lease;
        let lease = self.leases.get_mut(number);
        let alike = lease.and_then(|lease| Some((lease.bits_alike(consumer, acks)?, lease)));
        let Some((bits, lease)) = alike else {
            for settle in acks.settles() {
                self.settle(now, consumer, settle, effects);
            }
            return;
        };
        lease.held &= !bits;
        let (seat, over, first) = (lease.seat, lease.held == 0, lease.first);
        if over && let Some(consumer) = self.consumers.get_mut(seat) {
            self.leases
                .tidy(number, first.offset.0, &mut consumer.leases);
        }
        let records = bits.count_ones();
        self.consumers.give_room_of(seat, records, first.bytes);
        let attempts = first.attempts.saturating_add(1);
        self.totals.ack(u64::from(records), attempts);
        let mut left = bits;
        while left != 0 {
            let at = left.trailing_zeros();
            let count = u64::from((left >> at).trailing_ones());
            self.finish_run(first.offset.0 + u64::from(at), count, effects);
            // The lowest run of ones is carried away.
            left &= left.wrapping_add(1 << at);
        }
        if acks.tag != 0 {
            effects.push(Effect::Settled {
                consumer,
                tag: acks.tag,
                count: records,
                result: Ok(()),
            });
        }
    }

    /// Records that were with a consumer, and are in no group, are done with.
    fn finish_run(&mut self, first: u64, count: u64, effects: &mut Vec<Effect>) {
        let cell = Cell::new(State::Settled, 0);
        self.window.fill(first, count, State::Leased, cell);
        self.raise_floor_over(first);
        push_settled(effects, first, count);
    }

    fn settle_held(
        &mut self,
        now: Now,
        number: LeaseNumber,
        offset: u64,
        verb: Verb,
        effects: &mut Vec<Effect>,
    ) {
        match verb {
            Verb::Ack => {
                if let Some(taken) = self.take(number, offset) {
                    self.totals.ack(1, taken.record.attempts.saturating_add(1));
                    self.finish(now, &taken.record, effects);
                }
            }
            Verb::Extend { lease_us } => self.extend(now, number, offset, lease_us),
            Verb::Retry => self.retry(now, number, offset, None, effects),
            Verb::RetryAfter { delay_us } => {
                self.retry(now, number, offset, Some(delay_us), effects);
            }
            Verb::Reject { reason } => {
                self.totals.rejected += 1;
                self.bury_taken(now, number, offset, (Reason::Rejected, &reason), effects);
            }
            Verb::Redrive => {
                self.bury_taken(now, number, offset, (Reason::Redriven, ""), effects);
            }
            Verb::Release => {
                if let Some(taken) = self.take(number, offset) {
                    self.give_back(now, taken, effects);
                }
            }
            Verb::Gone => {
                if let Some(taken) = self.take(number, offset) {
                    self.totals.damaged += 1;
                    self.finish(now, &taken.record, effects);
                }
            }
        }
    }

    fn extend(&mut self, now: Now, number: LeaseNumber, offset: u64, lease_us: u64) {
        if let Some(lease) = self.leases.get(number) {
            let lease_us = if lease_us == 0 {
                lease.lease_us
            } else {
                lease_us
            };
            let until_boot_us = now.boot_us.saturating_add(lease_us);
            self.leases.extend(number, offset, until_boot_us);
            self.tidy_timers();
        }
    }

    /// Takes a record from its consumer, which holds it. It stays `Leased` in the window.
    fn take(&mut self, number: LeaseNumber, offset: u64) -> Option<Taken> {
        let lease = self.leases.get_mut(number)?;
        let taken = Taken {
            record: lease.record(offset),
            delivered_us: lease.delivered_us,
        };
        let seat = lease.seat;
        if lease.let_go(offset) == LetGo::More {
            self.consumers.give_room(seat, taken.record.bytes);
            return Some(taken);
        }
        let consumer = self.consumers.get_mut(seat)?;
        self.leases.tidy(number, offset, &mut consumer.leases);
        self.consumers.give_room(seat, taken.record.bytes);
        Some(taken)
    }

    /// A record that was with a consumer is done with.
    fn finish(&mut self, now: Now, record: &FarEntry, effects: &mut Vec<Effect>) {
        let offset = record.offset.0;
        self.window.settle(offset, State::Leased);
        self.raise_floor(offset);
        push_settled(effects, offset, 1);
        self.leave_group(now, record.group, offset, effects);
    }

    /// A delivery that never counted: the record is as it was before.
    fn give_back(&mut self, now: Now, taken: Taken, effects: &mut Vec<Effect>) {
        self.totals.released += 1;
        let due = Now {
            // It was due once.
            wall_us: now.wall_us.max(taken.record.due_us),
            ..now
        };
        self.put_out(due, taken.record, State::Leased, effects);
    }

    fn retry(
        &mut self,
        now: Now,
        number: LeaseNumber,
        offset: u64,
        delay_us: Option<u64>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(taken) = self.take(number, offset) else {
            return;
        };
        self.totals.retried += 1;
        let record = taken.counted();
        let backoff = &self.policy.backoff;
        let delay_us = delay_us.unwrap_or_else(|| backoff.delay_us(record.attempts, offset));
        self.again(now, record, delay_us, effects);
    }

    /// The lease of a record ended.
    pub(super) fn expire_lease(
        &mut self,
        now: Now,
        number: LeaseNumber,
        offset: u64,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(taken) = self.take(number, offset) {
            self.totals.lease_expired += 1;
            self.again(now, taken.counted(), 0, effects);
        }
    }

    /// A delivery that counted came to nothing: once more, unless it was the last allowed.
    fn again(&mut self, now: Now, record: FarEntry, delay_us: u64, effects: &mut Vec<Effect>) {
        if self.policy.is_used_up(record.attempts) {
            let why = (Reason::MaxDeliveries, "");
            return self.bury(now, record, State::Leased, why, effects);
        }
        let due_us = match delay_us {
            0 => 0,
            delay_us => now.wall_us.saturating_add(delay_us),
        };
        let record = FarEntry { due_us, ..record };
        effects.push(Effect::Journal(Entry::Attempted {
            offset: record.offset,
            attempts: record.attempts,
            due_us,
            first_us: record.first_us,
            last_us: record.last_us,
        }));
        self.put_out(now, record, State::Leased, effects);
    }

    fn bury_taken(
        &mut self,
        now: Now,
        number: LeaseNumber,
        offset: u64,
        why: (Reason, &str),
        effects: &mut Vec<Effect>,
    ) {
        if let Some(taken) = self.take(number, offset) {
            self.bury(now, taken.counted(), State::Leased, why, effects);
        }
    }

    /// Moves a record elsewhere, or settles it where nothing of the kind is kept.
    pub(super) fn bury(
        &mut self,
        now: Now,
        record: FarEntry,
        from: State,
        (why, text): (Reason, &str),
        effects: &mut Vec<Effect>,
    ) {
        let kept = self.policy.dead_letters == DeadLetters::Kept;
        let moved = match why {
            Reason::Redriven => true,
            Reason::Expired => kept && self.policy.expired == OnExpiry::DeadLetter,
            Reason::MaxDeliveries | Reason::Rejected | Reason::LimitReached => kept,
        };
        self.totals.bury(why, moved);
        let offset = record.offset.0;
        if moved {
            self.begin_move(record, from, (why, text), effects);
        } else {
            self.window.settle(offset, from);
            self.raise_floor(offset);
            push_settled(effects, offset, 1);
        }
        self.leave_group(now, record.group, offset, effects);
    }

    fn begin_move(
        &mut self,
        record: FarEntry,
        from: State,
        (why, text): (Reason, &str),
        effects: &mut Vec<Effect>,
    ) {
        let cell = Cell::new(State::Moving, record.attempts);
        self.window.set(record.offset.0, from, cell);
        let moved = PendingMove {
            number: self.next_move,
            offset: record.offset,
            attempts: record.attempts,
            first_us: record.first_us,
            last_us: record.last_us,
            why,
            text: cut(text).into(),
        };
        self.next_move += 1;
        effects.push(Effect::Journal(moved.entry()));
        self.moves.insert(moved.number, moved);
    }

    /// A consumer went: what it held is given back, or counted.
    pub(super) fn detach(
        &mut self,
        now: Now,
        consumer: ConsumerId,
        cause: Detached,
        effects: &mut Vec<Effect>,
    ) {
        let Some(seat) = self.consumers.seat_of(consumer) else {
            return;
        };
        while let Some(number) = self
            .consumers
            .get(seat)
            .and_then(|consumer| self.leases.first_of(consumer.leases))
        {
            let offsets = self.leases.get(number).map(super::leases::Lease::offsets);
            for offset in offsets.into_iter().flatten() {
                let Some(taken) = self.take(number, offset) else {
                    continue;
                };
                match cause {
                    Detached::Closed => self.give_back(now, taken, effects),
                    Detached::Lost => {
                        self.totals.lease_expired += 1;
                        self.again(now, taken.counted(), 0, effects);
                    }
                }
            }
        }
        self.consumers.detach(seat);
    }
}
