//! State of every record between the floor and where the topic was scanned to: two bytes each.
//!
//! ```text
//!              ┌────────────────────── release, retry now, expiry ───────────────┐
//!              ▼                                                                  │
//!  scanned ─▶ Ready ──deliver──▶ Leased ──ack, gone──▶ Settled ◀──applied── Moving
//!    │  ▲                          │  └──reject, redrive, attempts used up────▶ ▲
//!    │  └────────due────┐          │                                            │
//!    └──not due yet──▶ Delayed ◀───┴──retry later                  Ready ──expired, dropped
//!                       │  ▲
//!             too many ─▼──┴─ near
//!                       Far
//! ```
//! A purge settles from every state but `Moving`. Pages in which all is settled are given up.

use std::collections::VecDeque;

use super::policy::ATTEMPTS_MAX;

/// Records of a page. Small in tests, so that few records make many.
const PAGE_CELLS: usize = if cfg!(test) { 64 } else { 4096 };
const PAGE: u64 = PAGE_CELLS as u64;
/// Empty pages kept for the next ones.
const SPARES_MAX: usize = 4;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Done with; also all that was never there.
    Settled,
    /// May be delivered, or waits behind others of its group.
    Ready,
    /// With a consumer.
    Leased,
    /// Not due yet.
    Delayed,
    /// Not due yet, in the far store.
    Far,
    /// On its way elsewhere.
    Moving,
}

impl State {
    pub(super) const COUNT: usize = 6;

    const fn from_bits(bits: u16) -> Self {
        match bits & 7 {
            1 => Self::Ready,
            2 => Self::Leased,
            3 => Self::Delayed,
            4 => Self::Far,
            5 => Self::Moving,
            _ => Self::Settled,
        }
    }
}

/// A record's state and attempts in two bytes: attempts << 3 | state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(u16);

impl Cell {
    const SETTLED: Self = Self(0);

    /// Attempts stay at [`ATTEMPTS_MAX`].
    pub(super) fn new(state: State, attempts: u16) -> Self {
        Self(attempts.min(ATTEMPTS_MAX) << 3 | state as u16)
    }

    pub(super) const fn state(self) -> State {
        State::from_bits(self.0)
    }

    pub(super) const fn attempts(self) -> u16 {
        self.0 >> 3
    }
}

#[derive(Debug)]
struct Page {
    /// Offset / `PAGE`.
    index: u64,
    unsettled: u32,
    cells: Box<[u16; PAGE_CELLS]>,
}

/// The cells, by offset; what has none is settled.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// By index, rising.
    pages: VecDeque<Page>,
    /// All zero.
    #[allow(clippy::vec_box, reason = "a page is small in tests only")]
    spares: Vec<Box<[u16; PAGE_CELLS]>>,
    by_state: [u64; State::COUNT],
    /// No record below this is `Ready`.
    ready_from: u64,
}

const fn place(offset: u64) -> usize {
    // Less than `PAGE_CELLS`, whatever the width of usize.
    (offset % PAGE) as usize
}

impl Window {
    /// How many records are in `state`; of settled ones none are counted.
    pub(super) fn count(&self, state: State) -> u64 {
        self.by_state.get(state as usize).copied().unwrap_or(0)
    }

    pub(super) fn unsettled(&self) -> u64 {
        self.by_state.iter().sum()
    }

    #[inline]
    pub(super) fn get(&self, offset: u64) -> Cell {
        let cell = self
            .page_at(offset / PAGE)
            .and_then(|at| self.pages.get(at))
            .and_then(|page| page.cells.get(place(offset)));
        cell.map_or(Cell::SETTLED, |bits| Cell(*bits))
    }

    #[inline]
    pub(super) fn state(&self, offset: u64) -> State {
        self.get(offset).state()
    }

    /// Puts `count` records from `first` on into `cell`; all of them were in `from` before.
    pub(super) fn fill(&mut self, first: u64, count: u64, from: State, cell: Cell) {
        self.recount(from, cell.state(), count);
        if cell.state() == State::Ready {
            self.ready_from = self.ready_from.min(first);
        }
        let (mut first, end) = (first, first + count);
        while first < end {
            let page_end = (first / PAGE + 1) * PAGE;
            let next = end.min(page_end);
            self.fill_page(first, next - first, from, cell);
            first = next;
        }
    }

    /// Fills within one page.
    fn fill_page(&mut self, first: u64, count: u64, from: State, cell: Cell) {
        let index = first / PAGE;
        let at = match self.page_at(index) {
            Some(at) => at,
            None if cell == Cell::SETTLED => return,
            None => self.make_page(index),
        };
        let Some(page) = self.pages.get_mut(at) else {
            return;
        };
        let start = place(first);
        // Less than a page.
        let len = count as usize;
        if let Some(cells) = page.cells.get_mut(start..start + len) {
            debug_assert!(
                cells.iter().all(|bits| State::from_bits(*bits) == from),
                "{len} records from {first} on were not all {from:?}"
            );
            cells.fill(cell.0);
        }
        // Less than a page.
        let records = count as u32;
        if from == State::Settled {
            page.unsettled += records;
        }
        if cell.state() == State::Settled {
            page.unsettled -= records;
            if page.unsettled == 0 {
                self.give_up(at);
            }
        }
    }

    /// Puts one record into another state; returns its attempts.
    pub(super) fn set(&mut self, offset: u64, from: State, cell: Cell) {
        self.fill(offset, 1, from, cell);
    }

    /// Settles one record that is in `from`.
    #[inline]
    pub(super) fn settle(&mut self, offset: u64, from: State) {
        self.recount(from, State::Settled, 1);
        let Some(at) = self.page_at(offset / PAGE) else {
            return;
        };
        let Some(page) = self.pages.get_mut(at) else {
            return;
        };
        if let Some(bits) = page.cells.get_mut(place(offset)) {
            debug_assert_eq!(State::from_bits(*bits), from, "record {offset}");
            *bits = Cell::SETTLED.0;
        }
        page.unsettled -= 1;
        if page.unsettled == 0 {
            self.give_up(at);
        }
    }

    fn recount(&mut self, from: State, to: State, records: u64) {
        if from != State::Settled
            && let Some(count) = self.by_state.get_mut(from as usize)
        {
            *count -= records;
        }
        if to != State::Settled
            && let Some(count) = self.by_state.get_mut(to as usize)
        {
            *count += records;
        }
    }

    /// The first record from `offset` on, below `end`, that is not settled; else `end`.
    pub(super) fn next_unsettled(&self, offset: u64, end: u64) -> u64 {
        self.find(offset, |state| state != State::Settled)
            .map_or(end, |found| found.min(end))
    }

    /// The first record that is `Ready`.
    pub(super) fn first_ready(&mut self) -> Option<u64> {
        if self.count(State::Ready) == 0 {
            return None;
        }
        let found = self.find(self.ready_from, |state| state == State::Ready)?;
        self.ready_from = found;
        Some(found)
    }

    fn find(&self, offset: u64, fits: impl Fn(State) -> bool) -> Option<u64> {
        let index = offset / PAGE;
        let at = self.pages.partition_point(|page| page.index < index);
        self.pages.range(at..).find_map(|page| {
            let skip = if page.index == index {
                place(offset)
            } else {
                0
            };
            let mut cells = page.cells.get(skip..)?.iter();
            let found = cells.position(|bits| fits(State::from_bits(*bits)))?;
            Some(page.index * PAGE + (skip + found) as u64)
        })
    }

    /// All records of pages that hold unsettled ones, from `offset` on.
    fn cells_from(&self, offset: u64) -> impl Iterator<Item = (u64, Cell)> {
        let index = offset / PAGE;
        let at = self.pages.partition_point(|page| page.index < index);
        self.pages.range(at..).flat_map(move |page| {
            let base = page.index * PAGE;
            let skip = place(offset.max(base) - base);
            let skip = if page.index == index { skip } else { 0 };
            let cells = page.cells.iter().enumerate().skip(skip);
            cells.map(move |(at, bits)| (base + at as u64, Cell(*bits)))
        })
    }

    /// The unsettled records from `offset` on, with their attempts.
    pub(super) fn unsettled_from(&self, offset: u64) -> impl Iterator<Item = (u64, Cell)> {
        self.cells_from(offset)
            .filter(|(_, cell)| cell.state() != State::Settled)
    }

    /// Where the page of that index is in the list. Without settled pages between it is a subtraction.
    #[inline]
    fn page_at(&self, index: u64) -> Option<usize> {
        let first = self.pages.front()?.index;
        let guess = usize::try_from(index.checked_sub(first)?).ok()?;
        match self.pages.get(guess) {
            Some(page) if page.index == index => Some(guess),
            _ => self
                .pages
                .binary_search_by_key(&index, |page| page.index)
                .ok(),
        }
    }

    fn make_page(&mut self, index: u64) -> usize {
        let cells = self
            .spares
            .pop()
            .unwrap_or_else(|| Box::new([0; PAGE_CELLS]));
        let at = self.pages.partition_point(|page| page.index < index);
        let page = Page {
            index,
            unsettled: 0,
            cells,
        };
        self.pages.insert(at, page);
        at
    }

    fn give_up(&mut self, at: usize) {
        if let Some(page) = self.pages.remove(at)
            && self.spares.len() < SPARES_MAX
        {
            // All settled is all zero: as new.
            self.spares.push(page.cells);
        }
    }

    /// Counts everything again.
    pub(super) fn check(&self) {
        let mut by_state = [0; State::COUNT];
        for page in &self.pages {
            let mut unsettled = 0;
            for bits in page.cells.iter() {
                let state = State::from_bits(*bits);
                if state != State::Settled {
                    unsettled += 1;
                    if let Some(count) = by_state.get_mut(state as usize) {
                        *count += 1;
                    }
                }
            }
            assert!(unsettled > 0 && unsettled == page.unsettled, "page count");
        }
        assert_eq!(by_state, self.by_state, "records by state");
        let first = self.find(0, |state| state == State::Ready);
        assert!(first.is_none_or(|first| first >= self.ready_from), "hint");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_pages_are_given_up_and_cost_nothing() {
        let mut window = Window::default();
        let ready = Cell::new(State::Ready, 0);
        window.fill(10, 3 * PAGE, State::Settled, ready);
        assert_eq!((window.pages.len(), window.unsettled()), (4, 3 * PAGE));
        window.fill(PAGE, PAGE, State::Ready, Cell::SETTLED);
        assert_eq!(window.pages.len(), 3);
        assert_eq!(window.next_unsettled(PAGE, u64::MAX), 2 * PAGE);
        assert_eq!(window.state(PAGE + 5), State::Settled);
        assert_eq!(window.state(3 * PAGE + 9), State::Ready);
        assert_eq!(window.state(3 * PAGE + 10), State::Settled);
        window.check();
    }

    #[test]
    fn a_cell_holds_state_and_attempts_and_attempts_stay_at_their_limit() {
        let cell = Cell::new(State::Moving, 700);
        assert_eq!((cell.state(), cell.attempts()), (State::Moving, 700));
        let cell = Cell::new(State::Leased, u16::MAX);
        assert_eq!(
            (cell.state(), cell.attempts()),
            (State::Leased, ATTEMPTS_MAX)
        );
    }

    #[test]
    fn the_first_ready_record_is_found_again_when_an_earlier_one_returns() {
        let mut window = Window::default();
        window.fill(0, 100, State::Settled, Cell::new(State::Ready, 0));
        window.fill(0, 50, State::Ready, Cell::new(State::Leased, 1));
        assert_eq!(window.first_ready(), Some(50));
        window.set(7, State::Leased, Cell::new(State::Ready, 1));
        assert_eq!(window.first_ready(), Some(7));
        window.check();
    }
}
