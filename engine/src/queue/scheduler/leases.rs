//! Leases: a slab of runs, each with a bit for every record still held, and the times they end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::effect::FarEntry;
use super::input::{Acks, ConsumerId, LeaseNumber};

/// Records of one lease at most: one bit each.
pub(crate) const RUN_MAX: u32 = 64;
/// Low bits of a lease number are its slot, the others how often that was used: in a slot that is
/// taken and left a million times a second they last for half a year, then it is not used again.
const SLOT_BITS: u32 = 20;
const GENERATION_MAX: u64 = (1 << (64 - SLOT_BITS)) - 1;
/// Leases at once; beyond, nothing is delivered until some are settled.
pub(super) const LEASES_MAX: usize = 1 << SLOT_BITS;
/// No slot.
const NONE: u32 = u32::MAX;

/// One run of records with a consumer.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) number: LeaseNumber,
    pub(super) consumer: ConsumerId,
    /// Of the consumer.
    pub(super) seat: u32,
    /// The run's first record as it was before this delivery.
    pub(super) first: FarEntry,
    /// Which are still held: bit n for the n-th of the run.
    pub(super) held: u64,
    pub(super) until_boot_us: u64,
    pub(super) lease_us: u64,
    /// When they were delivered, in wall time.
    pub(super) delivered_us: u64,
    /// How many have a time of their own in `extended`.
    extended: u32,
    before: u32,
    after: u32,
}

impl Lease {
    /// The bit of the record at `offset`; `None` unless it is still held.
    pub(super) fn bit(&self, offset: u64) -> Option<u64> {
        let at = offset.checked_sub(self.first.offset.0)?;
        if at >= u64::from(RUN_MAX) {
            return None;
        }
        let bit = 1 << at;
        (self.held & bit != 0).then_some(bit)
    }

    /// Whether the record at `offset` is held by `consumer`.
    pub(super) fn holds(&self, consumer: ConsumerId, offset: u64) -> bool {
        self.consumer == consumer && self.bit(offset).is_some()
    }

    /// Lets go of the record at `offset`, which is held.
    pub(super) fn let_go(&mut self, offset: u64) -> LetGo {
        self.held &= !self.bit(offset).unwrap_or(0);
        if self.held == 0 || self.extended > 0 {
            LetGo::Tidy
        } else {
            LetGo::More
        }
    }

    /// The bits of the records that `acks` name, if `consumer` holds all of them under this lease and
    /// nothing is to be done for one of them alone: no time of its own, none that waits behind it.
    pub(super) fn bits_alike(&self, consumer: ConsumerId, acks: Acks) -> Option<u64> {
        let plain = self.consumer == consumer && self.extended == 0 && self.first.group == 0;
        let at = acks.first.since(self.first.offset)?;
        if !plain || at >= u64::from(RUN_MAX) {
            return None;
        }
        let bits = acks.bits << at;
        (bits >> at == acks.bits && bits & !self.held == 0).then_some(bits)
    }

    /// The offsets still held, rising.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, mut left) = (self.first.offset.0, self.held);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let at = left.trailing_zeros();
            left &= left - 1;
            Some(first + u64::from(at))
        })
    }

    /// The record at `offset` of this run as it was before its delivery.
    pub(super) fn record(&self, offset: u64) -> FarEntry {
        FarEntry {
            offset: millstream_protocol::Offset(offset),
            ..self.first
        }
    }
}

/// What is to do about a lease that let go of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetGo {
    /// Nothing: it holds others.
    More,
    /// [`Leases::tidy`]: it holds none, or some have a time of their own.
    Tidy,
}

/// What a new lease is made from.
#[derive(Debug)]
pub(super) struct NewLease {
    pub(super) consumer: ConsumerId,
    pub(super) seat: u32,
    pub(super) first: FarEntry,
    pub(super) count: u32,
    pub(super) until_boot_us: u64,
    pub(super) lease_us: u64,
    pub(super) delivered_us: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    lease: Option<Lease>,
}

/// Something that ends at a boot time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Lease(LeaseNumber),
    /// One record whose lease was extended apart from its run's.
    Extended(LeaseNumber, u64),
    /// A pull, by its number.
    Receive(ConsumerId, u64),
}

/// All leases of a queue.
#[derive(Debug)]
pub(super) struct Leases {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    slots_max: usize,
    /// Ends of records that were extended apart from their run, by offset.
    extended: BTreeMap<u64, u64>,
    /// May hold times of what is gone; never misses one.
    timers: BinaryHeap<Reverse<(u64, Timer)>>,
}

/// First lease of each consumer's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListHead(u32);

impl Default for ListHead {
    fn default() -> Self {
        Self(NONE)
    }
}

impl Leases {
    pub(super) fn new(slots_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            slots_max: slots_max.min(LEASES_MAX),
            extended: BTreeMap::new(),
            timers: BinaryHeap::new(),
        }
    }

    /// Slots there are, taken or not.
    pub(super) const fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.slots_max
    }

    pub(super) fn get(&self, number: LeaseNumber) -> Option<&Lease> {
        let lease = self.slots.get(slot_of(number))?.lease.as_ref()?;
        (lease.number == number).then_some(lease)
    }

    pub(super) fn get_mut(&mut self, number: LeaseNumber) -> Option<&mut Lease> {
        let lease = self.slots.get_mut(slot_of(number))?.lease.as_mut()?;
        (lease.number == number).then_some(lease)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.slots.iter().filter_map(|slot| slot.lease.as_ref())
    }

    /// Leases a run, in the list of its consumer. `None` if there are as many as may be.
    pub(super) fn insert(&mut self, new: NewLease, head: &mut ListHead) -> Option<LeaseNumber> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slots.len() < self.slots_max => {
                let at = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot {
                    generation: 0,
                    lease: None,
                });
                at
            }
            None => return None,
        };
        let slot = self.slots.get_mut(at as usize)?;
        slot.generation += 1;
        let number = LeaseNumber(slot.generation << SLOT_BITS | u64::from(at));
        slot.lease = Some(Lease {
            number,
            consumer: new.consumer,
            seat: new.seat,
            first: new.first,
            held: u64::MAX >> (RUN_MAX - new.count.clamp(1, RUN_MAX)),
            until_boot_us: new.until_boot_us,
            lease_us: new.lease_us,
            delivered_us: new.delivered_us,
            extended: 0,
            before: NONE,
            after: head.0,
        });
        if let Some(after) = self.lease_at(head.0) {
            after.before = at;
        }
        head.0 = at;
        self.live += 1;
        self.add_timer(new.until_boot_us, Timer::Lease(number));
        Some(number)
    }

    fn lease_at(&mut self, at: u32) -> Option<&mut Lease> {
        self.slots.get_mut(at as usize)?.lease.as_mut()
    }

    /// The first lease of a consumer.
    pub(super) fn first_of(&self, head: ListHead) -> Option<LeaseNumber> {
        let slot = self.slots.get(head.0 as usize)?;
        slot.lease.as_ref().map(|lease| lease.number)
    }

    /// Clears up behind a record that was let go of; the lease, too, when it holds none.
    pub(super) fn tidy(&mut self, number: LeaseNumber, offset: u64, head: &mut ListHead) {
        let own_time = self.extended.remove(&offset).is_some();
        let Some(lease) = self.get_mut(number) else {
            return;
        };
        lease.extended -= u32::from(own_time);
        if lease.held == 0 {
            self.remove(number, head);
        }
    }

    fn remove(&mut self, number: LeaseNumber, head: &mut ListHead) {
        let at = slot_of(number);
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let Some(lease) = slot.lease.take() else {
            return;
        };
        let reusable = slot.generation < GENERATION_MAX;
        if let Some(after) = self.lease_at(lease.after) {
            after.before = lease.before;
        }
        match self.lease_at(lease.before) {
            Some(before) => before.after = lease.after,
            None => head.0 = lease.after,
        }
        self.live -= 1;
        if reusable {
            self.free.extend(u32::try_from(at));
        }
    }

    /// Lets a record's lease run until `until_boot_us`; the others of its run keep their time.
    pub(super) fn extend(&mut self, number: LeaseNumber, offset: u64, until_boot_us: u64) {
        let Some(lease) = self.get_mut(number) else {
            return;
        };
        if lease.held.is_power_of_two() && lease.extended == 0 {
            lease.until_boot_us = until_boot_us;
            self.add_timer(until_boot_us, Timer::Lease(number));
            return;
        }
        if self.extended.insert(offset, until_boot_us).is_none()
            && let Some(lease) = self.get_mut(number)
        {
            lease.extended += 1;
        }
        self.add_timer(until_boot_us, Timer::Extended(number, offset));
    }

    /// When the lease of the record at `offset` ends, which is held under `lease`.
    pub(super) fn until(&self, lease: &Lease, offset: u64) -> u64 {
        let own = match lease.extended {
            0 => None,
            _ => self.extended.get(&offset).copied(),
        };
        own.unwrap_or(lease.until_boot_us)
    }

    /// Adds a time; [`tidy_timers`](Self::tidy_timers) clears out those of what is gone.
    pub(super) fn add_timer(&mut self, at_us: u64, timer: Timer) {
        self.timers.push(Reverse((at_us, timer)));
    }

    /// Clears out the times of what is gone once they are most of all. `pulls` wait; whether one of
    /// them does, `waits` tells.
    pub(super) fn tidy_timers(&mut self, pulls: usize, waits: impl Fn(ConsumerId, u64) -> bool) {
        let live = self.live + self.extended.len() + pulls;
        if self.timers.len() <= 2 * live + 64 {
            return;
        }
        let mut timers = std::mem::take(&mut self.timers).into_vec();
        timers.retain(|Reverse((at_us, timer))| match timer {
            Timer::Receive(consumer, number) => waits(*consumer, *number),
            _ => self.is_live(*at_us, *timer),
        });
        self.timers = timers.into();
    }

    fn is_live(&self, at_us: u64, timer: Timer) -> bool {
        match timer {
            Timer::Lease(number) => {
                let lease = self.get(number);
                lease.is_some_and(|lease| lease.until_boot_us == at_us)
            }
            Timer::Extended(number, offset) => {
                let lease = self.get(number);
                lease.is_some_and(|lease| lease.bit(offset).is_some())
                    && self.extended.get(&offset) == Some(&at_us)
            }
            // Whose it was knows.
            Timer::Receive(..) => true,
        }
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }

    pub(super) fn next_time(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at_us, _))| *at_us)
    }

    /// The next timer whose time has come, if what it is for still ends then.
    pub(super) fn pop_due(&mut self, now_boot_us: u64) -> Option<Timer> {
        while let Some(Reverse((at_us, timer))) = self.timers.peek().copied() {
            if at_us > now_boot_us {
                return None;
            }
            self.timers.pop();
            if self.is_live(at_us, timer) {
                return Some(timer);
            }
        }
        None
    }

    /// The records of a lease that end with its run: all but those extended.
    pub(super) fn ending(&self, number: LeaseNumber) -> Vec<u64> {
        let Some(lease) = self.get(number) else {
            return Vec::new();
        };
        let apart = |offset: &u64| lease.extended > 0 && self.extended.contains_key(offset);
        lease.offsets().filter(|offset| !apart(offset)).collect()
    }

    /// Counts everything again.
    pub(super) fn check(&self) {
        assert_eq!(self.iter().count(), self.live, "live leases");
        let extended: u32 = self.iter().map(|lease| lease.extended).sum();
        assert_eq!(extended as usize, self.extended.len(), "extended records");
        for lease in self.iter() {
            assert!(lease.held != 0, "a lease of nothing");
        }
    }
}

const fn slot_of(number: LeaseNumber) -> usize {
    // 20 bits.
    (number.0 & ((1 << SLOT_BITS) - 1)) as usize
}
