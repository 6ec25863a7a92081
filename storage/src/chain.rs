//! The segments of one log in order: which is active, which stands by, which are kept.
//!
//! ```text
//!  (dormant) ──install──▶ active ──crossed──▶ sealed ──footer, manifest──▶ finished
//!                           ▲                   │
//!                           └──standby or install (base = the crossing claimant's count)
//! ```
//! Touched at a seal, an open or a look-up, never for a message: publishers and readers hold the
//! segment they are in. The lock is a leaf: nothing else is taken while it is held.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use millstream_protocol::Offset;

use crate::blocks::{Past, Plan};
use crate::clock::run_us;
use crate::folder::Blocks;
use crate::layout::FRAMES_START;
use crate::manifest::SegmentNumber;
use crate::segment::{Segment, SegmentEnd, Standby};
use crate::spares::{Maps, Spare, Spares};
use crate::sync::{Mutex, MutexGuard, lock};

/// Why no further segment could be made.
#[derive(Debug, Clone)]
pub(crate) struct PrepareFailure {
    pub(crate) kind: io::ErrorKind,
    pub(crate) message: String,
    /// Coarse time of the failure; a new attempt is made after a pause.
    pub(crate) at_us: u64,
}

/// One segment that the log keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) nonce: u64,
    pub(crate) len_bytes: u32,
    pub(crate) base_offset: Offset,
    pub(crate) end: Option<SegmentEnd>,
    pub(crate) footer_bytes: u32,
    /// Gaps that recovery found, as the manifest has them.
    damage: Arc<[KnownDamage]>,
    mapped: Mapped,
    /// Who may reach the bytes of its file.
    maps: Maps,
}

/// A map of a segment's file is being made: until this is dropped the file serves nobody else.
#[derive(Debug)]
pub(crate) struct Mapping<'a> {
    chain: &'a Chain,
    number: SegmentNumber,
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        if let Some(kept) = self.chain.lock().kept.get_mut(&self.number) {
            kept.maps.end();
        }
    }
}

/// What [`Chain::forget`] leaves.
#[derive(Debug)]
pub(crate) struct Forgotten {
    /// Bytes of frames in the segments.
    pub(crate) bytes: u64,
    /// Those whose files are of no use.
    pub(crate) useless: Vec<SegmentNumber>,
    /// Others are kept to serve again.
    pub(crate) has_spares: bool,
}

/// A range of a segment that recovery found damaged: the next frame behind it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownDamage {
    pub(crate) first_position: u32,
    pub(crate) next_position: u32,
    pub(crate) next_offset: Offset,
}

#[derive(Debug)]
enum Mapped {
    /// Of this run and not finished: the log keeps it.
    Held(Arc<Segment>),
    /// Whoever reads it keeps it.
    Shared(Weak<Segment>),
}

/// A segment with less than one part in so many claimed tells nothing of how it fills. The next one is asked
/// for at a quarter.
const JUDGED_FROM: u32 = 8;

/// What a publisher finds behind a segment that ended.
#[derive(Debug)]
pub(crate) enum Following {
    Segment(Arc<Segment>),
    /// The next one is not ready; wait.
    Rotating,
    /// It could not be made.
    Failed(PrepareFailure),
}

/// Where an offset is, as far as the chain can tell.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In a segment of this run, which is mapped.
    Live(Arc<Segment>),
    /// In the segment of an earlier run with this number.
    Earlier(SegmentNumber),
    /// At or behind the end of everything.
    End,
}

#[derive(Debug)]
pub(crate) struct ChainState {
    kept: BTreeMap<SegmentNumber, Kept>,
    active: Option<Arc<Segment>>,
    active_since_us: u64,
    /// Publishers waited for the active one to be made.
    active_is_late: bool,
    /// What the last segment of this run that ended had gone through.
    ended: Option<Past>,
    standby: Option<Standby>,
    /// Where the next segment starts while none is active.
    next_base: Offset,
    /// Bytes of frames in this run's segments that ended.
    ended_bytes: u64,
    /// The largest frame that found no room, so that the next segment has twice that.
    need_bytes: u32,
    failure: Option<PrepareFailure>,
    next_number: u32,
    spares: Spares,
    /// Whether files of it serve again: none was dropped in this run, or more will be; or the last that was
    /// to serve had left memory.
    serves_again: Option<bool>,
    closed: bool,
}

/// The chain of one log.
#[derive(Debug)]
pub(crate) struct Chain {
    state: Mutex<ChainState>,
}

/// What became of a seal: who must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// The standby took over; another is wanted once it fills.
    Continued,
    /// No standby was ready: ask for one at once.
    Starved,
}

impl Chain {
    /// The chain of a log whose earlier segments are `kept` and whose next record is `next_base`.
    pub(crate) fn new(
        kept: BTreeMap<SegmentNumber, Kept>,
        next_base: Offset,
        next_number: u32,
    ) -> Self {
        Self {
            state: Mutex::new(ChainState {
                kept,
                active: None,
                active_since_us: 0,
                active_is_late: false,
                ended: None,
                standby: None,
                next_base,
                ended_bytes: 0,
                need_bytes: 0,
                failure: None,
                next_number,
                spares: Spares::default(),
                serves_again: None,
                closed: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ChainState> {
        lock(&self.state)
    }

    /// The active segment if it is not the one numbered `left`.
    pub(crate) fn following(&self, left: Option<SegmentNumber>) -> Following {
        let state = self.lock();
        match (&state.active, &state.failure) {
            (Some(active), _) if Some(active.number()) != left => {
                Following::Segment(Arc::clone(active))
            }
            (None, Some(failure)) => Following::Failed(failure.clone()),
            _ => Following::Rotating,
        }
    }

    /// Notes that `number` ended at `end`, found by a claim of `need_bytes`.
    ///
    /// Only the crossing claimant calls this, so `end` is his own view of the tail (L5).
    pub(crate) fn sealed(&self, number: SegmentNumber, end: SegmentEnd, need_bytes: u32) -> Sealed {
        let mut state = self.lock();
        if let Some(kept) = state.kept.get_mut(&number) {
            kept.end = Some(end);
        }
        state.ended = state.active.take().map(|active| Past {
            claimed_bytes: end.position - FRAMES_START,
            ..state.past_of(&active)
        });
        state.next_base = end.offset;
        state.ended_bytes += u64::from(end.position - FRAMES_START);
        state.need_bytes = need_bytes;
        state.failure = None;
        match state.standby.take() {
            Some(standby) if !state.closed => {
                state.activate(standby);
                state.active_is_late = false;
                Sealed::Continued
            }
            kept => {
                state.standby = kept;
                Sealed::Starved
            }
        }
    }

    /// Takes a segment that was made ready: at once if publishers wait for it, else as standby.
    ///
    /// Gives it back if the chain was closed or has a standby.
    pub(crate) fn install(&self, standby: Standby) -> Result<(), Standby> {
        let mut state = self.lock();
        if state.closed || (state.active.is_some() && state.standby.is_some()) {
            return Err(standby);
        }
        state.failure = None;
        if state.active.is_none() {
            state.activate(standby);
            state.active_is_late = state.ended_bytes > 0;
        } else {
            state.standby = Some(standby);
        }
        Ok(())
    }

    /// Number, size floor, offset ceiling base and blocks for the next segment to prepare; `None` if no more
    /// is needed.
    pub(crate) fn to_prepare(&self, plan: &Plan) -> Option<Wanted> {
        let mut state = self.lock();
        if state.closed || state.standby.is_some() {
            return None;
        }
        let number = SegmentNumber(state.next_number);
        state.next_number += 1;
        let (base_floor, last_bytes, blocks) = match &state.active {
            Some(active) => (
                Offset(active.base_offset().0 + u64::from(active.len_bytes() / 4)),
                active.len_bytes(),
                state
                    .past_now(active)
                    .blocks(plan, state.serves_again == Some(true)),
            ),
            None => (
                state.next_base,
                state
                    .kept
                    .values()
                    .next_back()
                    .map_or(0, |kept| kept.len_bytes),
                match state.ended_bytes {
                    0 => plan.first,
                    // Publishers wait for it.
                    _ => Blocks::Reserved,
                },
            ),
        };
        Some(Wanted {
            number,
            base_floor,
            last_bytes,
            need_bytes: state.need_bytes,
            blocks,
        })
    }

    /// Notes that no segment could be made.
    pub(crate) fn failed(&self, failure: PrepareFailure) {
        self.lock().failure = Some(failure);
    }

    /// Forgets a failure older than `before_us`, so that another attempt is made.
    pub(crate) fn retry_failure(&self, before_us: u64) -> bool {
        let mut state = self.lock();
        let old = state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.at_us <= before_us);
        if old {
            state.failure = None;
        }
        old
    }

    /// The first segment of this run behind `number`, if there is one.
    pub(crate) fn live_behind(&self, number: Option<SegmentNumber>) -> Option<Arc<Segment>> {
        let state = self.lock();
        state
            .kept
            .iter()
            .filter(|(kept, _)| number.is_none_or(|number| **kept > number))
            .find_map(|(_, kept)| match &kept.mapped {
                Mapped::Held(segment) => Some(Arc::clone(segment)),
                Mapped::Shared(_) => None,
            })
    }

    /// The segments that this run made and has not finished.
    pub(crate) fn held(&self) -> Vec<Arc<Segment>> {
        let state = self.lock();
        let held = state.kept.values().filter_map(|kept| match &kept.mapped {
            Mapped::Held(segment) => Some(Arc::clone(segment)),
            Mapped::Shared(_) => None,
        });
        held.collect()
    }

    /// Where a reader that wants `offset` finds it: the last segment that starts at or before it,
    /// or the first one behind a jump.
    pub(crate) fn find(&self, offset: Offset) -> Place {
        let state = self.lock();
        let holder = state
            .kept
            .iter()
            .find(|(_, kept)| kept.end.is_none_or(|end| end.offset > offset));
        match holder {
            None => Place::End,
            Some((number, kept)) => match &kept.mapped {
                Mapped::Held(segment) => Place::Live(Arc::clone(segment)),
                Mapped::Shared(_) => Place::Earlier(*number),
            },
        }
    }

    /// The segment numbered `number` if somebody has it mapped.
    pub(crate) fn mapped(&self, number: SegmentNumber) -> Option<Arc<Segment>> {
        match &self.lock().kept.get(&number)?.mapped {
            Mapped::Held(segment) => Some(Arc::clone(segment)),
            Mapped::Shared(segment) => segment.upgrade(),
        }
    }

    /// What is needed to map the finished segment `number` again.
    pub(crate) fn finished(&self, number: SegmentNumber) -> Option<Finished> {
        let state = self.lock();
        let kept = state.kept.get(&number)?;
        Some(Finished {
            nonce: kept.nonce,
            base_offset: kept.base_offset,
            end: kept.end?,
            footer_bytes: kept.footer_bytes,
            damage: Arc::clone(&kept.damage),
        })
    }

    /// As [`finished`](Self::finished), for whoever maps it and then says so by [`share`](Self::share): its file
    /// serves nobody else meanwhile.
    pub(crate) fn map(&self, number: SegmentNumber) -> Option<(Finished, Mapping<'_>)> {
        let finished = self.finished(number)?;
        self.lock().kept.get_mut(&number)?.maps.begin();
        let chain = self;
        Some((finished, Mapping { chain, number }))
    }

    /// Remembers that somebody mapped `segment`, so that the next reader shares it.
    pub(crate) fn share(&self, segment: &Arc<Segment>, mapping: Mapping<'_>) {
        if let Some(kept) = self.lock().kept.get_mut(&segment.number())
            && let Mapped::Shared(weak) = &mut kept.mapped
        {
            *weak = Arc::downgrade(segment);
            kept.maps.add(segment);
        }
        drop(mapping);
    }

    /// The footer of `number` is on disk and in the manifest: readers alone keep it mapped now.
    pub(crate) fn finish(&self, number: SegmentNumber, footer_bytes: u32) {
        let let_go;
        {
            let mut state = self.lock();
            let Some(kept) = state.kept.get_mut(&number) else {
                return;
            };
            kept.footer_bytes = footer_bytes;
            let weak = match &kept.mapped {
                Mapped::Held(segment) => Arc::downgrade(segment),
                Mapped::Shared(weak) => Weak::clone(weak),
            };
            let_go = std::mem::replace(&mut kept.mapped, Mapped::Shared(weak));
        }
        // Unmapping is a system call: outside the lock.
        drop(let_go);
    }

    /// Refuses further segments and hands back what was active and standing by.
    pub(crate) fn close(&self) -> (Option<Arc<Segment>>, Option<Standby>) {
        let mut state = self.lock();
        state.closed = true;
        (state.active.clone(), state.standby.take())
    }

    /// The end of the log, once every segment of it is finished.
    pub(crate) fn finished_to(&self) -> Option<Offset> {
        let state = self.lock();
        let finished = state
            .kept
            .values()
            .all(|kept| kept.end.is_some() && matches!(kept.mapped, Mapped::Shared(_)));
        (finished && state.active.is_none()).then_some(state.next_base)
    }

    /// First offset kept, or where the log starts.
    pub(crate) fn first_offset(&self) -> Offset {
        let state = self.lock();
        state
            .kept
            .values()
            .next()
            .map_or(state.next_base, |kept| kept.base_offset)
    }

    /// Where the next segment starts, while none is active.
    pub(crate) fn next_base(&self) -> Option<Offset> {
        let state = self.lock();
        state.active.is_none().then_some(state.next_base)
    }

    /// Number of kept segments and the bytes of frames in them.
    pub(crate) fn size(&self) -> (u32, u64) {
        let state = self.lock();
        let bytes = state.kept.values().map(Kept::frame_bytes).sum();
        (u32::try_from(state.kept.len()).unwrap_or(u32::MAX), bytes)
    }

    /// The lowest offset from which on the kept segments have no more than is needed to have `bytes` of frames;
    /// the first offset where they have less.
    pub(crate) fn newest(&self, bytes: u64) -> Offset {
        let state = self.lock();
        let mut sum = 0;
        let mut newest = state.kept.values().rev();
        let from = newest.find(|kept| {
            sum += kept.frame_bytes();
            sum >= bytes
        });
        let from = from.or_else(|| state.kept.values().next());
        from.map_or(state.next_base, |kept| kept.base_offset)
    }

    /// The finished segments at the front whose records all lie below `before`, and whether the one
    /// behind them lies there as well and is not finished yet; never the last segment of all.
    ///
    /// Both at one moment: what is finished behind that moment was told to be unfinished, so somebody
    /// comes back for it.
    pub(crate) fn trimmable(&self, before: Offset) -> (Vec<SegmentNumber>, bool) {
        let state = self.lock();
        let mut kept = state.kept.iter().peekable();
        let mut going = Vec::new();
        while let Some((number, segment)) = kept.next() {
            let Some((_, next)) = kept.peek() else {
                break;
            };
            if matches!(segment.mapped, Mapped::Held(_)) {
                return (going, next.base_offset <= before);
            }
            if segment.end.is_none_or(|end| end.offset > before) {
                break;
            }
            going.push(*number);
        }
        (going, false)
    }

    /// Forgets segments that the manifest names no more. Their files are kept to serve again where nobody can
    /// reach their bytes, and never can from now on (L7).
    pub(crate) fn forget(&self, segments: &[SegmentNumber]) -> Forgotten {
        let mut state = self.lock();
        let mut bytes = 0;
        let mut useless = Vec::new();
        for number in segments {
            let Some(kept) = state.kept.remove(number) else {
                continue;
            };
            bytes += kept
                .end
                .map_or(0, |end| u64::from(end.position - FRAMES_START));
            let spare = Spare::of(*number, kept.nonce, kept.len_bytes);
            let is_kept = !state.closed && kept.maps.is_spare() && state.spares.keep(spare);
            if !is_kept {
                useless.push(*number);
            }
        }
        state.serves_again.get_or_insert(true);
        Forgotten {
            bytes,
            useless,
            has_spares: !state.spares.is_empty(),
        }
    }

    /// Takes a file of `len_bytes` that may serve again, the last to have become free.
    pub(crate) fn take_spare(&self, len_bytes: u32) -> Option<Spare> {
        self.lock().spares.take(len_bytes)
    }

    /// A file that was kept serves again, or could not.
    pub(crate) fn note_reuse(&self, serves: bool) {
        self.lock().serves_again = Some(serves);
    }

    /// Numbers of the files that are kept to serve again.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn spare_numbers(&self) -> Vec<u32> {
        self.lock().spares.numbers()
    }

    /// Whether files are kept to serve again.
    pub(crate) fn has_spares(&self) -> bool {
        !self.lock().spares.is_empty()
    }

    /// Takes the files that nobody needs; see [`Spares::take_unneeded`].
    pub(crate) fn take_unneeded(&self) -> (Vec<Spare>, bool) {
        self.lock().spares.take_unneeded()
    }

    /// Takes all files that were kept to serve again.
    pub(crate) fn take_spares(&self) -> Vec<Spare> {
        self.lock().spares.take_all()
    }

    /// The end of what is claimed in the active segment, and the bytes of frames of this run up to
    /// there; `None` while none is active.
    pub(crate) fn claimed_end(&self) -> Option<(Offset, u64)> {
        let state = self.lock();
        let active = state.active.as_ref()?;
        let (records, _) = active.region().claimed()?;
        let bytes = active.base_bytes() + u64::from(active.claimed_bytes());
        Some((active.base_offset() + u64::from(records), bytes))
    }

    /// How many offsets from `from` on and below `to` lie in kept segments: not those that an unclean
    /// stop left out between two.
    pub(crate) fn offsets_between(&self, from: Offset, to: Offset) -> u64 {
        let state = self.lock();
        let ends = state.kept.values().map(|kept| {
            let end = kept.end.map_or(to, |end| end.offset.min(to));
            end.since(kept.base_offset.max(from)).unwrap_or(0)
        });
        ends.sum()
    }

    /// Numbers of all kept segments, oldest first, with where they start.
    pub(crate) fn numbers(&self) -> Vec<(SegmentNumber, Offset)> {
        let state = self.lock();
        state
            .kept
            .iter()
            .map(|(number, kept)| (*number, kept.base_offset))
            .collect()
    }
}

/// The next segment to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) number: SegmentNumber,
    /// No record of it has a lower offset than its predecessors can reach; see L4.
    pub(crate) base_floor: Offset,
    /// Size of the segment before it; 0 where there is none.
    pub(crate) last_bytes: u32,
    pub(crate) need_bytes: u32,
    pub(crate) blocks: Blocks,
}

/// A segment that ended and whose end the manifest knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) nonce: u64,
    pub(crate) base_offset: Offset,
    pub(crate) end: SegmentEnd,
    pub(crate) footer_bytes: u32,
    pub(crate) damage: Arc<[KnownDamage]>,
}

impl Kept {
    fn frame_bytes(&self) -> u64 {
        match (&self.mapped, self.end) {
            (_, Some(end)) => u64::from(end.position - FRAMES_START),
            (Mapped::Held(segment), None) => u64::from(segment.claimed_bytes()),
            (Mapped::Shared(_), None) => 0,
        }
    }

    /// A segment that an earlier run left behind and that the manifest knows the end of.
    pub(crate) fn earlier(finished: Finished, len_bytes: u32) -> Self {
        Self {
            nonce: finished.nonce,
            len_bytes,
            base_offset: finished.base_offset,
            end: Some(finished.end),
            footer_bytes: finished.footer_bytes,
            damage: finished.damage,
            mapped: Mapped::Shared(Weak::new()),
            maps: Maps::default(),
        }
    }
}

impl ChainState {
    /// What is known when a segment is wanted behind `active`: if that has only begun, of the one before.
    fn past_now(&self, active: &Segment) -> Past {
        match self.ended {
            Some(ended) if active.claimed_bytes() < active.len_bytes() / JUDGED_FROM => Past {
                is_late: self.active_is_late,
                ..ended
            },
            _ => self.past_of(active),
        }
    }

    fn past_of(&self, active: &Segment) -> Past {
        Past {
            claimed_bytes: active.claimed_bytes(),
            us: run_us().saturating_sub(self.active_since_us),
            syncs: active.syncs(),
            has_large_bodies: active.has_large_bodies(),
            is_late: self.active_is_late,
        }
    }

    fn activate(&mut self, standby: Standby) {
        let mut maps = Maps::of_this_run(standby.is_filled);
        let segment = Arc::new(standby.activate(self.next_base, self.ended_bytes));
        maps.add(&segment);
        self.kept.insert(
            segment.number(),
            Kept {
                nonce: segment.nonce(),
                len_bytes: segment.len_bytes(),
                base_offset: segment.base_offset(),
                end: None,
                footer_bytes: 0,
                damage: Arc::default(),
                mapped: Mapped::Held(Arc::clone(&segment)),
                maps,
            },
        );
        self.active = Some(segment);
        self.active_since_us = run_us();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use millstream_protocol::Durability;

    use super::*;
    use crate::folder::Folder;
    use crate::heap::HeapFolder;
    use crate::layout::Identity;
    use crate::manifest::LogId;
    use crate::segment::{Origin, TryClaim};

    const LEN_BYTES: u32 = 16 << 20;

    fn standby(folder: &HeapFolder, wanted: &Wanted) -> Standby {
        let name = format!("{}.seg", wanted.number.0);
        let memory = folder
            .create_segment(&name, LEN_BYTES as usize, wanted.blocks)
            .expect("the heap has room");
        let identity = Identity {
            folder_id: [1; 16],
            incarnation: [2; 16],
            log: LogId(1),
            segment: wanted.number,
            nonce: 0x1234_5678_9ABC_DEF0,
            len_bytes: LEN_BYTES,
        };
        Standby::new(
            memory,
            identity,
            Origin::Made {
                blocks: Blocks::Written { piece_bytes: 4096 },
            },
        )
    }

    fn claim(active: &Segment, bytes: u32) -> Option<SegmentEnd> {
        match active.try_claim(bytes, 1, 1) {
            TryClaim::Claim(_) => None,
            TryClaim::Crossed(seal) => Some(SegmentEnd {
                position: seal.position(),
                offset: Offset(u64::from(seal.records())),
            }),
            TryClaim::Tripped => panic!("it was not sealed"),
        }
    }

    fn active(chain: &Chain, left: Option<SegmentNumber>) -> Arc<Segment> {
        match chain.following(left) {
            Following::Segment(segment) => segment,
            _ => panic!("it was installed"),
        }
    }

    #[test]
    fn a_segment_is_judged_by_itself_where_the_next_one_is_asked_for() {
        let folder = HeapFolder::new();
        let chain = Chain::new(BTreeMap::new(), Offset(0), 1);
        let plan = Plan::new(Durability::Stored, 4 << 20);
        for _ in 0..2 {
            let wanted = chain.to_prepare(&plan).unwrap();
            chain.install(standby(&folder, &wanted)).unwrap();
        }
        let first = active(&chain, None);
        let end = (0..).find_map(|_| claim(&first, 1 << 20)).unwrap();
        assert_eq!(chain.sealed(first.number(), end, 0), Sealed::Continued);
        // Each of its messages is synced, unlike those before, and a claim now reaches a quarter.
        let second = active(&chain, Some(first.number()));
        claim(&second, LEN_BYTES / 4 - FRAMES_START);
        assert!(second.wants_standby(LEN_BYTES / 4));
        second.note_sync(10_000);
        let small = Blocks::Written {
            piece_bytes: 16 << 10,
        };
        assert_eq!(chain.to_prepare(&plan).unwrap().blocks, small);
    }

    #[test]
    fn files_serve_again_from_the_first_drop_until_one_had_left_memory() {
        let chain = Chain::new(BTreeMap::new(), Offset(0), 1);
        let serves_again = || chain.lock().serves_again;
        assert_eq!(serves_again(), None);
        chain.forget(&[]);
        assert_eq!(serves_again(), Some(true));
        chain.note_reuse(false);
        chain.forget(&[]);
        assert_eq!(serves_again(), Some(false), "more of them left memory");
        chain.note_reuse(true);
        assert_eq!(serves_again(), Some(true));
    }

    #[test]
    fn a_segment_that_has_only_begun_is_judged_by_the_one_before() {
        let folder = HeapFolder::new();
        let chain = Chain::new(BTreeMap::new(), Offset(0), 1);
        let plan = Plan::new(Durability::Stored, 4 << 20);
        let first = chain.to_prepare(&plan).unwrap();
        assert_eq!(first.blocks, plan.first);
        chain.install(standby(&folder, &first)).unwrap();
        let active = active(&chain, None);
        let end = (0..).find_map(|_| claim(&active, 1 << 20)).unwrap();
        assert_eq!(chain.sealed(active.number(), end, 0), Sealed::Starved);
        // Publishers wait for the second one, which has nothing in it when the third is asked for.
        let second = chain.to_prepare(&plan).unwrap();
        assert_eq!(second.blocks, Blocks::Reserved);
        chain.install(standby(&folder, &second)).unwrap();
        let third = chain.to_prepare(&plan).unwrap();
        // Which of the two it is depends on how fast the first one was filled.
        let large = Blocks::Written {
            piece_bytes: 256 << 10,
        };
        assert!(
            [large, Blocks::Reserved].contains(&third.blocks),
            "{third:?}"
        );
    }
}
