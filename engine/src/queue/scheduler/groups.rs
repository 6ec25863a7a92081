//! Groups: of each, one record is out, and the others wait behind it in offset order.

use std::collections::{BTreeMap, VecDeque};

use super::effect::FarEntry;

#[derive(Debug)]
struct Group {
    /// The record that is ready, leased or delayed.
    head: u64,
    waiting: VecDeque<FarEntry>,
}

/// The groups that have records.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<u64, Group>,
    waiting: u64,
}

impl Groups {
    /// Records that wait behind others; some may have been settled.
    pub(super) const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Puts a record of a group in line. True if it is the first, and so out at once.
    pub(super) fn enter(&mut self, record: FarEntry) -> bool {
        match self.groups.entry(record.group) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Group {
                    head: record.offset.0,
                    waiting: VecDeque::new(),
                });
                true
            }
            std::collections::btree_map::Entry::Occupied(place) => {
                place.into_mut().waiting.push_back(record);
                self.waiting += 1;
                false
            }
        }
    }

    /// The record at `offset` is done with: takes the next of its group that `lives` out.
    pub(super) fn advance(
        &mut self,
        group: u64,
        offset: u64,
        lives: impl Fn(u64) -> bool,
    ) -> Option<FarEntry> {
        let found = self.groups.get_mut(&group)?;
        debug_assert_eq!(found.head, offset, "group {group}: the record that is out");
        while let Some(next) = found.waiting.pop_front() {
            self.waiting -= 1;
            if lives(next.offset.0) {
                found.head = next.offset.0;
                return Some(next);
            }
        }
        self.groups.remove(&group);
        None
    }

    /// The groups whose record that is out lies below `to`.
    pub(super) fn headed_below(&self, to: u64) -> Vec<(u64, u64)> {
        self.groups
            .iter()
            .filter(|(_, group)| group.head < to)
            .map(|(number, group)| (*number, group.head))
            .collect()
    }

    /// Clears out records that wait and no longer live.
    pub(super) fn retain(&mut self, lives: impl Fn(u64) -> bool) {
        for group in self.groups.values_mut() {
            group.waiting.retain(|record| lives(record.offset.0));
        }
        let waiting = self.groups.values().map(|group| group.waiting.len());
        self.waiting = waiting.sum::<usize>() as u64;
    }

    pub(super) fn iter_waiting(&self) -> impl Iterator<Item = &FarEntry> {
        self.groups.values().flat_map(|group| &group.waiting)
    }

    pub(super) fn heads(&self) -> impl Iterator<Item = (u64, u64)> {
        self.groups
            .iter()
            .map(|(group, found)| (*group, found.head))
    }

    /// Counts everything again.
    pub(super) fn check(&self) {
        let waiting: usize = self.groups.values().map(|group| group.waiting.len()).sum();
        assert_eq!(waiting as u64, self.waiting, "records behind others");
    }
}
