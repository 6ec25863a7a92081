//! Decides who gets which record of a queue, and when: a state machine without clock, file or thread.
//!
//! ```text
//!  topic ──Scanned──▶ ┌───────────┐ ──Deliver──▶ consumers
//!  consumers ──Settle▶│ Scheduler │ ──Journal──▶ what must last (`Durable` is its fold)
//!  time ──Tick──────▶ └───────────┘ ──Far/Near─▶ what is due late, kept on disk
//! ```
//! The same inputs give the same effects and state. Two bytes a record above the floor (`window`);
//! all else that is known of a record travels with where it is: a run of plain records or the heap
//! (`ready`), a lease (`leases`), the delayed (`delayed`), behind its group (`groups`).
//!
//! Attempts count deliveries that ended in a retry, an expired lease or a lost connection; what is
//! given back, and what a restart finds with a consumer, is as it was before.

use std::collections::{BTreeMap, BTreeSet};

mod consumers;
mod delayed;
mod deliver;
mod durable;
mod effect;
mod entry;
mod groups;
mod input;
mod leases;
mod policy;
mod ready;
mod remove;
mod report;
mod runs;
mod scan;
mod settle;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod tests;
mod window;

pub(crate) use durable::{Durable, PendingMove};
pub(crate) use effect::{Effect, FarEntry, Grant, SettleRefusal, Wake};
pub(crate) use entry::{Entry, Reason};
pub(crate) use input::{Acks, ConsumerId, Detached, Input, LeaseNumber, Scanned, Settle, Verb};
pub(crate) use policy::{Backoff, DeadLetters, Mode, Now, OnExpiry, Policy};
pub(crate) use report::{Counts, Totals};
pub(crate) use window::State;

use consumers::Consumers;
use delayed::Delayed;
use durable::Attempted;
use groups::Groups;
use leases::{LEASES_MAX, Leases, Timer};
use ready::Ready;
use runs::Runs;
use window::{Cell, Window};

/// Entries of the far store come back this long before they are due.
const NEAR_AHEAD_US: u64 = 10_000_000;

/// How much a scheduler keeps in memory.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Delayed records; the half due last of more goes to the far store.
    delayed_max: usize,
    /// Records scanned and not delivered that it asks for.
    look_ahead: u64,
    /// Moves under way; with more, nothing is delivered until some arrived.
    moves_max: usize,
    leases_max: usize,
}

impl Bounds {
    const fn of(mode: Mode) -> Self {
        Self {
            delayed_max: 131_072,
            look_ahead: match mode {
                Mode::Plain => 65_536,
                // A blocked group, or many of low priority, must not hide what lies behind.
                Mode::Grouped | Mode::Prioritised => 262_144,
            },
            moves_max: 65_536,
            leases_max: LEASES_MAX,
        }
    }
}

/// The state of one queue. See the [module](self).
#[derive(Debug)]
pub(crate) struct Scheduler {
    mode: Mode,
    policy: Policy,
    bounds: Bounds,
    paused: bool,
    /// All below is settled, and nothing below is being moved.
    floor: u64,
    /// The topic was scanned up to here; settled ones that follow are passed over already.
    next_scan: u64,
    window: Window,
    /// Settled behind `next_scan`, from before a restart.
    settled_ahead: Runs,
    /// Attempted behind `next_scan`, from before a restart.
    recalled: BTreeMap<u64, Attempted>,
    /// Being moved, behind `next_scan`.
    moving_ahead: BTreeSet<u64>,
    moves: BTreeMap<u64, PendingMove>,
    next_move: u64,
    ready: Ready,
    delayed: Delayed,
    groups: Groups,
    leases: Leases,
    consumers: Consumers,
    totals: Totals,
}

impl Scheduler {
    /// A scheduler that goes on from what lasted: nothing is leased, and all above the floor waits
    /// to be scanned.
    pub(crate) fn new(mode: Mode, policy: Policy, durable: &Durable) -> Self {
        Self::bounded(mode, policy, durable, Bounds::of(mode))
    }

    fn bounded(mode: Mode, policy: Policy, durable: &Durable, bounds: Bounds) -> Self {
        let moving = durable.moves.values().map(|moved| moved.offset.0);
        Self {
            mode,
            policy,
            bounds,
            paused: false,
            floor: durable.floor,
            next_scan: durable.floor,
            window: Window::default(),
            settled_ahead: durable.settled.clone(),
            recalled: durable.attempted.clone(),
            moving_ahead: moving.collect(),
            moves: durable.moves.clone(),
            next_move: durable.next_move,
            ready: Ready::default(),
            delayed: Delayed::new(bounds.delayed_max),
            groups: Groups::default(),
            leases: Leases::new(bounds.leases_max),
            consumers: Consumers::default(),
            totals: Totals::default(),
        }
    }

    /// Takes in what happened at `now` and appends what is to be done about it. Then delivers as long
    /// as somebody has room.
    pub(crate) fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        self.absorb(now, input, effects);
        self.deliver(now, effects);
    }

    /// As [`step`](Self::step), but delivers nothing: who takes in many settles at once calls
    /// [`deliver`](Self::deliver) behind the last, and gets runs instead of single records.
    pub(crate) fn absorb(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Settle { consumer, settle } => self.settle(now, consumer, settle, effects),
            Input::Acks { consumer, acks } => self.ack_together(now, consumer, acks, effects),
            Input::Scanned(scanned) => self.scan(now, scanned, effects),
            Input::Attach { consumer, lease_us } => self.consumers.attach(consumer, lease_us),
            Input::Detach { consumer, cause } => self.detach(now, consumer, cause, effects),
            Input::Window {
                consumer,
                messages,
                bytes,
            } => {
                if let Some(seat) = self.consumers.seat_of(consumer) {
                    self.consumers.set_window(seat, messages, bytes);
                }
            }
            Input::Receive {
                consumer,
                messages,
                bytes,
                until_boot_us,
                lease_us,
            } => {
                let receive = consumers::Receive {
                    number: 0,
                    messages,
                    bytes,
                    lease_us,
                };
                self.receive(consumer, receive, until_boot_us, effects);
            }
            Input::Tick => self.tick(now, effects),
            Input::Pause => self.paused = true,
            Input::Resume => self.paused = false,
            Input::SetPolicy(policy) => self.policy = policy,
            Input::Purge { to } => self.purge(now, to.0, effects),
            Input::DropOldest { messages, cause } => {
                self.drop_oldest(now, messages, cause, effects);
            }
            Input::Applied { through } => self.applied(through, effects),
            Input::Near {
                entries,
                horizon_wall_us,
            } => self.near(now, entries, horizon_wall_us, effects),
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Ends leases and pulls whose time has come, and makes ready what is due.
    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(timer) = self.leases.pop_due(now.boot_us) {
            match timer {
                Timer::Lease(number) => {
                    for offset in self.leases.ending(number) {
                        self.expire_lease(now, number, offset, effects);
                    }
                }
                Timer::Extended(number, offset) => {
                    self.expire_lease(now, number, offset, effects);
                }
                Timer::Receive(consumer, number) => {
                    if self.consumers.end_receive(consumer, number).is_some() {
                        effects.push(Effect::ReceiveOver {
                            consumer,
                            granted: 0,
                        });
                    }
                }
            }
        }
        while let Some(record) = self.delayed.pop_due(now.wall_us) {
            if self.window.state(record.offset.0) == State::Delayed {
                self.put_out(now, record, State::Delayed, effects);
            }
        }
    }

    /// Lines up a pull, or ends it at once when it asks for nothing or too many wait.
    fn receive(
        &mut self,
        consumer: ConsumerId,
        receive: consumers::Receive,
        until_boot_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        let number = match self.consumers.seat_of(consumer) {
            Some(seat) if receive.messages > 0 => self.consumers.add_receive(seat, receive),
            _ => None,
        };
        if let Some(number) = number {
            let timer = Timer::Receive(consumer, number);
            self.leases.add_timer(until_boot_us, timer);
            self.tidy_timers();
        } else {
            effects.push(Effect::ReceiveOver {
                consumer,
                granted: 0,
            });
        }
    }

    /// Puts a record where it belongs by its due time: among the ready or the delayed.
    fn put_out(&mut self, now: Now, record: FarEntry, from: State, effects: &mut Vec<Effect>) {
        let offset = record.offset.0;
        if record.due_us <= now.wall_us {
            let cell = Cell::new(State::Ready, record.attempts);
            self.window.set(offset, from, cell);
            self.ready.push(record);
            return;
        }
        let cell = Cell::new(State::Delayed, record.attempts);
        self.window.set(offset, from, cell);
        self.delayed.push(record);
        if let Some(entries) = self.delayed.overflow() {
            for entry in &entries {
                let cell = Cell::new(State::Far, entry.attempts);
                self.window.set(entry.offset.0, State::Delayed, cell);
            }
            effects.push(Effect::Far { entries });
        }
    }

    /// The record at `offset` no longer holds up its group: the next one is out.
    fn leave_group(&mut self, now: Now, group: u64, offset: u64, effects: &mut Vec<Effect>) {
        if group == 0 {
            return;
        }
        let window = &self.window;
        let lives = |at| matches!(window.state(at), State::Ready | State::Delayed);
        if let Some(next) = self.groups.advance(group, offset, lives) {
            let from = self.window.state(next.offset.0);
            self.put_out(now, next, from, effects);
        }
    }

    /// Takes back what the far store kept. What was purged meanwhile is passed over.
    fn near(
        &mut self,
        now: Now,
        entries: Vec<FarEntry>,
        horizon_wall_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        // What is still on its way to the far store is not in its horizon.
        let under_way = effects.iter().filter_map(|effect| match effect {
            Effect::Far { entries } => entries.iter().map(|entry| entry.due_us).min(),
            _ => None,
        });
        let far_from_us = under_way.min().unwrap_or(u64::MAX).min(horizon_wall_us);
        self.delayed.set_far_from(far_from_us);
        for entry in entries {
            let cell = self.window.get(entry.offset.0);
            if cell == Cell::new(State::Far, entry.attempts) {
                self.put_out(now, entry, State::Far, effects);
            }
        }
    }

    /// The moves up to `through` have arrived: what they moved is settled.
    fn applied(&mut self, through: u64, effects: &mut Vec<Effect>) {
        let mut any = false;
        while let Some(first) = self.moves.first_entry()
            && *first.key() <= through
        {
            any = true;
            let offset = first.remove().offset.0;
            if self.moving_ahead.remove(&offset) {
                self.settled_ahead.insert(offset, offset + 1);
            } else {
                self.window.settle(offset, State::Moving);
                self.raise_floor(offset);
            }
        }
        if any {
            self.pass_settled();
            effects.push(Effect::Journal(Entry::Applied { through }));
        }
    }

    /// Raises the floor if the record at `offset`, which was just settled, stood on it.
    fn raise_floor(&mut self, offset: u64) {
        if offset != self.floor {
            return;
        }
        let next = offset + 1;
        if next < self.next_scan && self.window.state(next) != State::Settled {
            self.floor = next;
        } else {
            self.floor = self.window.next_unsettled(next, self.next_scan);
        }
    }

    /// Passes over what was settled before, where the scan stands and where the floor is.
    fn pass_settled(&mut self) {
        self.next_scan = self.settled_ahead.next_outside(self.next_scan);
        self.settled_ahead.cut_below(self.next_scan);
        self.floor = self.window.next_unsettled(self.floor, self.next_scan);
    }

    /// Looks whether the parts agree. Counts everything again where that is cheap.
    fn check_invariants(&self) {
        let (floor, next_scan) = (self.floor, self.next_scan);
        assert!(floor <= next_scan, "floor {floor} above {next_scan}");
        assert!(
            floor == next_scan || self.window.state(floor) != State::Settled,
            "the record on the floor {floor} is settled"
        );
        let moving = self.window.count(State::Moving) + self.moving_ahead.len() as u64;
        assert_eq!(moving, self.moves.len() as u64, "records being moved");
        if self.window.unsettled() <= 32 && self.leases.slots() <= 32 {
            self.check_everything();
        }
    }

    /// Counts everything again.
    fn check_everything(&self) {
        self.window.check();
        self.leases.check();
        self.consumers.check();
        self.groups.check();
        let held: u32 = self
            .leases
            .iter()
            .map(|lease| lease.held.count_ones())
            .sum();
        assert_eq!(u64::from(held), self.window.count(State::Leased), "leased");
        let messages: u32 = self.consumers.iter().map(|one| one.held_messages).sum();
        assert_eq!(messages, held, "held by consumers");
        for lease in self.leases.iter() {
            for offset in lease.offsets() {
                assert_eq!(self.window.state(offset), State::Leased, "record {offset}");
            }
        }
        for (group, head) in self.groups.heads() {
            let out = matches!(
                self.window.state(head),
                State::Ready | State::Leased | State::Delayed | State::Far
            );
            let stale = self.ready.iter_singles().any(|one| one.offset.0 == head);
            assert!(out || stale, "group {group} waits for nothing");
        }
    }
}
