//! Taking in the topic.

use millstream_protocol::Offset;

use super::durable::Attempted;
use super::ready::FreshRun;
use super::window::{Cell, State};
use super::{Effect, Entry, FarEntry, Mode, Now, Scanned, Scheduler};

impl Scheduler {
    /// How many further records it wants to be told of now; 0: enough. Looks four times as far ahead
    /// when somebody has room and all that was found waits behind its group.
    pub(crate) fn wants(&self) -> u64 {
        let ahead = self.ahead();
        let starving = self.ready.len() == 0 && self.consumers.is_anybody_hungry();
        let look_ahead = self.bounds.look_ahead;
        if starving {
            (4 * look_ahead).saturating_sub(ahead)
        } else if ahead > look_ahead / 2 {
            0
        } else {
            look_ahead - ahead
        }
    }

    /// Whether it takes more at all: up to sixteen times what it wants, for who counts all of a topic.
    pub(crate) fn wants_lookahead(&self) -> bool {
        self.ahead() < 16 * self.bounds.look_ahead
    }

    /// Records scanned and not delivered, without those that are delayed on their own.
    fn ahead(&self) -> u64 {
        self.window.count(State::Ready).max(self.groups.waiting())
    }

    /// The first record it was not told of; those settled before a restart are passed over.
    pub(crate) const fn next_scan(&self) -> Offset {
        Offset(self.next_scan)
    }

    /// All below is settled, and nothing below is being moved.
    pub(crate) const fn floor(&self) -> Offset {
        Offset(self.floor)
    }

    /// How many entries of the far store it has room for and wants back now, the first due ones.
    pub(crate) fn wants_near(&self, now: Now) -> usize {
        let near_us = now.wall_us.saturating_add(super::NEAR_AHEAD_US);
        if self.delayed.far_from_us() > near_us {
            return 0;
        }
        self.near_room()
    }

    pub(super) fn near_room(&self) -> usize {
        let look_ahead = usize::try_from(self.bounds.look_ahead).unwrap_or(usize::MAX);
        if self.ready.singles() >= self.delayed.records_max().saturating_add(look_ahead) {
            return 0;
        }
        let max = self.delayed.records_max();
        max.saturating_sub(self.delayed.len())
    }

    /// # Panics
    ///
    /// If a piece begins behind where the last one ended: what lies between would never be delivered.
    pub(super) fn scan(&mut self, now: Now, scanned: Scanned, effects: &mut Vec<Effect>) {
        let (first, next) = match scanned {
            Scanned::Run { first, count, .. } => (first.0, first.0 + u64::from(count)),
            Scanned::One { offset, .. } => (offset.0, offset.0 + 1),
            Scanned::Void { first, next } => (first.0, next.0),
        };
        let expected = self.next_scan;
        assert!(
            first <= expected || first >= next,
            "queue: scanned from {first}, but {expected} comes next"
        );
        let first = first.max(expected);
        if first >= next {
            return;
        }
        match scanned {
            Scanned::Void { .. } => self.scan_void(first, next, effects),
            Scanned::Run {
                bytes_each,
                append_us,
                ..
            } => {
                let record = FarEntry {
                    bytes: bytes_each,
                    append_us,
                    ..BLANK
                };
                self.scan_run(now, (first, next), record, effects);
            }
            Scanned::One {
                bytes,
                append_us,
                group,
                priority,
                due_us,
                expires_us,
                ..
            } => {
                let record = FarEntry {
                    bytes,
                    append_us,
                    group: if self.mode == Mode::Grouped { group } else { 0 },
                    priority: if self.mode == Mode::Prioritised {
                        priority
                    } else {
                        0
                    },
                    due_us,
                    expires_us,
                    ..BLANK
                };
                self.scan_run(now, (first, next), record, effects);
            }
        }
        self.next_scan = next;
        self.pass_settled();
    }

    /// Settles what is not there. A record being moved stays until that is applied.
    fn scan_void(&mut self, first: u64, next: u64, effects: &mut Vec<Effect>) {
        let mut at = first;
        while at < next {
            let moving = self.moving_ahead.range(at..next).next().copied();
            let end = moving.unwrap_or(next);
            push_settled(effects, at, end - at);
            if let Some(offset) = moving {
                self.enter_moving(offset);
            }
            at = end + 1;
        }
        while let Some((&offset, _)) = self.recalled.range(first..next).next() {
            self.recalled.remove(&offset);
        }
    }

    /// Takes in records that are alike, but those settled, attempted or moved before.
    fn scan_run(
        &mut self,
        now: Now,
        (first, next): (u64, u64),
        alike: FarEntry,
        effects: &mut Vec<Effect>,
    ) {
        let mut at = self.settled_ahead.next_outside(first);
        while at < next {
            let record = FarEntry {
                offset: Offset(at),
                ..alike
            };
            if self.moving_ahead.contains(&at) {
                self.enter_moving(at);
                at += 1;
            } else if let Some(attempted) = self.recalled.remove(&at) {
                self.enter(now, recall(record, attempted), effects);
                at += 1;
            } else {
                let end = self.end_of_alike(at, next);
                if alike
                    == (FarEntry {
                        bytes: alike.bytes,
                        append_us: alike.append_us,
                        ..BLANK
                    })
                {
                    self.enter_fresh(at, end, alike);
                } else {
                    self.enter(now, record, effects);
                }
                at = end;
            }
            at = self.settled_ahead.next_outside(at);
        }
    }

    /// Up to where records from `at` on were never touched.
    fn end_of_alike(&self, at: u64, next: u64) -> u64 {
        let settled = self.settled_ahead.first_from(at).map(|(first, _)| first);
        let recalled = self.recalled.range(at..).next().map(|(first, _)| *first);
        let moving = self.moving_ahead.range(at..).next().copied();
        let ends = [settled, recalled, moving, Some(next)];
        ends.into_iter().flatten().min().unwrap_or(next)
    }

    fn enter_fresh(&mut self, first: u64, next: u64, alike: FarEntry) {
        let count = next - first;
        let cell = Cell::new(State::Ready, 0);
        self.window.fill(first, count, State::Settled, cell);
        self.ready.push_run(FreshRun {
            first,
            count,
            bytes_each: alike.bytes,
            append_us: alike.append_us,
        });
    }

    fn enter_moving(&mut self, offset: u64) {
        self.moving_ahead.remove(&offset);
        let cell = Cell::new(State::Moving, 0);
        self.window.set(offset, State::Settled, cell);
    }

    /// Takes in a record that was scanned: behind its group, or out.
    fn enter(&mut self, now: Now, record: FarEntry, effects: &mut Vec<Effect>) {
        if record.group == 0 || self.groups.enter(record) {
            self.put_out(now, record, State::Settled, effects);
            return;
        }
        let state = if record.due_us > now.wall_us {
            State::Delayed
        } else {
            State::Ready
        };
        let cell = Cell::new(state, record.attempts);
        self.window.set(record.offset.0, State::Settled, cell);
    }
}

/// A plain record without size or age.
pub(super) const BLANK: FarEntry = FarEntry {
    due_us: 0,
    offset: Offset(0),
    first_us: 0,
    last_us: 0,
    append_us: 0,
    expires_us: 0,
    group: 0,
    bytes: 0,
    attempts: 0,
    priority: 0,
};

/// A record as it was found, with what was counted of it before.
const fn recall(record: FarEntry, attempted: Attempted) -> FarEntry {
    FarEntry {
        due_us: attempted.due_us,
        attempts: attempted.attempts,
        first_us: attempted.first_us,
        last_us: attempted.last_us,
        ..record
    }
}

/// Appends an entry for settled records; one that they follow is made longer.
pub(super) fn push_settled(effects: &mut Vec<Effect>, first: u64, records: u64) {
    if records == 0 {
        return;
    }
    if let Some(Effect::Journal(Entry::Settled { first: last, count })) = effects.last_mut()
        && last.0 + *count == first
    {
        *count += records;
        return;
    }
    effects.push(Effect::Journal(Entry::Settled {
        first: Offset(first),
        count: records,
    }));
}
