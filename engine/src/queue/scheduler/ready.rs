//! What can be delivered now, in order: runs of plain records as they were scanned, and a heap of
//! single ones with something to remember.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::effect::FarEntry;
use super::leases::RUN_MAX;

/// Place in the order of delivery: what is less comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 255 - priority.
    below: u8,
    never_delivered: bool,
    offset: u64,
}

impl Rank {
    pub(super) fn of(record: &FarEntry) -> Self {
        Self {
            below: u8::MAX - record.priority,
            never_delivered: record.attempts == 0,
            offset: record.offset.0,
        }
    }

    const fn plain(offset: u64) -> Self {
        Self {
            below: u8::MAX,
            never_delivered: true,
            offset,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Single {
    rank: Rank,
    record: FarEntry,
}

impl PartialEq for Single {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Single {}

impl PartialOrd for Single {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Single {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// Plain records that were never delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FreshRun {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) bytes_each: u32,
    pub(super) append_us: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// One record from the heap. It may have been settled meanwhile.
    Single(FarEntry),
    /// Records of the first run, at most a lease's.
    Fresh(FreshRun),
}

/// Records that can be delivered.
#[derive(Debug, Default)]
pub(super) struct Ready {
    fresh: VecDeque<FreshRun>,
    fresh_records: u64,
    singles: BinaryHeap<Reverse<Single>>,
}

impl Ready {
    /// Records here; some of the single ones may have been settled.
    pub(super) fn len(&self) -> u64 {
        self.fresh_records + self.singles.len() as u64
    }

    pub(super) fn singles(&self) -> usize {
        self.singles.len()
    }

    /// Adds records behind all runs so far.
    pub(super) fn push_run(&mut self, run: FreshRun) {
        self.fresh_records += run.count;
        if let Some(last) = self.fresh.back_mut()
            && last.first + last.count == run.first
            && last.bytes_each == run.bytes_each
            && last.append_us == run.append_us
        {
            last.count += run.count;
            return;
        }
        self.fresh.push_back(run);
    }

    pub(super) fn push(&mut self, record: FarEntry) {
        let rank = Rank::of(&record);
        self.singles.push(Reverse(Single { rank, record }));
    }

    /// What comes next; it stays.
    pub(super) fn next(&self) -> Option<Next> {
        let single = self.singles.peek().map(|Reverse(single)| single);
        let Some(mut run) = self.fresh.front().copied() else {
            return single.map(|single| Next::Single(single.record));
        };
        if let Some(single) = single
            && single.rank < Rank::plain(run.first)
        {
            return Some(Next::Single(single.record));
        }
        // No single record lies within a run: it would have parted it.
        run.count = run.count.min(u64::from(RUN_MAX));
        Some(Next::Fresh(run))
    }

    /// Takes the first single record away.
    pub(super) fn pop(&mut self) -> Option<FarEntry> {
        self.singles.pop().map(|Reverse(single)| single.record)
    }

    /// Takes records from the front of the first run.
    pub(super) fn take_fresh(&mut self, records: u64) {
        let Some(run) = self.fresh.front_mut() else {
            return;
        };
        let records = records.min(run.count);
        self.fresh_records -= records;
        run.first += records;
        run.count -= records;
        if run.count == 0 {
            self.fresh.pop_front();
        }
    }

    /// The first run's first record.
    pub(super) fn first_fresh(&self) -> Option<FreshRun> {
        self.fresh.front().copied()
    }

    /// Forgets all below `to`.
    pub(super) fn purge(&mut self, to: u64) {
        while let Some(run) = self.fresh.front()
            && run.first < to
        {
            self.take_fresh(to - run.first);
        }
        self.singles
            .retain(|Reverse(single)| single.rank.offset >= to);
    }

    /// Takes the single records away that no longer live.
    pub(super) fn take_gone(&mut self, lives: impl Fn(u64) -> bool) -> Vec<FarEntry> {
        let mut gone = Vec::new();
        self.singles.retain(|Reverse(single)| {
            let stays = lives(single.rank.offset);
            if !stays {
                gone.push(single.record);
            }
            stays
        });
        gone
    }

    /// When the first of either kind was appended.
    pub(super) fn oldest_append_us(&self) -> Option<u64> {
        let single = self.singles.peek();
        let single = single.map(|Reverse(single)| single.record.append_us);
        let fresh = self.fresh.front().map(|run| run.append_us);
        single.into_iter().chain(fresh).min()
    }

    pub(super) fn iter_singles(&self) -> impl Iterator<Item = &FarEntry> {
        self.singles.iter().map(|Reverse(single)| &single.record)
    }
}
