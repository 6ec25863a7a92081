//! Giving records out, in turn.

use super::leases::NewLease;
use super::ready::{FreshRun, Next};
use super::scan::{BLANK, push_settled};
use super::window::{Cell, State};
use super::{DeadLetters, Effect, FarEntry, Grant, Now, OnExpiry, Reason, Scheduler};
use millstream_protocol::Offset;

/// Records that one consumer gets before it is the next one's turn.
const QUANTUM_MAX: u64 = 256;

/// What a turn may still give.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    seat: u32,
    messages: u32,
    /// The last record may go over.
    bytes: u64,
    lease_us: u64,
}

impl Scheduler {
    /// Gives out records while there are any, somebody has room, and the bounds allow it.
    pub(crate) fn deliver(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let (mut turns, mut share) = (0, 1);
        while self.may_deliver() {
            if turns == 0 {
                // Everybody in line has a turn before it is shared anew.
                turns = self.consumers.hungry() as u64;
                share = (self.ready.len() / turns.max(1)).max(1);
            }
            turns -= 1;
            let Some(seat) = self.consumers.next_hungry() else {
                break;
            };
            if self.serve(now, seat, share, effects) == 0 {
                // Nothing was left but what expired, or a bound was met.
                self.consumers.keep_turn(seat);
                break;
            }
            self.consumers.feed(seat);
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
            assert!(!self.may_deliver(), "ready, and somebody has room");
        }
    }

    /// Clears out times of what is gone; after each that is added.
    pub(super) fn tidy_timers(&mut self) {
        let pulls = self.consumers.waiting_receives();
        let consumers = &self.consumers;
        self.leases
            .tidy_timers(pulls, |id, number| consumers.waits(id, number));
    }

    fn may_deliver(&self) -> bool {
        !self.paused
            && self.ready.len() > 0
            && self.consumers.hungry() > 0
            && !self.leases.is_full()
            && self.moves.len() < self.bounds.moves_max
    }

    /// A consumer's turn: its first pull, else what its window takes. Returns the records given.
    fn serve(&mut self, now: Now, seat: u32, share: u64, effects: &mut Vec<Effect>) -> u32 {
        let Some(consumer) = self.consumers.get(seat) else {
            return 0;
        };
        let lease_us = match consumer.lease_us {
            0 => self.policy.lease_us,
            lease_us => lease_us,
        };
        let id = consumer.id;
        let Some(receive) = consumer.receives.front().copied() else {
            let quantum = u32::try_from(share.min(QUANTUM_MAX)).unwrap_or(1);
            let allowance = Allowance {
                seat,
                messages: consumer.room().min(quantum),
                bytes: consumer.room_bytes(),
                lease_us,
            };
            return self.give(now, allowance, effects);
        };
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let allowance = Allowance {
            seat,
            messages: receive.messages.min(share),
            bytes: receive.bytes.max(1),
            lease_us: match receive.lease_us {
                0 => lease_us,
                lease_us => lease_us,
            },
        };
        let granted = self.give(now, allowance, effects);
        if granted > 0 {
            self.consumers.end_receive(id, receive.number);
            effects.push(Effect::ReceiveOver {
                consumer: id,
                granted,
            });
        }
        granted
    }

    /// Gives records until the allowance or what is ready is used up; returns how many.
    fn give(&mut self, now: Now, mut allowance: Allowance, effects: &mut Vec<Effect>) -> u32 {
        let mut given = 0;
        while allowance.messages > 0
            && allowance.bytes > 0
            && !self.leases.is_full()
            && self.moves.len() < self.bounds.moves_max
        {
            let Some(next) = self.ready.next() else {
                break;
            };
            let (first, count) = match next {
                Next::Single(record) => {
                    self.ready.pop();
                    if !self.is_deliverable(now, record, effects) {
                        continue;
                    }
                    (record, 1)
                }
                Next::Fresh(run) => {
                    if self.is_expired(now, run.append_us, 0) {
                        self.expire_fresh(now, run, effects);
                        continue;
                    }
                    let records = run.count.min(u64::from(allowance.messages));
                    let fit = allowance.bytes.div_ceil(u64::from(run.bytes_each.max(1)));
                    let count = records.min(fit);
                    self.ready.take_fresh(count);
                    // At most a lease's records.
                    (plain(run), count as u32)
                }
            };
            self.lease(now, allowance, first, count, effects);
            given += count;
            allowance.messages -= count;
            let bytes = u64::from(first.bytes) * u64::from(count);
            allowance.bytes = allowance.bytes.saturating_sub(bytes);
        }
        given
    }

    /// Whether a record from the heap is still to be delivered. If not, it is seen to.
    fn is_deliverable(&mut self, now: Now, record: FarEntry, effects: &mut Vec<Effect>) -> bool {
        if self.window.state(record.offset.0) != State::Ready {
            self.leave_group(now, record.group, record.offset.0, effects);
            return false;
        }
        if self.is_expired(now, record.append_us, record.expires_us) {
            self.bury(now, record, State::Ready, (Reason::Expired, ""), effects);
            return false;
        }
        true
    }

    fn is_expired(&self, now: Now, append_us: u64, expires_us: u64) -> bool {
        let age_max_us = self.policy.age_max_us;
        let too_old = age_max_us > 0 && append_us.saturating_add(age_max_us) <= now.wall_us;
        too_old || (expires_us > 0 && expires_us <= now.wall_us)
    }

    /// A run of plain records is too old.
    fn expire_fresh(&mut self, now: Now, run: FreshRun, effects: &mut Vec<Effect>) {
        let moved = self.policy.expired == OnExpiry::DeadLetter
            && self.policy.dead_letters == DeadLetters::Kept;
        if !moved {
            self.ready.take_fresh(run.count);
            let cell = Cell::new(State::Settled, 0);
            self.window.fill(run.first, run.count, State::Ready, cell);
            self.raise_floor_over(run.first);
            push_settled(effects, run.first, run.count);
            self.totals.expired += run.count;
            self.totals.dropped += run.count;
            return;
        }
        let records = run
            .count
            .min((self.bounds.moves_max - self.moves.len()) as u64);
        self.ready.take_fresh(records);
        for offset in run.first..run.first + records {
            let record = FarEntry {
                offset: Offset(offset),
                ..plain(run)
            };
            self.bury(now, record, State::Ready, (Reason::Expired, ""), effects);
        }
    }

    /// Leases `count` records from `first` on, which are ready.
    fn lease(
        &mut self,
        now: Now,
        allowance: Allowance,
        first: FarEntry,
        count: u32,
        effects: &mut Vec<Effect>,
    ) {
        let Some(consumer) = self.consumers.get_mut(allowance.seat) else {
            return;
        };
        let until_boot_us = now.boot_us.saturating_add(allowance.lease_us);
        let new = NewLease {
            consumer: consumer.id,
            seat: allowance.seat,
            first,
            count,
            until_boot_us,
            lease_us: allowance.lease_us,
            delivered_us: now.wall_us,
        };
        let Some(lease) = self.leases.insert(new, &mut consumer.leases) else {
            return;
        };
        consumer.held_messages += count;
        consumer.held_bytes += u64::from(first.bytes) * u64::from(count);
        let id = consumer.id;
        self.tidy_timers();
        let cell = Cell::new(State::Leased, first.attempts.saturating_add(1));
        let records = u64::from(count);
        self.window
            .fill(first.offset.0, records, State::Ready, cell);
        self.totals.delivered += records;
        effects.push(Effect::Deliver(Grant {
            consumer: id,
            first: first.offset,
            count,
            attempts: cell.attempts(),
            lease,
            until_boot_us,
            first_us: first.first_us,
        }));
    }

    pub(super) fn raise_floor_over(&mut self, first: u64) {
        if first == self.floor {
            self.floor = self.window.next_unsettled(first, self.next_scan);
        }
    }
}

const fn plain(run: FreshRun) -> FarEntry {
    FarEntry {
        offset: Offset(run.first),
        bytes: run.bytes_each,
        append_us: run.append_us,
        ..BLANK
    }
}
