//! What can be asked of a scheduler.

use std::collections::BTreeMap;
use std::ops::Bound;

use millstream_protocol::Offset;

use super::durable::Attempted;
use super::window::State;
use super::{ConsumerId, Durable, FarEntry, LeaseNumber, PendingMove, Reason, Scheduler, Wake};

/// What happened so far, in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) retried: u64,
    pub(crate) rejected: u64,
    /// Moved as dead letters, for whatever reason.
    pub(crate) dead_lettered: u64,
    pub(crate) expired: u64,
    /// Settled by the queue itself, where nothing of the kind is kept; purged ones apart.
    pub(crate) dropped: u64,
    pub(crate) released: u64,
    pub(crate) lease_expired: u64,
    /// Settles that were refused.
    pub(crate) lease_lost: u64,
    /// Could not be read.
    pub(crate) damaged: u64,
    pub(crate) redriven: u64,
    pub(crate) purged: u64,
    /// Acknowledged records by the deliveries they took; the last place is for more, too.
    pub(crate) attempts: [u64; 16],
}

impl Totals {
    /// So many were acknowledged, each with its delivery of that number.
    pub(super) fn ack(&mut self, records: u64, attempts: u16) {
        self.acked += records;
        let place = usize::from(attempts.clamp(1, 16)) - 1;
        if let Some(count) = self.attempts.get_mut(place) {
            *count += records;
        }
    }

    pub(super) const fn bury(&mut self, why: Reason, moved: bool) {
        match (why, moved) {
            (Reason::Redriven, _) => self.redriven += 1,
            (_, true) => self.dead_lettered += 1,
            (_, false) => self.dropped += 1,
        }
        if matches!(why, Reason::Expired) {
            self.expired += 1;
        }
    }
}

/// How many records are where. What was not scanned yet is counted only where it is being moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Also those that wait behind others of their group.
    pub(crate) ready: u64,
    pub(crate) leased: u64,
    /// Also those in the far store.
    pub(crate) delayed: u64,
    /// Also those that are still to be scanned.
    pub(crate) moving: u64,
    /// All of these that were scanned.
    pub(crate) unsettled_scanned: u64,
    /// When the record that comes next was appended, or the first plain one if that is older; 0:
    /// nothing is ready.
    pub(crate) oldest_ready_append_us: u64,
    pub(crate) consumers: u64,
    pub(crate) totals: Totals,
}

/// One record with a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseInfo {
    pub(crate) offset: Offset,
    pub(crate) consumer: ConsumerId,
    pub(crate) lease: LeaseNumber,
    pub(crate) attempts: u16,
    pub(crate) until_boot_us: u64,
}

/// One record that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeekedRecord {
    pub(crate) offset: Offset,
    pub(crate) state: State,
    /// Deliveries that counted, and the one under way.
    pub(crate) attempts: u16,
    /// 0: now, or known to the far store only.
    pub(crate) due_us: u64,
}

impl PendingMove {
    /// The entry that tells of it.
    pub(super) fn entry(&self) -> super::Entry {
        super::Entry::Moved {
            number: self.number,
            offset: self.offset,
            attempts: self.attempts,
            first_us: self.first_us,
            last_us: self.last_us,
            why: self.why,
            text: self.text.clone(),
        }
    }
}

impl Scheduler {
    /// When a `Tick` is wanted. It may turn out that nothing was to do.
    pub(crate) fn next_wake(&self) -> Wake {
        let far_us = self.delayed.far_from_us();
        let far_us = (far_us < u64::MAX && self.near_room() > 0)
            .then(|| far_us.saturating_sub(super::NEAR_AHEAD_US));
        let due = [self.delayed.next_due_us(), far_us];
        Wake {
            boot_us: self.leases.next_time(),
            wall_us: due.into_iter().flatten().min(),
        }
    }

    /// How many records are where; costs the same however many there are.
    pub(crate) fn counts(&self) -> Counts {
        let window = &self.window;
        let delayed = window.count(State::Delayed) + window.count(State::Far);
        Counts {
            ready: window.count(State::Ready),
            leased: window.count(State::Leased),
            delayed,
            moving: self.moves.len() as u64,
            unsettled_scanned: window.unsettled(),
            oldest_ready_append_us: self.ready.oldest_append_us().unwrap_or(0),
            consumers: self.consumers.len() as u64,
            totals: self.totals,
        }
    }

    /// How many of the moves are of records that are still to be scanned.
    pub(crate) fn moving_unscanned(&self) -> u64 {
        self.moving_ahead.len() as u64
    }

    /// Moves under way numbered `from` and later, in order.
    pub(crate) fn pending_moves(&self, from: u64) -> impl Iterator<Item = &PendingMove> {
        self.moves
            .range((Bound::Included(from), Bound::Unbounded))
            .map(|(_, moved)| moved)
    }

    /// Up to `max` records that are with consumers, in no order.
    pub(crate) fn leases(&self, max: usize) -> Vec<LeaseInfo> {
        let records = self.leases.iter().flat_map(|lease| {
            lease.offsets().map(|offset| LeaseInfo {
                offset: Offset(offset),
                consumer: lease.consumer,
                lease: lease.number,
                attempts: lease.first.attempts.saturating_add(1),
                until_boot_us: self.leases.until(lease, offset),
            })
        });
        records.take(max).collect()
    }

    /// Up to `max` records from `from` on that were scanned and are not settled.
    pub(crate) fn peek(&self, from: Offset, max: usize) -> Vec<PeekedRecord> {
        let mut peeked: Vec<PeekedRecord> = self
            .window
            .unsettled_from(from.0)
            .take(max)
            .map(|(offset, cell)| PeekedRecord {
                offset: Offset(offset),
                state: cell.state(),
                attempts: cell.attempts(),
                due_us: 0,
            })
            .collect();
        let waiting = self.groups.iter_waiting();
        for record in self.delayed.iter().chain(waiting) {
            let found = peeked.binary_search_by_key(&record.offset, |one| one.offset);
            if let Some(one) = found.ok().and_then(|at| peeked.get_mut(at))
                && one.state == State::Delayed
            {
                one.due_us = record.due_us;
            }
        }
        peeked
    }

    /// What lasts: the fold of all entries so far, but for what is in the far store. Looks at every
    /// record above the floor.
    pub(crate) fn durable(&self) -> Durable {
        let mut settled = self.settled_ahead.clone();
        let mut next = self.floor;
        for (offset, _) in self.window.unsettled_from(self.floor) {
            settled.insert(next, offset);
            next = offset + 1;
        }
        settled.insert(next, self.next_scan);
        settled.cut_below(self.floor);
        Durable {
            floor: self.floor,
            settled,
            attempted: self.attempted(),
            moves: self.moves.clone(),
            next_move: self.next_move,
        }
    }

    fn attempted(&self) -> BTreeMap<u64, Attempted> {
        let leased = self
            .leases
            .iter()
            .flat_map(|lease| lease.offsets().map(|offset| lease.record(offset)));
        let here = self
            .ready
            .iter_singles()
            .chain(self.delayed.iter())
            .chain(self.groups.iter_waiting())
            .copied()
            .chain(leased)
            .filter(|record| record.attempts > 0 && self.is_open(record));
        let noted = here.map(|record| {
            let attempted = Attempted {
                attempts: record.attempts,
                due_us: record.due_us,
                first_us: record.first_us,
                last_us: record.last_us,
            };
            (record.offset.0, attempted)
        });
        let recalled = self.recalled.iter().map(|(at, one)| (*at, *one));
        noted.chain(recalled).collect()
    }

    fn is_open(&self, record: &FarEntry) -> bool {
        let state = self.window.state(record.offset.0);
        !matches!(state, State::Settled | State::Moving)
    }
}
