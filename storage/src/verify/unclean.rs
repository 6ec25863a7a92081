//! The segments of a log that was open at an unclean stop: what recovery will find there, by the
//! same table, and what of it is damage.

use std::io;

use millstream_protocol::Offset;

use super::finished::check_identity;
use super::report::{Fault, Problem, Unclean, Whereabouts};
use super::walk::{Meter, Stop, Tally, Walk};
use crate::layout::{FRAMES_START, Identity, PAGE_BYTES};
use crate::slot::Slot;
use crate::still::{HEADER, Still};
use crate::verdict::{Found, Stopped, Verdict, verdict};

/// The end of one log, segment by segment in order.
#[derive(Debug)]
pub(super) struct OpenEnd {
    /// Offset of the next record.
    pub(super) expected: Offset,
    /// No offset given out reaches this one.
    ceiling: Offset,
    /// Offset of the first record found, where there is one.
    pub(super) base: Option<Offset>,
    /// The prefix ended: what follows is no part of it.
    ended: bool,
    pub(super) tally: Tally,
    pub(super) unclean: Unclean,
}

impl OpenEnd {
    pub(super) fn new(expected: Offset, ceiling: Offset) -> Self {
        Self {
            expected,
            ceiling,
            base: None,
            ended: false,
            tally: Tally::default(),
            unclean: Unclean::default(),
        }
    }

    /// Looks at the next segment without a known end.
    pub(super) fn segment(
        &mut self,
        at: Whereabouts<'_>,
        still: &mut Still,
        identity: &Identity,
        meter: &mut Meter<'_>,
    ) -> Vec<Problem> {
        let mut found = Vec::new();
        check_identity(at, still, identity, &mut found);
        let looked = if self.ended {
            self.behind(still, identity)
        } else {
            self.walk(at, still, identity, meter, &mut found)
        };
        if let Err(error) = looked {
            found.push(at.problem(None, Fault::Unreadable(error)));
        }
        found
    }

    /// A segment behind the end: never used, or to be set aside.
    fn behind(&mut self, still: &mut Still, identity: &Identity) -> io::Result<()> {
        match still.used_to(FRAMES_START, identity)? {
            FRAMES_START => self.unclean.unused_segments += 1,
            end => self.unclean.cut_bytes += u64::from(end - FRAMES_START),
        }
        Ok(())
    }

    fn walk(
        &mut self,
        at: Whereabouts<'_>,
        still: &mut Still,
        identity: &Identity,
        meter: &mut Meter<'_>,
        found: &mut Vec<Problem>,
    ) -> io::Result<()> {
        let limit = still.len_bytes();
        let as_made = identity.is_on(still.bytes(0, PAGE_BYTES)?);
        let pages = still.slot_pages()?;
        let pages = pages.each_ref().map(Vec::as_slice);
        let (newest, attempted) = Slot::extent(pages, identity.nonce, as_made);
        let slot = newest.filter(|slot| check_slot(at, slot, limit, found));
        let proven = slot.map_or(FRAMES_START, |slot| slot.proven.position);
        let mut walk = Walk::new(still, identity, self.expected, limit);
        if let Some(base) = self.first_base(&mut walk) {
            walk.offset = base;
        }
        let base = walk.offset;
        let mut decided = decide(&mut walk, meter, proven, attempted);
        if let (Verdict::Gap, Some(slot)) = (decided, slot) {
            let next = Offset(slot.proven.offset);
            found.push(at.lost(walk.position(), (walk.offset, next), Fault::BelowProven));
            walk.jump(proven, next);
            decided = decide(&mut walk, meter, proven, attempted);
        }
        let (end, offset, tally) = (walk.position(), walk.offset, walk.tally);
        if decided == Verdict::CutPossiblyAcknowledged {
            found.push(at.problem(Some(end), Fault::PossiblyAcknowledged));
        }
        if decided != Verdict::Sealed {
            self.ended = true;
            let used = still.used_to(end, identity)?;
            if used == FRAMES_START {
                self.unclean.unused_segments += 1;
                return Ok(());
            }
            self.unclean.cut_bytes += u64::from(used - end);
        }
        self.expected = offset;
        self.base = self.base.or(Some(base));
        self.tally.add(tally);
        self.unclean.kept_records += tally.records;
        Ok(())
    }

    /// Where the first frame of a run starts: at the end of the run before, or behind a jump that an
    /// earlier unclean stop made and that no entry of the manifest states any more.
    fn first_base(&self, walk: &mut Walk<'_>) -> Option<Offset> {
        if self.base.is_some() {
            return None;
        }
        walk.header_at(FRAMES_START)
            .map(|header| header.base_offset)
            .filter(|base| (self.expected..self.ceiling).contains(base))
    }
}

fn decide(walk: &mut Walk<'_>, meter: &mut Meter<'_>, proven: u32, attempted: u32) -> Verdict {
    let found = match walk.run(meter) {
        Stop::Seal => Found::Seal,
        Stop::Limit | Stop::Bad(..) => Found::NoFrame,
    };
    verdict(Stopped::of(walk.position(), proven, attempted), found)
}

/// Whether the places that `slot` names can be, in a file of `len_bytes`.
fn check_slot(at: Whereabouts<'_>, slot: &Slot, len_bytes: u32, found: &mut Vec<Problem>) -> bool {
    let limit = len_bytes.saturating_sub(HEADER);
    let positions = [slot.proven.position, slot.attempted.position];
    let odd = positions
        .into_iter()
        .find(|position| !(FRAMES_START..=limit).contains(position) || !position.is_multiple_of(8));
    if let Some(position) = odd {
        found.push(at.problem(None, Fault::SlotPosition { position }));
    }
    odd.is_none()
}
