//! What the entries about one log add up to. See [`State`](super::State) for the picture.

use std::collections::BTreeMap;

use super::entry::{Entry, Kept, LogId, SegmentNumber};
use super::error::InvalidEntry;
use super::state::{
    CutState, DamageState, EndKind, LogHead, LogState, Marks, SegmentEnd, SegmentState, Undo,
};

impl LogState {
    pub(super) fn new(head: LogHead) -> Self {
        Self {
            incarnation: head.incarnation,
            durability: head.durability,
            name: head.name,
            open: head.open,
            next_offset: head.next_offset,
            next_segment: head.next_segment,
            offset_ceiling: head.offset_ceiling,
            segments: BTreeMap::new(),
            cuts: Vec::new(),
            damage: Vec::new(),
        }
    }

    fn head(&self) -> LogHead {
        LogHead {
            incarnation: self.incarnation,
            durability: self.durability,
            name: self.name.clone(),
            open: self.open,
            next_offset: self.next_offset,
            next_segment: self.next_segment,
            offset_ceiling: self.offset_ceiling,
        }
    }

    fn marks(&self) -> Marks {
        Marks {
            open: self.open,
            next_offset: self.next_offset,
            next_segment: self.next_segment,
            offset_ceiling: self.offset_ceiling,
        }
    }

    pub(super) fn set_marks(&mut self, marks: Marks) {
        (self.open, self.next_offset) = (marks.open, marks.next_offset);
        (self.next_segment, self.offset_ceiling) = (marks.next_segment, marks.offset_ceiling);
    }

    fn faults(&self, log: LogId) -> Undo {
        Undo::Faults(log, self.cuts.clone(), self.damage.clone())
    }

    fn segment(&self, log: LogId, segment: SegmentNumber) -> Result<SegmentState, InvalidEntry> {
        self.segments
            .get(&segment)
            .copied()
            .ok_or(InvalidEntry::NoSuchSegment { log, segment })
    }

    /// A segment that is still to get its end.
    fn unfinished(&self, log: LogId, segment: SegmentNumber) -> Result<SegmentState, InvalidEntry> {
        let state = self.segment(log, segment)?;
        if state.quarantined || state.end.is_some() {
            return Err(InvalidEntry::SegmentFinished { log, segment });
        }
        Ok(state)
    }

    /// Applies an entry about this log, or changes nothing.
    pub(super) fn apply(
        &mut self,
        log: LogId,
        entry: &Entry,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        match entry {
            Entry::Opened { .. } => {
                let marks = Marks {
                    open: true,
                    ..self.marks()
                };
                self.switch(log, marks, undo)
            }
            Entry::Closed { next_offset, .. } => self.close(log, *next_offset, undo),
            Entry::SegmentPrepared {
                segment,
                nonce,
                len_bytes,
                offset_ceiling,
                ..
            } => {
                let state = SegmentState {
                    nonce: *nonce,
                    len_bytes: *len_bytes,
                    offset_ceiling: *offset_ceiling,
                    quarantined: false,
                    end: None,
                };
                self.prepare(log, *segment, state, undo)
            }
            Entry::Sealed {
                segment,
                base_offset,
                end_offset,
                end_position,
                footer_bytes,
                ..
            } => {
                let end = SegmentEnd {
                    base_offset: *base_offset,
                    end_offset: *end_offset,
                    end_position: *end_position,
                    kind: EndKind::Sealed {
                        footer_bytes: *footer_bytes,
                    },
                };
                let sealed = self.ended(log, *segment, end)?;
                undo.push(Undo::Segment(
                    log,
                    *segment,
                    self.segments.insert(*segment, sealed),
                ));
                Ok(())
            }
            Entry::Cut { .. } => self.cut(log, entry, undo),
            Entry::Damaged { .. } => self.damage(log, entry, undo),
            Entry::SegmentDropped { segment, .. } => self.drop_segment(log, *segment, undo),
            Entry::Folder { .. }
            | Entry::Boot { .. }
            | Entry::LogCreated { .. }
            | Entry::LogDeleted { .. } => Err(InvalidEntry::Misplaced),
        }
    }

    /// Opens what is closed or closes what is open.
    fn switch(
        &mut self,
        log: LogId,
        marks: Marks,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        if self.open == marks.open {
            return Err(InvalidEntry::OpenMark { log });
        }
        undo.push(Undo::Marks(log, self.marks()));
        self.set_marks(marks);
        Ok(())
    }

    fn close(
        &mut self,
        log: LogId,
        next_offset: u64,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        let ends = self.segments.values().filter_map(|segment| segment.end);
        let highest = ends.map(|end| end.end_offset).max().unwrap_or(0);
        if next_offset < highest || next_offset > self.offset_ceiling {
            return Err(InvalidEntry::Offsets {
                log,
                offset: next_offset,
            });
        }
        let marks = Marks {
            open: false,
            next_offset: Some(next_offset),
            ..self.marks()
        };
        self.switch(log, marks, undo)
    }

    fn prepare(
        &mut self,
        log: LogId,
        segment: SegmentNumber,
        state: SegmentState,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        let next = self.next_segment;
        let used = InvalidEntry::SegmentNumberUsed { log, segment, next };
        let after = segment
            .0
            .checked_add(1)
            .map(SegmentNumber)
            .filter(|_| segment >= next)
            .ok_or(used)?;
        if !(1..=u64::from(u32::MAX)).contains(&state.len_bytes) {
            return Err(InvalidEntry::Positions { log, segment });
        }
        undo.push(Undo::Segment(log, segment, None));
        undo.push(Undo::Marks(log, self.marks()));
        self.segments.insert(segment, state);
        self.next_segment = after;
        self.offset_ceiling = self.offset_ceiling.max(state.offset_ceiling);
        Ok(())
    }

    /// The segment as it will be with this end, which is checked against its neighbours.
    fn ended(
        &self,
        log: LogId,
        segment: SegmentNumber,
        end: SegmentEnd,
    ) -> Result<SegmentState, InvalidEntry> {
        let state = self.unfinished(log, segment)?;
        let footer_bytes = match end.kind {
            EndKind::Sealed { footer_bytes } => footer_bytes,
            EndKind::Cut => 0,
        };
        if u64::from(end.end_position) + u64::from(footer_bytes) > state.len_bytes {
            return Err(InvalidEntry::Positions { log, segment });
        }
        let before = self
            .segments
            .range(..segment)
            .rev()
            .find_map(|(_, other)| other.end);
        let after = self
            .segments
            .range(segment..)
            .find_map(|(_, other)| other.end);
        if before.is_some_and(|before| before.end_offset > end.base_offset) {
            return Err(InvalidEntry::Offsets {
                log,
                offset: end.base_offset,
            });
        }
        let passes_next = after.is_some_and(|after| after.base_offset < end.end_offset);
        if end.end_offset < end.base_offset || end.end_offset > self.offset_ceiling || passes_next {
            return Err(InvalidEntry::Offsets {
                log,
                offset: end.end_offset,
            });
        }
        Ok(SegmentState {
            end: Some(end),
            ..state
        })
    }

    fn cut(&mut self, log: LogId, entry: &Entry, undo: &mut Vec<Undo>) -> Result<(), InvalidEntry> {
        let Entry::Cut {
            segment,
            base_offset,
            end_offset,
            end_position,
            quarantined,
            next_base_offset,
            possibly_acknowledged,
            cut_bytes,
            ..
        } = entry
        else {
            return Err(InvalidEntry::Misplaced);
        };
        let (base_offset, end_offset) = (*base_offset, *end_offset);
        let end = SegmentEnd {
            base_offset,
            end_offset,
            end_position: *end_position,
            kind: EndKind::Cut,
        };
        let ended = self.ended(log, *segment, end)?;
        if *next_base_offset < end_offset {
            return Err(InvalidEntry::Offsets {
                log,
                offset: *next_base_offset,
            });
        }
        let mut last = *segment;
        for quarantined in quarantined {
            self.unfinished(log, *quarantined)?;
            // Behind the cut, in rising order, so none comes twice.
            if *quarantined <= last {
                return Err(InvalidEntry::SegmentFinished {
                    log,
                    segment: *quarantined,
                });
            }
            last = *quarantined;
        }
        undo.push(self.faults(log));
        undo.push(Undo::Marks(log, self.marks()));
        undo.push(Undo::Segment(
            log,
            *segment,
            self.segments.insert(*segment, ended),
        ));
        for number in quarantined {
            if let Some(state) = self.segments.get_mut(number) {
                undo.push(Undo::Segment(log, *number, Some(*state)));
                state.quarantined = true;
            }
        }
        self.offset_ceiling = self.offset_ceiling.max(*next_base_offset);
        self.cuts.push(CutState {
            segment: *segment,
            end_offset,
            quarantined: quarantined.clone(),
            next_base_offset: *next_base_offset,
            possibly_acknowledged: *possibly_acknowledged,
            cut_bytes: *cut_bytes,
        });
        Ok(())
    }

    fn damage(
        &mut self,
        log: LogId,
        entry: &Entry,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        let Entry::Damaged {
            segment,
            first_offset,
            next_offset,
            first_position,
            next_position,
            ..
        } = entry
        else {
            return Err(InvalidEntry::Misplaced);
        };
        let state = self.segment(log, *segment)?;
        if first_offset >= next_offset {
            return Err(InvalidEntry::Offsets {
                log,
                offset: *next_offset,
            });
        }
        if first_position >= next_position || u64::from(*next_position) > state.len_bytes {
            return Err(InvalidEntry::Positions {
                log,
                segment: *segment,
            });
        }
        let gap = DamageState {
            segment: *segment,
            first_offset: *first_offset,
            next_offset: *next_offset,
            first_position: *first_position,
            next_position: *next_position,
        };
        // The same gap is found at every start.
        if !self.damage.contains(&gap) {
            undo.push(self.faults(log));
            self.damage.push(gap);
        }
        Ok(())
    }

    fn drop_segment(
        &mut self,
        log: LogId,
        segment: SegmentNumber,
        undo: &mut Vec<Undo>,
    ) -> Result<(), InvalidEntry> {
        let dropped = self.segment(log, segment)?;
        // What was in it is known to be below, also when no segment is left to say so.
        if let Some(end) = dropped.end {
            undo.push(Undo::Marks(log, self.marks()));
            self.next_offset = self.next_offset.max(Some(end.end_offset));
        }
        undo.push(self.faults(log));
        undo.push(Undo::Segment(log, segment, Some(dropped)));
        self.segments.remove(&segment);
        self.damage.retain(|gap| gap.segment != segment);
        let left = &self.segments;
        self.cuts.retain(|cut| {
            cut.possibly_acknowledged
                || left.contains_key(&cut.segment)
                || cut
                    .quarantined
                    .iter()
                    .any(|number| left.contains_key(number))
        });
        Ok(())
    }

    /// The lines of a checkpoint about this log.
    pub(super) fn checkpoint(&self, log: LogId) -> impl Iterator<Item = Kept> + '_ {
        let head = std::iter::once(Kept::Log(log, self.head()));
        let segments = self
            .segments
            .iter()
            .map(move |(n, state)| Kept::Segment(log, *n, *state));
        let cuts = self.cuts.iter().map(move |cut| Kept::Cut(log, cut.clone()));
        let damage = self.damage.iter().map(move |gap| Kept::Damage(log, *gap));
        head.chain(segments).chain(cuts).chain(damage)
    }
}
