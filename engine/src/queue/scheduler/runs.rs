//! A set of offsets, kept as runs.

use std::collections::BTreeMap;

/// Offsets as runs that neither touch nor overlap: first to next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Runs {
    runs: BTreeMap<u64, u64>,
}

impl Runs {
    /// Adds the offsets from `first` up to `next`.
    pub(super) fn insert(&mut self, mut first: u64, mut next: u64) {
        if first >= next {
            return;
        }
        // From the back: each run that overlaps or touches is taken in.
        while let Some((&run_first, &run_next)) = self.runs.range(..=next).next_back() {
            if run_next < first {
                break;
            }
            first = first.min(run_first);
            next = next.max(run_next);
            self.runs.remove(&run_first);
        }
        self.runs.insert(first, next);
    }

    /// The first offset from `offset` on that is not in the set.
    pub(super) fn next_outside(&self, offset: u64) -> u64 {
        match self.runs.range(..=offset).next_back() {
            Some((_, &next)) if next > offset => next,
            _ => offset,
        }
    }

    /// Forgets the offsets below `offset`.
    pub(super) fn cut_below(&mut self, offset: u64) {
        while let Some(entry) = self.runs.first_entry() {
            if *entry.key() >= offset {
                break;
            }
            let next = entry.remove();
            if next > offset {
                self.runs.insert(offset, next);
            }
        }
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.next_outside(offset) != offset
    }

    /// The first run's end, if the set holds `offset` as its first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|(first, next)| (*first, *next))
    }

    /// The first run that begins at or behind `offset`.
    pub(super) fn first_from(&self, offset: u64) -> Option<(u64, u64)> {
        let run = self.runs.range(offset..).next();
        run.map(|(first, next)| (*first, *next))
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }
}
