//! The sync baton of a log: whoever holds it is the only one that syncs the log's files (S1).
//!
//! ```text
//! walk to the end of the committed prefix ─▶ write slot {proven, attempted} ─▶ sync ─▶ proven = attempted
//!                                             reached a seal: once more, so that a slot proves the
//!                                             end (S3), then enter the next segment (L2)
//! ```

use std::sync::Arc;

use millstream_protocol::Offset;

use crate::footer::{PageIndex, Summary};
use crate::layout::{FRAMES_START, PAGE_BYTES};
use crate::manifest::SegmentNumber;
use crate::segment::Segment;
use crate::slot::{Slot, Watermark};
use crate::sync::{FooterSpace, SlotSpace, lock};
use crate::walker::{Step, Walker};

/// From so many bytes on it pays to unmap what is about to be synced.
const UNMAP_BYTES_MIN: u32 = 16 * PAGE_BYTES;
/// The kernel maps as many pages at one fault as it keeps as one: at most those of a piece of zeros (decision 0017).
const MAPPED_BYTES_MAX: u32 = 256 << 10;

/// A segment whose end is proven; its footer is still to be written (S5).
#[derive(Debug)]
pub(crate) struct SealedSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) footer: FooterSpace,
    pub(crate) summary: Summary,
    pub(crate) index: PageIndex,
}

/// What a round of syncing came to.
#[derive(Debug)]
pub(crate) enum Round {
    /// Everything committed up to `offset` is on disk, `bytes` of this run; no more was found.
    Even { offset: Offset, bytes: u64 },
    /// As `Even`, and this segment is sealed; the caller goes on with the next.
    Sealed {
        offset: Offset,
        bytes: u64,
        sealed: SealedSegment,
    },
}

/// The state behind the baton.
#[derive(Debug, Default)]
pub(crate) struct Baton {
    at: Option<InSegment>,
    /// The last segment that was walked to its end.
    done: Option<SegmentNumber>,
}

#[derive(Debug)]
struct InSegment {
    walker: Walker,
    slots: SlotSpace,
    footer: FooterSpace,
    /// Covered by a sync that returned success.
    proven: Watermark,
    /// `proven` as the last synced slot states it.
    stated: Watermark,
    sequence: u64,
    frames: u64,
    first_time_us: u64,
    last_time_us: u64,
}

/// A sync failed. The log is poisoned with what the disk said.
#[derive(Debug)]
pub(crate) struct SyncFailed(pub(crate) std::io::Error);

impl Baton {
    /// The last segment that is done with, to find the next one.
    pub(crate) fn done(&self) -> Option<SegmentNumber> {
        self.done
    }

    pub(crate) fn in_segment(&self) -> bool {
        self.at.is_some()
    }

    /// Starts with `segment`, the one behind [`done`](Self::done).
    pub(crate) fn enter(&mut self, segment: Arc<Segment>) {
        let Some((slots, footer)) = segment.take_rights() else {
            return;
        };
        let walker = Walker::new(segment);
        let start = walker.watermark();
        self.at = Some(InSegment {
            proven: start,
            stated: start,
            walker,
            slots,
            footer,
            sequence: 0,
            frames: 0,
            first_time_us: 0,
            last_time_us: 0,
        });
    }

    /// Syncs all that is committed in the segment. One sync, two where the segment ended.
    ///
    /// `poisoned` is asked behind each sync and before anything is taken for proven (S1).
    pub(crate) fn sync_committed(
        &mut self,
        poisoned: impl Fn() -> bool,
    ) -> Result<Option<Round>, SyncFailed> {
        let Some(at) = &mut self.at else {
            return Ok(None);
        };
        at.walk();
        let here = at.walker.watermark();
        if here != at.proven {
            at.sync_to(here, &poisoned)?;
        }
        let offset = Offset(here.offset);
        let bytes = at.walker.segment().base_bytes() + u64::from(here.position - FRAMES_START);
        if !here.sealed {
            return Ok(Some(Round::Even { offset, bytes }));
        }
        if at.stated != here {
            at.sync_to(here, &poisoned)?;
        }
        let Some(at) = self.at.take() else {
            return Ok(None);
        };
        self.done = Some(at.walker.segment().number());
        Ok(Some(Round::Sealed {
            offset,
            bytes,
            sealed: at.into_sealed(),
        }))
    }

    /// True if the last sync's proof is not on disk yet.
    pub(crate) fn owes_proof(&self) -> bool {
        self.at.as_ref().is_some_and(|at| at.stated != at.proven)
    }

    /// Where the walk ended in front of a claim that is neither committed nor void.
    pub(crate) fn open_claim(&self) -> Option<(SegmentNumber, u32)> {
        let at = self.at.as_ref()?;
        let segment = at.walker.segment();
        let here = at.walker.watermark();
        let open = match segment.region().claimed() {
            Some((_, position)) => position > here.position,
            None => !here.sealed,
        };
        open.then_some((segment.number(), here.position))
    }

    /// Syncs once more so that the disk states what the last sync proved.
    pub(crate) fn prove(&mut self, poisoned: impl Fn() -> bool) -> Result<(), SyncFailed> {
        match &mut self.at {
            Some(at) if at.stated != at.proven => at.sync_to(at.proven, &poisoned),
            _ => Ok(()),
        }
    }
}

impl InSegment {
    /// Walks to the end of the committed prefix in this segment.
    fn walk(&mut self) {
        let segment = Arc::clone(self.walker.segment());
        // Shared with readers that look up an offset; the footer is made from it.
        let mut index = lock(segment.index());
        while let Step::Frame { position, glance } = self.walker.step() {
            index.note(position);
            if self.frames == 0 {
                self.first_time_us = glance.append_time_us;
            }
            self.frames += 1;
            self.last_time_us = glance.append_time_us;
        }
    }

    /// Unmaps the whole pages up to `attempted`, where that are many, and with them what the first store behind
    /// the last sync had mapped anew in front of it. Behind them somebody may be storing.
    fn unmap_to(&self, attempted: Watermark) {
        let start = self.proven.position - self.proven.position % MAPPED_BYTES_MAX;
        let end = attempted.position - attempted.position % PAGE_BYTES;
        if end >= self.proven.position + UNMAP_BYTES_MIN {
            let region = self.walker.segment().region();
            region
                .memory()
                .unmap_before_sync(start as usize..end as usize);
        }
    }

    fn sync_to(
        &mut self,
        attempted: Watermark,
        poisoned: &impl Fn() -> bool,
    ) -> Result<(), SyncFailed> {
        self.unmap_to(attempted);
        self.sequence += 1;
        self.walker.segment().note_sync(self.sequence);
        let slot = Slot {
            sequence: self.sequence,
            proven: self.proven,
            attempted,
        };
        let segment = self.walker.segment();
        let turn = usize::from(self.sequence % 2 == 1);
        self.slots.write(turn, &slot.encode(segment.nonce()));
        segment.region().memory().sync().map_err(SyncFailed)?;
        if poisoned() {
            return Err(SyncFailed(std::io::Error::other(
                "the segment was poisoned while it was synced",
            )));
        }
        self.stated = self.proven;
        self.proven = attempted;
        Ok(())
    }

    fn into_sealed(self) -> SealedSegment {
        let segment = Arc::clone(self.walker.segment());
        let index = lock(segment.index()).clone();
        SealedSegment {
            summary: Summary {
                segment: segment.number(),
                nonce: segment.nonce(),
                frames: self.frames,
                base_offset: segment.base_offset().0,
                end_offset: self.walker.offset().0,
                first_time_us: self.first_time_us,
                last_time_us: self.last_time_us,
                end_position: self.walker.position(),
            },
            index,
            segment,
            footer: self.footer,
        }
    }
}
