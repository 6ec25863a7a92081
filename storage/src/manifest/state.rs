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
    /// No record that is still to come is below it: the next offset when it was last closed, or where
    /// a segment that was dropped since ended.
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
mod tests;
