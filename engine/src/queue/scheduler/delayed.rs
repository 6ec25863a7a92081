//! Records that are not due yet, those due last in the far store.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::effect::FarEntry;

/// In the order they are due.
#[derive(Debug, Clone, Copy)]
struct Due(FarEntry);

impl Due {
    const fn key(&self) -> (u64, u64) {
        (self.0.due_us, self.0.offset.0)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Delayed records in memory.
#[derive(Debug)]
pub(super) struct Delayed {
    records: BinaryHeap<Reverse<Due>>,
    records_max: usize,
    /// Nothing in the far store is due before this.
    far_from_us: u64,
}

impl Delayed {
    pub(super) fn new(records_max: usize) -> Self {
        Self {
            records: BinaryHeap::new(),
            records_max: records_max.max(2),
            far_from_us: u64::MAX,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) const fn records_max(&self) -> usize {
        self.records_max
    }

    pub(super) const fn far_from_us(&self) -> u64 {
        self.far_from_us
    }

    /// What the far store said of itself, after it gave some back.
    pub(super) const fn set_far_from(&mut self, horizon_wall_us: u64) {
        self.far_from_us = horizon_wall_us;
    }

    pub(super) fn push(&mut self, record: FarEntry) {
        self.records.push(Reverse(Due(record)));
    }

    /// The half that is due last, once there are more than may be in memory.
    pub(super) fn overflow(&mut self) -> Option<Vec<FarEntry>> {
        if self.records.len() <= self.records_max {
            return None;
        }
        let mut records = std::mem::take(&mut self.records).into_vec();
        let half = records.len() / 2;
        records.select_nth_unstable_by_key(half, |Reverse(due)| due.key());
        let far: Vec<FarEntry> = records.drain(half..).map(|Reverse(due)| due.0).collect();
        self.records = records.into();
        let first_us = far.iter().map(|record| record.due_us).min();
        self.far_from_us = self.far_from_us.min(first_us.unwrap_or(u64::MAX));
        Some(far)
    }

    pub(super) fn next_due_us(&self) -> Option<u64> {
        self.records.peek().map(|Reverse(due)| due.0.due_us)
    }

    /// Takes the next record that is due.
    pub(super) fn pop_due(&mut self, now_wall_us: u64) -> Option<FarEntry> {
        if self.next_due_us()? > now_wall_us {
            return None;
        }
        self.records.pop().map(|Reverse(due)| due.0)
    }

    /// Forgets all below `to`.
    pub(super) fn purge(&mut self, to: u64) {
        self.records.retain(|Reverse(due)| due.0.offset.0 >= to);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FarEntry> {
        self.records.iter().map(|Reverse(due)| &due.0)
    }
}
