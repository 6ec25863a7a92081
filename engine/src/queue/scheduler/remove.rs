//! Taking records out of the queue that nobody was given.

use super::leases::LetGo;
use super::window::{Cell, State};
use super::{Effect, Entry, FarEntry, LeaseNumber, Now, Reason, Scheduler};
use millstream_protocol::Offset;

impl Scheduler {
    /// Settles all below `to` but what is being moved.
    pub(super) fn purge(&mut self, now: Now, to: u64, effects: &mut Vec<Effect>) {
        if to <= self.floor {
            return;
        }
        effects.push(Effect::Journal(Entry::Purged { to: Offset(to) }));
        self.purge_leases(to);
        self.ready.purge(to);
        self.delayed.purge(to);
        let rest: Vec<(u64, State)> = self
            .window
            .unsettled_from(self.floor)
            .take_while(|(offset, _)| *offset < to)
            .map(|(offset, cell)| (offset, cell.state()))
            .filter(|(_, state)| *state != State::Moving)
            .collect();
        self.totals.purged += rest.len() as u64;
        for (offset, state) in rest {
            self.window.settle(offset, state);
        }
        if to > self.next_scan {
            self.purge_unscanned(to);
        }
        self.pass_settled();
        for (group, head) in self.groups.headed_below(to) {
            self.leave_group(now, group, head, effects);
        }
    }

    fn purge_unscanned(&mut self, to: u64) {
        while let Some((&offset, _)) = self.recalled.range(..to).next() {
            self.recalled.remove(&offset);
        }
        while let Some(&offset) = self.moving_ahead.range(..to).next() {
            self.moving_ahead.remove(&offset);
            let cell = Cell::new(State::Moving, 0);
            self.window.set(offset, State::Settled, cell);
        }
        self.next_scan = to;
    }

    fn purge_leases(&mut self, to: u64) {
        let found: Vec<(LeaseNumber, u32)> = self
            .leases
            .iter()
            .filter(|lease| lease.first.offset.0 < to)
            .map(|lease| (lease.number, lease.seat))
            .collect();
        for (number, seat) in found {
            let Some(lease) = self.leases.get(number) else {
                continue;
            };
            let bytes = lease.first.bytes;
            for offset in lease.offsets().take_while(|offset| *offset < to) {
                if let Some(consumer) = self.consumers.get_mut(seat)
                    && let Some(lease) = self.leases.get_mut(number)
                {
                    if lease.let_go(offset) == LetGo::Tidy {
                        self.leases.tidy(number, offset, &mut consumer.leases);
                    }
                    self.consumers.give_room(seat, bytes);
                }
            }
        }
    }

    /// Takes the oldest records out that are ready, as dead letters where those are kept. Fewer when
    /// as many moves are under way as may be.
    pub(super) fn drop_oldest(
        &mut self,
        now: Now,
        messages: u64,
        cause: Reason,
        effects: &mut Vec<Effect>,
    ) {
        for _ in 0..messages {
            if self.moves.len() >= self.bounds.moves_max {
                break;
            }
            let Some(offset) = self.window.first_ready() else {
                break;
            };
            let record = self.find_ready(offset);
            self.bury(now, record, State::Ready, (cause, ""), effects);
        }
        self.tidy_dropped(now, effects);
    }

    /// What is known of the ready record at `offset`. It is taken from the front of its place if it
    /// stands there; else it stays, settled, until it gets there or there are too many of those.
    fn find_ready(&mut self, offset: u64) -> FarEntry {
        let unknown = FarEntry {
            offset: Offset(offset),
            ..super::scan::BLANK
        };
        if self
            .ready
            .first_fresh()
            .is_some_and(|run| run.first == offset)
        {
            self.ready.take_fresh(1);
            return unknown;
        }
        if let Some(super::ready::Next::Single(record)) = self.ready.next()
            && record.offset.0 == offset
        {
            self.ready.pop();
            return record;
        }
        // Of one never delivered nothing is told when it is moved.
        if self.window.get(offset).attempts() == 0 {
            return unknown;
        }
        let mut singles = self.ready.iter_singles();
        let found = singles.find(|record| record.offset.0 == offset).copied();
        // Its group goes on when it is found in the heap, not now.
        let found = found.map(|record| FarEntry { group: 0, ..record });
        found.unwrap_or(unknown)
    }

    /// Clears out what was dropped from the middle of its place, once it is most of what is there.
    fn tidy_dropped(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let live = self.window.count(State::Ready) + self.window.count(State::Delayed);
        let much = 2 * live + 64;
        if self.ready.singles() as u64 > much {
            let window = &self.window;
            let lives = |offset| window.state(offset) == State::Ready;
            for record in self.ready.take_gone(lives) {
                self.leave_group(now, record.group, record.offset.0, effects);
            }
        }
        if self.groups.waiting() > much {
            let window = &self.window;
            self.groups
                .retain(|at| matches!(window.state(at), State::Ready | State::Delayed));
        }
    }
}
