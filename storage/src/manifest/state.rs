//! What the entries of a manifest add up to, and which entry may follow which.
//!
//! ```text
//! log      created ──Opened──▶ open ──Closed──▶ closed ──Opened──▶ open …      ──LogDeleted──▶ gone
//! segment  prepared ──Sealed──▶ sealed          ──SegmentDropped──▶ gone
//!             ├──Cut at it──▶ cut
//!             └──Cut before it──▶ quarantined
//! ```
//! A number of a log or segment is used once: the next free ones are kept, past all that are gone.
//! Entries are applied one by one; each is checked whole before it changes anything, and leaves
//! behind what takes it back, so that several together are all applied or none.

use std::collections::BTreeMap;

use millstream_protocol::{Durability, TopicName};

use super::entry::{Entry, Kept, Line, LogId, SegmentNumber};
use super::error::InvalidEntry;

/// Everything a manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Whose folder this is.
    pub folder_id: [u8; 16],
    /// Format of all that lies in the folder; 0 before anything was read.
    pub format: u32,
    /// Number of the last start; 0 before the first.
    pub boot_epoch: u32,
    /// The kernel's name for its own run, at that start.
    pub boot_id: [u8; 16],
    /// The logs there are.
    pub logs: BTreeMap<LogId, LogState>,
    /// The lowest number a new log may have.
    pub next_log: LogId,
    names: BTreeMap<String, LogId>,
}

/// What is known of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Drawn when it was made.
    pub incarnation: [u8; 16],
    /// When its records count as safe.
    pub durability: Durability,
    /// Name of its topic.
    pub name: String,
    /// Whether it was being written: what is past the proven part must be checked.
    pub open: bool,
    /// Offset of the next record, when it was closed and not opened since.
    pub next_offset: Option<u64>,
    /// The lowest number a new segment may have.
    pub next_segment: SegmentNumber,
    /// No offset given out so far reaches this one: the highest ceiling of all segments it ever had
    /// and the highest offset a cut jumped to.
    pub offset_ceiling: u64,
    /// Its segments, the prepared and the quarantined among them.
    pub segments: BTreeMap<SegmentNumber, SegmentState>,
    /// Where unclean stops ended it, oldest first. A cut is forgotten when its segments are dropped,
    /// unless what it cut off may have been acknowledged.
    pub cuts: Vec<CutState>,
    /// Gaps in it, as they were found. A gap is forgotten when its segment is dropped.
    pub damage: Vec<DamageState>,
}

/// A log without its lists, as a checkpoint has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogHead {
    pub(super) incarnation: [u8; 16],
    pub(super) durability: Durability,
    pub(super) name: String,
    pub(super) open: bool,
    pub(super) next_offset: Option<u64>,
    pub(super) next_segment: SegmentNumber,
    pub(super) offset_ceiling: u64,
}

/// What is known of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentState {
    /// Nonce of this use of the file.
    pub nonce: u64,
    /// Length of the file when it was prepared.
    pub len_bytes: u64,
    /// No offset given out in it reaches this one.
    pub offset_ceiling: u64,
    /// Whether a cut before it took it out of the log.
    pub quarantined: bool,
    /// Where it ends, once that is settled.
    pub end: Option<SegmentEnd>,
}

/// Where a segment ends. It is the manifest that says so, never the frames in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Its first offset.
    pub base_offset: u64,
    /// The offset behind its last record.
    pub end_offset: u64,
    /// The position behind its last frame.
    pub end_position: u32,
    /// How it came to end.
    pub kind: EndKind,
}

/// How a segment came to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// It was full, or its log was closed; a footer follows.
    Sealed {
        /// Length of the footer.
        footer_bytes: u32,
    },
    /// Recovery cut it. Nothing behind the end means anything.
    Cut,
}

/// One cut of a log, after an unclean stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutState {
    /// The segment that ends at the cut.
    pub segment: SegmentNumber,
    /// The offset of the cut. From here to `next_base_offset` there are no records, for ever.
    pub end_offset: u64,
    /// Segments that were behind it.
    pub quarantined: Vec<SegmentNumber>,
    /// First offset given out after it.
    pub next_base_offset: u64,
    /// Whether what was cut off may have been acknowledged.
    pub possibly_acknowledged: bool,
    /// Bytes that were cut off.
    pub cut_bytes: u64,
}

/// One gap in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamageState {
    /// The segment it lies in.
    pub segment: SegmentNumber,
    /// First offset that can't be read.
    pub first_offset: u64,
    /// The offset behind the gap.
    pub next_offset: u64,
    /// Where the gap begins in the segment.
    pub first_position: u32,
    /// Where it ends.
    pub next_position: u32,
}

/// What takes one change back.
#[derive(Debug)]
pub(super) enum Undo {
    /// Identity and boot of the folder.
    Folder([u8; 16], u32),
    Boot(u32, [u8; 16]),
    NextLog(LogId),
    /// A whole log, or that there was none.
    Log(LogId, Option<Box<LogState>>),
    /// Open mark, next offset, next segment, ceiling.
    Marks(LogId, Marks),
    Segment(LogId, SegmentNumber, Option<SegmentState>),
    Faults(LogId, Vec<CutState>, Vec<DamageState>),
}

/// The numbers of a log head that change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) open: bool,
    pub(super) next_offset: Option<u64>,
    pub(super) next_segment: SegmentNumber,
    pub(super) offset_ceiling: u64,
}

impl State {
    /// The log whose topic has this name.
    #[must_use]
    pub fn log_named(&self, name: &str) -> Option<(LogId, &LogState)> {
        let log = *self.names.get(name)?;
        Some((log, self.logs.get(&log)?))
    }

    /// Applies `entries` in order, all or none; gives what takes them back.
    pub(super) fn apply_all(&mut self, entries: &[Entry]) -> Result<Vec<Undo>, InvalidEntry> {
        let mut undo = Vec::new();
        for entry in entries {
            if let Err(reason) = self.apply(entry, &mut undo) {
                self.take_back(undo);
                return Err(reason);
            }
        }
        Ok(undo)
    }

    /// Takes back what [`apply_all`](Self::apply_all) did, if nothing was done since.
    pub(super) fn take_back(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            self.take_one_back(step);
        }
    }

    fn take_one_back(&mut self, step: Undo) {
        match step {
            Undo::Folder(id, format) => (self.folder_id, self.format) = (id, format),
            Undo::Boot(epoch, boot_id) => (self.boot_epoch, self.boot_id) = (epoch, boot_id),
            Undo::NextLog(log) => self.next_log = log,
            Undo::Log(log, state) => {
                if let Some(gone) = self.logs.remove(&log) {
                    self.names.remove(&gone.name);
                }
                if let Some(state) = state {
                    self.names.insert(state.name.clone(), log);
                    self.logs.insert(log, *state);
                }
            }
            Undo::Marks(log, marks) => {
                if let Some(state) = self.logs.get_mut(&log) {
                    state.set_marks(marks);
                }
            }
            Undo::Segment(log, segment, before) => {
                if let Some(state) = self.logs.get_mut(&log) {
                    match before {
                        Some(before) => state.segments.insert(segment, before),
                        None => state.segments.remove(&segment),
                    };
                }
            }
            Undo::Faults(log, cuts, damage) => {
                if let Some(state) = self.logs.get_mut(&log) {
                    (state.cuts, state.damage) = (cuts, damage);
                }
            }
        }
    }

    /// Applies one entry, or changes nothing.
    fn apply(&mut self, entry: &Entry, undo: &mut Vec<Undo>) -> Result<(), InvalidEntry> {
        let is_first = self.format == 0;
        if is_first != matches!(entry, Entry::Folder { .. }) {
            return Err(InvalidEntry::Folder);
        }
        match entry {
            Entry::Folder { id, format } => self.set_folder(*id, *format, undo),
            Entry::Boot { epoch, boot_id } => self.boot(*epoch, *boot_id, undo),
            Entry::LogCreated {
                log,
                incarnation,
                durability,
                name,
            } => {
                let head = LogHead {
                    incarnation: *incarnation,
                    durability: *durability,
                    name: name.clone(),
                    open: false,
                    next_offset: None,
                    next_segment: SegmentNumber(0),
                    offset_ceiling: 0,
                };
                self.create_log(*log, head, undo)
            }
            Entry::LogDeleted { log } => self.delete_log(*log, undo),
            Entry::SegmentPrepared { log, .. }
            | Entry::Opened { log }
            | Entry::Closed { log, .. }
            | Entry::Sealed { log, .. }
            | Entry::Cut { log, .. }
            | Entry::Damaged { log, .. }
            | Entry::SegmentDropped { log, .. } => self.log_mut(*log)?.apply(*log, entry, undo),
        }
    }

    fn set_folder(
        &mut self,
        id: [u8; 16],
        format: u32,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        if format == 0 {
            return Err(InvalidEntry::Folder);
        }
        undo.push(Undo::Folder(self.folder_id, self.format));
        (self.folder_id, self.format) = (id, format);
        Ok(())
    }

    fn boot(
        &mut self,
        epoch: u32,
        boot_id: [u8; 16],
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        if epoch <= self.boot_epoch {
            return Err(InvalidEntry::EpochNotRising {
                epoch,
                highest: self.boot_epoch,
            });
        }
        undo.push(Undo::Boot(self.boot_epoch, self.boot_id));
        (self.boot_epoch, self.boot_id) = (epoch, boot_id);
        Ok(())
    }

    fn create_log(
        &mut self,
        log: LogId,
        head: LogHead,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        let used = InvalidEntry::LogNumberUsed {
            log,
            next: self.next_log,
        };
        let after = log
            .0
            .checked_add(1)
            .map(LogId)
            .filter(|_| log >= self.next_log)
            .ok_or(used)?;
        self.add_log(log, head)?;
        undo.push(Undo::Log(log, None));
        undo.push(Undo::NextLog(self.next_log));
        self.next_log = after;
        Ok(())
    }

    fn add_log(&mut self, log: LogId, head: LogHead) -> Result<(), InvalidEntry> {
        TopicName::parse(&head.name).map_err(|reason| InvalidEntry::Name { reason })?;
        if self.names.contains_key(&head.name) {
            return Err(InvalidEntry::NameTaken { name: head.name });
        }
        self.names.insert(head.name.clone(), log);
        self.logs.insert(log, LogState::new(head));
        Ok(())
    }

    fn delete_log(&mut self, log: LogId, undo: &mut Vec<Undo>) -> Result<(), InvalidEntry> {
        let state = self
            .logs
            .remove(&log)
            .ok_or(InvalidEntry::NoSuchLog { log })?;
        self.names.remove(&state.name);
        undo.push(Undo::Log(log, Some(Box::new(state))));
        Ok(())
    }

    fn log_mut(&mut self, log: LogId) -> Result<&mut LogState, InvalidEntry> {
        self.logs
            .get_mut(&log)
            .ok_or(InvalidEntry::NoSuchLog { log })
    }

    /// Takes one line of a checkpoint in.
    pub(super) fn restore(&mut self, line: Line) -> Result<(), InvalidEntry> {
        let kept = match line {
            Line::Event(entry @ (Entry::Folder { .. } | Entry::Boot { .. })) => {
                return self.apply(&entry, &mut Vec::new());
            }
            Line::Event(_) => return Err(InvalidEntry::Misplaced),
            Line::Kept(_) if self.format == 0 => return Err(InvalidEntry::Folder),
            Line::Kept(kept) => kept,
        };
        match kept {
            Kept::NextLog(log) => self.next_log = log,
            Kept::Log(log, head) => {
                if log >= self.next_log || self.logs.contains_key(&log) {
                    return Err(InvalidEntry::LogNumberUsed {
                        log,
                        next: self.next_log,
                    });
                }
                self.add_log(log, head)?;
            }
            Kept::Segment(log, segment, state) => {
                let log_state = self.log_mut(log)?;
                let next = log_state.next_segment;
                if segment >= next || log_state.segments.contains_key(&segment) {
                    return Err(InvalidEntry::SegmentNumberUsed { log, segment, next });
                }
                log_state.segments.insert(segment, state);
            }
            Kept::Cut(log, cut) => self.log_mut(log)?.cuts.push(cut),
            Kept::Damage(log, damage) => self.log_mut(log)?.damage.push(damage),
        }
        Ok(())
    }

    /// The lines of a checkpoint: restored in this order into an empty state, they give this one.
    pub(super) fn checkpoint(&self) -> impl Iterator<Item = Line> + '_ {
        let folder = Entry::Folder {
            id: self.folder_id,
            format: self.format,
        };
        let boot = (self.boot_epoch != 0).then_some(Entry::Boot {
            epoch: self.boot_epoch,
            boot_id: self.boot_id,
        });
        let folder = std::iter::once(folder).chain(boot).map(Line::Event);
        let logs = self
            .logs
            .iter()
            .flat_map(|(log, state)| state.checkpoint(*log));
        folder.chain(
            std::iter::once(Kept::NextLog(self.next_log))
                .chain(logs)
                .map(Line::Kept),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::samples;
    use proptest::prelude::*;

    const A: LogId = LogId(3);

    fn folder() -> Entry {
        Entry::Folder {
            id: [1; 16],
            format: 1,
        }
    }

    fn created(log: LogId, name: &str) -> Entry {
        let (incarnation, durability) = ([2; 16], Durability::Synced);
        Entry::LogCreated {
            log,
            incarnation,
            durability,
            name: name.to_owned(),
        }
    }

    fn prepared(segment: u32, offset_ceiling: u64) -> Entry {
        let segment = SegmentNumber(segment);
        Entry::SegmentPrepared {
            log: A,
            segment,
            nonce: 7,
            len_bytes: 1000,
            offset_ceiling,
        }
    }

    fn sealed(segment: u32, base_offset: u64, end_offset: u64) -> Entry {
        let segment = SegmentNumber(segment);
        let (end_position, footer_bytes) = (800, 200);
        Entry::Sealed {
            log: A,
            segment,
            base_offset,
            end_offset,
            end_position,
            footer_bytes,
        }
    }

    fn cut(segment: u32, ends: (u64, u64), quarantined: &[u32], next_base_offset: u64) -> Entry {
        Entry::Cut {
            log: A,
            segment: SegmentNumber(segment),
            base_offset: ends.0,
            end_offset: ends.1,
            end_position: 500,
            quarantined: quarantined.iter().copied().map(SegmentNumber).collect(),
            next_base_offset,
            possibly_acknowledged: false,
            cut_bytes: 33,
        }
    }

    fn gap(segment: u32, offsets: (u64, u64), positions: (u32, u32)) -> Entry {
        Entry::Damaged {
            log: A,
            segment: SegmentNumber(segment),
            first_offset: offsets.0,
            next_offset: offsets.1,
            first_position: positions.0,
            next_position: positions.1,
        }
    }

    fn dropped(segment: u32) -> Entry {
        Entry::SegmentDropped {
            log: A,
            segment: SegmentNumber(segment),
        }
    }

    /// The state after `entries`, all of which follow.
    fn after(entries: &[Entry]) -> State {
        let mut state = State::default();
        state.apply_all(&[folder(), created(A, "orders")]).unwrap();
        state.apply_all(entries).unwrap();
        state
    }

    fn refusal(state: &State, entry: Entry) -> InvalidEntry {
        let mut tried = state.clone();
        let reason = tried.apply_all(&[entry]).unwrap_err();
        assert_eq!(&tried, state, "a refused entry changes nothing");
        reason
    }

    fn log(state: &State) -> &LogState {
        state.logs.get(&A).unwrap()
    }

    #[test]
    fn the_folders_entry_comes_first_and_once() {
        let mut state = State::default();
        assert_eq!(
            state.apply_all(&[created(A, "a")]).unwrap_err(),
            InvalidEntry::Folder
        );
        let zero = Entry::Folder {
            id: [1; 16],
            format: 0,
        };
        assert_eq!(state.apply_all(&[zero]).unwrap_err(), InvalidEntry::Folder);
        state.apply_all(&[folder()]).unwrap();
        assert_eq!(refusal(&state, folder()), InvalidEntry::Folder);
    }

    #[test]
    fn boot_epochs_rise() {
        let boot = |epoch| Entry::Boot {
            epoch,
            boot_id: [9; 16],
        };
        let state = after(&[boot(1), boot(5)]);
        for epoch in [0, 4, 5] {
            let reason = refusal(&state, boot(epoch));
            assert_eq!(reason, InvalidEntry::EpochNotRising { epoch, highest: 5 });
        }
    }

    #[test]
    fn a_log_number_is_used_once() {
        let state = after(&[Entry::LogDeleted { log: A }]);
        assert_eq!(state.next_log, LogId(4));
        let used = |log| InvalidEntry::LogNumberUsed {
            log,
            next: LogId(4),
        };
        assert_eq!(refusal(&state, created(A, "orders")), used(A));
        assert_eq!(refusal(&state, created(LogId(0), "orders")), used(LogId(0)));
        let last = LogId(u32::MAX);
        assert_eq!(refusal(&state, created(last, "orders")), used(last));
        let state = after(&[Entry::LogDeleted { log: A }, created(LogId(4), "orders")]);
        assert_eq!(state.log_named("orders").unwrap().0, LogId(4));
    }

    #[test]
    fn names_are_topic_names_and_unique() {
        let state = after(&[]);
        let taken = InvalidEntry::NameTaken {
            name: "orders".to_owned(),
        };
        assert_eq!(refusal(&state, created(LogId(9), "orders")), taken);
        for name in ["", "a/b", "..", " a", "a\n", &"x".repeat(256)] {
            let reason = refusal(&state, created(LogId(9), name));
            assert!(matches!(reason, InvalidEntry::Name { .. }), "{name:?}");
        }
        assert!(state.log_named("other").is_none());
    }

    #[test]
    fn the_open_mark_goes_back_and_forth() {
        let opened = Entry::Opened { log: A };
        let closed = |next_offset| Entry::Closed {
            log: A,
            next_offset,
        };
        let state = after(&[prepared(0, 250)]);
        assert_eq!(
            refusal(&state, closed(0)),
            InvalidEntry::OpenMark { log: A }
        );
        let state = after(&[opened.clone(), prepared(0, 250), sealed(0, 0, 60)]);
        assert_eq!(
            refusal(&state, opened.clone()),
            InvalidEntry::OpenMark { log: A }
        );
        for offset in [59, 251] {
            let reason = refusal(&state, closed(offset));
            assert_eq!(reason, InvalidEntry::Offsets { log: A, offset });
        }
        let state = after(&[
            opened.clone(),
            prepared(0, 250),
            sealed(0, 0, 60),
            closed(60),
        ]);
        assert!(!log(&state).open);
        assert_eq!(log(&state).next_offset, Some(60));
        let state = after(&[opened.clone(), closed(0), opened]);
        assert_eq!((log(&state).open, log(&state).next_offset), (true, None));
    }

    #[test]
    fn a_segment_number_is_used_once() {
        let state = after(&[prepared(2, 10), dropped(2)]);
        for segment in [0, 2, u32::MAX] {
            let reason = refusal(&state, prepared(segment, 20));
            let (segment, next) = (SegmentNumber(segment), SegmentNumber(3));
            assert_eq!(
                reason,
                InvalidEntry::SegmentNumberUsed {
                    log: A,
                    segment,
                    next
                }
            );
        }
        assert_eq!(
            log(&after(&[prepared(2, 10), prepared(7, 20)])).next_segment,
            SegmentNumber(8)
        );
    }

    #[test]
    fn the_ceiling_outlives_its_segment() {
        let state = after(&[prepared(0, 500), dropped(0), prepared(1, 300), dropped(1)]);
        assert_eq!(log(&state).offset_ceiling, 500);
    }

    #[test]
    fn a_segment_ends_once() {
        let state = after(&[prepared(0, 250), sealed(0, 0, 60)]);
        let finished = InvalidEntry::SegmentFinished {
            log: A,
            segment: SegmentNumber(0),
        };
        assert_eq!(refusal(&state, sealed(0, 0, 60)), finished);
        assert_eq!(refusal(&state, cut(0, (0, 60), &[], 250)), finished);
        let none = InvalidEntry::NoSuchSegment {
            log: A,
            segment: SegmentNumber(1),
        };
        assert_eq!(refusal(&state, sealed(1, 60, 70)), none);
    }

    #[test]
    fn ends_do_not_overlap_and_stay_below_the_ceiling() {
        let state = after(&[
            prepared(0, 100),
            prepared(1, 200),
            prepared(2, 300),
            sealed(1, 50, 70),
        ]);
        let wrong = |offset| InvalidEntry::Offsets { log: A, offset };
        assert_eq!(refusal(&state, sealed(0, 0, 51)), wrong(51));
        assert_eq!(refusal(&state, sealed(2, 69, 80)), wrong(69));
        assert_eq!(refusal(&state, sealed(2, 70, 301)), wrong(301));
        assert_eq!(refusal(&state, sealed(0, 20, 10)), wrong(10));
        state
            .clone()
            .apply_all(&[sealed(0, 0, 50), sealed(2, 70, 300)])
            .unwrap();
    }

    #[test]
    fn an_end_fits_its_file() {
        let mut state = after(&[prepared(0, 100)]);
        let sealed = |end_position, footer_bytes| Entry::Sealed {
            log: A,
            segment: SegmentNumber(0),
            base_offset: 0,
            end_offset: 1,
            end_position,
            footer_bytes,
        };
        let reason = InvalidEntry::Positions {
            log: A,
            segment: SegmentNumber(0),
        };
        assert_eq!(refusal(&state, sealed(801, 200)), reason);
        assert_eq!(refusal(&state, sealed(u32::MAX, u32::MAX)), reason);
        state.apply_all(&[sealed(800, 200)]).unwrap();
    }

    #[test]
    fn a_cut_ends_its_segment_and_takes_out_what_follows() {
        let prepared = [prepared(0, 100), prepared(1, 200), prepared(2, 300)];
        let state = after(&[&prepared[..], &[cut(0, (0, 60), &[1, 2], 900)]].concat());
        let log = log(&state);
        assert_eq!(
            log.segments[&SegmentNumber(0)].end.unwrap().kind,
            EndKind::Cut
        );
        assert!(log.segments[&SegmentNumber(1)].quarantined);
        assert!(log.segments[&SegmentNumber(2)].quarantined);
        assert_eq!(log.offset_ceiling, 900);
        assert_eq!(
            (log.cuts[0].end_offset, log.cuts[0].next_base_offset),
            (60, 900)
        );
        let finished = InvalidEntry::SegmentFinished {
            log: A,
            segment: SegmentNumber(1),
        };
        assert_eq!(refusal(&state, sealed(1, 60, 70)), finished);
    }

    #[test]
    fn a_cut_takes_out_only_what_is_behind_it_and_unfinished() {
        let state = after(&[
            prepared(0, 100),
            prepared(1, 200),
            prepared(2, 300),
            sealed(2, 90, 95),
        ]);
        let finished = |segment| InvalidEntry::SegmentFinished {
            log: A,
            segment: SegmentNumber(segment),
        };
        assert_eq!(refusal(&state, cut(1, (60, 70), &[0], 300)), finished(0));
        assert_eq!(refusal(&state, cut(1, (60, 70), &[1], 300)), finished(1));
        assert_eq!(refusal(&state, cut(0, (0, 60), &[2], 300)), finished(2));
        assert_eq!(refusal(&state, cut(0, (0, 60), &[1, 1], 300)), finished(1));
        let none = InvalidEntry::NoSuchSegment {
            log: A,
            segment: SegmentNumber(3),
        };
        assert_eq!(refusal(&state, cut(0, (0, 60), &[3], 300)), none);
        let back = InvalidEntry::Offsets { log: A, offset: 59 };
        assert_eq!(refusal(&state, cut(0, (0, 60), &[1], 59)), back);
    }

    #[test]
    fn a_cut_is_forgotten_with_its_segments_unless_it_may_have_been_acknowledged() {
        let mut suspect = cut(0, (0, 60), &[1], 900);
        if let Entry::Cut {
            possibly_acknowledged,
            ..
        } = &mut suspect
        {
            *possibly_acknowledged = true;
        }
        for (entry, left) in [(cut(0, (0, 60), &[1], 900), 0), (suspect, 1)] {
            let mut state = after(&[prepared(0, 100), prepared(1, 200), entry, dropped(0)]);
            assert_eq!(log(&state).cuts.len(), 1, "a quarantined segment is left");
            state.apply_all(&[dropped(1)]).unwrap();
            assert_eq!(log(&state).cuts.len(), left);
        }
    }

    #[test]
    fn a_gap_is_kept_once_and_goes_with_its_segment() {
        let found = gap(0, (10, 20), (100, 200));
        let state = after(&[prepared(0, 100), found.clone(), found.clone()]);
        assert_eq!(log(&state).damage.len(), 1);
        let offsets = InvalidEntry::Offsets { log: A, offset: 10 };
        assert_eq!(refusal(&state, gap(0, (10, 10), (100, 200))), offsets);
        let positions = InvalidEntry::Positions {
            log: A,
            segment: SegmentNumber(0),
        };
        assert_eq!(refusal(&state, gap(0, (10, 20), (200, 200))), positions);
        assert_eq!(refusal(&state, gap(0, (10, 20), (200, 1001))), positions);
        assert!(
            log(&after(&[prepared(0, 100), found, dropped(0)]))
                .damage
                .is_empty()
        );
    }

    #[test]
    fn entries_about_a_log_that_is_not_there_are_refused() {
        let state = after(&[Entry::LogDeleted { log: A }]);
        let none = InvalidEntry::NoSuchLog { log: A };
        for entry in [
            Entry::LogDeleted { log: A },
            Entry::Opened { log: A },
            Entry::Closed {
                log: A,
                next_offset: 0,
            },
            prepared(0, 1),
            sealed(0, 0, 1),
            cut(0, (0, 1), &[], 1),
            gap(0, (0, 1), (0, 1)),
            dropped(0),
        ] {
            assert_eq!(refusal(&state, entry), none);
        }
    }

    proptest! {
        /// Groups are applied whole or not at all, can be taken back, and a checkpoint says the same.
        #[test]
        fn groups_are_all_or_none(commits in samples::commits()) {
            let mut state = after(&[]);
            for commit in commits {
                let before = state.clone();
                match state.apply_all(&commit) {
                    Err(_) => prop_assert_eq!(&state, &before),
                    Ok(undo) => {
                        let applied = state.clone();
                        state.take_back(undo);
                        prop_assert_eq!(&state, &before);
                        state = applied;
                    }
                }
                let mut restored = State::default();
                for line in state.checkpoint() {
                    restored.restore(line).unwrap();
                }
                prop_assert_eq!(&restored, &state);
            }
        }

        /// Whatever a file says that passed its checksums, it is refused or taken, never a panic.
        #[test]
        fn lines_in_any_order_do_no_harm(lines in prop::collection::vec(samples::line(), 0..40)) {
            let mut state = after(&[]);
            for line in lines {
                let before = state.clone();
                if state.restore(line).is_err() {
                    prop_assert_eq!(&state, &before);
                }
            }
        }
    }
}
