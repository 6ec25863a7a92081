//! After an unclean stop: where each open log ends, what is kept, what is cut.
//!
//! For a log whose open mark was never cleared (S3): walk the segments without a known end, in
//! order; decide by [`crate::verdict`] where the log ends; write what is kept again and sync it;
//! copy what is cut to `quarantine/`; then one manifest commit states all of it, with the ceiling
//! that no offset given out before can have reached (L3, L4). Nothing is served before that.

use std::fmt;
use std::io;
use std::sync::Arc;

use millstream_protocol::frame::{FrameKind, FrameSeed, check_stored};
use millstream_protocol::limits::FRAME_HEADER_BYTES;
use millstream_protocol::{Offset, TopicName};

use crate::folder::{Access, Folder};
use crate::layout::{
    FRAMES_START, Identity, PAGE_BYTES, SLOT_POSITIONS, segment_len, segment_name,
};
use crate::manifest::{Entry, LogId, LogState, SegmentNumber};
use crate::slot::Slot;
use crate::still::Still;
use crate::sync::{CommittedRun, Extend, Region};
use crate::verdict::{Found, Stopped, Verdict, verdict};

const HEADER: u32 = FRAME_HEADER_BYTES as u32;

/// Folder into which what recovery cut is copied.
pub(crate) const QUARANTINE: &str = "quarantine";

/// What recovery found in one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecovery {
    /// The topic.
    pub topic: TopicName,
    /// Records in the segments that had to be looked at, all kept.
    pub kept_records: u64,
    /// Offset behind the last record kept.
    pub end_offset: Offset,
    /// Offset of the next record.
    pub next_offset: Offset,
    /// Bytes cut off; a copy is in `quarantine/`.
    pub cut_bytes: u64,
    /// Whether a publisher may have been told that what was cut is on disk.
    pub possibly_acknowledged: bool,
    /// Records lost to damage below the proven watermark: first offset and the one behind the last.
    pub damaged: Vec<(Offset, Offset)>,
}

impl fmt::Display for LogRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "topic {:?} was open at an unclean stop: {} records looked at and kept, the last before offset {}; new ones start at {}",
            self.topic.as_str(),
            self.kept_records,
            self.end_offset,
            self.next_offset
        )?;
        if self.cut_bytes > 0 {
            write!(
                f,
                "; {} bytes of unfinished writes were cut and copied to {QUARANTINE}/{}",
                self.cut_bytes,
                if self.possibly_acknowledged {
                    ", some of which may have been acknowledged"
                } else {
                    ", none of which was acknowledged"
                }
            )?;
        }
        if self.cut_bytes == 0 && self.possibly_acknowledged {
            f.write_str(
                "; more may have been acknowledged, but the pages that would tell are damaged",
            )?;
        }
        for (first, next) in &self.damaged {
            write!(
                f,
                "; records {first} to {} are damaged",
                next.0.saturating_sub(1)
            )?;
        }
        Ok(())
    }
}

/// A log to recover, as the manifest knows it.
pub(crate) struct OpenLog<'a> {
    pub(crate) folder: &'a dyn Folder,
    pub(crate) folder_id: [u8; 16],
    pub(crate) boot_epoch: u32,
    pub(crate) id: LogId,
    pub(crate) name: TopicName,
    pub(crate) state: &'a LogState,
}

/// What is to be written to the manifest, and what may be removed afterwards.
pub(crate) struct Recovered {
    pub(crate) entries: Vec<Entry>,
    pub(crate) unused: Vec<SegmentNumber>,
    pub(crate) report: LogRecovery,
}

/// One segment as it was found.
struct Walked {
    number: SegmentNumber,
    region: Arc<Region>,
    base_offset: Offset,
    end_position: u32,
    end_offset: Offset,
    /// Everything before it was covered by a finished sync.
    proven_position: u32,
    verdict: Verdict,
    /// Bytes written behind the end, of a segment that is to be cut there.
    junk_bytes: u64,
    damaged: Option<Entry>,
}

impl OpenLog<'_> {
    /// Finds the end of the log and makes it durable. The caller commits the entries.
    pub(crate) fn recover(&self) -> io::Result<Recovered> {
        let mut follows = None;
        let mut kept: Vec<Walked> = Vec::new();
        let mut behind = Vec::new();
        let mut ended = false;
        for number in self.unsealed() {
            if ended {
                behind.push(number);
                continue;
            }
            let walked = self.walk(number, follows)?;
            follows = Some(walked.end_offset);
            ended = walked.verdict != Verdict::Sealed;
            kept.push(walked);
        }
        for walked in &mut kept {
            self.keep(walked)?;
        }
        self.state_end(kept, behind)
    }

    /// Segments whose end the manifest does not know, oldest first.
    fn unsealed(&self) -> Vec<SegmentNumber> {
        self.state
            .segments
            .iter()
            .filter(|(_, segment)| segment.end.is_none() && !segment.quarantined)
            .map(|(number, _)| *number)
            .collect()
    }

    /// Where the first of them starts at the earliest.
    fn expected_base(&self) -> Offset {
        let ends = self
            .state
            .segments
            .values()
            .filter_map(|segment| segment.end.as_ref().map(|end| end.end_offset));
        let cuts = self.state.cuts.iter().map(|cut| cut.next_base_offset);
        let closed = self.state.next_offset.into_iter();
        Offset(ends.chain(cuts).chain(closed).max().unwrap_or(0))
    }

    /// Where a run's first segment starts: its first frame says (S5). That may be behind a jump that
    /// an earlier unclean stop made without a cut, which no entry states any more.
    fn first_base(&self, region: &Arc<Region>, seed: FrameSeed) -> Offset {
        let expected = self.expected_base();
        let mut base = None;
        CommittedRun::at(region, FRAMES_START).extend_if(|frame| {
            base = check_stored(frame, seed, FRAMES_START, region.nonce_half())
                .ok()
                .map(|stored| stored.header().base_offset);
            false
        });
        base.filter(|base| (expected.0..self.ceiling()).contains(&base.0))
            .unwrap_or(expected)
    }

    /// What the first page of a segment's file has to say.
    fn identity(&self, number: SegmentNumber, len_bytes: u32) -> Identity {
        let segment = self.state.segments.get(&number);
        Identity {
            folder_id: self.folder_id,
            incarnation: self.state.incarnation,
            log: self.id,
            segment: number,
            nonce: segment.map_or(0, |segment| segment.nonce),
            len_bytes,
        }
    }

    /// Maps a segment without a known end, all of its pages brought in.
    fn map_unsealed(&self, number: SegmentNumber) -> io::Result<(Arc<Region>, Identity)> {
        let name = segment_name(self.id, number);
        let memory = self.folder.open_segment(&name, Access::ReadWrite)?;
        let len_bytes = segment_len(memory.as_ref(), &name)?;
        let identity = self.identity(number, len_bytes);
        // Nothing is touched that can't be read: a bad page would raise a signal.
        memory.populate(0..memory.len_bytes())?;
        // Not the limit it was claimed by: a file that got its footer was shrunk to it.
        let region = Arc::new(Region::readable(memory, len_bytes - HEADER, identity.nonce));
        Ok((region, identity))
    }

    /// Walks a segment that goes on where the one before it ended, if `follows` says where.
    fn walk(&self, number: SegmentNumber, follows: Option<Offset>) -> io::Result<Walked> {
        let (region, identity) = self.map_unsealed(number)?;
        let pages = SLOT_POSITIONS.map(|at| region.still_bytes(at, PAGE_BYTES));
        let as_made = identity.is_on(region.still_bytes(0, PAGE_BYTES));
        let (slot, attempted) = Slot::extent(pages, identity.nonce, as_made);
        let proven = slot.map_or(FRAMES_START, |slot| slot.proven.position);
        let seed = identity.seed();
        let base_offset = follows.unwrap_or_else(|| self.first_base(&region, seed));
        let mut walk = Walk::new(&region, seed, base_offset);
        let mut found = walk.run();
        let mut damaged = None;
        let mut decided = verdict(Stopped::of(walk.position(), proven, attempted), found);
        if let (Verdict::Gap, Some(slot)) = (decided, slot) {
            damaged = Some(Entry::Damaged {
                log: self.id,
                segment: number,
                first_offset: walk.offset.0,
                next_offset: slot.proven.offset,
                first_position: walk.position(),
                next_position: proven,
            });
            walk.jump(proven, Offset(slot.proven.offset));
            found = walk.run();
            decided = verdict(Stopped::of(walk.position(), proven, attempted), found);
        }
        // A slot that proves the end is better evidence than the seal's own bytes (S3).
        if slot.is_some_and(|slot| slot.proven.sealed) && walk.position() == proven {
            decided = Verdict::Sealed;
        }
        let end_position = walk.position();
        let junk_bytes = match decided {
            Verdict::Sealed => 0,
            _ => self.used_bytes(number, end_position)?,
        };
        Ok(Walked {
            number,
            end_position,
            end_offset: walk.offset,
            base_offset,
            proven_position: proven,
            verdict: decided,
            junk_bytes,
            damaged,
            region,
        })
    }

    /// Writes again and syncs what no finished sync is known to cover, seal included.
    fn keep(&self, walked: &mut Walked) -> io::Result<()> {
        Region::dirty_again(
            &mut walked.region,
            walked.proven_position,
            walked.end_position + HEADER,
        );
        walked.region.memory().sync()
    }

    /// The manifest entries that state where the log ends.
    fn state_end(
        &self,
        mut kept: Vec<Walked>,
        mut behind: Vec<SegmentNumber>,
    ) -> io::Result<Recovered> {
        let mut report = LogRecovery {
            topic: self.name.clone(),
            kept_records: 0,
            end_offset: self.expected_base(),
            next_offset: Offset(self.ceiling().max(self.expected_base().0)),
            cut_bytes: 0,
            possibly_acknowledged: false,
            damaged: Vec::new(),
        };
        let mut entries = Vec::new();
        let mut unused = Vec::new();
        // Prepared, never written: its file may go, unless the cut at it must name what follows.
        if let Some(last) = kept.pop_if(|last| last.is_empty() && last.verdict == Verdict::Cut) {
            let mut stored = last.junk_bytes;
            for number in &behind {
                stored += self.frames_in(*number)?;
            }
            if stored == 0 {
                unused.push(last.number);
            } else {
                kept.push(last);
            }
        }
        for walked in &kept {
            self.state_kept(walked, &mut report, &mut entries);
        }
        if let Some(cut) = kept.last().filter(|last| last.verdict != Verdict::Sealed) {
            let mut quarantined = Vec::new();
            report.cut_bytes = self.set_aside(cut)?;
            for number in behind.drain(..) {
                match self.frames_in(number)? {
                    0 => unused.push(number),
                    bytes => {
                        report.cut_bytes += bytes;
                        quarantined.push(number);
                    }
                }
            }
            report.possibly_acknowledged = cut.verdict == Verdict::CutPossiblyAcknowledged;
            entries.push(self.cut_entry(cut, quarantined, &report));
        }
        unused.append(&mut behind);
        entries.extend(unused.iter().map(|segment| Entry::SegmentDropped {
            log: self.id,
            segment: *segment,
        }));
        entries.push(Entry::Closed {
            log: self.id,
            next_offset: report.next_offset.0,
        });
        Ok(Recovered {
            entries,
            unused,
            report,
        })
    }

    /// What the manifest and the report say of a segment that is kept.
    fn state_kept(&self, walked: &Walked, report: &mut LogRecovery, entries: &mut Vec<Entry>) {
        report.kept_records += walked.end_offset.0 - walked.base_offset.0;
        report.end_offset = walked.end_offset;
        if let Some(entry) = &walked.damaged {
            entries.push(entry.clone());
            if let Entry::Damaged {
                first_offset,
                next_offset,
                ..
            } = entry
            {
                report
                    .damaged
                    .push((Offset(*first_offset), Offset(*next_offset)));
            }
        }
        if walked.verdict == Verdict::Sealed {
            entries.push(walked.sealed_entry(self.id));
        }
    }

    fn cut_entry(
        &self,
        cut: &Walked,
        quarantined: Vec<SegmentNumber>,
        report: &LogRecovery,
    ) -> Entry {
        Entry::Cut {
            log: self.id,
            segment: cut.number,
            base_offset: cut.base_offset.0,
            end_offset: cut.end_offset.0,
            end_position: cut.end_position,
            quarantined,
            next_base_offset: report.next_offset.0,
            possibly_acknowledged: report.possibly_acknowledged,
            cut_bytes: report.cut_bytes,
        }
    }

    /// No offset given out so far reaches this one (L4).
    fn ceiling(&self) -> u64 {
        self.state.offset_ceiling
    }

    /// Copies what lies behind the cut to the quarantine; gives its length in bytes.
    fn set_aside(&self, cut: &Walked) -> io::Result<u64> {
        let bytes = cut.junk_bytes;
        if bytes == 0 {
            return Ok(0);
        }
        let from = u64::from(cut.end_position);
        let copy = format!(
            "{QUARANTINE}/log-{:08}-segment-{:08}-boot-{}.cut",
            self.id.0, cut.number.0, self.boot_epoch
        );
        match self.folder.make_dir(QUARANTINE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => self.folder.sync_dir("")?,
        }
        self.folder.copy_range(
            &segment_name(self.id, cut.number),
            from..from + bytes,
            &copy,
        )?;
        self.folder.sync_dir(QUARANTINE)?;
        Ok(bytes)
    }

    /// Bytes behind the start of a segment's frames, up to the last that was written.
    fn frames_in(&self, number: SegmentNumber) -> io::Result<u64> {
        match self.used_bytes(number, FRAMES_START) {
            // What it held lies behind the end: the log is none the shorter for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = segment_name(self.id, number);
                tracing::error!(%name, "a segment behind the end of its log is missing");
                Ok(0)
            }
            used => used,
        }
    }

    /// Bytes of a segment from `from` on, up to the last that was written.
    fn used_bytes(&self, number: SegmentNumber, from: u32) -> io::Result<u64> {
        match Still::open(self.folder, &segment_name(self.id, number))? {
            (Some(mut still), _) => {
                let identity = self.identity(number, still.len_bytes());
                Ok(u64::from(still.used_to(from, &identity)? - from))
            }
            (None, _) => Ok(0),
        }
    }
}

impl Walked {
    fn is_empty(&self) -> bool {
        self.end_position == FRAMES_START
    }

    fn sealed_entry(&self, log: LogId) -> Entry {
        Entry::Sealed {
            log,
            segment: self.number,
            base_offset: self.base_offset.0,
            end_offset: self.end_offset.0,
            end_position: self.end_position,
            // Readers walk it instead.
            footer_bytes: 0,
        }
    }
}

/// Follows frames that check out, from the first on.
struct Walk<'a> {
    region: &'a Arc<Region>,
    seed: FrameSeed,
    run: CommittedRun,
    offset: Offset,
}

impl<'a> Walk<'a> {
    fn new(region: &'a Arc<Region>, seed: FrameSeed, base_offset: Offset) -> Self {
        Self {
            run: CommittedRun::at(region, FRAMES_START),
            region,
            seed,
            offset: base_offset,
        }
    }

    fn position(&self) -> u32 {
        self.run.end()
    }

    fn jump(&mut self, position: u32, offset: Offset) {
        self.run = CommittedRun::at(self.region, position);
        self.offset = offset;
    }

    /// Walks until something is not the next frame; tells whether that is the segment's seal.
    fn run(&mut self) -> Found {
        loop {
            let position = self.run.end();
            let (seed, expected) = (self.seed, self.offset);
            let nonce_half = self.region.nonce_half();
            let mut next = None;
            let mut seal = false;
            let step = self.run.extend_if(|frame| {
                let Ok(stored) = check_stored(frame, seed, position, nonce_half) else {
                    return false;
                };
                let header = stored.header();
                if header.base_offset != expected {
                    return false;
                }
                seal = header.fields.kind == FrameKind::Seal;
                next = Some(header.next_offset());
                !seal
            });
            match (step, next) {
                (Extend::Taken(_), Some(offset)) => self.offset = offset,
                _ if seal => return Found::Seal,
                _ => return Found::NoFrame,
            }
        }
    }
}
