//! One segment of a log: its identity, its bytes, and where its frames start.
//!
//! A segment is written by one run of the broker only. What this run wrote is trusted as memory;
//! a segment of an earlier run ends where the manifest says, and every frame of it is checked before
//! it is served (L3, L7).

use std::sync::Arc;

use millstream_protocol::Offset;
use millstream_protocol::frame::{FrameError, FrameHeader, FrameSeed};

use crate::chain::{Finished, KnownDamage};
use crate::claim::Claim;
use crate::folder::Blocks;
use crate::footer::PageIndex;
use crate::layout::{FRAMES_START, Identity, limit_bytes};
use crate::manifest::SegmentNumber;
use crate::memory::SegmentMemory;
use crate::sync::{
    ClaimOutcome, CommittedRun, FooterSpace, Frontier, Mark, Mutex, Region, RegionParts, SealSpace,
    SlotSpace, lock, yield_now,
};

/// Where a segment of an earlier run ends, as the manifest has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    pub(crate) position: u32,
    pub(crate) offset: Offset,
}

/// A segment that was made ready ahead and waits for its turn.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) identity: Identity,
    parts: RegionParts,
    /// Its pages are there, in pieces: it was made of zeros, or of a file that was.
    pub(crate) is_filled: bool,
}

/// Where the file of a segment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was made for it.
    Made { blocks: Blocks },
    /// It served as another of the same log, under this nonce.
    Reused { former_nonce: u64 },
}

impl Standby {
    /// Writes `identity` into `memory`, which nobody else has. The caller syncs before the segment is used.
    pub(crate) fn new(memory: Arc<dyn SegmentMemory>, identity: Identity, origin: Origin) -> Self {
        let limit = limit_bytes(identity.len_bytes);
        let (head, is_filled) = match origin {
            Origin::Made { blocks } => (identity.encode(), blocks != Blocks::Reserved),
            Origin::Reused { former_nonce } => (identity.encode_over(former_nonce), true),
        };
        // The slots with it: a file that served before has the last ones of then.
        let mut first_pages = [0; FRAMES_START as usize];
        if let Some(start) = first_pages.first_chunk_mut() {
            *start = head;
        }
        let served_before = matches!(origin, Origin::Reused { .. });
        Self {
            identity,
            parts: Region::writable(memory, limit, identity.nonce, &first_pages, served_before),
            is_filled,
        }
    }

    /// Makes it a segment whose first record will be `base_offset`.
    pub(crate) fn activate(self, base_offset: Offset, base_bytes: u64) -> Segment {
        Segment {
            identity: self.identity,
            seed: self.identity.seed(),
            base_offset,
            base_bytes,
            region: self.parts.region,
            earlier_end: None,
            damage: Arc::default(),
            index: Mutex::new(PageIndex::default()),
            rights: Mutex::new(Some((self.parts.slots, self.parts.footer))),
            standby_asked: Mark::clean(),
            sealed: Mark::clean(),
            syncs: Frontier::new(0),
            is_filled: self.is_filled,
            large_bodies: Mark::clean(),
        }
    }
}

/// One segment, mapped.
#[derive(Debug)]
pub(crate) struct Segment {
    identity: Identity,
    seed: FrameSeed,
    base_offset: Offset,
    /// Bytes of frames in this run's segments before this one.
    base_bytes: u64,
    region: Arc<Region>,
    /// `Some` for a segment of an earlier run.
    earlier_end: Option<SegmentEnd>,
    /// Where recovery found it damaged.
    damage: Arc<[KnownDamage]>,
    /// First frame starts by page: grown by whoever holds the sync baton, or read from the footer.
    index: Mutex<PageIndex>,
    /// The rights to its slots and footer, until the sync baton's holder takes them.
    rights: Mutex<Option<(SlotSpace, FooterSpace)>>,
    /// Set once the next segment was asked for.
    standby_asked: Mark,
    /// Set once this run sealed it.
    sealed: Mark,
    /// How often it was synced.
    syncs: Frontier,
    /// Its pages are there, in pieces: what is stored to them costs less than what is written to the file.
    is_filled: bool,
    /// Set once it had a body large enough to be written to a file without pages.
    large_bodies: Mark,
}

/// What [`Segment::try_claim`] found.
#[derive(Debug)]
pub(crate) enum TryClaim<'a> {
    Claim(Claim<'a>),
    Crossed(SealSpace<'a>),
    Tripped,
}

impl Segment {
    /// A segment of an earlier run, which ends where the manifest says.
    pub(crate) fn earlier(
        region: Arc<Region>,
        identity: Identity,
        finished: &Finished,
        index: PageIndex,
    ) -> Self {
        Self {
            identity,
            seed: identity.seed(),
            base_offset: finished.base_offset,
            base_bytes: 0,
            region,
            earlier_end: Some(finished.end),
            damage: Arc::clone(&finished.damage),
            index: Mutex::new(index),
            rights: Mutex::new(None),
            standby_asked: Mark::clean(),
            sealed: Mark::clean(),
            syncs: Frontier::new(0),
            is_filled: false,
            large_bodies: Mark::clean(),
        }
    }

    pub(crate) fn number(&self) -> SegmentNumber {
        self.identity.segment
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.identity.len_bytes
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.identity.nonce
    }

    pub(crate) fn seed(&self) -> FrameSeed {
        self.seed
    }

    pub(crate) fn base_offset(&self) -> Offset {
        self.base_offset
    }

    pub(crate) fn base_bytes(&self) -> u64 {
        self.base_bytes
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where it ends, if an earlier run wrote it.
    pub(crate) fn earlier_end(&self) -> Option<SegmentEnd> {
        self.earlier_end
    }

    /// The known frame behind `position` if recovery found the place damaged.
    pub(crate) fn behind_damage(&self, position: u32) -> Option<(u32, Offset)> {
        self.damage
            .iter()
            .find(|known| (known.first_position..known.next_position).contains(&position))
            .map(|known| (known.next_position, known.next_offset))
    }

    /// It was sealed.
    pub(crate) fn note_sealed(&self) {
        self.sealed.set();
    }

    /// Whether publishers went on to another segment, so that its pages may have left memory. Told a
    /// moment late; unlike the tail it lies on a line that no publish writes.
    #[inline]
    pub(crate) fn is_left_behind(&self) -> bool {
        self.earlier_end.is_some() || self.sealed.is_set()
    }

    /// It is synced for the `nth` time.
    pub(crate) fn note_sync(&self, nth: u64) {
        self.syncs.raise(nth);
    }

    /// How often it was synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.get()
    }

    /// It has a body large enough to be written to a file without pages. Gives whether this is one.
    pub(crate) fn note_large_body(&self) -> bool {
        self.large_bodies.set();
        !self.is_filled
    }

    /// Whether it has such bodies.
    pub(crate) fn has_large_bodies(&self) -> bool {
        self.large_bodies.is_set()
    }

    pub(crate) fn index(&self) -> &Mutex<PageIndex> {
        &self.index
    }

    pub(crate) fn take_rights(&self) -> Option<(SlotSpace, FooterSpace)> {
        lock(&self.rights).take()
    }

    /// Claims room for a frame of `frame_bytes` bytes that will bear the time `append_time_us`.
    #[inline]
    pub(crate) fn try_claim(
        &self,
        frame_bytes: u32,
        records: u16,
        append_time_us: u64,
    ) -> TryClaim<'_> {
        match self.region.claim(frame_bytes, u32::from(records)) {
            ClaimOutcome::Space(space) => {
                space.write_behind_soon();
                let end = space.end();
                let claim = Claim::new(self, space, records, append_time_us);
                if self.region.may_read_on(end) {
                    return self.cleared_behind(claim, end, append_time_us);
                }
                TryClaim::Claim(claim)
            }
            ClaimOutcome::Crossed(seal) => TryClaim::Crossed(seal),
            ClaimOutcome::Tripped => TryClaim::Tripped,
        }
    }

    /// `claim`, which ends at `end`, with nothing behind it that would read as a commit.
    #[cold]
    fn cleared_behind<'a>(&self, claim: Claim<'a>, end: u32, append_time_us: u64) -> TryClaim<'a> {
        self.clear_behind(end, append_time_us);
        TryClaim::Claim(claim)
    }

    /// Sees to it that a walk finds no commit behind the caller's frame, which ends at `end` and is not committed
    /// yet, but a real one (L7). What a use of the file before left there may read as one: half of a nonce that
    /// nobody could know was guessed.
    ///
    /// Where nobody claimed what follows, a void header goes there, and so behind that. Where somebody did, he takes
    /// it away at once, or has committed: then the header's checksum fits, which it does with the whole nonce alone. It is
    /// read through the file, as he may be writing it.
    #[cold]
    pub(crate) fn clear_behind(&self, mut end: u32, append_time_us: u64) {
        let mut is_frame = false;
        // Looked at once more behind the header: a walk that follows finds nothing older (FORMER-1).
        while self.region.may_read_on(end) && !is_frame {
            if let Some(space) = self.region.claim_header(end) {
                // No walk comes here before the caller's frame is committed, nor what stands behind.
                end = space.end();
                drop(Claim::new(self, space, 1, append_time_us));
                continue;
            }
            is_frame = self.is_header_at(end);
            if !is_frame {
                yield_now();
            }
        }
    }

    /// Whether the header at `position` is of this use of the file. So it is taken to be where that can't be told: once a
    /// page is not the file's any more nothing that is not synced is acknowledged, and frames are checked before
    /// they are served (S6); and what can't be read has left memory, or was cut off, which the next access finds.
    fn is_header_at(&self, position: u32) -> bool {
        let checks = |header| {
            let decoded = FrameHeader::decode(&header, self.seed, position);
            !matches!(decoded, Err(FrameError::HeaderCrc { .. }))
        };
        let read = self.region.read_header(position);
        read.is_none_or(checks) || self.lost_pages().is_some()
    }

    /// Ends the segment where it stands; `None` if it had ended.
    pub(crate) fn trip(&self) -> Option<SealSpace<'_>> {
        match self.region.trip() {
            ClaimOutcome::Crossed(seal) => Some(seal),
            ClaimOutcome::Space(_) | ClaimOutcome::Tripped => None,
        }
    }

    /// True once, when a claim at `position` says that the next segment should be made ready.
    #[inline]
    pub(crate) fn wants_standby(&self, position: u32) -> bool {
        position >= self.len_bytes() / 4 && self.standby_asked.set()
    }

    /// An empty run at the segment's first frame.
    pub(crate) fn first_run(&self) -> CommittedRun {
        CommittedRun::at(&self.region, FRAMES_START)
    }

    /// An empty run at `position`, which must be a frame's start.
    pub(crate) fn run_at(&self, position: u32) -> CommittedRun {
        CommittedRun::at(&self.region, position)
    }

    /// Bytes of frames claimed so far.
    pub(crate) fn claimed_bytes(&self) -> u32 {
        match (self.earlier_end, self.region.claimed()) {
            (Some(end), _) => end.position - FRAMES_START,
            (None, Some((_, position))) => position - FRAMES_START,
            (None, None) => self.region.limit_bytes() - FRAMES_START,
        }
    }
}
