//! What lasts of one queue: folded from its journal entries, kept in checkpoints.
//!
//! Everything else (groups, due times, expiry, priorities of records never delivered) is found again
//! by looking at the topic from the floor on.

use std::collections::BTreeMap;

use millstream_protocol::Offset;

use super::effect::FarEntry;
use super::entry::{Entry, EntryError, Reason, Varints, put_distance, put_number};
use super::runs::Runs;

/// What was counted of a record that was delivered and is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempted {
    pub(super) attempts: u16,
    pub(super) due_us: u64,
    pub(super) first_us: u64,
    pub(super) last_us: u64,
}

impl Attempted {
    const fn of_far(entry: &FarEntry) -> (u64, Self) {
        let attempted = Self {
            attempts: entry.attempts,
            due_us: entry.due_us,
            first_us: entry.first_us,
            last_us: entry.last_us,
        };
        (entry.offset.0, attempted)
    }
}

/// A record on its way elsewhere: settled for the queue, kept in its topic until it has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingMove {
    /// Rising by one from 1; never used twice for a queue.
    pub(crate) number: u64,
    pub(crate) offset: Offset,
    pub(crate) attempts: u16,
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
    pub(crate) why: Reason,
    pub(crate) text: Box<str>,
}

/// The durable state of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Durable {
    /// All below is settled, and nothing below is being moved.
    pub(super) floor: u64,
    /// Settled above the floor.
    pub(super) settled: Runs,
    pub(super) attempted: BTreeMap<u64, Attempted>,
    /// By number.
    pub(super) moves: BTreeMap<u64, PendingMove>,
    pub(super) next_move: u64,
}

impl Durable {
    /// A queue that begins at `floor`.
    pub(crate) fn new(floor: Offset) -> Self {
        Self {
            floor: floor.0,
            settled: Runs::default(),
            attempted: BTreeMap::new(),
            moves: BTreeMap::new(),
            next_move: 1,
        }
    }

    /// Takes in one more fact.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Settled { first, count } => self.settle(first.0, first.0.saturating_add(*count)),
            Entry::Attempted {
                offset,
                attempts,
                due_us,
                first_us,
                last_us,
            } => {
                let attempted = Attempted {
                    attempts: *attempts,
                    due_us: *due_us,
                    first_us: *first_us,
                    last_us: *last_us,
                };
                self.note_attempted(offset.0, attempted);
            }
            Entry::Moved {
                number,
                offset,
                attempts,
                first_us,
                last_us,
                why,
                text,
            } => self.begin_move(PendingMove {
                number: *number,
                offset: *offset,
                attempts: *attempts,
                first_us: *first_us,
                last_us: *last_us,
                why: *why,
                text: text.clone(),
            }),
            Entry::Applied { through } => {
                while let Some(first) = self.moves.first_entry()
                    && first.key() <= through
                {
                    let offset = first.remove().offset.0;
                    self.settle(offset, offset + 1);
                }
            }
            Entry::Purged { to } => self.purge(to.0),
        }
    }

    /// All below is settled.
    pub(crate) const fn floor(&self) -> Offset {
        Offset(self.floor)
    }

    /// The highest offset that anything is known of, the floor apart.
    pub(crate) fn highest_offset(&self) -> Option<Offset> {
        let settled = self.settled.iter().map(|(_, next)| next - 1).last();
        let attempted = self.attempted.keys().next_back().copied();
        let moved = self.moves.values().map(|moved| moved.offset.0).max();
        settled
            .into_iter()
            .chain(attempted)
            .chain(moved)
            .max()
            .map(Offset)
    }

    /// Numbers of the moves that are not applied.
    pub(crate) fn pending_moves(&self) -> impl Iterator<Item = u64> {
        self.moves.keys().copied()
    }

    /// The number the next move will have.
    pub(crate) const fn next_move(&self) -> u64 {
        self.next_move
    }

    /// Whether the same records are settled and on their way. Attempts are left out: those of records
    /// that are not in memory are in the checkpoint, and not folded the same way.
    pub(crate) fn settles_as(&self, other: &Self) -> bool {
        (self.floor, &self.settled, &self.moves, self.next_move)
            == (other.floor, &other.settled, &other.moves, other.next_move)
    }

    /// Adds what the far store holds of this queue.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn add_far(&mut self, entry: &FarEntry) {
        if entry.attempts > 0 {
            let (offset, attempted) = Attempted::of_far(entry);
            self.note_attempted(offset, attempted);
        }
    }

    fn note_attempted(&mut self, offset: u64, attempted: Attempted) {
        if offset >= self.floor && !self.settled.contains(offset) {
            self.attempted.insert(offset, attempted);
        }
    }

    fn begin_move(&mut self, moved: PendingMove) {
        self.attempted.remove(&moved.offset.0);
        // A number below the next one was folded in before.
        if moved.number >= self.next_move {
            self.next_move = moved.number + 1;
            self.moves.insert(moved.number, moved);
        }
    }

    fn purge(&mut self, to: u64) {
        let mut kept: Vec<u64> = self.moves.values().map(|moved| moved.offset.0).collect();
        kept.sort_unstable();
        let mut first = self.floor;
        for offset in kept.into_iter().take_while(|offset| *offset < to) {
            self.settle(first, offset);
            first = offset + 1;
        }
        self.settle(first, to);
    }

    fn settle(&mut self, first: u64, next: u64) {
        let first = first.max(self.floor);
        if first >= next {
            return;
        }
        if first == self.floor {
            self.floor = next;
        } else {
            self.settled.insert(first, next);
        }
        self.floor = self.settled.next_outside(self.floor);
        self.settled.cut_below(self.floor);
        while let Some((&offset, _)) = self.attempted.range(first..next).next() {
            self.attempted.remove(&offset);
        }
    }

    /// Appends the whole state.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_with(&mut Vec::new(), out);
    }

    /// Appends the whole state for a checkpoint, with what the far store holds beside it: as if each
    /// of those were part of it, without the memory that would take.
    pub(crate) fn encode_with(&self, far: &mut Vec<FarEntry>, out: &mut Vec<u8>) {
        far.retain(|entry| {
            let offset = entry.offset.0;
            let unsettled = offset >= self.floor && !self.settled.contains(offset);
            entry.attempts > 0 && unsettled && !self.attempted.contains_key(&offset)
        });
        far.sort_unstable_by_key(|entry| entry.offset);
        far.dedup_by_key(|entry| entry.offset);
        put_number(out, self.floor);
        put_number(out, self.settled.len() as u64);
        let mut last = self.floor;
        for (first, next) in self.settled.iter() {
            put_number(out, first - last);
            put_number(out, next - first);
            last = next;
        }
        put_number(out, self.next_move);
        put_number(out, (self.attempted.len() + far.len()) as u64);
        let mut near = self
            .attempted
            .iter()
            .map(|(offset, attempted)| (*offset, *attempted))
            .peekable();
        let mut far = far.iter().map(Attempted::of_far).peekable();
        let (mut before, mut before_us) = (0, 0);
        loop {
            let near_first = match (near.peek(), far.peek()) {
                (Some(near), Some(far)) => near.0 < far.0,
                (near, _) => near.is_some(),
            };
            let next = if near_first { near.next() } else { far.next() };
            let Some((offset, attempted)) = next else {
                break;
            };
            put_number(out, offset - before);
            put_number(out, u64::from(attempted.attempts));
            put_distance(out, attempted.last_us, before_us);
            put_distance(out, attempted.first_us, attempted.last_us);
            put_distance(out, attempted.due_us, attempted.last_us);
            (before, before_us) = (offset, attempted.last_us);
        }
        for moved in self.moves.values() {
            Entry::encode_all([&moved.entry()], out);
        }
    }

    /// What [`encode_with`](Self::encode_with) wrote; all of `bytes`.
    ///
    /// # Errors
    ///
    /// The bytes are not what this version writes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut fields = Varints::new(bytes);
        let mut durable = Self::new(fields.offset()?);
        let runs = fields.number()?;
        let mut last = durable.floor;
        for _ in 0..runs {
            let error = fields.error();
            let (gap, count) = (fields.number()?, fields.number()?);
            let first = last.checked_add(gap).ok_or(error)?;
            last = first.checked_add(count).ok_or(error)?;
            if gap == 0 || count == 0 || last == u64::MAX {
                return Err(error);
            }
            durable.settled.insert(first, last);
        }
        let next_move = fields.move_number()?;
        let (mut before, mut before_us) = (0_u64, 0);
        for _ in 0..fields.number()? {
            let error = fields.error();
            before = before.checked_add(fields.number()?).ok_or(error)?;
            let attempts = fields.attempts()?;
            let last_us = fields.distance(before_us)?;
            let attempted = Attempted {
                attempts,
                first_us: fields.distance(last_us)?,
                due_us: fields.distance(last_us)?,
                last_us,
            };
            if before == u64::MAX || durable.attempted.insert(before, attempted).is_some() {
                return Err(error);
            }
            before_us = last_us;
        }
        let error = fields.error();
        let mut fits = true;
        Entry::decode_all(fields.rest(), |entry| {
            fits &= matches!(entry, Entry::Moved { .. });
            durable.apply(&entry);
        })?;
        if !fits || durable.next_move > next_move {
            return Err(error);
        }
        durable.next_move = next_move;
        Ok(durable)
    }
}
